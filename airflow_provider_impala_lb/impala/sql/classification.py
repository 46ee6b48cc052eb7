"""What a statement is: read once, from its tokens, and only as far into its text as the answer needs.

Everything that depends on the kind of a statement asks its :class:`Classification`: what may be sent again, whose rows
are fetched, what a failure means, what another coordinator must hear of.
"""

from __future__ import annotations

import re
from functools import cached_property
from typing import Literal

from msgspec.structs import replace

from airflow_provider_impala_lb.core.text import plain
from airflow_provider_impala_lb.impala.sql.effects import UNKNOWN, Effects, effects_of
from airflow_provider_impala_lb.impala.sql.lexer import (
    Reader,
    ScriptSyntaxError,
    Token,
    landmark_pattern,
    landmarks,
    mentions_of,
    token_at,
)
from airflow_provider_impala_lb.impala.sql.splitter import is_safe_mark

Kind = Literal["query", "session", "metadata", "stats", "dml", "ddl", "ctas", "unknown"]
"""``query``: SELECT, VALUES, SHOW, DESCRIBE, EXPLAIN. ``session``: USE, SET, UNSET. ``metadata``: REFRESH, INVALIDATE
METADATA. ``ctas``: CREATE TABLE .. AS SELECT. ``unknown``: none that is known here, or text that the lexer refuses."""

_KINDS: dict[str, Kind] = {
    **dict.fromkeys(("select", "values", "(", "show", "describe", "desc", "explain"), "query"),
    **dict.fromkeys(("use", "set", "unset"), "session"),
    **dict.fromkeys(("refresh", "invalidate"), "metadata"),
    "compute": "stats",
    **dict.fromkeys(("insert", "upsert", "update", "delete", "merge", "load", "truncate", "optimize"), "dml"),
    **dict.fromkeys(("create", "alter", "drop", "comment", "grant", "revoke"), "ddl"),
}
_COMMENTS = landmark_pattern(";", ";")  # any sign will do: what is asked for are the comments beside it
# Keywords, so no function has such a name, unless it is quoted or behind a database's. The types have a size there.
_NO_CALLS = {
    ("word", word) for word in ("partition", "in", "and", "or", "not", "between", "cast", "decimal", "char", "varchar")
}
# A query; a year that is completed by today's (``FORMAT 'YY'``); times of the host's zone (CAST .. AS TIMESTAMP).
_COMPUTED = ("select", "format", "timestamp")
_MARK_HINT = re.compile("impala-lb", re.IGNORECASE)


class Classification:
    """What one statement is.

    :param sql: as it is sent; comments, labels and hints may stand anywhere in it. It is kept, not copied.
    :ivar sql: as given.
    :ivar is_empty: it holds nothing but blanks, comments and hints.
    :ivar kind: see :data:`Kind`.
    :ivar verb: its first word, or that behind WITH, in lower case; "" for none.
    """

    def __init__(self, sql: str) -> None:
        self.sql = sql
        self.verb = ""
        self._behind: Token | None = None
        self.kind: Kind = "unknown"
        try:
            reader = Reader(sql)
            self.is_empty = reader.here.kind == "end"
            if reader.take("with") and not _pass_with(reader):
                return
            if reader.here.kind not in ("word", "sign"):
                return
            self.verb = reader.next().text
            self._behind = reader.here
            self.kind = _KINDS.get(self.verb, "unknown")
            if self.verb == "create" and _is_ctas(reader):
                self.kind = "ctas"
        except ScriptSyntaxError:
            self.is_empty, self.kind = False, "unknown"

    @property
    def reads_only(self) -> bool:
        """It gives rows, and changes nothing anywhere."""
        return self.kind == "query"

    @property
    def session_only(self) -> bool:
        """USE, SET, UNSET: they change the session and nothing else, so a script may begin anew after them."""
        return self.kind == "session"

    @property
    def changes_nothing(self) -> bool:
        """It may run twice at any time, even beside itself: queries, USE, SET, REFRESH and the like, COMPUTE STATS."""
        return self.kind in ("query", "session", "metadata", "stats")

    @cached_property
    def marked_safe(self) -> bool:
        """It has a comment ``impala-lb: safe to repeat``: its author says that it may be sent again."""
        if not (("--" in self.sql or "/*" in self.sql) and _MARK_HINT.search(self.sql)):
            return False  # most need not be read to their end
        try:
            return any(
                found[0][0] in "-/" and is_safe_mark(found[0]) for found in landmarks(self.sql, _COMMENTS, also="-/")
            )
        except ScriptSyntaxError:
            return False

    @cached_property
    def safe_to_repeat(self) -> bool:
        """Whether it may be sent again when the outcome of sending it is not known. False when in doubt.

        What is asked is: does the second run, after a first one that may have ended anywhere, leave what a single run
        leaves? True of queries, USE, SET, REFRESH, INVALIDATE METADATA, COMPUTE STATS, TRUNCATE; of DROP .. IF EXISTS
        and CREATE .. IF NOT EXISTS; of ALTER TABLE .. ADD IF NOT EXISTS PARTITION and DROP IF EXISTS PARTITION,
        and INSERT OVERWRITE of partitions named in full, if these are named without any function call, and if the
        query of the INSERT does not mention the table; and of what :attr:`marked_safe` says.

        Never of CREATE TABLE .. AS SELECT, whatever its comment says. Impala creates the table first, and only then
        asks for admission of the query and runs it (``client-request-state.cc``, ``ExecDdlRequestImpl``): the repeat
        finds the table, and leaves it empty (IF NOT EXISTS: "we do not execute the INSERT") or fails.
        """
        if self.kind == "ctas":
            return False
        try:
            return self.changes_nothing or self.marked_safe or self._leaves_the_same()
        except ScriptSyntaxError:
            return False

    def _leaves_the_same(self) -> bool:
        if self._behind is None:
            return False
        match self.verb:
            case "truncate":
                return True
            case "insert":
                return _replaces_all(self._reader()) and not self.reads_own_target
            case "create":
                return _creates_once(self._reader())
            case "drop":
                return _drops_if_there(self._reader())
            case "alter":
                return _alters_partitions(self._reader())
        return False

    @cached_property
    def reads_own_target(self) -> bool:
        """Whether an INSERT's query may read the table that it writes. True when in doubt.

        Any mention of the table's name counts, with a database or without, also as a column or an alias. What only the
        catalog knows, a view over the table, cannot be seen here.
        """
        if self.verb != "insert":
            return True
        try:
            reader = self._reader()
            reader.take("into", "overwrite")
            reader.take("table")
            start = reader.here.start
            target = reader.path()
            if not target:
                return True
            mentions = mentions_of(target[-1], self.sql)
            return any(not start <= mention < reader.here.start for mention in mentions)
        except ScriptSyntaxError:
            return True

    @cached_property
    def effects(self) -> Effects:
        """What it changes, and what it sets for its session."""
        if self.is_empty:
            return Effects()
        if self._behind is None:
            return UNKNOWN
        try:
            found = effects_of(self.verb, self._reader())
            if self.kind == "ctas" and _creates_once(self._reader()):
                # A table that is there already: it ends without a wait (ExecDdlRequestImpl, new_table_created).
                return Effects(tuple(replace(each, renews="perhaps") for each in found.changes))
            return found
        except ScriptSyntaxError:
            return Effects() if self.session_only else UNKNOWN

    def _reader(self) -> Reader:
        """Behind the verb."""
        assert self._behind is not None
        return Reader(self.sql, self._behind)


def classify(sql: str) -> Classification:
    """What a statement is.

    :param sql: one statement, as it is sent.
    """
    return Classification(sql)


def excerpt(sql: str, chars: int = 80) -> str:
    """How a statement begins, on one line, to recognise it by in a log.

    :param sql: one statement; comments and hints before it are left out.
    :param chars: how many characters at most; default 80.
    :returns: text in which no character moves a cursor or turns the direction of the text.
    """
    start = 0
    try:
        while (token := token_at(sql, start)).kind in ("comment", "hint") or token.text == "(":
            start = token.end
        start = token.start
    except ScriptSyntaxError:
        pass
    text = plain(" ".join(sql[start : start + 4 * chars].split()))
    return text if len(text) <= chars else text[: chars - 3] + "..."


def _pass_with(reader: Reader) -> bool:
    """Pass the views of a WITH clause (``with_view_def_list``). Behind them stand a query, an INSERT or an UPSERT.

    What is no such list is not understood: a sign that is none of this lexer's, but a letter to the server's, would
    end a name too early.
    """
    while True:
        if reader.here.kind not in ("word", "name", "string"):
            return False
        reader.next()
        reader.parentheses()  # names of its columns
        if not (reader.take("as") and reader.parentheses()):
            return False
        if not reader.take(","):
            return reader.here.kind in ("word", "sign") and reader.here.text in (
                "select",
                "values",
                "(",
                "insert",
                "upsert",
            )


def _is_ctas(reader: Reader) -> bool:
    """:param reader: behind CREATE."""
    reader.take_all("or", "replace")  # Spark's
    reader.take("external")
    if not reader.take("table"):
        return False
    while reader.skip_to("as"):
        reader.next()
        if reader.here.kind in ("word", "sign") and reader.here.text in ("select", "values", "with", "("):
            return True
    return False


def _replaces_all(reader: Reader) -> bool:
    """INSERT OVERWRITE whose second run replaces every row of the first, whatever that one's query found.

    Only of partitions that are named in full. Those that are named by the rows are not sure: rows that came meanwhile,
    or a ``now()``, may leave a partition of the first run that the second does not touch. Without PARTITION they are so
    on an Iceberg table with partitions (``docs/topics/impala_iceberg.xml``; IcebergCatalogOpExecutor.java,
    newReplacePartitions), and the text does not tell what kind of table it is.
    """
    if not reader.take("overwrite"):
        return False
    reader.take("table")
    reader.path()
    start = reader.here
    if not (reader.take("partition") and reader.take("(")):
        return False
    has_value = False
    while reader.here.kind not in ("end", "unexpected"):
        if reader.parentheses():
            continue
        token = reader.next()
        if token.kind != "sign":
            continue
        has_value |= token.text == "="
        if token.text in ",)":
            if not has_value:
                return False
            if token.text == ")":
                return _computes_nothing(Reader(reader.sql, start), token.end)
            has_value = False
    return False


def _computes_nothing(reader: Reader, end: int) -> bool:
    """Whether the partitions that are named here are the same ones at any time, and on any host.

    A value may be any constant expression (``PartitionKeyValue.analyze``, ``PartitionSet``, ``RangePartition``), and a
    call of ``now()`` is a constant (``FunctionCallExpr.isConstantImpl``). So no function is called, none is even
    guessed to be harmless: a ``(`` stands behind no name but those below. None of Impala's functions goes without.

    :param reader: at ``PARTITION``.
    :param end: the offset to look up to.
    """
    before, last = ("sign", ""), ("sign", "")
    while reader.here.start < end and reader.here.kind != "end":
        token = reader.next()
        if token.kind == "unexpected" or (token.kind == "word" and token.text in _COMPUTED):
            return False
        if token[:2] == ("sign", "(") and last[0] != "sign" and (last not in _NO_CALLS or before == ("sign", ".")):
            return False
        before, last = last, token[:2]
    return True


def _creates_once(reader: Reader) -> bool:
    reader.take("external", "aggregate")
    kind = reader.take("table", "view", "database", "schema", "function")
    return kind is not None and reader.take_all("if", "not", "exists")


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
    start = reader.here
    return bool(reader.take("partition")) and _computes_nothing(Reader(reader.sql, start), len(reader.sql))
