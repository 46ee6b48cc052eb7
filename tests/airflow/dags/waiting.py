"""More tasks than the cluster takes at once, each waiting in its own way."""

from datetime import datetime

from airflow.providers.common.compat.sdk import DAG

from airflow_provider_impala_lb.operators.impala_lb import ImpalaLBOperator

SQL = "SELECT 1"

with DAG("waiting", start_date=datetime(2026, 1, 1), schedule=None) as dag:
    ImpalaLBOperator(task_id="deferred", sql=SQL, conn_id="one_at_a_time", deferrable=True)
    ImpalaLBOperator(task_id="rescheduled", sql=SQL, conn_id="one_at_a_time", reschedule=True)
    ImpalaLBOperator(task_id="sleeping", sql=SQL, conn_id="one_at_a_time")
    ImpalaLBOperator(task_id="impatient", sql=SQL, conn_id="one_at_a_time", max_wait=0)
