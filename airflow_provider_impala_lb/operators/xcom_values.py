"""Values of a result as XCom carries them unchanged, in Airflow 2.11 and 3."""

from __future__ import annotations

import math
from collections.abc import Sequence
from datetime import datetime
from decimal import Decimal
from typing import Any

from airflow_provider_impala_lb.impala.script.output import text_of

_LARGEST_INT = 1 << 63  # what a task says to Airflow 3's supervisor is MessagePack, whose integers have 64 bits


def carried(result: Any, description: Sequence[Sequence[Any]] | None) -> Any:
    """``result``, in which each value that XCom would refuse or change is its text, as ``output=`` writes it.

    Refused: NaN and infinity (they are no JSON), bytes, a NUL character (PostgreSQL's JSONB has none). Changed: what
    Airflow carries as a float, a DECIMAL of many digits and a TIMESTAMP far from today
    (``serializers/bignum.py`` and ``datetime.py`` of Airflow 2.11 and 3.3).

    :param result: what a handler returned; rows, a row, a value, or anything else, which is left as it is.
    :param description: of the cursor, by which BINARY is told from a STRING that is no UTF-8; None: not known.
    """
    return _carried(result, [column[1] for column in description] if description else [])


def _carried(value: Any, types: list[Any]) -> Any:
    if isinstance(value, (list, tuple)):
        if len(value) == len(types) and not any(isinstance(each, (list, tuple, dict)) for each in value):
            values = [_one(each, kind) for each, kind in zip(value, types, strict=True)]
        else:
            values = [_carried(each, types) for each in value]
        if all(new is old for new, old in zip(values, value, strict=True)):
            return value
        if hasattr(value, "_fields"):  # a named tuple
            return type(value)(*values)
        return values if isinstance(value, list) else tuple(values)
    if isinstance(value, dict):
        return {key: _carried(each, types) for key, each in value.items()}
    return _one(value, None)


def _one(value: Any, column_type: Any) -> Any:
    if isinstance(value, (bytes, bytearray)):
        return _readable(text_of(value, column_type))
    if isinstance(value, str):
        return _readable(value)
    if isinstance(value, float):
        return value if math.isfinite(value) else str(float(value))
    if isinstance(value, int):
        return value if -_LARGEST_INT <= value < _LARGEST_INT else str(value)
    if isinstance(value, Decimal):
        return value if _is_exact(value) else text_of(value, "DECIMAL")
    if isinstance(value, datetime) and value.tzinfo is None:
        return value if _is_kept(value) else str(value)
    return value


def _readable(text: str) -> str:
    if "\0" not in text and text.isascii():
        return text
    readable = text.encode(errors="backslashreplace").decode().replace("\0", "\\x00")
    return text if readable == text else readable  # the same object, so that a row need not be made anew


def _is_exact(value: Decimal) -> bool:
    """Whether it is the same after its way as an integer or a float."""
    if not value.is_finite():
        return False
    exponent = value.as_tuple().exponent
    if isinstance(exponent, int) and exponent >= 0:
        return abs(value) < _LARGEST_INT
    return Decimal(str(float(value))) == value


def _is_kept(value: datetime) -> bool:
    """Whether it is the same after its way as seconds since the epoch, in this host's time zone."""
    try:
        return datetime.fromtimestamp(value.timestamp()) == value
    except (ValueError, OverflowError, OSError):
        return False
