"""The operator, run by a real Airflow on real coordinators."""

import contextlib
import json
import signal
import subprocess
import sys
import time
import urllib.request
from datetime import datetime

import pytest
from airflow.providers.common.compat.sdk import DAG, AirflowFailException, XComArg

from airflow_provider_impala_lb.errors import ConfigError, StatementFailed
from airflow_provider_impala_lb.operators.impala_lb import ImpalaLBOperator
from tests.support.scripts import in_flight


def dag(dag_id):
    return DAG(dag_id, start_date=datetime(2026, 1, 1), schedule=None)


def test_everyday_scripts(run_dag, cluster):
    run = run_dag("everyday")
    assert set(run.states.values()) == {"success"}, run.states

    def rows(task_id):
        return [list(row) for row in run.xcom(task_id)]

    assert rows("file") == [[7, "hello;"]]
    assert rows("string") == [[2, "b"]]
    assert [[list(row) for row in result] for result in run.xcom("all")] == [[[1]], [[2]]]
    assert [[list(row) for row in result] for result in run.xcom("list")] == [[[1]], [[2]], [[3]]]
    assert list(run.xcom("one")) == [5]
    assert rows("whole") == [["a;b"]]
    assert rows("bound") == [[1, "it's"]]
    assert run.xcom("quiet") is None
    assert rows("database") == [["default"]]
    assert (rows("raw"), rows("literal")) == ([["{#"]], [["{{}}"]])
    assert ["MEM_LIMIT", "hello"] in [row[:2] for row in rows("options")]
    addresses = {node.address for node in cluster.nodes}
    assert {run.xcom(task_id, "impala_host") for task_id in run.states} == addresses  # spread over all, quiet too
    done = run.xcom("string", "impala_run")
    assert done["host"] == run.xcom("string", "impala_host")
    assert (done["statements"], len(done["query_ids"])) == (2, 2)


def test_sticking(run_dag, cluster):
    run = run_dag("sticking")
    assert run.dag.get_task("by_task").upstream_task_ids == {"up"}
    assert run.dag.get_task("by_xcom").upstream_task_ids == {"up"}
    assert run.dag.get_task("after").upstream_task_ids == {"skipped"}
    assert run.states.pop("skipped") == "skipped"
    host = {task_id: run.xcom(task_id, "impala_host") for task_id in run.states}
    assert host["by_task"] == host["by_id"] == host["by_xcom"] == host["up"]
    assert host["by_host"] == cluster.nodes[2].address
    assert list(run.xcom("by_id")[0]) == [1]
    assert host["after"] in {node.address for node in cluster.nodes}
    assert run.states["after"] == "success"


def test_mapped_tasks_stick_to_their_own_twin(run_dag, cluster):
    run = run_dag("mapped")
    hosts = {}
    for ti in run.run.get_task_instances():
        hosts[ti.task_id, ti.map_index] = run.xcom(ti.task_id, "impala_host", ti.map_index)
    assert len({hosts["up", n] for n in range(3)}) > 1
    assert {hosts["fan", n] for n in range(2)} == {hosts["one", -1]}
    assert hosts["lost", -1] is None
    assert run.states["lost"] == "failed"
    assert all(hosts["up", n] == hosts["down", n] for n in range(3))


def test_failures_by_their_state(run_dag, cluster, monkeypatch):
    typo = {"conn_type": "impala_lb", "host": cluster.nodes[0].address, "extra": {"lock_file": "/nowhere/impala/lock"}}
    monkeypatch.setenv("AIRFLOW_CONN_TYPO", json.dumps(typo))
    run = run_dag("failing")
    assert run.states == dict.fromkeys(("syntax", "unsplittable", "stranger", "no_lock_directory"), "failed")
    tries = {ti.task_id: ti.try_number for ti in run.run.get_task_instances()}
    assert tries == dict.fromkeys(tries, 1)  # what no retry can mend is not tried again


def test_a_script_that_had_ended_is_not_run_again_by_a_retry(run_dag, cluster):
    run = run_dag("told_late")
    assert run.states == {"resumes": "success", "repeats": "success", "may_not": "failed"}
    assert {ti.task_id: ti.try_number for ti in run.run.get_task_instances()} == {
        "resumes": 2,
        "repeats": 2,
        "may_not": 1,
    }
    rows = {task_id: [list(row) for row in run.xcom(task_id)] for task_id in ("resumes", "repeats")}
    assert rows == {"resumes": [[1]], "repeats": [[2]]}
    assert run.xcom("resumes", "impala_host") in {node.address for node in cluster.nodes}
    assert run.xcom("resumes", "impala_run")["resumed"] == 2


def test_a_time_limit_cancels_the_query(run_dag, cluster, balancer):
    start = time.monotonic()
    with contextlib.suppress(BaseException):  # 2.11's dag.test() lets the task's AirflowTaskTimeout through
        assert set(run_dag("timing_out").states.values()) == {"failed"}
    assert time.monotonic() - start < 20
    wait_for(lambda: not any(in_flight(node) for node in cluster.nodes), 5)
    ended = [entry["state"] for node in cluster.nodes for entry in node.journal() if "61000" in entry.get("sql", "")]
    assert ended == ["CANCELLED"]
    assert balancer.status()["leases"] == []


def test_a_script_of_comments_only_has_nothing_to_run(cluster, ti, capsys):
    before = sum("sql" in entry for node in cluster.nodes for entry in node.journal())
    with dag("comments"):
        operator = ImpalaLBOperator(task_id="t", sql="-- Impala has no indexes\n/* none */;\n", deferrable=True)
    task = ti()
    assert operator.execute({"ti": task}) is None
    assert sum("sql" in entry for node in cluster.nodes for entry in node.journal()) == before
    assert "nothing but comments" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("options", "text"),
    [
        ({"sql": "SELECT 1; SELECT 'abc"}, "line 1, column 18"),
        ({"sql": "SOURCE other.sql"}, "line 1"),
        ({"sql": "SELECT ${var:nope}"}, "nope"),
        ({"sql": " ;\n"}, "holds no statement"),
        (
            {"sql": "SELECT 1", "stick_to": "10.9.9.9:21050"},
            "'10.9.9.9:21050' is not a node of sandbox, so nothing is sent",
        ),
        ({"sql": "SELECT 1", "stick_to": "no_such_task"}, "neither a task of DAG errors nor host:port"),
        ({"sql": "SELEC 1"}, "ParseException"),
        (
            {"sql": "SELECT 1", "conn_id": "bad_connection"},
            "connection bad_connection: polcy: unknown key (did you mean policy?)",
        ),
    ],
)
def test_what_no_retry_can_mend_fails_at_once_with_one_clear_error(cluster, ti, monkeypatch, options, text):
    monkeypatch.setenv("AIRFLOW_CONN_BAD_CONNECTION", '{"conn_type":"impala_lb","host":"h","extra":{"polcy":1}}')
    before = sum(len(node.journal()) for node in cluster.nodes)
    with dag("errors"):
        operator = ImpalaLBOperator(task_id="t", **options)
    with pytest.raises(AirflowFailException) as caught:
        operator.execute({"ti": ti()})
    assert text in str(caught.value)
    if options["sql"] != "SELEC 1":
        assert sum(len(node.journal()) for node in cluster.nodes) == before


def test_a_host_from_an_upstreams_xcom_must_be_configured(cluster, ti):
    with dag("xcom_errors"):
        up = ImpalaLBOperator(task_id="up", sql="SELECT 1")
        operator = ImpalaLBOperator(task_id="t", sql="SELECT 1", stick_to=up)
    with pytest.raises(AirflowFailException, match=r"'evil\.example:21050' is not a node of sandbox"):
        operator.execute({"ti": ti(impala_host="evil.example:21050")})


def test_a_failure_that_a_retry_may_mend_is_left_to_it(cluster, ti):
    with dag("retry_errors"):
        operator = ImpalaLBOperator(task_id="t", sql="SELECT 1;\nSELECT * FROM not_there_yet")
    mine = ti()
    with pytest.raises(StatementFailed) as caught:
        operator.execute({"ti": mine})
    assert "Statement 2 of 2 (line 2" in str(caught.value)
    assert caught.value.outcome == "not started"
    assert mine.pushed["impala_host"] == caught.value.node  # there although the task failed


def test_bad_arguments_are_named():
    with pytest.raises(ValueError, match=r"on_unavailable is 'maybe'; allowed: 'move', 'wait', 'fail'"):
        ImpalaLBOperator(task_id="t", sql="SELECT 1", on_unavailable="maybe")
    with pytest.raises(TypeError, match="stick_to is a int"):
        ImpalaLBOperator(task_id="t", sql="SELECT 1", stick_to=3)


@pytest.mark.parametrize("seconds", [float("nan"), float("inf"), -1.0, 1e12])
@pytest.mark.parametrize("key", ["statement_timeout", "max_wait"])
def test_a_time_that_cannot_be_meant(key, seconds):
    with pytest.raises(ConfigError, match=f"{key}: is .*, must be .* at most 604800 seconds"):
        ImpalaLBOperator(task_id="t", sql="SELECT 1", **{key: seconds})


def test_an_xcom_of_a_task_is_taken(cluster):
    with dag("xcomarg"):
        up = ImpalaLBOperator(task_id="up", sql="SELECT 1")
        operator = ImpalaLBOperator(task_id="t", sql="SELECT 1", stick_to=XComArg(up, key="impala_host"))
    assert (operator.stick_to, operator.upstream_task_ids) == ("up", {"up"})


@pytest.mark.slow
def test_generic_sql_operators_work_on_the_connection(run_dag, cluster, balancer):
    run = run_dag("generic")
    assert set(run.states.values()) == {"success"}, run.states
    assert [list(row) for row in run.xcom("copied")] == [[1, "it's;"]]
    assert balancer.status()["leases"] == []


@pytest.fixture
def sleeping(cluster, run_dag):
    """The DAG ``sleeping`` in a process of its own, by now waiting for its query."""
    process = subprocess.Popen(
        [sys.executable, str(run_dag.folder / "tests" / "sleeping.py")],
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
    )
    try:
        wait_for(lambda: any(in_flight(node, "sleep(") for node in cluster.nodes), 200)  # Airflow begins
        yield process
    finally:
        process.kill()
        process.communicate()


def wait_for(condition, seconds):
    end = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < end, "not in time"
        time.sleep(0.02)


def test_sigterm_cancels_the_query_and_ends_the_task_within_five_seconds(sleeping, cluster, balancer):
    """Airflow 3 calls on_kill and lets execute go on: the loop itself has to raise. 2.11 raises for it."""
    assert len(balancer.status()["leases"]) == 1
    sleeping.send_signal(signal.SIGTERM)
    wait_for(lambda: not any(in_flight(node) for node in cluster.nodes), 5)
    wait_for(lambda: not balancer.status()["leases"], 5)
    states = [
        entry["state"] for node in cluster.nodes for entry in node.journal() if "sleep(60000)" in entry.get("sql", "")
    ]
    assert set(states) == {"CANCELLED"}
    output = sleeping.communicate(timeout=30)[0]
    assert "the task was killed" in output or "Task received SIGTERM" in output


@pytest.mark.slow
def test_a_killed_worker_leaves_no_lease(sleeping, cluster, balancer):
    (lease,) = balancer.status()["leases"]
    assert lease["owner"].startswith("sleeping/manual__")
    assert lease["owner"].endswith("/sleep")
    sleeping.kill()
    sleeping.wait()
    balancer.get_host()
    assert balancer.status()["leases"] == []
    for node in cluster.nodes:  # QUERY_TIMEOUT_S is minutes here: do not leave it to run
        for query in in_flight(node):
            urllib.request.urlopen(f"{node.web}/cancel_query?query_id={query['query_id']}", timeout=5).close()
