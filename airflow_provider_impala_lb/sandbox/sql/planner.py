"""Analysis: which kind of statement it is, what it means here, and the plan that runs it."""

from __future__ import annotations

import re
from dataclasses import replace

from sqlglot import exp  # noqa: TID253 (only a coordinator's process comes here)

from airflow_provider_impala_lb.sandbox.common import query_options
from airflow_provider_impala_lb.sandbox.common.errors import analysis_error, not_supported, syntax_error
from airflow_provider_impala_lb.sandbox.sql import ddl, dml, show
from airflow_provider_impala_lb.sandbox.sql.analysis import Statement
from airflow_provider_impala_lb.sandbox.sql.column_types import ColumnType
from airflow_provider_impala_lb.sandbox.sql.dialect import parse
from airflow_provider_impala_lb.sandbox.sql.lexer import first_word
from airflow_provider_impala_lb.sandbox.sql.plan import Outcome, Plan, RunningStatement
from airflow_provider_impala_lb.sandbox.sql.query import Query, translate

STRING = ColumnType("STRING")


def plan(statement: Statement) -> Plan:
    """What a statement will do.

    :param statement: it.
    :raises Refused: ParseException or AnalysisException: nothing has run, nothing will.
    """
    text = statement.text.strip()
    first = first_word(text)
    match first:
        case "SELECT" | "WITH" | "VALUES" | "(" | "FROM":
            return _select_or_insert(statement, text)
        case "INSERT" | "UPSERT" | "UPDATE" | "DELETE" | "MERGE" | "LOAD":
            return dml.plan(statement, text, first)
        case "COMMENT" | "OPTIMIZE" | "REPAIR":
            raise not_supported(f"{first} ...")
        case "CREATE" | "DROP" | "ALTER" | "TRUNCATE" | "COMPUTE" | "REFRESH" | "INVALIDATE":
            return ddl.plan(statement, text, first)
        case "SHOW" | "DESCRIBE" | "DESC":
            return show.plan(statement, text, first)
        case "EXPLAIN":
            return _explain(statement, text)
        case "USE":
            return _use(statement, text)
        case "SET" | "UNSET":
            return _set(statement, text)
        case ":":
            return _shutdown(statement, text)
        case "KILL" if statement.node.behaviour.kill_query:
            return _kill(statement, text)
        case "GRANT" | "REVOKE":
            raise analysis_error("Authorization is not enabled.")
        case _:
            raise syntax_error(text, 0, "IDENTIFIER" if first.isidentifier() else first, "a statement")


def _select_or_insert(statement: Statement, text: str) -> Plan:
    tree = parse(text)
    if isinstance(tree, exp.Insert):
        return dml.plan_insert(statement, tree)
    if not isinstance(tree, (exp.Query, exp.Values, exp.Table, exp.Subquery)):
        raise syntax_error(text, 0, text.split()[0].upper())
    return _select(statement, tree)


def _select(statement: Statement, tree: exp.Expression) -> Plan:
    query = translate(tree, statement.scope)
    columns = statement.node.engine.describe(query.typed())
    if len(query.labels) == len(columns):
        columns = [(label or name, kind) for label, (name, kind) in zip(query.labels, columns, strict=True)]
    columns = [(name.lower(), kind) for name, kind in columns]

    def run(running: RunningStatement) -> Outcome:
        query.check_files(statement.node.address, statement.node.confinement)
        sql = query.reading()
        return Outcome(cursor=running.cursor(sql).execute(sql))

    trivial = isinstance(tree, exp.Select) and not query.tables and "sleep" not in statement.text.lower()
    return Plan("QUERY", columns, run, trivial=trivial, files=query.file_count, text=_plan_text(query))


def _plan_text(query: Query) -> str:
    lines = ["PLAN-ROOT SINK", "|"]
    for number, table in enumerate(query.tables.values()):
        lines += [f"{number:02d}:SCAN HDFS [{table.key}]", f"   HDFS partitions=1/1 files={len(table.files)}"]
    return "\n".join(lines if query.tables else [*lines, "00:UNION", "   constant-operands=1"])


def _explain(statement: Statement, text: str) -> Plan:
    planned = plan(replace(statement, text=re.sub(r"(?is)^\s*explain\s+", "", text)))
    if planned.kind not in ("QUERY", "DML"):
        raise syntax_error(text, len("explain "), "IDENTIFIER", "SELECT, INSERT, VALUES, WITH")
    rows = [(line,) for line in (planned.text or "PLAN-ROOT SINK").split("\n")]
    return Plan("EXPLAIN", [("explain string", STRING)], lambda _: Outcome(rows), immediate=True)


def _use(statement: Statement, text: str) -> Plan:
    match = re.fullmatch(r"(?i)use\s+`?(\w+)`?", text)
    if not match:
        raise syntax_error(text, 4, "IDENTIFIER", "IDENTIFIER")
    database = statement.database(match.group(1).lower())

    def run(_: RunningStatement) -> Outcome:
        statement.session.database = database
        return Outcome()

    return Plan("DDL", None, run, immediate=True)


def _set(statement: Statement, text: str) -> Plan:
    session = statement.session
    if re.fullmatch(r"(?i)unset\s+all", text):

        def unset(_: RunningStatement) -> Outcome:
            session.clear_options()
            return Outcome()

        return Plan("SET", None, unset, immediate=True)
    if re.fullmatch(r"(?i)set(\s+all)?", text):
        columns = [("option", STRING), ("value", STRING), ("level", STRING)]
        values = session.effective_options()
        rows = [(name, values.get(name, ""), "REGULAR") for name in sorted(query_options.NAMES)]
        return Plan("SET", columns, lambda _: Outcome(rows), immediate=True)
    match = re.fullmatch(r"(?is)set\s+`?(\w+)`?\s*=\s*(-?[\w.]+|'[^']*'|\"[^\"]*\")", text)
    if not match:
        place = re.search(r"(?i)^\w+\s+\w*\s*", text)
        raise syntax_error(text, place.end() if place else 0, "Unexpected character", "=")
    name, value = query_options.checked(match.group(1), match.group(2).strip("'\""))

    def set_option(_: RunningStatement) -> Outcome:
        session.set_option(name, value)
        return Outcome()

    return Plan("SET", None, set_option, immediate=True)


def _shutdown(statement: Statement, text: str) -> Plan:
    match = re.fullmatch(r"(?is):\s*shutdown\s*\(\s*(?:['\"]([^'\"]*)['\"])?\s*,?\s*(\d+)?\s*\)", text)
    if not match:
        raise syntax_error(text, 1, "IDENTIFIER", "SHUTDOWN")
    if match.group(1) and match.group(1) != statement.node.address:
        raise analysis_error("The sandbox shuts down only the coordinator that is asked.")
    deadline = float(match.group(2)) if match.group(2) else None

    def run(_: RunningStatement) -> Outcome:
        return Outcome([(statement.node.begin_shutdown(deadline),)])

    return Plan("DDL", [("summary", STRING)], run, immediate=True)


def _kill(statement: Statement, text: str) -> Plan:
    match = re.fullmatch(r"(?i)kill\s+query\s+['\"]([0-9a-f]{1,16}:[0-9a-f]{1,16})['\"]", text)
    if not match:
        raise syntax_error(text, 5, "IDENTIFIER", "QUERY")
    query_id = match.group(1)

    def run(_: RunningStatement) -> Outcome:
        statement.node.kill_query(query_id, statement.session.user)
        return Outcome([(f"Query {query_id} is killed.",)])

    return Plan("KILL", [("result", STRING)], run, immediate=True)
