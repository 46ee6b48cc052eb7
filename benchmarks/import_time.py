"""What a DAG file pays for importing the operator. Run: python benchmarks/import_time.py

Beside it, in the same run: SQLExecuteQueryOperator alone.
Each import is in a fresh interpreter; the two sides alternate, and the smallest of five counts.
"""

from __future__ import annotations

import subprocess
import sys

OURS = "from airflow_provider_impala_lb.operators.impala_lb import ImpalaLBOperator"
THEIRS = "from airflow.providers.common.sql.operators.sql import SQLExecuteQueryOperator"
HEAVY = ("impala", "thrift", "duckdb", "redis", "sqlglot", "httpx")
MEASURE = (
    "import time, sys; start = time.perf_counter(); {statement}; "
    "print(time.perf_counter() - start, *(m for m in {heavy!r} if m in sys.modules))"
)


def once(statement: str) -> tuple[float, set[str]]:
    code = MEASURE.format(statement=statement, heavy=HEAVY)
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    seconds, *modules = done.stdout.splitlines()[-1].split()
    return float(seconds), set(modules)


def main() -> None:
    once(OURS), once(THEIRS)  # compile what is not compiled yet
    pairs = [(once(OURS), once(THEIRS)) for _ in range(5)]
    ours = min(seconds for (seconds, _), _ in pairs)
    theirs = min(seconds for _, (seconds, _) in pairs)
    extra = sorted(pairs[0][0][1] - pairs[0][1][1])
    print(f"ImpalaLBOperator        {ours:6.3f} s")
    print(f"SQLExecuteQueryOperator {theirs:6.3f} s")
    print(f"difference {ours - theirs:+.3f} s, ratio {ours / theirs:.3f}; heavy modules it adds: {extra or 'none'}")


if __name__ == "__main__":
    main()
