"""A cluster behind a name in DNS that grows and shrinks under load: real coordinators, name server and processes."""

from __future__ import annotations

import collections
import json
import subprocess
import sys
import threading
import time
from contextlib import ExitStack

import pytest

from airflow_provider_impala_lb.sandbox import Sandbox
from tests.support.dns_server import NameServer

pytestmark = pytest.mark.slow

REFRESH = 2.0
PROCESSES, THREADS = 3, 8
WORKER = """
import json, sys, threading, time
from airflow_provider_impala_lb import Balancer
config, threads = json.loads(sys.argv[1]), int(sys.argv[2])
balancer = Balancer.from_config(config)
over, lock = threading.Event(), threading.Lock()
def work():
    while not over.is_set():
        begun = time.time()
        try:
            connection = balancer.connect("load")
            host = connection.pick.host
            picked = time.time()
            with connection, connection.cursor() as cursor:
                cursor.execute("SELECT sleep(300)")
                cursor.fetchall()
            line = {"at": picked, "host": host, "ended": time.time()}
        except Exception as error:
            line = {"at": begun, "failed": f"{type(error).__name__}: {error}"}
        with lock:
            print(json.dumps(line), flush=True)
workers = [threading.Thread(target=work) for _ in range(threads)]
for each in workers: each.start()
sys.stdin.readline()
over.set()
for each in workers: each.join()
"""


class Load:
    """Scripts of 0.3 s, one after the other, in each thread of some processes."""

    def __init__(self, config, stack):
        self.lines, self._readers = [], []
        self._processes = [
            subprocess.Popen(
                [sys.executable, "-c", WORKER, json.dumps(config), str(THREADS)],
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                text=True,
            )
            for _ in range(PROCESSES)
        ]
        stack.callback(self._kill)
        for process in self._processes:
            self._readers.append(threading.Thread(target=self._read, args=(process,)))
            self._readers[-1].start()

    def _read(self, process):
        for line in process.stdout:
            self.lines.append(json.loads(line))

    def _kill(self):
        for process in self._processes:
            process.kill()
            process.wait()
        for reader in self._readers:
            reader.join()

    def stop(self):
        for process in self._processes:
            process.stdin.write("\n")
            process.stdin.flush()
        for process in self._processes:
            assert process.wait(60) == 0

    def picked(self, begin, end):
        return collections.Counter(line["host"] for line in self.lines if begin <= line["at"] < end and "host" in line)


@pytest.mark.parametrize("policy", ["least_loaded", "round_robin"])
def test_a_cluster_that_grows_from_five_to_eight_and_shrinks_to_four(tmp_path, policy):
    with ExitStack() as stack:
        cluster = stack.enter_context(Sandbox(nodes=8, lag=0, users=None))
        server = stack.enter_context(NameServer("_hs2._tcp.c.example"))

        def name(nodes):
            server.records = {"SRV": [f"0 0 {node.port} localhost." for node in nodes]}
            return time.time(), {f"localhost:{node.port}" for node in nodes}

        _, five = name(cluster.nodes[:5])
        config = {
            "nodes": {"dns": server.name.rstrip("."), "nameserver": server.address, "refresh": REFRESH},
            "lock_file": str(tmp_path / "node_in_use.tmp"),
            "policy": policy,
            "session": {"auth_mechanism": "NOSASL"},
        }
        load = Load(config, stack)
        began = time.time()
        time.sleep(6 + 2 * REFRESH)
        grown, eight = name(cluster.nodes)
        time.sleep(4 * REFRESH)
        shrunk, four = name(cluster.nodes[2:6])
        time.sleep(4 * REFRESH)
        end = time.time()
        load.stop()
        failed = [line["failed"] for line in load.lines if "failed" in line]
        assert not failed, failed[:3]
        assert set(load.picked(began, grown)) == five
        joined = load.picked(grown, shrunk)
        assert set(joined) == eight
        even(load.picked(grown + 2 * REFRESH, shrunk), eight)
        even(load.picked(shrunk + 2 * REFRESH, end), four)  # and nothing on a node that is gone
        # No burst onto those that have just joined: in no half second they got more than twice their share.
        for step in range(int(2 * (shrunk - grown))):
            part = load.picked(grown + step / 2, grown + step / 2 + 0.5)
            new = sum(part[host] for host in eight - five)
            assert new <= max(8, 2 * sum(part.values()) * 3 / 8), part
        assert server.asked < 2 * (end - began) / REFRESH + 5  # by one process for all


def even(picked, hosts):
    assert set(picked) == hosts
    mean = sum(picked.values()) / len(hosts)
    assert all(abs(count - mean) <= max(0.25 * mean, 4) for count in picked.values()), picked
