"""What a coordinator refuses for the time being, and what its rows are lost of."""

import socket

import pytest

from airflow_provider_impala_lb.errors import StatementFailed
from airflow_provider_impala_lb.impala.script import execution
from tests.support.resumed_scripts import executed
from tests.support.scripts import changed, rows_of, run

FULL = "Rejected query from pool root.default: queue full, limit=1, num_queued=1."


@pytest.fixture(autouse=True)
def short_pauses(monkeypatch):
    monkeypatch.setattr(execution, "_WAIT_FIRST", 0.05)


def test_a_full_queue_is_asked_again_in_the_same_session(pair, log):
    for node in pair.nodes:
        node.fail("admission", FULL, sql="SELECT 1", times=2)
    done = run(changed(pair), "SET MEM_LIMIT=1g; INSERT INTO t SELECT 1; SET", handler=rows_of)
    assert executed(pair)[-1] == ("INSERT INTO t SELECT 1", "FINISHED")
    assert [state for _, state in executed(pair)].count("FINISHED") == 1
    assert ["MEM_LIMIT", "1g"] in [list(row)[:2] for row in done.results[-1]]
    assert log.text.count("has to wait, and is sent again") == 2


def test_it_is_asked_for_no_longer_than_reconnect_timeout(pair):
    for node in pair.nodes:
        node.fail("admission", FULL, sql="SELECT 1")
    with pytest.raises(StatementFailed, match="queue full") as failed:
        run(changed(pair, session={"reconnect_timeout": 1}), "INSERT INTO t SELECT 1")
    assert failed.value.outcome == "not started"


def test_a_create_table_as_is_not(pair):
    for node in pair.nodes:
        node.fail("admission", FULL, sql="CREATE TABLE made")
    with pytest.raises(StatementFailed, match="queue full") as failed:
        run(changed(pair), "CREATE TABLE made AS SELECT 1 AS n")
    assert failed.value.outcome == "unknown"
    assert len(executed(pair, "CREATE TABLE made")) == 1


def test_connections_are_kept_alive(pair):
    with changed(pair).sessions.open(pair.nodes[0].address) as session:
        handle = session._client._connection._socket.handle
        assert handle.getsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE) == 1
        assert handle.getsockopt(socket.IPPROTO_TCP, socket.TCP_KEEPIDLE) == 60
