"""Long queries of common-sql's operators and of hooks, to be killed: ``python sleeping_sql.py TASK``."""

import sys
from datetime import datetime

from airflow.providers.common.compat.sdk import DAG, task
from airflow.providers.common.sql.operators.sql import SQLCheckOperator, SQLExecuteQueryOperator

from airflow_provider_impala_lb.hooks.impala_lb import ImpalaLBHook

CONNECTION = "impala_lb_default"
wanted = sys.argv[1] if __name__ == "__main__" else "execute"

with DAG("sleeping_sql", start_date=datetime(2026, 1, 1), schedule=None) as dag:
    if wanted == "execute":
        SQLExecuteQueryOperator(task_id=wanted, conn_id=CONNECTION, sql="SELECT sleep(62000)")
    elif wanted == "check":
        SQLCheckOperator(task_id=wanted, conn_id=CONNECTION, sql="SELECT sleep(62000)")
    elif wanted == "cursor":

        @task(task_id=wanted)
        def cursor():
            with ImpalaLBHook().get_conn() as connection, connection.cursor() as cursor:
                cursor.execute("SELECT sleep(62000)")

        cursor()
    elif wanted == "goes_on":

        @task(task_id=wanted)
        def goes_on():
            for _ in range(3):  # as a function that tries anew by itself
                try:
                    ImpalaLBHook().run("SELECT sleep(62000)")
                except Exception as error:
                    print(error)

        goes_on()

if __name__ == "__main__":
    dag.test()
