"""Requests that arrive after they were given up and made again: a coordinator that stood still for a while, or a
network that did, carries out both, in any order, between whatever the script does next."""

import itertools
import threading

import pytest

from airflow_provider_impala_lb import Balancer
from airflow_provider_impala_lb.core.config.parse import parse
from airflow_provider_impala_lb.impala.script.record import ScriptDone
from airflow_provider_impala_lb.sandbox import Sandbox
from airflow_provider_impala_lb.stores.memory import MemoryStore
from tests.support.relay import Fault, Relay
from tests.system.faults.judge import Step, attempt
from tests.system.faults.node_pages import wait_until_over

pytestmark = pytest.mark.slow

LIMITS = {"open_timeout": 1.0, "rpc_timeout": 1.0, "reconnect_timeout": 8.0}
LATE = 1.1
QUERY = "SELECT CAST(10 * a.d + b.d AS INT) AS n FROM digits a CROSS JOIN digits b ORDER BY n"
_number = itertools.count()


@pytest.fixture(scope="module")
def cluster():
    with Sandbox(nodes=1, lag=0, users=None) as cluster:
        digits = ", ".join(f"({d})" for d in range(10))
        execute(cluster, "CREATE TABLE digits (d INT)", f"INSERT INTO digits VALUES {digits}")
        yield cluster


def execute(cluster, *statements):
    with Balancer.from_config(cluster.config).connect() as connection, connection.cursor() as cursor:
        for sql in statements:
            cursor.execute(sql)
        return cursor.fetchall() if cursor.description else None


def run(cluster, sqls, faults):
    node, name = cluster.nodes[0], f"late{next(_number)}"
    with Relay(node.host, node.port, faults=faults) as relay:
        listed = [{"host": "127.0.0.1", "port": relay.port, "web": node.web}]
        config = {**cluster.config, "nodes": listed, "session": LIMITS}
        ran = attempt(Balancer(parse(config), MemoryStore()), name, [Step(sql) for sql in sqls], 30)
        wait_until_over(node, relay)
    return ran


def late(rpc, nth):
    return [Fault(rpc, nth, "before", "delay", LATE)]


def test_a_late_use_does_not_send_rows_to_another_database(cluster):
    execute(
        cluster,
        "CREATE DATABASE one",
        "CREATE DATABASE two",
        "CREATE TABLE one.t (n INT)",
        "CREATE TABLE two.t (n INT)",
    )
    script = ["USE one", "USE two", "INSERT INTO t SELECT 1 WHERE sleep(500)", "INSERT INTO t SELECT 2"]
    ran = run(cluster, script, late("ExecuteStatement", 1))
    assert execute(cluster, "SELECT n FROM one.t") == [], str(ran)
    assert execute(cluster, "SELECT n FROM two.t ORDER BY n") == [(1,), (2,)][: len(ran.reported) - 2], str(ran)


def test_a_late_set_does_not_change_an_option_back(cluster):
    script = ["SET MT_DOP=1", "SET MT_DOP=2", "SELECT sleep(500)", "SET"]
    ran = run(cluster, script, late("ExecuteStatement", 1))
    if isinstance(ran.ended, ScriptDone):
        assert {name: value for name, value, _ in ran.ended.results[3]}["MT_DOP"] == "2"


@pytest.mark.parametrize("nth", [1, 2, 3])
def test_a_late_fetch_takes_no_rows_away(cluster, nth):
    """It takes a batch that nobody receives; the call after the one that was made again waits for it here."""
    faults = [*late("FetchResults", nth), Fault("FetchResults", nth + 2, "before", "delay", 0.5)]
    ran = run(cluster, [QUERY], faults)
    if isinstance(ran.ended, ScriptDone):
        assert ran.ended.results == [[(n,) for n in range(100)]]


@pytest.mark.parametrize("nth", [1, 2] * 4)
def test_rows_are_all_there_after_a_coordinator_stood_still(cluster, nth):
    """Which of the two requests it reads first is left to chance."""
    node = cluster.nodes[0]
    threads = []

    def decide(call):
        if (call.rpc, call.nth) == ("FetchResults", nth):
            node.pause()
            threads.append(threading.Timer(LATE, node.resume))
            threads[0].start()

    try:
        ran = run(cluster, [QUERY], decide)
    finally:
        for thread in threads:
            thread.join()
        node.resume()
    assert isinstance(ran.ended, ScriptDone), str(ran)
    assert ran.ended.results == [[(n,) for n in range(100)]]
