"""Which statements may be sent once more although nobody knows whether they ran.

What is asked is: does the second run, after a first one that may have ended anywhere, leave what a single run leaves?
Only what certainly does is said to; the author of a statement may say so of any other.
"""

from __future__ import annotations

import re

from airflow_provider_impala_lb.impala.sql.lexer import Reader
from airflow_provider_impala_lb.impala.sql.shell_compat import Refused

_SAID_SO = re.compile(r"(?:--|/\*)\s*impala-lb:\s*safe\s+to\s+repeat\s*(?:\*/)?", re.IGNORECASE)
_ALWAYS = frozenset(
    {"select", "values", "(", "show", "describe", "desc", "explain"}
    | {"set", "unset", "use", "compute", "refresh", "invalidate", "truncate"}
)


def is_idempotent(sql: str, database: str | None = None) -> bool:
    """Whether a statement may be sent again when the outcome of sending it is not known. False when in doubt.

    True of a statement with a comment ``-- impala-lb: safe to repeat``, or ``/* impala-lb: safe to repeat */``; of
    queries, SET, USE, REFRESH, INVALIDATE METADATA, COMPUTE STATS, TRUNCATE; of DROP .. IF EXISTS and CREATE .. IF NOT
    EXISTS without a query; of ALTER TABLE .. ADD IF NOT EXISTS PARTITION and DROP IF EXISTS PARTITION; and of INSERT
    OVERWRITE of a whole table, or of partitions named in full, unless its query mentions the table.

    :param database: of names without one; None: ``default``.
    """
    try:
        reader = Reader(sql)
    except Refused:
        return False
    if any(_SAID_SO.fullmatch(comment) for comment in reader.comments):
        return True
    if reader.take("with"):
        reader.skip_to("select", "values", "insert", "upsert", "update", "delete", "merge")
    first = reader.here.text if reader.here.kind in ("word", "sign") else ""
    reader.at += 1
    match first:
        case "insert":
            return _replaces_all(reader) and not reads_own_target(sql, database)
        case "create":
            return _creates_once(reader)
        case "drop":
            return _drops_if_there(reader)
        case "alter":
            return _alters_partitions(reader)
    return first in _ALWAYS


def reads_own_target(sql: str, database: str | None = None) -> bool:
    """Whether an INSERT's query may read the table that it writes. True when in doubt.

    Any mention of the table's name counts, with a database or without, also as a column or an alias. What only the
    catalog knows, a view over the table, cannot be seen here.

    :param database: of names without one. It changes nothing: the same name in two databases counts as one.
    """
    try:
        reader = Reader(sql)
    except Refused:
        return True
    if not reader.skip_to("insert"):
        return True
    reader.at += 1
    reader.take("into", "overwrite")
    reader.take("table")
    start = reader.at
    target = reader.path()
    if not target:
        return True
    others = reader.tokens[:start] + reader.tokens[reader.at :]
    return any(token.kind in ("word", "name") and token.text == target[-1] for token in others)


def _replaces_all(reader: Reader) -> bool:
    """INSERT OVERWRITE whose second run replaces every row of the first, whatever that one's query found.

    Partitions that are named by the rows (``PARTITION (day)``, or a partition column in the list of columns) are not
    sure: rows that came meanwhile, or a ``now()``, may leave a partition of the first run that the second does not
    touch.
    """
    if not reader.take("overwrite"):
        return False
    reader.take("table")
    reader.path()
    if reader.here == ("sign", "("):  # a list of columns, or a query in parentheses
        return False
    if not reader.take("partition"):
        return True
    if not reader.take("("):
        return False
    depth, has_value = 1, False
    while depth and reader.at < len(reader.tokens):
        token = reader.here
        reader.at += 1
        if token.kind != "sign":
            continue
        depth += (token.text == "(") - (token.text == ")")
        has_value |= token.text == "="
        if (token.text == "," and depth == 1) or depth == 0:
            if not has_value:
                return False
            has_value = False
    return depth == 0


def _creates_once(reader: Reader) -> bool:
    """CREATE .. IF NOT EXISTS. With a query the table comes first and its rows after it (``createTableAsSelect``,
    then the insert): a repeat after a first try that got half way would find the table, and leave it empty."""
    reader.take("external", "aggregate")
    kind = reader.take("table", "view", "database", "schema", "function")
    if kind is None or not reader.take_all("if", "not", "exists"):
        return False
    if kind == "table":
        while reader.skip_to("as"):
            reader.take("as")
            if reader.here.text in ("select", "values", "with", "(") and reader.here.kind != "name":
                return False
    return True


def _drops_if_there(reader: Reader) -> bool:
    reader.take("aggregate")
    return bool(reader.take("table", "view", "database", "schema", "function")) and reader.take_all("if", "exists")


def _alters_partitions(reader: Reader) -> bool:
    if not reader.take("table"):
        return False
    reader.path()
    if not (reader.take_all("add", "if", "not", "exists") or reader.take_all("drop", "if", "exists")):
        return False
    reader.take("range")  # Kudu's
    return bool(reader.take("partition"))
