"""Comparisons that may be of a DATE or a TIMESTAMP with a STRING, which is then read as one (fe: DefaultCompatibility).

The types are DuckDB's business and not known here, so that everything that may be a date goes through a macro that
chooses by type; what surely is none is compared as it is.
"""

from __future__ import annotations

from typing import cast

from sqlglot import exp  # noqa: TID253 (only a coordinator's process comes here)

from airflow_provider_impala_lb.sandbox.sql.functions import MACROS
from airflow_provider_impala_lb.sandbox.sql.macro_calls import bare, macro

COMPARISONS = {exp.EQ: "eq", exp.NEQ: "ne", exp.LT: "lt", exp.LTE: "le", exp.GT: "gt", exp.GTE: "ge"}
"""The macro for each operator."""


def compare(node: exp.Expression) -> exp.Expression:
    """The comparison for DuckDB.

    :param node: one of :data:`COMPARISONS`.
    """
    left, right = node.this, node.expression
    if not (_may_be_datetime(left) and _may_be_datetime(right)):
        return node
    return exp.Paren(this=macro(COMPARISONS[cast("type[exp.Binary]", type(node))], left, right))


def between(node: exp.Between) -> exp.Expression:
    """BETWEEN for DuckDB.

    :param node: as written.
    """
    value, low, high = node.this, node.args["low"], node.args["high"]
    if not any(_may_be_datetime(each) for each in (low, high)) or not _may_be_datetime(value):
        return node
    if any(isinstance(bare(each), exp.Null) for each in (low, high)):
        return node
    both = exp.And(this=macro("ge", value, low), expression=macro("le", value.copy(), high))
    return exp.Paren(this=both)


def in_list(node: exp.In) -> exp.Expression:
    """IN for DuckDB. One with a query is left as it is.

    :param node: as written.
    """
    items = node.expressions
    if not items or not _may_be_datetime(node.this) or not any(_is_datetime(each) for each in (node.this, *items)):
        return node
    if any(isinstance(bare(each), exp.Null) for each in items):
        return node
    return exp.Paren(this=exp.or_(*(macro("eq", node.this.copy(), each) for each in items)))


def _is_datetime(node: exp.Expression) -> bool:
    """Is it surely a DATE or a TIMESTAMP, by what the translation has made of it?"""
    node = bare(node)
    if isinstance(node, exp.Cast):
        return node.to.this in (exp.DataType.Type.DATE, exp.DataType.Type.TIMESTAMP)
    return isinstance(node, exp.Anonymous) and node.name.lower().startswith(_DATETIME_MACROS)


_DATETIME_MACROS = (
    "im_range", "im_day_range", "im_moment", "im_number_moment", "im_date", "im_to_timestamp", "im_trunc_",
    "im_last_day", "im_next_day", "im_adddate", "im_subdate",
    *(f"im_{name}" for name in MACROS if name.endswith(("_add", "_sub", "_interval", "_months"))),
)  # fmt: skip


_NUMBER_FUNCTIONS = frozenset(
    {"count", "im_wrapped_sum", "avg", "im_divide", "im_modulo", "im_whole_divide", "im_length"}
)


def _may_be_datetime(node: exp.Expression) -> bool:
    """False for what is surely a number, a boolean or a query: those are compared as they are."""
    node = bare(node)
    if isinstance(node, exp.Literal):
        return bool(node.is_string)
    if isinstance(node, exp.Anonymous) and node.name in _NUMBER_FUNCTIONS:
        return False
    return not isinstance(
        node, (exp.Null, exp.Binary, exp.Unary, exp.Boolean, exp.Query, exp.Subquery, exp.Tuple, exp.Any, exp.All)
    )
