"""What 500 short statements cost, beside impyla alone and Airflow's own provider for Impala.

Run: python benchmarks/statements.py [rounds]   exit code 1 where a median ratio is above its limit
Needs: pip install apache-airflow-providers-apache-impala==1.9.4

One coordinator of the practice cluster runs 500 statements ``SELECT n``, all their rows fetched, in three ways that
take turns, in an order that changes: impyla's cursor, the official hook's ``run()`` with a list (a script would be
split by sqlparse, which costs more than all the rest), and our hook's ``run()`` with a script. Both hooks log each
statement, to a file, as a task does. Each round gives one ratio of ours to each of the others; shown are their medians
and ranges. On a machine that has other work to do, the time of the processors tells more than the clock.
"""

from __future__ import annotations

import itertools
import logging
import os
import statistics
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

STATEMENTS = 500
LIMITS = {"impyla": 1.10, "official": 1.05}
TEXTS = [f"SELECT {n}" for n in range(STATEMENTS)]
EXPECTED = [[(n,)] for n in range(STATEMENTS)]


def worked(pid: int) -> float:
    """Seconds that the processors have spent on this process and on the coordinator's."""
    fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    return time.process_time() + (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")


def main(rounds: int) -> int:
    home = tempfile.mkdtemp(prefix="benchmark-airflow-")
    os.environ |= {"AIRFLOW_HOME": home, "AIRFLOW__CORE__LOAD_EXAMPLES": "False"}
    from airflow_provider_impala_lb.sandbox import Sandbox

    with Sandbox(nodes=1, lag=0, users=None) as cluster:
        node = cluster.nodes[0]
        os.environ["AIRFLOW_CONN_OURS"] = cluster.connection
        os.environ["AIRFLOW_CONN_OFFICIAL"] = f"impala://{node.host}:{node.port}/default"
        try:
            from airflow.providers.apache.impala.hooks.impala import ImpalaHook
        except ImportError:
            print("missing: pip install apache-airflow-providers-apache-impala==1.9.4")
            return 2
        from airflow.providers.common.sql.hooks.handlers import fetch_all_handler
        from impala.dbapi import connect

        from airflow_provider_impala_lb.hooks.impala_lb import ImpalaLBHook

        handler = logging.FileHandler(os.path.join(home, "task.log"))
        handler.setFormatter(logging.Formatter("[%(asctime)s] %(levelname)s - %(message)s"))
        logging.root.handlers[:] = [handler]
        logging.root.setLevel(logging.INFO)

        def impyla() -> list[list[tuple[int]]]:
            with connect(node.host, node.port) as connection, connection.cursor() as cursor:
                found = []
                for text in TEXTS:
                    cursor.execute(text)
                    found.append(cursor.fetchall())
                return found

        def official() -> list[list[tuple[int]]]:
            return ImpalaHook("official").run(TEXTS, handler=fetch_all_handler, return_last=False)

        def ours() -> list[list[tuple[int]]]:
            return ImpalaLBHook("ours").run(
                ";\n".join(TEXTS), handler=fetch_all_handler, split_statements=True, return_last=False
            )

        ways: dict[str, Callable[[], list[list[tuple[int]]]]] = {"impyla": impyla, "official": official, "ours": ours}
        orders = itertools.cycle(itertools.permutations(ways))
        seconds: dict[str, list[float]] = {name: [] for name in ways}
        cpu: dict[str, list[float]] = {name: [] for name in ways}
        for number in range(rounds + 1):
            for name in next(orders):
                start, began = time.perf_counter(), worked(node.pid)
                found = ways[name]()
                taken, work = time.perf_counter() - start, worked(node.pid) - began
                assert found == EXPECTED, name
                if number:  # the first is to warm up
                    seconds[name].append(taken)
                    cpu[name].append(work)
    failed = False
    for name, taken in seconds.items():
        middle = statistics.median(taken)
        each = middle / STATEMENTS * 1000
        print(
            f"{name:9} {middle:.3f} s ({min(taken):.3f} to {max(taken):.3f}), {each:.2f} ms a statement; "
            f"the processors worked {statistics.median(cpu[name]) / STATEMENTS * 1000:.2f} ms for it"
        )
    for name, limit in LIMITS.items():
        ratios = [ours / other for ours, other in zip(seconds["ours"], seconds[name], strict=True)]
        median = statistics.median(ratios)
        failed |= median > limit
        print(f"ours / {name:9} {median:.3f} ({min(ratios):.3f} to {max(ratios):.3f}), at most {limit:.2f}")
    return int(failed)


if __name__ == "__main__":
    sys.exit(main(int(sys.argv[1]) if len(sys.argv) > 1 else 5))
