"""A script as it is sent: its statements, what each of them is, and how its author wants it run."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from airflow_provider_impala_lb.errors import ConfigError, ScriptError
from airflow_provider_impala_lb.impala.script.options import RunOptions
from airflow_provider_impala_lb.impala.script.output import check
from airflow_provider_impala_lb.impala.sql.classification import classify
from airflow_provider_impala_lb.impala.sql.effects import to_broadcast
from airflow_provider_impala_lb.impala.sql.parameters import bind_script
from airflow_provider_impala_lb.impala.sql.splitter import Statement


def counted(statements: int) -> str:
    """``1 statement``, ``2 statements``.

    :param statements: how many.
    """
    return f"{statements} statement" + ("" if statements == 1 else "s")


class ScriptPlan:
    """What is to be run, and how.

    :param statements: as the author wrote them, for people.
    :param texts: what is sent for each of them, with its parameters in it.
    :param options: what its author chose.
    :ivar classified: what each of them is, in the same order.
    :ivar last_change: number of the last statement that may change something, from 1; 0: none may.
    :ivar synced: numbers of the statements that are sent with SYNC_DDL, since they are to be published.
    :ivar last_effect: number of the last statement that other coordinators have to hear of, from 1; 0: none.
    :ivar output_number: of the query whose rows go to ``options.output``, from 1; 0: none do.
    :raises ConfigError: the output cannot be written, or the script gives no rows for it.
    :raises ScriptError: a comment says that a CREATE TABLE AS SELECT may be repeated.
    """

    def __init__(self, statements: Sequence[Statement], texts: Sequence[str], options: RunOptions) -> None:
        self.statements, self.texts, self.options = statements, texts, options
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
        self.synced: frozenset[int] = frozenset()
        if options.publish is not None:
            self.synced = to_broadcast([each.effects for each in self.classified], options.database)
        self.last_effect = max(self.synced, default=0)
        self.output_number = 0
        if options.output is not None:
            check(options.output)
            queries = [number for number, each in enumerate(self.classified, 1) if each.reads_only]
            if not queries:
                raise ConfigError(f"output {options.output}: the script has no query whose rows could go there")
            self.output_number = queries[-1]

    @classmethod
    def bind(cls, statements: Sequence[Statement], parameters: Any, options: RunOptions) -> ScriptPlan:
        """A plan whose parameters are put into its statements, before anything is sent: one that is missing in
        statement 9 must not leave 8 behind.

        :param statements: as the author wrote them.
        :param parameters: as in DB-API; None: there are none.
        :param options: what the author chose.
        :raises ScriptError: a parameter does not fit. And the errors of the class.
        """
        texts = bind_script([(statement.line, statement.sql) for statement in statements], parameters)
        return cls(statements, texts, options)

    @property
    def changes_something(self) -> bool:
        """Whether it has a statement that may change something."""
        return self.last_change > 0

    def __len__(self) -> int:
        return len(self.statements)

    def first_to_run(self, done: int, *, wants_rows: bool) -> int:
        """How many of the statements that are done need not run again: rows that are wanted have to be fetched by this
        attempt, and those of the queries at the script's end are what its caller is waiting for.

        :param done: how many were done by others.
        :param wants_rows: the results of a handler are wanted.
        """
        # (What goes to a file is there once its query is done.)
        while wants_rows and done and self.classified[done - 1].reads_only:
            done -= 1
        return done
