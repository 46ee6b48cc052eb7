"""What became of a statement whose answer was lost: looked up on the coordinator's web page, by its label.

A label that is not there proves nothing while the session could still take a late request. So the session is closed
first (Impala then refuses it: "Session has been closed, ignoring query"), and the page read again. It keeps the last
200 ended statements (``--query_log_size``): if it may have dropped ours already, the outcome is unknown.

What changes nothing may be sent again instead: `Sendings` says how often, and until when.
"""

from __future__ import annotations

import time
from logging import getLogger
from typing import NamedTuple, Protocol

from airflow_provider_impala_lb.core.config.model import Node
from airflow_provider_impala_lb.core.stop_request import StopRequest
from airflow_provider_impala_lb.core.timing import Backoff, Deadline
from airflow_provider_impala_lb.impala.hs2.ids import StatementError
from airflow_provider_impala_lb.impala.hs2.reconnecting_client import REFUSED_SECONDS
from airflow_provider_impala_lb.impala.sql.label import Label
from airflow_provider_impala_lb.impala.web.debug_pages import DebugPages, ProbeFailed, Queries, Query

log = getLogger(__name__)

MARGIN_SECONDS = 0.25
"""By so much the coordinator's process, and its page, must be older than the moment of sending."""
_HOUR = 3600
_LOOKS = (0.05, 0.1, 0.2, 0.4)
"""Pauses between looks before the session is closed: a statement that has just arrived would be cancelled with it."""
_FIRST_PAUSE, _LONGEST_PAUSE = 0.1, 2.0
MAX_SENDINGS = 5
"""So often one statement is sent, those that the coordinator refused for the time being not counted."""
_FIRST_SENDING_PAUSE, _SENDING_PAUSE_GROWS, _LONGEST_SENDING_PAUSE = 0.1, 4, 30.0
"""Seconds before the second sending, and by how much each pause is longer than the one before: 9 s for all five."""


class Coordinator(Protocol):
    """What is needed of the coordinator, through the session in which the statement was sent.

    :ivar node: where it is.
    :ivar pages: its web pages; None: it has none.
    :ivar stop: says when to stop waiting.
    :ivar lost: the session is closed.
    """

    node: Node
    pages: DebugPages | None
    stop: StopRequest
    lost: bool

    @property
    def reconnect_timeout(self) -> float:
        """Seconds to ask for, where it is out of reach."""

    def nobody_listens(self) -> bool:
        """Whether a connection is refused: the process is gone."""

    def close_to_prove(self) -> bool:
        """Close the session, so that what is still on its way in it is refused. Returns whether that was confirmed."""

    def run_beside(self, sql: str) -> float:
        """Run a statement in a session of its own.

        :param sql: the statement.
        :returns: when it had begun, by the monotonic clock.
        :raises Exception: it could not be run.
        """


class Sendings:
    """How often one statement may be sent, over all sessions in which it is.

    :param reconnect_timeout: seconds since a first answer was lost, after which it is not sent again.
    :param new_session: whoever sends it opens a new session if the one that it was sent in is closed; default False.
    """

    def __init__(self, reconnect_timeout: float, *, new_session: bool = False) -> None:
        self.new_session = new_session
        self._reconnect_timeout = reconnect_timeout
        self._count = 0
        self._first_at = 0.0
        self._lost_at: float | None = None
        self._lost = ""

    def begin(self) -> None:
        """It is sent now.

        :raises StatementError: it was sent as often as it may, so it was not.
        """
        self._check(0.0)
        self._count += 1
        self._first_at = self._first_at or time.monotonic()

    def answered(self) -> None:
        """The coordinator has it."""
        self._lost_at = None

    def refused(self) -> None:
        """The coordinator has refused it, for the time being: that sending does not count."""
        self._count = max(0, self._count - 1)

    def lost(self, failure: StatementError) -> float:
        """The answer was lost.

        :param failure: what is known so far.
        :returns: the pause before the next sending, in seconds.
        :raises StatementError: there is none.
        """
        self._lost = str(failure)
        self._lost_at = self._lost_at or time.monotonic()
        grown = _FIRST_SENDING_PAUSE * float(_SENDING_PAUSE_GROWS) ** (self._count - 1)
        pause = min(grown, _LONGEST_SENDING_PAUSE)
        self._check(pause)
        return pause

    def _check(self, pause: float) -> None:
        now = time.monotonic()
        late = self._lost_at is not None and now + pause - self._lost_at >= self._reconnect_timeout
        if self._count >= MAX_SENDINGS or late:
            limit = f"session.reconnect_timeout is {self._reconnect_timeout:g} s" if late else f"{MAX_SENDINGS} at most"
            times = "once" if self._count == 1 else f"{self._count} times"
            raise StatementError(
                f"{self._lost or 'its rows were lost'}; it was sent {times} in {now - self._first_at:.0f} s ({limit})"
            )


class FoundStatement(NamedTuple):
    """A statement that was found on the page.

    :ivar id: its query id, as Impala prints it.
    :ivar in_flight: it is registered: running, or ended and not closed. Else it is done, and closed.
    """

    id: str
    in_flight: bool


def look_up(coordinator: Coordinator, nonce: str | None, sent_at: float, failure: StatementError) -> FoundStatement:
    """Find the statement with this label.

    :param coordinator: where it was sent to; its session is closed if the statement is not there.
    :param nonce: of its label; None: it has none.
    :param sent_at: when it was sent, by the monotonic clock.
    :param failure: what is known so far.
    :raises StatementError: it failed; or it never reached the coordinator (the text says that, and the session is
        lost); or that cannot be found out, which leaves the outcome unknown.
    """
    pages = coordinator.pages
    if pages is None or nonce is None:
        raise StatementError(f"{failure}; the coordinator has no web page to look at (nodes: web)") from failure
    found = _ask(coordinator, pages, failure).labelled(nonce)
    for pause in _LOOKS:
        if found is not None:
            break
        coordinator.stop.sleep(pause)
        found = _ask(coordinator, pages, failure).labelled(nonce)
    if found is None:
        if not coordinator.close_to_prove():
            raise StatementError(f"{failure}; the session could not be closed, so it may still begin") from failure
        page = _ask(coordinator, pages, failure)
        found = page.labelled(nonce)
        if found is None:
            doubt = absence_doubt(coordinator, pages, page, sent_at)
            if doubt:
                raise StatementError(f"{failure}; {doubt}") from failure
            log.info(
                "The statement never reached %s: its label is not on %s/queries", coordinator.node.address, pages.url
            )
            raise StatementError(f"{failure}; it never reached the coordinator")
    log.info("The statement was found on %s as query %s, %s", coordinator.node.address, found.id, found.state)
    if found.in_flight and not coordinator.lost:
        return FoundStatement(found.id, True)
    status = _status(coordinator, pages, found, failure)
    if status != "OK":
        raise StatementError(status or f"{failure}; query {found.id} has ended, how is not known", query_id=found.id)
    return FoundStatement(found.id, False)


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
        coordinator.stop.sleep(pause)
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


def absence_doubt(coordinator: Coordinator, pages: DebugPages, page: Queries, sent_at: float) -> str | None:
    """Why a page without the statement's label is no proof that it never arrived, or None.

    It is one only if the same process has kept the page since ``sent_at``, and has dropped nothing since. The
    coordinator's own clock is read off a statement that begins now; its page tells no other.

    :param coordinator: to run that statement on.
    :param pages: of the coordinator.
    :param page: the one without the label.
    :param sent_at: when the statement was sent, by the monotonic clock.
    """
    mark = Label.new(1, 1, {"for": "the clock of this page"})
    try:
        began_by = coordinator.run_beside(f"{mark} SELECT 1")
        entry = pages.queries().labelled(mark.nonce)
        process_started = pages.started()
    except Exception as error:
        return f"the clock of {pages.url} cannot be read ({error})"
    if entry is None or entry.started is None or process_started is None:
        return f"{pages.url} does not tell the time"
    passed = began_by - sent_at + MARGIN_SECONDS
    sent_there = entry.started - passed
    if process_started >= sent_there:
        return "the coordinator was started anew, and knows nothing of what it ran before"
    ended = [query for query in page.queries if not query.in_flight]
    if len(ended) < page.kept:
        return None
    # Its times are local ones: where a clock has just been put forward, an hour more seems to have passed. That
    # happens at night, at a full hour.
    if entry.started % (24 * _HOUR) < 5 * _HOUR and entry.started % _HOUR < passed:
        sent_there -= _HOUR
    times = [query.ended for query in ended if query.ended is not None]
    if times and min(times) < sent_there:
        return None
    return f"{pages.url}/queries keeps {page.kept} statements, and may have dropped it already"


def _ask(coordinator: Coordinator, pages: DebugPages, failure: StatementError) -> Queries:
    """The page, tried until ``session.reconnect_timeout``: the web server is as far away as the coordinator. Where
    nobody listens to that either, its process is gone, and the page of the next one knows nothing of ours."""
    deadline, backoff = Deadline(coordinator.reconnect_timeout), Backoff(_FIRST_PAUSE, _LONGEST_PAUSE)
    refused_since = 0.0
    while True:
        try:
            return pages.queries()
        except ProbeFailed as error:
            now, late = time.monotonic(), deadline.passed(backoff.pause)
            refused_since = (refused_since or now) if coordinator.nobody_listens() else 0.0
            gone = bool(refused_since) and now - refused_since >= REFUSED_SECONDS
            if late or gone:
                raise StatementError(f"{failure}; its page does not tell ({error})") from failure
        coordinator.stop.sleep(backoff.next())


def _status(coordinator: Coordinator, pages: DebugPages, query: Query, failure: StatementError) -> str:
    """How it ended, once it has: ``OK`` or the error's text."""
    deadline, backoff = Deadline(coordinator.reconnect_timeout), Backoff(_FIRST_PAUSE, _LONGEST_PAUSE)
    while not deadline.passed():
        try:
            if query.in_flight:
                query = pages.queries().labelled(query.text) or query
            if not query.in_flight or query.state in ("FINISHED", "EXCEPTION", "ERROR"):
                return pages.status(query.id)
        except ProbeFailed as error:
            log.debug("%s", error)
        coordinator.stop.sleep(backoff.next())
    return ""
