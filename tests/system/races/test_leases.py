"""Leases, session keys and the queue under races, on every store; and no change of one that another undoes."""

import array
import itertools
import random
import threading
import time

import pytest

from airflow_provider_impala_lb import Balancer
from airflow_provider_impala_lb.core.config.parse import parse
from airflow_provider_impala_lb.core.state.model import SessionRecord
from airflow_provider_impala_lb.errors import NoNodeAvailable
from airflow_provider_impala_lb.stores.memory import MemoryStore
from tests.support.components import SERVERS
from tests.support.crews import Crew, patient_store
from tests.support.sizes import SEED, sizes

WORKERS = 10
SLOTS = 4096  # for each worker, to report in


class Threads:
    """A crew in one process, for the store that is in one process."""

    def __init__(self):
        self.reports = array.array("d", bytes(8 * WORKERS * SLOTS))
        self.threads, self.failures = [], []

    def start(self, work, *arguments):
        def guarded():
            try:
                work(self.reports, *arguments)
            except BaseException as error:
                self.failures.append(error)

        self.threads.append(threading.Thread(target=guarded))
        self.threads[-1].start()

    def join(self):
        for thread in self.threads:
            thread.join()
        assert not self.failures


class Processes(Crew):
    def __init__(self):
        super().__init__(WORKERS * SLOTS)
        self.reports = memoryview(self.memory).cast("d")

    def start(self, work, *arguments):
        return super().start(lambda _, *rest: work(self.reports, *rest), *arguments)


@pytest.fixture(params=["memory", "file", *SERVERS])
def fleet(request, tmp_path):
    """A crew, and what each of its two hosts says of the common store."""
    if request.param == "memory":
        crew, hosts = Threads(), [{"store": MemoryStore()}] * 2
    else:
        crew = Processes()
        if request.param == "file":
            hosts = [{"lock_file": str(tmp_path / "node_in_use.tmp")}] * 2
        elif request.param == "gluster":
            directories = request.getfixturevalue("gluster")
            hosts = [{"lock_file": str(host / "node_in_use.tmp")} for host in directories]
        else:
            url = (
                request.getfixturevalue("redis").url
                if request.param == "redis"
                else request.getfixturevalue("redis_cluster")
            )
            hosts = [{"store": url}] * 2
    yield crew, hosts
    for pid in list(getattr(crew, "pids", ())):
        crew.kill(pid)


def balancer_of(host, nodes=4, **keys):
    raw = {"name": "race", "nodes": [f"n{i}" for i in range(nodes)], **keys}
    if isinstance(host.get("store"), MemoryStore):
        return Balancer(parse({**raw, "lock_file": "/not/used"}), host["store"])
    config = parse({**raw, **host})
    return Balancer(config, patient_store(config))


def pick_in_turn(reports, worker, host, times):
    balancer = balancer_of(host, policy="round_robin")
    for _ in range(times):
        reports[worker * SLOTS + int(balancer.get_host()[1])] += 1


def test_round_robin_is_exact(fleet):
    crew, hosts = fleet
    for worker in range(WORKERS):
        crew.start(pick_in_turn, worker, hosts[worker % 2], 20)
    crew.join()
    for node in range(4):
        assert sum(crew.reports[worker * SLOTS + node] for worker in range(WORKERS)) == WORKERS * 20 / 4


def hold_for_a_moment(reports, worker, host, limits, times):
    """Reports [node, begin, end] of each lease; the lease lives at least as long as that."""
    balancer = balancer_of(host, **limits)
    for turn in range(times):
        pick = balancer.acquire(f"w{worker}", wait=60)
        begin = time.monotonic()
        time.sleep(0.002)
        at = worker * SLOTS + 3 * turn
        reports[at], reports[at + 1], reports[at + 2] = int(pick.node[1]), begin, time.monotonic()
        pick.release()


def most_at_once(spans):
    events = sorted([(begin, 1) for begin, _ in spans] + [(end, -1) for _, end in spans])
    return max(itertools.accumulate(step for _, step in events), default=0)


def test_no_cap_is_passed_and_all_leases_end(fleet):
    crew, hosts = fleet
    limits, times = {"max_leases_per_node": 2, "max_leases": 5}, 6
    for worker in range(WORKERS):
        crew.start(hold_for_a_moment, worker, hosts[worker % 2], limits, times)
    crew.join()
    spans = {node: [] for node in range(4)}
    for at in range(0, WORKERS * SLOTS, SLOTS):
        for turn in range(times):
            node, begin, end = crew.reports[at + 3 * turn : at + 3 * turn + 3]
            assert end > begin > 0
            spans[int(node)].append((begin, end))
    assert all(most_at_once(each) <= 2 for each in spans.values())
    everything = [span for each in spans.values() for span in each]
    assert len(everything) == WORKERS * times
    assert most_at_once(everything) <= 5
    state, _ = balancer_of(hosts[0]).cluster.store.read()
    assert len(state.leases) == 0 and not state.head.waiting
    assert all(node.leases == 0 for node in state.nodes.values())
    assert sum(node.picks for node in state.nodes.values()) == WORKERS * times


def wait_in_queue(reports, worker, host, limits):
    balancer = balancer_of(host, **limits)
    with balancer.acquire(f"w{worker}", wait=120):
        reports[worker * SLOTS] = time.monotonic()


def test_those_who_wait_are_served_in_the_order_in_which_they_came(fleet):
    crew, hosts = fleet
    limits = {"max_leases": 1}
    mine = balancer_of(hosts[0], **limits)
    held = mine.acquire("held")
    for worker in range(6):
        crew.start(wait_in_queue, worker, hosts[worker % 2], limits)
        end = time.monotonic() + 30
        while len(mine.cluster.store.read()[0].head.waiting) <= worker:
            assert time.monotonic() < end
            time.sleep(0.01)
    held.release()
    crew.join()
    served = [crew.reports[worker * SLOTS] for worker in range(6)]
    assert all(served) and served == sorted(served)


def pick_by_key(reports, worker, host, times):
    balancer = balancer_of(host)
    for turn in range(times):
        key = turn % 8
        with balancer.acquire(f"w{worker}", session_key=f"key{key}") as pick:
            reports[worker * SLOTS + turn] = int(pick.node[1]) + 1


def test_a_session_key_is_on_one_node_whoever_comes_first(fleet):
    crew, hosts = fleet
    for worker in range(WORKERS):
        crew.start(pick_by_key, worker, hosts[worker % 2], 24)
    crew.join()
    nodes = {key: set() for key in range(8)}
    for worker in range(WORKERS):
        for turn in range(24):
            nodes[turn % 8].add(crew.reports[worker * SLOTS + turn])
    assert all(len(each) == 1 and 0.0 not in each for each in nodes.values()), nodes


def move_and_remember(reports, worker, host, times):
    """Each worker has keys of its own, and one that all share; nodes are drained and put back all the while."""
    balancer = balancer_of(host)
    for turn in range(times):
        if worker == 0:
            balancer.drain(f"n{turn % 4}")
            balancer.ready(f"n{(turn - 1) % 4}")
        pick = balancer.pick(session_key="shared")
        balancer.cluster.session_keys.remember(f"own{worker}", pick.node, f"db{turn}", {"TURN": str(turn)})
        reports[worker * SLOTS] += 1


def test_no_session_record_is_lost_while_keys_move(fleet):
    crew, hosts = fleet
    for worker in range(WORKERS):
        crew.start(move_and_remember, worker, hosts[worker % 2], 15)
    crew.join()
    state, _ = balancer_of(hosts[1]).cluster.store.read()
    records = dict(state.sessions.items())
    assert set(records) == {"shared", *(f"own{worker}" for worker in range(WORKERS))}
    for worker in range(WORKERS):
        record = records[f"own{worker}"]
        assert isinstance(record, SessionRecord)
        assert (record.database, record.options) == ("db14", {"TURN": "14"})
    assert sum(node.picks for node in state.nodes.values()) == WORKERS * 15


def mixed(reports, worker, host, times):
    """Records of every kind come and go; each worker counts what it left behind."""
    balancer = balancer_of(host, max_leases_per_node=3)
    for _ in range(times):
        try:
            pick = balancer.acquire(f"w{worker}", wait=0)
        except NoNodeAvailable:
            continue
        reports[worker * SLOTS] += 1
        pick.failed()
        pick.refused("overload", "full")
        balancer.ready(pick.node)
        pick.release()


def test_everything_at_once_leaves_the_numbers_right(fleet):
    crew, hosts = fleet
    for worker in range(WORKERS):
        crew.start(mixed, worker, hosts[worker % 2], 10)
    crew.join()
    state, _ = balancer_of(hosts[0]).cluster.store.read()
    picked = sum(crew.reports[worker * SLOTS] for worker in range(WORKERS))
    assert sum(node.picks for node in state.nodes.values()) == picked > 0
    assert len(state.leases) == 0
    assert all(node.leases == 0 for node in state.nodes.values())
    assert len(state.avoid) == len({worker for worker in range(WORKERS) if crew.reports[worker * SLOTS]})


def hold_until_killed(reports, worker, host):
    balancer = balancer_of(host, max_leases_per_node=3)
    while True:
        with balancer.acquire(f"w{worker}", session_key=f"key{worker % 3}", wait=60) as pick:
            reports[worker * SLOTS] += 1
            pick.note(session="1:2")


@pytest.mark.parametrize("kills", sizes("LEASE_KILLS"))
@pytest.mark.parametrize("fleet", ["file", *SERVERS], indirect=True)
def test_killed_holders_leave_a_state_that_is_right_by_itself(fleet, kills):
    """Whatever they were killed in: beginning a lease, ending one, or between."""
    crew, hosts = fleet
    rng = random.Random(SEED)
    watcher = balancer_of(hosts[0], max_leases_per_node=3)
    workers = {crew.start(hold_until_killed, slot, hosts[slot % 2]): slot for slot in range(WORKERS)}
    for _ in range(kills):
        time.sleep(rng.uniform(0, 0.02))
        pid = rng.choice(list(workers))
        slot = workers.pop(pid)
        crew.kill(pid)
        state = watcher.cluster.store.transact(lambda state, now: state)
        counts = {}
        for lease in watcher.cluster.store.read()[0].leases.values():
            counts[lease.node] = counts.get(lease.node, 0) + 1
        assert all(count <= 3 for count in counts.values())
        assert state.head.cluster in ("", "race")
        workers[crew.start(hold_until_killed, slot, hosts[slot % 2])] = slot
    for pid in list(workers):
        crew.kill(pid)
    time.sleep(1.1)  # dead processes are looked for once a second
    watcher.get_host()
    state, _ = watcher.cluster.store.read()
    assert len(state.leases) == 0 == sum(1 for _ in state.leases.items())
    assert all(node.leases == 0 for node in state.nodes.values())
    assert sum(crew.reports[worker * SLOTS] for worker in range(WORKERS)) > WORKERS
