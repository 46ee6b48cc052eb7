"""The statement of an earlier attempt whose intent is in the journal without an outcome: has it run?

It is asked by its handle, where its query id and the secret of its session are known; else it is looked for on its
coordinator's web page by its label. It is waited for if it still runs: ending it would leave its outcome open. What a
page proves that does not show it is told by `statement.protocol`.
"""

from __future__ import annotations

import itertools
from collections.abc import Callable, Sequence
from logging import Logger

import msgspec

from airflow_provider_impala_lb.errors import ConfigError, NoNodeAvailable, StatementFailed
from airflow_provider_impala_lb.impala.hs2.connection_failure import NodeRefused, is_refused
from airflow_provider_impala_lb.impala.hs2.ids import StatementError, guid_of
from airflow_provider_impala_lb.impala.hs2.operation import Limits
from airflow_provider_impala_lb.impala.hs2.session import Session
from airflow_provider_impala_lb.impala.hs2.session_factory import SessionFactory
from airflow_provider_impala_lb.impala.hs2.statement_lookup import StatementLookup
from airflow_provider_impala_lb.impala.journal.document import Intent, Record
from airflow_provider_impala_lb.impala.journal.journal import Journal
from airflow_provider_impala_lb.impala.previous.leftover_sessions import SessionOfAnother, is_gone
from airflow_provider_impala_lb.impala.sql.classification import Classification, classify, excerpt
from airflow_provider_impala_lb.impala.sql.splitter import Statement
from airflow_provider_impala_lb.impala.statement.failure_rules import handle_gone
from airflow_provider_impala_lb.impala.statement.protocol import Action, State, StatementRecord, failure_of

_SAYS = {"ran": "ran", "not-run": "did not run"}
_LOOK_SECONDS = 0.001
"""Between two polls of its handle: for whoever cancels the script meanwhile."""
_ANY = "CREATE TABLE t AS SELECT 1"
"""Stands for a statement that is not in the script any more: the kind whose failure proves least."""


class InDoubt(Exception):
    """Whether the statement ran is not known.

    :param reason: why it is not known.
    :param may_clear_up: a later look may tell; default False.
    :param is_over: it has ended, or never arrives: what may run twice may be sent again; default False.
    """

    def __init__(self, reason: str, *, may_clear_up: bool = False, is_over: bool = False) -> None:
        super().__init__(reason)
        self.may_clear_up, self.is_over = may_clear_up, is_over


class StatementInDoubt:
    """Of one script, if it has one.

    :param sessions: opens a session on its node, to look from.
    :param script: the script's statements, each with its kind.
    :param pause: waits so many seconds, or raises.
    :param log: for people.
    """

    def __init__(
        self,
        sessions: SessionFactory,
        script: Sequence[tuple[Statement, Classification]],
        pause: Callable[[float], None],
        log: Logger,
    ) -> None:
        self._sessions, self._script, self._pause, self._log = sessions, script, pause, log

    def resolve_intent(self, journal: Journal, record: Record) -> int:
        """Find out whether the statement that was about to be sent has run, and note it in the journal.

        :param journal: where its intent is.
        :param record: what the journal says; it must have an intent.
        :returns: how many statements are done.
        :raises StatementFailed: nobody knows, and it must not run twice: a question to the author.
        """
        intent = record.intent
        assert intent is not None
        number, statement = intent.number, self._statement(journal, record, intent)
        try:
            has_run = self._has_run(record, intent, statement)
        except InDoubt as doubt:
            if doubt.is_over and statement.safe_to_repeat:
                self._log.warning(
                    "Statement %d may have run, and is safe to repeat: it is run (again): %s", number, doubt
                )
                has_run = False
            else:
                raise self._question(journal, record, intent, doubt) from doubt
        except NoNodeAvailable as cancelled:
            before = f"{number - 1} before it are done, and " if number > 1 else ""
            raise NoNodeAvailable(
                f"the script was cancelled while it waited for statement {number} of {record.total} (query "
                f"{intent.query or 'unknown'}, on {intent.node}), which an earlier attempt had sent: {before}the next "
                "attempt finds out what became of it",
                cancelled.reasons,
            ) from cancelled
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

    def _statement(self, journal: Journal, record: Record, intent: Intent) -> Classification:
        if journal.has_same(record, intent.number):
            return self._script[intent.number - 1][1]
        return classify(_ANY)

    def _has_run(self, record: Record, intent: Intent, statement: Classification) -> bool:
        """Whether the statement of ``intent`` ran to its end. On return nothing of it runs, or can still begin.

        :raises InDoubt: that cannot be found out, and its author has not said it.
        """
        answer = record.answer
        try:
            address = self._sessions.config.canonical(intent.node)
            session = self._sessions.open(address)
        except ConfigError:
            doubt = InDoubt(f"{intent.node} is not a node of this configuration any more")
        except NodeRefused as error:
            refused = error.__cause__ is not None and is_refused(error.__cause__)
            kept = record.kept(intent.session)
            gone = refused and is_gone(self._sessions.pages(address, kept.web if kept is not None else ""))
            text = "its coordinator is gone, and with it all that it knew" if gone else f"its coordinator says: {error}"
            doubt = InDoubt(text, may_clear_up=not gone)
            doubt.__cause__ = error
        else:
            state: State = "accepted" if intent.was_asked else "registered" if intent.query else "intended"
            with session:
                return self._look(
                    session, intent, StatementRecord(statement, state), self._secret(record, intent), answer
                )
        if not answer:
            raise doubt
        self._log.warning("Statement %d: its author says that it %s", intent.number, _SAYS[answer])
        return answer == "ran"

    def _secret(self, record: Record, intent: Intent) -> bytes | None:
        kept = record.kept(intent.session)
        return None if kept is None else self._sessions.sealer.open(kept.sealed)

    def _look(
        self, session: Session, intent: Intent, statement: StatementRecord, secret: bytes | None, answer: str
    ) -> bool:
        query_id = intent.query
        for can_ask in (True, False):  # once more, if the handle that was found is not known any more
            if query_id and secret is not None and can_ask and not statement.statement.changes_nothing:
                has_run = self._ask(session, intent, statement, secret, query_id, answer)
                if has_run is not None:
                    return has_run
                can_ask = False
            coordinator = SessionOfAnother(session, intent.session, self._pause, secret)
            lookup = StatementLookup(
                coordinator,
                statement,
                intent.nonce,
                intent.witness,
                can_ask=can_ask and secret is not None,
                answer=answer,
            )
            lookup.on_wait = lambda query: self._log_wait(session, intent, query.id)
            try:
                action = lookup.run()
            finally:
                coordinator.proof.close()
            if action == "wait" and lookup.query is not None:
                assert secret is not None
                has_run = self._ask(session, intent, statement, secret, lookup.query.id, answer)
                if has_run is not None:
                    return has_run
                query_id = ""
                continue
            break
        return self._told(lookup, action, intent, answer)

    def _told(self, lookup: StatementLookup, action: Action, intent: Intent, answer: str) -> bool:
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

    def _ask(
        self,
        session: Session,
        intent: Intent,
        statement: StatementRecord,
        secret: bytes,
        query_id: str,
        answer: str,
    ) -> bool | None:
        """Wait for its end by its handle. None: that is not known any more, or it was not seen to end though in error:
        neither proves anything. The author's word counts where it is over, and may have changed something.

        :raises InDoubt: it has failed, and may have changed something.
        """
        try:
            own = self._sessions.attach(session.node.address, guid_of(intent.session), secret, named=session.web or "")
        except NodeRefused as error:
            self._log.info("Session %s on %s cannot be used any more: %s", intent.session, intent.node, error)
            return None
        polls = itertools.count()

        def still_runs() -> None:
            if next(polls) == 0:
                self._log_wait(session, intent, query_id)
            self._pause(_LOOK_SECONDS)

        try:
            own.adopt(query_id, was_answered=intent.was_asked)
            own.wait(limits=Limits(on_poll=still_runs))
            return True
        except StatementError as error:
            if handle_gone(str(error)):
                return None
            failure = failure_of(str(error), msgspec.structs.replace(statement, state="accepted"))
            if failure in ("nothing", "done"):
                return failure == "done"
            if own.operation.unsettled:  # in error at once, by a cancel or a limit, and its threads end later
                return None
            if answer:
                self._log.warning("Statement %d: its author says that it %s", intent.number, _SAYS[answer])
                return answer == "ran"
            raise InDoubt(f"query {query_id} ended in: {error}", is_over=failure == "maybe") from error
        except Exception:  # whoever asked for the script wants no more of it: nor of what is waited for
            own.close()
            raise
        finally:
            own.detach()  # it is closed with the other sessions that were left

    def _log_wait(self, session: Session, intent: Intent, query_id: str) -> None:
        pages = session.pages
        self._log.info(
            "Statement %d, which an earlier attempt sent, still runs on %s as query %s: waiting for its end, %s",
            intent.number,
            intent.node,
            query_id,
            f"{pages.url if pages else ''}/query_plan?query_id={query_id}",
        )

    def _question(self, journal: Journal, record: Record, intent: Intent, doubt: InDoubt) -> StatementFailed:
        replies = ("ran", intent.name), ("not-run", intent.name), ("start-over",)
        commands = "".join(f"\n  {journal.command(*reply)}" for reply in replies)
        again = "The next attempt looks again. " if doubt.may_clear_up else ""
        advice = (
            f"{again}Look whether it ran, then say so by one of these:{commands}\nand clear the task, or run it again"
        )
        if doubt.is_over:
            advice += ". A statement that may run twice can say so itself, by the comment -- impala-lb: safe to repeat"
        line, sql = 0, "(it is not in the script any more)"
        if journal.has_same(record, intent.number):
            statement = self._script[intent.number - 1][0]
            line, sql = statement.line, excerpt(statement.sql)
        sent = "had sent it" if intent.query else "was about to send it"
        return StatementFailed(
            f"an earlier attempt ({record.by or 'unknown'}) {sent}, and whether it ran is not known: {doubt}",
            number=intent.number,
            total=record.total,
            line=line,
            node=intent.node,
            query_id=intent.query or None,
            outcome="unknown",
            sql=sql,
            advice=advice,
            retry=doubt.may_clear_up,
        )
