"""COMPUTE STATS, DROP STATS, REFRESH, INVALIDATE METADATA."""

from __future__ import annotations

import re
from dataclasses import replace

from airflow_provider_impala_lb.sandbox.common.catalog import CatalogObject, Change
from airflow_provider_impala_lb.sandbox.common.confinement import Confinement
from airflow_provider_impala_lb.sandbox.common.errors import analysis_error, server_error, syntax_error
from airflow_provider_impala_lb.sandbox.sql.analysis import Statement
from airflow_provider_impala_lb.sandbox.sql.ddl_change import NAME, SUMMARY, changing
from airflow_provider_impala_lb.sandbox.sql.plan import Outcome, Plan, RunningStatement
from airflow_provider_impala_lb.sandbox.sql.table_files import with_listed_files


def compute_stats(statement: Statement, text: str) -> Plan:
    """The plan of COMPUTE STATS: the rows are counted.

    :param statement: it.
    :param text: its text, stripped.
    :raises Refused: ParseException or AnalysisException.
    """
    match = re.match(rf"(?is)compute\s+(?:incremental\s+)?stats\s+{NAME}", text)
    if not match:
        raise syntax_error(text, 8, "IDENTIFIER", "INCREMENTAL, STATS")
    table = statement.existing((match.group(1) or "").lower(), match.group(2).lower())
    if table.kind == "VIEW":
        raise analysis_error(f"COMPUTE STATS not supported for view: {table.key}")

    name = f"`{table.database}`.`{table.table}`"
    columns = [column for column, _, _ in table.columns if column not in table.partition_columns]

    def run(running: RunningStatement) -> Outcome:
        # Two statements of its own, with ids of their own, then one change of the catalog
        # (ClientRequestState::ExecDdlRequestImplSync, UpdateTableAndColumnStats).
        [(rows,)] = running.child_query(f"SELECT COUNT(*) FROM {name}")  # noqa: S608 (quoted)
        running.child_query(f"SELECT {', '.join(f'NDV(`{each}`) AS `{each}`' for each in columns)} FROM {name}")  # noqa: S608
        with running.catalog_change() as change:
            if table.key in change.latest:
                change.put(replace(change.latest[table.key], num_rows=rows))
        partitions = len({file.partition for file in table.files}) or 1
        return Outcome([(f"Updated {partitions} partition(s) and {len(columns)} column(s).",)])

    return Plan("DDL", SUMMARY, run, child_queries=True, files=len(table.files))


def drop_stats(statement: Statement, text: str) -> Plan:
    """The plan of DROP STATS.

    :param statement: it.
    :param text: its text, stripped.
    :raises Refused: ParseException or AnalysisException.
    """
    match = re.match(rf"(?is)drop\s+(?:incremental\s+)?stats\s+{NAME}", text)
    if not match:
        raise syntax_error(text, 5, "IDENTIFIER", "STATS")
    table = statement.existing((match.group(1) or "").lower(), match.group(2).lower())

    def work(change: Change) -> str | None:
        change.put(replace(change.latest[table.key], num_rows=-1))
        return None

    return changing("Stats have been dropped.", work)


def refresh(statement: Statement, text: str) -> Plan:
    """The plan of REFRESH or INVALIDATE METADATA, with a table or without.

    :param statement: it.
    :param text: its text, stripped.
    :raises Refused: ParseException or AnalysisException.
    """
    catalog = statement.node.catalog
    if re.fullmatch(r"(?is)invalidate\s+metadata", text):

        def everything(running: RunningStatement) -> Outcome:
            with running.catalog_change():
                catalog.refresh_all()
            return Outcome()

        return Plan("DDL", None, everything)
    match = re.fullmatch(rf"(?is)(refresh|invalidate\s+metadata)\s+{NAME}(\s+partition\s*\(.*\))?", text)
    if not match:
        raise syntax_error(text, 0, text.split()[0].upper())
    word, database, name, _ = match.groups()
    key = f"{(database or statement.session.database).lower()}.{name.lower()}"
    if word.lower() == "refresh":
        statement.existing((database or "").lower(), name.lower())

    def run(running: RunningStatement) -> Outcome:
        with running.catalog_change() as change:
            table = change.latest.get(key)
            if table is None:
                raise server_error(f"TableNotFoundException: Table not found: {key}")
            _list_again(change, table, statement.node.confinement)
        return Outcome()

    return Plan("DDL", None, run)


def _list_again(change: Change, table: CatalogObject, confinement: Confinement) -> None:
    """Files that somebody put into the table's directory, or took away, behind the catalog's back. The table has a new
    version in any case."""
    listed = with_listed_files(table, confinement) if table.kind == "TABLE" else table
    before, now = {file.path for file in table.files}, {file.path for file in listed.files}
    change.files(table.key, [file for file in listed.files if file.path not in before], sorted(before - now))
