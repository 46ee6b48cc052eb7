"""Real processes on the same journals: no change is lost, whoever is killed, and whatever is swept away meanwhile."""

import json
import os
import random
import time
from contextlib import suppress

import pytest

from airflow_provider_impala_lb.core.config.store_url import parse_store
from airflow_provider_impala_lb.stores.journals.file import FileJournals
from airflow_provider_impala_lb.stores.redis.journals import RedisJournals
from tests.support.components import SERVERS
from tests.support.crews import exit_code
from tests.support.servers import eventually
from tests.support.sizes import SEED, sizes

KEYS = [f"dag/task {number}" for number in range(5)]
WORKERS = 8


@pytest.fixture(params=["file", "fuse", *SERVERS])
def hosts(request, tmp_path):
    """How two hosts open the same journals."""
    if request.param in ("redis", "cluster"):
        redis = request.getfixturevalue("redis" if request.param == "redis" else "redis_cluster")
        url = parse_store(getattr(redis, "url", redis))
        return [lambda: RedisJournals(url, "wh", deadline=60)] * 2
    if request.param == "gluster":
        paths = [str(host / "node_in_use.tmp") for host in request.getfixturevalue("gluster")]
    elif request.param == "fuse":
        paths = [request.getfixturevalue("path_on_fuse")] * 2
    else:
        (tmp_path / "share").mkdir()
        for host in ("host1", "host2"):
            (tmp_path / host).symlink_to(tmp_path / "share")
        paths = [str(tmp_path / host / "node_in_use.tmp") for host in ("host1", "host2")]
    return [lambda path=path: FileJournals(path, deadline=60) for path in paths]


def count(worker, rng):
    """One more of this worker in a document of between 0 and 20 KB that does not compress."""
    filler = rng.randbytes(rng.choice([0, 100, 1000, 10_000])).hex()

    def change(document, now):
        found = json.loads(document) if document else {"counts": {}, "filler": ""}
        found["counts"][str(worker)] = found["counts"].get(str(worker), 0) + 1
        found["filler"] = filler
        return None, json.dumps(found).encode()

    return change


def count_many(acks, worker, opened, times):
    rng = random.Random(os.getpid())
    journals = opened()
    for _ in range(times):
        journals.change(rng.choice(KEYS), count(worker, rng))
        acks[worker] += 1


def counted(journals):
    totals = [0] * WORKERS
    for key in KEYS:
        for worker, times in json.loads(journals.read(key) or b'{"counts": {}}')["counts"].items():
            totals[int(worker)] += times
    return totals


def test_eight_processes_on_two_hosts_lose_nothing(crew, hosts):
    for worker in range(WORKERS):
        crew.start(count_many, worker, hosts[worker % 2], 40)
    crew.join()
    assert counted(hosts[0]()) == [40] * WORKERS


@pytest.mark.parametrize("kills", sizes("JOURNAL_KILLS"))
def test_killed_writers_lose_nothing_that_was_acknowledged(crew, hosts, kills):
    rng = random.Random(SEED)
    workers = {crew.start(count_many, slot, hosts[slot % 2], 10**9): slot for slot in range(WORKERS)}
    watcher = hosts[0]()
    killed = [0] * WORKERS
    slowest = 0.0
    for _ in range(kills):
        time.sleep(rng.uniform(0, 0.02))
        pid = rng.choice(list(workers))
        slot = workers.pop(pid)
        before = crew.acks[slot]
        crew.kill(pid)
        killed[slot] += 1
        start = time.monotonic()
        # By a commit of its own, so that it is the newest; each document must be readable.
        found = [watcher.change(key, lambda document, now: (document, document)) for key in KEYS]
        slowest = max(slowest, time.monotonic() - start)
        counts = [json.loads(document)["counts"].get(str(slot), 0) for document in found if document]
        assert before <= crew.acks[slot] <= sum(counts) <= crew.acks[slot] + killed[slot]
        workers[crew.start(count_many, slot, hosts[slot % 2], 10**9)] = slot
    for pid in list(workers):
        crew.kill(pid)
    totals = counted(hosts[1]())
    assert sum(crew.acks[slot] for slot in range(WORKERS)) > kills // 2
    for slot in range(WORKERS):
        assert crew.acks[slot] <= totals[slot] <= crew.acks[slot] + killed[slot] + 1
    assert slowest < 30


def come_and_go(acks, worker, opened, times):
    """Enter a common document, be in it, leave it; who leaves it empty removes it."""
    rng = random.Random(os.getpid())
    journals = opened()

    def enter(document, now):
        names = json.loads(document or b"[]")
        assert str(worker) not in names
        return None, json.dumps([*names, str(worker)]).encode()

    def leave(document, now):
        names = json.loads(document or b"[]")
        others = [name for name in names if name != str(worker)]
        return str(worker) in names, json.dumps(others).encode() if others else None

    for _ in range(times):
        key = rng.choice(KEYS[:2])
        journals.change(key, enter)
        assert journals.change(key, leave)
        acks[worker] += 1


def sweep_on(acks, worker, opened):
    journals = opened()
    while True:
        journals.sweep(lambda key, document, now: True)
        acks[worker] += 1


def test_what_comes_again_beside_a_sweep_is_not_swept_away(crew, hosts):
    sweepers = [crew.start(sweep_on, WORKERS + host, hosts[host]) for host in (0, 1)]
    workers = [crew.start(come_and_go, worker, hosts[worker % 2], 60) for worker in range(4)]
    for pid in workers:
        assert exit_code(pid) == 0
        crew.pids.discard(pid)
    # Where a sweep is slow, and the machine busy, the workers may be done before the second one is.
    eventually(lambda: all(crew.acks[WORKERS + host] > 1 for host in (0, 1)), 60)
    for pid in sweepers:
        crew.kill(pid)
    journals = hosts[0]()
    assert journals.keys() == []
    journals.sweep(lambda key, document, now: True)
    if isinstance(journals, FileJournals):
        assert os.listdir(journals.where) == ["lock"]


def test_forks_in_the_middle_of_changes_lose_nothing(crew, hosts):
    def work(acks, worker, opened):
        import threading

        journals = opened()
        ended = threading.Event()

        def go_on():
            rng = random.Random(worker)
            while not ended.is_set():
                journals.change(rng.choice(KEYS), count(worker, rng))
                acks[worker] += 1

        thread = threading.Thread(target=go_on)
        thread.start()
        try:
            for child in range(10):
                time.sleep(0.005)
                pid = os.fork()
                if pid == 0:
                    status = 1
                    with suppress(BaseException):
                        count_many(acks, worker + 2 + child % 2 * 2, opened, 1)
                        status = 0
                    os._exit(status)
                assert exit_code(pid) == 0
        finally:
            ended.set()
            thread.join()

    for worker in (0, 1):
        crew.start(work, worker, hosts[worker])
    crew.join()
    assert counted(hosts[0]())[:2] == [crew.acks[0], crew.acks[1]]
    assert sum(counted(hosts[0]())[2:]) == 20
