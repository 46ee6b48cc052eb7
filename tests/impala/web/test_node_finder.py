"""The coordinators that a real name server, or a coordinator's own page, names."""

import pytest

from airflow_provider_impala_lb.core.config.model import LoadConfig, NodeSource
from airflow_provider_impala_lb.errors import ConfigError
from airflow_provider_impala_lb.impala.web import node_finder
from airflow_provider_impala_lb.impala.web.node_finder import find_nodes
from tests.support.dns_server import NameServer
from tests.support.web_servers import page_server

SETTINGS = LoadConfig()


@pytest.fixture(scope="module")
def server():
    with NameServer("c.example") as server:
        yield server


@pytest.fixture(autouse=True)
def _quickly(monkeypatch):
    monkeypatch.setattr(node_finder, "SECONDS", 1.0)


def source(server, **keys):
    return NodeSource(dns="c.example", nameserver=server.address, **keys)


def test_all_addresses_of_a_name(server):
    server.records = {"A": ["10.0.0.2", "10.0.0.1"], "AAAA": ["fd00:0::11"]}
    expected = {"10.0.0.1:21050": "", "10.0.0.2:21050": "", "[fd00::11]:21050": ""}
    assert find_nodes(source(server), SETTINGS) == expected
    server.records = {"A": ["10.0.0.2"]}
    assert find_nodes(source(server, port=443, web_port=25000), SETTINGS) == {"10.0.0.2:443": "http://10.0.0.2:25000"}


def test_names_and_ports_of_srv_records():
    with NameServer("_hs2._tcp.c.example") as server:
        server.records = {"SRV": ["0 0 21050 Impala-1.c.example.", "0 0 21051 impala-2.c.example."]}
        found = find_nodes(NodeSource(dns="_hs2._tcp.c.example", nameserver=server.address, web_port=25000), SETTINGS)
    assert found == {
        "impala-1.c.example:21050": "http://impala-1.c.example:25000",
        "impala-2.c.example:21051": "http://impala-2.c.example:25000",
    }


def test_a_name_server_that_does_not_answer_well(server):
    server.records, server.broken = {}, True
    with pytest.raises(ConfigError, match="cannot be resolved"):
        find_nodes(source(server), SETTINGS)
    server.broken = False
    assert find_nodes(source(server), SETTINGS) == {}
    with pytest.raises(ConfigError, match="cannot be resolved"):
        find_nodes(NodeSource(dns="other.example", nameserver=server.address), SETTINGS)


def test_by_the_hosts_own_resolver():
    assert find_nodes(NodeSource(dns="localhost"), SETTINGS).keys() & {"127.0.0.1:21050", "[::1]:21050"}
    with pytest.raises(ConfigError, match="cannot be resolved"):
        find_nodes(NodeSource(dns="there-is-none.invalid"), SETTINGS)


def test_what_a_coordinator_names(impala_sandbox):
    node = impala_sandbox.nodes[0]
    settings = LoadConfig(web_auth="none")
    found = find_nodes(NodeSource(backends=node.web, port=node.port), settings)
    assert found == {f"127.0.0.1:{node.port}": found[f"127.0.0.1:{node.port}"]}
    assert found[f"127.0.0.1:{node.port}"].startswith("http://127.0.0.1:")


def test_executors_and_those_that_shut_down_are_not_named_and_no_page_leads_elsewhere():
    rows = [
        {"address": "a:27000", "is_coordinator": True, "is_quiescing": False, "webserver_url": "https://a:25001"},
        {"address": "b:27000", "is_coordinator": True, "is_quiescing": True, "webserver_url": "http://b:25000"},
        {"address": "e:27000", "is_coordinator": False, "is_quiescing": False, "webserver_url": "http://e:25000"},
        {"address": "d:27000", "is_coordinator": True, "is_quiescing": False, "webserver_url": "http://evil:80"},
        {"address": "f:27000", "is_coordinator": True, "is_quiescing": False},
    ]
    with page_server({"/backends?json": (200, {"backends": rows})}) as (url, _):
        found = find_nodes(NodeSource(backends=url), SETTINGS)
    assert found == {"a:21050": "https://a:25001", "d:21050": "http://d:80", "f:21050": ""}


@pytest.mark.parametrize("content", [[], {"backends": [{}]}, {"backends": 3}, "not JSON"])
def test_a_page_that_is_another_one(content):
    with (
        page_server({"/backends?json": (200, content)}) as (url, _),
        pytest.raises(ConfigError, match="not that of a coordinator's backends"),
    ):
        find_nodes(NodeSource(backends=url), SETTINGS)


def test_a_page_that_nobody_serves():
    with pytest.raises(ConfigError, match=r"http://127\.0\.0\.1:1"):
        find_nodes(NodeSource(backends="http://127.0.0.1:1"), SETTINGS)
