"""A long query, to be killed."""

from datetime import datetime

from airflow.providers.common.compat.sdk import DAG

from airflow_provider_impala_lb.operators.impala_lb import ImpalaLBOperator

with DAG("sleeping", start_date=datetime(2026, 1, 1), schedule=None) as dag:
    ImpalaLBOperator(task_id="sleep", sql="SELECT sleep(60000)")

if __name__ == "__main__":
    dag.test()
