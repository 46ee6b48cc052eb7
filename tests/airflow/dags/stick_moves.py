"""The node of a load takes no more when its readers come: they move to another one, which first hears of the rows."""

from datetime import datetime

from airflow.providers.common.compat.sdk import DAG, task
from airflow.providers.common.sql.operators.sql import SQLCheckOperator
from airflow.providers.common.sql.sensors.sql import SqlSensor

from airflow_provider_impala_lb.hooks.impala_lb import ImpalaLBHook
from airflow_provider_impala_lb.operators.impala_lb import ImpalaLBOperator

CONN = "impala_lb_default"
READ = "SELECT count(*) AS c FROM stuck_moved WHERE r = '{{ run_id }}'"

with DAG("stick_moves", start_date=datetime(2026, 1, 1), schedule=None) as dag:
    load = ImpalaLBOperator(task_id="load", sql="INSERT INTO stuck_moved SELECT '{{ run_id }}'")

    @task
    def drain(host):
        ImpalaLBHook(CONN).balancer.drain(host)

    @task(trigger_rule="all_done")
    def ready(host):
        ImpalaLBHook(CONN).balancer.ready(host)

    @task
    def frame(run_id=None):
        """Over a connection, as data frames and inserts."""
        read = READ.replace("{{ run_id }}", run_id)
        return int(ImpalaLBHook(CONN, stick_to="load").get_df(read)["c"][0])

    sticky = {"conn_id": CONN, "sql": READ, "hook_params": {"stick_to": "load"}}
    readers = [
        ImpalaLBOperator(task_id="ours", sql=READ, stick_to=load),
        SQLCheckOperator(task_id="check", **sticky),
        SqlSensor(task_id="sensor", poke_interval=60, timeout=30, **sticky),
        frame(),
    ]
    host = load.output["impala_host"]
    drain(host) >> readers >> ready(host)
