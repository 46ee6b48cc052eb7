"""What can only be seen when a task runs: each of these fails, and its error says what to write."""

from datetime import datetime

from airflow.providers.common.compat.sdk import DAG, task
from airflow.providers.common.sql.operators.sql import SQLExecuteQueryOperator
from airflow.providers.common.sql.sensors.sql import SqlSensor

from airflow_provider_impala_lb.operators.impala_lb import ImpalaLBOperator

CONN = "impala_lb_default"


def ours(task_id, **options):
    return ImpalaLBOperator(task_id=task_id, sql="SELECT 1", **options)


def theirs(task_id, **hook_params):
    return SQLExecuteQueryOperator(task_id=task_id, conn_id=CONN, sql="SELECT 1", hook_params=hook_params)


with DAG("stick_wrong", start_date=datetime(2026, 1, 1), schedule=None) as dag:
    load = ours("load")
    sql = theirs("sql")

    @task
    def nothing():
        return None

    @task.short_circuit(ignore_downstream_trigger_rules=False)
    def no():
        return False

    ours("beside", stick_to="load")
    ImpalaLBOperator.partial(task_id="beside_mapped", stick_to="load").expand(sql=["SELECT 1"])
    ImpalaLBOperator.partial(task_id="beside_kwargs").expand_kwargs([{"sql": "SELECT 1", "stick_to": "load"}])
    ours("beside_template", stick_to="{{ ti.xcom_pull(task_ids='load', key='impala_host') }}")
    theirs("hook_beside", stick_to="load")
    theirs("hook_operator", stick_to=load)

    # One that is done lets it begin, while another one has not even begun.
    slow = ours("slow")
    load >> ours("first") >> ours("second") >> ours("third") >> slow
    early = ours("early", stick_to=slow, trigger_rule="one_success")
    sql >> early

    sql >> ours("of_sql", stick_to="sql")
    nothing() >> ours("of_nothing", stick_to="nothing")
    load >> ours("of_a_missing_one", stick_to="laod")
    load >> theirs("hook_itself", stick_to="hook_itself")
    theirs("hook_rows", stick_to=load.output)
    load >> theirs("hook_missing_template", stick_to="{{ ti.xcom_pull(task_ids='load', key='impala_hots') }}")
    theirs("hook_unknown", stik_to="load", schema="default")

    skipped = ours("skipped")
    no() >> skipped
    ours("after_skipped", stick_to=skipped, trigger_rule="all_done")
    ours("template_of_skipped", stick_to=f"{skipped.output['impala_host']}", trigger_rule="all_done")
    skipped >> dag.get_task("template_of_skipped")
    hook_after = SqlSensor(
        task_id="hook_after_skipped",
        conn_id=CONN,
        sql="SELECT 1",
        hook_params={"stick_to": "skipped"},
        trigger_rule="all_done",
    )
    skipped >> hook_after
