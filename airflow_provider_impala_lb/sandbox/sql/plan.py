"""What analysis hands to the session: a plan, what its run may use, and what the run leaves."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from typing import Any, Protocol

import duckdb  # noqa: TID253 (only a coordinator's process comes here)

from airflow_provider_impala_lb.sandbox.sql.column_types import ColumnType

Row = Sequence[Any]
"""The values of one row, in the order of the columns."""
Columns = list[tuple[str, ColumnType]]
"""The columns of a result: name and type."""


class RunningStatement(Protocol):
    """All that a plan's run may use of the statement it runs for (`coordinator/operation.py` implements it)."""

    @property
    def id(self) -> str:
        """The query id, as Impala prints it."""

    def cursor(self) -> duckdb.DuckDBPyConnection:
        """A DuckDB cursor, which is interrupted when the statement is cancelled.

        :raises StatementCancelled: it is cancelled already.
        """

    def check_cancelled(self) -> None:
        """Called before a step that cannot be interrupted.

        :raises StatementCancelled: the statement is cancelled.
        """


@dataclass
class Outcome:
    """What a run leaves: rows (all of them, or a DuckDB cursor that has more), or counts by partition.

    :ivar rows: all rows of the result; default none. Not read where there is a cursor.
    :ivar cursor: gives the rows of the result; None (default): there is none.
    :ivar modified: rows written, by partition (``p=1/q=a``; empty for an unpartitioned table); None (default): no DML.
    """

    rows: Iterable[Row] = ()
    cursor: duckdb.DuckDBPyConnection | None = None
    modified: dict[str, int] | None = None


@dataclass
class Plan:
    """What analysis found.

    :ivar kind: Impala's word on its pages: QUERY, DML, DDL, SET, LOAD, EXPLAIN; METADATA: a call, not a statement.
    :ivar columns: of the result set; None: there is no result set.
    :ivar run: does it.
    :ivar immediate: done before ExecuteStatement answers; default False.
    :ivar changes_catalog: with SYNC_DDL, wait until every coordinator shows its change; default False.
    :ivar files: how many files it reads; default 0.
    :ivar text: what EXPLAIN and the profile show; default empty.
    """

    kind: str
    columns: Columns | None
    run: Callable[[RunningStatement], Outcome]
    immediate: bool = False
    changes_catalog: bool = False
    files: int = 0
    text: str = ""
