"""What a process pays before it works: a DAG file for the operator, a shell for ``impala-lb pick``.

Run: python benchmarks/import_time.py

Beside the operator, in the same run: SQLExecuteQueryOperator alone. Each import is in a fresh interpreter, the sides
alternate, and the smallest of five counts. Beside ``impala-lb pick``, whole, from exec to exit: a process that imports
the libraries which such a program needs, and does nothing. They alternate, too; medians of CPU and of wall-clock time.
"""

from __future__ import annotations

import os
import resource
import shutil
import statistics
import subprocess
import sys
import tempfile
import time

from pick import redis_server

OURS = "from airflow_provider_impala_lb.operators.impala_lb import ImpalaLBOperator"
THEIRS = "from airflow.providers.common.sql.operators.sql import SQLExecuteQueryOperator"
HEAVY = ("impala", "thrift", "duckdb", "redis", "sqlglot", "httpx")
MEASURE = (
    "import time, sys; start = time.perf_counter(); {statement}; "
    "print(time.perf_counter() - start, *(m for m in {heavy!r} if m in sys.modules))"
)
LIBRARIES = "argparse, logging, msgspec, yaml"
ROUNDS = 40
COMPILED = {key: value for key, value in os.environ.items() if key != "PYTHONDONTWRITEBYTECODE"}


def once(statement: str) -> tuple[float, set[str]]:
    code = MEASURE.format(statement=statement, heavy=HEAVY)
    command = [sys.executable, "-c", code]
    done = subprocess.run(command, capture_output=True, text=True, check=True, env=COMPILED)
    seconds, *modules = done.stdout.splitlines()[-1].split()
    return float(seconds), set(modules)


def whole(command: list[str]) -> tuple[float, float]:
    """A process's time: CPU, wall clock."""
    before, start = resource.getrusage(resource.RUSAGE_CHILDREN), time.perf_counter()
    subprocess.run(command, check=True, stdout=subprocess.DEVNULL, env=COMPILED)
    wall, after = time.perf_counter() - start, resource.getrusage(resource.RUSAGE_CHILDREN)
    return after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime, wall


def operator() -> None:
    once(OURS), once(THEIRS)  # compile what is not compiled yet
    pairs = [(once(OURS), once(THEIRS)) for _ in range(5)]
    ours = min(seconds for (seconds, _), _ in pairs)
    theirs = min(seconds for _, (seconds, _) in pairs)
    extra = sorted(pairs[0][0][1] - pairs[0][1][1])
    print(f"ImpalaLBOperator        {ours:6.3f} s")
    print(f"SQLExecuteQueryOperator {theirs:6.3f} s")
    print(f"difference {ours - theirs:+.3f} s, ratio {ours / theirs:.3f}; heavy modules it adds: {extra or 'none'}")


def pick(directory: str, name: str, state: str, libraries: str) -> None:
    """A table of one store: ``impala-lb pick``, and processes that only import."""
    config = f"{directory}/{name}.yml"
    with open(config, "w") as file:
        file.write(f"name: {name}\n{state}\nnodes:\n" + "".join(f"  - n{index}\n" for index in range(30)))
    program = "import sys; from airflow_provider_impala_lb.cli import program; sys.exit(program())"
    commands = {
        "impala-lb pick": [sys.executable, "-c", program, "--config", config, "pick"],
        f"import {libraries}": [sys.executable, "-c", f"import {libraries}"],
        "msgspec and yaml alone": [sys.executable, "-c", "import msgspec, yaml"],
        "bare Python": [sys.executable, "-c", "pass"],
    }
    times: dict[str, list[tuple[float, float]]] = {what: [] for what in commands}
    for turn in range(ROUNDS + 1):  # the first compiles, and makes the state
        for what, command in commands.items():
            took = whole(command)
            if turn:
                times[what].append(took)
    ours = [statistics.median(column) for column in zip(*times["impala-lb pick"], strict=True)]
    print(f"\n{name}, 30 nodes")
    for what, found in times.items():
        cpu, wall = (statistics.median(column) for column in zip(*found, strict=True))
        print(
            f"  {what:48} CPU {cpu * 1e3:6.1f} ms, wall {wall * 1e3:6.1f} ms; "
            f"the pick is {ours[0] / cpu:.2f} and {ours[1] / wall:.2f} times this"
        )


def main() -> None:
    operator()
    with tempfile.TemporaryDirectory() as directory:
        pick(directory, "lock-file", f"lock_file: {directory}/node_in_use.tmp", LIBRARIES)
        if shutil.which("redis-server"):
            with redis_server(directory) as port:
                pick(directory, "redis", f"store: redis://127.0.0.1:{port}", f"{LIBRARIES}, redis")


if __name__ == "__main__":
    main()
