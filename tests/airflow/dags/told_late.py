"""Tasks whose script comes to its end, which Airflow is not told: something after it fails, as an API server can."""

from datetime import datetime, timedelta

from airflow.providers.common.compat.sdk import DAG

from airflow_provider_impala_lb.operators.impala_lb import ImpalaLBOperator


def fail_the_first_time(context, result):
    if context["ti"].try_number == 1:
        raise ConnectionError("the end could not be told")


with DAG("told_late", start_date=datetime(2026, 1, 1), schedule=None) as dag:
    for name, options in (("resumes", {"resume": True}), ("repeats", {"restartable": True}), ("may_not", {})):
        ImpalaLBOperator(
            task_id=name,
            sql=(f"CREATE TABLE IF NOT EXISTS {name} (n INT);INSERT INTO {name} SELECT 1;SELECT count(*) FROM {name}"),
            **options,
            retries=1,
            retry_delay=timedelta(seconds=0),
            post_execute=fail_the_first_time,
        )
