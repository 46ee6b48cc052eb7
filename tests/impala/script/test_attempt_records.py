"""What an attempt keeps of its sessions, and how the next one ends them by that: with state, pages or both away."""

import base64
import json
import os
import signal
import time
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack, contextmanager

import pytest

from airflow_provider_impala_lb import Balancer
from airflow_provider_impala_lb.core.state.model import Attempt
from airflow_provider_impala_lb.errors import JournalMissing, StatementFailed, StateUnavailable, StillRunning
from airflow_provider_impala_lb.impala.journal import sweeping
from airflow_provider_impala_lb.impala.journal.answers import answer
from airflow_provider_impala_lb.impala.journal.journal import Journal
from airflow_provider_impala_lb.impala.journal.sealing import Sealer
from airflow_provider_impala_lb.impala.previous import leftover_sessions
from airflow_provider_impala_lb.impala.previous.leftover_sessions import LeftoverSessions
from airflow_provider_impala_lb.impala.script.handover_message import Deferred, Handover
from airflow_provider_impala_lb.impala.sql.label import own_of
from airflow_provider_impala_lb.impala.sql.splitter import split
from airflow_provider_impala_lb.sandbox import Sandbox
from airflow_provider_impala_lb.stores.factory import open_journals
from tests.support.resumed_scripts import INSERT, NEXT, OWNER, SLOW, attempt, executed, journal_of, resumed
from tests.support.script_worker import end_of, is_stopped, worker
from tests.support.scripts import LOG, changed, in_flight, run, script_run, wait_for


@pytest.fixture
def closed():
    """Two coordinators whose pages want a login that nobody here has, and without KILL QUERY."""
    access = {"web_auth": "digest", "web_users": {"admin": "secret"}}
    with Sandbox(nodes=2, lag=0, version="4.4", **access) as cluster:
        run(changed(cluster), "CREATE TABLE t (n INT)")
        yield cluster


@contextmanager
def killed(cluster, **order):
    """A worker that was killed while its first statement ran, with its query noted."""
    order = {"config": cluster.config, "owner": OWNER, "script": SLOW, "attempt": 1, **order}
    with worker(**order) as process:
        wait_for(lambda: kept(cluster), 20)
        if order.get("resume"):
            wait_for(lambda: (intent := journal_of(cluster).intent) is not None and intent.query, 20)
        else:
            wait_for(lambda: any(lease.get("query") for lease in changed(cluster).status()["leases"]), 20)
        process.kill()
        process.wait()
        yield


def kept(cluster):
    record = journal_of(cluster)
    return record.sessions if record is not None else []


def alone(cluster):
    """The configuration of a cluster of one, which needs no shared place."""
    return {**cluster.config, "nodes": cluster.config["nodes"][:1], "lock_file": None}


@pytest.fixture
def named(pair, monkeypatch):
    """The pair, as one deployment of several."""
    monkeypatch.setattr(Sandbox, "config", {**pair.config, "deployment": "prod"})
    return pair


def lose_state(cluster, *, journal=False):
    """As where its lock file was lost, and begins empty; and the owner's journal too."""
    config = changed(cluster).config
    os.truncate(config.lock_file, 0)
    if journal:
        open_journals(config).change(config.owner_of(OWNER), lambda document, now: (None, None))


def test_a_session_is_kept_until_it_has_ended_and_its_secret_cannot_be_read(pair):
    seen = []
    attempt(pair, f"{NEXT}; SELECT 1", on_session=lambda pick, session: seen.append((session, kept(pair))))
    [(session, [entry])] = seen
    assert (entry.node, entry.session) == (session.node.address, session.id)
    secret = session.handle[1]
    password = changed(pair).sessions.password
    assert password
    assert Sealer(password).open(entry.sealed) == secret
    assert Sealer("another").open(entry.sealed) is None
    assert secret.hex() not in entry.sealed
    assert journal_of(pair) is None  # nothing is left of a script that has come to its end


def test_of_one_that_failed_in_order_nothing_is_to_be_ended(pair):
    with pytest.raises(StatementFailed):
        attempt(pair, "SELEC", 1)
    record = journal_of(pair)
    assert (record.sessions, record.outcomes, record.ended) == ([], False, False)


def test_without_state_the_record_tells_what_a_killed_worker_left(pair, log):
    with killed(pair):
        lose_state(pair)
        attempt(pair)
    assert [sql for sql, state in executed(pair) if state == "FINISHED"] == [NEXT]
    assert "of an earlier attempt" in log.text
    assert journal_of(pair) is None


@pytest.mark.slow
def test_without_state_and_record_the_label_tells_it(named, log):
    with killed(named):
        lose_state(named, journal=True)
        attempt(named)
    assert [sql for sql, state in executed(named) if state == "FINISHED"] == [NEXT]
    assert "is of an earlier attempt: it was killed" in log.text


def test_what_the_label_alone_tells_may_be_another_airflows_and_is_waited_for(pair, log, tmp_path, monkeypatch):
    """Its state lies elsewhere, and it names its tasks as this one does. Its INSERT is not killed, its SELECT neither
    killed nor waited for."""
    monkeypatch.setattr(leftover_sessions, "END_SECONDS", 1.0)
    with ThreadPoolExecutor() as pool, ExitStack() as others:
        held = [others.enter_context(node.hold("execution", sql="SELECT 1")) for node in pair.nodes]
        for script in (INSERT, "SELECT 1 + 1"):
            config = {**pair.config, "lock_file": str(tmp_path / script[:6])}
            others.enter_context(worker(config=config, owner=OWNER, script=script, attempt=1))
            wait_for(lambda script=script: any(in_flight(node, script) for node in pair.nodes), 20)
        own = pool.submit(attempt, pair)
        wait_for(lambda: "or another Airflow's (deployment is not set): waiting for its end" in log.text, 20)
        time.sleep(2)
        assert not own.done() and "it was killed" not in log.text
        for switch in held:
            switch.release()
        own.result(20)
    assert executed(pair) == [(INSERT, "FINISHED"), (NEXT, "FINISHED")]


@pytest.mark.since("4.0", "its page cuts no statement")
def test_a_page_that_does_not_show_whose_a_statement_is_proves_nothing(monkeypatch):
    """It shows which one it is: the marker's nonce is there."""
    with Sandbox(nodes=1, lag=0, flags={"query_stmt_size": 30}) as one:
        monkeypatch.setattr(Sandbox, "config", {**one.config, "deployment": "prod"})
        run(changed(one), "CREATE TABLE t (n INT)")
        with killed(one):
            lose_state(one, journal=True)
            with pytest.raises(StillRunning, match=r"cuts off whose a statement is \(--query_stmt_size\)"):
                attempt(one)
        assert NEXT not in [sql for sql, _ in executed(one)]


@pytest.mark.slow
def test_a_marker_that_has_left_the_page_is_sent_again_while_something_is_waited_for(log, tmp_path, monkeypatch):
    """It runs into QUERY_TIMEOUT_S, and others' statements take its place in the log."""
    monkeypatch.setattr(leftover_sessions, "END_SECONDS", 2.0)
    with Sandbox(nodes=1, lag=0, flags={"query_log_size": 1}) as one, ThreadPoolExecutor() as pool:
        [node] = one.nodes
        run(changed(one), "CREATE TABLE t (n INT)")
        config = {**one.config, "lock_file": str(tmp_path / "others")}
        with (
            node.hold("execution", sql="SELECT 1") as held,
            worker(config=config, owner=OWNER, script=INSERT, attempt=1),
        ):
            held.wait()
            own = pool.submit(attempt, one, balancer=changed(one, session={"reconnect_timeout": 2}))
            for _ in range(8):
                time.sleep(1)
                run(changed(one, lock_file=str(tmp_path / "third")), "SELECT 3")
            assert not own.done()
            held.release()
            own.result(30)
    assert "waiting for its end" in log.text


@pytest.mark.since("4.5", "there is no KILL QUERY")
def test_what_an_attempt_could_not_see_ended_is_looked_for_by_the_next_one(named, log, monkeypatch):
    """It has left an empty record by then, and has run nothing."""
    with killed(named):
        lose_state(named, journal=True)
        with monkeypatch.context() as patch:
            patch.setattr(LeftoverSessions, "_end_labelled", lambda *_: "it is being planned")
            with pytest.raises(StillRunning):
                attempt(named)
        assert journal_of(named) is not None
        attempt(named)
    assert [sql for sql, state in executed(named) if state == "FINISHED"] == [NEXT]
    assert "is of an earlier attempt: it was killed" in log.text


@pytest.mark.since("4.5", "there is no KILL QUERY")
def test_start_over_after_a_journal_was_lost_leaves_nothing_running(named, log):
    """The command is printed where it is missing; what was lost with it may still run."""
    with killed(named, resume=True):
        lose_state(named, journal=True)
        config = changed(named).config
        with pytest.raises(JournalMissing):
            resumed(named, NEXT, attempt=Attempt(2, time.time()))
        answer(open_journals(config), config.owner_of(OWNER), "start-over")
        resumed(named, NEXT, attempt=Attempt(3, time.time()))
    assert [sql for sql, state in executed(named) if state == "FINISHED"] == [NEXT]
    assert "is of an earlier attempt: it was killed" in log.text


def test_where_it_cannot_be_noted_that_nothing_is_left_the_next_attempt_looks_again(pair, monkeypatch):
    def away(journal, change, patience=None):
        raise StateUnavailable("the share is away")

    with monkeypatch.context() as patch:
        patch.setattr(Journal, "keep_session", lambda *_, **__: None)
        patch.setattr(Journal, "_own", away)
        attempt(pair)
    assert [sql for sql, state in executed(pair) if state == "FINISHED"] == [NEXT]
    assert journal_of(pair).unseen


def test_a_statement_that_quotes_the_label_is_somebody_elses(pair):
    """An admin looks for what a task runs, while that begins with no record of an earlier attempt."""
    node = pair.nodes[0]
    with (
        changed(pair).sessions.open(node.address) as admins,
        ThreadPoolExecutor(1) as aside,
        node.hold("execution", sql="LIKE") as held,
    ):
        look = aside.submit(admins.execute, f"SELECT count(*) FROM t WHERE '' LIKE '%{own_of(OWNER)}%'")
        held.wait()
        attempt(pair)
        held.release()
        look.result(20)


@pytest.mark.slow
def test_without_any_shared_place_the_label_tells_it(pair, log):
    """One node, no lock file: each process has a state of its own, and no journal."""
    config = {**alone(pair), "deployment": "prod"}
    with worker(config=config, owner=OWNER, script=SLOW, attempt=1) as process:
        wait_for(lambda: any(in_flight(node, "INSERT") for node in pair.nodes), 20)
        process.kill()
        process.wait()
        attempt(pair, balancer=Balancer.from_config(config))
    assert [sql for sql, state in executed(pair) if state == "FINISHED"] == [NEXT]


@pytest.mark.slow
def test_where_nothing_can_be_known_of_an_earlier_attempt_nothing_is_run(closed):
    with pytest.raises(StillRunning, match="whether something of it runs there cannot be known"):
        attempt(closed, balancer=Balancer.from_config(alone(closed)))
    attempt(closed, balancer=Balancer.from_config(alone(closed)), number=1)
    attempt(closed, "SELECT 1", balancer=Balancer.from_config(alone(closed)))


def test_without_pages_a_killed_workers_statement_is_ended_by_the_sessions_secret(closed):
    with killed(closed):
        attempt(closed)
    assert [sql for sql, state in executed(closed) if state == "FINISHED"] == [NEXT]
    assert not kept(closed)


@pytest.mark.slow
def test_without_pages_one_that_is_being_planned_is_not_taken_for_ended(closed):
    """CloseSession does not know it yet, and no query id is known."""
    with ExitStack() as held:
        for node in closed.nodes:
            held.enter_context(node.hold("planning", sql="INSERT"))
        process = held.enter_context(worker(config=closed.config, owner=OWNER, script=SLOW, attempt=1))
        wait_for(lambda: kept(closed), 20)
        time.sleep(0.5)
        process.kill()
        process.wait()
        with pytest.raises(StillRunning):
            attempt(closed)
        assert len(kept(closed)) == 1
    assert NEXT not in [sql for sql, _ in executed(closed)]


@pytest.mark.slow
def test_without_pages_a_resumed_script_asks_for_its_statement_by_its_handle(closed):
    slow = "INSERT INTO t SELECT 1 WHERE sleep(4000)"
    with killed(closed, script=f"{slow}; {NEXT}", resume=True):
        done = resumed(closed, f"{slow}; {NEXT}")
    assert done.resumed == 1
    assert executed(closed) == [(slow, "FINISHED"), (NEXT, "FINISHED")]
    assert not kept(closed)


@pytest.mark.slow
def test_a_question_names_the_query_that_was_accepted(closed):
    """Its coordinator was killed with it."""
    with killed(closed, resume=True):
        intent = journal_of(closed).intent
        assert intent.query and intent.was_asked
        next(node for node in closed.nodes if node.address == intent.node).kill()
        with pytest.raises(StatementFailed, match="had sent it, and whether it ran is not known") as asked:
            resumed(closed, SLOW)
    assert asked.value.query_id == intent.query


@pytest.mark.slow
def test_a_stopped_worker_is_fenced_by_its_record_alone(pair):
    """Stopped before its second session could be opened; state lost meanwhile."""
    with worker(config=pair.config, owner=OWNER, script=NEXT, attempt=1, stop_at="open") as first:
        wait_for(lambda: is_stopped(first), 20)
        attempt(pair, "INSERT INTO t SELECT 3")
        lose_state(pair)
        first.send_signal(signal.SIGCONT)
        assert end_of(first)["error"] in ("Superseded", "JournalMissing")
    assert executed(pair) == [("INSERT INTO t SELECT 3", "FINISHED")]


@pytest.mark.slow
def test_what_may_still_run_is_not_swept(pair, monkeypatch):
    monkeypatch.setattr(sweeping, "KEPT_SECONDS", -1.0)
    journals = open_journals(changed(pair).config)
    with killed(pair):
        sweeping.sweep(journals, LOG, share=1.0)
        assert len(kept(pair)) == 1
    with pytest.raises(StatementFailed):
        attempt(pair, "SELEC")
    sweeping.sweep(journals, LOG, share=1.0)
    assert journal_of(pair) is None


def handed_over(cluster, script, **options):
    """What a worker leaves to a trigger, as it travels."""
    options = {
        "owner": OWNER,
        "one_at_a_time": True,
        "attempt": Attempt(1, time.time()),
        "hand_over_after": 0,
    } | options
    balancer = changed(cluster)
    begun = script_run(balancer, split(script), journals=open_journals(balancer.config), **options)
    with pytest.raises(Deferred) as raised:
        begun.run()
    return Handover.unpacked(json.loads(json.dumps(raised.value.handover.packed())))


def taken_over(cluster, script, handover, **keys):
    balancer = changed(cluster, **keys)
    return script_run(balancer, split(script), journals=open_journals(balancer.config), owner=OWNER).go_on(handover)


def test_a_session_that_is_handed_over_before_its_first_statement_is_gone_on_with(pair):
    """Its node was slow to open it."""
    seen = []
    handover = handed_over(pair, NEXT, on_session=lambda pick, session: seen.append(session.id))
    assert executed(pair) == []
    assert [each.session for each in kept(pair)] == seen
    done = taken_over(pair, NEXT, handover)
    assert [done.session] == seen
    assert executed(pair) == [(NEXT, "FINISHED")]
    assert kept(pair) == []


def test_what_travels_is_no_secret(pair):
    secrets = []
    handover = handed_over(pair, NEXT, on_session=lambda pick, session: secrets.append(session.handle[1]))
    [secret] = secrets
    text = json.dumps(handover.packed())
    for form in (secret.hex(), base64.b64encode(secret).decode(), changed(pair).sessions.password):
        assert form not in text
    taken_over(pair, NEXT, handover)


@pytest.mark.slow
@pytest.mark.parametrize("change", ["nodes", "key"])
def test_a_configuration_that_changes_while_no_worker_is_there(pair, change, monkeypatch):
    """Its node is not listed any more, or the password is another one."""
    slow = "INSERT INTO t SELECT 1 WHERE sleep(3000)"
    script = f"{NEXT}; {slow}"
    handover = handed_over(pair, script, hand_over_after=1.0)
    node = handover.node
    if change == "nodes":
        others = [each for each in pair.config["nodes"] if f"{each['host']}:{each['port']}" != node]
        with pytest.raises(StatementFailed) as failed:
            taken_over(pair, script, handover, nodes=others)
        assert (failed.value.number, failed.value.outcome, failed.value.node) == (2, "unknown", node)
        assert failed.value.query_id
        assert len(kept(pair)) == 1
        assert resumed(pair, script).resumed == 2
    else:
        monkeypatch.setenv("IMPALA_LB_SEAL_KEY", "another")
        assert len(taken_over(pair, script, handover).statements) == 2
    assert executed(pair) == [(NEXT, "FINISHED"), (slow, "FINISHED")]
    assert not kept(pair)
