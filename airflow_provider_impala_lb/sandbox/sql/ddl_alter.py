"""ALTER TABLE: a new name, more columns, properties."""

from __future__ import annotations

import re
from dataclasses import replace

from airflow_provider_impala_lb.sandbox.common.catalog import Change
from airflow_provider_impala_lb.sandbox.common.errors import analysis_error, server_error, syntax_error
from airflow_provider_impala_lb.sandbox.sql.analysis import Statement
from airflow_provider_impala_lb.sandbox.sql.ddl_change import NAME, changing
from airflow_provider_impala_lb.sandbox.sql.dialect import parse
from airflow_provider_impala_lb.sandbox.sql.plan import Plan
from airflow_provider_impala_lb.sandbox.sql.table_definition import columns_of


def alter(statement: Statement, text: str) -> Plan:
    """The plan of ALTER TABLE or ALTER VIEW.

    :param statement: it.
    :param text: its text, stripped.
    :raises Refused: ParseException or AnalysisException.
    """
    rename = re.fullmatch(rf"(?is)alter\s+(?:table|view)\s+{NAME}\s+rename\s+to\s+{NAME}", text)
    add = re.fullmatch(rf"(?is)alter\s+table\s+{NAME}\s+add\s+(?:if\s+not\s+exists\s+)?columns?\s*\(?(.*?)\)?", text)
    properties = re.fullmatch(rf"(?is)alter\s+table\s+{NAME}\s+set\s+tblproperties\s*\((.*)\)", text)
    partition = re.fullmatch(rf"(?is)alter\s+table\s+{NAME}\s+(?:add|drop|recover)\s.*partition.*", text)
    if rename:
        return _rename(statement, *(part.lower() if part else "" for part in rename.groups()))
    if add and not partition:
        return _add_columns(statement, *add.groups())
    if properties:
        return _set_properties(statement, *properties.groups())
    if re.match(r"(?i)alter\s+(table|view)\b", text):
        raise analysis_error("The sandbox supports RENAME TO, ADD COLUMNS and SET TBLPROPERTIES of ALTER TABLE only.")
    raise syntax_error(text, 6, "IDENTIFIER", "DATABASE, TABLE, VIEW")


def _rename(statement: Statement, database: str, name: str, new_database: str, new_name: str) -> Plan:
    old = statement.existing(database, name)
    new_key = statement.name(new_database, new_name)
    if new_key in statement.view:
        raise analysis_error(f"Table/view already exists: {new_key}")

    def work(change: Change) -> str | None:
        item = change.latest.get(old.key)
        if item is None or new_key in change.latest:
            raise server_error(f"Table {old.key} cannot be renamed to {new_key}: gone, or the new name is taken")
        target_database, target = new_key.split(".", 1)
        change.drop(old.key)
        # The files stay where they are: a coordinator that still shows the old name can read on.
        change.put(replace(item, database=target_database, table=target))
        return None

    return changing("Renaming was successful.", work)


def _add_columns(statement: Statement, database: str | None, name: str, columns: str) -> Plan:
    table = statement.existing((database or "").lower(), name.lower())
    tree = parse(f"create table t ({columns})")
    new = columns_of(tree.this.expressions)
    taken = {column for column, _, _ in table.columns}
    for column, _, _ in new:
        if column in taken:
            raise analysis_error(f"Column already exists: {column}")

    def work(change: Change) -> str | None:
        latest = change.latest[table.key]
        own = [column for column in latest.columns if column[0] not in latest.partition_columns]
        tail = [column for column in latest.columns if column[0] in latest.partition_columns]
        change.put(replace(latest, columns=(*own, *new, *tail)))
        return None

    return changing("New column(s) have been added to the table.", work)


def _set_properties(statement: Statement, database: str | None, name: str, pairs: str) -> Plan:
    table = statement.existing((database or "").lower(), name.lower())
    new = dict(re.findall(r"['\"]([^'\"]*)['\"]\s*=\s*['\"]([^'\"]*)['\"]", pairs))

    def work(change: Change) -> str | None:
        latest = change.latest[table.key]
        change.put(replace(latest, properties=tuple({**dict(latest.properties), **new}.items())))
        return None

    return changing("Updated table.", work)
