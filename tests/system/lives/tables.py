"""What the tables of a script hold when each of its statements has run once, in order."""

from __future__ import annotations

import collections
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Literal

Row = tuple[int, str]
"""Number of the statement that wrote it, and the database that it was to go to."""
Tables = dict[str, "collections.Counter[Row]"]
"""By ``database.table``, of those that are there."""
Effect = Literal["", "add", "set", "empty", "make", "drop"]


@dataclass(frozen=True)
class Statement:
    """One statement of a script.

    :ivar number: from 1
    :ivar kind: as in `story.KINDS`
    :ivar sql: its text
    :ivar effect: what it does to ``table``; "": it changes nothing
    :ivar table: ``database.table``
    :ivar row: what it writes; None: no row
    :ivar safe: it may run again until a later one has begun
    :ivar rows: what a query must give; None: no query
    """

    number: int
    kind: str
    sql: str
    effect: Effect = ""
    table: str = ""
    row: Row | None = None
    safe: bool = False
    rows: tuple[Row, ...] | None = None

    @property
    def changes(self) -> bool:
        """Whether it changes a table."""
        return self.effect != ""


def apply(tables: Tables, statement: Statement) -> None:
    """What one run of the statement does.

    :param tables: changed in place
    :param statement: the statement
    """
    rows = [statement.row] if statement.row else []
    if statement.effect == "add":
        tables[statement.table].update(rows)
    elif statement.effect == "set":
        tables[statement.table] = collections.Counter(rows)
    elif statement.effect == "empty":
        tables[statement.table] = collections.Counter()
    elif statement.effect == "make":
        tables.setdefault(statement.table, collections.Counter(rows))
    elif statement.effect == "drop":
        tables.pop(statement.table, None)


def after(before: Iterable[str], statements: Sequence[Statement], done: int) -> Tables:
    """What is there when so many statements are done.

    :param before: the tables that were there, empty, when the script began
    :param statements: of the script
    :param done: how many
    """
    tables: Tables = {table: collections.Counter() for table in before}
    for statement in statements[:done]:
        apply(tables, statement)
    return tables
