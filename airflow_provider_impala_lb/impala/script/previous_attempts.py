"""What earlier attempts of the same task left: sessions that may still run something, and a statement in doubt.

Both are looked at before this attempt runs anything. Otherwise its INSERTs would run beside their living twins: a
killed worker's statement goes on until the coordinator notices that nobody asks for it (``QUERY_TIMEOUT_S``), a stopped
worker may go on at any time.

A statement in doubt is one whose intent is in the journal without an outcome. It is looked for on its coordinator's web
page by its label, and waited for if it still runs: ending it would leave its outcome open. What is not there was not
run, if the session it would have run in is closed, and the page can be trusted to have kept it
(`hs2.statement_lookup.absence_doubt`).
"""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping
from logging import Logger

from airflow_provider_impala_lb.core.cluster.cluster import Cluster
from airflow_provider_impala_lb.core.state.model import LEASE_SECONDS, LeftoverSession
from airflow_provider_impala_lb.core.timing import Deadline
from airflow_provider_impala_lb.errors import ConfigError, StatementFailed, StillRunning
from airflow_provider_impala_lb.impala.hs2.connection_failure import NodeRefused, is_refused
from airflow_provider_impala_lb.impala.hs2.ids import StatementError, is_id
from airflow_provider_impala_lb.impala.hs2.operation import next_poll
from airflow_provider_impala_lb.impala.hs2.session import Session
from airflow_provider_impala_lb.impala.hs2.session_factory import SessionFactory
from airflow_provider_impala_lb.impala.hs2.statement_lookup import absence_doubt
from airflow_provider_impala_lb.impala.script.journal import Intent, Journal, Record
from airflow_provider_impala_lb.impala.script.plan import ScriptPlan
from airflow_provider_impala_lb.impala.sql.classification import excerpt
from airflow_provider_impala_lb.impala.statement.failure_rules import classify_failure
from airflow_provider_impala_lb.impala.web.debug_pages import DebugPages, ProbeFailed, Query

END_SECONDS = 20.0
"""For one session to be seen ended, once its coordinator was asked to."""
_END_PAUSE = 0.2
_LOOKS = (0.0, 0.2, 0.5)
"""Pauses before each look for a label, before the session is closed."""
_SHORTEST_POLL, _LONGEST_POLL = 0.1, 10.0


class InDoubt(Exception):
    """Whether the statement ran is not known.

    :param reason: why it is not known.
    :param may_clear_up: a later look may tell; default False.
    """

    def __init__(self, reason: str, *, may_clear_up: bool = False) -> None:
        super().__init__(reason)
        self.may_clear_up = may_clear_up


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
            problem = self._end(leftover)
            if problem is None:
                self._log.info("Session %s of an earlier attempt on %s has ended", leftover.session, leftover.node)
            elif self._over_by_itself(leftover):
                self._log.warning(
                    "Session %s of an earlier attempt on %s cannot be looked at (%s); it had no client for longer than "
                    "session.reconnect_timeout, after which the coordinator ends what runs in it",
                    leftover.session,
                    leftover.node,
                    problem,
                )
            else:
                remaining[leftover.session] = f"{leftover.node}, query {leftover.query or 'unknown'}: {problem}"
                continue
            self._cluster.fencing.note_ended([lease_id])
        if remaining:
            raise StillRunning(owner, remaining)

    def resolve_intent(self, journal: Journal, record: Record, since: float = 0.0) -> int:
        """Find out whether the statement that was about to be sent has run, and note it in the journal.

        :param journal: where its intent is.
        :param record: what the journal says; it must have an intent.
        :param since: seconds since ``record`` was read; default 0.
        :returns: how many statements are done.
        :raises StatementFailed: nobody knows, and it must not run twice: a question to the author.
        """
        intent = record.intent
        assert intent is not None
        number, statement = intent.number, self._plan.classified[intent.number - 1]
        try:
            has_run = self._has_run(intent, record.at - intent.at + since)
        except InDoubt as doubt:
            # After the look, even so: it has waited for what it saw running.
            if record.answer:
                has_run = record.answer == "ran"
                self._log.warning(
                    "Statement %d: its author says that it %s", number, "ran" if has_run else "did not run"
                )
            elif statement.safe_to_repeat:
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

    def _over_by_itself(self, leftover: LeftoverSession) -> bool:
        """Nobody has renewed its lease for so long that ``QUERY_TIMEOUT_S`` must have ended its query."""
        now = self._cluster.store.read()[1]
        return now - leftover.at > self._cluster.config.session.reconnect_timeout + LEASE_SECONDS

    def _end(self, leftover: LeftoverSession) -> str | None:
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
            if pages is None:
                return str(error)
            return self._end_by_pages(pages, leftover)
        except ConfigError as error:
            return str(error)
        with session:
            if session.pages is not None:
                problem = self._end_by_pages(session.pages, leftover)
                if problem is None or not leftover.query:
                    return problem
            elif not leftover.query:
                return "its coordinator has no web page to end it by (nodes: web), and its query is not known"
            return kill_query(session, leftover.query)

    def _end_by_pages(self, pages: DebugPages, leftover: LeftoverSession) -> str | None:
        """Close the session on the coordinator's web page; it also cancels what runs in it."""
        deadline = Deadline(END_SECONDS)
        try:
            while True:
                if leftover.session in pages.sessions():
                    pages.close_session(leftover.session)
                # A session that is off the page may still be waiting for its statements to end.
                if leftover.session not in pages.sessions() and leftover.query not in pages.running():
                    return None
                if deadline.passed():
                    return f"{pages.url}/sessions still shows it after {END_SECONDS:g} s"
                self._pause(_END_PAUSE)
        except ProbeFailed as error:
            return str(error)

    # A statement in doubt

    def _has_run(self, intent: Intent, age: float) -> bool:
        """Whether the statement of ``intent`` ran to its end. On return nothing of it runs, or can still begin.

        :param age: seconds since the intent was written.
        :raises InDoubt: that cannot be found out.
        """
        sent_at = time.monotonic() - age
        try:
            address = self._sessions.config.canonical(intent.node)
        except ConfigError:
            raise InDoubt(f"{intent.node} is not a node of this configuration any more") from None
        try:
            session = self._sessions.open(address)
        except NodeRefused as error:
            gone = error.__cause__ is not None and is_refused(error.__cause__)
            text = "its coordinator is gone, and with it all that it knew" if gone else f"its coordinator says: {error}"
            raise InDoubt(text, may_clear_up=not gone) from error
        with session:
            pages = session.pages
            if pages is None:
                raise InDoubt("its coordinator has no web page to look at (nodes: web)")
            try:
                return self._look(session, pages, intent, sent_at)
            except ProbeFailed as error:
                raise InDoubt(f"its coordinator's page does not tell: {error}", may_clear_up=True) from error

    def _look(self, session: Session, pages: DebugPages, intent: Intent, sent_at: float) -> bool:
        query = None
        for seconds in _LOOKS:
            if seconds:
                self._pause(seconds)
            query = pages.queries().labelled(intent.nonce)
            if query is not None:
                break
        if query is None:
            pages.close_session(intent.session)
            if intent.session in pages.sessions():
                raise InDoubt("its session could not be closed, so it may still begin", may_clear_up=True)
            page = pages.queries()
            query = page.labelled(intent.nonce)
            if query is None:
                doubt = absence_doubt(session, pages, page, sent_at)
                if doubt:
                    raise InDoubt(doubt)
                self._log.info(
                    "Statement %d never reached %s: its label is not on %s/queries",
                    intent.number,
                    intent.node,
                    pages.url,
                )
                return False
        status = self._end_of(pages, query, intent)
        if status == "OK":
            return True
        statement = self._plan.classified[intent.number - 1]
        outcome = classify_failure(status, statement, accepted=True).outcome
        if outcome == "done":
            return True
        if outcome == "not started" or classify_failure(status, statement, accepted=False).outcome == "user error":
            return False
        raise InDoubt(f"query {query.id} ended in: {status or 'an unknown way'}")

    def _end_of(self, pages: DebugPages, query: Query, intent: Intent) -> str:
        """Wait for its end: ``OK``, or the error's text."""
        start, logged = time.monotonic(), False
        while query.in_flight and query.state not in ("FINISHED", "EXCEPTION", "ERROR"):
            if not logged:
                self._log.info(
                    "Statement %d, which an earlier attempt sent, still runs on %s as query %s: waiting for its end, "
                    "%s",
                    intent.number,
                    intent.node,
                    query.id,
                    f"{pages.url}/query_plan?query_id={query.id}",
                )
                logged = True
            self._pause(min(max(next_poll(time.monotonic() - start), _SHORTEST_POLL), _LONGEST_POLL))
            query = pages.queries().labelled(intent.nonce) or query
        return pages.status(query.id)


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
    if doubt.may_clear_up:
        advice = "The next attempt looks again"
    else:
        commands = "".join(f"\n  {journal.command(answer)}" for answer in ("ran", "not-run", "start-over"))
        advice = (
            f"Look whether it ran, then say so by one of these:{commands}\nand clear the task, or run the script again."
            " A statement that may run twice can say so itself, by the comment -- impala-lb: safe to repeat"
        )
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
