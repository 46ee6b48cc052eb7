"""Rows as INSERT statements: their texts, and how many go into one. No I/O.

On Impala each INSERT writes a file of its own, so there are as many rows to a statement as its limits allow.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator, Mapping
from typing import Any, NamedTuple

from airflow_provider_impala_lb.errors import ScriptError
from airflow_provider_impala_lb.impala.sql.label import MAX_CHARS
from airflow_provider_impala_lb.impala.sql.parameters import literal

MOST_VALUES = 80_000
"""In one INSERT. A value is up to three of the 250,000 expressions that Impala takes in a statement (``Query.thrift``,
statement_expression_limit): ``CAST(UNHEX('00') AS BINARY)``."""
MOST_BYTES = 15 * 1024 * 1024
"""The same, of its rows: Impala takes 16 MiB (``max_statement_length_bytes``)."""
MOST_STATEMENT_BYTES = 16 * 1024 * 1024
"""What Impala takes where the connection does not set that option."""


class InsertStatement(NamedTuple):
    """One INSERT.

    :ivar sql: its text.
    :ivar first: the number of its first row, from 1.
    :ivar last: that of its last one.
    """

    sql: str
    first: int
    last: int


class InsertStatements:
    """All rows as statements, in order. All rows are looked at when this is made; each text is put together when it is
    its turn, so that not all of them are in memory twice.

    :param into: how each begins: ``INSERT INTO t (a, b)``.
    :param rows: the values of each row, see :mod:`..impala.sql.parameters`.
    :param columns: how many columns ``into`` names; 0: none.
    :param most_rows: rows to a statement at most; 0: no limit but Impala's.
    :param query_options: of the session: MAX_STATEMENT_LENGTH_BYTES counts.
    :ivar rows: how many rows there are.
    :raises ScriptError: a value has no text in SQL, rows are of different widths, or one alone is over the limit.
    """

    def __init__(
        self,
        into: str,
        rows: Iterable[Iterable[Any]],
        *,
        columns: int,
        most_rows: int,
        query_options: Mapping[str, Any],
    ) -> None:
        most_bytes = _most_statement_bytes(query_options) - len(into.encode()) - 2 * MAX_CHARS
        self._into = into
        self._texts, columns = _row_texts(rows, columns, most_bytes)
        self._chunks = _chunks(self._texts, columns, most_rows, min(most_bytes, MOST_BYTES))
        self.rows = len(self._texts)

    def __len__(self) -> int:
        return len(self._chunks)

    def __iter__(self) -> Iterator[InsertStatement]:
        for start, end in self._chunks:
            yield InsertStatement(f"{self._into} VALUES {', '.join(self._texts[start:end])}", start + 1, end)


def _row_texts(rows: Iterable[Iterable[Any]], names: int, most_bytes: int) -> tuple[list[str], int]:
    """``(a, b)`` for each row, and how many values each has.

    :param names: how many columns are named; 0: none.
    :param most_bytes: of one row.
    """
    texts, columns = [], names
    for number, row in enumerate(rows, 1):
        if isinstance(row, (str, bytes, Mapping)) or not (
            # The rows of some drivers are sequences without being Iterable.
            isinstance(row, Iterable) or hasattr(row, "__getitem__")
        ):
            raise ScriptError(
                f"row {number} is a {type(row).__name__}: it must be a list or tuple of values; nothing was inserted",
                line=1,
            )
        values = []
        for column, value in enumerate(row, 1):
            try:
                if isinstance(value, (list, tuple)):
                    raise ValueError(f"a {type(value).__name__}")
                values.append(literal(value))
            except ValueError as error:
                raise ScriptError(
                    f"row {number}, column {column} is {error}, which has no text in SQL; nothing was inserted", line=1
                ) from None
        columns = columns or len(values)
        if not values or len(values) != columns:
            other = "" if not values else f", {'target_fields' if names else 'the first one'} has {columns}"
            raise ScriptError(
                f"row {number} has {len(values) or 'no'} values{other}; nothing was inserted",
                line=1,
            )
        text = f"({', '.join(values)})"
        if len(text) * 4 > most_bytes and (size := len(text.encode())) > most_bytes:
            raise ScriptError(
                f"row {number} is {size} bytes in SQL, and a statement of one row may have {most_bytes}; nothing was "
                "inserted. The limit is MAX_STATEMENT_LENGTH_BYTES; query_options of the connection's session may "
                "raise it",
                line=1,
            )
        texts.append(text)
    return texts, columns


def _chunks(texts: list[str], columns: int, most_rows: int, most_bytes: int) -> list[tuple[int, int]]:
    """``(start, end)`` of the rows of each statement."""
    most = min(most_rows or len(texts), MOST_VALUES // (columns or 1)) or 1
    chunks, start, size = [], 0, 0
    for at, text in enumerate(texts):
        length = len(text.encode()) + 2
        if at > start and (at - start >= most or size + length > most_bytes):
            chunks.append((start, at))
            start, size = at, 0
        size += length
    return [*chunks, (start, len(texts))] if texts else []


def _most_statement_bytes(query_options: Mapping[str, Any]) -> int:
    """Of a statement, by the options of the session: a number, maybe with a unit (``ParseUtil::ParseMemSpec``)."""
    for name, value in query_options.items():
        if name.upper() == "MAX_STATEMENT_LENGTH_BYTES":
            found = re.fullmatch(r"([0-9]+(?:\.[0-9]+)?)([kmg]?)b?", str(value).strip().lower())
            if found:
                return int(float(found[1]) * {"": 1, "k": 1 << 10, "m": 1 << 20, "g": 1 << 30}[found[2]])
    return MOST_STATEMENT_BYTES
