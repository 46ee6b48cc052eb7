"""What an earlier attempt may have left running where nodes are found: also on those that are not found any more."""

import time
from logging import getLogger

import pytest

from airflow_provider_impala_lb import Balancer
from airflow_provider_impala_lb.errors import StillRunning
from airflow_provider_impala_lb.impala.previous.leftover_sessions import LeftoverSessions
from tests.support.dns_server import NameServer


@pytest.fixture
def asked(monkeypatch):
    """Which nodes were asked; each tells that nothing runs there."""
    found = []

    def end_labelled(_, address, own):
        found.append(address)

    monkeypatch.setattr(LeftoverSessions, "_end_labelled", end_labelled)
    return found


def leftovers_of(balancer):
    return LeftoverSessions(balancer.cluster, balancer.sessions, time.sleep, getLogger("test"))


def test_a_node_that_is_not_found_any_more_is_asked_too(tmp_path, asked):
    with NameServer("c.example") as server:
        server.records = {"A": ["10.0.0.1", "10.0.0.2"]}
        nodes = {"dns": "c.example", "nameserver": server.address}
        balancer = Balancer.from_config({"nodes": nodes, "lock_file": str(tmp_path / "node_in_use.tmp")})
        balancer.get_host()
        server.records = {"A": ["10.0.0.2"]}
        balancer.cluster.discovery.look(now_anyway=True)
        assert balancer.config.addresses == ("10.0.0.2:21050",)
        assert leftovers_of(balancer).end_unrecorded("dag/run/task", is_known=False)
        assert sorted(asked) == ["10.0.0.1:21050", "10.0.0.2:21050"]


def test_where_no_node_is_known_nothing_is_taken_for_ended(tmp_path, asked):
    nodes = {"dns": "there-is-none.invalid"}
    balancer = Balancer.from_config({"nodes": nodes, "lock_file": str(tmp_path / "node_in_use.tmp")})
    with pytest.raises(StillRunning, match="no coordinator is known"):
        leftovers_of(balancer).end_unrecorded("dag/run/task", is_known=False)
