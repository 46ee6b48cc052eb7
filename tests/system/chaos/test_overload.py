"""A node driven busy, overloaded and back, by what its own web page says: real coordinators, real reports."""

import http.server
import os
import subprocess
import sys
import threading
import time

import pytest

from airflow_provider_impala_lb.errors import NoNodeAvailable, StatementFailed
from airflow_provider_impala_lb.impala.script import metadata_sync
from airflow_provider_impala_lb.impala.script.record import ScriptRecord
from tests.support.balancers import options_of
from tests.support.scripts import changed, run, start_script, statements_on, wait_for
from tests.support.servers import eventually
from tests.system.chaos.load import LOAD, WEIGHTS

SLOW = "INSERT INTO moved SELECT CAST(sleep(30000) AS INT)"


@pytest.fixture
def loaded(cluster):
    """The cluster, with reports once a second; every node has room."""
    for node in cluster.nodes:
        node.set_load(memory=0.3)
    yield cluster
    for node in cluster.nodes:
        node.set_load()


@pytest.fixture
def lb(loaded, tmp_path):
    return changed(loaded, load=LOAD, lock_file=str(tmp_path / "lock"))


def ask(balancer, times=1):
    for _ in range(times):
        assert balancer.cluster.reports.probe(now_anyway=True) is not None


def state_of(balancer, node):
    return next(each for each in balancer.status()["nodes"] if each["node"] == node.address)


def test_a_node_driven_busy_then_overloaded_then_back(loaded, lb):
    node = loaded.nodes[0]
    held = lb.acquire("before", session_key="etl", prefer=node.address)
    ask(lb)
    assert state_of(lb, node)["headroom"] == pytest.approx(0.7, abs=0.01)
    levels = []
    for memory in (0.85, 0.85, 0.95, 0.95, 0.85, 0.85, 0.3, 0.3):
        node.set_load(memory=memory)
        ask(lb)
        levels.append(state_of(lb, node)["state"])
        picked = {lb.get_host() for _ in range(6)}
        assert (node.address in picked) == (levels[-1] == "ready")
        if len(levels) == 2:
            sticky = lb.pick(session_key="etl")
            assert sticky.host != node.address and "busy: headroom 0.15" in sticky.why
    assert levels == ["ready", "busy", "busy", "overloaded", "overloaded", "busy", "busy", "ready"]
    assert state_of(lb, node)["leases"] == 1  # what was there went on
    held.release()


def test_a_load_that_swings_around_t_does_not_flap(loaded, lb):
    node = loaded.nodes[0]
    ask(lb)
    seen = set()
    for turn in range(10):
        node.set_load(memory=0.85 if turn % 2 else 0.75)
        ask(lb)
        seen.add(state_of(lb, node)["state"])
    assert seen == {"ready"}


def test_reports_are_asked_for_by_themselves_while_scripts_run(loaded, lb):
    node = loaded.nodes[0]
    with lb.acquire("a script"):
        wait_for(lambda: state_of(lb, node)["headroom"] is not None)
        node.set_load(memory=0.85)
        wait_for(lambda: state_of(lb, node)["state"] == "busy", 10)


def test_foreign_queries_count(loaded, lb):
    busy, others = loaded.nodes[0], {node.address for node in loaded.nodes[1:]}
    busy.set_load(memory=0.3, queries=7)
    ask(lb)
    assert state_of(lb, busy)["load"] == 7
    assert {lb.acquire("x").host for _ in range(6)} == others


def test_a_node_that_shuts_down_is_left_out_before_anybody_tries_it(four):
    lb = changed(four, load=LOAD)
    ask(lb)
    four.nodes[0].drain()
    ask(lb)
    assert state_of(lb, four.nodes[0])["state"] == "drain"
    assert four.nodes[0].address not in {lb.get_host() for _ in range(6)}


def start(lb, script, **options):
    """The run in a thread; its outcome is put into the list."""
    opened = []
    _, thread, outcome = start_script(lb, script, on_session=lambda pick, session: opened.append(pick.host), **options)
    return thread, outcome, opened


def by_address(cluster, address):
    return next(node for node in cluster.nodes if node.address == address)


@pytest.mark.slow
def test_a_restartable_script_moves_at_h_and_what_it_ran_has_ended(loaded, lb, log, monkeypatch):
    monkeypatch.setattr(metadata_sync, "MOVE_SECONDS", 0.5)
    run(lb, "DROP TABLE IF EXISTS moved; CREATE TABLE moved (x INT)")
    thread, outcome, opened = start(
        lb, f"SET MEM_LIMIT=1g; INSERT OVERWRITE moved VALUES (7); {SLOW}; SELECT 1", restartable=True
    )
    wait_for(lambda: opened, 10)
    first = by_address(loaded, opened[0])
    wait_for(lambda: lb.status()["leases"] and lb.status()["leases"][0]["movable"])
    time.sleep(1)
    first.set_load(memory=0.97)
    wait_for(lambda: len(opened) == 2, 20)
    second = by_address(loaded, opened[1])
    assert second is not first
    cancelled = [entry for entry in first.journal() if "sleep(30000)" in entry.get("sql", "")]
    assert [entry["state"] for entry in cancelled] == ["CANCELLED"]
    assert any("overloaded (headroom 0.03): what ran there has ended" in record.getMessage() for record in log.records)
    # It began anew at statement 1; the second run is ended by the test.
    wait_for(lambda: sum("INSERT OVERWRITE" in sql for sql in statements_on(second)) == 1, 10)
    assert thread.is_alive()
    with lb.sessions.open(second.address) as session:
        session.execute("SELECT x FROM moved")
        assert session.cursor.fetchall() == [(7,)]
    lease = lb.status()["leases"][0]
    assert lease["node"] == second.address
    second.kill()
    thread.join(20)
    second.start()
    assert isinstance(outcome[0], StatementFailed)


def test_one_that_finds_no_other_node_says_how_far_it_had_come(loaded, lb, monkeypatch):
    monkeypatch.setattr(metadata_sync, "MOVE_SECONDS", 0.1)
    run(lb, "DROP TABLE IF EXISTS moved; CREATE TABLE moved (x INT)")
    first, second, third = loaded.nodes
    lb.drain(third.address)
    thread, outcome, opened = start(
        lb, f"INSERT OVERWRITE moved VALUES (7); {SLOW}", restartable=True, max_wait=0, prefer=first.address
    )
    wait_for(lambda: opened and lb.status()["leases"], 10)
    wait_for(lambda: any("VALUES (7)" in sql for sql in statements_on(first)), 10)
    time.sleep(0.5)
    note = ScriptRecord.interrupted

    def and_drain(progress, node, moved):
        note(progress, node, moved)
        lb.drain(second.address)

    monkeypatch.setattr(ScriptRecord, "interrupted", and_drain)
    first.set_load(memory=0.97)
    thread.join(20)
    assert isinstance(outcome[0], NoNodeAvailable)
    assert (
        f"3 nodes, 2 drained, 1 tried in vain; before that it was interrupted on {first.address}, where 1 of its 2 "
        "statements were done and the next one was seen to end"
    ) in str(outcome[0])


@pytest.mark.slow
def test_a_script_that_is_not_restartable_finishes_and_the_log_says_so(loaded, lb, log):
    thread, outcome, opened = start(lb, "SELECT sleep(6000)")
    wait_for(lambda: opened, 10)
    by_address(loaded, opened[0]).set_load(memory=0.97)
    thread.join(20)
    assert outcome[0].node == opened[0] and len(opened) == 1
    assert any(
        "finishes there all the same (headroom 0.03; it is not declared restartable)" in record.getMessage()
        for record in log.records
    )


def test_one_that_cannot_be_seen_to_end_does_not_move(loaded, lb, monkeypatch):
    from airflow_provider_impala_lb.impala.hs2 import connection

    monkeypatch.setattr(connection, "_close_operation", lambda *_: (False, "it is too slow"))
    run(lb, "DROP TABLE IF EXISTS kept; CREATE TABLE kept (x INT)")
    thread, outcome, opened = start(lb, "INSERT OVERWRITE kept SELECT CAST(sleep(30000) AS INT)", restartable=True)
    wait_for(lambda: opened, 10)
    wait_for(lambda: lb.status()["leases"])
    time.sleep(0.5)
    by_address(loaded, opened[0]).set_load(memory=0.97)
    thread.join(20)
    assert isinstance(outcome[0], StatementFailed) and outcome[0].outcome == "unknown"
    assert len(opened) == 1


def idle_host():
    """The page of a host on which nothing happens: its counters go on by its clock."""
    now = time.time()
    return (
        f'node_time_seconds {now}\nnode_cpu_seconds_total{{cpu="0",mode="idle"}} {now}\nnode_memory_MemTotal_bytes 1\n'
    )


@pytest.fixture
def idle():
    class Page(http.server.BaseHTTPRequestHandler):
        def do_GET(self):
            body = idle_host().encode()
            self.send_response(200)
            self.send_header("Content-Length", str(len(body)))
            self.end_headers()
            self.wfile.write(body)

        def log_message(self, *_):
            pass

    server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Page)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    yield f"http://127.0.0.1:{server.server_port}/metrics"
    server.shutdown()
    server.server_close()


@pytest.mark.slow
def test_a_host_driven_overloaded_by_real_work_and_back(loaded, exporter, idle, tmp_path):
    """node_exporter says what this machine's CPUs do; the other two nodes' hosts are idle."""
    nodes = [
        {**node, "exporter": exporter if index == 0 else idle} for index, node in enumerate(loaded.config["nodes"])
    ]
    only_cpu = {**WEIGHTS, "cpu": 1, "memory": 0}
    load = {"busy": 0.4, "overloaded": 0.25, "floor": 0.0, "refresh": 1, "weights": only_cpu}
    lb = changed(loaded, nodes=nodes, load=load, lock_file=str(tmp_path / "lock"))
    node = loaded.nodes[0]

    def is_now(state):
        ask(lb)
        time.sleep(1.1)  # the exporter's rates need an interval
        return state_of(lb, node)["state"] == state

    eventually(lambda: is_now("ready"), 120)
    told = []
    held = lb.cluster.picker.acquire("movable", "k", node.address, (), options_of({"on_move": told.append}))
    burners = [subprocess.Popen([sys.executable, "-c", "while True: pass"]) for _ in range(2 * (os.cpu_count() or 1))]
    try:
        eventually(lambda: is_now("overloaded"), 60)
        assert {lb.get_host() for _ in range(6)} == {other.address for other in loaded.nodes[1:]}
        assert lb.pick(session_key="k").host != node.address
        eventually(lambda: told, 30)
    finally:
        for burner in burners:
            burner.kill()
            burner.wait()
    assert "is overloaded (headroom 0." in told[0]
    held.release()
    eventually(lambda: is_now("ready"), 120)
    assert node.address in {lb.get_host() for _ in range(9)}
