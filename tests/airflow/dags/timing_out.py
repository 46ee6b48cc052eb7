"""A query that takes longer than its task may."""

from datetime import datetime, timedelta

from airflow.providers.common.compat.sdk import DAG

from airflow_provider_impala_lb.operators.impala_lb import ImpalaLBOperator

with DAG("timing_out", start_date=datetime(2026, 1, 1), schedule=None) as dag:
    ImpalaLBOperator(task_id="slow", sql="SELECT sleep(61000)", execution_timeout=timedelta(seconds=1))
