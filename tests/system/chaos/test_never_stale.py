"""A sticky script whose coordinator is gone moves, and reads exactly what the script before it wrote there.

Rounds of pairs: ten scripts write on one coordinator, each its own table; then that coordinator is killed, shut down or
stopped, and for each of the ten one that depends on it runs at once, on whichever other coordinator. Their metadata lag
up to 3 s behind. The same rounds without the barrier show that they would find the fault.
"""

import collections
import random
import time
from concurrent.futures import ThreadPoolExecutor

import pytest

from airflow_provider_impala_lb.errors import StatementFailed
from airflow_provider_impala_lb.sandbox import Sandbox
from tests.support.scripts import changed, only, rows_of, run, sent
from tests.support.sizes import SEED, sizes

PAIRS, LAG = 10, 3.0
ENDS = ("kill", "drain", "pause")

BEFORE = {
    "insert": "CREATE TABLE {t} AS SELECT 0 a",
    "new table": None,
    "overwrite": "CREATE TABLE {t} AS SELECT 0 a",
    "new partition": "CREATE TABLE {t} PARTITIONED BY (p) STORED AS PARQUET AS SELECT 0 a, 0 p",
    "as select": None,
    "new column": "CREATE TABLE {t} AS SELECT 0 a",
    "made anew": "CREATE TABLE {t} AS SELECT 0 a",
}
"""What every coordinator knows of the table at the beginning."""
WRITE = {
    "insert": "INSERT INTO {t} VALUES ({n}); INSERT INTO {t} SELECT {n} + 1",
    "new table": "CREATE TABLE {t} (a INT) STORED AS PARQUET; INSERT INTO {t} VALUES ({n})",
    "overwrite": "INSERT OVERWRITE {t} SELECT {n}",
    "new partition": "INSERT INTO {t} PARTITION (p=1) VALUES ({n}); INSERT INTO {t} PARTITION (p=2) VALUES ({n})",
    "as select": "CREATE TABLE {t} AS SELECT {n} a UNION ALL SELECT {n} + 1",
    "new column": "ALTER TABLE {t} ADD COLUMNS (b INT); INSERT INTO {t} VALUES ({n}, 7)",
    "made anew": "DROP TABLE {t}; CREATE TABLE {t} (b INT, c INT) STORED AS PARQUET; INSERT INTO {t} VALUES ({n}, 1)",
}
KINDS = list(WRITE)


def expected(kind, n):
    return {
        "insert": [(0,), (n,), (n + 1,)],
        "new table": [(n,)],
        "overwrite": [(n,)],
        "new partition": [(0, 0), (n, 1), (n, 2)],
        "as select": [(n,), (n + 1,)],
        "new column": [(0, None), (n, 7)],
        "made anew": [(n, 1)],
    }[kind]


@pytest.fixture(scope="module")
def lagging():
    with Sandbox(nodes=3, lag=LAG) as cluster:
        yield cluster


def prepared(cluster, prefix, runs, rng):
    """(table, kind, number) for each run, and the tables as all coordinators know them."""
    pairs = [(f"{prefix}{number}", rng.choice(KINDS), rng.randrange(1, 1000)) for number in range(runs)]
    make = [BEFORE[kind].format(t=table) for table, kind, _ in pairs if BEFORE[kind]]
    run(changed(cluster), f"{'; '.join(make)}; SET SYNC_DDL=1; CREATE TABLE {prefix}_last (a INT)")
    return pairs


def tally(cluster, prefix, runs):
    """How often the result was right, wrong, or an error, by the way the coordinator went; and what was not right."""
    rng, found, bad = random.Random(SEED), collections.Counter(), []
    pairs = prepared(cluster, prefix, runs, rng)
    for number in range(0, runs, PAIRS):
        node, end = rng.choice(cluster.nodes), rng.choice(ENDS)
        # Each round has a state of its own: no coordinator is left out for what it did in an earlier one.
        config = {"lock_file": str(cluster.directory / f"{prefix}{number}.tmp"), "session": {"open_timeout": 2}}

        def write(pair, node=node):
            table, kind, n = pair
            script = WRITE[kind].format(t=table, n=n)
            return sent(run(only(cluster, node), script))

        def read(pair, upstream, config=config, node=node):
            assert upstream.host == node.address
            script = f"SELECT * FROM {pair[0]}"
            try:
                done = run(changed(cluster, **config), script, prefer=node.address, upstream=upstream, handler=rows_of)
            except StatementFailed as error:
                return "error", error.reason
            assert done.node != node.address
            rows = sorted(done.results[0])
            return ("right", "") if rows == expected(*pair[1:]) else ("wrong", f"{rows}")

        chosen = pairs[number : number + PAIRS]
        with ThreadPoolExecutor(PAIRS) as pool:
            left = list(pool.map(write, chosen))
            getattr(node, end)()
            try:
                results = list(pool.map(read, chosen, left))
            finally:
                node.stop()
                node.start()
        for pair, (result, what) in zip(chosen, results, strict=True):
            found[f"{end}: {result}"] += 1
            found[result] += 1
            if result != "right":
                bad.append((end, *pair, result, what))
    print(f"seed {SEED}, {prefix}: {dict(found)}")
    return found, bad


@pytest.mark.parametrize("runs", sizes("STALE_RUNS", 1200))
def test_what_moves_never_reads_stale(lagging, runs):
    found, bad = tally(lagging, f"with_barrier{runs}_", runs)
    assert bad == []
    assert found["right"] == runs


@pytest.mark.slow
@pytest.mark.parametrize("between", ["SELECT 1", "CREATE TABLE {t}_own AS SELECT 1 a"])
def test_what_was_written_two_scripts_before_is_known_too(lagging, between):
    """Three scripts that stick to one coordinator, in a row; the one between says nothing of the first one's table."""
    table = f"chain{time.time_ns()}"
    run(changed(lagging), f"SET SYNC_DDL=1; CREATE TABLE {table} AS SELECT 0 a")
    node = lagging.nodes[0]
    balancer = changed(lagging, lock_file=str(lagging.directory / f"{table}.tmp"))
    first = run(only(lagging, node), f"INSERT INTO {table} VALUES (1)")
    second = run(balancer, between.format(t=table), prefer=node.address, upstream=sent(first), on_unavailable="fail")
    node.kill()
    try:
        third = run(balancer, f"SELECT a FROM {table}", prefer=node.address, upstream=sent(second), handler=rows_of)
    finally:
        node.start()
    assert sorted(third.results[0]) == [(0,), (1,)]
    # And on it goes: a third coordinator may be next.
    assert f"default.{table}" in third.left.written


@pytest.mark.parametrize("runs", sizes("STALE_RUNS", 1200))
def test_without_the_barrier_the_same_runs_find_wrong_results(lagging, monkeypatch, runs):
    monkeypatch.setattr("airflow_provider_impala_lb.impala.script.run.make_visible", lambda *_, **__: None)
    found, bad = tally(lagging, f"without_barrier{runs}_", runs)
    print(*bad[:5], sep="\n")
    assert found["wrong"] > 0
