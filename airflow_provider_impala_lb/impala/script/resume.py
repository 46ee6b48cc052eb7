"""Where a script goes on: what its journal says, and what became of the statement that it leaves in doubt."""

from __future__ import annotations

import time
from collections.abc import Callable
from logging import Logger
from typing import TYPE_CHECKING

from airflow_provider_impala_lb.errors import StatementFailed
from airflow_provider_impala_lb.impala.hs2.connection_failure import NodeRefused
from airflow_provider_impala_lb.impala.hs2.ids import guid_of, print_id
from airflow_provider_impala_lb.impala.script.handover import Handover, unseal
from airflow_provider_impala_lb.impala.script.journal import Intent, Journal, Record
from airflow_provider_impala_lb.impala.script.options import StatementDone
from airflow_provider_impala_lb.impala.script.plan import ScriptPlan
from airflow_provider_impala_lb.impala.script.takeover import InDoubt, ran
from airflow_provider_impala_lb.impala.script.upstream import Upstream
from airflow_provider_impala_lb.impala.sql.effects import WrittenTables
from airflow_provider_impala_lb.impala.sql.statement import excerpt

if TYPE_CHECKING:
    from airflow_provider_impala_lb.impala.hs2.session_factory import SessionFactory
    from airflow_provider_impala_lb.impala.script.execution import Execution


def settle_intent(
    sessions: SessionFactory,
    journal: Journal,
    record: Record,
    script: ScriptPlan,
    *,
    pause: Callable[[float], None],
    log: Logger,
    since: float = 0.0,
) -> int:
    """Find out whether the statement that was about to be sent has run. Returns how many are done then.

    :param since: seconds since ``record`` was read.
    :raises StatementFailed: nobody knows, and it must not run twice: a question to the author.
    """
    intent = record.intent
    assert intent is not None
    number, statement = intent.number, script.classified[intent.number - 1]
    try:
        has_run = ran(sessions, intent, statement, record.at - intent.at + since, pause=pause, log=log)
    except InDoubt as doubt:
        # After the look, even so: it has waited for what it saw running.
        if record.answer:
            has_run = record.answer == "ran"
            log.warning("Statement %d: its author says that it %s", number, "ran" if has_run else "did not run")
        elif statement.safe_to_repeat:
            log.warning("Statement %d may have run, and is safe to repeat: it is run (again): %s", number, doubt)
            has_run = False
        else:
            raise _question(journal, intent, script, doubt, record) from doubt
    log.info(
        "Statement %d, which an earlier try was about to send, %s", number, "has run" if has_run else "has not run"
    )
    if has_run:
        journal.done(number, intent.query, None)
        return number
    journal.not_run(number)
    return number - 1


def take_over(
    sessions: SessionFactory,
    journal: Journal,
    script: ScriptPlan,
    handover: Handover,
    record: Record,
    *,
    clean: bool,
    pause: Callable[[float], None],
    log: Logger,
) -> Callable[[Execution], None] | None:
    """How to go on in the session that another process has left; None: in a new one, and nothing is under way.

    What it finds out about a statement in doubt goes into ``record``.

    :param clean: it was handed to us as it is. Else another process may still use the session, or try to.
    :raises NodeRefused: nothing can be found out at its node. :raises StatementFailed: a statement is in doubt.
    """
    guid, secret = bytes.fromhex(handover.guid), bytes.fromhex(handover.secret)
    intent, read_at, node = record.intent, time.monotonic(), record.node or handover.node
    if record.session != print_id(guid):  # one that a process after the first has opened
        opened = unseal(record.sealed, handover.key) if record.sealed and record.session else None
        guid, secret = (guid_of(record.session), opened) if opened else (b"", b"")
    query = intent.query if intent else ""

    def done() -> int:
        since = time.monotonic() - read_at
        return settle_intent(sessions, journal, record, script, pause=pause, log=log, since=since)

    if guid and (clean or query):
        try:
            session = sessions.attach(node, guid, secret)
        except NodeRefused as error:
            if clean and not query:
                raise
            log.warning("Its session cannot be used any more: %s", error)
        else:
            sent = time.monotonic() - max(0.0, time.time() - handover.submitted)
            has_run = (lambda: done() >= intent.number) if intent is not None else None
            return lambda execution: execution.go_on_in(
                session, query=query, sent=sent, inherited=not clean, has_run=has_run
            )
    if intent is not None:
        record.done = done()
    if guid:
        sessions.end(node, guid, secret)
    return None


def statements_before(script: ScriptPlan, record: Record, done: int) -> list[StatementDone]:
    """The statements that other processes have done, as far as the journal has kept them."""
    queries = [*[""] * (record.done - len(record.queries)), *record.queries]
    found = [
        StatementDone(number, statement.line, query, None, 0.0)
        for number, (statement, query) in enumerate(zip(script.statements[:done], queries, strict=False), 1)
    ]
    if found:
        found[-1].rows = record.rows or None  # of all of them
    return found


def _question(journal: Journal, intent: Intent, script: ScriptPlan, doubt: InDoubt, record: Record) -> StatementFailed:
    statement = script.statements[intent.number - 1]
    if doubt.may_clear_up:
        now = "The next try looks again"
    else:
        commands = "".join(f"\n  {journal.command(answer)}" for answer in ("ran", "not-run", "start-over"))
        now = (
            f"Look whether it ran, then say so by one of these:{commands}\nand clear the task, or run the script again."
            " A statement that may run twice can say so itself, by the comment -- impala-lb: safe to repeat"
        )
    return StatementFailed(
        f"an earlier try ({record.by or 'unknown'}) was about to send it, and whether it ran is not known: {doubt}",
        number=intent.number,
        total=len(script),
        line=statement.line,
        node=intent.node,
        query_id=intent.query or None,
        outcome="unknown",
        sql=excerpt(statement.sql),
        advice=now,
        retry=doubt.may_clear_up,
    )


def left_by(sessions: SessionFactory, script: ScriptPlan, done: int, node: str) -> Upstream:
    """What the statements that are done have changed, for another node to hear of. When they ended is not known."""
    written = WrittenTables(script.options.database or sessions.config.session.database)
    for statement in script.classified[:done]:
        written.note(statement.effects, broadcast=False)  # as far as is known here
    return Upstream(
        host=node,
        published=written.published,
        written=written.written,
        dropped=written.dropped,
        complete=written.complete,
    )
