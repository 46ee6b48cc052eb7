"""Scripts as people write them."""

from datetime import datetime
from pathlib import Path

from airflow.providers.common.compat.sdk import DAG
from airflow.providers.common.sql.hooks.handlers import fetch_one_handler

from airflow_provider_impala_lb.operators.impala_lb import ImpalaLBOperator

try:
    from airflow.sdk import literal
except ImportError:  # Airflow 2
    from airflow.template.templater import LiteralValue as literal

with DAG(
    "everyday",
    start_date=datetime(2026, 1, 1),
    schedule=None,
    template_searchpath=str(Path(__file__).parent),
    params={"word": "hello;"},
) as dag:
    ImpalaLBOperator(task_id="file", sql="three.sql", variables={"x": "7"})
    ImpalaLBOperator(task_id="string", sql="SELECT 1; SELECT 2, 'b'")
    ImpalaLBOperator(task_id="all", sql="SELECT 1; SELECT 2", return_last=False)
    ImpalaLBOperator(task_id="list", sql=["SELECT 1", "SELECT 2; SELECT 3"])
    ImpalaLBOperator(task_id="one", sql="SELECT 5", handler=fetch_one_handler)
    ImpalaLBOperator(task_id="whole", sql="SELECT 'a;b';", split_statements=False)
    ImpalaLBOperator(task_id="bound", sql="SELECT %(n)s, %(s)s", parameters={"n": 1, "s": "it's"})
    ImpalaLBOperator(task_id="quiet", sql="SELECT 1", do_xcom_push=False)
    ImpalaLBOperator(task_id="options", sql="SET ALL", query_options={"mem_limit": "{{ params.word[:-1] }}"})
    ImpalaLBOperator(task_id="raw", sql="SELECT '{% raw %}{#{% endraw %}' -- rows like {% raw %}{%{% endraw %}")
    ImpalaLBOperator(task_id="literal", sql=literal("SELECT '{{}}' -- rows like {%"))
    ImpalaLBOperator(task_id="database", sql="SELECT current_database()", database="default")
