"""What a pick costs, with 30 nodes and 200 live leases, beside what else it could be made of, and on a state that has
become old or full.

Run: python benchmarks/pick.py [DIRECTORY ...]     one table for each directory (default: a temporary one)
         --against CHECKOUT    another checkout's figures beside this one's, measured in turns; exit code 1 where one of
                               this one's is worse by more than 10 %
         --only GROUP ...      of the rows in pick_rows.py
         --rounds SHARE        so much of what each is measured (default 1); with --against
         --pod-days DAYS       of one pod a minute, for the rows of what they leave (default 35)

All figures of a table come from one run. Beside the balancer's own: one INCR of redis-py on a Redis of this host (the
least that any shared counter over a socket can cost), the bare turn of a locked file, and what one would write in an
hour: filelock, json and os.replace, doing the same work on the same state. Calls are made in turn (A B C A B C ...), as
the processes of a fleet make them: between two of them both caches and the server's process have had something else to
do. What changes back to back, when a server spins on one client's requests, stands in rows of its own.

After the first month what pods leave does not grow (docs/design.md), so 35 days of them stand for a year.
"""

from __future__ import annotations

import argparse
import fcntl
import json
import logging
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
from contextlib import ExitStack, contextmanager

import pick_rows
from pick_rows import LEASES, NODES, Config, Group, Place, Row, Seconds, clocked, in_child, row

from airflow_provider_impala_lb import Balancer

ROOT = os.path.dirname(os.path.dirname(os.path.abspath(__file__)))
WORSE = 1.10
BLOCK = 5
"""So many calls of one side, then of the other."""


def timed(group: Group, block: int = 1) -> dict[str, Seconds]:
    """Each row's times, taken in turn: ``block`` calls of one, then of the next."""
    found: dict[str, Seconds] = {name: [] for name in group}
    for _ in range(min(each.rounds for each in group.values()) // block):
        for name, each in group.items():
            found[name] += [each.seconds() for _ in range(block)]
    return found


def say(what: str, seconds: Seconds, base: float | None = None, unit: str = "INCR") -> None:
    ordered = sorted(seconds)
    median, p99 = statistics.median(ordered), ordered[int(len(ordered) * 0.99)]
    ratio = f"{median / base:7.2f} x {unit}" if base else ""
    print(f"  {what:60} p50 {median * 1e6:9.1f} us  p99 {p99 * 1e6:9.1f} us {ratio}", flush=True)


def say_all(group: Group, found: dict[str, Seconds], suffix: str = "") -> None:
    """Rows, each as a ratio to its base."""
    for name, seconds in found.items():
        base = group[name].base
        say(name + suffix, seconds, statistics.median(found[base]) if base else None, base)


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


def crowd(config: Config, workers: int, seconds: float = 2.0) -> tuple[Seconds, float]:
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
    """Its port; 0: there is no Redis on this host."""
    if not shutil.which("redis-server"):
        yield 0
        return
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
        os.unlink(path)


def beside_others(place: Place) -> None:
    """The common ways, beside a Redis and what one would write in an hour."""
    group, unit = pick_rows.plain(place), ""
    hand_made = HandMade(place.directory)
    others: dict[str, Callable[[], object]] = {
        "bare turn of a locked file": bare_lock(f"{place.directory}/bare"),
        "filelock + json + os.replace: acquire and release": lambda: hand_made.release(hand_made.acquire()),
    }
    if place.port:
        import redis

        unit = "INCR"
        client = redis.Redis(port=place.port)
        others["INCR"] = lambda: client.incr("n")
    group |= {name: row(action, rounds=1500) for name, action in others.items()}
    group = {name: each._replace(base=unit) for name, each in group.items()}
    say_all(group, timed(group))
    group = {name: group[name] for name in ("pick", "acquire and release", "INCR") if name in group}
    say_all(group, timed(group, block=100), ", back to back")

    group, unit = pick_rows.first(place), ""
    if place.port:
        unit = "the first INCR of a process, connecting"
        group[unit] = Row(lambda: in_child(clocked(lambda: redis.Redis(port=place.port).incr("n"))))
    group = {name: each._replace(base=unit) for name, each in group.items()}
    say_all(group, timed(group))
    for workers in (8, 16):
        times, rate = crowd(place.config("pick"), workers)
        say(f"{workers} processes at once: {rate:.0f} picks/s in total", times)


def table(place: Place, groups: list[str]) -> None:
    print(f"{place.directory}: {len(NODES)} nodes, {LEASES} live leases")
    if "plain" in groups:
        beside_others(place)
    for name in groups:
        if name not in ("plain", "first"):
            print(f" {name}")
            group = pick_rows.GROUPS[name](place)
            say_all(group, timed(group))


class Side:
    """A checkout's rows, in a process of its own.

    :param checkout: its directory
    :param place: for its states
    """

    def __init__(self, checkout: str, place: Place) -> None:
        self.checkout = checkout
        os.mkdir(place.directory)
        self.process = subprocess.Popen(
            [sys.executable, pick_rows.__file__, place.directory, str(place.port), str(place.days)],
            env={**os.environ, "PYTHONPATH": checkout},
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
        )

    def ask(self, *question: object) -> object:
        assert self.process.stdin is not None
        assert self.process.stdout is not None
        print(json.dumps(question), file=self.process.stdin, flush=True)
        return json.loads(self.process.stdout.readline())

    def close(self) -> None:
        assert self.process.stdin is not None
        self.process.stdin.close()
        self.process.wait()


def in_turns(sides: list[Side], group: str, name: str, blocks: int) -> list[Seconds]:
    found: list[Seconds] = [[] for _ in sides]
    for number in range(blocks):
        for index in (0, 1) if number % 2 else (1, 0):
            answered = sides[index].ask(group, name, BLOCK)
            if isinstance(answered, str):
                raise RuntimeError(f"{sides[index].checkout}: {name}: {answered}")
            assert isinstance(answered, list)
            found[index] += answered
    return found


def quartile(seconds: Seconds) -> float:
    return statistics.quantiles(seconds, n=4)[0]


def compare(place: Place, other: str, groups: list[str], share: float) -> bool:
    """This checkout's figures and another's; returns whether one of this one's is worse.

    Other work on the machine only adds time: so it is worse where both its median and its lower quartile are.
    """
    worse = False
    print(f"{place.directory}: {other}, and this checkout")
    sides = [
        Side(os.path.abspath(each), place._replace(directory=f"{place.directory}/{name}"))
        for each, name in ((other, "other"), (ROOT, "this"))
    ]
    for group in groups:
        mine, theirs = sides[1].ask(group), sides[0].ask(group)
        if isinstance(mine, str):
            raise RuntimeError(f"{group}: {mine}")
        assert isinstance(mine, dict)
        print(f" {group}" if isinstance(theirs, dict) else f" {group}: not in the other: {theirs}", flush=True)
        for name, (rounds, _) in mine.items():
            if name not in theirs:  # type: ignore[operator]
                continue
            if isinstance(there_not := sides[0].ask(group, name, 1), str):
                print(f"  {name}: not in the other: {there_not}")
                continue
            before, after = in_turns(sides, group, name, max(2, int(rounds * share / BLOCK)))
            medians = statistics.median(after) / statistics.median(before)
            quartiles = quartile(after) / quartile(before)
            is_worse = min(medians, quartiles) > WORSE
            worse |= is_worse
            print(
                f"  {name:60} p50 {statistics.median(before) * 1e6:9.1f} {statistics.median(after) * 1e6:9.1f} us"
                f"  x {medians:5.2f}, of p25 {quartiles:5.2f} {'WORSE' if is_worse else ''}",
                flush=True,
            )
    for side in sides:
        side.close()
    return worse


def main() -> int:
    parser = argparse.ArgumentParser()
    parser.add_argument("directories", nargs="*")
    parser.add_argument("--against")
    parser.add_argument("--only", nargs="+", choices=pick_rows.GROUPS, default=list(pick_rows.GROUPS))
    parser.add_argument("--rounds", type=float, default=1.0)
    parser.add_argument("--pod-days", type=int, default=35)
    options, worse = parser.parse_args(), False
    logging.disable(logging.WARNING)  # many kinds of hosts, each with other nodes
    with ExitStack() as stack:
        home = stack.enter_context(tempfile.TemporaryDirectory())
        port = stack.enter_context(redis_server(home))
        for parent in options.directories or [home]:
            directory = stack.enter_context(tempfile.TemporaryDirectory(dir=parent))
            place = Place(f"{directory}/rows", port, options.pod_days)
            os.mkdir(place.directory)
            if options.against:
                worse |= compare(place, options.against, options.only, options.rounds)
            else:
                table(place, options.only)
    return int(worse)


if __name__ == "__main__":
    sys.exit(main())
