"""Attempts of which neither state nor record tells: their share was away. What they left is known by its label."""

import signal
import time
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack

import pytest

from airflow_provider_impala_lb import Balancer
from airflow_provider_impala_lb.core.cluster.lease_options import LeaseOptions
from airflow_provider_impala_lb.core.state.model import Attempt
from airflow_provider_impala_lb.errors import StatementFailed
from airflow_provider_impala_lb.impala.journal.answers import forget_session
from airflow_provider_impala_lb.impala.journal.identity import RunIdentity
from airflow_provider_impala_lb.impala.journal.journal import Journal
from airflow_provider_impala_lb.impala.previous.leftover_sessions import LeftoverSessions
from airflow_provider_impala_lb.stores.factory import open_journals
from tests.support.resumed_scripts import INSERT, NEXT, OWNER, SLOW, attempt, executed, journal_of
from tests.support.script_worker import end_of, is_stopped, worker
from tests.support.scripts import changed, in_flight, wait_for


def config_on(cluster, share, **keys):
    config = {**cluster.config, "lock_file": str(share / "lock"), **keys}
    Balancer.from_config(config).get_host()  # this host has used it: else it being away is a mistake
    return config


def kill_noted_nowhere(cluster, config, share, away):
    """A worker whose session could not be noted, while its INSERT runs. The share is back then."""
    with worker(config=config, owner=OWNER, script=SLOW, attempt=1, stop_at="open") as process:
        wait_for(lambda: is_stopped(process), 20)
        share.rename(away)
        process.send_signal(signal.SIGCONT)
        wait_for(lambda: any(in_flight(node, "INSERT") for node in cluster.nodes), 30)
        process.kill()
        process.wait()
    away.rename(share)


@pytest.mark.parametrize("began", ["without any state", pytest.param("before that", marks=pytest.mark.slow)])
def test_one_whose_session_is_noted_nowhere_sends_nothing_more_once_a_later_one_is_there(
    pair, movable_share, log, began
):
    """The share is away when it begins, or goes away before its first session. It is back for its next attempt."""
    share, away = movable_share
    config = config_on(pair, share)
    order = {"config": config, "owner": OWNER, "script": f"{INSERT}; INSERT INTO t SELECT 3", "attempt": 1}
    with ThreadPoolExecutor() as pool, ExitStack() as stack:
        held = [stack.enter_context(node.hold("execution", sql="SELECT 1")) for node in pair.nodes]
        if began == "without any state":
            share.rename(away)
            process = stack.enter_context(worker(**order))
        else:
            process = stack.enter_context(worker(**order, stop_at="open"))
            wait_for(lambda: is_stopped(process), 20)
            share.rename(away)
            process.send_signal(signal.SIGCONT)
        wait_for(lambda: any(in_flight(node, INSERT) for node in pair.nodes), 30)
        away.rename(share)
        later = pool.submit(attempt, pair, balancer=Balancer.from_config(config))
        wait_for(lambda: "or another Airflow's (deployment is not set): waiting for its end" in log.text, 20)
        for switch in held:
            switch.release()
        end = end_of(process)
        later.result(20)
    assert end["error"] == "Superseded"
    assert executed(pair) == [(INSERT, "FINISHED"), (NEXT, "FINISHED")]


@pytest.mark.slow
def test_a_session_that_could_not_be_noted_is_looked_for(pair, movable_share, log):
    share, away = movable_share
    config = config_on(pair, share, deployment="prod")
    kill_noted_nowhere(pair, config, share, away)
    attempt(pair, balancer=Balancer.from_config(config))
    assert [sql for sql, state in executed(pair) if state == "FINISHED"] == [NEXT]
    assert "is of an earlier attempt: it was killed" in log.text


def test_a_second_session_that_could_not_be_noted_is_looked_for(pair):
    """Once the first one has ended, another may be open: until the attempt was seen to fail. An operator's word that it
    has ended says nothing of others, and asks for no look."""
    config = changed(pair).config
    journals = open_journals(config)
    journal = Journal(journals, RunIdentity(owner=OWNER, attempt=Attempt(1, time.time())), [INSERT], outcomes=False)
    journal.begin(resume=False)
    assert journal_of(pair).opening
    for session, end in (("s", journal.session_ended), ("t", lambda session: forget_session(journals, OWNER, session))):
        journal.keep_session("a:1", session, "")
        assert not journal_of(pair).opening
        end(session)
        assert (journal_of(pair).opening, journal_of(pair).sessions) == (session == "s", [])
    journal.keep_session("a:1", "u", "")
    journal.session_ended("u")
    journal.none_open()
    assert not journal_of(pair).opening


@pytest.mark.slow
@pytest.mark.parametrize("back", ["for its lease", "after its first statement", "after its last statement"])
def test_a_state_that_is_back_later_tells_what_to_end(pair, movable_share, monkeypatch, back):
    """It was away when the attempt began, and nothing ran: the one before was stopped between two statements."""
    share, away = movable_share
    config = config_on(pair, share)
    script = f"{INSERT}; INSERT INTO t SELECT 3"
    order = {"script": script, "attempt": 1, "stop_at": "sent", "stop_number": 2}
    look = LeftoverSessions.end_unrecorded

    def look_and_be_back(leftovers, owner, **options):
        look(leftovers, owner, **options)
        if back == "for its lease":
            away.rename(share)

    def be_back(done):
        if away.exists():
            away.rename(share)

    with worker(config=config, owner=OWNER, **order) as process:
        wait_for(lambda: is_stopped(process), 20)
        share.rename(away)
        monkeypatch.setattr(LeftoverSessions, "end_unrecorded", look_and_be_back)
        statements = [NEXT] * (1 if back == "after its last statement" else 2)
        attempt(pair, "; ".join(statements), balancer=Balancer.from_config(config), on_statement=be_back)
        process.send_signal(signal.SIGCONT)
        assert end_of(process)["error"] in ("Superseded", "StatementFailed")
    assert executed(pair) == [(sql, "FINISHED") for sql in (INSERT, *statements)]


@pytest.mark.slow
def test_another_run_that_is_found_late_ends_it(pair, movable_share):
    """Two Airflows under one name: neither takes over from the other, nor goes on beside it."""
    share, away = movable_share
    config = config_on(pair, share)
    theirs = Balancer.from_config(config).cluster.picker
    share.rename(away)

    def be_back(done):
        if away.exists():
            away.rename(share)
            other = Attempt(1, time.time(), run=time.time())
            theirs.acquire(Balancer.from_config(config).config.owner_of(OWNER), options=LeaseOptions(attempt=other))

    ours = Attempt(2, time.time(), run=time.time() - 500)
    with pytest.raises(StatementFailed, match="two runs have this name") as raised:
        attempt(pair, f"{NEXT}; {NEXT}", ours, balancer=Balancer.from_config(config), on_statement=be_back)
    assert (raised.value.number, raised.value.outcome) == (2, "not started")
    assert executed(pair) == [(NEXT, "FINISHED")]


@pytest.mark.slow
@pytest.mark.since("4.5", "there is no KILL QUERY")
def test_a_node_that_did_not_tell_is_looked_at_again_by_the_next_attempt(pair, movable_share, log):
    share, away = movable_share
    config = config_on(pair, share, deployment="prod")
    kill_noted_nowhere(pair, config, share, away)
    [node] = [node for node in pair.nodes if in_flight(node, "INSERT")]
    with node.fail("queries_page"), pytest.raises(StatementFailed):
        attempt(pair, "INSERT INTO t SELEC 1", balancer=Balancer.from_config(config))
    attempt(pair, number=3, balancer=Balancer.from_config(config))
    assert [sql for sql, state in executed(pair) if state == "FINISHED"] == [NEXT]
    assert "is of an earlier attempt: it was killed" in log.text


@pytest.mark.slow
def test_of_an_attempt_without_a_record_between_two_with_one_the_label_tells(pair, movable_share, log):
    share, away = movable_share
    config = config_on(pair, share, deployment="prod")
    with pytest.raises(StatementFailed):
        attempt(pair, "SELEC", 1, balancer=Balancer.from_config(config))
    share.rename(away)
    with worker(config=config, owner=OWNER, script=SLOW, attempt=2) as process:
        wait_for(lambda: any(in_flight(node, "INSERT") for node in pair.nodes), 20)
        process.kill()
        process.wait()
    away.rename(share)
    attempt(pair, number=3, balancer=Balancer.from_config(config))
    assert [sql for sql, state in executed(pair) if state == "FINISHED"] == [NEXT]
    assert "is of an earlier attempt: it was killed" in log.text
