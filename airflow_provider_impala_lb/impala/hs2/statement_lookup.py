"""What became of a statement whose answer was lost: looked for by its label, and decided by `statement.protocol`.

The driver of that protocol for one statement: it takes copies of its coordinator's page, closes its session, and sends
the marker that says how fresh a copy is. It decides nothing itself.

What changes nothing may be sent again instead: `Sendings` says how often, and until when.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from logging import getLogger
from typing import Protocol

import msgspec
from msgspec.structs import replace

from airflow_provider_impala_lb.core.config.model import Node
from airflow_provider_impala_lb.core.stop_request import Cancelled
from airflow_provider_impala_lb.core.timing import Backoff, Deadline
from airflow_provider_impala_lb.impala.hs2.connection import Closed
from airflow_provider_impala_lb.impala.hs2.ids import StatementError
from airflow_provider_impala_lb.impala.hs2.operation import next_poll
from airflow_provider_impala_lb.impala.hs2.page_proof import PageProof
from airflow_provider_impala_lb.impala.hs2.reconnecting_client import REFUSED_SECONDS
from airflow_provider_impala_lb.impala.sql.label import Label
from airflow_provider_impala_lb.impala.statement.protocol import (
    Action,
    Evidence,
    Failure,
    Found,
    PageCopy,
    PageOf,
    StatementRecord,
    decide,
    failure_of,
    page_of,
)
from airflow_provider_impala_lb.impala.web.debug_pages import DebugPages, ProbeFailed, Queries, Query

log = getLogger(__name__)

_LOOKS = (0.05, 0.1, 0.2, 0.4)
"""Pauses between looks before the session is closed: a statement that has just arrived would be cancelled with it."""
_FIRST_PAUSE, _LONGEST_PAUSE = 0.1, 2.0
_LONGEST_POLL = 10.0
_FRESH_SECONDS = 10.0
"""So long a copy is waited for that shows the marker: a proxy may serve an older one for a while."""
_MARKER_SECONDS = 300.0
"""So often a marker is sent while a page goes on showing the statement: that may be an old copy by now. Not oftener:
each one takes a place in the log of completed queries."""
_FINISHED = "FINISHED"
_OLD = "is old, or another coordinator's: it does not show what was run just now"
MAX_SENDINGS = 5
"""So often one statement is sent, those that the coordinator refused for the time being not counted."""
_FIRST_SENDING_PAUSE, _SENDING_PAUSE_GROWS, _LONGEST_SENDING_PAUSE = 0.1, 4, 30.0
"""Seconds before the second sending, and by how much each pause is longer than the one before: 9 s for all five."""


class Coordinator(Protocol):
    """What is needed of the coordinator of a statement.

    :ivar node: where it is.
    :ivar pages: its web pages; None: it has none.
    :ivar proof: sends the marker.
    """

    node: Node
    pages: DebugPages | None
    proof: PageProof

    def pause(self, seconds: float, /) -> None:
        """Wait, or raise.

        :param seconds: how long.
        """

    @property
    def reconnect_timeout(self) -> float:
        """Seconds to ask for, where it is out of reach."""

    def nobody_listens(self) -> bool:
        """Whether a connection is refused: the process is gone."""

    def close_to_prove(self) -> Closed:
        """Open the session for a marker, then close the statement's one: what is still on its way in it is refused."""


class StatementLookup:
    """Of one statement.

    :param coordinator: where it was sent to; its session is closed if the statement is not there.
    :param record: what is kept of the statement.
    :param nonce: of its label.
    :param witness: id of a query that was seen among the completed ones there before it was sent; "": none was.
    :param can_ask: its handle can be made of its id: whoever finds it running waits for it so; default False.
    :param answer: the author's word, see `Evidence`; default none.
    :ivar query: as the page shows it; None: it does not.
    :ivar status: how it ended, by the page: ``OK``, the error's text, or "".
    :ivar reason: why nothing more is known.
    :ivar may_clear_up: a later look may tell more.
    :ivar on_wait: called once with a query that is waited for; default nothing is.
    """

    def __init__(
        self,
        coordinator: Coordinator,
        record: StatementRecord,
        nonce: str,
        witness: str,
        *,
        can_ask: bool = False,
        answer: str = "",
    ) -> None:
        self.query: Query | None = None
        self.status = self.reason = ""
        self.may_clear_up = False
        self.on_wait: Callable[[Query], None] | None = None
        self._coordinator, self._nonce, self._witness = coordinator, nonce, witness
        self._record = replace(record, witness=bool(witness))
        pages = coordinator.pages
        if pages is None:
            self.reason = "the coordinator has no web page to look at (nodes: web)"
        self._evidence = Evidence(can_ask=can_ask, can_look=pages is not None, answer=answer)
        self._chained = False
        self._marker, self._marker_seen = "", False
        self._page_of: PageOf | None = None
        self._fresh = self._next_marker = Deadline(_FRESH_SECONDS)
        self._started = time.monotonic()

    def run(self) -> Action:
        """Look, until something can be said: anything but ``look up`` and ``close``.

        :raises Cancelled: the coordinator's pause says so.
        """
        while True:
            action = decide(self._record, self._evidence)
            if action == "look up":
                self._look()
            elif action == "close":
                self._close()
            else:
                return action

    def _close(self) -> None:
        closed = self._coordinator.close_to_prove()
        if closed == "failed":
            self.reason, self.may_clear_up = "its session could not be closed, so it may still begin", True
            self._evidence = replace(self._evidence, can_close=False)
            return
        self._chained = closed == "closed"
        self._forget_marker()
        self._evidence = replace(self._evidence, closed=True, page=None)

    def _look(self) -> None:
        pages = self._coordinator.pages
        assert pages is not None
        try:
            if self._page_of is None:
                self._page_of = page_of(pages.version())
                self._evidence = replace(self._evidence, page_of=self._page_of)
            if self._evidence.closed:
                self._mark()
            self._read(pages, self._copy(pages))
        except ProbeFailed as error:
            self.reason, self.may_clear_up = f"its page does not tell ({error})", True
            self._evidence = replace(self._evidence, can_look=False)

    def _mark(self) -> None:
        """Send the marker, once it can be sent."""
        if self._marker:
            return
        label = Label.new(1, 1, {"for": "the age of this page"})
        try:
            if not self._coordinator.proof.mark(label):
                self._chained = False
            self._marker = label.nonce
        except Cancelled:
            raise
        except Exception as error:
            self.reason, self.may_clear_up = f"how old its page is cannot be known ({error})", True

    def _copy(self, pages: DebugPages) -> Queries:
        """The page; before the session is closed a few, until one shows the statement."""
        copy = self._ask(pages)
        if not self._evidence.closed and self._evidence.page is None:
            for pause in _LOOKS:
                if copy.labelled(self._nonce) is not None:
                    break
                self._coordinator.pause(pause)
                copy = self._ask(pages)
        return copy

    def _read(self, pages: DebugPages, copy: Queries) -> None:
        found: Found = "absent"
        failure: Failure = "maybe"
        query = copy.labelled(self._nonce)
        self.query = query or self.query
        done = query is not None and query.state == _FINISHED and not self._record.statement.reads_only
        if query is not None and query.in_flight:
            found = "ok" if done else "in flight" if query.under_way else "stopped"
            self.status = "OK" if done else ""
            if self._record.state == "intended":
                self._record = replace(self._record, state="registered")
        elif query is not None:
            self.status = "OK" if done else pages.status(query.id)
            found = "ok" if self.status == "OK" else "failed"
            if found == "failed":
                failure = failure_of(self.status, self._record, archived=self._page_of)
        marker = bool(self._marker) and copy.labelled(self._marker) is not None
        witness = bool(self._witness) and any(each.id == self._witness for each in copy.completed)
        self._evidence = replace(
            self._evidence,
            page=PageCopy(found=found, failure=failure, marker=marker, witness=witness),
            same_process=witness or (self._chained and marker),
        )
        if found == "absent" and self._evidence.closed:
            self._note_absence(pages, copy, marker=marker, witness=witness)
        elif found == "absent" and not self._evidence.can_close:
            self._evidence = replace(self._evidence, can_look=False)  # another copy cannot tell more
        if (
            query is not None
            and found in ("in flight", "stopped")
            and (self._evidence.closed or not self._evidence.can_ask)
        ):
            if self.on_wait is not None:
                self.on_wait(query)
                self.on_wait, self._started = None, time.monotonic()
            self._see_age(pages, marker=marker)
            pause = min(max(next_poll(time.monotonic() - self._started), _FIRST_PAUSE), _LONGEST_POLL)
            # A marker that was just sent is looked for at once: others may fill the log before the next poll.
            self._coordinator.pause(_FIRST_PAUSE if self._marker and not self._marker_seen else pause)

    def _see_age(self, pages: DebugPages, *, marker: bool) -> None:
        """Whether a page that goes on showing the statement is of now: else it could be waited for without an end."""
        if marker and not self._marker_seen:
            self._marker_seen, self._next_marker = True, Deadline(_MARKER_SECONDS)
        if not self._next_marker.passed():
            return
        if self._marker and not self._marker_seen:
            self.may_clear_up = True
            self.reason = f"{pages.url}/queries {_OLD}"
            self._evidence = replace(self._evidence, can_look=False)
        else:
            self._mark_again()

    def _mark_again(self) -> None:
        self._forget_marker()
        self._mark()

    def _forget_marker(self) -> None:
        self._marker, self._marker_seen = "", False
        self._fresh = self._next_marker = Deadline(_FRESH_SECONDS)

    def _note_absence(self, pages: DebugPages, copy: Queries, *, marker: bool, witness: bool) -> None:
        """Say what is missing for a proof, and whether another copy may bring it."""
        where = f"{pages.url}/queries"
        if not marker:
            if self._marker_seen:  # it has left the page since
                self._mark_again()
                return
            if self._marker:
                self.may_clear_up = True
                self.reason = f"{where} {_OLD}"
            if not self._fresh.passed():
                self._coordinator.pause(_FIRST_PAUSE)
                return
        elif self._evidence.page_of == "3":
            self.reason = f"{where} of this version does not show all that runs, so it may be at work"
        elif not self._evidence.same_process:
            self.reason = "the coordinator was started anew, or its session had ended before"
        elif not self._witness:
            self.reason = (
                f"no ended statement was seen on {where} before it was sent, so it may have been dropped there"
            )
        elif not witness:
            self.reason = f"{where} keeps {copy.kept} statements, and may have dropped it already"
        self._evidence = replace(self._evidence, can_look=False)

    def _ask(self, pages: DebugPages) -> Queries:
        """The page, tried until ``session.reconnect_timeout``: the web server is as far away as the coordinator. Where
        nobody listens to that either, its process is gone, and the page of the next one knows nothing of ours."""
        coordinator = self._coordinator
        deadline, backoff = Deadline(coordinator.reconnect_timeout), Backoff(_FIRST_PAUSE, _LONGEST_PAUSE)
        refused_since = 0.0
        while True:
            try:
                return pages.queries()
            except ProbeFailed:
                now, late = time.monotonic(), deadline.passed(backoff.pause)
                refused_since = (refused_since or now) if coordinator.nobody_listens() else 0.0
                gone = bool(refused_since) and now - refused_since >= REFUSED_SECONDS
                if late or gone:
                    raise
            coordinator.pause(backoff.next())


class FoundStatement(msgspec.Struct, frozen=True):
    """A statement that was found on the page.

    :ivar id: its query id, as Impala prints it.
    :ivar in_flight: it is registered: running, or ended and not closed. Else it is done, and closed.
    """

    id: str
    in_flight: bool


def look_up(
    coordinator: Coordinator, record: StatementRecord, nonce: str | None, witness: str, failure: StatementError
) -> FoundStatement | None:
    """Find the statement with this label.

    :param coordinator: where it was sent to; its session is closed if the statement is not there.
    :param record: what is kept of the statement.
    :param nonce: of its label; None: it has none.
    :param witness: as of `StatementLookup`.
    :param failure: what is known so far.
    :returns: None: it never reached the coordinator, and the session is lost.
    :raises StatementError: it failed; or that cannot be found out, which leaves the outcome unknown.
    """
    if nonce is None:
        raise StatementError(f"{failure}; it has no label by which it could be looked for") from failure
    lookup = StatementLookup(coordinator, record, nonce, witness, can_ask=True)
    action, query = lookup.run(), lookup.query
    address = coordinator.node.address
    if action == "send":
        log.info("The statement never reached %s: its page shows all that did, and not its label", address)
        return None
    if query is not None:
        log.info("The statement was found on %s as query %s, %s", address, query.id, query.state)
        if action in ("wait", "go on"):
            return FoundStatement(query.id, action == "wait")
        if lookup.status:
            raise StatementError(lookup.status, query_id=query.id) from failure
    query_id = query.id if query is not None else None
    over = "; it is over, and how it ended is not known" if action == "ended" else ""
    raise StatementError(f"{failure}; {lookup.reason}{over}", query_id=query_id) from failure


def look_for(coordinator: Coordinator, nonce: str | None, failure: StatementError) -> FoundStatement | None:
    """The statement with this label, of a kind that may be sent again: is it running there, or ready to be fetched?

    :param coordinator: where it was sent to.
    :param nonce: of its label; None: it has none.
    :param failure: what is known so far.
    :returns: None if it is not on the page, or has ended well and is closed already.
    :raises StatementError: it has failed there.
    :raises ProbeFailed: the page does not tell.
    """
    pages = coordinator.pages
    if pages is None or nonce is None:
        raise ProbeFailed("there is no page to look at")
    for pause in (0.0, *_LOOKS):
        coordinator.pause(pause)
        found = pages.queries().labelled(nonce)
        if found is not None:
            break
    else:
        return None
    log.info("The statement was found on %s as query %s, %s", coordinator.node.address, found.id, found.state)
    if found.in_flight:
        return FoundStatement(found.id, True)
    status = pages.status(found.id)
    if status != "OK":
        raise StatementError(status or str(failure), query_id=found.id)
    return None


class Sendings:
    """How often one statement may be sent, over all sessions in which it is.

    :param reconnect_timeout: seconds since a first answer was lost, after which it is not sent again.
    :param new_session: whoever sends it opens a new session if the one that it was sent in is closed; default False.
    :ivar new_session: as given.
    :ivar count: how often it was sent.
    """

    def __init__(self, reconnect_timeout: float, *, new_session: bool = False) -> None:
        self.new_session = new_session
        self._reconnect_timeout = reconnect_timeout
        self.count = 0
        self._first_at = 0.0
        self._lost_at: float | None = None
        self._lost = ""

    def begin(self) -> None:
        """It is sent now.

        :raises StatementError: it was sent as often as it may, so it was not.
        """
        self._check(0.0)
        self.count += 1
        self._first_at = self._first_at or time.monotonic()

    def answered(self) -> None:
        """The coordinator has it."""
        self._lost_at = None

    def refused(self) -> None:
        """The coordinator has refused it, for the time being: that sending does not count."""
        self.count = max(0, self.count - 1)

    def lost(self, failure: StatementError) -> float:
        """The answer was lost.

        :param failure: what is known so far.
        :returns: the pause before the next sending, in seconds.
        :raises StatementError: there is none.
        """
        self._lost = str(failure)
        self._lost_at = self._lost_at or time.monotonic()
        grown = _FIRST_SENDING_PAUSE * float(_SENDING_PAUSE_GROWS) ** (self.count - 1)
        pause = min(grown, _LONGEST_SENDING_PAUSE)
        self._check(pause)
        return pause

    def _check(self, pause: float) -> None:
        now = time.monotonic()
        late = self._lost_at is not None and now + pause - self._lost_at >= self._reconnect_timeout
        if self.count >= MAX_SENDINGS or late:
            limit = f"session.reconnect_timeout is {self._reconnect_timeout:g} s" if late else f"{MAX_SENDINGS} at most"
            times = "once" if self.count == 1 else f"{self.count} times"
            raise StatementError(
                f"{self._lost or 'its rows were lost'}; it was sent {times} in {now - self._first_at:.0f} s ({limit})"
            )
