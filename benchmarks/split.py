"""Time of cutting a script into statements, beside that of Airflow's common SQL provider.

Run it by ``python benchmarks/split.py``. Both cut the same script of 2,000 statements in one process; the other
is ``DbApiHook.split_sql_string``, which is ``sqlparse.split(sqlparse.format(sql, strip_comments=True))``. Then
ours alone on 10 MB, with the highest memory it took beside the script itself.
"""

from __future__ import annotations

import time
import tracemalloc
from collections.abc import Callable, Sized

import sqlparse

from airflow_provider_impala_lb.impala.sql.splitter import split

STATEMENT = """-- part {}
insert into db.target /* +SHUFFLE */ select id, 'a;b', "it's" from `db`.`src` where day = '{}';
"""


def script(statements: int) -> str:
    return "".join(STATEMENT.format(number, number) for number in range(statements))


def seconds(run: Callable[[str], Sized], text: str, rounds: int) -> tuple[float, int]:
    """The best of ``rounds``, and the number of statements."""
    best, count = float("inf"), 0
    for _ in range(rounds):
        started = time.perf_counter()
        count = len(run(text))
        best = min(best, time.perf_counter() - started)
    return best, count


def common_sql(text: str) -> list[str]:
    return sqlparse.split(sqlparse.format(text, strip_comments=True))


def main() -> None:
    small = script(2_000)
    large = script(10_000_000 // len(STATEMENT))
    ours, ours_count = seconds(split, small, 5)
    theirs, theirs_count = seconds(common_sql, small, 1)
    big, big_count = seconds(split, large, 1)
    tracemalloc.start()
    split(large)
    peak = tracemalloc.get_traced_memory()[1]
    print(f"{'':<38}{'statements':>11}{'ms':>10}")
    print(f"{f'ours, {len(small) / 1e3:,.0f} KB':<38}{ours_count:>11,}{ours * 1e3:>10,.1f}")
    print(f"{f'common SQL (sqlparse {sqlparse.__version__}), same':<38}{theirs_count:>11,}{theirs * 1e3:>10,.1f}")
    print(f"{f'ours, {len(large) / 1e6:,.1f} MB':<38}{big_count:>11,}{big * 1e3:>10,.1f}")
    print(f"\nOurs is {theirs / ours:,.0f} times as fast; at the large one it took {peak / 1e6:,.1f} MB at most.")


if __name__ == "__main__":
    main()
