"""Real processes on one store: no update is lost, whoever is killed."""

import os
import random
import threading
import time

import pytest

from airflow_provider_impala_lb import Balancer
from airflow_provider_impala_lb.core.config.parse import parse
from tests.support.components import SERVERS
from tests.support.crews import exit_code, patient_store
from tests.support.sizes import SEED, sizes

NODES = 30


def config(host, policy="round_robin"):
    return {"name": "race", "nodes": [f"n{i}" for i in range(NODES)], "policy": policy, **host}


@pytest.fixture(params=["file", *SERVERS])
def hosts(request, tmp_path):
    """What two hosts say of their common store: two paths, as they mount one share, or one server."""
    if request.param == "redis":
        return [{"store": request.getfixturevalue("redis").url}] * 2
    if request.param == "cluster":
        return [{"store": request.getfixturevalue("redis_cluster")}] * 2
    if request.param == "gluster":
        return [{"lock_file": str(host / "node_in_use.tmp")} for host in request.getfixturevalue("gluster")]
    (tmp_path / "share").mkdir()
    for host in ("host1", "host2"):
        (tmp_path / host).symlink_to(tmp_path / "share")
    return [{"lock_file": str(tmp_path / host / "node_in_use.tmp")} for host in ("host1", "host2")]


def balancer_of(host, policy="round_robin"):
    checked = parse(config(host, policy))
    return Balancer(checked, patient_store(checked))


def pick_many(acks, worker, host, picks):
    balancer = balancer_of(host)
    for _ in range(picks):
        node = int(balancer.get_host().removeprefix("n").split(":")[0])
        acks[worker * NODES + node] += 1


def handed_out(crew):
    return [sum(crew.acks[slot] for slot in range(node, len(crew.acks), NODES)) for node in range(NODES)]


def counted(host):
    status = balancer_of(host).status()
    return [node["picks"] for node in status["nodes"]]


def test_round_robin_is_exact_over_two_hosts_of_eight_processes(crew, hosts):
    for worker in range(16):
        crew.start(pick_many, worker, hosts[worker % 2], 3000 // 16 + (worker < 3000 % 16))
    crew.join()
    assert handed_out(crew) == [100] * NODES
    assert counted(hosts[0]) == [100] * NODES


@pytest.mark.parametrize("kills", sizes("KILLS"))
def test_killed_pickers_lose_nothing_and_leave_no_lock(crew, hosts, kills):
    rng = random.Random(SEED)
    workers = {crew.start(pick_many, slot, hosts[slot % 2], 10**9): slot for slot in range(16)}
    watcher = Balancer.from_config(config(hosts[0])).cluster.store
    slowest = 0.0
    for kill in range(kills):
        time.sleep(rng.uniform(0, 0.004))
        pid = rng.choice(list(workers))
        slot = workers.pop(pid)
        crew.kill(pid)
        start = time.monotonic()
        state = watcher.transact(lambda state, now: state)  # the lock is free, the state is readable
        slowest = max(slowest, time.monotonic() - start)
        assert state.head.cluster == "race" or kill < 16
        workers[crew.start(pick_many, slot, hosts[slot % 2], 10**9)] = slot
    for pid in list(workers):
        crew.kill(pid)
    committed, acked = counted(hosts[0]), handed_out(crew)
    assert sum(acked) > kills
    assert max(committed) - min(committed) <= 1  # exact among what was committed, whoever was killed
    assert all(in_state >= known for in_state, known in zip(committed, acked, strict=True))  # none handed out uncounted
    assert sum(committed) - sum(acked) <= kills + 16  # at most the one pick each was killed in
    assert slowest < 5.0


def threads_pick(acks, worker, host):
    balancer = balancer_of(host)
    failures = []

    def work():
        try:
            for _ in range(30):
                balancer.get_host()
        except BaseException as error:
            failures.append(error)

    threads = [threading.Thread(target=work) for _ in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert not failures


def test_eight_threads_in_each_of_four_processes_are_exact(crew, hosts):
    for worker in range(4):
        crew.start(threads_pick, worker, hosts[worker % 2])
    crew.join()
    assert counted(hosts[0]) == [4 * 8 * 30 // NODES] * NODES


def fork_while_picking(acks, worker, host):
    """Threads pick while the main thread forks children that pick too: descriptors must not be shared."""
    balancer = balancer_of(host)
    done = threading.Event()
    picked = 0

    def work():
        nonlocal picked
        while not done.is_set():
            balancer.get_host()
            picked += 1

    thread = threading.Thread(target=work)
    thread.start()
    children = []
    for _ in range(40):
        time.sleep(0.002)
        child = os.fork()
        if child == 0:
            status = 1
            try:
                for _ in range(5):
                    balancer.get_host()
                status = 0
            finally:
                os._exit(status)
        children.append(child)
    for child in children:
        assert exit_code(child) == 0
    done.set()
    thread.join()
    acks[worker * NODES] = picked + 5 * len(children)


@pytest.mark.slow
def test_forks_in_the_middle_of_transactions_are_exact(crew, hosts):
    crew.start(fork_while_picking, 0, hosts[0])
    crew.start(fork_while_picking, 1, hosts[1])
    crew.join()
    assert sum(counted(hosts[0])) == sum(handed_out(crew))


def lease_and_release(acks, worker, host):
    balancer = balancer_of(host, "least_loaded")
    for _ in range(25):
        with balancer.acquire(f"w{worker}"):
            acks[worker * NODES] += 1


def test_leases_of_sixteen_processes_are_all_released(crew, hosts):
    for worker in range(16):
        crew.start(lease_and_release, worker, hosts[worker % 2])
    crew.join()
    status = balancer_of(hosts[0]).status()
    assert status["leases"] == []
    assert sum(node["picks"] for node in status["nodes"]) == 16 * 25
