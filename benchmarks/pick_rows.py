"""The rows of pick.py: what is measured, each on a state that is prepared for it.

Run: python benchmarks/pick_rows.py DIRECTORY PORT DAYS     answers what pick.py --against asks, with the package of
                                                            whatever checkout is on PYTHONPATH

A row of a state that has become old or full stands beside the same action on a plain one, in one group: they are
measured in turns. What an older checkout does not have is imported where it is used: then that group is left out there.
"""

from __future__ import annotations

import json
import logging
import os
import sys
import time
import uuid
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import NamedTuple

from airflow_provider_impala_lb import Balancer

NODES = [f"n{index}" for index in range(30)]
LEASES = 200
DAY = 86400.0
Seconds = list[float]
Config = dict[str, object]


class Place(NamedTuple):
    """:ivar directory: for lock files
    :ivar port: of a Redis server; 0: there is none
    :ivar days: of pods, one a minute
    """

    directory: str
    port: int
    days: int

    def config(self, name: str, nodes: list[str] = NODES) -> Config:
        return {"nodes": nodes, "lock_file": f"{self.directory}/{name}.lock", "name": "test"}

    def kept(self, name: str) -> str:
        """Where a state lies that both checkouts begin with."""
        return f"{os.path.dirname(self.directory)}/{name}.state"


class Row(NamedTuple):
    """:ivar seconds: does it once, and returns what it took
    :ivar rounds: how often
    :ivar base: the row of the same group that it is compared with; "": it is one of those
    """

    seconds: Callable[[], float]
    rounds: int = 200
    base: str = ""


Group = dict[str, Row]


def clocked(action: Callable[[], object]) -> Callable[[], float]:
    def seconds() -> float:
        start = time.perf_counter()
        action()
        return time.perf_counter() - start

    return seconds


def row(action: Callable[[], object], base: str = "", rounds: int = 200) -> Row:
    return Row(clocked(action), rounds, base)


def loaded(config: Config, leases: int = LEASES, state: str = "") -> Balancer:
    """A balancer on a state with live leases of another host, spread over the nodes.

    :param state: a file with the state that is there before; default none
    """
    from airflow_provider_impala_lb.core.state.model import Lease

    balancer = Balancer.from_config(config)
    if state:
        put(balancer, state)
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


def put(balancer: Balancer, path: str) -> None:
    """Make a balancer's state the same as one in a file."""
    from airflow_provider_impala_lb.core.state.state import decode

    with open(path, "rb") as file:
        kept = decode(file.read())
    every = [(kind, *item) for kind, records in enumerate(kept.records) for item in records.items()]

    def put_head(state, now):  # type: ignore[no-untyped-def]
        for field in kept.head.__struct_fields__:
            if field != "extents":
                setattr(state.head, field, getattr(kept.head, field))

    balancer.cluster.store.transact(put_head)
    for start in range(0, len(every), 1000):

        def add(state, now, some=every[start : start + 1000]):  # type: ignore[no-untyped-def]
            for kind, key, record in some:
                state.records[kind].add(key, record, record.expires)

        balancer.cluster.store.transact(add)


def acquire_and_release(balancer: Balancer) -> None:
    with balancer.acquire("dag/run/task"):
        pass


@contextmanager
def in_attributes() -> Iterator[None]:
    """A store that is used first in here takes its directory for a file system that may show the past, and so keeps
    versions in attributes, as on GlusterFS."""
    from airflow_provider_impala_lb.stores.file import filesystem

    kind = filesystem.kind
    filesystem.kind = lambda descriptor: 0x65735546
    try:
        yield
    finally:
        filesystem.kind = kind


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


def plain(place: Place) -> Group:
    """The common ways."""
    pick, lease, alone = (loaded(place.config(name)) for name in ("pick", "lease", "alone"))
    held = lease.acquire("keeps the thread that renews running, as in a task")
    group = {
        "pick": row(pick.get_host, rounds=1500),
        "acquire and release": row(lambda: (held, acquire_and_release(lease)), rounds=1500),
        "the same of a process that holds no other lease": row(lambda: acquire_and_release(alone), rounds=1500),
    }
    if place.port:
        name = f"bench-{os.path.basename(place.directory)}"
        remote = loaded({"nodes": NODES, "store": f"redis://127.0.0.1:{place.port}", "name": name})
        group["pick, store in Redis"] = row(remote.get_host, rounds=1500)
    return group


def first(place: Place) -> Group:
    """Of a process."""
    config = place.config("first")
    loaded(config)

    def pick() -> float:
        return clocked(lambda: Balancer.from_config(config).get_host())()

    def lease() -> float:
        return clocked(lambda: acquire_and_release(Balancer.from_config(config)))()

    return {
        "the first pick of a process": Row(lambda: in_child(pick)),
        "the first acquire and release of a process": Row(lambda: in_child(lease)),
    }


def large(place: Place) -> Group:
    """Many nodes and leases."""
    few = loaded(place.config("few"))
    many = loaded(place.config("large", [f"n{index}" for index in range(1000)]), 10_000)
    return {
        "pick": row(few.get_host, rounds=100),
        "lease": row(lambda: acquire_and_release(few), rounds=100),
        "1,000 nodes, 10,000 leases: pick": row(many.get_host, "pick", 100),
        "1,000 nodes, 10,000 leases: acquire and release": row(lambda: acquire_and_release(many), "lease", 100),
    }


def keep_pods(path: str, days: int, mode: str) -> None:
    """Make the state that so many days of pods leave, on a real store with a simulated clock that ends now.

    One pod a minute, each a host with a new name; one of 50 is killed at work, and what it leaves is kept for 30 days.
    From then on the state does not grow (docs/design.md). Each day one of the nodes is replaced.
    """
    from airflow_provider_impala_lb.core.state.state import encode
    from tests.support.pods import Pods, SetClock, file_store
    from tests.support.shelved_store import ShelvedStore

    clock = SetClock(time.time() - days * DAY)
    store = ShelvedStore(file_store(f"{path}.lock", clock), clock, made=5 if mode == "cas" else 50)
    Pods(store, clock, node_days=1, nodes=len(NODES)).run(days, samples=1)
    state, _ = store.settled().read()
    with open(path, "wb") as file:
        file.write(encode(state))


def after_pods(place: Place, mode: str) -> Group:
    nodes = [f"node-{place.days + index}" for index in range(len(NODES))]
    state = place.kept(f"pods-{mode}")
    if not os.path.exists(state):
        keep_pods(state, place.days, mode)
    fresh, aged = loaded(place.config(f"fresh-{mode}", nodes)), loaded(place.config(f"aged-{mode}", nodes), state=state)
    words = f"after {place.days} days of pods{', in attributes' if mode == 'cas' else ''}"
    return {
        "pick": row(fresh.get_host),
        "lease": row(lambda: acquire_and_release(fresh)),
        f"{words}: pick": row(aged.get_host, "pick"),
        f"{words}: acquire and release": row(lambda: acquire_and_release(aged), "lease"),
    }


def pods(place: Place) -> Group:
    return after_pods(place, "slots")


def pods_in_attributes(place: Place) -> Group:
    with in_attributes():
        return after_pods(place, "cas")


def keep_keys(path: str) -> None:
    """Make the state that 100,000 picks with session keys leave, if it is not there yet."""
    from airflow_provider_impala_lb.core.state.model import SESSION_SECONDS, SessionRecord
    from airflow_provider_impala_lb.core.state.state import encode

    if os.path.exists(path):
        return
    balancer = Balancer.from_config({"nodes": NODES, "lock_file": f"{path}.lock", "name": "test"})

    def add(state, now):  # type: ignore[no-untyped-def]
        for index in range(1000):
            ends = now + SESSION_SECONDS
            record = SessionRecord(NODES[index % len(NODES)], ends, database="dwh", options={"MEM_LIMIT": "4g"}, at=now)
            state.sessions.add(uuid.uuid4().hex, record, ends)

    for _ in range(100):
        balancer.cluster.store.transact(add)
        balancer.get_host()
    state, _ = balancer.cluster.store.read()
    with open(path, "wb") as file:
        file.write(encode(state))


def after_keys(place: Place, mode: str, rounds: int) -> Group:
    state = place.kept("keys")
    fresh = loaded(place.config(f"keyless-{mode}"))
    keyed = loaded(place.config(f"keyed-{mode}"), state=state)
    numbers = iter(range(10**9))

    def with_key(balancer: Balancer) -> None:
        balancer.cluster.picker.pick(session_key=f"new {next(numbers)}")

    words = f"after 100,000 session keys{', in attributes' if mode == 'cas' else ''}"
    return {
        "pick": row(fresh.get_host, rounds=rounds),
        "pick with a key": row(lambda: with_key(fresh), rounds=rounds),
        f"{words}: a pick without one": row(keyed.get_host, "pick", rounds),
        f"{words}: a pick with a new one": row(lambda: with_key(keyed), "pick with a key", rounds),
    }


def session_keys(place: Place) -> Group:
    keep_keys(place.kept("keys"))
    return after_keys(place, "slots", 200)


def session_keys_in_attributes(place: Place) -> Group:
    keep_keys(place.kept("keys"))
    with in_attributes():
        return after_keys(place, "cas", 20)


class Queue:
    """A full cluster, and many that wait for it, on another host.

    :param waiting: how many.
    """

    SLOTS = 100

    def __init__(self, config: Config, waiting: int) -> None:
        from airflow_provider_impala_lb.core.rules.queue import enqueue
        from airflow_provider_impala_lb.core.state.model import Ticket

        self.balancer = Balancer.from_config({**config, "max_leases": self.SLOTS})
        self.held = [self.balancer.acquire("held") for _ in range(self.SLOTS)]
        self.first, self.last = 0, waiting

        def fill(state, now):  # type: ignore[no-untyped-def]
            for index in range(waiting):
                owner = f"dag_{index}/scheduled__2026-01-01T00:00:00+00:00/task"
                enqueue(state, now, Ticket(f"w{index}", owner, "another-host", 0.0, 0.0, asks_again=3600.0))

        self.balancer.cluster.store.transact(fill)

    def ask(self, index: int) -> object:
        from airflow_provider_impala_lb.core.cluster.lease_options import LeaseOptions, QueueOptions
        from airflow_provider_impala_lb.errors import MustWait

        options = LeaseOptions(QueueOptions(wait=1e5, ticket=f"w{index}", asks_again=3600.0))
        try:
            return self.balancer.cluster.picker.acquire("dag/run/task", options=options)
        except MustWait:
            return None

    def look(self) -> None:
        """As one who waits in place looks whether it is his turn."""
        self.balancer.cluster.store.read(records=False)

    def question(self) -> None:
        """Of the last."""
        assert self.ask(self.last - 1) is None

    def draw(self) -> None:
        assert self.ask(-1) is None

    def leave(self) -> None:
        self.balancer.cluster.picker.leave_queue("w-1")

    def turn(self) -> None:
        """A slot is freed, the first takes it, and another one comes."""
        self.held.pop(0).release()
        pick = self.ask(self.first)
        assert pick is not None
        self.held.append(pick)  # type: ignore[arg-type]
        assert self.ask(self.last) is None
        self.first, self.last = self.first + 1, self.last + 1


def queue(place: Place, waiting: int) -> Group:
    """What waits, beside a pick and a lease where nobody does."""
    fresh = loaded(place.config(f"no queue {waiting}"))
    waits = Queue(place.config(f"queue {waiting}"), waiting)
    return {
        "pick": row(fresh.get_host),
        "lease": row(lambda: acquire_and_release(fresh)),
        f"{waiting:,} waiting: a pick without a lease": row(waits.balancer.get_host, "pick"),
        f"{waiting:,} waiting: a look of one who waits in place": row(waits.look, "lease"),
        f"{waiting:,} waiting: a question of the last, as another process": row(waits.question, "lease"),
        f"{waiting:,} waiting: a ticket is drawn": row(waits.draw, "lease"),
        f"{waiting:,} waiting: that ticket is left": row(waits.leave, "lease"),
        f"{waiting:,} waiting: a release, the first's lease, a new ticket": row(waits.turn, "lease"),
    }


GROUPS: dict[str, Callable[[Place], Group]] = {
    "plain": plain,
    "first": first,
    "large": large,
    "pods": pods,
    "pods in attributes": pods_in_attributes,
    "session keys": session_keys,
    "session keys in attributes": session_keys_in_attributes,
    "1,000 waiting": lambda place: queue(place, 1000),
    "5,000 waiting": lambda place: queue(place, 5000),
}


def answer(place: Place) -> None:
    """A line ``[group]`` is answered by its rows: name, rounds, base; ``[group, row, times]`` by the seconds."""
    prepared: dict[str, Group] = {}
    for line in sys.stdin:
        group, *asked = json.loads(line)
        try:
            if not asked:
                prepared[group] = GROUPS[group](place)
                found: object = {name: [row.rounds, row.base] for name, row in prepared[group].items()}
            else:
                name, times = asked
                found = [prepared[group][name].seconds() for _ in range(times)]
        except Exception as error:
            found = f"{type(error).__name__}: {error}"
        print(json.dumps(found), flush=True)


if __name__ == "__main__":
    logging.disable(logging.WARNING)  # as pick.py
    answer(Place(sys.argv[1], int(sys.argv[2]), int(sys.argv[3])))
