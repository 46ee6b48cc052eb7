"""CREATE, DROP, ALTER, TRUNCATE, COMPUTE STATS, REFRESH, INVALIDATE METADATA."""

from __future__ import annotations

import re
import shutil
from pathlib import Path

from sqlglot import exp  # noqa: TID253 (only a coordinator's process comes here)

from airflow_provider_impala_lb.sandbox.common.catalog import CatalogObject, Change
from airflow_provider_impala_lb.sandbox.common.confinement import Confinement
from airflow_provider_impala_lb.sandbox.common.errors import analysis_error, not_supported, server_error, syntax_error
from airflow_provider_impala_lb.sandbox.sql.analysis import Statement
from airflow_provider_impala_lb.sandbox.sql.ddl_alter import alter
from airflow_provider_impala_lb.sandbox.sql.ddl_change import changing, keep
from airflow_provider_impala_lb.sandbox.sql.ddl_create import create
from airflow_provider_impala_lb.sandbox.sql.ddl_maintenance import compute_stats, drop_stats, refresh
from airflow_provider_impala_lb.sandbox.sql.dialect import parse
from airflow_provider_impala_lb.sandbox.sql.plan import Plan

# What Impala's grammar has beyond the tables and views that there are here.
_LACKING = re.compile(
    r"(?is)\bstored\s+as\s+(?:kudu|iceberg|jdbc|orc|avro|rcfile|sequencefile|hudiparquet|json\w*)\b"
    r"|\bstored\s+by\s+\w+|\bprimary\s+key\b|\bforeign\s+key\b|\bpartition(?:ed)?\s+by\s+(?:hash|range|spec)\b"
    r"|\brefresh\s+(?:functions|authorization)\b"
    r"|^\s*(?:create|drop)\s+(?:(?:aggregate|analytic)\s+)?function\b|^\s*(?:create|drop|show)\s+(?:data\s+source|role)\b"
    r"|^\s*create\s+(?:external\s+)?table\s+(?:if\s+not\s+exists\s+)?\S+\s+like\s+(?:parquet|orc|file)\b"
)


def _without_literals(text: str) -> str:
    """The text with nothing between its quotes: the comment of a column may hold any words."""
    return re.sub(r"'(?:[^'\\]|\\.)*'|\"(?:[^\"\\]|\\.)*\"|`[^`]*`", "''", text)


def plan(statement: Statement, text: str, first: str) -> Plan:
    """The plan of a DDL statement, REFRESH and INVALIDATE METADATA included.

    :param statement: it.
    :param text: its text, stripped.
    :param first: the statement's first word, in capitals.
    :raises Refused: ParseException or AnalysisException.
    """
    lacking = _LACKING.search(_without_literals(text))
    if lacking:
        raise not_supported(" ".join(lacking.group().upper().split()))
    if first in ("REFRESH", "INVALIDATE"):
        return refresh(statement, text)
    if first == "COMPUTE":
        return compute_stats(statement, text)
    if first == "ALTER":
        return alter(statement, text)
    if re.match(r"(?i)drop\s+(incremental\s+)?stats\b", text):
        return drop_stats(statement, text)
    if re.match(r"(?i)(create|drop)\s+(database|schema)\b", text):
        return _database(statement, text, first)
    try:
        tree = parse(_for_hive(text))
    except KeyError as error:  # sqlglot's, of a clause that its grammar of Hive knows differently
        raise not_supported(f"A clause of this {first} statement") from error
    if isinstance(tree, exp.Create):
        return create(statement, text, tree)
    if isinstance(tree, exp.Drop):
        return _drop(statement, text, tree)
    if isinstance(tree, exp.TruncateTable):
        return _truncate(statement, tree)
    raise syntax_error(text, 0, first)


def _for_hive(text: str) -> str:
    """Clauses of Impala that Hive's grammar lacks, and that change nothing here, are left out."""
    text = re.sub(r"(?is)\bsort\s+by\s+(zorder\s*|lexical\s*)?\([^)]*\)", " ", text)
    return re.sub(r"(?is)\bcached\s+in\s+'[^']*'(\s+with\s+replication\s*=\s*\d+)?|\buncached\b", " ", text)


# -- databases


def _database(statement: Statement, text: str, first: str) -> Plan:
    pattern = (
        r"(?is)(?:create|drop)\s+(?:database|schema)\s+(if\s+(?:not\s+)?exists\s+)?`?(\w+)`?"
        r"(?:\s+comment\s+'([^']*)')?(?:\s+(?:managed)?location\s+'[^']*')?(\s+cascade|\s+restrict)?"
    )
    match = re.fullmatch(pattern, text)
    if not match:
        raise syntax_error(text, 0, first)
    lenient, name, comment = bool(match.group(1)), match.group(2).lower(), match.group(3) or ""
    if first == "CREATE":
        return _create_database(statement, name, comment, lenient)
    cascade = (match.group(4) or "").strip().lower() == "cascade"
    return _drop_database(statement, name, lenient, cascade)


def _create_database(statement: Statement, name: str, comment: str, lenient: bool) -> Plan:
    if name in statement.view and not lenient:
        raise analysis_error(f"Database already exists: {name}")

    def work(change: Change) -> str | None:
        if name not in change.latest:
            change.put(CatalogObject(name, comment=comment, location=str(statement.directory(name))))
        elif lenient:
            keep(change, name, statement)
            return "Database already exists."
        else:
            raise server_error(
                "Error making 'createDatabase' RPC to Hive Metastore: \nCAUSED BY: AlreadyExistsException: "
                f"Database {name} already exists"
            )
        return None

    return changing("Database has been created.", work)


def _drop_database(statement: Statement, name: str, lenient: bool, cascade: bool) -> Plan:
    if name == "default":
        raise analysis_error("Cannot drop default database.")
    if name == statement.session.database:
        raise analysis_error(f"Cannot drop current default database: {name}")
    if name not in statement.view and not lenient:
        raise analysis_error(f"Database does not exist: {name}")

    def work(change: Change) -> str | None:
        if name not in change.latest:
            if lenient:
                return "Database does not exist."
            raise server_error(f"Database not found: {name}")
        tables = [item for item in change.latest.values() if item.database == name and item.table]
        if tables and not cascade:
            raise server_error(
                "Error making 'dropDatabase' RPC to Hive Metastore: \nCAUSED BY: InvalidOperationException: "
                f"Database {name} is not empty. One or more tables exist."
            )
        for table in tables:
            _remove(change, table, statement.node.confinement)
        change.drop(name)
        shutil.rmtree(statement.directory(name), ignore_errors=True)
        return None

    return changing("Database has been dropped.", work)


# -- tables and views


def _drop(statement: Statement, text: str, tree: exp.Drop) -> Plan:
    kind = (tree.args.get("kind") or "").upper()
    if kind not in ("TABLE", "VIEW"):
        raise analysis_error(f"DROP {kind} is not supported by the sandbox.")
    name = (tree.args.get("tables") or [tree.this])[0]  # older sqlglot: this
    database = name.db or statement.session.database
    lenient = bool(tree.args.get("exists"))
    if database not in statement.view and not lenient:
        raise analysis_error(f"Database does not exist: {database}")
    key = f"{database}.{name.name}"
    if not lenient:
        statement.existing(name.db, name.name)
    shown = statement.view.get(key)
    if shown is not None and (shown.kind == "VIEW") != (kind == "VIEW"):
        word = "DROP VIEW not allowed on a table" if kind == "VIEW" else "DROP TABLE not allowed on a view"
        raise analysis_error(f"{word}: {key}")

    def work(change: Change) -> str | None:
        there = change.latest.get(key)
        if there is None:
            change.show(key)  # another coordinator dropped it: this one stops showing it, too
            if lenient:
                return f"{kind.capitalize()} does not exist."
            raise server_error(f"Table does not exist: {key}")
        _remove(change, there, statement.node.confinement)
        return None

    return changing(f"{kind.capitalize()} has been dropped.", work)


def _remove(change: Change, item: CatalogObject, confinement: Confinement) -> None:
    if item.kind == "TABLE" and not item.external:
        confinement.check(item.location)
    change.drop(item.key)
    if item.kind == "TABLE" and not item.external:
        for file in item.files:
            Path(file.path).unlink(missing_ok=True)
        shutil.rmtree(item.location, ignore_errors=True)


def _truncate(statement: Statement, tree: exp.TruncateTable) -> Plan:
    name = tree.expressions[0]
    lenient = bool(tree.args.get("exists"))
    key = f"{name.db or statement.session.database}.{name.name}"
    if not lenient:
        table = statement.existing(name.db, name.name)
        if table.kind == "VIEW":
            raise analysis_error(f"TRUNCATE TABLE not supported on view: {key}")

    def work(change: Change) -> str | None:
        table = change.latest.get(key)
        if table is None:
            if lenient:
                return "Table does not exist."
            raise server_error(f"Table not found: {key}")
        change.files(key, [], [file.path for file in table.files])
        for file in table.files:
            Path(file.path).unlink(missing_ok=True)
        return None

    return changing("Table has been truncated.", work)
