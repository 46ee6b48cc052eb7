"""What analysis hands to the session: a plan, what its run may use, and what the run leaves."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass
from typing import Any, Protocol

import duckdb  # noqa: TID253 (only a coordinator's process comes here)

from airflow_provider_impala_lb.sandbox.common.catalog import Change
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

    def cursor(self, sql: str) -> duckdb.DuckDBPyConnection:
        """A DuckDB cursor, which is interrupted when the statement is cancelled.

        :param sql: what it will execute.
        :raises StatementCancelled: it is cancelled already.
        """

    def check_cancelled(self) -> None:
        """Called before a step that cannot be interrupted.

        :raises StatementCancelled: the statement is cancelled.
        """

    def reach(self, point: str) -> None:
        """It has come to a point where a test may hold it.

        :param point: one of :data:`airflow_provider_impala_lb.sandbox.common.switches.POINTS`.
        :raises StatementCancelled: it was cancelled meanwhile.
        :raises Refused: it fails there.
        """

    def admit(self) -> None:
        """Wait for admission; a query and DML are admitted before their run.

        :raises StatementCancelled: it was cancelled meanwhile.
        :raises Refused: it is not admitted.
        """

    def child_query(self, sql: str) -> list[Row]:
        """Run a statement of its own, with an id of its own, in the same session.

        :param sql: it.
        :returns: all its rows.
        :raises StatementCancelled: one of the two was cancelled.
        :raises Refused: the child failed.
        """

    def begin_finalising(self) -> None:
        """All rows are written: from here on nothing stops it.

        :raises StatementCancelled: it was cancelled before.
        :raises Refused: it fails there.
        """

    def catalog_change(self) -> AbstractContextManager[Change]:
        """A call to the catalog service, alone among all coordinators. Nothing stops it, and with SYNC_DDL it waits."""


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
    :ivar child_queries: it runs statements of its own, with ids of their own (COMPUTE STATS); default False.
    :ivar trivial: a query for one row of constants, which admission lets pass; default False.
    :ivar ddl_type: Impala's word in the profile, where it is of use; default empty.
    :ivar files: how many files it reads; default 0.
    :ivar text: what EXPLAIN and the profile show; default empty.
    """

    kind: str
    columns: Columns | None
    run: Callable[[RunningStatement], Outcome]
    immediate: bool = False
    child_queries: bool = False
    trivial: bool = False
    ddl_type: str = ""
    files: int = 0
    text: str = ""
