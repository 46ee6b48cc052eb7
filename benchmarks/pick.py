"""What a pick costs: one process and eight, 30 nodes, on one lock file and, if it is there, one Redis.

Run: python benchmarks/pick.py [DIRECTORY]

Beside it, in the same run: a pick from a plain list (no sharing at all), and the least that sharing by a lock can cost:
open, flock, read, write, close of a small file.
"""

from __future__ import annotations

import fcntl
import itertools
import os
import shutil
import socket
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager

from airflow_provider_impala_lb import Balancer

NODES = [f"n{index}" for index in range(30)]
PICKS = 3000


def timed(action: Callable[[], object], times: int) -> list[float]:
    seconds = []
    for _ in range(times):
        start = time.perf_counter()
        action()
        seconds.append(time.perf_counter() - start)
    return sorted(seconds)


def say(what: str, seconds: list[float], base: float) -> float:
    median, p99 = statistics.median(seconds), seconds[int(len(seconds) * 0.99)]
    ratio = f"{median / base:6.1f} x the bare lock" if base else ""
    print(f"{what:44} p50 {median * 1e6:8.1f} us  p99 {p99 * 1e6:9.1f} us  {ratio}")
    return median


def bare_lock(path: str) -> Callable[[], object]:
    def turn() -> None:
        descriptor = os.open(path, os.O_RDWR | os.O_CREAT)
        fcntl.flock(descriptor, fcntl.LOCK_EX)
        count = int(os.pread(descriptor, 20, 0) or 0)
        os.pwrite(descriptor, b"%020d" % (count + 1), 0)
        os.close(descriptor)

    return turn


def crowd(config: dict[str, object]) -> list[float]:
    """Eight processes at once, back to back; all their times."""
    readers = []
    for _ in range(8):
        read, write = os.pipe()
        if os.fork() == 0:
            seconds = timed(Balancer.from_config(config).get_host, PICKS // 8)
            os.write(write, " ".join(f"{value:.7f}" for value in seconds).encode())
            os._exit(0)
        os.close(write)
        readers.append(os.fdopen(read))
    times = [float(value) for reader in readers for value in reader.read().split()]
    for _ in readers:
        os.wait()
    return sorted(times)


@contextmanager
def redis_server(directory: str) -> Iterator[str]:
    path = f"{directory}/redis.sock"
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    options = f"--port {port} --bind 127.0.0.1 --unixsocket {path} --dir {directory} --appendonly no"
    server = subprocess.Popen(["redis-server", *options.split(), "--save", ""], stdout=subprocess.DEVNULL)
    try:
        while not os.path.exists(path):  # it listens
            time.sleep(0.01)
        yield f"redis://127.0.0.1:{port}"
    finally:
        server.kill()
        server.wait()


def main() -> None:
    with tempfile.TemporaryDirectory(dir=sys.argv[1] if len(sys.argv) > 1 else None) as directory:
        config = {"nodes": NODES, "lock_file": f"{directory}/node_in_use.tmp", "policy": "round_robin"}
        turn = itertools.cycle(NODES)
        base = say("bare lock, read, write", timed(bare_lock(f"{directory}/bare"), PICKS), 0.0)
        say("next of a list, shared by nobody", timed(lambda: next(turn), PICKS), base)
        balancer = Balancer.from_config(config)
        say("get_host, one process", timed(balancer.get_host, PICKS), base)
        loaded = Balancer.from_config({**config, "policy": "least_loaded", "lock_file": f"{directory}/loaded"})
        held = [loaded.acquire("bench") for _ in range(200)]
        say("get_host, least_loaded, 200 leases held", timed(loaded.get_host, PICKS), base)
        for pick in held:
            pick.release()
        say("get_host, eight processes at once", crowd(config), base)
        if shutil.which("redis-server"):
            with redis_server(directory) as url:
                shared = {"nodes": NODES, "store": url, "policy": "round_robin"}
                say("Redis: get_host, one process", timed(Balancer.from_config(shared).get_host, PICKS), base)
                say("Redis: get_host, eight processes at once", crowd(shared), base)


if __name__ == "__main__":
    main()
