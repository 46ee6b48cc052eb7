"""What Impala's expressions mean, in DuckDB's. From the leaves of the tree up, so that any nesting comes out right.

What `sql/functions.py` does not have is refused: a wrong value that nobody notices is worse than a statement that does
not run. Calls of functions are `sql/function_calls.py`'s, comparisons `sql/datetime_comparisons.py`'s; the rest of the
grammar is here.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import cast

from sqlglot import exp  # noqa: TID253 (only a coordinator's process comes here)

from airflow_provider_impala_lb.sandbox.common.errors import analysis_error, not_here
from airflow_provider_impala_lb.sandbox.sql.datetime_comparisons import COMPARISONS, between, compare, in_list
from airflow_provider_impala_lb.sandbox.sql.function_calls import (
    FunctionCalls,
    concatenated,
    part_of,
    shifted,
    written_digits,
)
from airflow_provider_impala_lb.sandbox.sql.functions import CASTS
from airflow_provider_impala_lb.sandbox.sql.macro_calls import as_text, bare, filled, macro

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
_LONGEST = 2_000_000


def to_duckdb(tree: exp.Expression, constants: Mapping[str, str]) -> str:
    """DuckDB's text for a query whose tables are resolved.

    :param tree: changed, and not to be used any more.
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
    if len(text) > _LONGEST:
        raise not_here("An expression as deep as this")
    return text


class _Translator:
    def __init__(self, constants: Mapping[str, str]) -> None:
        self._calls = FunctionCalls(constants)
        self._utf8 = "utf8_mode" in constants

    def __call__(self, node: exp.Expression) -> exp.Expression:
        rule = self._rule(node)
        return node if rule is None else rule(node)

    def _rule(self, node: exp.Expression) -> Callable[..., exp.Expression] | None:
        if isinstance(node, exp.Anonymous):
            return self._calls
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
            (tuple(COMPARISONS), compare),
            (exp.Between, between),
            (exp.In, in_list),
            ((exp.RegexpLike, exp.RegexpILike), self._regexp),
            (exp.Query, self._query),
            ((exp.CurrentTimestamp, exp.CurrentDate, exp.CurrentUser), self._now_or_user),
        ):
            if isinstance(node, kind):
                return cast("Callable[..., exp.Expression]", rule)
        if isinstance(node, exp.Func) and not isinstance(node, _GRAMMAR):
            raise not_here(node.sql_name().lower() + "()")
        return None

    def _now_or_user(self, node: exp.Expression) -> exp.Expression:
        if isinstance(node, exp.CurrentUser):
            return self._calls.constant("user")
        now = self._calls.constant("now")
        return exp.Cast(this=now, to=exp.DataType.build("DATE")) if isinstance(node, exp.CurrentDate) else now

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
        return part_of(unit.name, moment)

    def _trim(self, node: exp.Trim) -> exp.Expression:
        name = {"LEADING": "ltrim", "TRAILING": "rtrim"}.get(node.args.get("position") or "", "btrim")
        rest = [node.expression] if node.expression is not None else []
        return macro(f"letters_{name}" if self._utf8 else name, node.this, *rest)

    def _divide(self, node: exp.Div) -> exp.Expression:
        digits = [exp.Literal.number(written_digits(each)) for each in (node.this, node.expression)]
        return macro("divide", node.this, node.expression, *digits)

    def _whole_divide(self, node: exp.IntDiv) -> exp.Expression:
        return macro("whole_divide", node.this, node.expression)

    def _modulo(self, node: exp.Mod) -> exp.Expression:
        return macro("modulo", node.this, node.expression)

    def _plus_or_minus(self, node: exp.Expression) -> exp.Expression:
        left, right = bare(node.this), bare(node.expression)
        if isinstance(right, exp.Interval):
            return shifted(node.this, right, "add" if isinstance(node, exp.Add) else "sub")
        if isinstance(left, exp.Interval) and isinstance(node, exp.Add):
            return shifted(node.expression, left, "add")
        return node

    def _pipes(self, node: exp.DPipe) -> exp.Expression:
        """OR for booleans, else concatenation of texts (fe: CompoundVerticalBarExpr)."""
        if any(isinstance(bare(each), _BOOLEAN) for each in (node.this, node.expression)):
            return exp.Paren(this=exp.Or(this=node.this, expression=node.expression))
        return concatenated([node.this, node.expression])

    def _like(self, node: exp.Expression) -> exp.Expression:
        """A backslash escapes, without ESCAPE."""
        if isinstance(node.parent, exp.Escape):
            return node
        return exp.Escape(this=node.copy(), expression=exp.Literal.string("\\"))

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
