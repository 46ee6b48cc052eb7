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
``float``                 its shortest digits, ``1.5``, ``1e-07``; ``CAST('NaN' AS DOUBLE)``, ``'Infinity'``,
                          ``'-Infinity'``
``Decimal``               its digits without an exponent, 38 at most
``str``                   ``'...'``; a backslash is put before ``'`` and before another backslash
``bytes``, ``bytearray``  ``CAST(UNHEX('00FF') AS BINARY)``
``datetime``              ``'2024-01-31 12:00:00.000001'``; one with a time zone in UTC: a TIMESTAMP of Impala has none.
                          Of numpy's ``datetime64`` and pandas' ``Timestamp`` the nanoseconds, too
``date``                  ``'2024-01-31'``
``time``                  ``'12:00:00.000001'``
``UUID``                  its text
list, tuple               ``(1, 2)``, for ``IN``; not empty
========================  ===========================================================================================

Numbers of other types (numpy's) as the ones of Python; ``NULL`` for pandas' ``NaT`` and ``NA``. A value of any other
type is an error (an array, even of one value; a ``timedelta64``); so is a DECIMAL that is no number, and what has no
UTF-8 (a lone surrogate). A subclass is written as its base, whatever it has overridden.

What is no finite number is a DOUBLE, not a FLOAT: beside a FLOAT, Impala makes FLOATs of DECIMALs, which ``0.1`` is
(``DefaultCompatibility.java``), and so changes other values in silence. A DOUBLE for a FLOAT column is an error of
Impala's ("Possible loss of precision", ``StatementBase.checkTypeCompatibility``).
"""

from __future__ import annotations

import math
import re
import sys
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from datetime import date, datetime, time, timezone
from decimal import Decimal
from logging import getLogger
from numbers import Integral, Real
from typing import Any
from uuid import UUID

from airflow_provider_impala_lb.errors import ScriptError
from airflow_provider_impala_lb.impala.sql.lexer import (
    ScriptSyntaxError,
    begin_of_sql,
    is_identifier_part,
    landmark_pattern,
    landmarks,
    line_ends,
)

MOST_DIGITS = 38
"""Of a number: Impala's DECIMAL has no more, and what is longer would become a DOUBLE in silence."""
_TOO_MUCH = 10**MOST_DIGITS

log = getLogger(__name__)

_MARKER = landmark_pattern(
    r"%(?:\((?P<py_name>[^()]*)\)s | (?P<format>s) | (?P<percent>%)) | \?(?P<question>)"
    r" | :(?:(?P<number>[0-9]+) | (?P<name>[^\W\d]\w*))",
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


_Marker = tuple[str, Any, int, int]
"""A key of ``_STYLES``; the name, or the place in the list, None for the next one; where it begins, and ends."""
_NAMED = re.compile(r"%\(([^()]*)\)s")


def bind(sql: str, parameters: Any, *, line: int = 1) -> str:
    """A statement with its parameters put in.

    :param sql: one statement.
    :param parameters: see the module; None and what is empty: none, and the statement is not looked at.
    :param line: where the statement begins in its script, for errors; default 1.
    :raises ScriptError: a parameter is missing or left over, the styles are mixed, a value or the statement has no
        text in UTF-8. Nothing was sent. None of these errors says a value.
    """
    bound = bind_script([(line, sql)], parameters)
    return bound[0]


def bind_script(statements: Iterable[tuple[int, str]], parameters: Any) -> list[str]:
    """The statements of a script with their parameters put in; see :func:`bind`.

    Of numbered markers, the highest one of the whole script must be the last of the list.

    :param statements: for each the line where it begins, and its text.
    :param parameters: as for :func:`bind`.
    :raises ScriptError: as for :func:`bind`.
    """
    script = list(statements)
    for line, sql in script:
        _check_encodes(sql, line)
    values = checked(parameters)
    if not values or not script:
        return [sql for _, sql in script]
    written: dict[Any, str] = {}
    bound = []
    most = 0
    for line, sql in script:
        text, count = _bind(sql, values, written, line)
        bound.append(text)
        most = max(most, count)
    if not most and not isinstance(values, Mapping):
        raise ScriptError(
            f"the script has no marker for its {len(values)} parameters ({_ALLOWED}; in strings, comments and quoted "
            "names they are none)",
            line=script[0][0],
        )
    if not isinstance(values, Mapping):
        if most < len(values):
            raise ScriptError(
                f"the highest number of a marker is :{most}, for {len(values)} parameters: "
                f"{len(values) - most} are left over",
                line=script[0][0],
            )
    elif unused := values.keys() - written.keys():
        named = {name for _, sql in script if "%(" in sql for name in _NAMED.findall(sql)}
        for name in unused & named:
            log.warning(
                "%%(%s)s stands in a string or a comment only, where no value is put: it is sent as it is", name
            )
    return bound


def _check_encodes(sql: str, line: int) -> None:
    if not sql.isascii():
        try:
            sql.encode()
        except UnicodeEncodeError as error:
            begin = begin_of_sql(sql)
            raise ScriptError(
                f"a character of the statement has no UTF-8 (a lone surrogate, {sql[error.start]!a}): Impala takes no "
                "other text",
                line=line + line_ends(sql, begin, max(error.start, begin)),
            ) from None


def checked(parameters: Any) -> Mapping[str, Any] | Sequence[Any]:
    """Parameters as a mapping or a sequence; an iterator is read to its end.

    :param parameters: see the module; None: none.
    :returns: empty for None.
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
    """The text of a value in SQL.

    :param value: see the module.
    :raises ValueError: it has none; the message names its type, not the value.
    """
    write = _WRITERS.get(type(value))
    return write(value) if write is not None else _other(value)


def _other(value: Any) -> str:
    """The text of a value of a type that is not in ``_WRITERS``: first as what it is derived from."""
    numpy, pandas = sys.modules.get("numpy"), sys.modules.get("pandas")
    if pandas is not None and any(value is getattr(pandas, name, pandas) for name in ("NaT", "NA")):
        return "NULL"
    if numpy is not None and isinstance(value, getattr(numpy, "generic", ())):
        return _scalar_of_numpy(numpy, value)
    if isinstance(value, str):
        return _string(str.__str__(value))
    if isinstance(value, Integral):
        return _integer(int(value))
    if isinstance(value, Decimal):
        return _decimal(Decimal(value))
    if isinstance(value, Real):
        return _float(float(value))
    if isinstance(value, bytes):
        return _binary(bytes.hex(value))
    if isinstance(value, bytearray):
        return _binary(bytearray.hex(value))
    if isinstance(value, datetime):
        return _datetime(value)
    if isinstance(value, date):
        return f"'{date(int(value.year), int(value.month), int(value.day)).isoformat()}'"
    if isinstance(value, time):
        return _time(value)
    if isinstance(value, UUID):
        return f"'{UUID(int=int(value.int))}'"
    if isinstance(value, (list, tuple)):
        return _list(value)
    raise ValueError(f"a {type(value).__name__}")


def _scalar_of_numpy(numpy: Any, value: Any) -> str:
    if isinstance(value, numpy.datetime64):
        if numpy.isnat(value):
            return "NULL"
        unit = numpy.datetime_data(value.dtype)[0]
        # Its text has no more than its unit.
        whole = value.astype(f"datetime64[{'D' if unit in 'YMW' else 's' if unit in 'hm' else unit}]")
        found = _DATETIME64.fullmatch(str(numpy.datetime_as_string(whole)))
        if not found or whole.astype(value.dtype) != value:
            raise ValueError("a datetime64 out of the years 1 to 9999")
        day, moment, fraction = found["day"], found["moment"], (found["fraction"] or "").rstrip("0")
        if len(fraction) > 9:
            raise ValueError("a datetime64 of less than a nanosecond")
        return f"'{day}'" if moment is None else f"'{day} {moment}{_fraction(fraction)}'"
    if isinstance(value, (numpy.timedelta64, numpy.void)):
        raise ValueError(f"a {type(value).__name__}")
    plain = value.item()
    if isinstance(plain, numpy.generic):
        if not isinstance(plain, Real):
            raise ValueError(f"a {type(value).__name__}")
        plain = float(plain)
    return literal(plain)


_DATETIME64 = re.compile(
    r"(?!0000)(?P<day>[0-9]{4}-[0-9]{2}-[0-9]{2})(?:T(?P<moment>[0-9:]{8})(?:\.(?P<fraction>[0-9]+))?)?"
)


def _fraction(digits: str) -> str:
    """Of a second, as Python writes it: none, or 6 digits; 9 where there are nanoseconds."""
    return f".{digits.ljust(6 if len(digits) <= 6 else 9, '0')}" if digits else ""


def _datetime(value: datetime) -> str:
    try:
        plain = datetime(
            int(value.year),
            int(value.month),
            int(value.day),
            int(value.hour),
            int(value.minute),
            int(value.second),
            int(value.microsecond),
            value.tzinfo,
            fold=int(value.fold),
        )
        if plain.utcoffset() is not None:
            plain = plain.astimezone(timezone.utc)
    except (OverflowError, ValueError):
        raise ValueError(f"a {type(value).__name__} that in UTC is out of the years 1 to 9999") from None
    # Only pandas' Timestamp has nanoseconds.
    fraction = f"{plain.microsecond:06d}{int(getattr(value, 'nanosecond', 0)):03d}".rstrip("0")
    return f"'{plain.replace(microsecond=0, tzinfo=None).isoformat(sep=' ')}{_fraction(fraction)}'"


def _time(value: time) -> str:
    if value.tzinfo is not None:
        raise ValueError("a time with a time zone")
    return f"'{time(int(value.hour), int(value.minute), int(value.second), int(value.microsecond)).isoformat()}'"


def _list(value: Iterable[Any]) -> str:
    items = list(value)
    if not items:
        raise ValueError("an empty list, which IN does not take")
    if any(isinstance(each, (list, tuple)) for each in items):
        raise ValueError("a list of lists")
    return f"({', '.join(map(literal, items))})"


def _integer(value: int) -> str:
    if -_TOO_MUCH < value < _TOO_MUCH:
        return str(value)
    raise ValueError(f"a number of more than {MOST_DIGITS} digits")


def _decimal(value: Decimal) -> str:
    if not value.is_finite():
        raise ValueError("a Decimal that is no number")
    if value.adjusted() > MOST_DIGITS or value.as_tuple().exponent < -MOST_DIGITS:  # type: ignore[operator]
        raise ValueError(f"a Decimal of more than {MOST_DIGITS} digits")
    text = format(value, "f")
    if sum(map(str.isdigit, text.lstrip("-0."))) > MOST_DIGITS:
        raise ValueError(f"a Decimal of more than {MOST_DIGITS} digits")
    return text


def _float(value: float) -> str:
    if math.isfinite(value):
        return repr(value)
    name = "NaN" if math.isnan(value) else "Infinity" if value > 0 else "-Infinity"
    return f"CAST('{name}' AS DOUBLE)"


def _binary(digits: str) -> str:
    return f"CAST(UNHEX('{digits.upper()}') AS BINARY)"


def _string(text: str) -> str:
    if not text.isascii():
        try:
            text.encode()
        except UnicodeEncodeError:
            raise ValueError("a string that is no UTF-8 (a lone surrogate)") from None
    # Impala unescapes as Hive does (Hive3MetastoreShimBase.java, unescapeSQLString): any other character is itself.
    return "'" + text.replace("\\", "\\\\").replace("'", "\\'") + "'"


_WRITERS: dict[type, Callable[[Any], str]] = {
    type(None): lambda _: "NULL",
    bool: lambda value: "TRUE" if value else "FALSE",
    int: _integer,
    float: _float,
    str: _string,
    Decimal: _decimal,
}
"""Of the commonest types; none is a subclass, which could have overridden what is called here."""


def _bind(sql: str, values: Mapping[str, Any] | Sequence[Any], written: dict[Any, str], line: int) -> tuple[str, int]:
    """The text, and how many values it needs of a list; 0: it has no markers.

    :param written: the texts of names and numbers that were needed before.
    """
    parts: list[str] = []
    position, count, most = 0, 0, 0
    style, first = "", 0
    by_name = isinstance(values, Mapping)
    try:
        for marker in _markers(sql):
            kind, key, start, end = marker
            if kind == "percent":
                parts.append(sql[position : start + 1])
                position = end
                continue
            if kind != style:
                if style:
                    raise _Wrong(f"markers of two styles, {_STYLES[style]} and {_STYLES[kind]}", start)
                if (kind in ("name", "py_name")) != by_name:
                    given = "dict" if by_name else "list"
                    raise _Wrong(f"the marker {sql[start:end]} does not go with a {given}", start)
                style, first = kind, start
            if key is None:
                count += 1
                if count > len(values):
                    count = sum(1 for each in _markers(sql) if each[0] == style)
                    break
                text = _text_of(values, count - 1, start)
            else:
                if not by_name:
                    most = max(most, key + 1)
                if key not in written:
                    written[key] = _text_of(values, key, start)
                text = written[key]
            apart = "" if start == 0 or sql[start - 1] in _APART else " "
            behind = "" if end == len(sql) or sql[end] in _APART else " "
            parts.append(f"{sql[position:start]}{apart}{text}{behind}")
            position = end
        if count and count != len(values):
            raise _Wrong(f"it has {count} markers for {len(values)} parameters", first)
    except _Wrong as wrong:
        at = line + line_ends(sql, begin_of_sql(sql), max(wrong.at, begin_of_sql(sql)))
        raise ScriptError(
            f"parameters do not fit the statement: {wrong} ({_ALLOWED}, one style in a statement; a modulo is written "
            "with a blank behind its %)",
            line=at,
        ) from None
    except ScriptSyntaxError as error:
        raise ScriptError(error.message, line=line) from None
    parts.append(sql[position:])
    return "".join(parts), count or most


class _Wrong(Exception):
    def __init__(self, message: str, at: int) -> None:
        super().__init__(message)
        self.at = at


def _text_of(values: Any, key: Any, at: int) -> str:
    try:
        value = values[key]
    except KeyError:
        raise _Wrong(f"no parameter {key!r} (given: {', '.join(map(str, values)) or 'none'})", at) from None
    except IndexError:
        raise _Wrong(f"no parameter {key + 1} among {len(values)}", at) from None
    try:
        return literal(value)
    except ValueError as error:
        which = repr(key) if isinstance(key, str) else str(key + 1)
        raise _Wrong(f"parameter {which} is {error}, which has no text in SQL", at) from None


def _markers(sql: str) -> Iterator[_Marker]:
    """In order. A ``:`` behind a name, a quote, a bracket or another ``:`` is no marker (``a:b``, ``a::int`` of other
    dialects), nor is a ``%s`` or ``:1`` with a letter or digit behind it (``a %size`` is a modulo)."""
    for found in landmarks(sql, _MARKER):
        style = found.lastgroup
        start, end = found.span()
        if style == "question":
            yield style, None, start, end
            continue
        if style is None or (style not in _STYLES and style != "percent"):
            continue
        behind = sql[end : end + 1]
        if style in ("format", "number", "py_name") and behind and (is_identifier_part(behind)):
            continue
        if style in ("number", "name"):
            before = sql[start - 1 : start]
            if before and (before in ":'\"`)]" or is_identifier_part(before)):
                continue
        key: Any = None
        if style == "number":
            digits = found["number"].lstrip("0")
            if not digits:
                raise _Wrong("the marker :0: numbers begin with 1", start)
            if len(digits) > 9:
                raise _Wrong(f"a marker of a number of {len(digits)} digits", start)
            key = int(digits) - 1
        elif style in ("name", "py_name"):
            key = found[style]
        yield style, key, start, end
