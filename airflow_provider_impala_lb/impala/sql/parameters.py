"""Put parameters into a statement, by Impala's own lexer. Impala's HiveServer2 takes none beside the statement.

A marker counts outside of strings, quoted names, comments and hints only: what stands in those reaches the server as it
is written. A list or a tuple goes with ``?``, ``%s`` (in order) or ``:1``, ``:2`` (by number); a dict with ``:name`` or
``%(name)s``. One statement has markers of one of these styles.

Over a script, each statement that has markers gets the same list, or takes its names from the same dict; a statement
without markers takes none. Names that no statement has are no error: scripts share a dict. Outside of strings ``%%`` is
``%``, as DB-API has it, where parameters are given; a ``%`` with anything else behind it is Impala's modulo.

========================  ===========================================================================================
Python                    SQL
========================  ===========================================================================================
``None``                  ``NULL``
``bool``                  ``TRUE``, ``FALSE``
``int``                   its digits, 38 at most (DECIMAL's)
``float``                 its shortest digits, ``1.5``, ``1e-07``; ``CAST('NaN' AS FLOAT)``, ``'Infinity'``,
                          ``'-Infinity'`` (FLOAT, since Impala widens it to DOUBLE by itself, but not the reverse)
``Decimal``               its digits without an exponent, 38 at most
``str``                   ``'...'``; a backslash is put before ``'`` and before another backslash
``bytes``, ``bytearray``  ``CAST(UNHEX('00FF') AS BINARY)``
``datetime``              ``'2024-01-31 12:00:00.000001'``; one with a time zone in UTC: a TIMESTAMP of Impala has none
``date``                  ``'2024-01-31'``
``time``                  ``'12:00:00.000001'``
``UUID``                  its text
list, tuple               ``(1, 2)``, for ``IN``; not empty
========================  ===========================================================================================

Numbers of other types (numpy's) as the ones of Python. A value of any other type is an error; so is a DECIMAL that is
no number, and what has no UTF-8 (a lone surrogate).
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from datetime import date, datetime, time, timezone
from decimal import Decimal
from logging import getLogger
from numbers import Integral, Real
from typing import Any, NamedTuple
from uuid import UUID

from airflow_provider_impala_lb.errors import ScriptError
from airflow_provider_impala_lb.impala.sql.lexer import (
    Refused,
    begin_of_sql,
    is_identifier_part,
    landmark_pattern,
    landmarks,
    line_ends,
)

MOST_DIGITS = 38
"""Of a number: Impala's DECIMAL has no more, and what is longer would become a DOUBLE in silence."""

log = getLogger(__name__)

_MARKER = landmark_pattern(
    r"%(?:\((?P<py_name>[^()]*)\)s | (?P<format>s) | (?P<percent>%)) | \?(?P<question>)"
    r" | :(?:(?P<number>\d+) | (?P<name>[^\W\d]\w*))",
    "%?:",
)
_STYLES = {
    "question": "?",
    "format": "%s",
    "number": ":1",
    "name": ":name",
    "py_name": "%(name)s",
}
_ALLOWED = "a list or tuple goes with ?, %s or :1, a dict with :name or %(name)s"
# A value needs no blank between itself and these.
_APART = frozenset(" \t\r\n\f(),=<>[];")


class _Marker(NamedTuple):
    """:ivar style: a key of ``_STYLES``. :ivar key: the name, or the place in the list."""

    style: str
    key: Any
    start: int
    end: int


def bind(sql: str, parameters: Any, *, line: int = 1) -> str:
    """``sql``, one statement, with its parameters put in.

    :param parameters: see the module; None and what is empty: none, and the statement is not looked at.
    :param line: where the statement begins in its script, for errors.
    :raises ScriptError: a parameter is missing or left over, the styles are mixed, a value has no text. Nothing was
        sent. No error says a value.
    """
    bound = bind_script([(line, sql)], parameters)
    return bound[0]


def bind_script(statements: Iterable[tuple[int, str]], parameters: Any) -> list[str]:
    """The statements of a script with their parameters put in; see :func:`bind`.

    :param statements: for each the line where it begins, and its text.
    """
    script = list(statements)
    values = checked(parameters)
    if not values or not script:
        return [sql for _, sql in script]
    written: dict[Any, str] = {}
    bound = []
    used = False
    for line, sql in script:
        text, has_markers = _bind(sql, values, written, line)
        bound.append(text)
        used |= has_markers
    if not used and not isinstance(values, Mapping):
        raise ScriptError(
            f"the script has no marker for its {len(values)} parameters ({_ALLOWED}; in strings, comments and quoted "
            "names they are none)",
            line=script[0][0],
        )
    if isinstance(values, Mapping):
        for name in values.keys() - written.keys():
            if any(f"%({name})s" in sql for _, sql in script):
                log.warning(
                    "%%(%s)s stands in a string or a comment only, where no value is put: it is sent as it is", name
                )
    return bound


def checked(parameters: Any) -> Mapping[str, Any] | Sequence[Any]:
    """Parameters as a mapping or a sequence; an iterator is read to its end. Empty for None.

    :raises ScriptError: they are neither.
    """
    if parameters is None:
        return ()
    if isinstance(parameters, (Mapping, list, tuple)):
        return parameters
    if isinstance(parameters, (str, bytes, bytearray, set, frozenset)) or not isinstance(parameters, Iterable):
        raise ScriptError(f"parameters are a {type(parameters).__name__}: {_ALLOWED}", line=1)
    return list(parameters)


def literal(value: Any) -> str:
    """The text of a value. :raises ValueError: it has none; the message names its type, not the value."""
    if hasattr(value, "dtype") and hasattr(value, "item"):
        value = value.item()  # numpy's scalars
    if value is None:
        return "NULL"
    if isinstance(value, bool):
        return "TRUE" if value else "FALSE"
    if isinstance(value, str):
        return _string(str.__str__(value))
    if isinstance(value, Integral):
        return _digits(format(int(value), "d"))
    if isinstance(value, Decimal):
        if not value.is_finite():
            raise ValueError("a Decimal that is no number")
        if value.adjusted() > MOST_DIGITS or value.as_tuple().exponent < -MOST_DIGITS:  # type: ignore[operator]
            raise ValueError(f"a Decimal of more than {MOST_DIGITS} digits")
        return _digits(format(value, "f"))
    if isinstance(value, Real):
        number = float(value)
        if math.isfinite(number):
            return repr(number)
        name = "NaN" if math.isnan(number) else "Infinity" if number > 0 else "-Infinity"
        return f"CAST('{name}' AS FLOAT)"
    if isinstance(value, (bytes, bytearray)):
        return f"CAST(UNHEX('{value.hex().upper()}') AS BINARY)"
    if isinstance(value, datetime):
        if value != value:  # pandas' NaT
            return "NULL"
        if value.tzinfo is not None and value.utcoffset() is not None:
            value = value.astimezone(timezone.utc)
        return f"'{value.replace(tzinfo=None).isoformat(sep=' ')}'"
    if isinstance(value, (date, time)):
        if isinstance(value, time) and value.tzinfo is not None:
            raise ValueError("a time with a time zone")
        return f"'{value.isoformat()}'"
    if isinstance(value, UUID):
        return f"'{value}'"
    if isinstance(value, (list, tuple)):
        if not value:
            raise ValueError("an empty list, which IN does not take")
        if any(isinstance(each, (list, tuple)) for each in value):
            raise ValueError("a list of lists")
        return f"({', '.join(map(literal, value))})"
    raise ValueError(f"a {type(value).__name__}")


def _string(text: str) -> str:
    if not text.isascii():
        try:
            text.encode()
        except UnicodeEncodeError:
            raise ValueError("a string that is no UTF-8 (a lone surrogate)") from None
    # Impala unescapes as Hive does (Hive3MetastoreShimBase.java, unescapeSQLString): any other character is itself.
    return "'" + text.replace("\\", "\\\\").replace("'", "\\'") + "'"


def _digits(text: str) -> str:
    if sum(map(str.isdigit, text.lstrip("-0."))) > MOST_DIGITS:
        raise ValueError(f"a number of more than {MOST_DIGITS} digits")
    return text


def _bind(sql: str, values: Mapping[str, Any] | Sequence[Any], written: dict[Any, str], line: int) -> tuple[str, bool]:
    """The text, and whether it has markers. :param written: the texts of values that were needed before."""
    parts, position, styles, count = [], 0, {}, 0
    by_name = isinstance(values, Mapping)
    try:
        for marker in _markers(sql):
            if marker.style == "percent":
                parts += [sql[position : marker.start], "%"]
                position = marker.end
                continue
            styles[marker.style] = marker.start
            if len(styles) > 1:
                raise _Wrong(f"markers of two styles, {' and '.join(_STYLES[style] for style in styles)}", marker.start)
            if (marker.style in ("name", "py_name")) != by_name:
                kind = "dict" if by_name else "list"
                raise _Wrong(f"the marker {sql[marker.start : marker.end]} does not go with a {kind}", marker.start)
            key = count if marker.key is None else marker.key
            count += 1
            if not by_name and marker.key is None and key >= len(values):
                count = sum(1 for each in _markers(sql) if each.style == marker.style)
                break
            if key not in written:
                written[key] = _text_of(values, key, marker)
            before, after = sql[marker.start - 1 : marker.start], sql[marker.end : marker.end + 1]
            parts += [
                sql[position : marker.start],
                "" if not before or before in _APART else " ",
                written[key],
                "" if not after or after in _APART else " ",
            ]
            position = marker.end
        if styles and not by_name and "number" not in styles and count != len(values):
            raise _Wrong(f"it has {count} markers for {len(values)} parameters", next(iter(styles.values())))
    except _Wrong as wrong:
        at = line + line_ends(sql, begin_of_sql(sql), max(wrong.at, begin_of_sql(sql)))
        raise ScriptError(
            f"parameters do not fit the statement: {wrong} ({_ALLOWED}, one style in a statement; a modulo is written "
            "with a blank behind its %)",
            line=at,
        ) from None
    except Refused as refused:
        raise ScriptError(refused.message, line=line) from None
    return "".join([*parts, sql[position:]]), bool(styles)


class _Wrong(Exception):
    def __init__(self, message: str, at: int) -> None:
        super().__init__(message)
        self.at = at


def _text_of(values: Any, key: Any, marker: _Marker) -> str:
    try:
        value = values[key]
    except KeyError:
        raise _Wrong(f"no parameter {key!r} (given: {', '.join(map(str, values)) or 'none'})", marker.start) from None
    except IndexError:
        raise _Wrong(f"no parameter {key + 1} among {len(values)}", marker.start) from None
    try:
        return literal(value)
    except ValueError as error:
        which = repr(key) if isinstance(key, str) else str(key + 1)
        raise _Wrong(f"parameter {which} is {error}, which has no text in SQL", marker.start) from None


def _markers(sql: str) -> Iterable[_Marker]:
    """In order. A ``:`` behind a name, a quote, a bracket or another ``:`` is no marker (``a:b``, ``a::int`` of other
    dialects), nor is a ``%s`` or ``:1`` with a letter or digit behind it (``a %size`` is a modulo)."""
    for found in landmarks(sql, _MARKER):
        style = found.lastgroup
        if style not in _STYLES and style != "percent":
            continue
        start, end = found.span()
        behind = sql[end : end + 1]
        if style in ("format", "number", "py_name") and behind and (is_identifier_part(behind)):
            continue
        if style in ("number", "name"):
            before = sql[start - 1 : start]
            if before and (before in ":'\"`)]" or is_identifier_part(before)):
                continue
        key: Any = None
        if style == "number":
            key = int(found["number"]) - 1
            if key < 0:
                raise _Wrong("the marker :0: numbers begin with 1", start)
        elif style in ("name", "py_name"):
            key = found[style]
        yield _Marker(style, key, start, end)
