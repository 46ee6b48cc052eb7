"""Connections and cursors of hooks: what they keep of their attempt, and leave to the next one."""

import gc
import os
import signal
import threading
import time
import weakref
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack

import pytest
from impala.error import InterfaceError

from airflow_provider_impala_lb import Balancer
from airflow_provider_impala_lb.core.state.model import Attempt
from airflow_provider_impala_lb.core.stop_request import Cancelled
from airflow_provider_impala_lb.errors import StatementFailed, Superseded
from airflow_provider_impala_lb.hooks.earlier_attempts import end_earlier_attempts
from airflow_provider_impala_lb.impala.dbapi import ConnectOptions, connect
from airflow_provider_impala_lb.impala.journal.identity import RunIdentity
from airflow_provider_impala_lb.impala.previous import leftover_sessions
from airflow_provider_impala_lb.impala.previous.leftover_sessions import LeftoverSessions
from airflow_provider_impala_lb.sandbox import Sandbox
from tests.support.command_line import lb
from tests.support.connections import connection
from tests.support.resumed_scripts import OWNER, executed
from tests.support.scripts import LOG, changed, in_flight, run, wait_for


@pytest.fixture
def pair():
    with Sandbox(nodes=2, lag=0) as cluster:
        run(changed(cluster), "CREATE TABLE t (n INT)")
        yield cluster


def test_who_has_a_cursor_keeps_its_connection(pair):
    """So that a kill of the task finds it: common-sql's ``get_cursor()`` keeps nothing else."""
    made = connection(changed(pair))
    cursor, kept = made.cursor(), weakref.ref(made)
    del made
    gc.collect()
    assert kept() is cursor.connection
    cursor.connection.close()


def test_one_that_nobody_has_any_more_is_closed_and_its_lease_ended(pair):
    balancer = changed(pair)
    cursor = connection(balancer).cursor()
    cursor.execute("SELECT 1")
    assert len(balancer.status()["leases"]) == 1
    del cursor
    gc.collect()
    wait_for(lambda: balancer.status()["leases"] == [], 10)
    events = [entry["event"] for node in pair.nodes for entry in node.journal() if "event" in entry]
    assert events.count("close") == events.count("open")


@pytest.mark.parametrize("taken", [iter, lambda cursor: (row for row in cursor), lambda cursor: map(tuple, cursor)])
def test_who_has_only_the_rows_keeps_what_they_come_from(pair, taken):
    def rows():
        cursor = connection(changed(pair)).cursor()
        cursor.arraysize = 1
        cursor.execute("SELECT 1 UNION ALL SELECT 2 UNION ALL SELECT 3")
        return taken(cursor)

    found = rows()
    gc.collect()
    time.sleep(0.5)  # nobody closes it meanwhile
    assert sorted(found) == [(1,), (2,), (3,)]


def test_rows_of_a_cursor_that_was_closed_are_an_error_and_not_at_an_end(pair):
    with connection(changed(pair)) as made:
        cursor = made.cursor()
        cursor.arraysize = 1
        cursor.execute("SELECT 1 UNION ALL SELECT 2 UNION ALL SELECT 3")
        rows = iter(cursor)
        next(rows)
        cursor.close()
        for fetch in (lambda: list(rows), cursor.fetchone, cursor.fetchall, cursor.fetchmany):
            with pytest.raises(InterfaceError, match="closed"):
                fetch()


def test_who_drops_one_does_not_wait_for_its_coordinator(pair):
    made = connection(changed(pair))
    made.cursor().execute("SELECT 1")
    [node] = [node for node in pair.nodes if node.address == made.pick.node]
    node.pause()
    del made
    gc.collect()
    assert "impala-lb-dropped" in [thread.name for thread in threading.enumerate()]
    node.resume()


def test_one_that_was_overtaken_opens_no_session_also_once_its_renewal_has_seen_it(pair):
    balancer = changed(pair)
    first = connection(balancer)
    first.cursor().execute("INSERT INTO t SELECT 1")
    end_earlier_attempts(changed(pair), RunIdentity(owner=OWNER, attempt=Attempt(2, time.time())), LOG)
    balancer.cluster.leases.renew()
    for _ in range(2):
        with pytest.raises(Superseded):
            first.cursor()
    first.close()


def test_a_statement_that_was_not_seen_to_end_is_left_to_the_next_attempt(pair):
    """A call to the catalog is not taken back by a cancel."""
    balancer = changed(pair)
    with ExitStack() as held, ThreadPoolExecutor() as pool:
        for node in pair.nodes:
            held.enter_context(node.hold("catalog", sql="TRUNCATE"))
        made = connection(balancer)
        cursor = made.cursor()
        running = pool.submit(cursor.execute, "TRUNCATE TABLE t")
        wait_for(lambda: any(in_flight(node, "TRUNCATE") for node in pair.nodes), 20)
        made.cancel("the task was killed")
        with pytest.raises(StatementFailed, match="the task was killed"):
            running.result(20)
        made.close()
        assert balancer.status()["leases"] == []
        [left] = balancer.cluster.admin.leftovers().values()
        assert left.session == cursor.session.id


@pytest.mark.since("4.0", "its page does not show all that runs")
def test_what_runs_beside_it_in_its_attempt_is_left_alone(pair):
    """Another hook of the same task begins while the balancer's state is out of reach, so the label alone tells."""
    balancer = changed(pair, deployment="prod")
    leftovers = LeftoverSessions(balancer.cluster, balancer.sessions, time.sleep, LOG, beside="2")
    with ThreadPoolExecutor() as pool, ExitStack() as held:
        switches = [held.enter_context(node.hold("execution", sql="INSERT")) for node in pair.nodes]
        earlier = connection(balancer, 1)
        killed = pool.submit(earlier.cursor().execute, "INSERT INTO t SELECT 1")
        wait_for(lambda: any(in_flight(node, "INSERT") for node in pair.nodes), 20)
        beside = connection(balancer, 2)
        other = pool.submit(beside.cursor().execute, "INSERT INTO t SELECT 2")
        wait_for(lambda: sum(len(in_flight(node, "INSERT")) for node in pair.nodes) == 2, 20)
        leftovers.end_unrecorded(balancer.config.owner_of(OWNER), is_known=False)
        for switch in switches:
            switch.release()
        other.result(20)
        with pytest.raises(StatementFailed, match="[Cc]ancel"):
            killed.result(20)
        earlier.close()
        beside.close()
    assert [state for sql, state in executed(pair) if "SELECT 2" in sql] == ["FINISHED"]


def test_two_hooks_of_a_retry_that_begin_together_do_not_wait_for_each_other(pair, monkeypatch):
    """Both find what the attempt before has left; one of them runs its statement meanwhile, on the same node."""
    monkeypatch.setattr(leftover_sessions, "END_SECONDS", 1.0)
    balancer, [node, _] = changed(pair), pair.nodes
    earlier = connection(balancer, prefer=node.address)
    earlier.cursor()
    with ThreadPoolExecutor() as pool, node.hold("execution", sql="INSERT") as held:
        beside = connection(changed(pair), 2, prefer=node.address)
        running = pool.submit(beside.cursor().execute, "INSERT INTO t SELECT 1")
        held.wait()
        attempt = Attempt(2, time.time())
        end_earlier_attempts(changed(pair), RunIdentity(owner=OWNER, attempt=attempt, tags={"try": "2"}), LOG)
        held.release()
        running.result(20)
    beside.close()
    assert executed(pair) == [("INSERT INTO t SELECT 1", "FINISHED")]


def test_once_it_was_cancelled_it_runs_nothing_more_and_says_so(pair):
    """Airflow 3 lets a task go on after its ``on_kill``, until it is killed for good."""
    made = connection(changed(pair))
    cursor = made.cursor()
    cursor.execute("INSERT INTO t SELECT 1")
    made.cancel("the task was killed")
    with pytest.raises(Cancelled, match="the task was killed"):
        made.cursor()
    with pytest.raises(StatementFailed, match="the task was killed") as failed:
        cursor.execute("INSERT INTO t SELECT 2")
    assert failed.value.outcome == "not started"
    made.close()
    assert executed(pair) == [("INSERT INTO t SELECT 1", "FINISHED")]


@pytest.mark.since("4.0", "its page does not show all that runs")
@pytest.mark.parametrize("stays", ["the one before is alive", "it has not seen it yet"])
def test_a_state_that_was_away_as_it_began_tells_before_its_first_statement_what_to_end(pair, movable_share, stays):
    share, away = movable_share
    config = {**pair.config, "lock_file": str(share / "lock")}
    balancer = Balancer.from_config(config)
    first = connection(balancer)
    cursor = first.cursor()
    cursor.execute("INSERT INTO t SELECT 1")
    share.rename(away)
    later = Balancer.from_config(config)
    found = end_earlier_attempts(later, RunIdentity(owner=OWNER, attempt=Attempt(2, time.time())), LOG)
    away.rename(share)
    second = connection(later, 2, leftovers=found)
    second.cursor().execute("INSERT INTO t SELECT 2")
    if stays == "the one before is alive":
        balancer.cluster.leases.renew()
    with pytest.raises((Superseded, StatementFailed), match="has taken over|Invalid session id"):
        cursor.execute("INSERT INTO t SELECT 3")
    with pytest.raises(Superseded):
        first.cursor()
    first.close()
    second.close()
    assert executed(pair) == [("INSERT INTO t SELECT 1", "FINISHED"), ("INSERT INTO t SELECT 2", "FINISHED")]


def test_a_cursor_whose_session_could_not_be_noted_runs_nothing_beside_a_later_attempt(pair, movable_share):
    """The lease is noted, and so would be a session that is opened now: but the state is away for just that moment."""
    share, away = movable_share
    config = {**pair.config, "lock_file": str(share / "lock"), "deployment": "prod"}
    balancer, later = Balancer.from_config(config), Balancer.from_config(config)
    first = connection(balancer)
    first.cursor().execute("INSERT INTO t SELECT 1")
    balancer.cluster.leases.renew()
    share.rename(away)
    cursor = first.cursor()
    away.rename(share)
    found = end_earlier_attempts(later, RunIdentity(owner=OWNER, attempt=Attempt(2, time.time())), LOG)
    second = connection(later, 2, leftovers=found)
    second.cursor().execute("INSERT INTO t SELECT 2")
    with pytest.raises(Superseded):
        cursor.execute("INSERT INTO t SELECT 3")
    first.close()
    second.close()
    assert executed(pair) == [("INSERT INTO t SELECT 1", "FINISHED"), ("INSERT INTO t SELECT 2", "FINISHED")]


@pytest.mark.since("4.0", "its page does not show all that runs")
@pytest.mark.parametrize("how", ["closed", "dropped"])
def test_what_is_found_during_the_last_statement_is_ended_at_the_end(pair, movable_share, how):
    share, away = movable_share
    config = {**pair.config, "lock_file": str(share / "lock"), "deployment": "prod"}
    balancer, later = Balancer.from_config(config), Balancer.from_config(config)
    first = connection(balancer)
    cursor = first.cursor()
    share.rename(away)
    found = end_earlier_attempts(later, RunIdentity(owner=OWNER, attempt=Attempt(2, time.time())), LOG)
    second = connection(later, 2, leftovers=found)
    second.cursor().execute("INSERT INTO t SELECT 2")
    with ExitStack() as held, ThreadPoolExecutor() as pool:
        for node in pair.nodes:
            held.enter_context(node.hold("execution", sql="SELECT 1"))
        running = pool.submit(cursor.execute, "INSERT INTO t SELECT 1")
        wait_for(lambda: any(in_flight(node, "SELECT 1") for node in pair.nodes), 20)
        away.rename(share)
        later.cluster.leases.renew()
        if how == "closed":
            second.close()
        else:
            del second
            gc.collect()
        with pytest.raises(StatementFailed):
            running.result(20)
        wait_for(lambda: all(lease["id"] == first.pick.lease for lease in later.status()["leases"]), 10)
    first.close()
    assert [sql for sql, state in executed(pair) if state == "FINISHED"] == ["INSERT INTO t SELECT 2"]


def test_a_child_that_is_forked_while_a_thread_notes_something_opens_its_own(pair):
    balancer = changed(pair)
    made = connection(balancer)
    keeper, child = balancer.cluster.leases, 1
    with keeper._mutex:  # as of another thread
        child = os.fork()
        if child == 0:
            signal.alarm(10)
            try:
                with connect(balancer.cluster, balancer.sessions, ConnectOptions(owner="child")) as own:
                    own.cursor().execute("SELECT 1")
                    assert not keeper.holds(made.pick.lease)
                os._exit(0)
            finally:
                os._exit(1)
    assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 0
    assert keeper.holds(made.pick.lease)
    made.close()


def test_what_several_cursors_have_left_is_one_line_and_forgotten_together(pair):
    owner = changed(pair).config.owner_of(OWNER)
    balancer = changed(pair)
    made = connection(balancer)
    sessions = [made.cursor().session.id for _ in range(2)]
    balancer.cluster.fencing.fence_earlier(owner, attempt=Attempt(2, time.time()), has_parts=True)
    [line] = lb("leftovers", config=pair.config_file).stdout.splitlines()
    assert all(session in line for session in sessions)
    made.close()
