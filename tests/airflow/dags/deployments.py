"""A task of an Airflow that shares its cluster's state with another one; its script stops at its second statement."""

from datetime import datetime

from airflow.providers.common.compat.sdk import DAG

from airflow_provider_impala_lb.operators.impala_lb import ImpalaLBOperator

with DAG("deployments", start_date=datetime(2026, 1, 1), schedule=None) as dag:
    ImpalaLBOperator(
        task_id="load",
        conn_id="of_prod",
        sql="CREATE TABLE IF NOT EXISTS of_prod (n INT); SELEC",
        resume=True,
    )
