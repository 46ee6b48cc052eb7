"""What no retry can mend."""

from datetime import datetime, timedelta

from airflow.providers.common.compat.sdk import DAG

from airflow_provider_impala_lb.operators.impala_lb import ImpalaLBOperator

with DAG("failing", start_date=datetime(2026, 1, 1), schedule=None) as dag:
    retrying = {"retries": 2, "retry_delay": timedelta(seconds=0)}
    ImpalaLBOperator(task_id="syntax", sql="SELEC 1", **retrying)
    ImpalaLBOperator(task_id="unsplittable", sql="SELECT 'abc", **retrying)
    ImpalaLBOperator(task_id="stranger", sql="SELECT 1", stick_to="10.9.9.9:21050", **retrying)
    ImpalaLBOperator(task_id="no_lock_directory", sql="SELECT 1", conn_id="typo", **retrying)
