"""Every way to stick."""

import os
from datetime import datetime

from airflow.providers.common.compat.sdk import DAG, task

from airflow_provider_impala_lb.operators.impala_lb import ImpalaLBOperator

with DAG("sticking", start_date=datetime(2026, 1, 1), schedule=None) as dag:
    up = ImpalaLBOperator(task_id="up", sql="CREATE TABLE IF NOT EXISTS stuck (a INT)")
    spread = [ImpalaLBOperator(task_id=f"spread_{n}", sql="SELECT 1") for n in range(2)]
    by_task = ImpalaLBOperator(task_id="by_task", sql="INSERT INTO stuck VALUES (1)", stick_to=up)
    by_id = ImpalaLBOperator(task_id="by_id", sql="SELECT count(*) FROM stuck", stick_to="by_task")
    by_xcom = ImpalaLBOperator(task_id="by_xcom", sql="SELECT 1", stick_to=up.output["impala_host"])
    by_host = ImpalaLBOperator(task_id="by_host", sql="SELECT 1", stick_to=os.environ.get("THIRD_NODE", "x:1"))

    @task.short_circuit(ignore_downstream_trigger_rules=False)
    def no():
        return False

    skipped = ImpalaLBOperator(task_id="skipped", sql="SELECT 1")
    no() >> skipped
    after = ImpalaLBOperator(task_id="after", sql="SELECT 1", stick_to=skipped, trigger_rule="all_done")
    up >> spread >> by_id
    by_task >> by_id
