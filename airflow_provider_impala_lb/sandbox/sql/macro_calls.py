"""Calls of our macros: with arguments whose types DuckDB knows, each of them expanded once."""

from __future__ import annotations

import functools
import zlib
from collections.abc import Callable
from typing import cast

from sqlglot import exp, parse_one  # noqa: TID253 (only a coordinator's process comes here)

from airflow_provider_impala_lb.sandbox.sql.functions import AGGREGATES


@functools.lru_cache(maxsize=512)
def template(text: str) -> exp.Expression:
    """DuckDB's text as a tree, which is kept: to be copied before it is used.

    :param text: an expression.
    """
    return cast("exp.Expression", parse_one(text, dialect="duckdb"))


def filled(text: str, x: exp.Expression) -> exp.Expression:
    """A DuckDB expression with a value for each column in it.

    :param text: the expression, whose only column is ``x``.
    :param x: the value.
    """

    def fill(value: exp.Expression) -> exp.Expression:
        tree = template(text).copy()
        for column in list(tree.find_all(exp.Column)):
            column.replace(value.copy())
        return exp.Paren(this=tree)

    return _typed(fill, x)


def macro(name: str, *arguments: exp.Expression) -> exp.Expression:
    """The call of one of our macros.

    :param name: without ``im_``.
    :param arguments: its arguments.
    """
    return _typed(lambda *each: exp.Anonymous(this=f"im_{name}", expressions=list(each)), *arguments)


def _typed(make: Callable[..., exp.Expression], *arguments: exp.Expression) -> exp.Expression:
    """``make(*arguments)``, in which DuckDB knows the arguments' types, and which it expands once.

    It chooses between a macro's forms before it knows what type an aggregate or a window has, and then refuses, or
    takes the wrong one. And a macro's body has its parameter several times: macros in macros in macros would be too
    many.
    As the parameter of a lambda a value has its type, and is there once.
    """
    place = next((place for place, each in enumerate(arguments) if _is_of_many_rows(each)), None)
    if place is None and not any(each.find(exp.Query, exp.Subquery) for each in arguments):
        place = next((place for place, each in enumerate(arguments) if _depth(each) > 1), None)
    if place is None:
        return make(*arguments)
    # The same expression has the same name: in SELECT and GROUP BY.
    name = f"v{zlib.crc32(arguments[place].sql(dialect='duckdb').encode()):08x}"
    inner = [exp.column(name) if other == place else each.copy() for other, each in enumerate(arguments)]
    body = _typed(make, *inner).sql(dialect="duckdb")
    listed = exp.Array(expressions=[arguments[place]])
    changed = exp.Anonymous(this="list_transform", expressions=[listed, exp.Var(this=f"lambda {name}: {body}")])
    return exp.Anonymous(this="list_extract", expressions=[changed, exp.Literal.number(1)])


def _depth(node: exp.Expression) -> int:
    """How many macros it has in it."""
    return sum(1 for each in node.find_all(exp.Anonymous) if each.name.startswith(("im_", "list_extract")))


def _is_of_many_rows(node: exp.Expression) -> bool:
    """Is an aggregate or a window in it, and not in a query within it?"""
    for each in node.walk(prune=lambda inner: isinstance(inner, (exp.Query, exp.Subquery))):
        if isinstance(each, exp.Window) or (isinstance(each, exp.Anonymous) and each.name in _OF_MANY_ROWS):
            return True
    return False


_OF_MANY_ROWS = frozenset({*(name for _, name in AGGREGATES.values()), "string_agg", "quantile_disc"})


def as_text(value: exp.Expression) -> exp.Expression:
    """The value as it is, if it is a text: else DuckDB refuses it.

    :param value: any expression.
    """
    return macro("text", value)


def bare(node: exp.Expression) -> exp.Expression:
    """The expression without the parentheses around it.

    :param node: any expression.
    """
    while isinstance(node, exp.Paren):
        node = node.this
    return node
