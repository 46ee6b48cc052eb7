"""Who says that a node fails, and who believes it: hosts that are processes with a name of their own (UTS namespaces),
one of them refused everywhere by its kernel (seccomp), real coordinators, one lock file."""

import ctypes
import json
import os
import subprocess
import sys
from collections import Counter

import pytest

from airflow_provider_impala_lb import Balancer
from airflow_provider_impala_lb.sandbox import Sandbox
from tests.support.refusing import SUPPORTED
from tests.support.servers import eventually

HOST = """
import ctypes, errno, json, logging, socket, sys
name, config, is_refused = json.loads(sys.argv[1])
assert ctypes.CDLL(None, use_errno=True).unshare(0x04000000) == 0  # CLONE_NEWUTS
socket.sethostname(name)
logging.basicConfig(stream=sys.stderr)
from airflow_provider_impala_lb import Balancer
from airflow_provider_impala_lb.impala.sql.splitter import split
from tests.support.refusing import refuse
from tests.support.scripts import script_run
if is_refused:
    refuse("connect", errno.ECONNREFUSED)
balancer = Balancer.from_config(config)
print("ready", flush=True)
for line in sys.stdin:
    try:
        print(script_run(balancer, split("SELECT 1")).run().node, flush=True)
    except Exception as error:
        print(type(error).__name__, flush=True)
"""


class Host:
    """Runs a script when it is told to."""

    def __init__(self, name, config, directory, *, is_refused=False):
        self.errors = directory / f"{name}.log"
        self.process = subprocess.Popen(
            [sys.executable, "-c", HOST, json.dumps([name, config, is_refused])],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=self.errors.open("w"),
            text=True,
        )

    def is_ready(self):
        return self.process.stdout.readline() == "ready\n"

    def run(self):
        """The node that took it, or the error's name."""
        self.process.stdin.write("run\n")
        self.process.stdin.flush()
        return self.process.stdout.readline().strip()

    def close(self):
        self.process.stdin.close()
        self.process.wait(30)
        self.process.stdout.close()


@pytest.fixture
def hosts(tmp_path):
    if not SUPPORTED or os.geteuid() or ctypes.CDLL(None).unshare(0) != 0:
        pytest.skip("hosts' names: needs Linux on x86_64, and root")
    started = []
    with Sandbox(nodes=4, lag=0) as cluster:
        config = {**cluster.config, "lock_file": str(tmp_path / "lock"), "load": "off"}

        def start(*names, refused=()):
            found = [Host(name, config, tmp_path, is_refused=name in refused) for name in names]
            started.extend(found)
            assert all(host.is_ready() for host in found)
            return found

        start.cluster, start.status = cluster, Balancer.from_config(config).status
        yield start
        for host in started:
            host.close()


def states(hosts):
    return {entry["node"]: (entry["state"], entry["why"]) for entry in hosts.status()["nodes"]}


@pytest.mark.slow
def test_a_host_that_is_refused_everywhere_puts_no_node_out_for_the_others(hosts):
    good, other, bad = hosts("good", "other", "bad", refused=["bad"])
    good.run(), other.run()
    ran = Counter()
    for _ in range(8):
        assert bad.run() == "NoNodeAvailable"
        assert {state for state, _ in states(hosts).values()} == {"ready"}
        ran[good.run()] += 1
        ran[other.run()] += 1
    assert set(ran) == set(states(hosts)) and max(ran.values()) <= 8  # 16 scripts on 4 nodes
    assert "bad alone (connection refused" in str(states(hosts))
    assert "this host leaves it out" in bad.errors.read_text()


@pytest.mark.slow
def test_a_node_that_is_gone_is_out_for_all_by_two_words_and_back_by_one_success(hosts):
    one, two, three = hosts("one", "two", "three")
    for host in (one, two, three):
        host.run()
    node = hosts.cluster.nodes[0]
    node.kill()
    for host in (one, two):
        eventually(lambda host=host: host.run() and "connection refused" in host.errors.read_text())
    state, why = states(hosts)[node.address]
    assert state == "ejected" and "connection refused: it is down, or still starting (failure, said by one, two" in why
    assert node.address not in {three.run() for _ in range(8)}
    assert not three.errors.read_text()  # it has not even tried
    node.start()
    node.wait_ready()
    eventually(lambda: three.run() == node.address, 60)
    assert states(hosts)[node.address] == ("ready", None)
    assert {one.run() for _ in range(8)} == set(states(hosts))
