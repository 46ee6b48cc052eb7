"""Column types: Impala's names, DuckDB's names, and what decides how a value travels."""

from __future__ import annotations

import re
from dataclasses import dataclass

from airflow_provider_impala_lb.sandbox.common.errors import analysis_error

_IMPALA = {
    "BOOLEAN": "BOOLEAN",
    "TINYINT": "TINYINT",
    "SMALLINT": "SMALLINT",
    "INT": "INTEGER",
    "INTEGER": "INTEGER",
    "BIGINT": "BIGINT",
    "FLOAT": "FLOAT",
    "DOUBLE": "DOUBLE",
    "REAL": "DOUBLE",
    "STRING": "VARCHAR",
    "TEXT": "VARCHAR",
    "TIMESTAMP": "TIMESTAMP",
    "DATE": "DATE",
    "BINARY": "BLOB",
}
_ALIAS = {"INTEGER": "INT", "REAL": "DOUBLE", "TEXT": "STRING"}
_DUCKDB = {
    "BOOLEAN": "BOOLEAN",
    "TINYINT": "TINYINT",
    "UTINYINT": "SMALLINT",
    "SMALLINT": "SMALLINT",
    "USMALLINT": "INT",
    "INTEGER": "INT",
    "UINTEGER": "BIGINT",
    "BIGINT": "BIGINT",
    "UBIGINT": "BIGINT",
    "HUGEINT": "BIGINT",
    "UHUGEINT": "BIGINT",
    "FLOAT": "FLOAT",
    "DOUBLE": "DOUBLE",
    "TIMESTAMP": "TIMESTAMP",
    "TIMESTAMP_NS": "TIMESTAMP",
    "TIMESTAMP_S": "TIMESTAMP",
    "TIMESTAMP_MS": "TIMESTAMP",
    "TIMESTAMP WITH TIME ZONE": "TIMESTAMP",
    "DATE": "DATE",
    "BLOB": "BINARY",
    '"NULL"': "BOOLEAN",
}
_NUMBERS = frozenset({"TINYINT", "SMALLINT", "INT", "BIGINT", "FLOAT", "DOUBLE", "DECIMAL"})
_TEXTS = frozenset({"STRING", "VARCHAR", "CHAR"})


@dataclass(frozen=True)
class ColumnType:
    """A column's type.

    :ivar name: Impala's, without the numbers: ``DECIMAL``, not ``DECIMAL(9,2)``.
    :ivar precision: digits of a DECIMAL, length of a VARCHAR or CHAR; None (default): the type has none.
    :ivar scale: digits of a DECIMAL behind the point; None (default): the type has none.
    """

    name: str
    precision: int | None = None
    scale: int | None = None

    def __str__(self) -> str:
        if self.name == "DECIMAL":
            return f"DECIMAL({self.precision},{self.scale})"
        return f"{self.name}({self.precision})" if self.precision is not None else self.name

    @property
    def duckdb(self) -> str:
        """DuckDB's name for it."""
        if self.name == "DECIMAL":
            return str(self)
        return "VARCHAR" if self.name in _TEXTS else _IMPALA[self.name]

    def takes(self, other: ColumnType) -> bool:
        """May a value be inserted without a cast? Rougher than Impala, which also refuses lost digits.

        :param other: the value's type.
        """
        if self.name in _NUMBERS:
            return other.name in _NUMBERS or other.name == "BOOLEAN"
        if self.name in _TEXTS:
            return other.name in _TEXTS or other.name == "BOOLEAN"  # BOOLEAN: also the type of a bare NULL
        if self.name == "BOOLEAN":
            return other.name == "BOOLEAN"
        return other.name not in _NUMBERS


def from_impala(text: str) -> ColumnType:
    """The type of a name such as ``decimal(9,2)``, ``varchar(10)``, ``string``, as written in DDL.

    :param text: in any case.
    :raises Refused: a type the sandbox has not.
    """
    match = re.fullmatch(r"\s*(\w+)\s*(?:\(\s*(\d+)\s*(?:,\s*(\d+)\s*)?\))?\s*", text)
    name = match.group(1).upper() if match else text.upper()
    if match and name in ("DECIMAL", "NUMERIC"):
        return ColumnType("DECIMAL", int(match.group(2) or 9), int(match.group(3) or 0))
    if match and name in ("VARCHAR", "CHAR"):
        return ColumnType(name, int(match.group(2) or 1)) if match.group(2) else ColumnType("STRING")
    if match and name in _IMPALA:
        return ColumnType(_ALIAS.get(name, name))
    raise analysis_error(f"Type '{text}' is not supported by the sandbox.")


def from_duckdb(text: str) -> ColumnType:
    """The type of a name that DuckDB's DESCRIBE prints; what has no counterpart travels as STRING.

    :param text: as printed.
    """
    match = re.fullmatch(r"DECIMAL\((\d+),(\d+)\)", text)
    if match:
        return ColumnType("DECIMAL", int(match.group(1)), int(match.group(2)))
    return ColumnType(_DUCKDB.get(text, "STRING"))


def quote(name: str) -> str:
    """A name as DuckDB's quoted identifier.

    :param name: any text.
    """
    return '"' + name.replace('"', '""') + '"'


def text_literal(text: str) -> str:
    """A text as DuckDB's literal.

    :param text: any text.
    """
    return "'" + text.replace("'", "''") + "'"
