"""The command line and `Balancer` on a cluster whose nodes are found by a real name server."""

import json
from concurrent.futures import ThreadPoolExecutor

import pytest
import yaml

from airflow_provider_impala_lb import Balancer
from tests.support.command_line import lb
from tests.support.dns_server import NameServer


def test_nodes_that_are_found(tmp_path):
    config = tmp_path / "lb.yml"
    with NameServer("c.example") as server:
        server.records = {"A": ["10.0.0.1", "10.0.0.2"]}
        nodes = {"dns": "c.example", "nameserver": server.address, "refresh": 3600}
        config.write_text(yaml.safe_dump({"nodes": nodes, "lock_file": str(tmp_path / "node_in_use.tmp")}))
        picks = [lb("pick", config=config).stdout.strip() for _ in range(4)]
        assert picks == ["10.0.0.1:21050", "10.0.0.2:21050"] * 2
        assert server.asked == 2  # A and AAAA, by the first one
        server.records = {"A": ["10.0.0.2", "10.0.0.3"]}
        assert list(json.loads(lb("probe", "--json", config=config).stdout)) == ["10.0.0.2:21050", "10.0.0.3:21050"]
        status = json.loads(lb("status", "--json", config=config).stdout)
        assert [node["node"] for node in status["nodes"]] == ["10.0.0.2:21050", "10.0.0.3:21050"]
        assert status["source"]["name"] == "DNS name c.example"
        server.broken = True
        assert lb("probe", config=config).returncode == 0
        table = lb("status", config=config).stdout
        assert "DNS name c.example" in table and "cannot be resolved" in " ".join(table.split())


def test_threads_that_know_of_no_node_wait_for_the_one_that_asks(tmp_path):
    with NameServer("c.example") as server, ThreadPoolExecutor(8) as pool:
        server.records = {"A": ["10.0.0.1", "10.0.0.2"]}
        nodes = {"dns": "c.example", "nameserver": server.address}
        balancer = Balancer.from_config({"nodes": nodes, "lock_file": str(tmp_path / "node_in_use.tmp")})
        hosts = list(pool.map(lambda _: balancer.get_host(), range(8), timeout=20))
        assert set(hosts) == {"10.0.0.1:21050", "10.0.0.2:21050"}
        assert server.asked == 2


@pytest.mark.slow
def test_where_no_node_can_be_found_nothing_is_said_to_be_well(tmp_path):
    config = tmp_path / "lb.yml"
    with NameServer("c.example") as server:
        server.broken = True
        nodes = {"dns": "c.example", "nameserver": server.address}
        config.write_text(yaml.safe_dump({"nodes": nodes, "lock_file": str(tmp_path / "node_in_use.tmp")}))
        for command in ("pick", "doctor"):
            done = lb(command, config=config)
            assert done.returncode == 1
            assert "No coordinator of impala is known" in " ".join((done.stdout + done.stderr).split())
