"""Statements that are planned for longer than a fault lasts: the node knows of them before they have a handle."""

import itertools
import time

import pytest

from airflow_provider_impala_lb import Balancer
from airflow_provider_impala_lb.core.config.parse import parse
from airflow_provider_impala_lb.impala.script.record import ScriptDone
from airflow_provider_impala_lb.sandbox import Sandbox
from airflow_provider_impala_lb.stores.memory import MemoryStore
from tests.support.relay import Fault, Relay
from tests.system.faults.judge import Evidence, Step, attempt, faults_of
from tests.system.faults.node_pages import wait_until_over

pytestmark = pytest.mark.slow

PAUSE = 0.4
FAULTS = [
    *itertools.product(["before", "request_half", "after", "within"], ["cut", "reset", "blackhole"], [0.0]),
    *itertools.product(["before", "request_half"], ["delay"], [1.1]),
]
_number = itertools.count()


@pytest.fixture(scope="module")
def cluster():
    flags = {"stress_metadata_loading_pause_injection_ms": 1000 * PAUSE, "fe_service_threads": 512}
    with Sandbox(nodes=1, lag=0, flags=flags, users=None) as cluster:
        # An absent statement proves nothing on a coordinator that may be younger than the sending; how long ago that
        # was is known to within the planning of one more statement.
        time.sleep(3 * PAUSE + 1)
        yield cluster


def run(cluster, faults, rpc_timeout):
    """A script whose statement 2 meets the fault; (run, relay, evidence)."""
    node, name = cluster.nodes[0], f"p{next(_number)}"
    steps = [
        Step(f"CREATE TABLE {name} (n INT)", changes=True, rows=[("Table has been created.",)]),
        Step(f"INSERT INTO {name} SELECT 1", changes=True, modified=1),
        Step(f"INSERT INTO {name} SELECT 2", changes=True, modified=1),
        Step(f"SELECT n FROM {name} ORDER BY n", rows=[(1,), (2,)]),
    ]
    with Relay(node.host, node.port, faults=faults) as relay:
        session = {"open_timeout": 1.0, "rpc_timeout": rpc_timeout, "reconnect_timeout": 5.0}
        listed = [{"host": "127.0.0.1", "port": relay.port, "web": node.web}]
        balancer = Balancer(parse({**cluster.config, "nodes": listed, "session": session}), MemoryStore())
        ran = attempt(balancer, name, steps, 60)
        wait_until_over(node, relay)
    return ran, relay, Evidence(cluster.nodes)


@pytest.fixture(scope="module")
def results(cluster):
    return {}


def result(results, cluster, where, how, seconds):
    if (where, how) not in results:
        fault = Fault("ExecuteStatement", 2, where, how, seconds)
        results[where, how] = run(cluster, [fault], rpc_timeout=1.0)
    return results[where, how]


@pytest.mark.parametrize(("where", "how", "seconds"), FAULTS)
def test_it_is_safe(results, cluster, where, how, seconds):
    ran, relay, evidence = result(results, cluster, where, how, seconds)
    assert relay.fired
    assert not faults_of(ran, evidence), f"{faults_of(ran, evidence)}: {ran}"


@pytest.mark.parametrize(("where", "how", "seconds"), [each for each in FAULTS if each[1] != "delay"])
def test_it_ends_well(results, cluster, where, how, seconds):
    ran, _, _ = result(results, cluster, where, how, seconds)
    assert isinstance(ran.ended, ScriptDone), str(ran)


def test_planning_that_takes_longer_than_the_timeout_is_safe(cluster):
    """No call to run a statement is answered in time. How this ends is not for a test to say, but that it ends is."""
    ran, _, evidence = run(cluster, [], rpc_timeout=PAUSE / 2)
    assert not faults_of(ran, evidence), f"{faults_of(ran, evidence)}: {ran}"
