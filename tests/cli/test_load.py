"""probe, report, pick and hold on the command line, with reports: real processes, real coordinators."""

import json
import time

import pytest
import yaml

from airflow_provider_impala_lb.sandbox import Sandbox
from tests.support.command_line import lb


@pytest.fixture(scope="module")
def cluster():
    with Sandbox(nodes=2, lag=0) as cluster:
        yield cluster


@pytest.fixture
def config(cluster, tmp_path):
    def write(**keys):
        path = tmp_path / "impala_lb.yml"
        raw = {**cluster.config, "lock_file": str(tmp_path / "lock"), **keys}
        path.write_text(yaml.safe_dump({key: value for key, value in raw.items() if value is not None}))
        return path

    return write


def nodes(config):
    return json.loads(lb("status", "--json", config=config).stdout)["nodes"]


def test_probe_asks_all_nodes_and_notes_what_they_say(cluster, config):
    path = config(load={})
    cluster.nodes[0].set_load(memory=0.25)
    found = json.loads(lb("probe", "--json", config=path).stdout)
    assert set(found) == {node.address for node in cluster.nodes}
    assert found[cluster.nodes[0].address]["sample"]["shares"]["memory"] == pytest.approx(0.75, abs=0.01)
    assert nodes(path)[0]["report"]["shares"]["memory"] == pytest.approx(0.75, abs=0.01)
    assert nodes(path)[0]["headroom"] is not None
    table = lb("probe", config=path).stdout
    assert "0.75" in table and "memory" in table
    again = lb("probe", "--if-due", config=path)
    assert again.returncode == 0 and "have been asked a moment ago" in again.stderr
    cluster.nodes[0].set_load()


def test_a_node_that_does_not_answer_is_said(cluster, config):
    path = config(load={}, nodes=[{"host": "127.0.0.1", "port": 1, "web": "http://127.0.0.1:1"}])
    assert "127.0.0.1:1" in lb("probe", config=path).stdout
    assert "refused" in json.dumps(nodes(path)[0]["report"]["failed"])


def test_report_is_an_agents_word_on_a_node(cluster, config):
    path = config(load={})
    address = cluster.nodes[1].address
    for _ in range(2):
        told = lb("report", address, "--json", '{"queries": 5, "shares": {"cpu": 0.15}}', config=path)
        assert told.returncode == 0, told.stderr
    found = next(node for node in nodes(path) if node["node"] == address)
    assert (found["state"], found["load"], found["headroom"]) == ("busy", 5, 0.15)
    assert {lb("pick", config=path).stdout.strip() for _ in range(3)} == {cluster.nodes[0].address}


@pytest.mark.parametrize(
    ("arguments", "says"),
    [
        (("127.0.0.1:9", "--json", "{}"), "'127.0.0.1:9' is not a node of sandbox"),
        (("a node", "--json", '{"shares": {"cpu": 7}}'), "report: shares.cpu: 7 is not a number within 0 and 1"),
        (("a node", "--json", "{"), "report: is not JSON"),
    ],
)
def test_a_wrong_report_is_one_clear_error(cluster, config, arguments, says):
    node, *rest = arguments
    done = lb("report", cluster.nodes[0].address if node == "a node" else node, *rest, config=config(load={}))
    assert done.returncode == 1 and says in done.stderr


def test_where_load_is_off_a_report_is_refused(cluster, config):
    done = lb("report", cluster.nodes[0].address, "--json", "{}", config=config(load="off"))
    assert done.returncode == 1 and "load: is off in the configuration" in done.stderr
    assert "load: is off" in lb("probe", config=config(load="off")).stderr


def test_a_pick_has_the_nodes_asked_and_does_not_wait_for_it(cluster, config):
    path = config(load={})
    assert lb("pick", config=path).stdout.strip()
    end = time.monotonic() + 60
    while nodes(path)[0]["headroom"] is None:
        assert time.monotonic() < end
        time.sleep(0.1)


def test_a_lease_is_held_and_released_by_its_id(cluster, config):
    path = config(max_leases=1, max_wait=0.3)
    held = json.loads(lb("pick", "--hold", "60", "--json", config=path).stdout)
    assert set(held) == {"host", "node", "why", "lease"}
    full = lb("pick", "--hold", "60", config=path)
    assert full.returncode == 1 and "2 nodes, 2 full; waited" in full.stderr
    assert lb("release", held["lease"], config=path).returncode == 0
    gone = lb("release", held["lease"], config=path)
    assert gone.returncode == 1 and "there is no lease" in gone.stderr
    host, lease = lb("pick", "--hold", "0.5", config=path).stdout.split()
    assert host in {node.address for node in cluster.nodes} and lease
    time.sleep(0.6)
    assert lb("pick", "--hold", "1", config=path).returncode == 0  # the one before has expired
    assert "must be above 0" in lb("pick", "--hold", "0", config=path).stderr
