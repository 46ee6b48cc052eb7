"""A coordinator that has run a statement, could not say so, and is another process when it is asked: it knows nothing
of the statement, the session or the handles, and that proves nothing."""

import json
import re
import threading

import pytest

from airflow_provider_impala_lb import Balancer
from airflow_provider_impala_lb.core.config.parse import parse
from airflow_provider_impala_lb.sandbox import Sandbox
from airflow_provider_impala_lb.stores.memory import MemoryStore
from tests.support.relay import Fault, Relay
from tests.support.servers import eventually
from tests.system.faults.judge import Evidence, Step, attempt, faults_of
from tests.system.faults.node_pages import wait_until_over

pytestmark = pytest.mark.slow

LIMITS = {"open_timeout": 1.0, "rpc_timeout": 1.0, "reconnect_timeout": 8.0}


@pytest.fixture(scope="module")
def cluster():
    with Sandbox(nodes=1, lag=0, users=None) as cluster:
        yield cluster


def balancer_over(cluster, relay, web=True):
    node = cluster.nodes[0]
    listed = {"host": "127.0.0.1", "port": relay.port, **({"web": node.web} if web else {})}
    session = {"auth_mechanism": "NOSASL", **LIMITS}
    return Balancer(parse({**cluster.config, "nodes": [listed], "session": session}), MemoryStore())


def script(name):
    return [
        Step(f"CREATE TABLE {name} (n INT)", changes=True, rows=[("Table has been created.",)]),
        Step(f"INSERT INTO {name} VALUES (1)", changes=True, modified=1),
        Step(f"INSERT INTO {name} VALUES (2), (3)", changes=True, modified=2),
        Step(f"SELECT count(*) FROM {name}", rows=[(3,)]),
    ]


@pytest.mark.parametrize("web", [True, False], ids=["web", "no_web"])
@pytest.mark.parametrize("how", ["cut", "blackhole"])
@pytest.mark.parametrize("statement", [1, 3])
@pytest.mark.parametrize("rpc", ["ExecuteStatement", "GetOperationStatus", "CloseImpalaOperation"])
def test_what_ran_before_the_restart_is_not_said_to_be_not_started(cluster, rpc, statement, how, web):
    node, name = cluster.nodes[0], f"{rpc}_{statement}_{how}_{web}".lower()
    label = re.compile(rf"/\* lb:[0-9a-f]{{16}} own:[0-9a-f]{{16}} {statement}/4 dag={name}\b")
    threads, over = [], threading.Event()

    def has_run():
        lines = node.journal_file.read_text().splitlines()
        return any(label.match(json.loads(line).get("sql", "")) for line in lines)

    def restart():
        eventually(lambda: has_run() or over.is_set(), 20)
        node.kill()
        node.start()
        relay.up()

    def decide(call):
        if threads or call.rpc != rpc or call.statement != statement:
            return None
        relay.down()  # whoever connects anew meets the new process
        threads.append(threading.Thread(target=restart))
        threads[0].start()
        # So that the reply is there already when the connection ends.
        return Fault(call.rpc, where="within", how=how)

    with Relay(node.host, node.port, faults=decide) as relay:
        try:
            ran = attempt(balancer_over(cluster, relay, web), name, script(name), 30)
        finally:
            over.set()
            for thread in threads:
                thread.join(60)
            wait_until_over(node, relay)
    assert relay.fired
    found = faults_of(ran, Evidence(cluster.nodes))
    assert not found, f"{found}: {ran}"


@pytest.mark.parametrize("where", ["before", "after"])
@pytest.mark.parametrize("how", ["cut", "reset", "blackhole"])
def test_a_node_that_is_stopped_meanwhile_is_waited_for(cluster, where, how):
    """It goes on with what it has in its hands: after SIGCONT the request is read, by a process that also answers on
    its web page, and nobody can tell which comes first."""
    node, name = cluster.nodes[0], f"stopped_{where}_{how}"
    timers = []

    def decide(call):
        if (call.rpc, call.nth) != ("ExecuteStatement", 3):
            return None
        node.pause()
        timers.append(threading.Timer(2.0, node.resume))
        timers[0].start()
        return Fault(call.rpc, where=where, how=how)

    with Relay(node.host, node.port, faults=decide) as relay:
        try:
            ran = attempt(balancer_over(cluster, relay), name, script(name), 30)
        finally:
            for timer in timers:
                timer.join()
            node.resume()
            wait_until_over(node, relay)
    assert timers
    found = faults_of(ran, Evidence(cluster.nodes))
    assert not found, f"{found}: {ran}"
