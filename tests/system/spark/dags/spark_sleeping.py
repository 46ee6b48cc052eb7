"""A statement that takes too long."""

import os
from datetime import datetime, timedelta

from airflow.providers.common.compat.sdk import DAG

from airflow_provider_impala_lb.operators.impala_lb import ImpalaLBOperator

limit = os.environ.get("SLEEP_LIMIT")

with DAG("spark_sleeping", start_date=datetime(2026, 1, 1), schedule=None) as dag:
    ImpalaLBOperator(
        task_id="sleep",
        sql="SELECT reflect('java.lang.Thread', 'sleep', 60000L)",
        conn_id="spark",
        execution_timeout=timedelta(seconds=float(limit)) if limit else None,
    )

if __name__ == "__main__":
    dag.test()
