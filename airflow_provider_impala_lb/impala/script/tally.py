"""What is done of a script on one node: for its caller, the log and the journal, and for whoever goes on from there."""

from __future__ import annotations

import time
from contextlib import suppress
from typing import TYPE_CHECKING, Any

from airflow_provider_impala_lb.errors import ImpalaLBError, StatementFailed, StateUnavailable
from airflow_provider_impala_lb.impala.hs2.failure_rules import classify_failure
from airflow_provider_impala_lb.impala.hs2.ids import StatementEnd
from airflow_provider_impala_lb.impala.script.options import RunListener, StatementDone
from airflow_provider_impala_lb.impala.script.plan import ScriptDone, ScriptPlan
from airflow_provider_impala_lb.impala.script.upstream import Upstream
from airflow_provider_impala_lb.impala.sql.effects import SessionData, WrittenTables
from airflow_provider_impala_lb.impala.sql.statement import Classification, excerpt

if TYPE_CHECKING:
    from airflow_provider_impala_lb.impala.script.journal import Journal


class Tally:
    """Of ``script`` on ``node``, after the statements that are in ``done`` already.

    :param journal: where each statement that is done is written down; None: nowhere.
    :param data: what the sessions have set for themselves, for the session key.
    :param written: which tables were changed, as of the script's beginning.
    """

    def __init__(
        self,
        script: ScriptPlan,
        listener: RunListener,
        done: ScriptDone,
        node: str,
        journal: Journal | None,
        data: SessionData,
        written: WrittenTables,
    ) -> None:
        self._script, self._done, self._node, self._journal = script, done, node, journal
        self._listener, self._log = listener, listener.logger
        self.handler_error: Exception | None = None
        self._data, self._written = data, written
        self._published = False
        for each in script.classified[: len(done.statements)]:
            self._note_written(each, broadcast=False)  # as far as is known here

    @property
    def number(self) -> int:
        """The statement that is next, from 1."""
        return len(self._done.statements) + 1

    def nothing_done(self) -> bool:
        """Nothing but SET and USE was done: the script may begin anew anywhere."""
        return all(each.session_only for each in self._script.classified[: self.number - 1])

    def nothing_changed(self) -> bool:
        """All that was done only read, or may be done twice: the script may begin anew."""
        return all(each.changes_nothing for each in self._script.classified[: self.number - 1])

    def safe_to_repeat(self) -> bool:
        """Whether the next statement may be sent again although it was interrupted."""
        if self.number > len(self._script):
            return True
        return self._script.classified[self.number - 1].safe_to_repeat

    def note_done(self, ended: StatementEnd, *, fetched: bool = True) -> None:
        """The next statement is done.

        :param fetched: False: something after it went wrong, as the warning of ``ended`` says; there are no rows of it.
        :raises StatementFailed: it is done, but the journal cannot be told.
        """
        script, number = self._script, self.number
        statement, classified = script.statements[number - 1], script.classified[number - 1]
        if not fetched and self._listener.handler:  # it has nothing to fetch, but its place among the results
            self._done.results.append(None)
            self._done.descriptions.append(None)
        with suppress(Exception):  # a log that fails is no reason to stop a script in its middle
            self._say_done(ended, fetched)
        if self._journal is not None:
            try:
                self._journal.done(number, ended.query_id, ended.rows)
            except StateUnavailable as error:
                problem = f"it is done, but that could not be written down: {error}"
                if number < len(script):
                    raise self.failed(problem, ended.query_id, "done") from error
                with suppress(Exception):  # the whole script is done: nothing more depends on the journal
                    self._log.warning("[%d/%d] %s", number, len(script), problem)
        self._done.statements.append(StatementDone(number, statement.line, ended.query_id, ended.rows, ended.seconds))
        self._data.note(classified.effects)
        published = script.options.publish is not None and number == script.last_change and fetched
        self._note_written(classified, published=published, broadcast=fetched)
        self._note_left()
        self._tell()

    def note_unfetched(self, ended: StatementEnd, error: Exception) -> None:
        """The next statement is done, and what was to be done with its rows has failed. The caller raises ``error``."""
        self.handler_error = error
        number, total = self.number, len(self._script)
        statement, classified = self._script.statements[number - 1], self._script.classified[number - 1]
        before = "none is before it" if number == 1 else f"so are the {number - 1} before it"
        with suppress(Exception):
            self._log.error(
                "[%d/%d] line %d on %s: query %s: the handler failed on statement %d of %d, which is done; "
                "%s, %s: %s: %s",
                number,
                total,
                statement.line,
                self._node,
                ended.query_id,
                number,
                total,
                before,
                f"{total - number} after it not sent" if number < total else "none is after it",
                type(error).__name__,
                error,
            )
        if self._journal is not None:
            with suppress(ImpalaLBError):  # then the next try looks it up
                if classified.reads_only:  # its rows are wanted: the next try runs it again
                    self._journal.not_run(number)
                else:
                    self._journal.done(number, ended.query_id, ended.rows)
        self._done.statements.append(StatementDone(number, statement.line, ended.query_id, ended.rows, ended.seconds))
        self._note_written(classified, broadcast=False)
        self._note_left()
        self._tell()

    def _tell(self) -> None:
        """Whom it may concern, of the statement that was done last."""
        script, done = self._script, self._done.statements[-1]
        if self._listener.on_statement is None:
            return
        try:
            self._listener.on_statement(done)
        except Exception as error:  # it is told of what is done already, and cannot undo it
            with suppress(Exception):
                self._log.warning(
                    "[%d/%d] on_statement failed, the script goes on: %s: %s",
                    done.number,
                    len(script),
                    type(error).__name__,
                    error,
                )

    def _say_done(self, ended: StatementEnd, fetched: bool) -> None:
        script, number = self._script, self.number
        statement = script.statements[number - 1]
        if fetched:
            self._log.info(
                "[%d/%d] line %d on %s: query %s%s, %.2f s: %s",
                number,
                len(script),
                statement.line,
                self._node,
                ended.query_id,
                "" if ended.rows is None else f", {ended.rows} rows",
                ended.seconds,
                excerpt(statement.sql),  # as written: the values of parameters stay out of the log
            )
        if ended.warnings:
            said = "%s" if fetched else "is done, with a warning: %s"
            self._log.warning(f"[%d/%d] {said}", number, len(script), ended.warnings)

    def touched(self, *, under_way: bool) -> Upstream:
        """What was done may have changed all this, and the next statement, too, if it was under way."""
        if under_way and self.number <= len(self._script):
            self._note_written(self._script.classified[self.number - 1], broadcast=False)
        self._note_left()
        return self._done.left

    def failed(self, reason: str, query_id: str | None, outcome: Any = None, now: str = "") -> StatementFailed:
        """What there is to say where the next statement has failed.

        :param outcome: with ``now``; None: by what the reason says of this statement.
        """
        number, statement = self.number, self._script.statements[self.number - 1]
        if outcome is None:
            found = classify_failure(reason, self._script.classified[number - 1], accepted=query_id is not None)
            outcome, now = found.outcome, found.advice
        return StatementFailed(
            reason,
            number=number,
            total=len(self._script),
            line=statement.line,
            node=self._node,
            query_id=query_id,
            outcome=outcome,
            advice=now,
            sql=excerpt(statement.sql),
            done=[
                f"{entry.number} (line {entry.line}, query {entry.query_id}"
                + (f", {entry.rows} rows)" if entry.rows is not None else ")")
                for entry in self._done.statements
            ],
        )

    def _note_written(self, statement: Classification, *, published: bool = False, broadcast: bool = True) -> None:
        """:param broadcast: if it was sent with SYNC_DDL, all coordinators have heard of it."""
        self._written.note(statement.effects, broadcast=broadcast)
        if not statement.changes_nothing:
            self._published = published

    def _note_left(self) -> None:
        written = self._written
        self._done.left = Upstream(
            host=self._node,
            ended=time.time(),
            published=self._published or written.published,
            written=written.written,
            dropped=written.dropped,
            complete=written.complete,
        )
