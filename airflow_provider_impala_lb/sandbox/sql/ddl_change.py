"""What all DDL has in common: one change of the catalog, and one row that reports what was done."""

from __future__ import annotations

from collections.abc import Callable

from airflow_provider_impala_lb.sandbox.common import query_options
from airflow_provider_impala_lb.sandbox.common.catalog import Change
from airflow_provider_impala_lb.sandbox.common.errors import server_error
from airflow_provider_impala_lb.sandbox.sql.analysis import Statement
from airflow_provider_impala_lb.sandbox.sql.column_types import from_impala
from airflow_provider_impala_lb.sandbox.sql.plan import Columns, Outcome, Plan, RunningStatement

# Every DDL answers with one row that reports what it did; REFRESH and INVALIDATE METADATA answer with none.
SUMMARY: Columns = [("summary", from_impala("string"))]
NAME = r"(?:`?(\w+)`?\s*\.\s*)?`?(\w+)`?"


def changing(summary: str, work: Callable[[Change], str | None]) -> Plan:
    """A plan that is one change of the catalog.

    :param summary: the row that the client gets.
    :param work: makes the change; may return another summary.
    """

    def run(running: RunningStatement) -> Outcome:
        with running.catalog_change() as change:
            other_summary = work(change)
        return Outcome([(other_summary or summary,)])

    return Plan("DDL", SUMMARY, run)


def keep(change: Change, key: str, statement: Statement) -> None:
    """CREATE ... IF NOT EXISTS of what is there: this coordinator shows it at once. With SYNC_DDL it gets a new
    version, so that all have heard of it afterwards (``CatalogOpExecutor.createTable``).

    :param change: the call to the catalog service.
    :param key: ``db`` or ``db.table``.
    :param statement: the CREATE.
    """
    if query_options.is_on(statement.options, "SYNC_DDL"):
        change.files(key, [])
    else:
        change.show(key)


def exists(key: str) -> Exception:
    """The metastore's error for a table that another coordinator has made meanwhile.

    :param key: ``db.table``.
    """
    return server_error(
        "Error making 'createTable' RPC to Hive Metastore: \nCAUSED BY: AlreadyExistsException: "
        f"Table {key} already exists"
    )
