"""Which tables a script has changed: what another coordinator must be told before a script that reads them runs there.

The grammar is that of Impala's ``fe/src/main/cup/sql-parser.cup``, as far as it says what a statement changes.
"""

from __future__ import annotations

import re
from collections.abc import Callable
from typing import Literal

import msgspec

from airflow_provider_impala_lb.impala.sql.lexer import Reader
from airflow_provider_impala_lb.impala.sql.shell_compat import Refused

Action = Literal["data", "definition", "dropped", "unknown"]

MOST_NAMES = 200
"""So many names are kept: they travel in an XCom, and nobody refreshes more of them one by one."""

# Nothing of these can make a query on another coordinator wrong: privileges are asked for anew, statistics only choose
# plans, EXPLAIN runs nothing.
_CHANGES_NOTHING = frozenset(
    {"select", "values", "(", "show", "describe", "desc", "explain"}
    | {"use", "set", "unset", "compute", "grant", "revoke", "kill", ":"}
)
_PLAIN_NAME = re.compile(r"\w+")  # all that the metastore takes (MetaStoreUtils.validateName)


class Written(msgspec.Struct, frozen=True):
    """One thing that a statement changes.

    :param name: ``db.table`` for a table or a view, ``db`` for a database, in lower case; None if it is not known.
    :param action: ``data`` (rows, files, partitions), ``definition`` (new or altered), ``dropped``; ``unknown``: the
        statement is none that is known here, or changes something that is no table.
    """

    name: str | None
    action: Action


_UNKNOWN = [Written(None, "unknown")]
# What may follow a table in FROM and is no alias (``table_ref_list``); the empty text: the end.
_AFTER_A_TABLE = frozenset(
    {"", ",", ")", "on", "using", "join", "inner", "left", "right", "full", "cross", "where", "tablesample"}
)


def written_by(sql: str, database: str | None = None) -> list[Written]:
    """What one statement changes: nothing, one thing, or two (a renamed table: the old name and the new one).

    :param sql: one statement; comments, labels and hints may stand anywhere in it.
    :param database: what names without one belong to; None: Impala's own, ``default``.
    """
    try:
        reader = Reader(sql)
    except Refused:
        return _UNKNOWN
    database = (database or "default").lower()
    if not reader.tokens:
        return []
    if reader.take("with") and not reader.skip_to("select", "values", *_READERS):
        return []  # the query stands in parentheses: nothing that changes something does
    first = reader.here.text if reader.here.kind != "name" else ""
    reader.at += 1
    if first in _CHANGES_NOTHING:
        return []
    read = _READERS.get(first)
    return read(reader, database) if read else _UNKNOWN


def _of(action: Action, path: tuple[str, ...], database: str) -> list[Written]:
    """:param path: of a table. Names that no metastore takes are not passed on: they would be put into SQL again."""
    if len(path) == 1:
        path = (database, *path)
    if len(path) != 2 or not all(map(_PLAIN_NAME.fullmatch, path)):
        return _UNKNOWN
    return [Written(".".join(path), action)]


def _of_database(action: Action, path: tuple[str, ...]) -> list[Written]:
    if len(path) != 1 or not _PLAIN_NAME.fullmatch(path[0]):
        return _UNKNOWN
    return [Written(path[0], action)]


def _insert(reader: Reader, database: str) -> list[Written]:
    if not reader.take("into", "overwrite"):
        return _UNKNOWN
    reader.take("table")
    return _of("data", reader.path(), database)


def _load(reader: Reader, database: str) -> list[Written]:
    if reader.skip_to("into") and reader.take_all("into", "table"):
        return _of("data", reader.path(), database)
    return _UNKNOWN


def _truncate(reader: Reader, database: str) -> list[Written]:
    reader.take("table")
    reader.take_all("if", "exists")
    return _of("data", reader.path(), database)


def _update_or_delete(reader: Reader, database: str) -> list[Written]:
    """``UPDATE t SET .. [FROM ..]``, ``DELETE [FROM] t ..``, ``DELETE t FROM .. JOIN ..``: t may be an alias there."""
    reader.take("from")
    target = reader.path()
    if len(target) == 1 and reader.skip_to("from", "where") == "from":
        reader.take("from")
        return _aliased(reader, target, database)
    return _of("data", target, database)


def _aliased(reader: Reader, target: tuple[str, ...], database: str) -> list[Written]:
    """:param reader: after FROM. A table answers to its alias, or else to its own name without the database."""
    while True:
        path = reader.path()
        reader.take("as")
        alias = reader.here.text if reader.here.kind == "name" or reader.here.text not in _AFTER_A_TABLE else ""
        if path and (alias or path[-1]) == target[0]:
            return _of("data", path, database)
        if not _to_next_table(reader):
            return _UNKNOWN  # no table of that name, or a view made in place


def _to_next_table(reader: Reader) -> bool:
    depth = 0
    while reader.at < len(reader.tokens):
        token = reader.here
        if depth == 0 and token.text in ("join", ",") and token.kind != "name":
            reader.at += 1
            return True
        if token.kind == "sign":
            depth += (token.text == "(") - (token.text == ")")
        reader.at += 1
    return False


def _merge(reader: Reader, database: str) -> list[Written]:
    reader.take("into")
    return _of("data", reader.path(), database)


def _optimize(reader: Reader, database: str) -> list[Written]:
    reader.take("table")
    return _of("data", reader.path(), database)


def _refresh(reader: Reader, database: str) -> list[Written]:
    """It brings what Hive or Spark wrote, to this coordinator at once and to the others as late as anything else."""
    if reader.take("authorization"):
        return []
    return _UNKNOWN if reader.take("functions") else _of("data", reader.path(), database)


def _invalidate(reader: Reader, database: str) -> list[Written]:
    reader.take("metadata")
    return _of("definition", reader.path(), database)  # without a name: everything


def _create(reader: Reader, database: str) -> list[Written]:
    reader.take_all("or", "replace")
    reader.take("external")
    kind = reader.take("table", "view", "database", "schema", "role")
    reader.take_all("if", "not", "exists")
    return _definition(kind, reader, database)


def _alter(reader: Reader, database: str) -> list[Written]:
    kind = reader.take("table", "view", "database", "schema")
    found = _definition(kind, reader, database)
    if reader.take_all("rename", "to") and found != _UNKNOWN:
        return [Written(found[0].name, "dropped"), *_of("definition", reader.path(), database)]
    return found


def _comment(reader: Reader, database: str) -> list[Written]:
    reader.take("on")
    if reader.take("column"):
        return _of("definition", reader.path()[:-1], database)
    return _definition(reader.take("table", "view", "database"), reader, database)


def _definition(kind: str | None, reader: Reader, database: str) -> list[Written]:
    if kind in ("table", "view"):
        return _of("definition", reader.path(), database)
    if kind in ("database", "schema"):
        return _of_database("definition", reader.path())
    return [] if kind == "role" else _UNKNOWN  # functions, data sources


def _drop(reader: Reader, database: str) -> list[Written]:
    reader.take("incremental")
    kind = reader.take("table", "view", "database", "schema", "stats", "role")
    reader.take_all("if", "exists")
    if kind in ("table", "view"):
        return _of("dropped", reader.path(), database)
    if kind in ("database", "schema"):
        return _of_database("dropped", reader.path())
    return [] if kind in ("stats", "role") else _UNKNOWN


_READERS: dict[str, Callable[[Reader, str], list[Written]]] = {
    "insert": _insert,
    "upsert": _insert,
    "update": _update_or_delete,
    "delete": _update_or_delete,
    "merge": _merge,
    "load": _load,
    "truncate": _truncate,
    "optimize": _optimize,
    "refresh": _refresh,
    "invalidate": _invalidate,
    "create": _create,
    "alter": _alter,
    "drop": _drop,
    "comment": _comment,
}


class WrittenTables:
    """What a session has changed so far, read off its statements. Only the latest action on each name counts.

    :param database: the session's at its beginning; None: Impala's own, ``default``.
    :param sync_ddl: SYNC_DDL at the session's beginning.
    """

    def __init__(self, database: str | None = None, *, sync_ddl: bool = False) -> None:
        self.database = database or "default"
        self.more = False
        self._sync_ddl = sync_ddl
        self._actions: dict[str, Action] = {}
        self._unknown = False
        self._unpublished = False

    @property
    def written(self) -> list[str]:
        """Names (``db.table``, or ``db`` for a database) that are there, with new rows or a new definition."""
        return [name for name, action in self._actions.items() if action != "dropped"]

    @property
    def dropped(self) -> list[str]:
        return [name for name, action in self._actions.items() if action == "dropped"]

    @property
    def complete(self) -> bool:
        """False: something was changed that is not in the lists."""
        return not (self._unknown or self.more)

    @property
    def published(self) -> bool:
        """Every change was made with SYNC_DDL, so all coordinators had it when its statement ended. A last statement
        with SYNC_DDL is not enough: Impala then waits for what that one changed, and DML on Kudu waits for nothing."""
        return not self._unpublished

    def note(self, sql: str, *, broadcast: bool = True) -> None:
        """A statement is done, or its outcome is not known.

        :param broadcast: False if it ended in Impala's "its effects may have not been broadcast".
        """
        self._note_setting(sql)
        for change in written_by(sql, self.database):
            self._unpublished |= not (self._sync_ddl and broadcast)
            if change.name is None:
                self._unknown = True
                continue
            if change.action == "dropped" and "." not in change.name:
                inside = [name for name in self._actions if name.startswith(f"{change.name}.")]
                for name in inside:
                    del self._actions[name]
            self._actions.pop(change.name, None)  # the order is that of the last changes
            if len(self._actions) < MOST_NAMES:
                self._actions[change.name] = change.action
            else:
                self.more = True

    def _note_setting(self, sql: str) -> None:
        """USE, and SET of SYNC_DDL."""
        try:
            reader = Reader(sql)
        except Refused:
            return
        if reader.take("use"):
            self.database = ".".join(reader.path()) or self.database
        elif reader.take_all("set", "sync_ddl", "="):
            self._sync_ddl = reader.here.text.strip("'\"").lower() in ("1", "true")
        elif reader.take_all("unset", "all"):
            self._sync_ddl = False
