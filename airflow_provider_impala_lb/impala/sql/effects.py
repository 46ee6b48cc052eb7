"""What a statement changes, and what a session sets for itself: what another coordinator must be told before a script
goes on, or builds on it, there.

The grammar is that of Impala's ``common/cup/sql-parser.cup``, as far as it says what a statement changes.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from typing import Literal

import msgspec

from airflow_provider_impala_lb.impala.sql.lexer import JAVA_BLANKS, Reader

Action = Literal["data", "definition", "dropped", "unknown"]

MOST_NAMES = 200
"""How many names are kept: they travel in an XCom, and nobody refreshes more of them one by one."""

# Nothing of these can make a query on another coordinator wrong: privileges are asked for anew, statistics only choose
# plans, EXPLAIN runs nothing.
_CHANGES_NOTHING = frozenset(
    {"select", "values", "(", "show", "describe", "desc", "explain"}
    | {"use", "set", "unset", "compute", "grant", "revoke", "kill", ":"}
)
_PLAIN_NAME = re.compile(r"\w+")  # all that the metastore takes (MetaStoreUtils.validateName)


class Change(msgspec.Struct, frozen=True):
    """One thing that a statement changes.

    :ivar action: ``data`` (rows, files, partitions), ``definition`` (new or altered), ``dropped``; ``unknown``: the
        statement is none that is known here, or changes something that is no table.
    :ivar database: in lower case, as the statement names it; None: the session's, or not known.
    :ivar table: a table or a view, in lower case; None: the database itself, or not known.
    """

    action: Action
    database: str | None = None
    table: str | None = None

    def name(self, session_database: str) -> str | None:
        """What is changed.

        :param session_database: the one in use when the statement ran.
        :returns: ``db.table``, or ``db`` for a database; None: it is not known.
        """
        if self.table is None:
            return self.database
        return f"{self.database or session_database.lower()}.{self.table}"


class Setting(msgspec.Struct, frozen=True):
    """What a statement sets for its session.

    :ivar database: by USE; else None.
    :ivar option: by SET, in capitals; else None.
    :ivar value: the option's text; "" stands for the default.
    :ivar unset_all: UNSET ALL.
    """

    database: str | None = None
    option: str | None = None
    value: str = ""
    unset_all: bool = False


class Effects(msgspec.Struct, frozen=True):
    """What a statement does beside giving rows.

    :ivar changes: nothing, one thing, or two (a renamed table: the old name and the new one).
    :ivar setting: of USE, SET and UNSET; else None.
    """

    changes: tuple[Change, ...] = ()
    setting: Setting | None = None


UNKNOWN = Effects((Change("unknown"),))
_UNKNOWN = UNKNOWN.changes
# What may follow a table in FROM and is no alias (``table_ref_list``).
_AFTER_A_TABLE = frozenset(
    {"on", "using", "join", "inner", "left", "right", "full", "cross", "where", "tablesample", "set", "for", "unpivot"}
)


def effects_of(verb: str, reader: Reader) -> Effects:
    """What one statement does.

    :param verb: the word that says what kind of statement it is, in lower case; "" for none.
    :param reader: behind it.
    :raises ScriptSyntaxError: a string or a comment behind it has no end.
    """
    if verb in ("use", "set", "unset"):
        return Effects(setting=_setting(verb, reader))
    if verb in _CHANGES_NOTHING:
        return Effects()
    read = _READERS.get(verb)
    return Effects(read(reader)) if read else UNKNOWN


def _setting(verb: str, reader: Reader) -> Setting | None:
    """``use_stmt``, ``set_stmt``, ``unset_stmt``."""
    if verb == "use":
        path = reader.path()
        return Setting(database=".".join(path)) if path else None
    if verb == "unset":
        return Setting(unset_all=True) if reader.take("all") else None
    if reader.here.kind not in ("word", "name"):
        return None
    option = reader.next().text.upper()
    if not option or not reader.take("="):
        return None
    token = reader.here
    if token.kind in ("string", "name"):
        value = reader.sql[token.start + 1 : token.end - 1]
        return Setting(option=option, value=value if token.kind == "string" else value.strip(JAVA_BLANKS))
    value, end = "", token.start
    while token.kind != "end" and token.start == end:
        value, end = value + reader.sql[token.start : token.end], token.end
        reader.next()
        token = reader.here
    return Setting(option=option, value=value)


def _of(action: Action, path: tuple[str, ...]) -> tuple[Change, ...]:
    """:param path: of a table. Names that no metastore takes are not passed on: they would be put into SQL again."""
    if len(path) not in (1, 2) or not all(map(_PLAIN_NAME.fullmatch, path)):
        return _UNKNOWN
    return (Change(action, path[0] if len(path) == 2 else None, path[-1]),)


def _of_database(action: Action, path: tuple[str, ...]) -> tuple[Change, ...]:
    if len(path) != 1 or not _PLAIN_NAME.fullmatch(path[0]):
        return _UNKNOWN
    return (Change(action, path[0]),)


def _insert(reader: Reader) -> tuple[Change, ...]:
    if not reader.take("into", "overwrite"):
        return _UNKNOWN
    reader.take("table")
    return _of("data", reader.path())


def _load(reader: Reader) -> tuple[Change, ...]:
    if reader.skip_to("into") and reader.take_all("into", "table"):
        return _of("data", reader.path())
    return _UNKNOWN


def _truncate(reader: Reader) -> tuple[Change, ...]:
    reader.take("table")
    reader.take_all("if", "exists")
    return _of("data", reader.path())


def _update_or_delete(reader: Reader) -> tuple[Change, ...]:
    """``UPDATE t SET .. [FROM ..]``, ``DELETE [FROM] t ..``, ``DELETE t FROM .. JOIN ..``: t may be an alias there."""
    from_first = reader.take("from")
    target = reader.path()
    if len(target) == 1 and not from_first and _skip_to_from(reader):
        reader.take("from")
        return _aliased(reader, target[0])
    # What could not be read to its end may have held a FROM.
    return _UNKNOWN if reader.here.kind == "unexpected" else _of("data", target)


def _skip_to_from(reader: Reader) -> bool:
    """Go on to FROM, that of IS [NOT] DISTINCT FROM excepted. False: there is none before WHERE."""
    while (found := reader.skip_to("from", "where", "distinct")) == "distinct":
        reader.next()
        reader.take("from")
    return found == "from"


def _aliased(reader: Reader, target: str) -> tuple[Change, ...]:
    """:param reader: after FROM. A table answers to its alias, or else to its own name without the database."""
    while True:
        path = reader.path()
        has_as = reader.take("as")
        token, alias = reader.here, ""
        if token.kind == "name" or (token.kind == "word" and (has_as or token.text not in _AFTER_A_TABLE)):
            alias = token.text
        elif token.kind == "string":  # ``alias_clause`` takes one
            alias = token.text[1:-1].lower()
        if path and (alias or path[-1]) == target:
            return _of("data", path)
        if not _to_next_table(reader):
            return _UNKNOWN  # no table of that name, or a view made in place


def _to_next_table(reader: Reader) -> bool:
    while reader.here.kind not in ("end", "unexpected"):
        if reader.take("join", ","):
            return True
        if not reader.parentheses():
            reader.next()
    return False


def _merge(reader: Reader) -> tuple[Change, ...]:
    reader.take("into")
    return _of("data", reader.path())


def _optimize(reader: Reader) -> tuple[Change, ...]:
    reader.take("table")
    return _of("data", reader.path())


def _refresh(reader: Reader) -> tuple[Change, ...]:
    """It brings what Hive or Spark wrote, to this coordinator at once and to the others as late as anything else."""
    if reader.take("authorization"):
        return ()
    return _UNKNOWN if reader.take("functions") else _of("data", reader.path())


def _invalidate(reader: Reader) -> tuple[Change, ...]:
    reader.take("metadata")
    return _of("definition", reader.path())  # without a name: everything


def _create(reader: Reader) -> tuple[Change, ...]:
    reader.take_all("or", "replace")
    reader.take("external")
    kind = reader.take("table", "view", "database", "schema", "role")
    reader.take_all("if", "not", "exists")
    return _definition(kind, reader)


def _alter(reader: Reader) -> tuple[Change, ...]:
    kind = reader.take("table", "view", "database", "schema")
    found = _definition(kind, reader)
    if reader.take_all("rename", "to") and found != _UNKNOWN:
        return (Change("dropped", found[0].database, found[0].table), *_of("definition", reader.path()))
    return found


def _comment(reader: Reader) -> tuple[Change, ...]:
    reader.take("on")
    if reader.take("column"):
        return _of("definition", reader.path()[:-1])
    return _definition(reader.take("table", "view", "database"), reader)


def _definition(kind: str | None, reader: Reader) -> tuple[Change, ...]:
    if kind in ("table", "view"):
        return _of("definition", reader.path())
    if kind in ("database", "schema"):
        return _of_database("definition", reader.path())
    return () if kind == "role" else _UNKNOWN  # functions, data sources


def _drop(reader: Reader) -> tuple[Change, ...]:
    reader.take("incremental")
    kind = reader.take("table", "view", "database", "schema", "stats", "role")
    reader.take_all("if", "exists")
    if kind in ("table", "view"):
        return _of("dropped", reader.path())
    if kind in ("database", "schema"):
        return _of_database("dropped", reader.path())
    return () if kind in ("stats", "role") else _UNKNOWN


_READERS: dict[str, Callable[[Reader], tuple[Change, ...]]] = {
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
    :param sync_ddl: SYNC_DDL at the session's beginning; default False.
    :ivar database: the one in use now.
    :ivar more: there were more than 200 names, and not all were kept.
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
        """What is there with new rows or a new definition: ``db.table``, or ``db`` for a database."""
        return [name for name, action in self._actions.items() if action != "dropped"]

    @property
    def dropped(self) -> list[str]:
        """What is there no more: ``db.table``, or ``db`` for a database."""
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

    def note(self, effects: Effects, *, broadcast: bool = True) -> None:
        """A statement is done, or its outcome is not known.

        :param effects: what it does.
        :param broadcast: False if it ended in Impala's "its effects may have not been broadcast"; default True.
        """
        if effects.setting is not None:
            self._note_setting(effects.setting)
        for change in effects.changes:
            self._unpublished |= not (self._sync_ddl and broadcast)
            name = change.name(self.database)
            if name is None:
                self._unknown = True
                continue
            if change.action == "dropped" and change.table is None:
                inside = [each for each in self._actions if each.startswith(f"{name}.")]
                for each in inside:
                    del self._actions[each]
            self._actions.pop(name, None)  # the order is that of the last changes
            if len(self._actions) < MOST_NAMES:
                self._actions[name] = change.action
            else:
                self.more = True

    def _note_setting(self, setting: Setting) -> None:
        """USE, and SET of SYNC_DDL."""
        self.database = setting.database or self.database
        if setting.option == "SYNC_DDL":
            self._sync_ddl = setting.value.lower() in ("1", "true")
        elif setting.unset_all:
            self._sync_ddl = False


class SessionData:
    """What a session has set for itself by USE and SET, read off the statements that ended well.

    Impala tells no client what a session has set, so the statements do. It goes along when a session key moves.

    :param database: the one in use at the beginning; None: the connection's.
    :param options: what was set before; None: nothing.
    :ivar database: the one in use; None: the connection's.
    :ivar options: what was set, by name in capitals.
    """

    def __init__(self, database: str | None = None, options: Mapping[str, str] | None = None) -> None:
        self.database = database
        self.options = dict(options or {})

    def note(self, effects: Effects) -> None:
        """A statement ended well.

        :param effects: what it does.
        """
        setting = effects.setting
        if setting is None:
            return
        self.database = setting.database or self.database
        if setting.unset_all:
            self.options.clear()
        elif setting.option is not None:
            if setting.value:
                self.options[setting.option] = setting.value
            else:
                self.options.pop(setting.option, None)
