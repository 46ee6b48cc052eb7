"""Every form of ``stick_to``, and common-sql's operators after a load: each task reads what was loaded a moment ago.

A reader on another coordinator would find fewer rows than were loaded, and no error.
"""

import os
from datetime import datetime

from airflow.providers.common.compat.sdk import DAG, task, task_group
from airflow.providers.common.sql.operators.generic_transfer import GenericTransfer
from airflow.providers.common.sql.operators.sql import (
    BranchSQLOperator,
    SQLCheckOperator,
    SQLColumnCheckOperator,
    SQLExecuteQueryOperator,
    SQLInsertRowsOperator,
    SQLTableCheckOperator,
)
from airflow.providers.common.sql.sensors.sql import SqlSensor

from airflow_provider_impala_lb.operators.impala_lb import ImpalaLBOperator

CONN = "impala_lb_default"
INSERT = "INSERT INTO stuck_rows SELECT '{{ run_id }}', %d"
ROWS = "FROM stuck_rows WHERE r = '{{ run_id }}' AND n = "
READ = f"SELECT count(*) {ROWS}"
PULL = "ti.xcom_pull(task_ids='load', key='impala_host')"

with DAG(
    "stick_forms",
    start_date=datetime(2026, 1, 1),
    schedule=os.environ.get("STICK_SCHEDULE"),
    max_active_runs=1,
    max_active_tasks=4,
    default_args={"weight_rule": "absolute"},
) as dag:
    load = ImpalaLBOperator(task_id="load", sql=INSERT % 0, priority_weight=100)
    at_once = {"priority_weight": 50}
    read = {"sql": f"{READ} 0"}

    by_operator = ImpalaLBOperator(task_id="by_operator", **at_once, stick_to=load, **read)
    by_output = ImpalaLBOperator(task_id="by_output", stick_to=load.output, **read)
    by_key = ImpalaLBOperator(task_id="by_key", stick_to=load.output["impala_host"], **read)
    by_id = ImpalaLBOperator(task_id="by_id", stick_to="load", **read)
    by_template = ImpalaLBOperator(task_id="by_template", stick_to=f"{{{{ {PULL} }}}}", **read)
    by_text = ImpalaLBOperator(task_id="by_text", stick_to=f"{load.output['impala_host']}", **read)
    load >> [by_id, by_template, by_text]
    deferred = ImpalaLBOperator(
        task_id="deferred", stick_to=load, deferrable=True, sql=f"SELECT sleep(9000); {READ} 0", handler=None
    )

    @task
    def where(host):
        return host

    by_result = ImpalaLBOperator(task_id="by_result", stick_to=where(load.output["impala_host"]), **read)

    partial = ImpalaLBOperator.partial
    two = [f"{READ} 0", f"{READ} {{{{ 0 }}}}"]
    mapped = partial(task_id="mapped", stick_to=load).expand(sql=two)
    mapped_output = partial(task_id="mapped_output", stick_to=load.output).expand(sql=two)
    over_kwargs = partial(task_id="over_kwargs").expand_kwargs(
        [{"sql": f"{READ} 0", "stick_to": load}, {"sql": f"{READ} 0", "stick_to": "load"}]
    )
    over_list = partial(task_id="over_list", sql=f"{READ} 0").expand(
        stick_to=[load, load.output["impala_host"], "load"]
    )

    loads = partial(task_id="loads").expand(sql=[INSERT % n for n in (1, 2, 3)])
    twins = partial(task_id="twins", stick_to=loads).expand(sql=[f"{READ} {n}" for n in (1, 2, 3)])

    @task_group
    def group():
        staged = ImpalaLBOperator(task_id="stage", sql=INSERT % 4)
        staged >> ImpalaLBOperator(task_id="by_full_id", stick_to="group.stage", sql=f"{READ} 4")
        staged >> ImpalaLBOperator(task_id="by_short_id", stick_to="stage", sql=f"{READ} 4")

    group()

    @task_group
    def each(number):
        inner = ImpalaLBOperator(
            task_id="load", sql="INSERT INTO stuck_rows SELECT '{{ run_id }}', {{ ti.map_index + 5 }}"
        )
        ImpalaLBOperator(task_id="read", stick_to=inner, sql=f"{READ} {{{{ ti.map_index + 5 }}}}")

    each.expand(number=[5, 6])

    create = ImpalaLBOperator(task_id="create", sql=INSERT % 7).as_setup()
    work = ImpalaLBOperator(task_id="work", stick_to=create, sql=f"{READ} 7")
    drop = ImpalaLBOperator(task_id="drop", stick_to=create, sql=f"{READ} 7").as_teardown(setups=create)
    create >> work >> drop

    # common-sql's: a value of hook_params is rendered, where the operator renders them
    stick = {"stick_to": load.output["impala_host"]}
    by_task_id = {"stick_to": "load"}
    query = SQLExecuteQueryOperator(task_id="query", conn_id=CONN, hook_params=stick, **read)
    check = SQLCheckOperator(task_id="check", **at_once, conn_id=CONN, hook_params=by_task_id, **read)
    column = SQLColumnCheckOperator(
        task_id="column",
        conn_id=CONN,
        hook_params=by_task_id,
        table="stuck_rows",
        partition_clause="r = '{{ run_id }}' AND n = 0",
        column_mapping={"n": {"min": {"equal_to": 0}}},
    )
    table = SQLTableCheckOperator(
        task_id="table",
        conn_id=CONN,
        hook_params={"stick_to": f"{{{{ {PULL} }}}}"},
        table="stuck_rows",
        partition_clause="r = '{{ run_id }}' AND n = 0",
        checks={"one": {"check_statement": "count(*) = 1"}},
    )
    sensor = SqlSensor(
        task_id="sensor", **at_once, conn_id=CONN, hook_params=stick, poke_interval=60, timeout=30, mode="poke", **read
    )
    branch = BranchSQLOperator(
        task_id="branch",
        conn_id=CONN,
        hook_params=by_task_id,
        follow_task_ids_if_true="yes",
        follow_task_ids_if_false="no",
        **read,
    )
    branch >> [ImpalaLBOperator(task_id=answer, sql="SELECT 1") for answer in ("yes", "no")]
    transfer = GenericTransfer(
        task_id="transfer",
        **at_once,
        sql=f"SELECT r, n {ROWS} 0",
        source_conn_id=CONN,
        source_hook_params=by_task_id,
        destination_conn_id=CONN,
        destination_table="stuck_copy",
        preoperator="DROP TABLE IF EXISTS stuck_copy; CREATE TABLE stuck_copy (r STRING, n INT)",
    )
    # Three steps, each of which needs what the one before has written.
    rows = SQLInsertRowsOperator(
        task_id="rows",
        conn_id=CONN,
        table_name="stuck_steps",
        columns=["r", "n"],
        rows=[("rows", 1)],
        preoperator="DROP TABLE IF EXISTS stuck_steps; CREATE TABLE stuck_steps (r STRING, n INT)",
        postoperator="INSERT INTO stuck_rows SELECT '{{ run_id }}', 9 FROM stuck_steps",
    )
    load >> [check, column, table, branch, transfer, rows]

    @task.sql(conn_id=CONN, hook_params=by_task_id)
    def decorated():
        return f"{READ} 0"

    load >> decorated()
