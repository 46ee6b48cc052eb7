"""What looks as if an earlier attempt's statement had ended, and does not prove it; the catalog then does it later.

A statement that is being planned is in no session yet, and a call to the catalog is not taken back
(impala-hs2-server.cc, ``ExecuteStatementCommon``: ``SetQueryInflight`` comes last).
"""

import os
import signal
import time
from contextlib import ExitStack, contextmanager

import pytest
from thrift.transport.TTransport import TTransportException

from airflow_provider_impala_lb import Balancer
from airflow_provider_impala_lb.core.state.model import Attempt
from airflow_provider_impala_lb.errors import StatementFailed, StillRunning
from airflow_provider_impala_lb.impala.hs2.connection_failure import refusal
from airflow_provider_impala_lb.impala.hs2.reconnecting_client import ReconnectingClient
from airflow_provider_impala_lb.impala.hs2.session_factory import SessionFactory
from airflow_provider_impala_lb.impala.journal.answers import answer
from airflow_provider_impala_lb.impala.journal.journal import Journal
from airflow_provider_impala_lb.impala.previous import leftover_sessions
from airflow_provider_impala_lb.sandbox import Sandbox
from airflow_provider_impala_lb.stores.factory import open_journals
from tests.support.resumed_scripts import OWNER, executed, journal_of, resumed
from tests.support.script_worker import end_of, is_stopped, worker
from tests.support.scripts import changed, in_flight, run, wait_for

SCRIPT = "TRUNCATE TABLE t; INSERT INTO t SELECT 7"


@pytest.fixture
def pair(monkeypatch):
    monkeypatch.setattr(leftover_sessions, "END_SECONDS", 2.0)
    with Sandbox(nodes=2, lag=0) as cluster:
        run(changed(cluster), "CREATE TABLE t (n INT)")
        yield cluster


def attempt(cluster, script=SCRIPT, number=2, **options):
    balancer = options.pop("balancer", None) or changed(cluster)
    options = {
        "owner": OWNER,
        "one_at_a_time": True,
        "attempt": Attempt(number, time.time()),
        "outcomes": False,
    } | options
    return run(balancer, script, journals=open_journals(balancer.config), **options)


def nodes_with(cluster, text):
    return [node for node in cluster.nodes if any(text in row["stmt"] for row in in_flight(node))]


@contextmanager
def killed_while_planned(cluster, script=SCRIPT, until=lambda: True, **order):
    """A worker was killed while its TRUNCATE was planned, which goes on until the end of the block. Gives the node."""
    with ExitStack() as held:
        held_on = {node: held.enter_context(node.hold("planning", sql="TRUNCATE")) for node in cluster.nodes}
        process = held.enter_context(worker(config=cluster.config, owner=OWNER, script=script, attempt=1, **order))
        wait_for(lambda: nodes_with(cluster, "TRUNCATE"), 30)
        wait_for(until, 20)
        [there] = nodes_with(cluster, "TRUNCATE")
        process.kill()
        process.wait()
        for node, switch in held_on.items():
            if node is not there:
                switch.release()
        yield there


def nothing_ran_beside_it(cluster):
    return [sql for sql, _ in executed(cluster)] == [] and nodes_with(cluster, "TRUNCATE") != []


def test_an_intent_that_an_attempt_has_dropped_is_not_forgotten(pair):
    """Two attempts that keep outcomes, and do not resume, as of deferrable tasks."""
    with killed_while_planned(pair, resume=True):
        for number in (2, 3):
            with pytest.raises(StillRunning):
                attempt(pair, number=number, outcomes=True)
            assert nothing_ran_beside_it(pair)


@pytest.mark.slow
def test_start_over_is_no_word_on_what_runs(pair):
    with killed_while_planned(pair, resume=True):
        answer(open_journals(changed(pair).config), OWNER, "start-over")
        with pytest.raises(StillRunning):
            resumed(pair, SCRIPT)
        assert nothing_ran_beside_it(pair)


@pytest.mark.slow
def test_the_query_of_the_lease_is_not_the_last_one_where_one_was_left_open(pair):
    """It waits for other coordinators (``publish``), and the next one is planned in its session."""
    script = f"CREATE TABLE IF NOT EXISTS x (n INT); {SCRIPT}"
    with ExitStack() as held:
        for node in pair.nodes:
            held.enter_context(node.hold("sync_ddl", sql="EXISTS x"))

        def lease_names_it():
            return any(lease.get("query") for lease in changed(pair).status()["leases"])

        held.enter_context(killed_while_planned(pair, script, lease_names_it, options={"publish": 1.0}))
        with pytest.raises(StillRunning):
            attempt(pair, script)
        assert nothing_ran_beside_it(pair)


def test_one_whose_close_failed_is_noted_before_the_next_is_sent(pair, monkeypatch):
    """It stays registered: that it can be closed later does not tell that the session's last one has ended."""
    noted, failed = [], []
    call, left_open = ReconnectingClient.call, Journal.left_open

    def fails_once(client, name, request):
        if name.startswith("Close") and "Session" not in name and not failed and nodes_with(pair, "INSERT"):
            failed.append(name)
            client.disconnect()
            raise TTransportException(message="out of reach")
        return call(client, name, request)

    def notes(journal, session):
        noted.append((session, len(executed(pair))))
        return left_open(journal, session)

    monkeypatch.setattr(ReconnectingClient, "call", fails_once)
    monkeypatch.setattr(Journal, "left_open", notes)
    attempt(pair, "INSERT INTO t SELECT 1; INSERT INTO t SELECT 2; INSERT INTO t SELECT 3", number=1)
    assert failed and [ran for _, ran in noted] == [1]
    assert [state for _, state in executed(pair)] == ["FINISHED"] * 3


@pytest.mark.slow
def test_on_a_node_that_shuts_down_what_is_planned_is_seen_by_its_label(pair, monkeypatch):
    monkeypatch.setenv("IMPALA_LB_SEAL_KEY", "another")
    with killed_while_planned(pair) as node:
        node.drain()
        with pytest.raises(StillRunning, match="still shows it"):
            attempt(pair)
        assert nothing_ran_beside_it(pair)


@pytest.mark.slow
def test_on_a_node_that_shuts_down_a_session_is_ended_by_its_secret(pair):
    slow = "INSERT INTO t SELECT 1 WHERE sleep(60000)"
    with worker(config=pair.config, owner=OWNER, script=slow, attempt=1) as process:
        wait_for(lambda: nodes_with(pair, "INSERT"), 20)
        process.kill()
        process.wait()
    [node] = nodes_with(pair, "INSERT")
    node.drain()
    attempt(pair, "INSERT INTO t SELECT 2")
    assert ("INSERT INTO t SELECT 2", "FINISHED") in executed(pair)
    wait_for(lambda: not nodes_with(pair, "INSERT"))  # a thread of its own takes our own off the list


@pytest.mark.slow
def test_a_close_that_is_made_again_proves_no_end(pair):
    """The first one waits for the catalog's answer, for longer than ``rpc_timeout``; the second one is told that there
    is no such handle."""
    impatient = changed(pair, session={"rpc_timeout": 2, "reconnect_timeout": 30})
    with ExitStack() as held:
        for node in pair.nodes:
            held.enter_context(node.hold("catalog", sql="TRUNCATE"))
        with pytest.raises(StatementFailed, match="statement_timeout"):
            attempt(pair, number=1, balancer=impatient, statement_timeout=1.0)
        assert len(journal_of(pair).sessions) == 1
        with pytest.raises(StillRunning):
            attempt(pair)
        assert nothing_ran_beside_it(pair)


@pytest.mark.slow
@pytest.mark.parametrize("version", ["3.4", "4.0", "4.4", "HEAD"])
def test_what_is_at_work_in_the_call_that_sent_it_is_ended_by_nobodys_close(pair, version):
    """DDL that is not asynchronous: its answer was lost, it was found on the page, and ran into a time limit. No close
    waits for it; and the newest versions would take it off the page."""
    impatient = changed(pair, session={"rpc_timeout": 2, "reconnect_timeout": 30})
    options = {"ENABLE_ASYNC_DDL_EXECUTION": "0"}
    with ExitStack() as held:
        for node in pair.nodes:
            held.enter_context(node.hold("catalog", sql="TRUNCATE"))
        with pytest.raises(StatementFailed, match="statement_timeout"):
            attempt(pair, number=1, balancer=impatient, statement_timeout=1.0, query_options=options)
        assert len(journal_of(pair).sessions) == 1
        with pytest.raises(StillRunning):
            attempt(pair)
        assert nothing_ran_beside_it(pair)


@pytest.mark.parametrize("configured", [pytest.param(True, marks=pytest.mark.slow), False])
@pytest.mark.parametrize("resume", [True, False])
def test_a_coordinator_whose_page_answers_is_not_called_gone(pair, monkeypatch, configured, resume):
    """Only its port is refused, by something on the way: a later look may tell. Where its page lies is known by
    ``web``, or by the record of the session there."""
    if not configured:
        nodes = [{"host": node["host"], "port": node["port"]} for node in pair.config["nodes"]]
        monkeypatch.setattr(Sandbox, "config", {**pair.config, "nodes": nodes})
    script = "INSERT INTO t SELECT 1 WHERE sleep(60000)"
    with worker(config=pair.config, owner=OWNER, script=script, attempt=1, resume=resume) as process:
        wait_for(lambda: nodes_with(pair, "INSERT"), 20)
        process.kill()
        process.wait()
    opened = SessionFactory.open
    [node] = nodes_with(pair, "INSERT")

    def refusing(sessions, address, **options):
        if address == node.address:
            raise refusal("it refuses") from ConnectionRefusedError(111, "Connection refused")
        return opened(sessions, address, **options)

    monkeypatch.setattr(SessionFactory, "open", refusing)
    if resume:
        with pytest.raises(StatementFailed, match="its coordinator says: it refuses") as asked:
            resumed(pair, script, attempt=Attempt(2, time.time()))
        assert asked.value.retry
    else:  # it is asked to end, all the same, and seen to
        attempt(pair, "INSERT INTO t SELECT 2")
        assert [state for _, state in executed(pair)] == ["CANCELLED", "FINISHED"]


@pytest.mark.slow
def test_a_fenced_worker_that_cannot_read_that_opens_no_new_session(pair, tmp_path):
    """Stopped before its second statement; a later attempt has ended its session, and then the share is away."""
    (tmp_path / "share").mkdir()
    config = {**pair.config, "lock_file": str(tmp_path / "share" / "lock")}
    config["session"] = {**config["session"], "reconnect_timeout": 5}
    script = "; ".join(f"INSERT INTO t SELECT {n}" for n in (1, 2))
    with worker(config=config, owner=OWNER, script=script, attempt=1, stop_at="sent", stop_number=2) as first:
        wait_for(lambda: is_stopped(first), 20)
        attempt(pair, script, balancer=Balancer.from_config(config))
        os.rename(tmp_path / "share", tmp_path / "away")
        first.send_signal(signal.SIGCONT)
        end = end_of(first, 60)
    assert end["error"] == "StatementFailed"
    assert "what other attempts do cannot be known" in end["text"]
    assert [sql[-1] for sql, _ in executed(pair)] == ["1", "1", "2"]


def test_a_journal_that_is_lost_under_a_statement_makes_it_unknown(pair, monkeypatch):
    from airflow_provider_impala_lb.errors import StateUnavailable

    def away(journal, query, **_):
        raise StateUnavailable("journal: the share is away")

    monkeypatch.setattr(Journal, "accepted", away)
    with pytest.raises(StatementFailed, match="the share is away") as failed:
        attempt(pair, "INSERT INTO t SELECT 1 WHERE sleep(300); INSERT INTO t SELECT 2", number=1, outcomes=True)
    assert (failed.value.number, failed.value.outcome) == (1, "unknown")
    assert failed.value.query_id


def test_a_clock_that_is_behind_makes_no_attempt_an_earlier_one(pair):
    def by_clock(number, now):
        return Attempt(number, now, "round 1", run=500.0)

    resumed(pair, "INSERT INTO t SELECT 1", attempt=by_clock(1, 1000.0))
    resumed(pair, "INSERT INTO t SELECT 1", attempt=by_clock(2, 940.0))
    assert executed(pair) == [("INSERT INTO t SELECT 1", "FINISHED")]


def test_a_retry_of_a_script_that_came_to_its_end_and_has_changed_runs_the_rest(pair):
    resumed(pair, "INSERT INTO t SELECT 1", attempt=Attempt(1, 1000.0, "round 1"), finish_at_end=False)
    script = "INSERT INTO t SELECT 1; INSERT INTO t SELECT 2"
    resumed(pair, script, attempt=Attempt(2, 2000.0, "round 1"))
    assert [sql[-1] for sql, _ in executed(pair)] == ["1", "2"]


def test_a_retry_writes_the_output_that_is_wanted_here(pair, tmp_path):
    script, file = "INSERT INTO t SELECT 1; SELECT n FROM t", tmp_path / "rows.csv"
    resumed(pair, script, attempt=Attempt(1, 1000.0, "round 1"), output=str(file), finish_at_end=False)
    file.unlink()  # as on another host
    done = resumed(pair, script, attempt=Attempt(2, 2000.0, "round 1"), output=str(file))
    assert done.output.rows == 1
    assert file.exists()
    assert len(executed(pair)) == 1
