"""``schema`` holds on every way through the hook: what is read, and what is written, is in that database."""

import contextlib

import pytest
from airflow.providers.common.sql.hooks.handlers import fetch_all_handler
from airflow.providers.common.sql.operators.generic_transfer import GenericTransfer
from airflow.providers.common.sql.operators.sql import SQLExecuteQueryOperator, SQLInsertRowsOperator
from airflow.providers.common.sql.sensors.sql import SqlSensor

from airflow_provider_impala_lb.hooks.impala_lb import ImpalaLBHook
from airflow_provider_impala_lb.operators.impala_lb import ImpalaLBOperator

CONNECTION = "impala_lb_default"
WHERE = "SELECT current_database() AS d"


@pytest.fixture(scope="module", autouse=True)
def databases(cluster):
    hook = ImpalaLBHook()
    hook.run("SET SYNC_DDL=1; CREATE DATABASE IF NOT EXISTS staging; CREATE TABLE IF NOT EXISTS staging.here (a INT)")
    yield
    hook.run("DROP DATABASE staging CASCADE")


def by_connection(hook):
    with hook.get_conn() as connection, connection.cursor() as first, connection.cursor() as second:
        first.execute(WHERE)
        second.execute(WHERE)
        (one,), (two,) = first.fetchone(), second.fetchone()
        assert one == two
        return one


def first(chunks):
    with contextlib.closing(chunks):
        return next(chunks)["d"][0]


READS = {
    "run": lambda hook: hook.run(WHERE, handler=lambda cursor: cursor.fetchall())[0][0],
    "get_records": lambda hook: hook.get_records(WHERE)[0][0],
    "get_first": lambda hook: hook.get_first(WHERE)[0],
    "get_df": lambda hook: hook.get_df(WHERE)["d"][0],
    "get_pandas_df": lambda hook: hook.get_pandas_df(WHERE)["d"][0],
    "get_df_by_chunks": lambda hook: first(hook.get_df_by_chunks(WHERE, chunksize=1)),
    "get_pandas_df_by_chunks": lambda hook: first(hook.get_pandas_df_by_chunks(WHERE, chunksize=1)),
    "get_conn": by_connection,
}


def given_to_the_hook():
    return ImpalaLBHook(CONNECTION, schema="staging")


def set_afterwards():  # as common-sql's operators do it with their `database`
    hook = ImpalaLBHook(CONNECTION)
    hook.schema = "staging"
    return hook


def of_an_operator(**options):
    return SQLExecuteQueryOperator(task_id="t", conn_id=CONNECTION, sql="SELECT 1", **options).get_db_hook()


def of_our_operator(**options):
    return ImpalaLBOperator(task_id="t", sql="SELECT 1", **options).get_db_hook()


HOOKS = {
    "hook": given_to_the_hook,
    "attribute": set_afterwards,
    "database": lambda: of_an_operator(database="staging"),
    "hook_params": lambda: of_an_operator(hook_params={"schema": "staging"}),
    "our database": lambda: of_our_operator(database="staging"),
    "our hook_params": lambda: of_our_operator(hook_params={"schema": "staging"}),
    "database first": lambda: of_our_operator(database="staging", hook_params={"schema": "default"}),
}


@pytest.mark.parametrize("made", HOOKS)
@pytest.mark.parametrize("read", READS)
def test_what_is_read_is_in_that_database(cluster, made, read):
    assert READS[read](HOOKS[made]()) == "staging"
    assert READS[read](ImpalaLBHook(CONNECTION)) == "default"


def rows():
    read = "REFRESH staging.here; SELECT a FROM staging.here ORDER BY a"
    return [a for (a,) in ImpalaLBHook().run(read, handler=fetch_all_handler)]


def test_what_is_written_is_in_that_database(cluster):
    """There is no ``default.here``: what went there would be an error."""
    for number, made in enumerate(HOOKS):
        HOOKS[made]().insert_rows("here", [(number,)])
        HOOKS[made]().run(f"INSERT INTO here VALUES ({number})")
    assert rows() == sorted([*range(len(HOOKS)), *range(len(HOOKS))])


def test_operators_of_common_sql_write_into_that_database(cluster, ti):
    before = rows()
    staging = {"schema": "staging"}
    GenericTransfer(
        task_id="t",
        sql="SELECT 100",
        source_conn_id=CONNECTION,
        destination_conn_id=CONNECTION,
        destination_table="here",
        destination_hook_params=staging,
    ).execute({})
    SQLInsertRowsOperator(
        task_id="t", conn_id=CONNECTION, table_name="here", columns=["a"], rows=[(101,)], database="staging"
    ).execute({})
    assert rows() == [*before, 100, 101]
    sensor = SqlSensor(task_id="t", conn_id=CONNECTION, sql=f"{WHERE}", hook_params=staging, success="staging".__eq__)
    assert sensor.poke({})
