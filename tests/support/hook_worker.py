"""A task that uses a hook, as a process of its own: ``python -m tests.support.hook_worker CONN_ID ATTEMPT WAY SQL``.

Its connection is in the environment. ``WAY`` is ``run``, ``cursor``, or ``two``: the first of two cursors runs it.
"""

import sys
from datetime import datetime, timezone
from types import SimpleNamespace

from airflow_provider_impala_lb.hooks import impala_lb, killed_task


def context_of(attempt, map_index=-1):
    """The little of Airflow's context that tells which task runs, and which attempt of it."""
    ti = SimpleNamespace(
        dag_id="d",
        task_id="t",
        run_id="r",
        try_number=attempt,
        map_index=map_index,
        start_date=datetime(2026, 1, 1, attempt, tzinfo=timezone.utc),
        max_tries=1,
        task=None,
    )
    return {"ti": ti, "dag_run": SimpleNamespace(start_date=datetime(2026, 1, 1, tzinfo=timezone.utc), clear_number=0)}


def work(conn_id, way, sql):
    hook = impala_lb.ImpalaLBHook(conn_id)
    if way == "run":
        hook.run(sql)
    else:
        with hook.get_conn() as connection, connection.cursor() as cursor:
            connection.cursor().close()
            if way == "two":
                connection.cursor()
            cursor.execute(sql)


if __name__ == "__main__":
    conn_id, attempt, way, sql = sys.argv[1:]
    context = context_of(int(attempt))
    impala_lb.running_task = killed_task.running_task = lambda: context
    work(conn_id, way, sql)
