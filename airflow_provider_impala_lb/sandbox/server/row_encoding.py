"""Rows and columns as HiveServer2 sends them: by column, each with a bitmap of its NULLs."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from datetime import datetime
from typing import Any

from impala._thrift_gen.TCLIService import ttypes as t  # noqa: TID253 (only a coordinator's process comes here)

from airflow_provider_impala_lb.sandbox.common.errors import Refused
from airflow_provider_impala_lb.sandbox.sql.column_types import ColumnType
from airflow_provider_impala_lb.sandbox.sql.plan import Columns, Row


def _text(value: Any) -> bytes:
    return value if isinstance(value, bytes) else str(value).encode()


def _timestamp(value: Any) -> bytes:
    if isinstance(value, datetime):
        text = value.replace(tzinfo=None, microsecond=0).isoformat(" ")  # strftime() leaves the zeros of the year 5 out
        return (f"{text}.{value.microsecond:06d}000" if value.microsecond else text).encode()
    return str(value).encode()


def _whole(bits: int) -> Callable[[Any], int]:
    limit = 1 << (bits - 1)

    def convert(value: Any) -> int:
        number = int(value)
        if not -limit <= number < limit:
            raise Refused(f"UDF ERROR: {number} does not fit in a number of {bits} bits.")
        return number

    return convert


_TEXT: tuple[Any, str, Callable[[Any], Any], Any] = (t.TStringColumn, "stringVal", _text, b"")
# name -> HS2 type; column class, its field in TColumn, conversion, what stands for NULL
_WIRE: dict[str, tuple[int, tuple[Any, str, Callable[[Any], Any], Any]]] = {
    "BOOLEAN": (t.TTypeId.BOOLEAN_TYPE, (t.TBoolColumn, "boolVal", bool, False)),
    "TINYINT": (t.TTypeId.TINYINT_TYPE, (t.TByteColumn, "byteVal", _whole(8), 0)),
    "SMALLINT": (t.TTypeId.SMALLINT_TYPE, (t.TI16Column, "i16Val", _whole(16), 0)),
    "INT": (t.TTypeId.INT_TYPE, (t.TI32Column, "i32Val", _whole(32), 0)),
    "BIGINT": (t.TTypeId.BIGINT_TYPE, (t.TI64Column, "i64Val", _whole(64), 0)),
    "FLOAT": (t.TTypeId.FLOAT_TYPE, (t.TDoubleColumn, "doubleVal", float, 0.0)),
    "DOUBLE": (t.TTypeId.DOUBLE_TYPE, (t.TDoubleColumn, "doubleVal", float, 0.0)),
    "STRING": (t.TTypeId.STRING_TYPE, _TEXT),
    "VARCHAR": (t.TTypeId.VARCHAR_TYPE, _TEXT),
    "CHAR": (t.TTypeId.CHAR_TYPE, _TEXT),
    "DATE": (t.TTypeId.DATE_TYPE, _TEXT),
    "DECIMAL": (t.TTypeId.DECIMAL_TYPE, _TEXT),
    "TIMESTAMP": (t.TTypeId.TIMESTAMP_TYPE, (t.TStringColumn, "stringVal", _timestamp, b"")),
    "BINARY": (t.TTypeId.BINARY_TYPE, (t.TBinaryColumn, "binaryVal", bytes, b"")),
}


def schema(columns: Columns) -> Any:
    """The TTableSchema.

    :param columns: of the result.
    """
    return t.TTableSchema([_description(number + 1, *column) for number, column in enumerate(columns)])


def _description(position: int, name: str, kind: ColumnType) -> Any:
    qualifiers = None
    if kind.name == "DECIMAL":
        numbers = {"precision": kind.precision, "scale": kind.scale}
        qualifiers = t.TTypeQualifiers({key: t.TTypeQualifierValue(i32Value=value) for key, value in numbers.items()})
    elif kind.precision is not None:
        length = t.TTypeQualifierValue(i32Value=kind.precision)
        qualifiers = t.TTypeQualifiers({"characterMaximumLength": length})
    entry = t.TTypeEntry(primitiveEntry=t.TPrimitiveTypeEntry(_WIRE[kind.name][0], qualifiers))
    return t.TColumnDesc(name, t.TTypeDesc([entry]), position, "")


def row_set(offset: int, rows: Sequence[Row], columns: Columns) -> Any:
    """The TRowSet.

    :param offset: of the first row in the result.
    :param rows: the rows.
    :param columns: of the result.
    :raises Refused: a value does not fit in its column's type.
    """
    values = zip(*rows, strict=True) if rows else [()] * len(columns)
    return t.TRowSet(offset, [], [_column(each, kind) for each, (_, kind) in zip(values, columns, strict=True)])


def _column(values: Sequence[Any], kind: ColumnType) -> Any:
    make, field, convert, blank = _WIRE[kind.name][1]
    nulls = bytearray((len(values) + 7) // 8)
    if None in values:
        for position, value in enumerate(values):
            if value is None:
                nulls[position >> 3] |= 1 << (position & 7)
        converted = [blank if value is None else convert(value) for value in values]
    else:
        converted = [convert(value) for value in values]
    return t.TColumn(**{field: make(converted, bytes(nulls))})
