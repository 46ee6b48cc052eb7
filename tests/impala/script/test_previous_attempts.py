"""A try of a task while an earlier one of it still lives, was killed, or was stopped and goes on later."""

import signal
import time

import pytest

from airflow_provider_impala_lb import Balancer
from airflow_provider_impala_lb.core.state.model import Attempt
from airflow_provider_impala_lb.errors import StillRunning, Superseded
from airflow_provider_impala_lb.impala.previous import leftover_sessions
from airflow_provider_impala_lb.impala.web.debug_pages import DebugPages
from airflow_provider_impala_lb.sandbox import Sandbox
from tests.support.script_worker import end_of, is_stopped, worker
from tests.support.scripts import changed, in_flight, run, statements_on, wait_for
from tests.support.versions import NEWEST, ON_BOTH, VERSIONS

OWNER = "dag/run/task"
SLOW = "INSERT INTO t SELECT 1 WHERE sleep(60000)"


@pytest.fixture(params=VERSIONS)
def version(request):
    return request.param


def running(cluster):
    return [row for node in cluster.nodes for row in in_flight(node) if "INSERT" in row["stmt"]]


def finished(cluster):
    return sorted(
        entry["sql"].partition("*/ ")[2]
        for node in cluster.nodes
        for entry in node.journal()
        if entry.get("state") == "FINISHED" and "INSERT" in entry["sql"]
    )


def successor(cluster, script="INSERT INTO t SELECT 2", **keys):
    return run(changed(cluster, **keys), script, owner=OWNER, one_at_a_time=True)


@ON_BOTH
@pytest.mark.parametrize("picks_between", [pytest.param(0, marks=pytest.mark.slow), 3])
def test_what_a_killed_worker_left_running_is_ended_first(pair, picks_between, log):
    with worker(config=pair.config, owner=OWNER, script=SLOW) as first:
        wait_for(lambda: running(pair), 20)
        first.kill()
        first.wait()
    for _ in range(picks_between):  # any pick of this host ends the dead process's lease
        Balancer.from_config(pair.config).acquire("somebody else").release()
        time.sleep(1.1)
    assert running(pair), "nobody has ended it yet"
    successor(pair)
    assert not [row for row in running(pair) if SLOW in row["stmt"]]  # its own may not be archived yet
    assert finished(pair) == ["INSERT INTO t SELECT 2"]
    assert "of an earlier attempt" in log.text


@ON_BOTH
def test_a_stopped_worker_that_goes_on_later_runs_nothing_more(pair):
    """Stopped between writing its lease and sending its second statement."""
    script = "INSERT INTO t SELECT 1; INSERT INTO t SELECT 11"
    with worker(config=pair.config, owner=OWNER, script=script, stop_at="sent", stop_number=2) as first:
        wait_for(lambda: is_stopped(first), 20)
        successor(pair)
        first.send_signal(signal.SIGCONT)
        end = end_of(first)
    assert end["error"] in ("StatementFailed", "Superseded")
    assert end["outcome"] in ("not started", None)
    assert finished(pair) == ["INSERT INTO t SELECT 1", "INSERT INTO t SELECT 2"]


def test_one_stopped_before_it_had_a_session_runs_nothing_at_all(pair):
    with worker(config=pair.config, owner=OWNER, script="INSERT INTO t SELECT 1", stop_at="open") as first:
        wait_for(lambda: is_stopped(first), 20)
        successor(pair)
        first.send_signal(signal.SIGCONT)
        end = end_of(first)
    assert end["error"] == "Superseded"
    assert finished(pair) == ["INSERT INTO t SELECT 2"]


def test_without_web_pages_the_query_is_killed(pair, version):
    # A coordinator names its web server itself when a session is opened: there is always one here. Its query is ended
    # by KILL QUERY where the page does not answer.
    from airflow_provider_impala_lb.impala.previous.leftover_sessions import kill_query

    with worker(config=pair.config, owner=OWNER, script=SLOW) as first:
        wait_for(lambda: running(pair), 20)
        first.send_signal(signal.SIGSTOP)
        row = running(pair)[0]
        orphan = row["query_id"]
        with Balancer.from_config(pair.config).sessions.open(pair.nodes[0].address) as session:
            if version != NEWEST:  # KILL QUERY is there from 4.5 on
                assert "ParseException" in (kill_query(session, orphan) or "")
                return
            assert kill_query(session, orphan) is None
            wait_for(lambda: row["state"] != "RUNNING" or not running(pair) or running(pair)[0]["state"] != "RUNNING")
            unknown = "0123456789abcdef:0123456700000000"
            assert "KILL QUERY" in (kill_query(session, unknown) or "")
            sent = len(statements_on(pair.nodes[0]))
            planted = "1'; DROP TABLE t; --"
            assert "is not a query id" in (kill_query(session, planted) or "")
            assert len(statements_on(pair.nodes[0])) == sent


@ON_BOTH
def test_what_is_taken_off_the_page_before_it_ends_is_waited_for(version, monkeypatch):
    """The killed worker's session was closed meanwhile, and its INSERT writes on: Impala 3.4 shows it nowhere then."""
    monkeypatch.setattr(leftover_sessions, "END_SECONDS", 1.0)
    with Sandbox(nodes=1, lag=0, flags={"disconnected_session_timeout": 1}, version=version) as cluster:
        run(changed(cluster), "CREATE TABLE t (n INT)")
        [node] = cluster.nodes
        with node.hold("finalising", sql="SELECT 1") as held:
            with worker(config=cluster.config, owner=OWNER, script="INSERT INTO t SELECT 1") as first:
                held.wait()
                [row] = running(cluster)
                first.kill()
            wait_for(lambda: not DebugPages(node.web, None, None).sessions(), 20)
            assert [each["query_id"] for each in in_flight(node)] == ([row["query_id"]] if version == NEWEST else [])
            with pytest.raises(StillRunning, match="still shows query" if version == NEWEST else "of this version"):
                successor(cluster)
        wait_for(lambda: finished(cluster) == ["INSERT INTO t SELECT 1"])
        if version == NEWEST:
            successor(cluster)
            assert finished(cluster) == ["INSERT INTO t SELECT 1", "INSERT INTO t SELECT 2"]


@pytest.mark.slow
def test_what_cannot_be_seen_to_end_stops_the_try(pair):
    with worker(config=pair.config, owner=OWNER, script=SLOW) as first:
        wait_for(lambda: running(pair), 20)
        node = next(node for node in pair.nodes if in_flight(node, "INSERT"))
        first.kill()
        first.wait()
    node.pause()
    try:
        with pytest.raises(StillRunning, match="may still be running, and nothing is run") as raised:
            successor(pair, session={"open_timeout": 1})
        assert node.address in str(raised.value)
    finally:
        node.resume()
    assert finished(pair) == []
    successor(pair)  # the next attempt looks again
    assert not running(pair)
    assert finished(pair) == ["INSERT INTO t SELECT 2"]


def test_where_nobody_listens_nothing_runs(pair):
    with worker(config=pair.config, owner=OWNER, script=SLOW) as first:
        wait_for(lambda: running(pair), 20)
        node = next(node for node in pair.nodes if in_flight(node, "INSERT"))
        first.kill()
        first.wait()
    node.kill()
    successor(pair)
    assert finished(pair) == ["INSERT INTO t SELECT 2"]


def test_a_try_that_was_between_two_nodes_takes_no_lease_once_another_is_over(pair):
    """Refused by its first node, it holds no lease while it is stopped, so the next attempt finds nothing of it."""
    balancer = Balancer.from_config(pair.config)
    picker, calls = balancer.cluster.picker, []
    acquire = picker.acquire

    def stopped_before_the_second(*args, **options):
        calls.append(args)
        if len(calls) == 2:
            run(changed(pair), "INSERT INTO t SELECT 2", owner=OWNER, one_at_a_time=True, attempt=Attempt(2, 2000.0))
        return acquire(*args, **options)

    picker.acquire = stopped_before_the_second
    down = pair.nodes[0]
    down.kill()
    with pytest.raises(Superseded, match="attempt 2"):
        run(
            balancer,
            "INSERT INTO t SELECT 1",
            owner=OWNER,
            one_at_a_time=True,
            prefer=down.address,
            attempt=Attempt(1, 1000.0),
        )
    assert len(calls) == 2
    assert finished(pair) == ["INSERT INTO t SELECT 2"]


def test_a_try_that_ended_in_order_leaves_nothing_to_settle(pair):
    successor(pair)
    balancer = Balancer.from_config(pair.config)
    assert balancer.cluster.fencing.fence_earlier(OWNER) == {}
    assert statements_on(pair.nodes[0]) + statements_on(pair.nodes[1])
