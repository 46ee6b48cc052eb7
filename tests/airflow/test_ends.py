"""Nothing undoes a script that is done: what goes wrong after its end never makes a retry run it again."""

import json
import logging
import os
import pathlib
import subprocess
import sys
from datetime import date, datetime
from decimal import Decimal

import pytest
from airflow.providers.common.compat.sdk import DAG, AirflowException, AirflowFailException

from airflow_provider_impala_lb.operators.impala_lb import ImpalaLBOperator


def inserted(cluster, table):
    """How often a row was inserted into this table."""
    entries = [entry for node in cluster.nodes for entry in node.journal()]
    return sum(f"INTO {table} SELECT" in entry.get("sql", "") and entry["state"] == "FINISHED" for entry in entries)


@pytest.mark.slow
def test_what_goes_wrong_after_the_end_is_not_retried(run_dag, cluster):
    run = run_dag("ends")
    states = run.states
    assert states.pop("each") in ("upstream_failed", "failed")
    assert states == {
        "values": "success",
        "an_object": "failed",
        "handler": "failed",
        "afterwards": "failed",
        "deferred_values": "success",
        "deferred_afterwards": "failed",
        "only_reads": "success",
        "nothing_to_map": "failed",
    }
    once = {name: inserted(cluster, f"ends_{name}") for name in states if name != "only_reads"}
    assert set(once.values()) == {1}, once
    tries = {ti.task_id: ti.try_number for ti in run.run.get_task_instances()}
    assert tries["only_reads"] == 2  # nothing is run twice by it that changes anything
    for name in ("values", "deferred_values"):
        (row,) = run.xcom(name)
        assert list(row) == [
            "nan",
            "-inf",
            "/4A=",
            "a\\x00b",
            "12345678901234567890.12",
            "100000000000000000000000",
            Decimal("1.5"),
            datetime(2026, 3, 29, 12, 30, 0, 123456),
            "9999-12-31 23:59:59.999999",
            date(2026, 1, 2),
            9223372036854775807,
            True,
            None,
            "é",
        ]


@pytest.mark.slow
def test_xcoms_that_cannot_be_pushed(cluster, run_dag):
    root = pathlib.Path(__file__).parents[2]
    done = subprocess.run(
        [sys.executable, str(run_dag.folder / "tests" / "xcom_away.py")],
        env={
            **os.environ,
            "PYTHONPATH": str(root),
            "AIRFLOW__CORE__XCOM_BACKEND": "tests.airflow.failing_xcom.FailingXCom",
        },
        capture_output=True,
        text=True,
        timeout=240,
    )
    told = done.stdout + done.stderr
    assert done.returncode == 0, told[-6000:]
    states = json.loads(next(line for line in done.stdout.splitlines() if line.startswith('{"')))
    assert {name: state for name, (state, _) in states.items()} == {
        "fails_impala_host": "failed",
        "fails_impala_run": "success",
        "fails_return_value": "failed",
        "deferred_fails_impala_run": "success",
    }, told[-6000:]
    tables = ("impala_host", "impala_run", "return_value", "deferred")
    assert {table: inserted(cluster, f"away_{table}") for table in tables} == {
        "impala_host": 0,
        "impala_run": 1,
        "return_value": 1,
        "deferred": 1,
    }
    assert states["fails_impala_host"][1] == 2  # nothing had run
    assert "impala_host could not be pushed to XCom" in told and "nothing was run" in told


def operator(sql, **options):
    with DAG("d", start_date=datetime(2026, 1, 1), schedule=None):
        return ImpalaLBOperator(task_id="t", sql=sql, **options)


class Failing(logging.Handler):
    """A log that is full once statements run: its errors reach whoever logs, as those of Airflow 3's own log do."""

    def __init__(self):
        super().__init__()
        self.full = False

    def emit(self, record):
        self.full = self.full or record.getMessage().startswith("Session ")
        if self.full and not record.getMessage().startswith("Session "):
            raise OSError(28, "No space left on device")


def test_a_log_that_is_full_stops_no_script(cluster, ti):
    task, ours = operator("CREATE TABLE IF NOT EXISTS ends_log (n INT); INSERT INTO ends_log SELECT 1; SELECT 5"), ti()
    logger = logging.getLogger("tests.full")
    logger.handlers, logger.propagate = [Failing()], False
    logger.setLevel(logging.INFO)
    task._log = task._cached_logger = task._hook._log = logger
    assert [list(row) for row in task._run({"ti": ours})] == [[5]]
    assert inserted(cluster, "ends_log") == 1


@pytest.mark.parametrize("at", [3, 5])
def test_a_handler_that_fails_says_what_is_done(cluster, ti, caplog, at):
    table = f"ends_between_{at}"

    def handler(cursor):
        if cursor.description is not None and cursor.description[0][0] == f"at_{at}":
            raise ValueError("the author's own mistake")

    sql = f"CREATE TABLE {table} (n INT); INSERT INTO {table} SELECT 1; SELECT 1 AS at_3; USE default; SELECT 2 AS at_5"
    task = operator(sql, handler=handler, return_last=False)
    task._hook._log = logging.getLogger("tests.handler")  # Airflow 3's own is not Python's
    with pytest.raises(ValueError, match="the author's own mistake"):
        task._run({"ti": ti()})
    done = "none is after it" if at == 5 else "2 after it not sent"
    assert (
        f"the handler failed on statement {at} of 5, which is done; so are the {at - 1} before it, {done}"
        in caplog.text
    )


def test_nothing_was_run_if_the_host_cannot_be_told(cluster, ti):
    class Away(ti):
        def xcom_push(self, key, value):
            raise ConnectionError("the API server is away")

    with pytest.raises(AirflowException, match=r"impala_host could not be pushed.*away.*nothing was run") as caught:
        operator("CREATE TABLE ends_never (n INT)")._run({"ti": Away()})
    assert not isinstance(caught.value, AirflowFailException)  # a retry may mend it
    assert not any("ends_never" in entry.get("sql", "") for node in cluster.nodes for entry in node.journal())


@pytest.mark.parametrize("ended_on", ["127.0.0.1:1", "127.0.0.1:2"])
def test_dependent_tasks_are_not_led_to_another_node(cluster, ti, ended_on):
    """The trigger has run the script to its end, and XCom is away by then."""

    class Away(ti):
        def xcom_push(self, key, value):
            raise ConnectionError("the API server is away")

        def xcom_pull(self, task_ids, key="return_value", map_indexes=None):
            return "127.0.0.1:1"  # pushed before the script began

    done = {"done": {"host": ended_on, "statements": 1, "seconds": 0.1}, "epoch": 0, "changes": True}
    task, context = operator("INSERT INTO t SELECT 1", retries=3), {"ti": Away()}
    if ended_on == "127.0.0.1:1":
        assert task._run(context, done) is None
    else:
        with pytest.raises(AirflowFailException, match="1 statement ran to the end on 127.0.0.1:2, but impala_host"):
            task._run(context, done)
    assert task.retries == 0
