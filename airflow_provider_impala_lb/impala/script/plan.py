"""What a run is given and what it gives: the script as it is sent, each statement that is done, and the whole."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from logging import Logger
from typing import Any

import msgspec

from airflow_provider_impala_lb.core.cluster.pick import Pick
from airflow_provider_impala_lb.errors import ConfigError, ScriptError
from airflow_provider_impala_lb.impala.hs2.session import Session
from airflow_provider_impala_lb.impala.script.metadata_sync import Upstream
from airflow_provider_impala_lb.impala.script.output import OutputDone, check
from airflow_provider_impala_lb.impala.sql.splitter import Statement
from airflow_provider_impala_lb.impala.sql.statement import classify


class StatementDone(msgspec.Struct):
    """A statement that has ended well. ``rows``: modified by DML; ``seconds``: from sending to its end."""

    number: int
    line: int
    query_id: str
    rows: int | None
    seconds: float


class ScriptDone(msgspec.Struct):
    """A script that has ended well, and where.

    :param results: what the handler made of each statement; empty without a handler.
    :param descriptions: the cursor's description of each statement; empty without a handler.
    :param left: what its statements changed, for whoever goes on from there on another node.
    :param resumed: so many statements an earlier try had done.
    :param output: the file that was written, if one was asked for, and by this try.
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


def counted(statements: int) -> str:
    """``1 statement``, ``2 statements``."""
    return f"{statements} statement" + ("" if statements == 1 else "s")


class ScriptPlan:
    """What is to be run, and whom to tell. Parameters as for :class:`~.run.ScriptRun`.

    :param texts: the statements with their parameters in them.
    :ivar classified: what each of them is, in the same order.
    :ivar handler_error: what was raised by the handler, or in writing ``output``.
    :raises ConfigError: ``output`` cannot be written, or the script gives no rows for it.
    :raises ScriptError: a comment says that a CREATE TABLE AS SELECT may be repeated.
    """

    def __init__(
        self,
        statements: Sequence[Statement],
        texts: Sequence[str],
        *,
        tags: Mapping[str, str],
        database: str | None,
        options: Mapping[str, Any] | None,
        handler: Callable[[Any], Any] | None,
        last_result_only: bool,
        on_session: Callable[[Pick, Session], None] | None,
        on_statement: Callable[[StatementDone], None] | None,
        statement_timeout: float | None,
        publish: float | None,
        output: str | None,
        logger: Logger,
    ) -> None:
        self.statements, self.texts, self.tags = statements, texts, tags
        self.database, self.options = database, options
        self.handler, self.on_session, self.on_statement = handler, on_session, on_statement
        self.last_result_only = last_result_only
        self.statement_timeout, self.publish = statement_timeout, publish
        self.classified = [classify(text) for text in texts]
        for each, statement in zip(self.classified, statements, strict=True):
            if each.kind == "ctas" and each.marked_safe:
                raise ScriptError(
                    "CREATE TABLE AS SELECT is not safe to repeat: the table is created first, and a repeat would find "
                    "it there without its rows, or fail. Remove the comment; to be able to repeat it, write CREATE "
                    "TABLE IF NOT EXISTS and then an INSERT OVERWRITE",
                    line=statement.line,
                )
        changes = [number for number, each in enumerate(self.classified, 1) if not each.changes_nothing]
        self.last_change = changes[-1] if changes else 0
        self.log = logger
        self.handler_error: Exception | None = None
        self.output, self.output_number = output, 0
        if output is not None:
            check(output)
            queries = [number for number, each in enumerate(self.classified, 1) if each.reads_only]
            if not queries:
                raise ConfigError(f"output {output}: the script has no query whose rows could go there")
            self.output_number = queries[-1]

    @property
    def changes_something(self) -> bool:
        return self.last_change > 0

    def __len__(self) -> int:
        return len(self.statements)

    def first_to_run(self, done: int) -> int:
        """So many statements need not run again, of ``done``: rows that are wanted have to be fetched in this try, and
        those of the queries at the script's end are what its caller is waiting for."""
        # (What goes to a file is there once its query is done.)
        while self.handler and done and self.classified[done - 1].reads_only:
            done -= 1
        return done
