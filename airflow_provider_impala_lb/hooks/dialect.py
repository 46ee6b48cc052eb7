"""What common-sql asks a dialect about tables, answered by Impala's DESCRIBE rather than by SQLAlchemy."""

from __future__ import annotations

import re
from collections.abc import Callable
from typing import Any

from airflow.providers.common.sql.dialects.dialect import Dialect

from airflow_provider_impala_lb.errors import ScriptError

# A backslash takes the next character with it in Impala's backticks, too, and nothing stands for a backtick there
# (``QuotedIdentifier``, sql-scanner.flex).
_NAME = r"[^`\\\x00-\x1f\x7f\ud800-\udfff]+"
_TABLE_PART = re.compile(rf"(?:(\w+)|`({_NAME})`)(\.|\Z)")


class ImpalaDialect(Dialect):
    """The dialect of an :class:`~.impala_lb.ImpalaLBHook`. It keeps nothing: a table may change."""

    def columns(self, table: str, schema: str | None = None) -> list[dict[str, str]]:
        """The columns of a table.

        :param table: its name, maybe with its database; each part may be in backticks.
        :param schema: its database; None: the one that ``table`` names, or the session's.
        :returns: ``name`` and ``type`` of each, partition columns last.
        :raises ScriptError: a name is none.
        :raises StatementFailed: the node does not know it.
        """
        parts = ([schema] if schema else []) + table_parts(table)
        rows = self.hook.get_records("DESCRIBE " + ".".join(quoted(part) for part in parts))
        return [{"name": row[0], "type": row[1]} for row in rows]

    def get_column_names(
        self, table: str, schema: str | None = None, predicate: Callable[[Any], bool] = lambda column: True
    ) -> list[str]:
        """The names of a table's columns.

        :param table: as for :meth:`columns`.
        :param schema: as for :meth:`columns`.
        :param predicate: which columns are wanted, by their ``name`` and ``type``; default all.
        :raises ScriptError: a name is none.
        :raises StatementFailed: the node does not know the table.
        """
        return [column["name"] for column in self.columns(table, schema) if predicate(column)]

    def get_target_fields(self, table: str, schema: str | None = None) -> list[str]:
        """The columns that an INSERT fills: all of them.

        :param table: as for :meth:`columns`.
        :param schema: as for :meth:`columns`.
        :raises ScriptError: a name is none.
        :raises StatementFailed: the node does not know the table.
        """
        return self.get_column_names(table, schema)

    def get_primary_keys(self, table: str, schema: str | None = None) -> list[str] | None:
        """None: only Kudu tables have some, and no statement here needs them.

        :param table: of no effect.
        :param schema: of no effect.
        """
        return None


def quoted(name: str) -> str:
    """A name of a database, table or column in backticks, so that it may be a reserved word.

    :param name: may be in backticks.
    :raises ScriptError: no backticks make a name of it.
    """
    bare = name[1:-1] if isinstance(name, str) and len(name) > 2 and name[0] == name[-1] == "`" else name
    if not isinstance(bare, str) or not re.fullmatch(_NAME, bare):
        raise ScriptError(
            f"{name!a} is no name of a column, table or database: it may be in backticks, and have no other one, no "
            "backslash, no control character; nothing was sent",
            line=1,
        )
    return f"`{bare}`"


def table_parts(table: str) -> list[str]:
    """A table's name in its parts, without backticks.

    :param table: ``t`` or ``db.t``, either part maybe in backticks.
    :returns: of ``db.t`` the two.
    :raises ScriptError: it is something else.
    """
    parts, position = [], 0
    while isinstance(table, str) and (found := _TABLE_PART.match(table, position)):
        parts.append(found[1] or found[2])
        position = found.end()
        if not found[3]:
            return parts
    raise ScriptError(
        f"{table!a} is no name of a table: letters, digits and _, or anything in backticks, with a dot behind the "
        "database; nothing was sent",
        line=1,
    )
