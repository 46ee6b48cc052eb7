"""Something on the way ends connections over which nothing passes for a while; a statement is planned for longer."""

import contextlib
import itertools
import re

import pytest

from airflow_provider_impala_lb import Balancer
from airflow_provider_impala_lb.core.config.parse import parse
from airflow_provider_impala_lb.errors import StatementFailed
from airflow_provider_impala_lb.impala.hs2.statement_lookup import MAX_SENDINGS
from airflow_provider_impala_lb.impala.script.record import ScriptDone
from airflow_provider_impala_lb.impala.sql.splitter import split
from airflow_provider_impala_lb.sandbox import Sandbox
from airflow_provider_impala_lb.stores.memory import MemoryStore
from tests.support.relay import Relay
from tests.support.scripts import script_run
from tests.support.servers import free_port
from tests.system.faults.node_pages import wait_until_over

PLANNING = 1.5
IDLE = 0.3
_number = itertools.count()


@pytest.fixture(scope="module")
def cluster():
    flags = {"stress_metadata_loading_pause_injection_ms": 1000 * PLANNING, "fe_service_threads": 512}
    with Sandbox(nodes=1, lag=0, users=None, flags=flags) as cluster:
        yield cluster


@contextlib.contextmanager
def balanced(cluster, *, web, reconnect_timeout=20.0):
    node = cluster.nodes[0]
    with Relay(node.host, node.port, idle=IDLE) as relay:
        # Nobody listens at the other: a web server that is off, or behind a firewall.
        listed = {
            "host": "127.0.0.1",
            "port": relay.port,
            "web": node.web if web else f"http://127.0.0.1:{free_port()}",
        }
        session = {"auth_mechanism": "NOSASL", "open_timeout": 5.0, "reconnect_timeout": reconnect_timeout}
        config = {**cluster.config, "nodes": [listed], "session": session}
        yield Balancer(parse(config), MemoryStore()), relay
        wait_until_over(node, relay)


def executions(cluster, mark):
    """(state, session) of each execution of a statement with this text, in the order of their ends."""
    return [(entry["state"], entry["session"]) for entry in cluster.nodes[0].journal() if mark in entry.get("sql", "")]


def fetched(cursor):
    return cursor.fetchall()


def marked():
    return f"mark_{next(_number)}"


def test_a_query_is_found_on_the_page_and_sent_once(cluster):
    mark = marked()
    with balanced(cluster, web=True) as (balancer, relay):
        script = script_run(balancer, split(f"SELECT '{mark}'"), handler=fetched)
        done = script.run()
    assert isinstance(done, ScriptDone)
    assert done.results == [[(mark,)]]
    assert relay.names().count("ExecuteStatement") == 1
    assert [state for state, _ in executions(cluster, mark)] == ["FINISHED"]


@pytest.mark.parametrize("reconnect_timeout", [6.0, pytest.param(600.0, marks=pytest.mark.slow)])
def test_without_a_page_the_sendings_are_counted(cluster, reconnect_timeout):
    """Each is in a session of its own, and the one before was closed first. That does not end one that is planned: it
    may come to its end (``SetQueryInflight``, impala-server.cc), so only their number keeps them from piling up."""
    mark = marked()
    with balanced(cluster, web=False, reconnect_timeout=reconnect_timeout) as (balancer, relay):
        script = script_run(balancer, split(f"SELECT '{mark}'"), handler=fetched)
        with pytest.raises(StatementFailed) as failed:
            script.run()
        sent = relay.names().count("ExecuteStatement")
    error = failed.value
    assert error.outcome == "not started"
    assert re.search(rf"it was sent {sent} times in \d+ s", str(error))
    assert "proxy or firewall" in str(error)
    assert 2 <= sent <= MAX_SENDINGS
    ended = executions(cluster, mark)
    assert len(ended) <= sent
    assert len({session for _, session in ended}) == len(ended)


@pytest.mark.slow
def test_without_a_page_a_cursor_sends_as_often_and_no_more(cluster):
    mark = marked()
    with balanced(cluster, web=False) as (balancer, relay):
        with (
            balancer.connect() as connection,
            connection.cursor() as cursor,
            pytest.raises(StatementFailed, match=r"it was sent \d times"),
        ):
            cursor.execute(f"SELECT '{mark}'")
        assert relay.names().count("ExecuteStatement") <= MAX_SENDINGS


@pytest.mark.parametrize("statement", ["REFRESH {}", "INSERT INTO {} SELECT 1"])
def test_other_statements_are_sent_once(cluster, statement):
    name = marked()
    with balanced(cluster, web=True) as (balancer, relay):
        script_run(balancer, split(f"CREATE TABLE {name} (n INT); {statement.format(name)}")).run()
        sent = [call for call in relay.calls if call.rpc == "ExecuteStatement"]
    assert len(sent) == 2
