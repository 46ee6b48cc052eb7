"""Coordinators that are down, silent, full, draining or strange; hosts to stick to that are gone; who is left out."""

import socket
import threading
import time

import pytest

from airflow_provider_impala_lb.errors import NoNodeAvailable, StatementFailed
from airflow_provider_impala_lb.impala.script import metadata_sync
from airflow_provider_impala_lb.impala.script.upstream import Upstream
from tests.support.scripts import changed, left_out, patient, run, statements_on


def test_nodes_that_are_down_or_silent_are_skipped(four, log):
    four.nodes[0].kill()
    four.nodes[1].pause()
    start = time.monotonic()
    done = run(patient(four), "SELECT 1")
    assert done.node == four.nodes[2].address
    assert time.monotonic() - start < 2 * 2
    down, silent = left_out(log)
    assert "connection refused: it is down" in down
    assert "stayed silent for 2 s: it is full, or stopped" in silent
    assert "left out" in done.why
    assert not [record for record in log.records if record.name.startswith(("impala.", "thrift."))]  # one line says it


@pytest.mark.slow
def test_a_node_that_is_full_is_skipped(four, log):
    held = [socket.create_connection((four.nodes[0].host, four.nodes[0].port)) for _ in range(4)]
    try:
        time.sleep(0.2)
        done = run(patient(four), "SELECT 1")
    finally:
        for connection in held:
            connection.close()
    assert done.node == four.nodes[1].address
    assert "full, or stopped" in left_out(log)[0]


def test_a_node_that_shuts_down_is_skipped(four, log):
    four.nodes[0].drain()
    done = run(patient(four), "SELECT 1")
    assert done.node == four.nodes[1].address
    assert "Server is being shut down" in left_out(log)[0]


@pytest.mark.slow
def test_a_node_that_is_not_impala_is_skipped(four, log):
    with socket.create_server(("127.0.0.1", 0)) as server:
        threading.Thread(target=lambda: server.accept()[0].close(), daemon=True).start()
        config = four.config
        nodes = [{"host": "127.0.0.1", "port": server.getsockname()[1]}, *config["nodes"]]
        done = run(patient(four, nodes=nodes), "SELECT 1")
    assert done.node == four.nodes[0].address
    assert "closed the connection before a session was open" in left_out(log)[0]


def test_a_node_that_refuses_the_first_statement_is_left_and_nothing_is_run_twice(four):
    """Draining begins between the session and its first real statement; SET and USE before it do not count."""
    balancer = patient(four)
    opened = []

    def drain_the_first(pick, session):
        opened.append(pick.node)
        if len(opened) == 1:
            next(node for node in four.nodes if node.address == pick.node).drain()

    done = run(balancer, "SET MEM_LIMIT=1g; CREATE TABLE once (a INT)", on_session=drain_the_first)
    assert opened == [four.nodes[0].address, four.nodes[1].address]
    assert done.node == opened[1]
    assert sum("CREATE" in sql for node in four.nodes for sql in statements_on(node)) == 1


@pytest.mark.slow
def test_a_node_that_refuses_a_later_statement_fails_the_script(four):
    four_nodes = {node.address: node for node in four.nodes}
    balancer = patient(four)
    picked = []

    def drain(done):
        if done.number == 2:
            four_nodes[picked[0].node].drain()

    with pytest.raises(StatementFailed) as caught:
        run(
            balancer,
            "CREATE TABLE later (a INT); INSERT INTO later VALUES (1); INSERT INTO later VALUES (2)",
            on_session=lambda pick, _: picked.append(pick),
            on_statement=drain,
        )
    assert (caught.value.number, caught.value.outcome) == (3, "not started")
    assert len(picked) == 1


def test_when_all_are_bad_the_error_says_why_for_each(four):
    four.nodes[0].kill()
    four.nodes[1].drain()
    four.nodes[2].pause()
    with pytest.raises(NoNodeAvailable) as caught:
        run(patient(four), "SELECT 1")
    assert "nothing was run" in str(caught.value)
    reasons = list(caught.value.reasons.values())
    assert [word in reason for word, reason in zip(("refused", "shut down", "silent"), reasons, strict=True)] == [
        True
    ] * 3


@pytest.mark.parametrize("ago", [pytest.param(1, marks=pytest.mark.slow), 60])
def test_stick_move_waits_whatever_the_upstreams_clock_says(four, log, monkeypatch, ago):
    monkeypatch.setattr(metadata_sync, "MOVE_SECONDS", 2.0)
    four.nodes[1].kill()
    start = time.monotonic()
    done = run(
        patient(four),
        "SELECT 1",
        prefer=four.nodes[1].address,
        upstream=Upstream(host=four.nodes[1].address, ended=time.time() - ago),
    )
    assert done.node != four.nodes[1].address
    assert 1.9 < time.monotonic() - start < 4
    assert any("waiting 2.0 s for what the script on" in record.getMessage() for record in log.records)


def test_stick_fail(four):
    four.nodes[1].kill()
    with pytest.raises(NoNodeAvailable, match="on_unavailable is 'fail'") as caught:
        run(patient(four), "SELECT 1", prefer=four.nodes[1].address, on_unavailable="fail")
    assert list(caught.value.reasons) == [four.nodes[1].address]


@pytest.mark.slow
def test_stick_wait(four):
    node = four.nodes[1]
    node.kill()
    timer = threading.Timer(1.0, node.start)
    timer.start()
    done = run(patient(four), "SELECT 1", prefer=node.address, on_unavailable="wait")
    timer.join()
    assert done.node == node.address


@pytest.mark.slow
def test_stick_wait_has_a_limit(four):
    four.nodes[1].kill()
    balancer = changed(four, session={"reconnect_timeout": 0.5})
    with pytest.raises(NoNodeAvailable, match=r"did not take the script within 0\.5 s"):
        run(balancer, "SELECT 1", prefer=four.nodes[1].address, on_unavailable="wait")


def test_a_node_that_failed_is_left_out_by_the_next_scripts_without_a_try(four, log):
    four.nodes[0].kill()
    balancer = patient(four)
    run(balancer, "SELECT 1")
    assert len(left_out(log)) == 1
    log.clear()
    hosts = {run(patient(four), "SELECT 1").node for _ in range(4)}  # as other workers
    assert hosts == {four.nodes[1].address, four.nodes[2].address}
    assert left_out(log) == []
    states = {node["node"]: node["state"] for node in balancer.status()["nodes"]}
    assert states[four.nodes[0].address] == "ejected"


def test_a_node_that_is_back_is_tried_by_one_script_and_then_used_by_all(four):
    from airflow_provider_impala_lb.core.state.state import State

    four.nodes[0].kill()
    balancer = patient(four)
    run(balancer, "SELECT 1")
    four.nodes[0].start()

    def cool_down_is_over(state: State, now: float) -> None:
        record = state.nodes[four.nodes[0].address]
        for each in (record.ejection, *record.suspicions.values()):
            each.until = now

    balancer.cluster.store.transact(cool_down_is_over)
    done = [run(balancer, "SELECT 1") for _ in range(6)]
    tried = [entry for entry in done if "(on trial)" in entry.why]
    assert [entry.node for entry in tried] == [four.nodes[0].address]
    assert sum(entry.node == four.nodes[0].address for entry in done) == 2
    assert {node["state"] for node in balancer.status()["nodes"]} == {"ready"}


def test_a_silent_node_is_busy_and_one_that_shuts_down_is_draining(four):
    four.nodes[0].pause()
    four.nodes[1].drain()
    balancer = patient(four)
    run(balancer, "SELECT 1")
    assert [node["state"] for node in balancer.status()["nodes"]] == ["busy", "drain", "ready"]
    four.nodes[0].resume()


def test_a_host_to_stick_to_that_is_drained_is_not_used(four, log, monkeypatch):
    monkeypatch.setattr(metadata_sync, "MOVE_SECONDS", 0.0)
    balancer = patient(four)
    balancer.drain(four.nodes[1].address)
    done = run(balancer, "SELECT 1", prefer=four.nodes[1].address)
    assert done.node != four.nodes[1].address
    assert "drained by an operator" in left_out(log)[0]
    with pytest.raises(NoNodeAvailable, match="drained by an operator"):
        run(balancer, "SELECT 1", prefer=four.nodes[1].address, on_unavailable="fail")
    assert balancer.status()["leases"] == []


@pytest.mark.slow
def test_a_script_that_failed_is_tried_elsewhere_next_time(four):
    balancer = patient(four)
    with pytest.raises(StatementFailed) as caught:
        run(balancer, "SELECT * FROM not_there_yet", owner="dag/run/task")
    hosts = {run(balancer, "SELECT 1", owner="dag/run/task").node for _ in range(4)}
    assert caught.value.node not in hosts
    assert caught.value.node in {run(balancer, "SELECT 1", owner="dag/run/other").node for _ in range(4)}
