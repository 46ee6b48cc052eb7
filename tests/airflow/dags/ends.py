"""Scripts that come to their end, and something after it goes wrong. No retry may run an INSERT again."""

from datetime import datetime, timedelta

from airflow.providers.common.compat.sdk import DAG, task

from airflow_provider_impala_lb.operators.impala_lb import ImpalaLBOperator

VALUES = (
    "SELECT cast('nan' AS DOUBLE), cast('-inf' AS FLOAT), cast(unhex('ff80') AS BINARY), unhex('610062'), "
    "cast('12345678901234567890.12' AS DECIMAL(38,2)), cast('100000000000000000000000' AS DECIMAL(38,0)), "
    "cast(1.50 AS DECIMAL(5,2)), cast('2026-03-29 12:30:00.123456' AS TIMESTAMP), "
    "cast('9999-12-31 23:59:59.999999' AS TIMESTAMP), cast('2026-01-02' AS DATE), 9223372036854775807, true, NULL, 'é'"
)


def fail(*_, **__):
    raise ConnectionError("something after the end")


def fail_the_first_time(context, result):
    if context["ti"].try_number == 1:
        raise ConnectionError("something after the end")


def handler_that_fails(cursor):
    if cursor.description is not None and cursor.description[0][0] == "last":
        raise ValueError("the author's own mistake")


def an_object(cursor):
    return object()


def script(task_id, last, sleep=""):
    return f"CREATE TABLE IF NOT EXISTS ends_{task_id} (n INT); INSERT INTO ends_{task_id} SELECT 1 {sleep}" + (
        f"; {last}" if last else ""
    )


with DAG("ends", start_date=datetime(2026, 1, 1), schedule=None) as dag:

    def ends(task_id, last="SELECT 1 AS last", sleep="", **options):
        return ImpalaLBOperator(
            task_id=task_id,
            sql=script(task_id, last, sleep),
            retries=1,
            retry_delay=timedelta(seconds=0),
            **options,
        )

    ends("values", VALUES)
    ends("an_object", handler=an_object)
    ends("handler", handler=handler_that_fails)
    ends("afterwards", post_execute=fail)
    ends("deferred_values", VALUES, sleep="WHERE sleep(2500)", deferrable=True)
    ends("deferred_afterwards", "", sleep="WHERE sleep(2500)", deferrable=True, handler=None, post_execute=fail)
    ImpalaLBOperator(
        task_id="only_reads",
        sql="SELECT 1",
        retries=1,
        retry_delay=timedelta(seconds=0),
        post_execute=fail_the_first_time,
    )

    @task
    def each(row):
        return row

    each.expand(row=ends("nothing_to_map", "", handler=None).output)
