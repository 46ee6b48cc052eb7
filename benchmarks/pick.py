"""What a pick costs, with 30 nodes and 200 live leases, beside what else it could be made of.

Run: python benchmarks/pick.py [DIRECTORY ...]     one table for each directory (default: a temporary one)

All figures of a table come from one run. Beside the balancer's own: one INCR of redis-py on a Redis of this host (the
least that any shared counter over a socket can cost), the bare turn of a locked file, and what one would write in an
hour: filelock, json and os.replace, doing the same work on the same state. Calls are made in turn (A B C A B C ...), as
the processes of a fleet make them: between two of them both caches and the server's process have had something else to
do. What changes back to back, when a server spins on one client's requests, stands in rows of its own.
"""

from __future__ import annotations

import fcntl
import json
import os
import shutil
import socket
import statistics
import subprocess
import sys
import tempfile
import time
import uuid
from collections.abc import Callable, Iterator
from contextlib import contextmanager

from airflow_provider_impala_lb import Balancer
from airflow_provider_impala_lb.core.cluster.lease_options import LeaseOptions, QueueOptions
from airflow_provider_impala_lb.core.cluster.pick import Pick
from airflow_provider_impala_lb.core.rules.queue import enqueue
from airflow_provider_impala_lb.core.rules.supersession import note_leftover
from airflow_provider_impala_lb.core.state.model import SESSION_SECONDS, HostNote, Lease, SessionRecord, Ticket
from airflow_provider_impala_lb.errors import MustWait

NODES = [f"n{index}" for index in range(30)]
LEASES = 200
ROUNDS = 1500
Seconds = list[float]


def timed(actions: dict[str, Callable[[], object]], rounds: int = ROUNDS, block: int = 1) -> dict[str, Seconds]:
    """Each action's times, taken in turn: ``block`` calls of one, then of the next."""
    found: dict[str, Seconds] = {name: [] for name in actions}
    for _ in range(rounds // block):
        for name, action in actions.items():
            for _ in range(block):
                start = time.perf_counter()
                action()
                found[name].append(time.perf_counter() - start)
    return found


def say(what: str, seconds: Seconds, base: float | None = None, unit: str = "INCR") -> None:
    ordered = sorted(seconds)
    median, p99 = statistics.median(ordered), ordered[int(len(ordered) * 0.99)]
    ratio = f"{median / base:7.2f} x {unit}" if base else ""
    print(f"  {what:52} p50 {median * 1e6:9.1f} us  p99 {p99 * 1e6:9.1f} us {ratio}")


def bare_lock(path: str) -> Callable[[], object]:
    def turn() -> None:
        descriptor = os.open(path, os.O_RDWR | os.O_CREAT)
        fcntl.flock(descriptor, fcntl.LOCK_EX)
        count = int(os.pread(descriptor, 20, 0) or 0)
        os.pwrite(descriptor, b"%020d" % (count + 1), 0)
        os.close(descriptor)

    return turn


class HandMade:
    """The same work with filelock, json and os.replace: least loaded of the nodes, a lease in, a lease out."""

    def __init__(self, directory: str) -> None:
        import filelock

        self.path = f"{directory}/hand-made.json"
        self.lock = filelock.FileLock(f"{self.path}.lock")
        leases = {
            uuid.uuid4().hex: {"node": NODES[i % len(NODES)], "owner": "dag/run/task", "expires": time.time() + 1e5}
            for i in range(LEASES)
        }
        self.write({"picks": dict.fromkeys(NODES, 0), "leases": leases})

    def write(self, state: dict[str, dict[str, object]]) -> None:
        with open(f"{self.path}.new", "w") as file:
            json.dump(state, file)
        os.replace(f"{self.path}.new", self.path)

    def acquire(self) -> str:
        with self.lock:
            with open(self.path) as file:
                state = json.load(file)
            now = time.time()
            state["leases"] = {key: lease for key, lease in state["leases"].items() if lease["expires"] > now}
            load = dict.fromkeys(NODES, 0)
            for lease in state["leases"].values():
                load[lease["node"]] += 1
            node = min(NODES, key=lambda name: load[name])
            state["picks"][node] += 1
            mine = uuid.uuid4().hex
            state["leases"][mine] = {"node": node, "owner": "dag/run/task", "expires": now + 120}
            self.write(state)
        return mine

    def release(self, lease: str) -> None:
        with self.lock:
            with open(self.path) as file:
                state = json.load(file)
            state["leases"].pop(lease, None)
            self.write(state)


def loaded(config: dict[str, object], leases: int = LEASES) -> Balancer:
    """A balancer on a state with live leases of another host, spread over the nodes."""
    balancer = Balancer.from_config(config)
    balancer.get_host()
    nodes = balancer.config.addresses

    def fill(state, now):  # type: ignore[no-untyped-def]
        for index in range(leases):
            state.lease(
                Lease(
                    id=uuid.uuid4().hex,
                    node=nodes[index % len(nodes)],
                    owner=f"dag_{index}/scheduled__2026-01-01T00:00:00+00:00/task",
                    expires=now + 1e5,
                    taken=now,
                    host="another-host",
                    session=uuid.uuid4().hex,
                )
            )

    balancer.cluster.store.transact(fill)
    return balancer


class Queue:
    """A full cluster, and many that wait for it, on another host.

    :param waiting: how many.
    """

    SLOTS = 100

    def __init__(self, config: dict[str, object], waiting: int) -> None:
        self.balancer = Balancer.from_config({**config, "max_leases": self.SLOTS})
        self.held = [self.balancer.acquire("held") for _ in range(self.SLOTS)]
        self.first, self.last = 0, waiting

        def fill(state, now):  # type: ignore[no-untyped-def]
            for index in range(waiting):
                owner = f"dag_{index}/scheduled__2026-01-01T00:00:00+00:00/task"
                enqueue(state, now, Ticket(f"w{index}", owner, "another-host", 0.0, 0.0, asks_again=3600.0))

        self.balancer.cluster.store.transact(fill)

    def ask(self, index: int) -> Pick | None:
        options = LeaseOptions(QueueOptions(wait=1e5, ticket=f"w{index}", asks_again=3600.0))
        try:
            return self.balancer.cluster.picker.acquire("dag/run/task", options=options)
        except MustWait:
            return None

    def question(self) -> None:
        """Of the last."""
        assert self.ask(self.last - 1) is None

    def turn(self) -> None:
        """A slot is freed, the first takes it, and another one comes."""
        self.held.pop(0).release()
        pick = self.ask(self.first)
        assert pick is not None
        self.held.append(pick)
        assert self.ask(self.last) is None
        self.first, self.last = self.first + 1, self.last + 1

    def close(self) -> None:
        for pick in self.held:
            pick.release()


def leave_a_years_pods(state, now):  # type: ignore[no-untyped-def]
    """As tests/system/years finds it after a year of one pod a minute: 29 a day were killed, and 30 days are kept."""
    for index in range(29 * 30):
        owner = f"dag_{index}/scheduled__{index}/task"
        note_leftover(state, now, Lease(uuid.uuid4().hex, NODES[0], owner, now, now, "pod", session=uuid.uuid4().hex))
    for index in range(12):
        state.hosts[f"pod-{index:07}-{uuid.uuid4().hex[:8]}"] = HostNote(nodes="0123456789abcdef", seen=now)


def add_session_keys(state, now):  # type: ignore[no-untyped-def]
    for index in range(1000):
        ends = now + SESSION_SECONDS
        record = SessionRecord(NODES[index % len(NODES)], ends, database="dwh", options={"MEM_LIMIT": "4g"}, at=now)
        state.sessions.add(uuid.uuid4().hex, record, ends)


def acquire_and_release(balancer: Balancer) -> None:
    with balancer.acquire("dag/run/task"):
        pass


def in_child(work: Callable[[], float]) -> float:
    """``work`` in a process of its own: what it measures there. It is forked, as Airflow's tasks are: the modules are
    there, and nothing else."""
    read, write = os.pipe()
    if os.fork() == 0:
        os.write(write, b"%.9f" % work())
        os._exit(0)
    os.close(write)
    with os.fdopen(read) as answer:
        found = float(answer.read())
    os.wait()
    return found


def fresh_pick(config: dict[str, object]) -> float:
    start = time.perf_counter()
    Balancer.from_config(config).get_host()
    return time.perf_counter() - start


def fresh_lease(config: dict[str, object]) -> float:
    start = time.perf_counter()
    acquire_and_release(Balancer.from_config(config))
    return time.perf_counter() - start


def crowd(config: dict[str, object], workers: int, seconds: float = 2.0) -> tuple[Seconds, float]:
    """So many processes at once, back to back: all their times, and picks per second in total."""
    readers = []
    go = time.monotonic() + 0.5
    for _ in range(workers):
        read, write = os.pipe()
        if os.fork() == 0:
            balancer = Balancer.from_config(config)
            time.sleep(max(0.0, go - time.monotonic()))
            times = []
            while time.monotonic() < go + seconds:
                start = time.perf_counter()
                balancer.get_host()
                times.append(time.perf_counter() - start)
            with os.fdopen(write, "w") as out:
                out.write(" ".join(f"{value:.7f}" for value in times))
            os._exit(0)
        os.close(write)
        readers.append(os.fdopen(read))
    times = [float(value) for reader in readers for value in reader.read().split()]
    for _ in readers:
        os.wait()
    return times, len(times) / seconds


@contextmanager
def redis_server(directory: str) -> Iterator[int]:
    path = f"{directory}/redis.sock"
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    options = f"--port {port} --bind 127.0.0.1 --unixsocket {path} --dir {directory} --appendonly no"
    server = subprocess.Popen(["redis-server", *options.split(), "--save", ""], stdout=subprocess.DEVNULL)
    try:
        while not os.path.exists(path):  # it listens
            time.sleep(0.01)
        yield port
    finally:
        server.kill()
        server.wait()


def table(directory: str, port: int | None) -> None:
    import redis

    def config(name: str, nodes: int = len(NODES)) -> dict[str, object]:
        return {"nodes": [f"n{i}" for i in range(nodes)], "lock_file": f"{directory}/{name}.lock"}

    print(f"{directory}: {len(NODES)} nodes, {LEASES} live leases")
    pick, lease, alone = loaded(config("pick")), loaded(config("lease")), loaded(config("alone"))
    hand_made = HandMade(directory)
    actions: dict[str, Callable[[], object]] = {
        "pick": pick.get_host,
        "acquire and release": lambda: acquire_and_release(lease),
        "the same of a process that holds no other lease": lambda: acquire_and_release(alone),
        "bare turn of a locked file": bare_lock(f"{directory}/bare"),
        "filelock + json + os.replace: acquire and release": lambda: hand_made.release(hand_made.acquire()),
    }
    if port:
        client = redis.Redis(port=port)
        remote = loaded({"nodes": NODES, "store": f"redis://127.0.0.1:{port}", "name": "bench"})
        actions |= {"INCR": lambda: client.incr("n"), "pick, store in Redis": remote.get_host}
    held = lease.acquire("keeps the thread that renews running, as in a task")
    found = timed(actions)
    base = statistics.median(found["INCR"]) if port else None
    for name, seconds in found.items():
        say(name, seconds, base)
    found = timed(
        {name: actions[name] for name in ("pick", "acquire and release", "INCR") if name in actions}, block=100
    )
    base = statistics.median(found["INCR"]) if port else None
    for name, seconds in found.items():
        say(f"{name}, back to back", seconds, base)
    held.release()

    works: dict[str, Callable[[], float]] = {
        "the first pick of a process": lambda: fresh_pick(config("pick")),
        "the first acquire and release of a process": lambda: fresh_lease(config("lease")),
    }
    if port:

        def fresh_incr() -> float:
            start = time.perf_counter()
            redis.Redis(port=port).incr("n")
            return time.perf_counter() - start

        works["the first INCR of a process, connecting"] = fresh_incr
    first: dict[str, Seconds] = {name: [] for name in works}
    for _ in range(200):
        for name, work in works.items():
            first[name].append(in_child(work))
    base = statistics.median(first["the first INCR of a process, connecting"]) if port else None
    for name, seconds in first.items():
        say(name, seconds, base, "that INCR")

    for workers in (8, 16):
        times, rate = crowd(config("pick"), workers)
        say(f"{workers} processes at once: {rate:.0f} picks/s in total", times)
    large = loaded(config("large", 1000), 10_000)
    found = timed({"pick": large.get_host, "lease": lambda: acquire_and_release(large)}, rounds=100)
    say("1,000 nodes, 10,000 leases: pick", found["pick"])
    say("1,000 nodes, 10,000 leases: acquire and release", found["lease"])
    aged = loaded(config("aged"))
    aged.cluster.store.transact(leave_a_years_pods)
    found = timed({"pick": aged.get_host, "lease": lambda: acquire_and_release(aged)}, rounds=200)
    say("after a year of pods: pick", found["pick"])
    say("after a year of pods: acquire and release", found["lease"])
    keyed = loaded(config("keyed"))
    for _ in range(100):
        keyed.cluster.store.transact(add_session_keys)
        keyed.get_host()
    numbers = iter(range(10**9))
    found = timed(
        {"pick": keyed.get_host, "key": lambda: keyed.cluster.picker.pick(session_key=f"new {next(numbers)}")},
        rounds=200,
    )
    say("after 100,000 session keys: a pick without one", found["pick"])
    say("after 100,000 session keys: a pick with a new one", found["key"])
    for waiting in (1000, 5000):
        queue = Queue(config(f"queue {waiting}"), waiting)
        found = timed({"pick": queue.balancer.get_host, "ask": queue.question, "turn": queue.turn}, rounds=200)
        say(f"{waiting:,} waiting: a pick without a lease", found["pick"])
        say(f"{waiting:,} waiting: a question of the last, as another process", found["ask"])
        say(f"{waiting:,} waiting: a release, the first's lease, a new ticket", found["turn"])
        queue.close()


def main() -> None:
    with tempfile.TemporaryDirectory() as home:
        directories = sys.argv[1:] or [home]
        for parent in directories:
            with tempfile.TemporaryDirectory(dir=parent) as directory:
                if shutil.which("redis-server"):
                    with redis_server(home) as port:
                        table(directory, port)
                    os.unlink(f"{home}/redis.sock")
                else:
                    table(directory, None)


if __name__ == "__main__":
    main()
