"""Scripts whose XComs cannot be pushed: see failing_xcom.py, which is this process's backend. Prints how they ended."""

import json
from datetime import datetime, timedelta

from airflow.providers.common.compat.sdk import DAG

from airflow_provider_impala_lb.operators.impala_lb import ImpalaLBOperator

with DAG("xcom_away", start_date=datetime(2026, 1, 1), schedule=None) as dag:
    for key in ("impala_host", "impala_run", "return_value"):
        ImpalaLBOperator(
            task_id=f"fails_{key}",
            sql=f"CREATE TABLE IF NOT EXISTS away_{key} (n INT); INSERT INTO away_{key} SELECT 1; SELECT 7",
            retries=1,
            retry_delay=timedelta(seconds=0),
        )
    ImpalaLBOperator(
        task_id="deferred_fails_impala_run",
        sql="CREATE TABLE IF NOT EXISTS away_deferred (n INT); INSERT INTO away_deferred SELECT 1 WHERE sleep(2500)",
        retries=1,
        retry_delay=timedelta(seconds=0),
        deferrable=True,
        handler=None,
    )

if __name__ == "__main__":
    run = dag.test()
    print(json.dumps({ti.task_id: [str(ti.state), ti.try_number] for ti in run.get_task_instances()}))
