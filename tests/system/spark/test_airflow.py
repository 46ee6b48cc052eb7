"""The operator and the hook, run by a real Airflow on servers that nobody here wrote."""

import contextlib
import os
import signal
import subprocess
import sys
from datetime import date
from decimal import Decimal

import pytest

from airflow_provider_impala_lb.errors import StatementFailed
from airflow_provider_impala_lb.hooks.impala_lb import ImpalaLBHook
from tests.support.airflow_runs import FOLDER
from tests.support.servers import eventually


def test_scripts(run_dag, servers, balancer, cached_everywhere):
    done = run_dag("spark_scripts")
    states = done.states
    assert [states.pop(task_id) for task_id in ("gone", "syntax")] == ["failed", "failed"]
    assert set(states.values()) == {"success"}, states
    tries = {ti.task_id: ti.try_number for ti in done.run.get_task_instances()}
    assert tries["syntax"] == 1  # what no retry can mend is not tried again

    def rows(task_id):
        return [list(row) for row in done.xcom(task_id)]

    assert rows("script") == [[3]]
    assert [[list(row) for row in result] for result in done.xcom("every")] == [[], [[2]]]
    assert rows("make") == rows("copied") == [[1, "it's;"]]
    summary = done.xcom("script", "impala_run")
    assert (summary["host"], summary["statements"]) == (done.xcom("script", "impala_host"), 6)

    host = {task_id: done.xcom(task_id, "impala_host") for task_id in tries}
    assert host["script"] == host["every"] == host["gone"]
    assert host["insert"] == host["sticks"]
    assert rows("sticks") == [[3]]
    for n, node in enumerate(servers.nodes):  # what tasks that do not stick would read
        assert host[f"on_{n}"] == node.address
        assert rows(f"on_{n}") == [[3 if node.address == host["insert"] else 2]]
    assert balancer.status()["leases"] == []


def test_a_time_limit_cancels_the_statement(run_dag, servers, balancer, monkeypatch):
    monkeypatch.setenv("SLEEP_LIMIT", "3")
    with contextlib.suppress(BaseException):  # 2.11's dag.test() lets the task's AirflowTaskTimeout through
        assert run_dag("spark_sleeping").states == {"sleep": "failed"}
    eventually(lambda: not any(node.sleeping for node in servers.nodes), 10)
    assert balancer.status()["leases"] == []


@pytest.fixture
def sleeping(run_dag, servers):
    """The DAG ``spark_sleeping`` in a process of its own, by now asleep on a server."""
    environment = {key: value for key, value in os.environ.items() if key != "SLEEP_LIMIT"}
    process = subprocess.Popen(
        [sys.executable, str(FOLDER / "spark" / "spark_sleeping.py")],
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        env=environment,
    )
    try:
        eventually(lambda: process.poll() is None and any(node.sleeping for node in servers.nodes), 60)
        yield process
    finally:
        process.kill()
        process.communicate()


def test_sigterm_cancels_the_statement(sleeping, servers, balancer):
    assert len(balancer.status()["leases"]) == 1
    sleeping.send_signal(signal.SIGTERM)
    eventually(lambda: not any(node.sleeping for node in servers.nodes), 10)
    eventually(lambda: not balancer.status()["leases"], 10)
    output = sleeping.communicate(timeout=30)[0]
    assert "the task was killed" in output or "Task received SIGTERM" in output


@pytest.fixture
def hook(connection):
    return ImpalaLBHook(connection)


def test_records_and_their_types(hook, servers):
    sql = "SELECT 1, 'a', DATE'2026-01-02', CAST(1.5 AS DECIMAL(5,2)), true, NULL, CAST(2.5 AS DOUBLE)"
    row = (1, "a", date(2026, 1, 2), Decimal("1.50"), True, None, 2.5)
    assert hook.get_records(sql) == [row]
    assert hook.get_first("SELECT %(n)s, %(s)s", {"n": 7, "s": "it's"}) == (7, "it's")
    assert hook.run("SELECT 1; SELECT 2", handler=lambda cursor: cursor.fetchall()) == [(2,)]
    assert hook.run("DROP TABLE IF EXISTS nowhere") is None
    assert hook.host in {node.address for node in servers.nodes}
    assert hook.test_connection() == (
        True,
        "; ".join(["shared state: ok", *(f"{node.address}: ok" for node in servers.nodes)]),
    )


def test_a_data_frame(hook):
    frame = hook.get_df("SELECT 1 AS a, 'x' AS b UNION ALL SELECT 2, 'y' ORDER BY a")
    assert frame.to_dict("list") == {"a": [1, 2], "b": ["x", "y"]}


def test_rows_are_inserted(hook):
    hook.run("DROP TABLE IF EXISTS many; CREATE TABLE many (a INT, s STRING, d DOUBLE) USING parquet")
    rows = [(n, f"it's ?; :1 %s {n}", None if n % 2 else n / 2) for n in range(25)]
    hook.insert_rows("many", iter(rows), target_fields=["a", "s", "d"], commit_every=10)
    assert hook.get_records("SELECT a, s, d FROM many ORDER BY a") == rows


def test_a_connection_is_a_session(hook):
    with hook.get_conn() as connection, connection.cursor() as cursor:
        cursor.execute("CREATE TEMPORARY VIEW mine AS SELECT 5 AS n")
        assert cursor.fetchall() == []
        cursor.execute("SELECT n FROM mine")
        assert cursor.fetchone() == (5,)
        assert cursor.fetchone() is None
        with connection.cursor() as other, pytest.raises(StatementFailed, match="TABLE_OR_VIEW_NOT_FOUND"):
            other.execute("SELECT n FROM mine")
        cursor.execute("SELECT id FROM range(5) ORDER BY id")
        assert cursor.fetchmany(2) == [(0,), (1,)]
        assert list(cursor) == [(2,), (3,), (4,)]
    assert hook.balancer.status()["leases"] == []
