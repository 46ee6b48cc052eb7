"""Why a dependent task has to stick: the same count, with and without ``stick_to``.

``load`` appends one day's flights. ``count_sticky`` runs where they were loaded and sees them. ``count_anywhere`` runs
elsewhere, whose metadata lag behind: it counts too few rows, and nothing tells.
"""

from __future__ import annotations

from datetime import datetime

from airflow.providers.common.compat.sdk import DAG

from airflow_provider_impala_lb.operators.impala_lb import ImpalaLBOperator

with DAG("why_stick", start_date=datetime(2026, 1, 1), schedule=None, catchup=False, doc_md=__doc__) as dag:
    create = ImpalaLBOperator(
        task_id="create",
        sql="""
            DROP TABLE IF EXISTS flights_mart.arrivals;
            SET SYNC_DDL=1;
            CREATE TABLE flights_mart.arrivals (carrier STRING, arr_delay INT) STORED AS PARQUET;
        """,
    )
    load = ImpalaLBOperator(
        task_id="load",
        sql="""
            INSERT INTO flights_mart.arrivals SELECT carrier, arr_delay FROM flights_stage.flights;
            SELECT count(*) FROM flights_mart.arrivals;
        """,
    )
    count = "SELECT count(*) FROM flights_mart.arrivals"
    count_anywhere = ImpalaLBOperator(task_id="count_anywhere", sql=count)
    count_sticky = ImpalaLBOperator(task_id="count_sticky", sql=count, stick_to=load)
    create >> load >> [count_anywhere, count_sticky]

if __name__ == "__main__":
    dag.test()
