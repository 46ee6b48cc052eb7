"""What Impala's expressions mean, in DuckDB's. From the leaves of the tree up, so that any nesting comes out right.

What the tables of functions.py do not have is refused: a wrong value that nobody notices is
worse than a statement that does not run.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from typing import cast

from sqlglot import exp  # noqa: TID253 (only a coordinator's process comes here)

from airflow_provider_impala_lb.sandbox.common.errors import NOT_HERE, Refused, analysis_error
from airflow_provider_impala_lb.sandbox.sql.builtins import BUILTINS
from airflow_provider_impala_lb.sandbox.sql.functions import AGGREGATES, CASTS, INNER, MACROS, UTF8
from airflow_provider_impala_lb.sandbox.sql.macro_calls import as_text, bare, filled, macro, template
from airflow_provider_impala_lb.sandbox.sql.moment_functions import DATE_TRUNC, TRUNC
from airflow_provider_impala_lb.sandbox.sql.moment_patterns import strftime_pattern

Arguments = list[exp.Expression]
_COMPARISONS = {exp.EQ: "eq", exp.NEQ: "ne", exp.LT: "lt", exp.LTE: "le", exp.GT: "gt", exp.GTE: "ge"}
_PARTS = ("year", "quarter", "month", "day", "hour", "minute", "second", "millisecond", "epoch")
_KINDS = {
    exp.DataType.Type.TINYINT: "tinyint",
    exp.DataType.Type.SMALLINT: "smallint",
    exp.DataType.Type.INT: "integer",
    exp.DataType.Type.BIGINT: "bigint",
    exp.DataType.Type.FLOAT: "float",
    exp.DataType.Type.DOUBLE: "double",
    exp.DataType.Type.TEXT: "string",
    exp.DataType.Type.VARCHAR: "string",
    exp.DataType.Type.BOOLEAN: "boolean",
    exp.DataType.Type.TIMESTAMP: "timestamp",
    exp.DataType.Type.DATE: "date",
}
_LONGEST = 200_000


def not_here(what: str) -> Refused:
    """One line for what Impala has and this has not."""
    return analysis_error(f"{what}: {NOT_HERE}.")


def to_duckdb(tree: exp.Expression, constants: Mapping[str, str]) -> str:
    """DuckDB's text for a query whose tables are resolved.

    :param constants: functions without arguments that mean something of this statement or session (``now``,
        ``effective_user`` ...) and the DuckDB expression for each; ``utf8_mode`` is there if the option is on.
    :raises Refused: what Impala has and this has not.
    """
    translate = _Translator(constants)
    # A walk gives each node before those in it: backwards, the inner ones come first.
    for node in cast("list[exp.Expression]", list(tree.walk()))[::-1]:
        new = translate(node)
        if new is not node:
            if node is tree:
                tree = new
            else:
                node.replace(new)
    text = str(tree.sql(dialect="duckdb"))
    if len(text) > _LONGEST * 10:
        raise not_here("An expression as deep as this")
    return text


class _Translator:
    def __init__(self, constants: Mapping[str, str]) -> None:
        self._constants = constants
        self._utf8 = "utf8_mode" in constants

    def __call__(self, node: exp.Expression) -> exp.Expression:
        rule = self._rule(node)
        return node if rule is None else rule(node)

    def _rule(self, node: exp.Expression) -> Callable[..., exp.Expression] | None:
        if isinstance(node, exp.Anonymous):
            return self._function
        for kind, rule in (
            (exp.Literal, self._literal),
            (exp.Cast, self._cast),  # also TryCast
            (exp.Extract, self._extract),
            (exp.Trim, self._trim),
            (exp.Div, self._divide),
            (exp.IntDiv, self._whole_divide),
            (exp.Mod, self._modulo),
            ((exp.Add, exp.Sub), self._plus_or_minus),
            (exp.DPipe, self._pipes),
            ((exp.Like, exp.ILike), self._like),
            (tuple(_COMPARISONS), self._compare),
            (exp.Between, self._between),
            (exp.In, self._in),
            ((exp.RegexpLike, exp.RegexpILike), self._regexp),
            (exp.Query, self._query),
            ((exp.CurrentTimestamp, exp.CurrentDate, exp.CurrentUser), self._now_or_user),
        ):
            if isinstance(node, kind):
                return cast("Callable[..., exp.Expression]", rule)
        if isinstance(node, exp.Func) and not isinstance(node, _GRAMMAR):
            raise not_here(node.sql_name().lower() + "()")
        return None

    # -- functions

    def _function(self, node: exp.Anonymous) -> exp.Expression:
        name, arguments = node.name.lower(), node.expressions
        if isinstance(node.parent, exp.Dot):
            raise not_here(f"{node.parent.sql(dialect='hive')} (a function of the author's)")
        if name.startswith("im_") and node.meta.get("ours"):
            return node
        if name in self._constants and not arguments:
            return self._constant(name)
        special = getattr(self, f"_f_{name}", None)
        if special is not None:
            made = special(arguments)
            if made is not None:
                return cast("exp.Expression", made)
        if name in AGGREGATES:
            return self._aggregate(name, node)
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

    def _aggregate(self, name: str, node: exp.Anonymous) -> exp.Expression:
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

    def _constant(self, name: str) -> exp.Expression:
        return template(self._constants[name]).copy()

    def _now_or_user(self, node: exp.Expression) -> exp.Expression:
        if isinstance(node, exp.CurrentUser):
            return self._constant("user")
        now = self._constant("now")
        return exp.Cast(this=now, to=exp.DataType.build("DATE")) if isinstance(node, exp.CurrentDate) else now

    # Each takes the arguments, and gives None for those that the tables have an answer to.

    def _f_sleep(self, arguments: Arguments) -> exp.Expression:
        return exp.Anonymous(this="im_sleep", expressions=[self._constant("query"), *arguments])

    def _f_coalesce(self, arguments: Arguments) -> exp.Expression:
        return exp.Anonymous(this="coalesce", expressions=arguments)

    def _f_greatest(self, arguments: Arguments, name: str = "greatest") -> exp.Expression:
        """NULL if one of them is (``ConditionalFunctions``): DuckDB passes over it."""
        nulls = [exp.Is(this=each.copy(), expression=exp.Null()) for each in arguments]
        chosen = exp.Anonymous(this=name, expressions=arguments)
        case = exp.Case(ifs=[exp.If(this=exp.or_(*nulls), true=exp.Null())], default=chosen)
        return exp.Paren(this=case)

    def _f_least(self, arguments: Arguments) -> exp.Expression:
        return self._f_greatest(arguments, "least")

    def _f_concat(self, arguments: Arguments) -> exp.Expression:
        """NULL if one of them is."""
        parts = [macro("text", each) for each in arguments]
        made = parts[0]
        for part in parts[1:]:
            made = exp.DPipe(this=made, expression=part, safe=True)
        return exp.Paren(this=made)

    def _f_concat_ws(self, arguments: Arguments) -> exp.Expression:
        if len(arguments) < 2:
            raise analysis_error("No matching function with signature: concat_ws()")
        texts = [macro("text", each) for each in arguments[1:]]
        return exp.Anonymous(this="concat_ws", expressions=[macro("text", arguments[0]), *texts])

    def _f_decode(self, arguments: Arguments) -> exp.Expression:
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

    def _f_mod(self, arguments: Arguments) -> exp.Expression | None:
        return macro("modulo", *arguments) if len(arguments) == 2 else None

    def _f_group_concat(self, arguments: Arguments) -> exp.Expression:
        distinct = isinstance(arguments[0], exp.Distinct)
        values = [*arguments[0].expressions, *arguments[1:]] if distinct else arguments
        value: exp.Expression = macro("text", values[0])
        separator = values[1] if len(values) > 1 else exp.Literal.string(", ")
        return exp.Anonymous(
            this="string_agg", expressions=[exp.Distinct(expressions=[value]) if distinct else value, separator]
        )

    def _f_appx_median(self, arguments: Arguments) -> exp.Expression:
        return exp.Anonymous(this="quantile_disc", expressions=[*arguments, exp.Literal.number("0.5")])

    def _f_regexp_like(self, arguments: Arguments) -> exp.Expression | None:
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

    def _f_regexp_extract(self, arguments: Arguments) -> exp.Expression:
        if len(arguments) != 3 or not arguments[2].is_int:
            raise not_here("regexp_extract() with a group that is no literal")
        _check_greedy(arguments[1])
        pattern = exp.DPipe(this=exp.Literal.string("(?-s)"), expression=as_text(arguments[1]), safe=True)
        return exp.Anonymous(
            this="regexp_extract", expressions=[as_text(arguments[0]), exp.Paren(this=pattern), arguments[2]]
        )

    def _f_regexp_replace(self, arguments: Arguments) -> exp.Expression | None:
        if len(arguments) == 3:
            _check_greedy(arguments[1])
        return None

    def _f_precision(self, arguments: Arguments) -> exp.Expression | None:
        """Of the types of what is stored or written out we are sure."""
        if not isinstance(bare(arguments[0]), (exp.Column, exp.Cast, exp.Literal)):
            raise not_here("precision() and scale() of an expression")
        return None

    _f_scale = _f_precision

    def _f_typeof(self, arguments: Arguments) -> exp.Expression | None:
        value = bare(arguments[0])
        known = value.meta.get("impala_type") or _WRITTEN.get(_digits(value))
        return exp.Literal.string(known) if known else None

    def _f_unhex(self, arguments: Arguments) -> exp.Expression | None:
        """A STRING, which DuckDB has in UTF-8 only: as BINARY it may hold any bytes."""
        if len(arguments) != 1:
            return None
        made = macro("unhex", arguments[0].copy())
        made.meta["bytes"] = macro("unhex_bytes", arguments[0])
        return made

    def _f_date_add(self, arguments: Arguments, sign: str = "add") -> exp.Expression | None:
        if len(arguments) == 2 and isinstance(arguments[1], exp.Interval):
            return _shifted(arguments[0], arguments[1], sign)
        return None

    _f_adddate = _f_date_add

    def _f_date_sub(self, arguments: Arguments) -> exp.Expression | None:
        return self._f_date_add(arguments, "sub")

    _f_subdate = _f_date_sub

    def _f_trunc(self, arguments: Arguments) -> exp.Expression | None:
        """Of a number, or of a moment with a unit: which one, tells the second argument."""
        if len(arguments) == 2 and arguments[1].is_string:
            name = TRUNC.get(arguments[1].name.upper())
            if name is None:
                raise analysis_error(f"Invalid Truncate Unit: {arguments[1].name}")
            return macro(name, arguments[0])
        if len(arguments) == 2 and not arguments[1].is_number and not isinstance(arguments[1], exp.Neg):
            raise not_here("trunc() with a unit that is no literal")
        return macro("truncate", *arguments) if len(arguments) in (1, 2) else None

    def _f_date_trunc(self, arguments: Arguments) -> exp.Expression:
        if len(arguments) != 2 or not arguments[0].is_string:
            raise not_here("date_trunc() with a unit that is no literal")
        name = DATE_TRUNC.get(arguments[0].name.upper())
        if name is None:
            raise analysis_error(f"Invalid Date Truncate Unit: {arguments[0].name}")
        return macro(name, arguments[1])

    def _f_date_part(self, arguments: Arguments) -> exp.Expression:
        if len(arguments) != 2 or not arguments[0].is_string:
            raise not_here("date_part() with a field that is no literal")
        return _part(arguments[0].name, arguments[1])

    def _f_extract(self, arguments: Arguments) -> exp.Expression:
        if len(arguments) != 2 or not arguments[1].is_string:
            raise not_here("extract() with a field that is no literal")
        return _part(arguments[1].name, arguments[0])

    def _f_from_unixtime(self, arguments: Arguments) -> exp.Expression | None:
        return _printed(macro("to_timestamp", arguments[0]), arguments[1]) if len(arguments) == 2 else None

    def _f_from_timestamp(self, arguments: Arguments) -> exp.Expression | None:
        return _printed(macro("moment", arguments[0]), arguments[1]) if len(arguments) == 2 else None

    def _f_to_timestamp(self, arguments: Arguments) -> exp.Expression | None:
        return _read(arguments[0], arguments[1]) if len(arguments) == 2 else None

    def _f_unix_timestamp(self, arguments: Arguments) -> exp.Expression | None:
        if len(arguments) != 2:
            return None
        return macro("unix_timestamp", _read(arguments[0], arguments[1]))

    # -- operators and other grammar

    def _literal(self, node: exp.Literal) -> exp.Expression:
        """A whole number too long for BIGINT is a DECIMAL."""
        if node.is_string and "\0" in node.name:  # DuckDB before 2 takes a NUL in a statement for its end
            digits = exp.Literal.string(node.name.encode().hex())
            return exp.Anonymous(this="decode", expressions=[exp.Anonymous(this="unhex", expressions=[digits])])
        if node.is_string or not node.name.isdigit() or int(node.name) < 1 << 63 or len(node.name) > 38:
            return node
        if isinstance(node.parent, exp.Neg) and int(node.name) == 1 << 63:
            return node
        return exp.Cast(this=node.copy(), to=exp.DataType.build(f"DECIMAL({len(node.name)},0)"))

    def _cast(self, node: exp.Cast) -> exp.Expression:
        value, kind = node.this, node.to
        if node.args.get("format"):
            raise not_here("CAST ... FORMAT")
        if kind.this == exp.DataType.Type.DECIMAL:
            # Impala gives NULL for a text that is no number, but an error for one that is no DECIMAL.
            if not kind.expressions:
                kind = exp.DataType.build("DECIMAL(9,0)")
            return exp.Cast(this=value, to=kind.copy())
        if kind.this == exp.DataType.Type.CHAR and kind.expressions and _is_result(node):
            length = kind.expressions[0].this
            cut = macro("letters_strleft" if self._utf8 else "strleft", filled(CASTS["string"], value), length.copy())
            return macro("rpad", cut, length.copy(), exp.Literal.string(" "))
        if kind.this == exp.DataType.Type.BINARY and not isinstance(bare(value), exp.Null):
            return cast("exp.Expression | None", bare(value).meta.get("bytes")) or macro("binary", value)
        name = _KINDS.get(kind.this)
        if name is None and kind.this != exp.DataType.Type.BINARY:
            raise not_here(f"CAST AS {kind.sql(dialect='hive')}")
        if isinstance(bare(value), exp.Null) or name is None:
            made = exp.Cast(this=value, to=kind.copy())
            made.meta["impala_type"] = kind.sql(dialect="hive") if kind.expressions else ""
            return made
        changed = filled(CASTS[name], value)
        if kind.this == exp.DataType.Type.VARCHAR and kind.expressions:
            cut = macro("letters_strleft" if self._utf8 else "strleft", changed, kind.expressions[0].this.copy())
            cut.meta["impala_type"] = kind.sql(dialect="hive")
            return cut
        return changed

    def _regexp(self, node: exp.Expression) -> exp.Expression:
        flags = "(?i-s)" if isinstance(node, exp.RegexpILike) else "(?-s)"
        pattern = exp.DPipe(this=exp.Literal.string(flags), expression=as_text(node.expression), safe=True)
        return exp.Anonymous(this="regexp_matches", expressions=[as_text(node.this), exp.Paren(this=pattern)])

    def _extract(self, node: exp.Extract) -> exp.Expression:
        """``extract(year from t)`` and Impala's own ``extract(t, 'year')``."""
        unit, moment = node.this, node.expression
        if not isinstance(unit, exp.Var):
            unit, moment = moment, unit
        if not isinstance(unit, exp.Var) and not unit.is_string:
            raise not_here("extract() with a field that is no literal")
        return _part(unit.name, moment)

    def _trim(self, node: exp.Trim) -> exp.Expression:
        name = {"LEADING": "ltrim", "TRAILING": "rtrim"}.get(node.args.get("position") or "", "btrim")
        rest = [node.expression] if node.expression is not None else []
        return macro(f"letters_{name}" if self._utf8 else name, node.this, *rest)

    def _divide(self, node: exp.Div) -> exp.Expression:
        digits = [exp.Literal.number(_digits(each)) for each in (node.this, node.expression)]
        return macro("divide", node.this, node.expression, *digits)

    def _whole_divide(self, node: exp.IntDiv) -> exp.Expression:
        return macro("whole_divide", node.this, node.expression)

    def _modulo(self, node: exp.Mod) -> exp.Expression:
        return macro("modulo", node.this, node.expression)

    def _plus_or_minus(self, node: exp.Expression) -> exp.Expression:
        left, right = bare(node.this), bare(node.expression)
        if isinstance(right, exp.Interval):
            return _shifted(node.this, right, "add" if isinstance(node, exp.Add) else "sub")
        if isinstance(left, exp.Interval) and isinstance(node, exp.Add):
            return _shifted(node.expression, left, "add")
        return node

    def _pipes(self, node: exp.DPipe) -> exp.Expression:
        """OR for booleans, else concatenation of texts (fe: CompoundVerticalBarExpr)."""
        if any(isinstance(bare(each), _BOOLEAN) for each in (node.this, node.expression)):
            return exp.Paren(this=exp.Or(this=node.this, expression=node.expression))
        return self._f_concat([node.this, node.expression])

    def _like(self, node: exp.Expression) -> exp.Expression:
        """A backslash escapes, without ESCAPE."""
        if isinstance(node.parent, exp.Escape):
            return node
        return exp.Escape(this=node.copy(), expression=exp.Literal.string("\\"))

    def _compare(self, node: exp.Expression) -> exp.Expression:
        left, right = node.this, node.expression
        if not (_may_be_moment(left) and _may_be_moment(right)):
            return node
        return exp.Paren(this=macro(_COMPARISONS[cast("type[exp.Binary]", type(node))], left, right))

    def _between(self, node: exp.Between) -> exp.Expression:
        value, low, high = node.this, node.args["low"], node.args["high"]
        if not any(_may_be_moment(each) for each in (low, high)) or not _may_be_moment(value):
            return node
        if any(isinstance(bare(each), exp.Null) for each in (low, high)):
            return node
        both = exp.And(this=macro("ge", value, low), expression=macro("le", value.copy(), high))
        return exp.Paren(this=both)

    def _in(self, node: exp.In) -> exp.Expression:
        items = node.expressions
        if not items or not _may_be_moment(node.this) or not any(_is_moment(each) for each in (node.this, *items)):
            return node
        if any(isinstance(bare(each), exp.Null) for each in items):
            return node
        return exp.Paren(this=exp.or_(*(macro("eq", node.this.copy(), each) for each in items)))

    def _query(self, node: exp.Expression) -> exp.Expression:
        if node.args.get("offset") is not None and node.args.get("order") is None:
            limit = node.args.get("limit")
            shown = " ".join(each.sql(dialect="hive").strip() for each in (limit, node.args["offset"]) if each)
            raise analysis_error(f"OFFSET requires an ORDER BY clause: {shown}")
        if node.args.get("laterals"):
            raise not_here("LATERAL VIEW")
        return node


_BOOLEAN = (exp.Boolean, exp.Predicate, exp.Connector, exp.Not, exp.Escape)
# What sqlglot counts among functions, but is grammar; or what the rules above have made.
_GRAMMAR = (
    exp.Case, exp.If, exp.Coalesce, exp.Cast, exp.Connector, exp.Exists, exp.RegexpLike, exp.RegexpILike,
)  # fmt: skip


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


def _is_result(node: exp.Expression) -> bool:
    """Is it a column of what the whole query gives? There a CHAR(n) is its text with blanks; what compares or measures
    it would have to pass over the blanks."""
    around = node.parent.parent if isinstance(node.parent, exp.Alias) else node.parent
    inner = node.parent if isinstance(node.parent, exp.Alias) else node
    if not isinstance(around, exp.Select) or inner.arg_key != "expressions" or around.args.get("distinct"):
        return False
    query: exp.Expression | None = around
    while query is not None and isinstance(query.parent, (exp.Union, exp.Subquery, exp.Paren)):
        if isinstance(query.parent, exp.Union) and query.parent.args.get("distinct"):
            return False
        query = query.parent
    return query is not None and query.parent is None


def _shifted(moment: exp.Expression, interval: exp.Interval, sign: str) -> exp.Expression:
    unit = interval.unit.name.lower() if interval.unit is not None else ""
    unit = unit if unit.endswith("s") else f"{unit}s"
    name = f"{unit}_{sign}_interval" if unit == "months" else f"{unit}_{sign}"
    if name not in MACROS:
        raise not_here(f"INTERVAL ... {unit.upper()}")
    count = interval.this
    if count.is_string:
        count = exp.Literal.number(count.name) if not count.name.startswith("-") else template(count.name).copy()
    return macro(name, moment, count)


def _part(field: str, moment: exp.Expression) -> exp.Expression:
    if field.lower() not in _PARTS:
        raise analysis_error(f"Time unit '{field}' in expression is invalid, or the practice cluster does not have it.")
    return macro(f"part_{field.lower()}", moment)


_WRITTEN = {3: "TINYINT", 5: "SMALLINT"}


def _digits(node: exp.Expression) -> int:
    """How many digits Impala's type has for a whole number that is written out; -1: it is none."""
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
        raise not_here("A pattern of moments that is no literal")
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


def _is_moment(node: exp.Expression) -> bool:
    """Is it surely a DATE or a TIMESTAMP, by what the rules above have made of it?"""
    node = bare(node)
    if isinstance(node, exp.Cast):
        return node.to.this in (exp.DataType.Type.DATE, exp.DataType.Type.TIMESTAMP)
    return isinstance(node, exp.Anonymous) and node.name.lower().startswith(_MOMENTS)


_MOMENTS = (
    "im_range", "im_day_range", "im_moment", "im_number_moment", "im_date", "im_to_timestamp", "im_trunc_",
    "im_last_day", "im_next_day", "im_adddate", "im_subdate",
    *(f"im_{name}" for name in MACROS if name.endswith(("_add", "_sub", "_interval", "_months"))),
)  # fmt: skip


_NUMBERS = frozenset({"count", "im_wrapped_sum", "avg", "im_divide", "im_modulo", "im_whole_divide", "im_length"})


def _may_be_moment(node: exp.Expression) -> bool:
    """False for what is surely a number, a boolean or a query: those are compared as they are."""
    node = bare(node)
    if isinstance(node, exp.Literal):
        return bool(node.is_string)
    if isinstance(node, exp.Anonymous) and node.name in _NUMBERS:
        return False
    return not isinstance(
        node, (exp.Null, exp.Binary, exp.Unary, exp.Boolean, exp.Query, exp.Subquery, exp.Tuple, exp.Any, exp.All)
    )
