"""What common-sql asks a dialect about tables, answered by Impala's DESCRIBE rather than by SQLAlchemy."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from airflow.providers.common.sql.dialects.dialect import Dialect


class ImpalaDialect(Dialect):
    """Of an :class:`~.impala_lb.ImpalaLBHook`. Nothing is kept: a table may change between two questions."""

    def columns(self, table: str, schema: str | None = None) -> list[dict[str, str]]:
        """``name`` and ``type`` of each column, partition columns last.

        :param table: its name, maybe with its database; each part may be in backticks.
        :raises StatementFailed: the node does not know it.
        """
        parts = ([schema] if schema else []) + table.split(".")
        found = self.hook.get_records("DESCRIBE " + ".".join(quoted(part) for part in parts))
        return [{"name": row[0], "type": row[1]} for row in found]

    def get_column_names(
        self, table: str, schema: str | None = None, predicate: Callable[[Any], bool] = lambda column: True
    ) -> list[str]:
        return [column["name"] for column in self.columns(table, schema) if predicate(column)]

    def get_target_fields(self, table: str, schema: str | None = None) -> list[str]:
        return self.get_column_names(table, schema)

    def get_primary_keys(self, table: str, schema: str | None = None) -> list[str] | None:
        """None: only Kudu tables have some, and no statement here needs them."""
        return None


def quoted(name: str) -> str:
    """A name of a database, table or column in backticks, so that it may be a reserved word."""
    return name if name.startswith("`") else f"`{name}`"
