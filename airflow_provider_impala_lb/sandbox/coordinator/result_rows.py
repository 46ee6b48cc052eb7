"""The rows of one result, in the order in which a client fetches them."""

from __future__ import annotations

import duckdb  # noqa: TID253 (only a coordinator's process comes here)

from airflow_provider_impala_lb.sandbox.common.errors import Refused
from airflow_provider_impala_lb.sandbox.sql.engine import as_runtime_error
from airflow_provider_impala_lb.sandbox.sql.plan import Outcome, Row

_FIRST_FETCH = 1024


class ResultRows:
    """Rows that are there, or that a DuckDB cursor gives one after another. One thread at a time.

    :param outcome: what a plan's run has left; the first rows of its cursor are fetched here, so a statement has ended
        for its client when they are there (a SELECT is FINISHED at its first rows).
    :param query_id: as printed; default empty.
    :param limit: NUM_ROWS_PRODUCED_LIMIT, for what a cursor gives; default 0: none.
    :raises duckdb.Error: there are none.
    :ivar streams: there is a cursor.
    :ivar returned: how many were fetched.
    """

    def __init__(self, outcome: Outcome, query_id: str = "", limit: int = 0) -> None:
        self._query_id, self._limit = query_id, limit
        self._cursor = outcome.cursor
        self._rows: list[Row] = (
            list(outcome.rows) if self._cursor is None else list(self._cursor.fetchmany(_FIRST_FETCH))
        )
        self._position = 0
        self.streams = self._cursor is not None
        self.returned = 0

    def next(self, count: int) -> tuple[int, list[Row], bool]:
        """The next rows.

        :param count: how many at most.
        :returns: the offset of the first, the rows, whether there are more.
        :raises Refused: the query failed, or was cancelled.
        """
        remaining = len(self._rows) - self._position
        if self._cursor is not None and remaining < count + 1:
            try:
                more: list[Row] = list(self._cursor.fetchmany(count + 1 - remaining))
            except duckdb.Error as error:
                failed = as_runtime_error(error)
                raise Refused(str(failed) if isinstance(failed, Refused) else "Cancelled") from None
            self._rows = self._rows[self._position :] + more
            self._position = 0
        rows = self._rows[self._position : self._position + count]
        offset = self.returned
        self._position += len(rows)
        self.returned += len(rows)
        if self.streams and 0 < self._limit < self.returned:
            raise Refused(
                f"Query {self._query_id} terminated due to rows produced limit of {self._limit}. Unset or increase "
                "NUM_ROWS_PRODUCED_LIMIT query option to produce more rows."
            )
        return offset, rows, self._position < len(self._rows)
