"""What has become of a script so far, over all the nodes it has come to: for its caller, the log and the journal."""

from __future__ import annotations

import time
from contextlib import suppress
from datetime import datetime, timezone
from typing import Any

import msgspec

from airflow_provider_impala_lb.errors import ConfigError, ImpalaLBError, StatementFailed, StateUnavailable
from airflow_provider_impala_lb.impala.hs2.ids import StatementEnd
from airflow_provider_impala_lb.impala.journal.document import Record
from airflow_provider_impala_lb.impala.journal.identity import RunIdentity
from airflow_provider_impala_lb.impala.journal.journal import Journal
from airflow_provider_impala_lb.impala.script.options import RunListener, StatementDone
from airflow_provider_impala_lb.impala.script.output import OutputDone
from airflow_provider_impala_lb.impala.script.plan import ScriptPlan
from airflow_provider_impala_lb.impala.script.upstream import Upstream
from airflow_provider_impala_lb.impala.sql.classification import excerpt
from airflow_provider_impala_lb.impala.sql.effects import SessionData, WrittenTables
from airflow_provider_impala_lb.impala.statement.failure_rules import classify_failure


class ScriptDone(msgspec.Struct):
    """A script that has ended well, and where.

    :ivar node: ``host:port``.
    :ivar why: what spoke for this node.
    :ivar session: the id of its last session, as Impala prints it.
    :ivar statements: those that are done, in order.
    :ivar seconds: of all its processes, without the waiting for a node.
    :ivar results: what the handler made of each statement; empty without a handler.
    :ivar descriptions: the cursor's description of each statement; empty without a handler.
    :ivar left: what its statements changed, for whoever goes on from there on another node.
    :ivar resumed: how many statements an earlier attempt had done.
    :ivar output: the file that was written, if one was asked for, and by this attempt.
    """

    node: str
    why: str
    session: str
    statements: list[StatementDone]
    seconds: float
    results: list[Any] = []
    descriptions: list[Any] = []
    left: Upstream = msgspec.field(default_factory=Upstream)
    resumed: int = 0
    output: OutputDone | None = None

    def summary(self) -> dict[str, Any]:
        """As JSON-ready values, for XCom ``impala_run``; of the query ids the last 100."""
        return {
            **self.left.as_dict(),
            "host": self.node,
            "why": self.why,
            "session": self.session,
            "ended": (now := time.time()),
            "ended_at": datetime.fromtimestamp(now, timezone.utc).isoformat(timespec="seconds"),
            "resumed": self.resumed,
            "seconds": round(self.seconds, 3),
            "statements": len(self.statements),
            "rows": sum(statement.rows or 0 for statement in self.statements),
            "query_ids": [statement.query_id for statement in self.statements[-100:] if statement.query_id],
        }


class Moved(Exception):
    """The node is overloaded, what ran there was seen to end, and the script begins anew elsewhere, or goes on there.

    :param reason: why it leaves the node.
    :param done: how many statements were done.
    :param left: what they, or the one that was interrupted, may have changed; default None: not known.
    """

    def __init__(self, reason: str, done: int, left: Upstream | None = None) -> None:
        super().__init__(reason)
        self.done, self.left = done, left


class ScriptRecord:
    """Of one run of a script.

    :param plan: what is run.
    :param identity: who runs it.
    :param listener: whom to tell.
    :param memory: where the sessions of the attempt are kept; None: nowhere.
    :param before: what was changed on other nodes, and whoever runs the script must have heard of first.
    :ivar journal: the same, where each statement that is done is written down too; else None.
    :ivar done: what is done, also of a run that fails.
    :ivar so_far: the same in words, for errors.
    :ivar handler_error: what the handler raised; None: nothing.
    :ivar sent_before: this statement was sent before, by an earlier process or on another node, and seems not to have
        run; 0: none.
    :ivar data: what the sessions on the present node have set for themselves.
    :ivar published_before: when the process before handed over, so many statements were done, and all coordinators had
        heard of what they changed but of these names.
    """

    def __init__(
        self,
        plan: ScriptPlan,
        identity: RunIdentity,
        listener: RunListener,
        memory: Journal | None,
        before: list[Upstream],
    ) -> None:
        self.plan, self.identity, self.listener, self.memory = plan, identity, listener, memory
        self.journal = memory if memory is not None and memory.outcomes else None
        self.before = before
        self.done = ScriptDone("", "", "", [], 0.0)
        self.so_far = "nothing was run"
        self.handler_error: Exception | None = None
        self.sent_before = 0
        self.data = SessionData()
        self.published_before: tuple[int, list[str]] = 0, []
        self._written = WrittenTables()
        self._log = listener.logger

    # What is known

    @property
    def number(self) -> int:
        """The statement that is next, from 1."""
        return len(self.done.statements) + 1

    @property
    def is_whole(self) -> bool:
        """Whether all statements are done."""
        return 0 < len(self.done.statements) == len(self.plan)

    @property
    def nothing_done(self) -> bool:
        """Nothing but SET and USE was done: the script may begin anew anywhere."""
        return all(each.session_only for each in self.plan.classified[: self.number - 1])

    @property
    def nothing_changed(self) -> bool:
        """All that was done only read, or may be done twice: the script may begin anew."""
        return all(each.changes_nothing for each in self.plan.classified[: self.number - 1])

    @property
    def safe_to_repeat(self) -> bool:
        """Whether the next statement may be sent again although it was interrupted."""
        if self.number > len(self.plan):
            return True
        return self.plan.classified[self.number - 1].safe_to_repeat

    def may_repeat(self, interrupted: Exception) -> bool:
        """Whether the script may leave the node: nothing runs twice by it that must not.

        :param interrupted: what its interruption came to.
        """
        sent = isinstance(interrupted, StatementFailed) and interrupted.outcome != "not started"
        return not sent or self.safe_to_repeat or not self.plan.options.resume  # without resume it begins anew

    # On one node

    def begin_on(self, node: str, data: SessionData, written: WrittenTables) -> None:
        """The script comes to a node, or goes on there, after the statements that are done already.

        :param node: ``host:port``.
        :param data: what the session there is opened with.
        :param written: which tables were changed, as of the script's beginning.
        """
        self.done.node = node
        self.data, self._written = data, written
        known, unpublished = self.published_before
        self.published_before = 0, []  # of this node alone
        for number, each in enumerate(self.plan.classified[: len(self.done.statements)], 1):
            written.note(each.effects, broadcast=False)
            if number == known:
                written.keep_unpublished(unpublished)

    def note_done(self, ended: StatementEnd, *, synced: bool, fetched: bool = True) -> None:
        """The next statement is done.

        :param ended: how.
        :param synced: it was sent with SYNC_DDL of its own.
        :param fetched: False: something after it went wrong, as the warning of ``ended`` says; there are no rows of it.
        :raises StatementFailed: it is done, but the journal cannot be written.
        """
        plan, number = self.plan, self.number
        classified = plan.classified[number - 1]
        if not fetched and self.listener.handler:  # it has nothing to fetch, but its place among the results
            self.done.results.append(None)
            self.done.descriptions.append(None)
        with suppress(Exception):  # a log that fails is no reason to stop a script in its middle
            self._log_done(ended, fetched)
        if self.journal is not None:
            try:
                self.journal.done(number, ended.query_id, ended.rows)
            except StateUnavailable as error:
                problem = f"it is done, but that could not be written down: {error}"
                if number < len(plan):
                    raise self.failed(problem, ended.query_id, "done") from error
                with suppress(Exception):  # the whole script is done: nothing more depends on the journal
                    self._log.warning("[%d/%d] %s", number, len(plan), problem)
        self._append(ended)
        self.data.note(classified.effects)
        self._written.note(classified.effects, broadcast=fetched, synced=synced, rows=ended.rows)
        self._note_left()
        self._report_done()

    def note_unfetched(self, ended: StatementEnd, error: Exception) -> None:
        """The next statement is done, and what was to be done with its rows has failed.

        :param ended: how the statement has ended.
        :param error: what the handler raised; the caller raises it on.
        """
        self.handler_error = error
        number, total = self.number, len(self.plan)
        statement, classified = self.plan.statements[number - 1], self.plan.classified[number - 1]
        before = "none is before it" if number == 1 else f"so are the {number - 1} before it"
        with suppress(Exception):
            self._log.error(
                "[%d/%d] line %d on %s: query %s: the handler failed on statement %d of %d, which is done; "
                "%s, %s: %s: %s",
                number,
                total,
                statement.line,
                self.done.node,
                ended.query_id,
                number,
                total,
                before,
                f"{total - number} after it not sent" if number < total else "none is after it",
                type(error).__name__,
                error,
            )
        if self.journal is not None:
            with suppress(ImpalaLBError):  # then the next attempt looks it up
                if classified.reads_only:  # its rows are wanted: the next attempt runs it again
                    self.journal.not_run(number)
                else:
                    self.journal.done(number, ended.query_id, ended.rows)
        self._append(ended)
        self._written.note(classified.effects, broadcast=False)
        self._note_left()
        self._report_done()

    def note_not_run(self) -> None:
        """The next statement changed nothing, and may be sent again."""
        if self.journal is not None:
            with suppress(StateUnavailable):  # then the next attempt looks it up
                self.journal.not_run(self.number)

    @property
    def unpublished(self) -> list[str] | None:
        """What other coordinators may not have heard of: ``db.table``, or ``db``; None: not only this is known."""
        return self._written.unpublished

    def note_published(self, names: list[str]) -> None:
        """All coordinators have heard of these.

        :param names: of :attr:`unpublished`.
        """
        self._written.note_published(names)
        self._note_left()

    def touched(self, *, under_way: bool) -> Upstream:
        """What was done on this node may have changed all this.

        :param under_way: the next statement was interrupted, and may have changed something, too.
        """
        if under_way and self.number <= len(self.plan):
            self.sent_before = self.number
            self._written.note(self.plan.classified[self.number - 1].effects, broadcast=False)
        self._note_left()
        return self.done.left

    def failed(self, reason: str, query_id: str | None, outcome: Any = None, advice: str = "") -> StatementFailed:
        """The error to raise where the next statement has failed.

        :param reason: what has happened.
        :param query_id: as Impala prints it; None: it has none.
        :param outcome: with ``advice``: whether it ran, and what to do; None: by what the reason says of it.
        :param advice: default none.
        """
        number, statement = self.number, self.plan.statements[self.number - 1]
        if outcome is None:
            failure = classify_failure(reason, self.plan.classified[number - 1], accepted=query_id is not None)
            outcome, advice = failure.outcome, failure.advice
        return StatementFailed(
            reason,
            number=number,
            total=len(self.plan),
            line=statement.line,
            node=self.done.node,
            query_id=query_id,
            outcome=outcome,
            advice=advice,
            sql=excerpt(statement.sql),
            done=[
                f"{entry.number} (line {entry.line}, query {entry.query_id}"
                + (f", {entry.rows} rows)" if entry.rows is not None else ")")
                for entry in self.done.statements
            ],
        )

    # From node to node, and from process to process

    def continue_after(self, number: int, record: Record) -> None:
        """Other processes have done so many statements.

        :param number: from 1; 0: none, and nothing changes here.
        :param record: what the journal has kept of them.
        """
        if not number:
            return
        self.done.statements = statements_before(self.plan, record, number)
        if self.listener.handler:
            self.done.results, self.done.descriptions = [None] * number, [None] * number
        self.so_far = f"{number} of {len(self.plan)} statements were done before"

    def left_node(self, node: str) -> None:
        """The script has left this node, or ended there.

        :param node: ``host:port``.
        """
        if self.done.left.host == node:  # something was run here
            self._hear_of(node, self.done.left)
        if self.plan.options.resume and self.done.statements:
            self.so_far = f"{len(self.done.statements)} of {len(self.plan)} statements are done"

    def leave_node(self) -> None:
        """What comes next comes on another node: the rest of the script, or without ``resume`` all of it once more.

        :raises StateUnavailable: the journal cannot be written.
        """
        if not self.plan.options.resume:
            self.done = ScriptDone("", "", "", [], self.done.seconds)
            if self.journal is not None:
                self.journal.restart()

    def refused(self, node: str, reason: str) -> None:
        """The node takes nothing (more) of the script.

        :param node: ``host:port``.
        :param reason: the node's.
        """
        done = len(self.done.statements) if self.plan.options.resume else 0
        if done:
            self._log.warning("%s takes no more of the script after %d statements of it: %s", node, done, reason)
        else:
            self._log.warning("%s cannot take the script, nothing of it was run there: %s", node, reason)

    def interrupted(self, node: str, moved: Moved) -> None:
        """What ran on the node has ended.

        :param node: ``host:port``.
        :param moved: why, and what it may have changed.
        """
        self.so_far = (
            f"before that it was interrupted on {node}, where {moved.done} of its {len(self.plan)} "
            "statements were done and the next one was seen to end"
        )
        goes_on = "goes on" if self.plan.options.resume else "begins anew"
        self._log.warning("%s: what ran there has ended, the script %s elsewhere", moved, goes_on)
        if moved.left is not None:
            self._hear_of(node, moved.left)

    def out_of_reach(self, record: Record, reason: str) -> ImpalaLBError:
        """The error of a script that was handed over, and whose node is none of the configuration any more.

        :param record: what the journal says.
        :param reason: of the error.
        """
        if self.done.statements or (record.intent is None and not record.done):
            return ConfigError(f"{reason}; {self.so_far}")
        under_way = record.intent
        number = under_way.number if under_way is not None else record.done + 1
        statement = self.plan.statements[min(number, len(self.plan)) - 1]
        return StatementFailed(
            reason,
            number=number,
            total=len(self.plan),
            line=statement.line,
            node=record.node,
            query_id=under_way.query or None if under_way is not None else None,
            outcome="not started" if under_way is None else "unknown",
            sql=excerpt(statement.sql),
            advice="It runs on there, and is looked after by the next attempt, once the configuration names the node",
            retry=False,
        )

    def cannot_go_on(self, node: str, reason: str) -> StatementFailed:
        """The error of a script whose session is gone, when no other node may have it.

        :param node: ``host:port``.
        :param reason: why there is no new session.
        """
        number = self.number
        statement = self.plan.statements[number - 1]
        return StatementFailed(
            f"its session is gone, and no new one can be had: {reason}",
            number=number,
            total=len(self.plan),
            line=statement.line,
            node=node,
            query_id=None,
            outcome="not started",
            sql=excerpt(statement.sql),
        )

    def _append(self, ended: StatementEnd) -> None:
        line = self.plan.statements[self.number - 1].line
        self.done.statements.append(StatementDone(self.number, line, ended.query_id, ended.rows, ended.seconds))

    def _report_done(self) -> None:
        """Tell the listener of the statement that was done last."""
        done = self.done.statements[-1]
        if self.listener.on_statement is None:
            return
        try:
            self.listener.on_statement(done)
        except Exception as error:  # it hears of what is done already, and cannot undo it
            with suppress(Exception):
                self._log.warning(
                    "[%d/%d] on_statement failed, the script goes on: %s: %s",
                    done.number,
                    len(self.plan),
                    type(error).__name__,
                    error,
                )

    def _log_done(self, ended: StatementEnd, fetched: bool) -> None:
        number, total = self.number, len(self.plan)
        statement = self.plan.statements[number - 1]
        if fetched:
            self._log.info(
                "[%d/%d] line %d on %s: query %s%s, %.2f s: %s",
                number,
                total,
                statement.line,
                self.done.node,
                ended.query_id,
                "" if ended.rows is None else f", {ended.rows} rows",
                ended.seconds,
                excerpt(statement.sql),  # as written: the values of parameters stay out of the log
            )
        if ended.warnings:
            text = "%s" if fetched else "is done, with a warning: %s"
            self._log.warning(f"[%d/%d] {text}", number, total, ended.warnings)

    def _note_left(self) -> None:
        written = self._written
        self.done.left = Upstream(
            host=self.done.node,
            ended=time.time(),
            published=written.published,
            unpublished=written.unpublished,
            written=written.written,
            dropped=written.dropped,
            complete=written.complete,
        )

    def _hear_of(self, node: str, left: Upstream) -> None:
        self.before = [each for each in self.before if each.host != node] + [left]


def statements_before(plan: ScriptPlan, record: Record, done: int) -> list[StatementDone]:
    """The statements that other processes have done, as far as the journal has kept them.

    :param plan: what is run.
    :param record: what the journal says.
    :param done: how many of them count.
    """
    queries = [*[""] * (record.done - len(record.queries)), *record.queries]
    statements = [
        StatementDone(number, statement.line, query, None, 0.0)
        for number, (statement, query) in enumerate(zip(plan.statements[:done], queries, strict=False), 1)
    ]
    if statements:
        statements[-1].rows = record.rows or None  # of all of them
    return statements


def left_by(plan: ScriptPlan, done: int, node: str, database: str | None) -> Upstream:
    """What the statements that are done have changed, for another node to hear of. When they ended is not known.

    :param plan: what is run.
    :param done: how many statements are done.
    :param node: where they ran, ``host:port``.
    :param database: the configuration's; None: Impala's own, ``default``.
    """
    written = WrittenTables(plan.options.database or database)
    for statement in plan.classified[:done]:
        written.note(statement.effects, broadcast=False)  # as far as is known here
    return Upstream(
        host=node,
        published=written.published,
        unpublished=written.unpublished,
        written=written.written,
        dropped=written.dropped,
        complete=written.complete,
    )
