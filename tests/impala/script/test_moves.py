"""A script that is to leave its node: what is interrupted is seen to end, and what nobody would see end is not."""

import threading
import time
from contextlib import ExitStack

import pytest

from airflow_provider_impala_lb.core.state.model import Attempt
from airflow_provider_impala_lb.errors import StatementFailed
from airflow_provider_impala_lb.impala.hs2.page_proof import PageProof
from airflow_provider_impala_lb.impala.hs2.session import Session
from airflow_provider_impala_lb.impala.sql.splitter import split
from airflow_provider_impala_lb.stores.factory import open_journals
from tests.support.resumed_scripts import OWNER, executed
from tests.support.scripts import changed, in_flight, start_script, statements_on, wait_for
from tests.support.scripts import script_run as make_run


def test_a_move_that_finds_no_session_interrupts_nothing(cluster):
    """As between two sessions: the one that opens meanwhile is nobody's to end from outside."""
    script_run, thread, outcome = start_script(changed(cluster), "SELECT sleep(1500)", restartable=True)
    wait_for(lambda: any(in_flight(node, "sleep(") for node in cluster.nodes))
    execution = script_run._execution
    session, execution.session = execution.session, None
    execution.move("overloaded", anew=True)
    execution.session = session
    thread.join()
    assert [statement.number for statement in outcome[0].statements] == [1]


def test_a_move_interrupts_the_statement_under_way_and_the_script_begins_anew(cluster):
    script_run, thread, outcome = start_script(changed(cluster), "SELECT 1; SELECT sleep(3000)", restartable=True)
    wait_for(lambda: any(in_flight(node, "sleep(") for node in cluster.nodes))
    first = script_run.node
    script_run._on_move("overloaded")
    thread.join()
    done = outcome[0]
    assert (len(done.statements), done.node == first) == (2, False)


def test_a_cancel_is_the_sessions_end_before_the_run_hears_of_it(cluster, log, monkeypatch):
    """The thread that cancels loses its turn once the reason is noted: the run must not close the session meanwhile."""
    script_run, thread, outcome = start_script(changed(cluster), "SELECT sleep(60000)")
    wait_for(lambda: any(in_flight(node, "sleep(") for node in cluster.nodes))
    note = script_run._stop.cancel
    monkeypatch.setattr(script_run._stop, "cancel", lambda reason: (note(reason), time.sleep(0.5)))
    script_run.cancel("the task was killed")
    thread.join()
    assert "cancelled: the task was killed" in str(outcome[0])
    assert [line for line in log.messages if line.startswith("Query ") and line.endswith(" was cancelled")]


def test_a_session_that_its_own_thread_closed_is_not_waited_for(cluster):
    """As where it hears of the cancel in a session that the one who cancels has not seen."""
    script_run, thread, outcome = start_script(changed(cluster), "SELECT sleep(60000)")
    wait_for(lambda: any(in_flight(node, "sleep(") for node in cluster.nodes))
    session = script_run._execution.session
    script_run._stop.cancel("noted, and no more")
    thread.join()
    assert "cancelled: noted, and no more" in str(outcome[0])
    assert session._end_tried.is_set()
    assert not session.end_now(lambda: outcome.append("too late"))
    assert len(outcome) == 1


def test_a_statement_that_is_still_planned_was_not_seen_to_end_and_nothing_begins_anew(pair):
    """It is in no session yet, so closing that does not end it: it would land in what another node does meanwhile."""
    with ExitStack() as held:
        for node in pair.nodes:
            held.enter_context(node.hold("planning", sql="OVERWRITE"))
        script = "INSERT OVERWRITE t SELECT 1"
        script_run, thread, outcome = start_script(changed(pair), script, restartable=True)
        wait_for(lambda: any("OVERWRITE" in row["stmt"] for node in pair.nodes for row in in_flight(node)), 20)
        script_run._on_move("overloaded")
        thread.join(30)
    assert isinstance(outcome[0], StatementFailed)
    assert outcome[0].outcome == "unknown"
    assert len([sql for node in pair.nodes for sql in statements_on(node) if "OVERWRITE" in sql]) <= 1


def start_resumable(pair, script):
    balancer = changed(pair)
    options = {"resume": True, "attempt": Attempt(1, time.time()), "journals": open_journals(balancer.config)}
    return start_script(balancer, script, owner=OWNER, one_at_a_time=True, **options)


def is_under_way(pair, word):
    return any(word in row["stmt"] for node in pair.nodes for row in in_flight(node))


def test_a_change_that_was_not_sent_yet_when_it_was_to_move_runs_elsewhere(pair, monkeypatch):
    """It was still looking for a witness."""
    balancer, told = changed(pair), []
    options = {"restartable": True, "attempt": Attempt(1, time.time()), "journals": open_journals(balancer.config)}
    see = PageProof.see_witness

    def moved_meanwhile(proof):
        see(proof)
        if not told:
            told.append(script_run.node)
            script_run._on_move("overloaded")

    monkeypatch.setattr(PageProof, "see_witness", moved_meanwhile)
    script = split("INSERT INTO t SELECT 1")
    script_run = make_run(balancer, script, owner=OWNER, one_at_a_time=True, outcomes=False, **options)
    done = script_run.run()
    assert told and done.node != told[0]
    assert executed(pair) == [("INSERT INTO t SELECT 1", "FINISHED")]


@pytest.mark.parametrize("slow", ["end_now", "move"])
def test_a_change_that_follows_the_query_that_was_to_be_interrupted_runs_once(pair, monkeypatch, slow):
    """The thread that moves it loses its turn: before it looks at what runs, or once it has."""
    script_run, thread, outcome = start_resumable(pair, "SELECT sleep(1000); INSERT INTO t SELECT 1")
    owner, name = (Session, slow) if slow == "end_now" else (script_run._stop, slow)
    original = getattr(owner, name)
    monkeypatch.setattr(owner, name, lambda *args, **options: (time.sleep(2), original(*args, **options))[1])
    with ExitStack() as held:
        for node in pair.nodes:
            held.enter_context(node.delay("finalising", 1, sql="INSERT"))
        wait_for(lambda: is_under_way(pair, "sleep"), 20)
        script_run._on_move("overloaded")
        thread.join(30)
    assert [statement.number for statement in outcome[0].statements] == [1, 2]
    assert executed(pair) == [("INSERT INTO t SELECT 1", "FINISHED")]


@pytest.mark.since("4.1", "DDL runs before it is answered")
def test_what_finds_its_own_effect_after_a_move_is_no_mistake_of_the_authors(pair):
    """It was made before it was interrupted."""
    mark = "-- impala-lb: safe to repeat\n"
    script_run, thread, outcome = start_resumable(pair, f"INSERT INTO t SELECT 1;\n{mark}CREATE TABLE made (n INT)")
    with ExitStack() as stack:
        held = [
            stack.enter_context(node.hold("catalog_answer", sql="CREATE TABLE made", times=1)) for node in pair.nodes
        ]
        wait_for(lambda: any(switch.queries for switch in held) and not script_run._execution.between, 20)
        releasing = threading.Timer(1, lambda: [switch.release() for switch in held])
        releasing.start()
        script_run._on_move("overloaded")
        thread.join(30)
    assert isinstance(outcome[0], StatementFailed)
    assert (outcome[0].number, outcome[0].outcome) == (2, "unknown")


def test_a_change_that_was_interrupted_all_the_same_is_not_sent_elsewhere(pair, log):
    """It is past the point where it can be cancelled, and its close is answered."""
    script_run, thread, outcome = start_resumable(pair, "INSERT INTO t SELECT 1")
    with ExitStack() as held:
        for node in pair.nodes:
            held.enter_context(node.delay("finalising", 1, sql="INSERT"))
        wait_for(lambda: script_run._execution is not None and not script_run._execution.between, 20)
        script_run._execution.end_now(lambda: script_run._stop.move("overloaded", interrupt=True))
        thread.join(30)
    assert isinstance(outcome[0], StatementFailed)
    assert outcome[0].outcome == "unknown"
    assert "was not seen to end" not in log.text  # else that alone would keep it here
    assert len(executed(pair)) == 1
