"""Time and memory of classifying a statement, and of binding parameters to it, beside cutting it out of its script.

Run it by ``python benchmarks/classify.py``. Each statement is 8 MB. What is asked of it is all that a run of it asks:
its kind, whether it may be sent again, what it changes and sets; the binding puts one value behind it.
"""

from __future__ import annotations

import time
import tracemalloc
from collections.abc import Callable
from functools import partial
from typing import Any

from airflow_provider_impala_lb.impala.sql.classification import classify
from airflow_provider_impala_lb.impala.sql.parameters import bind
from airflow_provider_impala_lb.impala.sql.splitter import split

BYTES = 8_000_000
ROW = "({}, 'name of {}', '2024-01-01 10:20:30', 'http://h/a?b={}', NULL, 1.5)"
SHAPES = {
    "INSERT .. VALUES": "insert into db.target values {rows}",
    "INSERT OVERWRITE PARTITION": "insert overwrite db.target partition (day='2024-01-01') values {rows}",
    "  into a target named t": "insert overwrite t partition (p=1) values {rows}",
    "  with its name in a value": "insert overwrite sales partition (p=1) values {rows}, ('sales', 1)",
    "  of SELECTs": "insert overwrite t partition (p=1) {selects}",
    "INSERT, marked at its end": "insert into db.target values {rows} -- impala-lb: safe to repeat",
    "  named in a value": "insert into db.target values {rows}, ('see -- impala-lb')",
    "WITH .. INSERT": "with x as (select * from (values {rows}) y) insert into db.target select * from x",
    "DELETE .. WHERE IN": "delete from db.target where (a, b, c, d, e, f) in ({rows})",
    "UPDATE .. FROM": "update x set a = 1 from db.target x where (x.a, x.b) in ({rows})",
    "CREATE TABLE AS": "create table db.target as values {rows}",
    "SELECT, a long expression": "select {sum} from db.target",
}


def statement(shape: str) -> str:
    if "{sum}" in shape:
        return shape.format(sum=" + ".join(f"a{number} * {number}" for number in range(BYTES // 18)))
    if "{selects}" in shape:
        return shape.format(selects="\nunion all ".join(["select 'at', `at`, a from u"] * (BYTES // 40)))
    number, rows, size = 0, [], 0
    while size < BYTES:
        rows.append(ROW.format(number, number, number))
        size += len(rows[-1]) + 2
        number += 1
    return shape.format(rows=",\n".join(rows))


def everything(sql: str) -> Any:
    found = classify(sql)
    return found.kind, found.changes_nothing, found.safe_to_repeat, found.effects


def measured(run: Callable[[], Any]) -> tuple[float, float]:
    """Seconds, the best of three, and MB at most."""
    seconds = []
    for _ in range(3):
        started = time.perf_counter()
        run()
        seconds.append(time.perf_counter() - started)
    tracemalloc.start()
    run()
    peak = tracemalloc.get_traced_memory()[1] / 1e6
    tracemalloc.stop()
    return min(seconds), peak


def main() -> None:
    print(f"{'8 MB of':<28}{'split s':>9}{'MB':>7}{'classify s':>12}{'MB':>7}{'bind s':>9}{'MB':>7}")
    for name, shape in SHAPES.items():
        sql = statement(shape)
        marked = sql.replace("db.target", "db.target /* ? */", 1) + " -- ?\n"
        figures = [
            measured(partial(split, sql)),
            measured(partial(everything, sql)),
            measured(partial(bind, f"{marked} :a", {"a": 1})),
        ]
        print(f"{name:<28}" + "".join(f"{s:>{w}.3f}{mb:>7.1f}" for (s, mb), w in zip(figures, (9, 12, 9), strict=True)))


if __name__ == "__main__":
    main()
