"""``statement_timeout``; and coordinators that shut down while a statement runs: it may finish, nothing new begins."""

import json
import os
import time
import urllib.request

import pytest

from airflow_provider_impala_lb.core.state.model import Attempt
from airflow_provider_impala_lb.errors import StatementFailed
from airflow_provider_impala_lb.impala.script.handover_message import Deferred, Handover
from airflow_provider_impala_lb.impala.sql.splitter import split
from airflow_provider_impala_lb.stores.factory import open_journals
from airflow_provider_impala_lb.stores.file import filesystem
from tests.support.resumed_scripts import executed, journal_of, resumed
from tests.support.scripts import changed, events_on, in_flight, only, rows_of, run, script_run, start_script, wait_for

SLOW = "INSERT INTO t SELECT 2 WHERE sleep({})"


def sessions_on(node):
    with urllib.request.urlopen(f"{node.web}/sessions?json", timeout=5) as page:
        return json.load(page)["sessions"]


@pytest.mark.parametrize(("sql", "outcome"), [(SLOW.format(60000), "unknown"), ("SELECT sleep(60000)", "not started")])
def test_a_slow_statement_is_cancelled_on_its_coordinator_and_named(pair, sql, outcome):
    balancer = only(pair, pair.nodes[0])
    with pytest.raises(StatementFailed) as caught:
        run(balancer, f"INSERT INTO t SELECT 1;\n{sql};\nINSERT INTO t SELECT 3", statement_timeout=2)
    failed = caught.value
    assert failed.reason == "statement_timeout: it was cancelled after 2 s"
    assert (failed.number, failed.total, failed.line, failed.outcome) == (2, 3, 2, outcome)
    assert sql in str(failed) and "1 after it not sent" in str(failed)
    assert executed(pair, sql)[-1] == (sql, "CANCELLED")
    assert executed(pair, "SELECT 3") == []
    wait_for(lambda: not in_flight(pair.nodes[0]) and not sessions_on(pair.nodes[0]))
    opened, closed = (events_on(pair.nodes[0]).count(event) for event in ("open", "close"))
    assert opened == closed
    assert balancer.status()["leases"] == []


def test_it_is_for_each_statement_not_for_the_script(pair):
    done = run(changed(pair), "; ".join(["SELECT sleep(500)"] * 5), statement_timeout=2)
    assert done.seconds > 2 and len(done.statements) == 5


def test_it_is_not_for_the_fetching_of_rows(pair):
    def slowly(cursor):
        time.sleep(0.7)
        rows = cursor.fetchall()
        time.sleep(0.3)
        return rows

    done = run(changed(pair), "SELECT 1 UNION ALL SELECT 2", statement_timeout=0.5, handler=slowly)
    assert sorted(done.results[0]) == [(1,), (2,)]


def test_restartable_does_not_begin_anew_for_it(pair):
    with pytest.raises(StatementFailed, match="statement_timeout"):
        run(changed(pair), f"INSERT INTO t SELECT 1; {SLOW.format(60000)}", statement_timeout=3, restartable=True)
    assert [sql for sql, _ in executed(pair)] == ["INSERT INTO t SELECT 1", SLOW.format(60000)]


def test_the_journal_does_not_say_done_and_the_next_try_asks(pair):
    script = f"INSERT INTO t SELECT 1; {SLOW.format(9000)}; INSERT INTO t SELECT 3"
    with pytest.raises(StatementFailed, match="statement_timeout"):
        resumed(pair, script, attempt=1, statement_timeout=2)
    record = journal_of(pair)
    assert (record.done, record.intent.number) == (1, 2)
    # An INSERT that was cancelled may have been past the point of no return.
    with pytest.raises(StatementFailed, match="Cancelled") as asked:
        resumed(pair, script)
    assert (asked.value.number, asked.value.outcome, asked.value.retry) == (2, "unknown", False)
    assert executed(pair) == [("INSERT INTO t SELECT 1", "FINISHED"), (SLOW.format(9000), "CANCELLED")]


@pytest.mark.parametrize(
    "sql",
    [
        pytest.param("SELECT sleep(3000)", marks=pytest.mark.slow),
        "INSERT /* impala-lb: safe to repeat */ INTO t SELECT 2 WHERE sleep(3000)",
    ],
)
def test_what_may_run_twice_runs_again_in_the_next_try(pair, sql):
    script = f"INSERT INTO t SELECT 1; {sql}; SELECT n FROM t"
    with pytest.raises(StatementFailed, match="statement_timeout"):
        resumed(pair, script, attempt=1, statement_timeout=1.5)
    assert journal_of(pair).done == 1
    assert resumed(pair, script).resumed == 1
    assert [state for _, state in executed(pair, sql)] == ["CANCELLED", "FINISHED"]
    assert len(executed(pair, "INSERT INTO t SELECT 1")) == 1


def drain_in_the_middle(cluster, **options):
    """A script whose coordinator begins to shut down while its second statement runs. What became of it."""
    script = f"INSERT INTO t SELECT 1; {SLOW.format(1500)}; INSERT INTO t SELECT 3; SELECT n FROM t"
    balancer = changed(cluster)
    _, thread, outcome = start_script(balancer, script, handler=rows_of, **options)
    wait_for(lambda: any("sleep" in query["stmt"] for node in cluster.nodes for query in in_flight(node)), 20)
    node = next(node for node in cluster.nodes if in_flight(node))
    node.drain()
    thread.join(30)
    assert not thread.is_alive()
    assert balancer.status()["leases"] == []
    return node, outcome[0], [sql for sql, state in executed(cluster) if state == "FINISHED"]


ONE, TWO, THREE = "INSERT INTO t SELECT 1", SLOW.format(1500), "INSERT INTO t SELECT 3"


def test_on_a_coordinator_that_shuts_down_the_running_statement_finishes_and_no_more_begins(pair):
    node, failed, ran = drain_in_the_middle(pair)
    assert isinstance(failed, StatementFailed), failed
    assert (failed.number, failed.outcome, failed.node) == (3, "not started", node.address)
    assert "statements 1 to 2 are done" in str(failed)
    assert ran == [ONE, TWO]


def test_a_restartable_script_then_begins_anew_elsewhere(pair):
    node, done, ran = drain_in_the_middle(pair, restartable=True)
    assert done.node != node.address
    assert ran == [ONE, TWO, ONE, TWO, THREE]
    assert sorted(done.results[-1]) == [(1,), (1,), (2,), (2,), (3,)]


def test_a_resumable_script_goes_on_elsewhere_with_each_statement_run_once(pair):
    journals = open_journals(changed(pair).config)
    options = {
        "owner": "dag/run/task",
        "one_at_a_time": True,
        "journals": journals,
        "resume": True,
        "attempt": Attempt(1, 1.0),
    }
    node, done, ran = drain_in_the_middle(pair, **options)
    assert done.node != node.address
    assert ran == [ONE, TWO, THREE]
    assert sorted(done.results[-1]) == [(1,), (2,), (3,)]
    assert journal_of(pair).ended


@pytest.fixture
def handed_over(pair, tmp_path, monkeypatch):
    """Of a script that a worker has sent for 0.5 s, on a host whose clock differs by so many seconds: how another
    process goes on with it, 2 s later. Both share a lock file on a file server, by whose clock they go."""
    descriptor = os.open(tmp_path, os.O_RDONLY)
    monkeypatch.setattr(filesystem, "NFS", filesystem.kind(descriptor))
    os.close(descriptor)
    balancer = changed(pair, lock_file=str(tmp_path / "lock"))
    real = time.time

    def hand_over(script, shift, **keys):
        keys |= {"journals": open_journals(balancer.config), "owner": "d/r/t"}
        with monkeypatch.context() as patch, pytest.raises(Deferred) as caught:
            patch.setattr(time, "time", lambda: real() + shift)
            script_run(balancer, split(script), hand_over_after=0.5, **keys).run()
        handover = Handover.unpacked(json.loads(json.dumps(caught.value.handover.packed())))
        time.sleep(3)
        return lambda **more: script_run(balancer, split(script), **keys, **more).go_on(handover)

    return hand_over


@pytest.mark.slow
@pytest.mark.parametrize("limit", ["statement_timeout", "execution_timeout"])
@pytest.mark.parametrize("shift", [0, 3600, -3600])
def test_its_time_goes_on_where_another_host_handed_it_over(handed_over, limit, shift):
    start = time.monotonic()
    keys, more = ({"statement_timeout": 8}, {}) if limit == "statement_timeout" else ({}, {"time_limit": 8})
    go_on = handed_over(SLOW.format(60000), shift, **keys)
    with pytest.raises(StatementFailed, match=limit):
        go_on(**more)
    assert 7.9 < time.monotonic() - start < 10.5  # of another clock, it would be at once, or 3 s later than 8 s


@pytest.mark.parametrize("shift", [3600, pytest.param(-3600, marks=pytest.mark.slow)])
def test_a_scripts_seconds_are_those_of_all_its_processes_and_of_what_lies_between(handed_over, shift):
    start = time.monotonic()
    done = handed_over(SLOW.format(5000), shift)()
    assert 4.5 < done.seconds < time.monotonic() - start
    assert 4.9 < done.statements[0].seconds < time.monotonic() - start
