"""CREATE TABLE, CREATE TABLE AS SELECT, CREATE VIEW."""

from __future__ import annotations

import re
from dataclasses import replace
from pathlib import Path

from sqlglot import exp  # noqa: TID253 (only a coordinator's process comes here)

from airflow_provider_impala_lb.sandbox.common.catalog import CatalogObject, Change
from airflow_provider_impala_lb.sandbox.common.errors import analysis_error, syntax_error
from airflow_provider_impala_lb.sandbox.sql import dml
from airflow_provider_impala_lb.sandbox.sql.analysis import Statement
from airflow_provider_impala_lb.sandbox.sql.column_types import from_impala, quote
from airflow_provider_impala_lb.sandbox.sql.ddl_change import SUMMARY, changing, exists, keep
from airflow_provider_impala_lb.sandbox.sql.dialect import parse
from airflow_provider_impala_lb.sandbox.sql.plan import Outcome, Plan, RunningStatement
from airflow_provider_impala_lb.sandbox.sql.query import translate
from airflow_provider_impala_lb.sandbox.sql.table_definition import definition
from airflow_provider_impala_lb.sandbox.sql.table_files import with_listed_files


def create(statement: Statement, text: str, tree: exp.Create) -> Plan:
    """The plan of CREATE TABLE, CREATE TABLE AS SELECT or CREATE VIEW.

    :param statement: it.
    :param text: its text, stripped.
    :param tree: the same, parsed.
    :raises Refused: ParseException or AnalysisException.
    """
    kind = (tree.args.get("kind") or "").upper()
    if kind == "VIEW":
        return _create_view(statement, text, tree)
    if kind != "TABLE":
        raise analysis_error(f"CREATE {kind} is not supported by the sandbox.")
    target = tree.this
    schema = target if isinstance(target, exp.Schema) else None
    name = target.this if schema is not None else target
    key = statement.name(name.db, name.name)
    lenient = bool(tree.args.get("exists"))
    if key in statement.view and not lenient:
        raise analysis_error(f"Table already exists: {key}")
    table = definition(statement, key, tree, schema)
    if tree.expression is not None:
        return _create_as_select(statement, table, tree.expression, lenient, key in statement.view)

    def work(change: Change) -> str | None:
        if key in change.latest:
            if not lenient:
                raise exists(key)
            keep(change, key, statement)
            return "Table already exists."
        Path(table.location).mkdir(parents=True, exist_ok=True)
        change.put(with_listed_files(table, statement.node.confinement))
        return None

    return changing("Table has been created.", work)


def _create_as_select(
    statement: Statement, table: CatalogObject, source: exp.Expression, lenient: bool, known: bool
) -> Plan:
    if isinstance(source, exp.Subquery):
        source = source.this
    query = translate(source, statement.scope)
    described = statement.node.engine.describe(query.typed())
    if len(query.labels) == len(described):
        described = [(named or name, kind) for named, (name, kind) in zip(query.labels, described, strict=True)]
    names = [
        name.lower() if re.fullmatch(r"\w+", name) else f"_c{number}" for number, (name, _) in enumerate(described)
    ]
    columns = [(name, str(kind), "") for name, (_, kind) in zip(names, described, strict=True)]
    tail = [column for column in columns if column[0] in table.partition_columns]
    if [column[0] for column in columns[len(columns) - len(tail) :]] != list(table.partition_columns):
        raise analysis_error("Partition columns must be the last ones of the SELECT, in the same order.")
    table = replace(table, columns=tuple(columns))
    expressions = [
        f"CAST(c{number} AS {from_impala(kind).duckdb}) AS {quote(name)}"
        for number, (name, kind, _) in enumerate(columns)
    ]

    def run(running: RunningStatement) -> Outcome:
        # Two steps: the table is made, then the INSERT part is admitted and run like any other. Whatever ends the
        # second leaves the first (ClientRequestState::ExecDdlRequestImpl).
        if known and lenient:
            return Outcome([("Inserted 0 row(s)",)])
        with running.catalog_change() as change:
            if table.key in change.latest:
                if not lenient:
                    raise exists(table.key)
                change.show(table.key)
                return Outcome([("Inserted 0 row(s)",)])
            statement.node.confinement.check(table.location).mkdir(parents=True, exist_ok=True)
            change.put(table)
        running.reach("ctas")
        running.admit()
        query.check_files(statement.node.address, statement.node.confinement)
        files = dml.write(running, statement.node.confinement, table, query, len(columns), expressions)
        dml.commit(running, table.key, files, {}, False)
        rows = sum(file.rows or 0 for file in files)
        return Outcome([(f"Inserted {rows} row(s)",)])

    return Plan("DDL", SUMMARY, run, ddl_type="CREATE_TABLE_AS_SELECT", files=query.file_count)


def _create_view(statement: Statement, text: str, tree: exp.Create) -> Plan:
    target = tree.this
    name = target.this if isinstance(target, exp.Schema) else target
    key = statement.name(name.db, name.name)
    lenient = bool(tree.args.get("exists"))
    instead = bool(tree.args.get("replace"))
    if key in statement.view and not (lenient or instead):
        raise analysis_error(f"Table already exists: {key}")
    body = re.search(r"(?is)\bas\b\s*(\(?\s*(?:select|with|values)\b.*)$", text)
    if body is None:
        raise syntax_error(text, len(text), "EOF", "AS SELECT")
    view = _view_object(statement, key, body.group(1), target)

    def work(change: Change) -> str | None:
        there = change.latest.get(key)
        if there is not None and not instead:
            if lenient:
                keep(change, key, statement)
                return "View already exists."
            raise exists(key)
        change.put(view)
        return None

    return changing("View has been created.", work)


def _view_object(statement: Statement, key: str, sql: str, target: exp.Expression) -> CatalogObject:
    query = translate(parse(sql), statement.scope)
    described = statement.node.engine.describe(query.typed())
    names = [name for name, _ in described]
    if len(query.labels) == len(described):
        names = [named or name for named, name in zip(query.labels, names, strict=True)]
    names = [name.lower() if re.fullmatch(r"\w+", name) else f"_c{number}" for number, name in enumerate(names)]
    if isinstance(target, exp.Schema):
        names = [item.name for item in target.expressions]
        if len(names) != len(described):
            raise analysis_error("Column-definition list has a different number of columns than the query returns.")
    columns = tuple((name, str(kind), "") for name, (_, kind) in zip(names, described, strict=True))
    database, short = key.split(".", 1)
    return CatalogObject(database, short, "VIEW", columns=columns, sql=sql, view_database=statement.session.database)
