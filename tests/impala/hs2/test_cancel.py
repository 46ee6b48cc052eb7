"""Whatever ends a script early: what runs on the coordinator ends too."""

import json
import os
import re
import signal
import subprocess
import sys
import threading
import time
import urllib.request

import pytest

from airflow_provider_impala_lb import Balancer
from airflow_provider_impala_lb.errors import StatementFailed
from airflow_provider_impala_lb.sandbox import Sandbox
from tests.support.scripts import (
    changed,
    in_flight,
    patient,
    run,
    start_sleeper,
    statements_on,
    wait_for,
)
from tests.support.versions import NEWEST, OLDEST


def is_cancelled(node, query_id):
    """By its page, which refuses that up to 4.5 as long as the statement is planned."""
    with urllib.request.urlopen(f"{node.web}/cancel_query?query_id={query_id}&json", timeout=5) as page:
        return "error" not in json.load(page)


class Timeout(BaseException):
    """What a signal handler raises, as Airflow's does for a task's time limit."""


@pytest.fixture(scope="module", params=[NEWEST, OLDEST])
def version(request):
    return request.param


@pytest.fixture(scope="module")
def cluster(version):
    with Sandbox(nodes=2, lag=0, version=version) as cluster:
        yield cluster


@pytest.fixture
def alarm():
    def on_alarm(*_):
        raise Timeout

    before = signal.signal(signal.SIGALRM, on_alarm)
    yield lambda seconds: signal.setitimer(signal.ITIMER_REAL, seconds)
    signal.setitimer(signal.ITIMER_REAL, 0)
    signal.signal(signal.SIGALRM, before)


def test_cancel_ends_the_query_on_the_coordinator_and_the_run_raises(cluster, balancer):
    script_run, thread, outcome, node = start_sleeper(balancer, cluster)
    start = time.monotonic()
    script_run.cancel("the task was killed")
    assert time.monotonic() - start < 5
    thread.join(5)
    assert isinstance(outcome[0], StatementFailed)
    assert "cancelled: the task was killed" in str(outcome[0])
    wait_for(lambda: not in_flight(node))
    assert node.journal()[-1].get("state", node.journal()[-2].get("state")) != "FINISHED"
    assert balancer.status()["leases"] == []


def test_a_query_that_an_admin_cancels_is_never_a_success(cluster, balancer, version):
    """Impala up to 4.5 does not tell who polls it what became of it, as if it had been started anew: what only reads is
    sent again."""
    script_run, thread, outcome, node = start_sleeper(balancer, cluster)
    query_id = in_flight(node)[0]["query_id"]
    wait_for(lambda: is_cancelled(node, query_id))
    if version != NEWEST:
        wait_for(lambda: any(row["query_id"] != query_id for row in in_flight(node)), 10)
        script_run.cancel("cancelled here, too")
    thread.join(5)
    assert isinstance(outcome[0], StatementFailed)
    assert "ancelled" in outcome[0].reason


def test_an_exception_between_two_polls_cancels_the_query(cluster, balancer, alarm):
    alarm(0.5)
    with pytest.raises(Timeout):
        run(balancer, "SELECT sleep(60000)")
    wait_for(lambda: not any(in_flight(node) for node in cluster.nodes))
    assert balancer.status()["leases"] == []


def test_an_exception_in_the_middle_of_an_answer_cancels_the_query(four, alarm):
    """The first connection is then out of step with the server: the query has to be ended over a second one."""
    node = four.nodes[0]
    balancer = patient(four)
    stop, go_on = threading.Timer(0.7, node.pause), threading.Timer(2.0, node.resume)
    stop.start()
    go_on.start()
    alarm(1.4)
    with pytest.raises(Timeout):
        run(balancer, "SELECT sleep(60000)", prefer=node.address)
    stop.join()
    go_on.join()
    wait_for(lambda: not in_flight(node))
    assert balancer.status()["leases"] == []


def test_the_coordinator_ends_the_query_of_a_client_that_was_killed():
    """kill -9: disconnected_session_timeout ends the query, the next pick on the host reaps the lease."""
    with Sandbox(nodes=1, lag=0, flags={"disconnected_session_timeout": 2}) as cluster:
        ends_by_itself(cluster)


def ends_by_itself(cluster):
    config = {**cluster.config, "session": {**cluster.config["session"], "reconnect_timeout": 2}}
    code = (
        "import sys, json; from airflow_provider_impala_lb import Balancer\n"
        "from tests.support.scripts import script_run\n"
        "from airflow_provider_impala_lb.impala.sql.splitter import split\n"
        "script_run(Balancer.from_config(json.loads(sys.argv[1])), split('SELECT sleep(60000)'), owner='victim').run()"
    )
    client = subprocess.Popen([sys.executable, "-c", code, json.dumps(config)])
    try:
        wait_for(lambda: any(in_flight(node, "sleep(") for node in cluster.nodes), 10)
    finally:
        client.send_signal(signal.SIGKILL)
        client.wait()
    balancer = Balancer.from_config(config)
    assert [lease["owner"] for lease in balancer.status()["leases"]] == ["victim"]
    lease = balancer.status()["leases"][0]
    assert re.fullmatch(r"[0-9a-f]{16}:[0-9a-f]{16}", lease["session"])
    balancer.get_host()
    assert balancer.status()["leases"] == []
    wait_for(lambda: not any(in_flight(node) for node in cluster.nodes), 10)


def test_a_session_that_is_closed_under_a_running_insert_leaves_its_outcome_unknown(cluster, balancer):
    """The polls are then answered with "Invalid session id" or the like, which would be harmless before the start."""
    run(balancer, "DROP TABLE IF EXISTS target; SET SYNC_DDL=1; CREATE TABLE target (a BOOLEAN)")
    script_run, thread, outcome, node = start_sleeper(balancer, cluster, "INSERT INTO target SELECT sleep(60000)")
    wait_for(lambda: not script_run._execution.between, 20)  # it has the answer, too
    with urllib.request.urlopen(f"{node.web}/sessions?json", timeout=5) as page:
        sessions = json.load(page)["sessions"]
    session = next(each["session_id"] for each in sessions if each["inflight_queries"])
    urllib.request.urlopen(f"{node.web}/close_session?session_id={session}", timeout=5).close()
    thread.join(10)
    assert isinstance(outcome[0], StatementFailed)
    assert outcome[0].outcome == "unknown", outcome[0]
    assert outcome[0].query_id


def test_after_an_answer_was_lost_nothing_is_sent_on_that_connection(four, log):
    """The next answer read on it would be the one that was lost (thrift's sequence ids are never checked)."""
    node = four.nodes[0]
    with changed(four, session={"rpc_timeout": 1.0}).sessions.open(node.address) as session:
        session.execute("SELECT 1")
        before = session._client._connection
        node.pause()
        threading.Timer(2.5, node.resume).start()
        session.execute("DROP TABLE IF EXISTS t")
        assert session._client._connection is not before
    assert [sql for sql in statements_on(node) if "SELECT 1" not in sql] == ["DROP TABLE IF EXISTS t"]
    assert "it is tried anew for up to 600 s" in log.text


def test_an_exception_while_a_session_is_opened_leaves_no_connection(four, alarm):
    four.nodes[0].pause()
    before = len(os.listdir("/proc/self/fd"))
    alarm(0.4)
    with pytest.raises(Timeout):
        run(patient(four, load="off"), "SELECT 1", prefer=four.nodes[0].address)
    assert len(os.listdir("/proc/self/fd")) <= before  # what an earlier test left may go meanwhile
    assert patient(four).status()["leases"] == []
