"""A cursor that is used again although what it sent last was not seen to end, as in a ``finally:``."""

import signal
import threading
import time
from contextlib import contextmanager

import pytest

from airflow_provider_impala_lb.core.state.model import Attempt
from airflow_provider_impala_lb.errors import StatementFailed, StillRunning
from airflow_provider_impala_lb.hooks.earlier_attempts import end_earlier_attempts
from airflow_provider_impala_lb.impala.hs2.ids import StatementError
from airflow_provider_impala_lb.impala.journal.identity import RunIdentity
from airflow_provider_impala_lb.impala.previous import leftover_sessions
from airflow_provider_impala_lb.sandbox import Sandbox
from tests.support.connections import connection
from tests.support.resumed_scripts import OWNER, executed
from tests.support.scripts import LOG, changed, in_flight, run, wait_for


class TaskTimeout(BaseException):
    """As Airflow's ``AirflowTaskTimeout``."""


@contextmanager
def interrupted_once(is_so):
    """As by ``execution_timeout``: an exception out of a signal handler, at any line, as soon as something is so."""

    def interrupt(*_):
        raise TaskTimeout

    def watch():
        try:
            wait_for(is_so, 20)
            was_so.set()
        finally:
            signal.pthread_kill(threading.main_thread().ident, signal.SIGUSR1)

    before = signal.signal(signal.SIGUSR1, interrupt)
    was_so, watching = threading.Event(), threading.Thread(target=watch)
    try:
        with pytest.raises(TaskTimeout):
            watching.start()
            yield
            watching.join()
        assert was_so.is_set()
    finally:
        signal.signal(signal.SIGUSR1, before)


@pytest.fixture
def cluster(monkeypatch):
    monkeypatch.setattr(leftover_sessions, "END_SECONDS", 1.0)
    with Sandbox(nodes=1, lag=0) as cluster:
        run(changed(cluster), "CREATE TABLE t (n INT); CREATE DATABASE other")
        yield cluster


@pytest.mark.parametrize(
    ("point", "first"),
    [
        pytest.param("catalog", "TRUNCATE TABLE t", marks=pytest.mark.since("4.1", "it is at work in the call")),
        ("planning", "INSERT INTO t SELECT 1"),
        ("planning", "USE other"),
    ],
)
def test_nothing_overtakes_what_was_interrupted_and_the_next_attempt_is_told(cluster, point, first):
    node = cluster.nodes[0]
    balancer = changed(cluster, deployment="prod", session={"rpc_timeout": 2, "reconnect_timeout": 3})
    with node.hold(point, sql=first) as held:
        made = connection(balancer)
        cursor = made.cursor()
        with interrupted_once(lambda: held.queries):
            cursor.execute(first)
        with pytest.raises(StatementFailed, match="was not seen to end and may still run or arrive") as refused:
            cursor.execute("INSERT INTO t SELECT 2")
        assert refused.value.outcome == "not started"
        made.close()
        assert [left.session for left in balancer.cluster.admin.leftovers().values()] == [cursor.session.id]
        if first != "USE other" and in_flight(node):
            with pytest.raises(StillRunning):
                retry = RunIdentity(owner=OWNER, attempt=Attempt(2, time.time()), tags={"try": "2"})
                end_earlier_attempts(changed(cluster, deployment="prod"), retry, LOG)
    assert not any("SELECT 2" in sql for sql, _ in executed(cluster))


def test_what_was_interrupted_and_then_seen_to_end_is_in_nobodys_way(cluster):
    made = connection(changed(cluster))
    cursor = made.cursor()
    with cluster.nodes[0].hold("execution", sql="INSERT") as held:
        with interrupted_once(lambda: held.queries and cursor.session.query_id):
            cursor.execute("INSERT INTO t SELECT 1")
        cursor.execute("SELECT count(*) FROM t")
    assert cursor.fetchall() == [(0,)]
    made.close()


def test_one_that_only_reads_is_in_nobodys_way(cluster):
    made = connection(changed(cluster, session={"rpc_timeout": 2, "reconnect_timeout": 3}))
    cursor = made.cursor()
    with cluster.nodes[0].hold("planning", sql="SELECT 1") as held, interrupted_once(lambda: held.queries):
        cursor.execute("SELECT 1")
    cursor.execute("INSERT INTO t SELECT 2")
    made.close()
    assert executed(cluster) == [("INSERT INTO t SELECT 2", "FINISHED")]


@pytest.mark.since("4.1", "its page does not show it while it is at work")
def test_a_handle_that_was_made_of_an_id_is_not_closed_for_the_next_statement(cluster):
    """The newest versions would hide the statement then, and the next attempt could not find it."""
    node, sessions = cluster.nodes[0], changed(cluster).sessions
    hold = node.hold("catalog", sql="TRUNCATE")
    with sessions.open(node.address) as session, sessions.open(node.address) as other, hold:
        session.submit("TRUNCATE TABLE t")
        wait_for(lambda: in_flight(node, "TRUNCATE"), 10)
        other.adopt(session.query_id)
        with pytest.raises(StatementError, match="nothing more is sent in this session"):
            other.execute("SELECT 1")
        assert in_flight(node, "TRUNCATE")
        assert other.left_running
