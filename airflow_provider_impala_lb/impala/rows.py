"""Result sets that Impala never sends."""

from __future__ import annotations

from typing import Any


def read_no_columns_as_no_rows(operation: Any) -> None:
    """Let this operation of impyla's fetch a result set without columns.

    Spark answers DDL and DML so: a result set is announced, with a schema even, and what is fetched has no columns;
    impyla 0.24 goes through them all the same (``CBatch``: TypeError). Whether there is a result set at all is no
    promise of HiveServer2's: Impala has one for DDL, in one row, and none for DML.
    """
    wrap = operation._wrap_results

    def wrap_results(results: Any, *arguments: Any, **options: Any) -> Any:
        return wrap(results if results and results.columns else None, *arguments, **options)

    operation._wrap_results = wrap_results
