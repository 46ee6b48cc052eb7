"""Scripts that run in the triggerer: with rows for a worker to fetch, sticky ones, and one that fails."""

from datetime import datetime

from airflow.providers.common.compat.sdk import DAG

from airflow_provider_impala_lb.operators.impala_lb import ImpalaLBOperator

CONN = {"conn_id": "impala_lb_default", "deferrable": True}

with DAG("deferred", start_date=datetime(2026, 1, 1), schedule=None) as dag:
    make = ImpalaLBOperator(
        task_id="make",
        sql="DROP TABLE IF EXISTS later; CREATE TABLE later (n INT); INSERT INTO later SELECT 1 WHERE sleep(4000); "
        "INSERT INTO later VALUES (2), (3)",
        handler=None,
        resume=True,
        **CONN,
    )
    read = ImpalaLBOperator(
        task_id="read", sql="SELECT sleep(3000); SELECT count(*), max(n) FROM later", stick_to=make, **CONN
    )
    to_file = ImpalaLBOperator(
        task_id="to_file",
        sql="SELECT sleep(3000); SELECT n FROM later ORDER BY n",
        stick_to=make,
        output="{{ var.value.get('rows_file', '/dev/null') }}",
        **CONN,
    )
    fails = ImpalaLBOperator(
        task_id="fails", sql="SELECT sleep(3000); INSERT INTO no_such_table SELECT 1", stick_to=make, **CONN
    )
