"""Scripts on Spark: results, stickiness, failures, common-sql's own operators."""

import os
from datetime import datetime, timedelta

from airflow.providers.common.compat.sdk import DAG, task
from airflow.providers.common.sql.operators.generic_transfer import GenericTransfer
from airflow.providers.common.sql.operators.sql import (
    SQLCheckOperator,
    SQLColumnCheckOperator,
    SQLExecuteQueryOperator,
    SQLThresholdCheckOperator,
)
from airflow.providers.common.sql.sensors.sql import SqlSensor

from airflow_provider_impala_lb.operators.impala_lb import ImpalaLBOperator

CONN = {"conn_id": "spark"}
RETRYING = {"retries": 2, "retry_delay": timedelta(seconds=0)}

with DAG("spark_scripts", start_date=datetime(2026, 1, 1), schedule=None) as dag:
    script = ImpalaLBOperator(
        task_id="script",
        sql="""
            DROP TABLE IF EXISTS daily; CREATE TABLE daily (a INT, s STRING) USING parquet;
            INSERT INTO daily VALUES (1, 'it\\'s;');
            INSERT INTO daily VALUES (2, NULL);
            CREATE TEMPORARY VIEW sums AS SELECT sum(a) AS total FROM daily;
            SELECT total FROM sums
        """,
        **CONN,
    )
    every = ImpalaLBOperator(
        task_id="every",
        sql="REFRESH TABLE daily; SELECT count(*) FROM daily",
        return_last=False,
        stick_to=script,
        **CONN,
    )
    ImpalaLBOperator(task_id="gone", sql="SELECT total FROM sums", stick_to=script, **CONN)
    ImpalaLBOperator(task_id="syntax", sql="SELEC 1", **RETRYING, **CONN)

    # On the table `cached`, which each server keeps in its memory.
    insert = ImpalaLBOperator(task_id="insert", sql="INSERT INTO cached VALUES (3)", **CONN)
    sticks = ImpalaLBOperator(task_id="sticks", sql="SELECT count(*) FROM cached", stick_to=insert, **CONN)
    everywhere = [
        ImpalaLBOperator(task_id=f"on_{n}", sql="SELECT count(*) FROM cached", stick_to=node, **CONN)
        for n, node in enumerate(os.environ.get("SPARK_NODES", "x:1").split(","))
    ]
    insert >> everywhere

    make = SQLExecuteQueryOperator(
        task_id="make",
        sql="""
            DROP TABLE IF EXISTS g; DROP TABLE IF EXISTS g_copy;
            CREATE TABLE g_copy (a INT, s STRING) USING parquet; CREATE TABLE g (a INT, s STRING) USING parquet;
            INSERT INTO g VALUES (1, 'it\\'s;'); SELECT a, s FROM g
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
        SqlSensor(task_id="sensor", sql="SELECT count(*) FROM g", poke_interval=0.1, timeout=30, **CONN),
    ]
    transfer = GenericTransfer(
        task_id="transfer",
        sql="SELECT a, s FROM g",
        destination_table="g_copy",
        source_conn_id="spark",
        destination_conn_id="spark",
    )

    @task.sql(conn_id="spark")
    def copied():
        return "SELECT a, s FROM g_copy"

    make >> checks
    make >> transfer >> copied()
