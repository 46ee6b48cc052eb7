"""Calls of functions: those of one value, of many rows, and those whose translation depends on how they are written.

A call becomes a call of our macro of that name (`sql/functions.py`), unless it is an aggregate or one of the special
functions below, which a macro cannot express: any number of arguments, a literal that chooses the meaning, or a
pattern that DuckDB takes only as a constant.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping

from sqlglot import exp  # noqa: TID253 (only a coordinator's process comes here)

from airflow_provider_impala_lb.sandbox.common.errors import NOT_HERE, analysis_error, not_here
from airflow_provider_impala_lb.sandbox.sql.builtin_names import BUILTINS
from airflow_provider_impala_lb.sandbox.sql.datetime_functions import DATE_TRUNC, TRUNC, strftime_pattern
from airflow_provider_impala_lb.sandbox.sql.functions import AGGREGATES, INNER, MACROS, UTF8
from airflow_provider_impala_lb.sandbox.sql.macro_calls import as_text, bare, macro, template

Arguments = list[exp.Expression]
_Special = Callable[[Arguments], "exp.Expression | None"]
_PARTS = ("year", "quarter", "month", "day", "hour", "minute", "second", "millisecond", "epoch")
_SPECIAL: dict[str, _Special] = {}


class FunctionCalls:
    """Translates the calls of one statement.

    :param constants: see :func:`airflow_provider_impala_lb.sandbox.sql.translation.to_duckdb`.
    """

    def __init__(self, constants: Mapping[str, str]) -> None:
        self._constants = constants
        self._utf8 = "utf8_mode" in constants

    def __call__(self, node: exp.Anonymous) -> exp.Expression:
        """The call in DuckDB's terms.

        :param node: its arguments are translated already.
        :raises Refused: a function that Impala has and this has not, or that Impala has not either; the wrong number of
            arguments.
        """
        name, arguments = node.name.lower(), node.expressions
        if isinstance(node.parent, exp.Dot):
            raise not_here(f"{node.parent.sql(dialect='hive')} (a function of the author's)")
        if name in self._constants and not arguments:
            return self.constant(name)
        if name == "sleep":
            return exp.Anonymous(this="im_sleep", expressions=[self.constant("query"), *arguments])
        special = _SPECIAL.get(name)
        made = special(arguments) if special is not None else None
        if made is not None:
            return made
        if name in AGGREGATES:
            return _aggregate(name, node)
        forms = MACROS.get(name) if name not in INNER else None
        if forms is None:
            if name in BUILTINS:
                raise not_here(f"{name}()")
            raise analysis_error(f"default.{name}() unknown")
        counts = {len([each for each in parameters.split(",") if each]) for parameters, _ in forms}
        if len(arguments) not in counts:
            raise analysis_error(
                f"No matching function with signature: {name}() with {len(arguments)} argument(s)"
                if name not in BUILTINS
                else f"{name}() with {len(arguments)} argument(s): {NOT_HERE}."
            )
        return macro(f"letters_{name}" if self._utf8 and name in UTF8 else name, *arguments)

    def constant(self, name: str) -> exp.Expression:
        """What a function without arguments means in this statement.

        :param name: one of the constants'.
        """
        return template(self._constants[name]).copy()


def _aggregate(name: str, node: exp.Anonymous) -> exp.Expression:
    counts, duckdb_name = AGGREGATES[name]
    arguments = node.expressions
    inner = arguments[0].expressions if arguments and isinstance(arguments[0], exp.Distinct) else arguments
    if len(inner) not in counts:
        raise not_here(f"{name}() with {len(inner)} argument(s)")
    if name == "ndv":
        arguments = arguments[:1]
    if name == "count" and len(inner) > 1:
        # Rows where one of them is NULL do not count.
        return _counted_distinct(inner)
    made = exp.Anonymous(this=duckdb_name, expressions=arguments)
    windowed = isinstance(node.parent, (exp.Window, exp.IgnoreNulls, exp.RespectNulls, exp.Filter))
    if name == "sum" and not windowed:
        return exp.Paren(this=exp.Anonymous(this="im_wrapped_sum", expressions=[made]))
    return made


def _counted_distinct(values: Arguments) -> exp.Expression:
    whole = exp.Case(
        ifs=[
            exp.If(
                this=exp.and_(*(exp.Not(this=exp.Is(this=each.copy(), expression=exp.Null())) for each in values)),
                true=exp.Anonymous(this="struct_pack", expressions=[
                    exp.PropertyEQ(this=exp.to_identifier(f"c{place}"), expression=each.copy())
                    for place, each in enumerate(values)
                ]),
            )
        ]
    )  # fmt: skip
    return exp.Anonymous(this="count", expressions=[exp.Distinct(expressions=[whole])])


# -- functions whose translation depends on their arguments: None for arguments that the macro of that name is for


def _special(*names: str) -> Callable[[_Special], _Special]:
    def register(function: _Special) -> _Special:
        _SPECIAL.update(dict.fromkeys(names, function))
        return function

    return register


@_special("coalesce")
def _coalesce(arguments: Arguments) -> exp.Expression:
    return exp.Anonymous(this="coalesce", expressions=arguments)


@_special("greatest")
def _greatest(arguments: Arguments) -> exp.Expression:
    return _null_if_one_is("greatest", arguments)


@_special("least")
def _least(arguments: Arguments) -> exp.Expression:
    return _null_if_one_is("least", arguments)


def _null_if_one_is(name: str, arguments: Arguments) -> exp.Expression:
    """NULL if one of them is (``ConditionalFunctions``): DuckDB passes over it."""
    nulls = [exp.Is(this=each.copy(), expression=exp.Null()) for each in arguments]
    chosen = exp.Anonymous(this=name, expressions=arguments)
    case = exp.Case(ifs=[exp.If(this=exp.or_(*nulls), true=exp.Null())], default=chosen)
    return exp.Paren(this=case)


@_special("concat")
def _concat(arguments: Arguments) -> exp.Expression:
    return concatenated(arguments)


def concatenated(arguments: Arguments) -> exp.Expression:
    """The texts one after the other; NULL if one of them is.

    :param arguments: at least one.
    """
    parts = [macro("text", each) for each in arguments]
    made = parts[0]
    for part in parts[1:]:
        made = exp.DPipe(this=made, expression=part, safe=True)
    return exp.Paren(this=made)


@_special("concat_ws")
def _concat_ws(arguments: Arguments) -> exp.Expression:
    if len(arguments) < 2:
        raise analysis_error("No matching function with signature: concat_ws()")
    texts = [macro("text", each) for each in arguments[1:]]
    return exp.Anonymous(this="concat_ws", expressions=[macro("text", arguments[0]), *texts])


@_special("decode")
def _decode(arguments: Arguments) -> exp.Expression:
    """NULL is equal to NULL here."""
    if len(arguments) < 3:
        raise analysis_error("DECODE in Impala requires at least 3 arguments.")
    value, *rest = arguments
    default = rest.pop() if len(rest) % 2 else None
    ifs = [
        exp.If(this=exp.NullSafeEQ(this=value.copy(), expression=when), true=then)
        for when, then in zip(rest[::2], rest[1::2], strict=True)
    ]
    return exp.Paren(this=exp.Case(ifs=ifs, default=default))


@_special("mod")
def _mod(arguments: Arguments) -> exp.Expression | None:
    return macro("modulo", *arguments) if len(arguments) == 2 else None


@_special("group_concat")
def _group_concat(arguments: Arguments) -> exp.Expression:
    distinct = isinstance(arguments[0], exp.Distinct)
    values = [*arguments[0].expressions, *arguments[1:]] if distinct else arguments
    value: exp.Expression = macro("text", values[0])
    separator = values[1] if len(values) > 1 else exp.Literal.string(", ")
    return exp.Anonymous(
        this="string_agg", expressions=[exp.Distinct(expressions=[value]) if distinct else value, separator]
    )


@_special("appx_median")
def _appx_median(arguments: Arguments) -> exp.Expression:
    return exp.Anonymous(this="quantile_disc", expressions=[*arguments, exp.Literal.number("0.5")])


@_special("regexp_like")
def _regexp_like(arguments: Arguments) -> exp.Expression | None:
    if len(arguments) != 3:
        return None
    options = arguments[2]
    if not options.is_string or not set(options.name) <= set("cimn"):
        raise not_here("regexp_like() with options that are no literal of c, i, m and n")
    on = {"i" if each == "i" else "s" if each == "n" else "m" for each in options.name if each != "c"}
    if {"c", "i"} <= set(options.name):
        raise not_here("regexp_like() with both c and i")
    flags = "".join(sorted(on)) + ("" if "s" in on else "-s")
    pattern = exp.DPipe(this=exp.Literal.string(f"(?{flags})"), expression=as_text(arguments[1]), safe=True)
    return exp.Anonymous(this="regexp_matches", expressions=[as_text(arguments[0]), exp.Paren(this=pattern)])


@_special("regexp_extract")
def _regexp_extract(arguments: Arguments) -> exp.Expression:
    if len(arguments) != 3 or not arguments[2].is_int:
        raise not_here("regexp_extract() with a group that is no literal")
    _check_greedy(arguments[1])
    pattern = exp.DPipe(this=exp.Literal.string("(?-s)"), expression=as_text(arguments[1]), safe=True)
    return exp.Anonymous(
        this="regexp_extract", expressions=[as_text(arguments[0]), exp.Paren(this=pattern), arguments[2]]
    )


@_special("regexp_replace")
def _regexp_replace(arguments: Arguments) -> exp.Expression | None:
    if len(arguments) == 3:
        _check_greedy(arguments[1])
    return None


@_special("precision", "scale")
def _precision(arguments: Arguments) -> exp.Expression | None:
    """Of the types of what is stored or written out we are sure."""
    if not isinstance(bare(arguments[0]), (exp.Column, exp.Cast, exp.Literal)):
        raise not_here("precision() and scale() of an expression")
    return None


@_special("typeof")
def _typeof(arguments: Arguments) -> exp.Expression | None:
    value = bare(arguments[0])
    known = value.meta.get("impala_type") or _WRITTEN.get(written_digits(value))
    return exp.Literal.string(known) if known else None


@_special("unhex")
def _unhex(arguments: Arguments) -> exp.Expression | None:
    """A STRING, which DuckDB has in UTF-8 only: as BINARY it may hold any bytes."""
    if len(arguments) != 1:
        return None
    made = macro("unhex", arguments[0].copy())
    made.meta["bytes"] = macro("unhex_bytes", arguments[0])
    return made


@_special("date_add", "adddate")
def _date_add(arguments: Arguments) -> exp.Expression | None:
    return _date_shifted(arguments, "add")


@_special("date_sub", "subdate")
def _date_sub(arguments: Arguments) -> exp.Expression | None:
    return _date_shifted(arguments, "sub")


def _date_shifted(arguments: Arguments, sign: str) -> exp.Expression | None:
    if len(arguments) == 2 and isinstance(arguments[1], exp.Interval):
        return shifted(arguments[0], arguments[1], sign)
    return None


@_special("trunc")
def _trunc(arguments: Arguments) -> exp.Expression | None:
    """``trunc(number, digits)`` or ``trunc(timestamp, unit)``: which one, depends on the second argument."""
    if len(arguments) == 2 and arguments[1].is_string:
        name = TRUNC.get(arguments[1].name.upper())
        if name is None:
            raise analysis_error(f"Invalid Truncate Unit: {arguments[1].name}")
        return macro(name, arguments[0])
    if len(arguments) == 2 and not arguments[1].is_number and not isinstance(arguments[1], exp.Neg):
        raise not_here("trunc() with a unit that is no literal")
    return macro("truncate", *arguments) if len(arguments) in (1, 2) else None


@_special("date_trunc")
def _date_trunc(arguments: Arguments) -> exp.Expression:
    if len(arguments) != 2 or not arguments[0].is_string:
        raise not_here("date_trunc() with a unit that is no literal")
    name = DATE_TRUNC.get(arguments[0].name.upper())
    if name is None:
        raise analysis_error(f"Invalid Date Truncate Unit: {arguments[0].name}")
    return macro(name, arguments[1])


@_special("date_part")
def _date_part(arguments: Arguments) -> exp.Expression:
    if len(arguments) != 2 or not arguments[0].is_string:
        raise not_here("date_part() with a field that is no literal")
    return part_of(arguments[0].name, arguments[1])


@_special("extract")
def _extract(arguments: Arguments) -> exp.Expression:
    if len(arguments) != 2 or not arguments[1].is_string:
        raise not_here("extract() with a field that is no literal")
    return part_of(arguments[1].name, arguments[0])


@_special("from_unixtime")
def _from_unixtime(arguments: Arguments) -> exp.Expression | None:
    return _printed(macro("to_timestamp", arguments[0]), arguments[1]) if len(arguments) == 2 else None


@_special("from_timestamp")
def _from_timestamp(arguments: Arguments) -> exp.Expression | None:
    return _printed(macro("moment", arguments[0]), arguments[1]) if len(arguments) == 2 else None


@_special("to_timestamp")
def _to_timestamp(arguments: Arguments) -> exp.Expression | None:
    return _read(arguments[0], arguments[1]) if len(arguments) == 2 else None


@_special("unix_timestamp")
def _unix_timestamp(arguments: Arguments) -> exp.Expression | None:
    if len(arguments) != 2:
        return None
    return macro("unix_timestamp", _read(arguments[0], arguments[1]))


# -- what several of them, and the operators, share


def shifted(moment: exp.Expression, interval: exp.Interval, sign: str) -> exp.Expression:
    """A DATE or TIMESTAMP plus or minus an interval.

    :param moment: the DATE or TIMESTAMP.
    :param interval: as written.
    :param sign: ``add`` or ``sub``.
    :raises Refused: a unit that is not there.
    """
    unit = interval.unit.name.lower() if interval.unit is not None else ""
    unit = unit if unit.endswith("s") else f"{unit}s"
    name = f"{unit}_{sign}_interval" if unit == "months" else f"{unit}_{sign}"
    if name not in MACROS:
        raise not_here(f"INTERVAL ... {unit.upper()}")
    count = interval.this
    if count.is_string:
        count = exp.Literal.number(count.name) if not count.name.startswith("-") else template(count.name).copy()
    return macro(name, moment, count)


def part_of(field: str, moment: exp.Expression) -> exp.Expression:
    """A field of a DATE or TIMESTAMP, as a BIGINT.

    :param field: such as ``year``.
    :param moment: the DATE or TIMESTAMP.
    :raises Refused: an unknown field.
    """
    if field.lower() not in _PARTS:
        raise analysis_error(f"Time unit '{field}' in expression is invalid, or the practice cluster does not have it.")
    return macro(f"part_{field.lower()}", moment)


_WRITTEN = {3: "TINYINT", 5: "SMALLINT"}


def written_digits(node: exp.Expression) -> int:
    """How many digits Impala's type has for a whole number that is written out.

    :param node: any expression.
    :returns: 3, 5, 10 or 19; -1: it is no such number.
    """
    node = bare(node)
    if isinstance(node, exp.Neg):
        node = bare(node.this)
    if not isinstance(node, exp.Literal) or node.is_string or not node.name.isdigit():
        return -1
    number = int(node.name)
    return next((digits for digits, bits in ((3, 7), (5, 15), (10, 31), (19, 63)) if number < 1 << bits), -1)


def _check_greedy(pattern: exp.Expression) -> None:
    """Impala's matches are the longest ones, DuckDB's the first ones: refuse where that may differ."""
    text = pattern.name if pattern.is_string else ""
    alternatives = re.split(r"[|()]", text) if "|" in text else []
    same_start = any(
        one and other.startswith(one) for one in alternatives for other in alternatives if one is not other
    )
    if re.search(r"(?<!\\)[*+?}]\?", text) or same_start:
        raise not_here(f"The longest match of {text!r}")


def _pattern(written: exp.Expression) -> exp.Expression:
    if not written.is_string:
        raise not_here("A date/time pattern that is no literal")
    made = strftime_pattern(written.name)
    if made is None:
        raise analysis_error(f"Bad date/time conversion format: {written.name}, or {NOT_HERE}.")
    return exp.Literal.string(made)


def _printed(moment: exp.Expression, pattern: exp.Expression) -> exp.Expression:
    """Not a macro: DuckDB takes a pattern only as a constant."""
    return exp.Anonymous(this="strftime", expressions=[moment, _pattern(pattern)])


def _read(text: exp.Expression, pattern: exp.Expression) -> exp.Expression:
    parsed = exp.Anonymous(this="try_strptime", expressions=[macro("text", text), _pattern(pattern)])
    return macro("read", parsed, as_text(text.copy()))
