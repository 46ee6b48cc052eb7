"""DuckDB, one in-memory database per coordinator; tables are files, so nothing is stored in it."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Sequence
from pathlib import Path

import duckdb  # noqa: TID253 (only a coordinator's process comes here)

from airflow_provider_impala_lb.sandbox.common.errors import Refused, StatementCancelled, analysis_error
from airflow_provider_impala_lb.sandbox.sql.column_types import ColumnType, from_duckdb, text_literal
from airflow_provider_impala_lb.sandbox.sql.functions import macro_statements, macros_in


class Engine:
    """One DuckDB. It opens cursors, which statements use in threads of their own.

    :param temporary: a directory for what does not fit in memory.
    :param directories: those whose files it may read and write; SQL cannot change that.
    """

    def __init__(self, temporary: Path, directories: Sequence[str]) -> None:
        self._database = duckdb.connect(
            ":memory:",
            config={
                "threads": "2",
                "memory_limit": "2GB",
                "temp_directory": str(temporary),
                # Nothing may be fetched from the network.
                "autoinstall_known_extensions": "false",
                "autoload_known_extensions": "false",
            },
        )
        self._sleepers: dict[str, Callable[[float], None]] = {}
        self._lock = threading.Lock()
        self._database.create_function("im_sleep", self._sleep, ["VARCHAR", "BIGINT"], "BOOLEAN", side_effects=True)
        self._undefined = macro_statements()
        self._database.execute("SET python_enable_replacements = false")  # a name is never one of our variables
        listed = ", ".join(text_literal(directory) for directory in (*directories, str(temporary)))
        self._database.execute(f"SET allowed_directories = [{listed}]")
        self._database.execute("SET enable_external_access = false")
        self._database.execute("SET lock_configuration = true")

    def cursor(self, sql: str) -> duckdb.DuckDBPyConnection:
        """A new cursor, to be closed by the caller.

        :param sql: what it will execute. The macros it uses are made now: all of them would be half of the time that a
            coordinator takes to start.
        """
        with self._lock:
            self._define(sql)
            return self._database.cursor()

    def _define(self, sql: str) -> None:
        for name in macros_in(sql):
            if statement := self._undefined.pop(name, None):
                self._define(statement)  # those it uses, first
                self._database.execute(statement)

    def describe(self, sql: str) -> list[tuple[str, ColumnType]]:
        """The columns of a query, which is checked but not run.

        :param sql: DuckDB's text.
        :raises Refused: AnalysisException.
        """
        cursor = self.cursor(sql)
        try:
            rows = cursor.execute(f"DESCRIBE {sql}").fetchall()
        except duckdb.Error as error:
            raise as_analysis_error(error) from None
        finally:
            cursor.close()
        return [(name, from_duckdb(kind)) for name, kind, *_ in rows]

    def register_sleeper(self, query: str, wait: Callable[[float], None]) -> None:
        """From now on ``sleep(ms)`` in this query calls ``wait(seconds)``.

        :param query: the query's id, as printed.
        :param wait: raises StatementCancelled when the query is cancelled.
        """
        self._sleepers[query] = wait

    def forget_sleeper(self, query: str) -> None:
        """The query has ended.

        :param query: the query's id, as printed.
        """
        self._sleepers.pop(query, None)

    def _sleep(self, query: str, milliseconds: int) -> bool:
        wait = self._sleepers.get(query, time.sleep)
        wait(milliseconds / 1000)
        return True


def as_analysis_error(error: duckdb.Error) -> Refused:
    """The message of DuckDB's binder, with the first word that Impala would use.

    :param error: DuckDB's.
    """
    text = str(error).split("\n\nLINE")[0]
    first = text.split("\n")[0].split("Error: ", 1)[-1]
    if "does not exist" in first and "Function" in first:
        name = first.split("name ")[-1].split(" ")[0].strip('"').removeprefix("im_")
        return analysis_error(f"default.{name}() unknown")
    if first.startswith("Macro im_"):
        name = first.split("im_", 1)[1].split("(")[0].removeprefix("letters_")
        name = "a text" if name == "text" else f"{name}()"
        return analysis_error(f"No matching function with signature: {name}, for arguments of these types.")
    if 'eferenced column "' in first:
        return analysis_error(f"Could not resolve column/field reference: '{first.split(chr(34))[1]}'")
    return analysis_error(first)


def as_runtime_error(error: duckdb.Error) -> Exception:
    """What a query that ran has failed of: StatementCancelled, or Refused with a message that Impala would have.

    :param error: DuckDB's.
    """
    if isinstance(error, duckdb.InterruptException) or "StatementCancelled" in str(error):
        return StatementCancelled()
    text = str(error).split("\n\nLINE")[0]
    if isinstance(error, duckdb.IOException) and "No files found" in text:
        # Removed between the look at the files and the read.
        return Refused(f"Disk I/O error: Failed to open HDFS file: {text}\nError(2): No such file or directory")
    if isinstance(error, (duckdb.ConversionException, duckdb.OutOfRangeException)):
        text = "UDF ERROR: " + text.split("Error: ", 1)[-1]
    return Refused(text)
