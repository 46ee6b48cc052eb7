"""What a statement changes, and what a session sets for itself: what another coordinator must be told before a script
goes on, or builds on it, there.

The grammar is that of Impala's ``common/cup/sql-parser.cup``, as far as it says what a statement changes.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Mapping
from typing import Literal

import msgspec

from airflow_provider_impala_lb.impala.sql.lexer import JAVA_BLANKS, Reader

Action = Literal["data", "definition", "dropped", "unknown"]
Renews = Literal["always", "with rows", "rows but Kudu's", "perhaps"]
"""Whether a statement that ended well has given its object a new version in the catalog. With SYNC_DDL Impala waits
until every coordinator has that version, and with it all that was changed before; without one it waits for nothing
(``CatalogServiceCatalog.waitForSyncDdlVersion``, ``ImpalaServer::ProcessCatalogUpdateResult``).

* ``always``: by its kind. CREATE TABLE IF NOT EXISTS, too: with SYNC_DDL on, the table that is there gets a new version
  (``CatalogOpExecutor.createTable``). REFRESH answers with the table as it is, whether it found something or not.
* ``with rows``: if it wrote some (``ClientRequestState::UpdateCatalog``: "No partitions altered").
* ``rows but Kudu's``: the same, unless the table is Kudu's or HBase's, which the text does not tell: their rows are no
  matter of the catalog, and every coordinator sees them at once.
* ``perhaps``: IF EXISTS and the like; what may have found nothing to do.
"""

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
    :ivar renews: whether a new version in the catalog comes of it; default ``perhaps``.
    """

    action: Action
    database: str | None = None
    table: str | None = None
    renews: Renews = "perhaps"

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
_KUDU: Renews = "rows but Kudu's"
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


def _of(action: Action, path: tuple[str, ...], renews: Renews = "perhaps") -> tuple[Change, ...]:
    """:param path: of a table. Names that no metastore takes are not passed on: they would be put into SQL again."""
    if len(path) not in (1, 2) or not all(map(_PLAIN_NAME.fullmatch, path)):
        return _UNKNOWN
    return (Change(action, path[0] if len(path) == 2 else None, path[-1], renews),)


def _of_database(action: Action, path: tuple[str, ...], renews: Renews) -> tuple[Change, ...]:
    if len(path) != 1 or not _PLAIN_NAME.fullmatch(path[0]):
        return _UNKNOWN
    return (Change(action, path[0], None, renews),)


def _insert(reader: Reader) -> tuple[Change, ...]:
    how = reader.take("into", "overwrite")
    if how is None:
        return _UNKNOWN
    reader.take("table")
    path = reader.path()
    reader.parentheses()  # names of its columns
    # Neither Kudu's tables nor HBase's take OVERWRITE or PARTITION (InsertStmt.java).
    certain = how == "overwrite" or reader.take("partition")
    return _of("data", path, "with rows" if certain else _KUDU)


def _load(reader: Reader) -> tuple[Change, ...]:
    if reader.skip_to("into") and reader.take_all("into", "table"):
        return _of("data", reader.path(), "always")
    return _UNKNOWN


def _truncate(reader: Reader) -> tuple[Change, ...]:
    reader.take("table")
    unsure = reader.take_all("if", "exists")
    return _of("data", reader.path(), "perhaps" if unsure else "always")


def _update_or_delete(reader: Reader) -> tuple[Change, ...]:
    """``UPDATE t SET .. [FROM ..]``, ``DELETE [FROM] t ..``, ``DELETE t FROM .. JOIN ..``: t may be an alias there."""
    from_first = reader.take("from")
    target = reader.path()
    if len(target) == 1 and not from_first and _skip_to_from(reader):
        reader.take("from")
        return _aliased(reader, target[0])
    # What could not be read to its end may have held a FROM.
    return _UNKNOWN if reader.here.kind == "unexpected" else _of("data", target, _KUDU)


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
            return _of("data", path, _KUDU)
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
    return _of("data", reader.path(), _KUDU)


def _optimize(reader: Reader) -> tuple[Change, ...]:
    reader.take("table")
    return _of("data", reader.path())


def _refresh(reader: Reader) -> tuple[Change, ...]:
    """It brings what Hive or Spark wrote, to this coordinator at once and to the others as late as anything else."""
    if reader.take("authorization"):
        return ()
    return _UNKNOWN if reader.take("functions") else _of("data", reader.path(), "always")


def _invalidate(reader: Reader) -> tuple[Change, ...]:
    reader.take("metadata")
    return _of("definition", reader.path(), "always")  # without a name: everything


def _create(reader: Reader) -> tuple[Change, ...]:
    reader.take_all("or", "replace")
    reader.take("external")
    kind = reader.take("table", "view", "database", "schema", "role")
    if_new = reader.take_all("if", "not", "exists")
    return _definition(kind, reader, "perhaps" if if_new and kind == "view" else "always")


def _alter(reader: Reader) -> tuple[Change, ...]:
    kind = reader.take("table", "view", "database", "schema")
    found = _definition(kind, reader, "always")
    if reader.take_all("rename", "to") and found != _UNKNOWN:
        old = Change("dropped", found[0].database, found[0].table, "always")
        return (old, *_of("definition", reader.path(), "always"))
    # CatalogOpExecutor.alterTable: the table is in the answer only if it has a new version.
    unsure = reader.skip_to("if", "recover", "partition")
    return tuple(msgspec.structs.replace(each, renews="perhaps") for each in found) if unsure else found


def _comment(reader: Reader) -> tuple[Change, ...]:
    reader.take("on")
    if reader.take("column"):
        return _of("definition", reader.path()[:-1], "always")
    return _definition(reader.take("table", "view", "database"), reader, "always")


def _definition(kind: str | None, reader: Reader, renews: Renews) -> tuple[Change, ...]:
    if kind in ("table", "view"):
        return _of("definition", reader.path(), renews)
    if kind in ("database", "schema"):
        return _of_database("definition", reader.path(), renews)
    return () if kind == "role" else _UNKNOWN  # functions, data sources


def _drop(reader: Reader) -> tuple[Change, ...]:
    reader.take("incremental")
    kind = reader.take("table", "view", "database", "schema", "stats", "role")
    renews: Renews = "perhaps" if reader.take_all("if", "exists") else "always"
    if kind in ("table", "view"):
        return _of("dropped", reader.path(), renews)
    if kind in ("database", "schema"):
        return _of_database("dropped", reader.path(), renews)
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
        # What others may not have heard of, by name: whether its definition is part of that. "": what has no name here.
        self._pending: dict[str, bool] = {}

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
        """All coordinators have heard of all changes. A last statement with SYNC_DDL is not enough: Impala waits for
        what that one has changed, and for nothing if it has changed nothing, or rows of Kudu."""
        return not self._pending

    @property
    def unpublished(self) -> list[str] | None:
        """What they may not have heard of: ``db.table``, or ``db`` for a database; None: not only this is known."""
        return None if "" in self._pending else list(self._pending)

    def note_published(self, names: Iterable[str]) -> None:
        """All coordinators have heard of these.

        :param names: as in :attr:`unpublished`.
        """
        for name in names:
            self._pending.pop(name, None)

    def keep_unpublished(self, names: Iterable[str]) -> None:
        """All coordinators have heard of all but these.

        :param names: as in :attr:`unpublished`.
        """
        self._pending = dict.fromkeys(names, True)

    def note(self, effects: Effects, *, broadcast: bool = True, synced: bool = False, rows: int | None = None) -> None:
        """A statement is done, or its outcome is not known.

        :param effects: what it does.
        :param broadcast: False if it ended in Impala's "its effects may have not been broadcast"; default True.
        :param synced: it was sent with SYNC_DDL of its own; default False: as the session has it.
        :param rows: how many it wrote; default None: not known.
        """
        if effects.setting is not None:
            self._note_setting(effects.setting)
        for change in effects.changes:
            name = change.name(self.database)
            self._note_pending(change, name or "", synced=(self._sync_ddl or synced) and broadcast, rows=rows)
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

    def _note_pending(self, change: Change, name: str, *, synced: bool, rows: int | None) -> None:
        if not synced:
            if name not in self._pending and len(self._pending) >= MOST_NAMES:
                name = ""
            self._pending[name] = self._pending.get(name, False) or change.action != "data"
        elif change.renews == "always" or (rows and change.renews == "with rows"):
            self._pending.pop(name, None)
            if change.action == "dropped" and change.table is None:
                self.note_published([each for each in self._pending if each.startswith(f"{name}.")])
        elif rows and change.renews == _KUDU and self._pending.get(name) is False:
            del self._pending[name]  # rows alone: either all have heard of them, or nobody has to

    def _note_setting(self, setting: Setting) -> None:
        """USE, and SET of SYNC_DDL."""
        self.database = setting.database or self.database
        if setting.option == "SYNC_DDL":
            self._sync_ddl = setting.value.lower() in ("1", "true")
        elif setting.unset_all:
            self._sync_ddl = False


def to_broadcast(script: Iterable[Effects], database: str | None) -> frozenset[int]:
    """Which statements of a script have to wait, with SYNC_DDL, so that at its end all coordinators know what it did:
    the last one that changes each table, and where that may change nothing in the catalog, or rows alone, the last one
    before it that does more. What turns out to have changed nothing is for :attr:`WrittenTables.unpublished`.

    :param script: what its statements do, in order.
    :param database: the session's; None: not known.
    :returns: their numbers, from 1.
    """
    waiting: dict[tuple[str, str], int] = {}
    for number, effects in enumerate(script, 1):
        if effects.setting is not None:
            database = effects.setting.database or database
        for change in effects.changes:
            # One name in two spellings, with and without its database: both wait.
            name = change.name(database or "") or f"statement {number}"
            if change.renews == "always":
                for each in [key for key in waiting if key[0] == name]:
                    del waiting[each]
            waiting[name, change.renews if change.renews == "perhaps" else change.action] = number
    return frozenset(waiting.values())


def still_set(script: Iterable[Effects]) -> list[int]:
    """Which statements have made a session's settings what they are: the last USE, of each option the last SET, and the
    last UNSET ALL with what was set after it. A database that was left again may be dropped since.

    :param script: what its statements do, in order.
    :returns: their numbers, from 1, in order.
    """
    last: dict[str, int] = {}
    for number, effects in enumerate(script, 1):
        setting = effects.setting
        if setting is None:
            continue
        if setting.unset_all:  # the database stays (``ResetAllQueryOptions``)
            last = {key: earlier for key, earlier in last.items() if key == "USE"}
        # No option has such a name as these two.
        last["USE" if setting.database else "UNSET ALL" if setting.unset_all else setting.option or ""] = number
    return sorted(last.values())


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
