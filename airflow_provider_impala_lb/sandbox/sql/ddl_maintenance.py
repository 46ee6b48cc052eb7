"""COMPUTE STATS, DROP STATS, REFRESH, INVALIDATE METADATA."""

from __future__ import annotations

import re
from dataclasses import replace

from airflow_provider_impala_lb.sandbox.common.catalog import Change
from airflow_provider_impala_lb.sandbox.common.errors import analysis_error, server_error, syntax_error
from airflow_provider_impala_lb.sandbox.sql.analysis import Statement
from airflow_provider_impala_lb.sandbox.sql.ddl_change import NAME, SUMMARY, changing
from airflow_provider_impala_lb.sandbox.sql.plan import Outcome, Plan, RunningStatement
from airflow_provider_impala_lb.sandbox.sql.table_files import check_files, file_relation, with_listed_files


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

    def run(running: RunningStatement) -> Outcome:
        check_files(table, statement.node.address, statement.node.confinement)
        count = f"SELECT count(*) FROM {file_relation(table)}"  # noqa: S608 (names and files are quoted)
        (rows,) = running.cursor().execute(count).fetchone() or (0,)
        with statement.node.catalog.change() as change:
            if table.key in change.latest:
                change.put(replace(change.latest[table.key], num_rows=rows))
        partitions = len({file.partition for file in table.files}) or 1
        return Outcome([(f"Updated {partitions} partition(s) and {len(table.columns)} column(s).",)])

    return Plan("DDL", SUMMARY, run, changes_catalog=True, files=len(table.files))


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

    return changing("Stats have been dropped.", work, statement)


def refresh(statement: Statement, text: str) -> Plan:
    """The plan of REFRESH or INVALIDATE METADATA, with a table or without.

    :param statement: it.
    :param text: its text, stripped.
    :raises Refused: ParseException or AnalysisException.
    """
    catalog = statement.node.catalog
    if re.fullmatch(r"(?is)invalidate\s+metadata", text):

        def everything(_: RunningStatement) -> Outcome:
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

    def run(_: RunningStatement) -> Outcome:
        table = catalog.refresh(key)
        if table is None:
            raise server_error(f"TableNotFoundException: Table not found: {key}")
        if table.kind == "TABLE":
            _list_again(statement, key)
        return Outcome()

    return Plan("DDL", None, run, changes_catalog=True)


def _list_again(statement: Statement, key: str) -> None:
    """Files that somebody put into the table's directory, or took away, behind the catalog's back."""
    with statement.node.catalog.change() as change:
        table = change.latest.get(key)
        if table is None:
            return
        listed = with_listed_files(table, statement.node.confinement)
        before, now = {file.path for file in table.files}, {file.path for file in listed.files}
        if before != now:
            change.files(key, [file for file in listed.files if file.path not in before], sorted(before - now))
