"""What earlier attempts of the same task left: sessions that may still run something, and a statement in doubt.

Both are looked at before this attempt runs anything. Otherwise its INSERTs would run beside their living twins: a
killed worker's statement goes on until its session is ended, 15 minutes after the coordinator has noticed that its
connection is gone (``disconnected_session_timeout``); a stopped worker may go on at any time.

A statement in doubt is one whose intent is in the journal without an outcome. It is looked for on its coordinator's web
page by its label, and waited for if it still runs: ending it would leave its outcome open. What a page proves that does
not show it is told by `statement.protocol`.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from logging import Logger

from airflow_provider_impala_lb.core.cluster.cluster import Cluster
from airflow_provider_impala_lb.core.state.model import LeftoverSession
from airflow_provider_impala_lb.core.timing import Deadline
from airflow_provider_impala_lb.errors import ConfigError, ImpalaLBError, StatementFailed, StillRunning
from airflow_provider_impala_lb.impala.hs2.connection_failure import NodeRefused, is_refused
from airflow_provider_impala_lb.impala.hs2.ids import StatementError, is_id
from airflow_provider_impala_lb.impala.hs2.page_proof import PageProof
from airflow_provider_impala_lb.impala.hs2.session import Session
from airflow_provider_impala_lb.impala.hs2.session_factory import SessionFactory
from airflow_provider_impala_lb.impala.hs2.statement_lookup import Closed, StatementLookup
from airflow_provider_impala_lb.impala.journal.document import Intent, Record
from airflow_provider_impala_lb.impala.journal.journal import Journal
from airflow_provider_impala_lb.impala.script.plan import ScriptPlan
from airflow_provider_impala_lb.impala.sql.classification import excerpt
from airflow_provider_impala_lb.impala.sql.label import Label, own_of
from airflow_provider_impala_lb.impala.statement.protocol import State, StatementRecord
from airflow_provider_impala_lb.impala.web.debug_pages import DebugPages, ProbeFailed, Query

END_SECONDS = 20.0
"""For one session to be seen ended, once its coordinator was asked to."""
_END_PAUSE = 0.2
_SAYS = {"ran": "ran", "not-run": "did not run"}


class InDoubt(Exception):
    """Whether the statement ran is not known.

    :param reason: why it is not known.
    :param may_clear_up: a later look may tell; default False.
    :param is_over: it has ended, or never arrives: what may run twice may be sent again; default False.
    """

    def __init__(self, reason: str, *, may_clear_up: bool = False, is_over: bool = False) -> None:
        super().__init__(reason)
        self.may_clear_up, self.is_over = may_clear_up, is_over


class PreviousAttempts:
    """Of one script.

    :param cluster: where the leases of the sessions are noted.
    :param sessions: opens a session on a node, to look from.
    :param plan: the script.
    :param pause: waits so many seconds, or raises.
    :param log: for people.
    """

    def __init__(
        self,
        cluster: Cluster,
        sessions: SessionFactory,
        plan: ScriptPlan,
        pause: Callable[[float], None],
        log: Logger,
    ) -> None:
        self._cluster, self._sessions, self._plan, self._pause, self._log = cluster, sessions, plan, pause, log

    def end_sessions(self, owner: str, leftovers: Mapping[str, LeftoverSession]) -> None:
        """End each of these sessions, and what runs in it, and see that it has ended.

        :param owner: whose they are, for the error.
        :param leftovers: as by `Fencing.fence_earlier`, by lease id.
        :raises StillRunning: one could not be seen to end.
        """
        remaining = {}
        for lease_id, leftover in leftovers.items():
            problem = self._end(owner, leftover)
            if problem is None:
                self._log.info("Session %s of an earlier attempt on %s has ended", leftover.session, leftover.node)
            else:
                remaining[leftover.session] = f"{leftover.node}, query {leftover.query or 'unknown'}: {problem}"
                continue
            self._cluster.fencing.note_ended([lease_id])
        if remaining:
            raise StillRunning(owner, remaining)

    def resolve_intent(self, journal: Journal, record: Record) -> int:
        """Find out whether the statement that was about to be sent has run, and note it in the journal.

        :param journal: where its intent is.
        :param record: what the journal says; it must have an intent.
        :returns: how many statements are done.
        :raises StatementFailed: nobody knows, and it must not run twice: a question to the author.
        """
        intent = record.intent
        assert intent is not None
        number = intent.number
        try:
            has_run = self._has_run(intent, record.answer)
        except InDoubt as doubt:
            if doubt.is_over and self._plan.classified[number - 1].safe_to_repeat:
                self._log.warning(
                    "Statement %d may have run, and is safe to repeat: it is run (again): %s", number, doubt
                )
                has_run = False
            else:
                raise _question(journal, intent, self._plan, doubt, record) from doubt
        self._log.info(
            "Statement %d, which an earlier attempt was about to send, %s",
            number,
            "has run" if has_run else "has not run",
        )
        if has_run:
            journal.done(number, intent.query, None)
            return number
        journal.not_run(number)
        return number - 1

    # Sessions

    def _end(self, owner: str, leftover: LeftoverSession) -> str | None:
        """Why it could not be seen to end, or None."""
        try:
            address = self._sessions.config.canonical(leftover.node)
        except ConfigError:
            return "it is not a node of this configuration any more"
        try:
            session = self._sessions.open(address)
        except NodeRefused as error:
            if error.__cause__ is not None and is_refused(error.__cause__):
                return None  # nobody listens: the process is gone, and with it all that it ran
            pages = self._sessions.pages(address)
            return str(error) if pages is None else self._end_without_session(pages, leftover)
        except ConfigError as error:
            return str(error)
        with session:
            if session.pages is not None:
                problem = self._end_by_page(_SessionOfAnother(session, leftover.session, self._pause), owner, leftover)
                if problem is None or not leftover.query:
                    return problem
            elif not leftover.query:
                return "its coordinator has no web page to end it by (nodes: web), and its query is not known"
            return kill_query(session, leftover.query)

    def _end_by_page(self, another: _SessionOfAnother, owner: str, leftover: LeftoverSession) -> str | None:
        """Close the session on the coordinator's web page, and see on a later copy of it that nothing of it is in
        flight. A statement that is being planned is there, and in no session yet, so it is known by its label."""
        pages, own = another.pages, own_of(owner)
        assert pages is not None
        label = Label.new(1, 1, {"for": "the age of this page"})
        try:
            if another.close_to_prove() == "failed":
                return f"{pages.url} does not close it"
            another.proof.mark(label)
            deadline = Deadline(END_SECONDS)
            while True:
                copy = pages.queries()
                problem = f"{pages.url}/queries is old, or another coordinator's"
                if copy.labelled(label.nonce) is not None:
                    running = [
                        each for each in copy.in_flight if each.id == leftover.query or (own and own in each.text)
                    ]
                    if not running:
                        return None
                    problem = f"{pages.url}/queries still shows query {running[0].id}"
                if deadline.passed():
                    return f"{problem}, after {END_SECONDS:g} s"
                self._pause(_END_PAUSE)
        except (ProbeFailed, StatementError, ImpalaLBError) as error:
            return str(error)
        finally:
            another.proof.close()

    def _end_without_session(self, pages: DebugPages, leftover: LeftoverSession) -> str | None:
        """As :meth:`_end_by_page`, on a coordinator that takes no session of ours, as one that shuts down."""
        try:
            if not pages.close_session(leftover.session):  # a page that knows it is that coordinator's
                return f"{pages.url} does not know it, and whose page that is cannot be known"
            deadline = Deadline(END_SECONDS)
            while leftover.session in pages.sessions() or leftover.query in pages.running():
                if deadline.passed():
                    return f"{pages.url} still shows it after {END_SECONDS:g} s"
                self._pause(_END_PAUSE)
        except ProbeFailed as error:
            return str(error)
        return None

    # A statement in doubt

    def _has_run(self, intent: Intent, answer: str) -> bool:
        """Whether the statement of ``intent`` ran to its end. On return nothing of it runs, or can still begin.

        :param answer: the author's word: ``ran`` or ``not-run``; "": none. It counts where nothing else tells.
        :raises InDoubt: that cannot be found out.
        """
        try:
            address = self._sessions.config.canonical(intent.node)
            session = self._sessions.open(address)
        except ConfigError:
            doubt = InDoubt(f"{intent.node} is not a node of this configuration any more")
        except NodeRefused as error:
            gone = error.__cause__ is not None and is_refused(error.__cause__)
            text = "its coordinator is gone, and with it all that it knew" if gone else f"its coordinator says: {error}"
            doubt = InDoubt(text, may_clear_up=not gone)
            doubt.__cause__ = error
        else:
            with session:
                return self._look(session, intent, answer)
        if not answer:
            raise doubt
        self._log.warning("Statement %d: its author says that it %s", intent.number, _SAYS[answer])
        return answer == "ran"

    def _look(self, session: Session, intent: Intent, answer: str) -> bool:
        state: State = "accepted" if intent.query else "intended"
        record = StatementRecord(self._plan.classified[intent.number - 1], state)
        coordinator = _SessionOfAnother(session, intent.session, self._pause)
        try:
            lookup = StatementLookup(coordinator, record, intent.nonce, intent.witness, answer=answer)
            lookup.on_wait = lambda query: self._log_wait(session, intent, query)
            action = lookup.run()
        finally:
            coordinator.proof.close()
        if action == "go on" and lookup.status == "OK":
            return True
        if action in ("go on", "send") and answer:
            self._log.warning("Statement %d: its author says that it %s", intent.number, _SAYS[answer])
        elif action == "send":
            self._log.info("Statement %d never reached %s: its page shows all that did", intent.number, intent.node)
        if action in ("go on", "send", "failed"):
            return action == "go on"
        if lookup.query is not None and lookup.status != "":
            raise InDoubt(f"query {lookup.query.id} ended in: {lookup.status}", is_over=action == "ended")
        raise InDoubt(lookup.reason, may_clear_up=lookup.may_clear_up, is_over=action == "ended")

    def _log_wait(self, session: Session, intent: Intent, query: Query) -> None:
        pages = session.pages
        self._log.info(
            "Statement %d, which an earlier attempt sent, still runs on %s as query %s: waiting for its end, %s",
            intent.number,
            intent.node,
            query.id,
            f"{pages.url if pages else ''}/query_plan?query_id={query.id}",
        )


class _SessionOfAnother:
    """The session of an earlier attempt, as far as its coordinator lets one look at it.

    :param session: our own, on the same coordinator.
    :param session_id: of that one.
    :param pause: waits so many seconds, or raises.
    """

    def __init__(self, session: Session, session_id: str, pause: Callable[[float], None]) -> None:
        self.node, self.pages, self.pause = session.node, session.pages, pause
        self.proof = PageProof(self.pages, session.open_another)
        self._session, self._id = session, session_id

    @property
    def reconnect_timeout(self) -> float:
        """Seconds to ask for, where the coordinator is out of reach."""
        return self._session.reconnect_timeout

    def nobody_listens(self) -> bool:
        """Whether a connection is refused: the process is gone."""
        return self._session.nobody_listens()

    def close_to_prove(self) -> Closed:
        """Open the session for a marker, then close that one on the page."""
        if self.pages is None:
            return "failed"
        try:
            self.proof.open_marker()
            closed = self.pages.close_session(self._id)
            if self._id in self.pages.sessions():
                return "failed"
            return "closed" if closed else "unknown"
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


def _question(journal: Journal, intent: Intent, plan: ScriptPlan, doubt: InDoubt, record: Record) -> StatementFailed:
    statement = plan.statements[intent.number - 1]
    commands = "".join(f"\n  {journal.command(answer)}" for answer in ("ran", "not-run", "start-over"))
    again = "The next attempt looks again. " if doubt.may_clear_up else ""
    advice = f"{again}Look whether it ran, then say so by one of these:{commands}\nand clear the task, or run it again"
    if doubt.is_over:
        advice += ". A statement that may run twice can say so itself, by the comment -- impala-lb: safe to repeat"
    return StatementFailed(
        f"an earlier attempt ({record.by or 'unknown'}) was about to send it, and whether it ran is not known: {doubt}",
        number=intent.number,
        total=len(plan),
        line=statement.line,
        node=intent.node,
        query_id=intent.query or None,
        outcome="unknown",
        sql=excerpt(statement.sql),
        advice=advice,
        retry=doubt.may_clear_up,
    )
