"""Mapped tasks, each of which sticks to its twin."""

from datetime import datetime

from airflow.providers.common.compat.sdk import DAG

from airflow_provider_impala_lb.operators.impala_lb import ImpalaLBOperator

with DAG("mapped", start_date=datetime(2026, 1, 1), schedule=None) as dag:
    ups = ImpalaLBOperator.partial(task_id="up").expand(sql=[f"SELECT {n}" for n in range(3)])
    downs = ImpalaLBOperator.partial(task_id="down", stick_to="up").expand(sql=[f"SELECT {n}" for n in range(3)])
    ups >> downs
    one = ImpalaLBOperator(task_id="one", sql="SELECT 1")
    fan = ImpalaLBOperator.partial(task_id="fan", stick_to="one").expand(sql=[f"SELECT {n}" for n in range(2)])
    lost = ImpalaLBOperator(task_id="lost", sql="SELECT 1", stick_to="up")  # on which of its hosts?
    one >> fan
    ups >> lost
