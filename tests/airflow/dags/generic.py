"""common-sql's own operators and sensor on a balanced connection."""

from datetime import datetime

from airflow.providers.common.compat.sdk import DAG, task
from airflow.providers.common.sql.operators.generic_transfer import GenericTransfer
from airflow.providers.common.sql.operators.sql import (
    SQLCheckOperator,
    SQLColumnCheckOperator,
    SQLExecuteQueryOperator,
    SQLInsertRowsOperator,
    SQLThresholdCheckOperator,
)
from airflow.providers.common.sql.sensors.sql import SqlSensor

CONN = {"conn_id": "impala_lb_default"}

with DAG("generic", start_date=datetime(2026, 1, 1), schedule=None) as dag:
    make = SQLExecuteQueryOperator(
        task_id="make",
        sql="""
            DROP TABLE IF EXISTS g; DROP TABLE IF EXISTS g_copy;
            SET SYNC_DDL=1;
            DROP TABLE IF EXISTS g_rows;
            CREATE TABLE g_rows (`order` INT, s STRING);
            CREATE TABLE g_copy (a INT, s STRING);
            CREATE TABLE g (a INT, s STRING);
            INSERT INTO g VALUES (1, 'it\\'s;')
        """,
        **CONN,
    )
    checks = [
        SQLCheckOperator(task_id="check", sql="SELECT count(*) FROM g", **CONN),
        SQLThresholdCheckOperator(
            task_id="threshold", sql="SELECT max(a) FROM g", min_threshold=1, max_threshold=1, **CONN
        ),
        SQLColumnCheckOperator(
            task_id="column",
            table="g",
            column_mapping={"a": {"null_check": {"equal_to": 0}, "min": {"geq_to": 1}}},
            **CONN,
        ),
        SqlSensor(task_id="sensor", sql="SELECT count(*) FROM g", poke_interval=0.1, timeout=5, **CONN),
    ]
    transfer = GenericTransfer(
        task_id="transfer",
        sql="SELECT a, s FROM g",
        destination_table="g_copy",
        source_conn_id="impala_lb_default",
        destination_conn_id="impala_lb_default",
    )

    @task.sql(conn_id="impala_lb_default")
    def copied():
        return "REFRESH g_copy; SELECT a, s FROM g_copy"

    # Columns are asked for where none are given.
    rows = SQLInsertRowsOperator(
        task_id="rows", table_name="g_rows", schema="default", rows=[(1, "a"), (2, "b")], **CONN
    )
    inserted = SQLCheckOperator(
        task_id="inserted", sql="REFRESH g_rows; SELECT count(*) = 2 AND max(`order`) = 2 FROM g_rows", **CONN
    )

    make >> rows >> inserted
    make >> checks
    make >> transfer >> copied()
