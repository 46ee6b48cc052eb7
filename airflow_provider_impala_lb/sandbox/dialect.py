"""Impala's SQL in, DuckDB's SQL out. Names of tables are left to :mod:`airflow_provider_impala_lb.sandbox.query`."""

from __future__ import annotations

import re
from typing import Any, cast

from sqlglot import exp, parse_one  # noqa: TID253 (only a coordinator's process comes here)
from sqlglot.dialects.hive import Hive  # noqa: TID253
from sqlglot.errors import SqlglotError  # noqa: TID253

from airflow_provider_impala_lb.sandbox.functions import MACROS
from airflow_provider_impala_lb.sandbox.refusal import Refused, analysis_error, syntax_error

# Functions whose meaning is ours, not Hive's: they must reach us under the name the author wrote.
_OURS = {
    *MACROS,
    "group_concat",
    "from_timestamp",
    "regexp_like",
    "current_database",
    "version",
    "current_user",
    "now",
    "utc_timestamp",
    "uuid",
}
_WITH_PATTERN = {"from_unixtime", "unix_timestamp", "to_timestamp", "from_timestamp"}
_PATTERNS = (
    ("%", "%%"),
    ("yyyy", "%Y"),
    ("yy", "%y"),
    ("MMM", "%b"),
    ("MM", "%m"),
    ("dd", "%d"),
    ("HH", "%H"),
    ("mm", "%M"),
    ("SSS", "%g"),
    ("ss", "%S"),
)


class _Parser(Hive.Parser):  # type: ignore[misc,valid-type]
    FUNCTIONS = {name: build for name, build in Hive.Parser.FUNCTIONS.items() if name.lower() not in _OURS}  # noqa: RUF012
    FUNCTION_PARSERS = {  # noqa: RUF012
        name: parse for name, parse in Hive.Parser.FUNCTION_PARSERS.items() if name.lower() not in _OURS
    }


class Impala(Hive):
    """Hive's grammar with Impala's order of NULLs (largest) and Impala's functions."""

    NULL_ORDERING = "nulls_are_large"
    Parser = _Parser


def parse(text: str) -> exp.Expression:
    """One statement, without comments and hints, as a tree with all its names in lower case.

    :raises Refused: ParseException.
    """
    try:
        tree = cast("exp.Expression", parse_one(text, dialect=Impala))
    except SqlglotError as error:
        raise _as_impala(text, error) from None
    if isinstance(tree, exp.Command):
        raise syntax_error(text, 0, text.split(None, 1)[0].upper())
    for identifier in tree.find_all(exp.Identifier):
        identifier.set("this", identifier.name.lower())
    return tree


def _as_impala(text: str, error: SqlglotError) -> Refused:
    found: list[dict[str, Any]] = getattr(error, "errors", [])
    if not found or not found[0].get("line"):
        return syntax_error(text, 0, text.split(None, 1)[0].upper())
    line, column = found[0]["line"], found[0]["col"]
    start = sum(len(each) + 1 for each in text.split("\n")[: line - 1])
    highlight = found[0].get("highlight") or ""
    offset = min(start + max(0, column - len(highlight)), len(text))
    return syntax_error(text, offset, "IDENTIFIER" if re.fullmatch(r"\w+", highlight) else highlight or "EOF")


def label(projection: exp.Expression) -> str:
    """The column name that Impala gives a projection: its alias, its column, or its text."""
    if isinstance(projection, (exp.Alias, exp.Column)):
        return str(projection.alias_or_name)
    return str(projection.sql(dialect=Impala, normalize_functions="lower")).lower()


def to_duckdb(tree: exp.Expression, constants: dict[str, str]) -> str:
    """DuckDB's text for a query whose tables are resolved.

    :param constants: functions without arguments that mean something of this statement or session (``now``,
        ``effective_user`` ...) and the DuckDB expression for each.
    """
    return str(tree.transform(lambda node: _translate(node, constants)).sql(dialect="duckdb"))


def _translate(node: exp.Expression, constants: dict[str, str]) -> exp.Expression:
    if isinstance(node, exp.CurrentTimestamp):
        return _constant(constants["now"])
    if isinstance(node, exp.Extract):
        return _extract(node)
    if isinstance(node, exp.CurrentUser):
        return _constant(constants["user"])
    if isinstance(node, exp.CurrentDate):
        return exp.cast(_constant(constants["now"]), "DATE")
    if isinstance(node, exp.TryCast) and node.to.this in (exp.DataType.Type.DECIMAL, exp.DataType.Type.DATE):
        # Impala gives NULL for a text that is no number, but an error for one that is no DECIMAL or DATE.
        return exp.Cast(this=node.this, to=node.to)
    if isinstance(node, exp.Anonymous):
        return _function(node, constants)
    return node


def _function(node: exp.Anonymous, constants: dict[str, str]) -> exp.Expression:
    name, arguments = node.name.lower(), node.expressions
    if name in constants and not arguments:
        return _constant(constants[name])
    if name == "sleep":
        return exp.Anonymous(this="im_sleep", expressions=[_constant(constants["query"]), *arguments])
    if name == "group_concat":
        return _group_concat(arguments)
    if name in ("date_add", "date_sub", "adddate", "subdate") and isinstance(arguments[-1], exp.Interval):
        moment = exp.cast(arguments[0], "TIMESTAMP")
        plus = name in ("date_add", "adddate")
        return exp.Paren(this=(exp.Add if plus else exp.Sub)(this=moment, expression=arguments[1]))
    if name in ("trunc", "truncate") and len(arguments) == 2 and not arguments[1].is_string:
        name = "truncate"
    if name in _WITH_PATTERN and len(arguments) == 2:
        if not arguments[1].is_string:
            raise analysis_error(f"{name}: the sandbox takes a pattern only as a literal.")
        return _patterned(name, arguments[0], exp.Literal.string(_strftime(arguments[1].name)))
    if name == "regexp_like":
        name = "regexp_matches"
    return exp.Anonymous(this=f"im_{name}" if name in MACROS else name, expressions=arguments)


def _extract(node: exp.Extract) -> exp.Expression:
    """``extract(year from t)`` and Impala's own ``extract(t, 'year')``."""
    unit, moment = node.this, node.expression
    if not isinstance(unit, exp.Var):
        unit, moment = moment, unit
    return exp.Anonymous(this="im_date_part", expressions=[exp.Literal.string(unit.name.lower()), moment])


def _constant(text: str) -> exp.Expression:
    return cast("exp.Expression", parse_one(text, dialect="duckdb"))


def _patterned(name: str, value: exp.Expression, pattern: exp.Expression) -> exp.Expression:
    """Not macros: DuckDB takes a pattern only as a constant, and a macro's parameter is none in all its versions."""
    if name in ("from_unixtime", "from_timestamp"):
        to_moment = exp.Anonymous(this="im_to_timestamp", expressions=[value])
        moment = to_moment if name == "from_unixtime" else exp.cast(value, "TIMESTAMP")
        return exp.Anonymous(this="strftime", expressions=[moment, pattern])
    parsed = exp.Anonymous(this="try_strptime", expressions=[exp.cast(value, "TEXT"), pattern])
    return exp.Anonymous(this="im_unix_timestamp", expressions=[parsed]) if name == "unix_timestamp" else parsed


def _strftime(pattern: str) -> str:
    for letters, code in _PATTERNS:
        pattern = pattern.replace(letters, code)
    return pattern


def _group_concat(arguments: list[exp.Expression]) -> exp.Expression:
    distinct = isinstance(arguments[0], exp.Distinct)
    values = [*arguments[0].expressions, *arguments[1:]] if distinct else arguments
    value: exp.Expression = exp.cast(values[0], "TEXT")
    separator = values[1] if len(values) > 1 else exp.Literal.string(", ")
    return exp.Anonymous(
        this="string_agg", expressions=[exp.Distinct(expressions=[value]) if distinct else value, separator]
    )
