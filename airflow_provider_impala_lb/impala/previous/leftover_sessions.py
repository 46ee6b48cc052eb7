"""Sessions that earlier attempts of the same work have left: each is ended, and seen ended, before this one runs.

Otherwise its INSERTs would run beside their living twins: a killed worker's statement goes on until its session is
ended, 15 minutes after the coordinator has noticed that its connection is gone (``disconnected_session_timeout``); a
stopped worker may go on at any time.

They are known by the attempt's own record (its session and the secret of that, in the journal), by the balancer's state
(the leases that have ended), or, if both are lost, by the label of what runs, on the pages of all nodes.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from logging import Logger

import msgspec

from airflow_provider_impala_lb.core.cluster.cluster import Cluster
from airflow_provider_impala_lb.core.state.model import LeftoverSession
from airflow_provider_impala_lb.core.timing import Deadline
from airflow_provider_impala_lb.errors import ConfigError, ImpalaLBError, StillRunning
from airflow_provider_impala_lb.impala.hs2.connection import Closed, end_another
from airflow_provider_impala_lb.impala.hs2.connection_failure import NodeRefused, is_refused
from airflow_provider_impala_lb.impala.hs2.ids import StatementError, is_id
from airflow_provider_impala_lb.impala.hs2.page_proof import PageProof
from airflow_provider_impala_lb.impala.hs2.session import Session
from airflow_provider_impala_lb.impala.hs2.session_factory import SessionFactory
from airflow_provider_impala_lb.impala.journal.document import KeptSession
from airflow_provider_impala_lb.impala.sql.classification import classify
from airflow_provider_impala_lb.impala.sql.label import Label, own_in, own_of, tag_in
from airflow_provider_impala_lb.impala.statement.protocol import page_of
from airflow_provider_impala_lb.impala.web.debug_pages import DebugPages, ProbeFailed, Query

END_SECONDS = 20.0
"""For one session to be seen ended, once its coordinator was asked to."""
_END_PAUSE = 0.2
_KILLABLE = ("RUNNING", "FINISHED")


class _Left(msgspec.Struct):
    """One session that was left.

    :ivar node: where, ``host:port``.
    :ivar session: its id; "": not known.
    :ivar secret: of the session; None: not known.
    :ivar query: id of a statement that runs in it, or ran last; "": not known.
    :ivar idle: nothing is under way in it: all that was sent in it is known to be over.
    :ivar left_open: its query id need not be of the last statement.
    :ivar web: URL of its coordinator's pages; "": not known.
    :ivar leases: ids of the leases it was used under.
    :ivar closed: what closing it has come to.
    :ivar over: and nothing of it runs any more.
    """

    node: str
    session: str
    secret: bytes | None = None
    query: str = ""
    idle: bool = False
    left_open: bool = False
    web: str = ""
    leases: list[str] = []
    closed: Closed = "failed"
    over: bool = False


class LeftoverSessions:
    """Of one piece of work.

    :param cluster: where the leases of the sessions are noted.
    :param sessions: opens a session on a node, to look from.
    :param pause: waits so many seconds, or raises.
    :param log: for people.
    :param beside: the attempt that may be at work itself, as in the tag ``try``; default it is not yet.
    :ivar pause: as given.
    :ivar beside: as given.
    """

    def __init__(
        self,
        cluster: Cluster,
        sessions: SessionFactory,
        pause: Callable[[float], None],
        log: Logger,
        *,
        beside: str = "",
    ) -> None:
        self._cluster, self._sessions, self.pause, self._log = cluster, sessions, pause, log
        self.beside = beside
        self._over: set[str] = set()  # sessions

    def end(
        self,
        owner: str,
        leftovers: Mapping[str, LeftoverSession],
        kept: Sequence[KeptSession] = (),
        *,
        on_ended: Callable[[str], None] = lambda _: None,
    ) -> None:
        """End each of these sessions, and what runs in it, and see that it has ended.

        :param owner: whose they are.
        :param leftovers: as by `Fencing.fence_earlier`, by lease id.
        :param kept: those in the record of the attempts; default none.
        :param on_ended: called with the id of each that has ended, at once: some servers tell it but once.
        :raises StillRunning: one could not be seen to end.
        """
        remaining = {}
        all_left = self._merged(leftovers, kept)
        waited_for = Counter(lease_id for left in all_left for lease_id in left.leases)
        for node in dict.fromkeys(left.node for left in all_left):
            lefts = [left for left in all_left if left.node == node]
            known = [(left, None) for left in lefts if left.session in self._over]  # some servers tell it but once
            lefts = [left for left in lefts if left.session not in self._over]
            for left, problem in (*known, *(self._end(owner, node, lefts) if lefts else ())):
                if problem is not None:
                    remaining[left.session] = f"{left.node}, query {left.query or 'unknown'}: {problem}"
                    continue
                self._log.info("Session %s of an earlier attempt on %s has ended", left.session, left.node)
                self._over.add(left.session)
                on_ended(left.session)
                waited_for.subtract(left.leases)
                self._cluster.fencing.note_ended(each for each in left.leases if not waited_for[each])
        if remaining:
            raise StillRunning(owner, remaining)

    def end_unrecorded(self, owner: str, *, is_known: bool, unrecorded: str = "") -> bool:
        """End what an earlier attempt, of which no record is there, has running on any node: known by its label.

        Who has no record cannot stop a process that lives, either: one that goes on later is not noticed. And a label
        holds the hash of a name that another Airflow may use, too, if it keeps its state elsewhere: what it names is
        ended only where the name has a ``deployment`` in it. Else its end is waited for, however long that takes.

        :param owner: whose it is.
        :param is_known: the balancer's state knows of nothing: then a node whose page does not tell is passed over.
        :param unrecorded: as of `StillRunning`.
        :returns: whether all nodes told.
        :raises StillRunning: it could not be seen to end; or a node's page does not tell.
        """
        remaining: dict[str, str] = {}
        all_told = True
        config = self._sessions.config
        places = [node.address for node in (*config.nodes, *config.gone)]  # it may run where nothing new goes
        if not places:
            raise StillRunning(owner, {"(unknown, 1)": "no coordinator is known, so none can be asked"}, unrecorded)
        for address in places:
            try:
                problem = self._end_labelled(address, own_of(owner))
            except _Untold as untold:
                all_told = False
                problem = None if is_known else f"whether something of it runs there cannot be known: {untold}"
                if is_known:
                    self._log.info("Whether an earlier attempt runs on %s is not told there: %s", address, untold)
            if problem is not None:
                remaining[f"(unknown, {len(remaining) + 1})"] = f"{address}: {problem}"
        if remaining:
            raise StillRunning(owner, remaining, unrecorded)
        return all_told

    def _merged(self, leftovers: Mapping[str, LeftoverSession], kept: Iterable[KeptSession]) -> list[_Left]:
        known = {
            each.session: _Left(
                each.node,
                each.session,
                self._sessions.sealer.open(each.sealed),
                idle=each.known,
                left_open=each.left_open,
                web=each.web,
            )
            for each in kept
        }
        for lease_id, leftover in leftovers.items():
            for session in (leftover.session, *leftover.other_sessions):
                left = known.setdefault(session, _Left(leftover.node, session))
                # In which of several the last one ran is not known.
                left.query = "" if left.left_open or leftover.other_sessions else leftover.query
                left.leases = [*left.leases, lease_id]
        return list(known.values())

    def _is_of(self, query: Query, own: str) -> bool:
        """Whether an earlier attempt has sent it, by its label."""
        return own_in(query.text) == own and not (self.beside and tag_in(query.text, "try") == self.beside)

    # Of one node

    def _end(self, owner: str, node: str, lefts: Sequence[_Left]) -> Iterator[tuple[_Left, str | None]]:
        """Each with why it could not be seen to end, or None. All are closed before one is waited for: what is being
        planned is known to be this owner's, and not in which session it will be."""
        try:
            address = self._sessions.config.canonical(node)
        except ConfigError:
            yield from ((left, "it is not a node of this configuration any more") for left in lefts)
            return
        try:
            session = self._sessions.open(address)
        except NodeRefused as error:
            # It may have come back at another port between two of them.
            all_pages = [self._sessions.pages(address, web) for web in dict.fromkeys(left.web for left in lefts)]
            pages = all_pages[-1]
            if error.__cause__ is not None and is_refused(error.__cause__) and all(map(is_gone, all_pages)):
                # Nobody listens: the process is gone, and with it all that it ran.
                yield from ((left, None) for left in lefts)
            else:
                yield from self._end_without_session(address, pages, own_of(owner), lefts, str(error))
            return
        except ConfigError as error:
            yield from ((left, str(error)) for left in lefts)
            return
        with session:
            for left in lefts:
                self._close(address, left)
                if left.closed == "failed" and session.pages is not None:
                    another = SessionOfAnother(session, left.session, self.pause)
                    left.closed = another.close_to_prove()
                    another.proof.close()
            for left in lefts:
                yield left, None if left.over else self._see_over(session, own_of(owner), left)

    def _close(self, address: str, left: _Left) -> None:
        """Close it by its secret, if that is known."""
        if left.secret is not None and is_id(left.session):
            left.closed, over = self._sessions.end(address, left.session, left.secret, left.query)
            left.over = over or (left.idle and left.closed != "failed")

    def _see_over(self, session: Session, own: str, left: _Left) -> str | None:
        if session.pages is not None:
            problem = self._see_over_on_page(session, session.pages, own, left)
            if problem is None or not left.query:
                return problem
        elif not left.query:
            return "its coordinator has no web page to end it by (nodes: web), and its query is not known"
        return kill_query(session, left.query)

    def _see_over_on_page(self, session: Session, pages: DebugPages, own: str, left: _Left) -> str | None:
        """See on a later copy of the coordinator's web page than its close that nothing of it is in flight. A statement
        that is being planned is there, and in no session yet, so it is known by its label.

        Before Impala 4.0 a statement leaves the list before it is ended (3.4, ``ImpalaServer::UnregisterQuery``). There
        only whoever closes the session tells: its answer comes once that is done (``CloseSessionInternal``)."""
        if left.closed == "failed":
            return f"{pages.url} does not close it"
        try:
            if left.closed == "unknown" and not _shows_all(pages):
                return f"it was closed before, and {pages.url}/queries of this version does not show all that runs"
        except ProbeFailed as error:
            return str(error)
        proof = PageProof(pages, session.open_another)
        try:
            return self._wait_until_over(proof, pages, lambda each: each.id == left.query or self._is_of(each, own))
        finally:
            proof.close()

    def _wait_until_over(
        self, proof: PageProof, pages: DebugPages, is_of: Callable[[Query], bool], *, is_ending: bool = True
    ) -> str | None:
        """Why nothing of it is seen to be over, or None: a copy of the page that is later than now does not show it.

        :param is_ending: it was asked to end, so what is shown for long is an answer.
        """
        deadline, seen = Deadline(END_SECONDS), False
        try:
            pages.queries()  # where it does not answer there is nothing to send a marker for
            nonce = _mark(proof)
            while True:
                copy = pages.queries()
                problem = f"{pages.url}/queries is old, or another coordinator's"
                marker = copy.labelled(nonce)
                if marker is None and seen and not is_ending:  # it has run into a time limit, and left the log
                    nonce, seen, deadline = _mark(proof), False, Deadline(END_SECONDS)
                    continue
                seen |= marker is not None
                if marker is not None and own_in(marker.text) is None:
                    return f"{pages.url}/queries cuts off whose a statement is (--query_stmt_size)"
                if marker is not None:
                    running = [each for each in copy.in_flight if is_of(each)]
                    if not running:
                        return None
                    problem = f"{pages.url}/queries still shows query {running[0].id}"
                    if not is_ending:
                        deadline = Deadline(END_SECONDS)
                if deadline.passed():
                    return f"{problem}, after {END_SECONDS:g} s"
                self.pause(_END_PAUSE)
        except (ProbeFailed, StatementError, ImpalaLBError) as error:
            return str(error)

    def _end_without_session(
        self, address: str, pages: DebugPages | None, own: str, lefts: Sequence[_Left], refused: str
    ) -> Iterator[tuple[_Left, str | None]]:
        """On a coordinator that takes no session of ours, as one that shuts down: no marker says how fresh its page is,
        so that one counts that knew the session before it was closed.

        :param refused: why it takes none.
        """
        problems = [self._close_without_session(address, pages, left, refused) for left in lefts]
        for left, problem in zip(lefts, problems, strict=True):
            if problem is None and not left.over and pages is not None:
                problem = self._wait_without_session(pages, own, left)
            yield left, problem

    def _close_without_session(self, address: str, pages: DebugPages | None, left: _Left, refused: str) -> str | None:
        """Why it is not closed, or its end could not be seen, or None."""
        try:
            knew_it = pages is not None and left.session in pages.sessions()
            self._close(address, left)
            if left.over:
                return None
            if pages is None:
                return refused
            if left.closed == "failed":
                knew_it = pages.close_session(left.session)
            return None if knew_it else f"{pages.url} does not know it, and whose page that is cannot be known"
        except ProbeFailed as error:
            return str(error)

    def _wait_without_session(self, pages: DebugPages, own: str, left: _Left) -> str | None:
        deadline = Deadline(END_SECONDS)
        try:
            while left.session in pages.sessions() or any(
                each.id == left.query or self._is_of(each, own) for each in pages.queries().in_flight
            ):
                if deadline.passed():
                    return f"{pages.url} still shows it after {END_SECONDS:g} s"
                self.pause(_END_PAUSE)
        except ProbeFailed as error:
            return str(error)
        return None

    # What nobody has noted

    def _end_labelled(self, address: str, own: str) -> str | None:
        """Why what this owner runs there could not be seen to end, or None.

        :raises _Untold: nothing is known of it.
        """
        try:
            session = self._sessions.open(address)
        except NodeRefused as error:
            refused = error.__cause__ is not None and is_refused(error.__cause__)
            if refused and is_gone(self._sessions.pages(address)):
                return None
            raise _Untold(str(error)) from error
        with session:
            pages = session.pages
            if pages is None:
                raise _Untold("it has no web page (nodes: web)")
            try:
                pages.queries()
                shows_all = _shows_all(pages)
            except ProbeFailed as error:
                raise _Untold(str(error)) from error
            told: set[str] = set()
            is_named = bool(self._sessions.config.deployment)

            def is_of(query: Query) -> bool:
                if not self._is_of(query, own):
                    return False
                if not is_named and classify(query.text).changes_nothing:
                    return False
                # One in planning goes on all the same, and newer versions take it off the list at once. DDL in the
                # call that sent it (ENABLE_ASYNC_DDL_EXECUTION=0) does, too; no kill takes back a call to the catalog.
                if query.state in _KILLABLE and query.id not in told:
                    told.add(query.id)
                    statement = classify(query.text)
                    if is_named and (statement.kind == "ddl" or statement.verb in ("truncate", "load")):
                        said = "is of an earlier attempt, and a call to the catalog: waiting for its end"
                    elif is_named:
                        said = f"is of an earlier attempt: {kill_query(session, query.id) or 'it was killed'}"
                    else:
                        said = (
                            "is of an earlier attempt, or another Airflow's (deployment is not set): waiting for its "
                            f"end, {pages.url}/query_plan?query_id={query.id}"
                        )
                    self._log.warning("Query %s on %s %s", query.id, address, said)
                return True

            proof = PageProof(pages, session.open_another)
            try:
                problem = self._wait_until_over(proof, pages, is_of, is_ending=is_named)
            finally:
                proof.close()
            if problem is None and not shows_all:  # what it shows has ended, at least
                raise _Untold(f"{pages.url}/queries of this version does not show all that runs")
            return problem


def _mark(proof: PageProof) -> str:
    """Send a marker. Returns its nonce.

    It is somebody's in particular: where a page cuts that off (``--query_stmt_size``), it does not tell what is whose.

    :raises Exception: as `PageProof.mark`.
    """
    label = Label.new(1, 1, {"for": "the age of this page"}, "a page that shows whose a statement is")
    proof.mark(label)
    return label.nonce


class _Untold(Exception):
    """What runs on a node is not known."""


def is_gone(pages: DebugPages | None) -> bool:
    """Whether a coordinator whose port is refused is gone: nobody listens at its page, either. The port alone may be
    refused by something on the way; and whatever else its page does proves nothing.

    :param pages: of the coordinator; None: there are none, and nothing speaks for it.
    """
    try:
        if pages is not None:
            pages.version()
    except ProbeFailed as error:
        return error.refused
    return pages is None


def _shows_all(pages: DebugPages) -> bool:
    """Whether what a coordinator runs is on its page until it has ended.

    :raises ProbeFailed: the page does not answer.
    """
    return page_of(pages.version()) != "3"


class SessionOfAnother:
    """The session of an earlier attempt, as far as its coordinator lets one look at it.

    :param session: our own, on the same coordinator.
    :param session_id: of that one.
    :param pause: waits so many seconds, or raises.
    :param secret: of that one; None (default): not known, and it is closed on the page.
    :ivar node: where it is.
    :ivar pages: the coordinator's web pages; None: it has none.
    :ivar pause: as given.
    :ivar proof: sends the marker.
    """

    def __init__(
        self, session: Session, session_id: str, pause: Callable[[float], None], secret: bytes | None = None
    ) -> None:
        self.node, self.pages, self.pause = session.node, session.pages, pause
        self.proof = PageProof(self.pages, session.open_another)
        self._session, self._id, self._secret = session, session_id, secret

    @property
    def reconnect_timeout(self) -> float:
        """Seconds to ask for, where the coordinator is out of reach."""
        return self._session.reconnect_timeout

    def nobody_listens(self) -> bool:
        """Whether a connection is refused: the process is gone."""
        return self._session.nobody_listens()

    def close_to_prove(self) -> Closed:
        """Open the session for a marker, then close that one: by its secret, or on the page."""
        try:
            self.proof.open_marker()
            if self._secret is not None:
                closed = end_another(self._session.login, self._id, self._secret).closed
                if closed != "failed":
                    return closed
            if self.pages is None:
                return "failed"
            was_there = self.pages.close_session(self._id)
            if self._id in self.pages.sessions():
                return "failed"
            return "closed" if was_there else "unknown"
        except (ProbeFailed, ImpalaLBError):
            return "failed"


def kill_query(session: Session, query_id: str) -> str | None:
    """KILL QUERY (Impala 4.5 and later) ends the query, and with its failure the script; the session stays.

    Only a query that was there to be killed proves something: a lease names its query some seconds late, so one that
    is not found may have been followed by another.

    :param session: on the query's coordinator.
    :param query_id: of the query.
    :returns: why it could not be killed, or None.
    """
    if not is_id(query_id):  # it comes from the shared state, and goes into SQL
        return f"{query_id!r} is not a query id"
    try:
        session.execute(f"KILL QUERY '{query_id}'")
        return None
    except StatementError as error:
        return f"KILL QUERY: {error}"
