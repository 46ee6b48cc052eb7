"""Impala's SQL as a tree. What its expressions mean is :mod:`airflow_provider_impala_lb.sandbox.sql.translation`'s."""

from __future__ import annotations

import re
from typing import Any, cast

from sqlglot import exp, parse_one  # noqa: TID253 (only a coordinator's process comes here)
from sqlglot.dialects.hive import Hive  # noqa: TID253
from sqlglot.errors import SqlglotError  # noqa: TID253

from airflow_provider_impala_lb.sandbox.common.errors import Refused, syntax_error


class _Parser(Hive.Parser):  # type: ignore[misc,valid-type]
    """Functions reach us under the name the author wrote, but for those with a grammar of their own."""

    FUNCTIONS: dict[str, Any] = {}  # noqa: RUF012
    FUNCTION_PARSERS = {  # noqa: RUF012
        name: parse for name, parse in Hive.Parser.FUNCTION_PARSERS.items() if name in ("CAST", "EXTRACT", "TRIM")
    }

    def _parse_types(self, *positional: Any, **named: Any) -> Any:
        """Hive reads CHAR(n) and VARCHAR(n) as STRING outside of a table's definition, Impala does not."""
        check_func = positional[0] if positional else named.pop("check_func", False)
        return super()._parse_types(check_func, **{**named, "schema": True})


class Impala(Hive):
    """Hive's grammar with Impala's order of NULLs (largest) and Impala's functions."""

    NULL_ORDERING = "nulls_are_large"
    Parser = _Parser


def parse(text: str) -> exp.Expression:
    """One statement as a tree with all its names in lower case.

    :param text: without comments and hints.
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
    """The column name that Impala gives a projection: its alias, its column, or its text.

    :param projection: an expression of a SELECT's list.
    """
    if isinstance(projection, (exp.Alias, exp.Column)):
        return str(projection.alias_or_name)
    return str(projection.sql(dialect=Impala, normalize_functions="lower")).lower()
