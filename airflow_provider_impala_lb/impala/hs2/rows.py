"""How the rows that a server sends become Python values, where impyla 0.24 gives up."""

from __future__ import annotations

from collections.abc import Callable
from logging import getLogger
from typing import Any

log = getLogger(__name__)

_TEXT = ("STRING", "LIST", "MAP", "STRUCT", "UNIONTYPE", "NULL", "VARCHAR", "CHAR", "TIMESTAMP", "DECIMAL", "DATE")
"""Types that travel as text (impyla's ``HS2_STRING_TYPES``)."""


def fetch_no_further_than_the_end(operation: Any) -> None:
    """Let this operation of impyla's believe the server that there are no more rows. impyla asks once more, since Hive
    and Spark always say so; on Impala it is the truth (FetchInternal, impala-hs2-server.cc: ``!eos()``), by which
    impala-shell goes, too. That spares one of the seven calls that a short query takes.
    """
    fetch, wrap = operation.fetch, operation._wrap_results
    more = True

    def wrap_results(results: Any, has_more: bool, *arguments: Any, **options: Any) -> Any:
        nonlocal more
        more = has_more
        return wrap(results, has_more, *arguments, **options)

    def fetch_results(schema: Any = None, *arguments: Any, **options: Any) -> Any:
        return fetch(schema, *arguments, **options) if more else wrap(None, False, schema)

    operation._wrap_results, operation.fetch = wrap_results, fetch_results


def be_lenient(operation: Any) -> None:
    """Let this operation of impyla's fetch what servers do send.

    * A result set without columns: Spark answers DDL and DML so: one is announced, with a schema even, and what is
      fetched has no columns; impyla goes through them all the same (``CBatch``: TypeError). Whether there is a result
      set at all is no promise of HiveServer2's: Impala has one for DDL, in one row, and none for DML.
    * A TIMESTAMP that is no datetime: Impala before 4.0 has some of a time without a date (``08:30:00``, IMPALA-9531),
      and years past 9999 can be stored by others. impyla raises a bare Exception then, when the statement has run. Such
      a value stays the text that it is, with a warning that names its column.
    """
    wrap = operation._wrap_results
    warned: set[str] = set()

    def wrap_results(results: Any, more: bool, schema: Any, **options: Any) -> Any:
        if not results or not results.columns:
            return wrap(None, more, schema, **options)
        try:
            return wrap(results, more, schema, **options)
        except Exception:
            if not _converted(results, schema, warned):
                raise
            return wrap(results, more, schema, convert_types=False, convert_strings_to_unicode=False)

    operation._wrap_results = wrap_results


def _converted(results: Any, schema: Any, warned: set[str]) -> bool:
    """Convert value by value what impyla has not, and leave what cannot be. Returns whether there was such a value.

    impyla converts in place: before it gave up some values have become Python's, and some have not.
    """
    from decimal import Decimal

    from impala.hiveserver2 import _parse_date, _parse_timestamp

    parsers: dict[str, Callable[[str], Any]] = {"TIMESTAMP": _parse_timestamp, "DATE": _parse_date, "DECIMAL": Decimal}
    left = False
    for column, (name, kind, *_) in zip(results.columns, schema, strict=True):
        if kind not in _TEXT or column.stringVal is None:
            continue
        values, nulls, parse = column.stringVal.values, column.stringVal.nulls, parsers.get(kind)
        for place, value in enumerate(values):
            if place // 8 < len(nulls) and nulls[place // 8] >> place % 8 & 1:
                continue
            try:
                text = value.decode() if isinstance(value, bytes) else value
            except UnicodeDecodeError:
                continue
            values[place] = text
            if parse is None or not isinstance(text, str):
                continue
            try:
                values[place] = parse(text)
            except Exception as error:  # a bare one, or ValueError, or ArithmeticError
                left = True
                if name not in warned:
                    warned.add(name)
                    log.warning("Column %s: %r is no %s for Python, and stays text: %s", name, text, kind, error)
    return left
