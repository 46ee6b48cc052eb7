"""Scripts while coordinators are killed, stopped and drained at random: what each run said is what the data show."""

import collections
import random
import threading
import time

import pytest

from airflow_provider_impala_lb import Balancer
from airflow_provider_impala_lb.errors import NoNodeAvailable, StatementFailed
from airflow_provider_impala_lb.impala.sql.splitter import split
from airflow_provider_impala_lb.sandbox import Sandbox
from tests.support.scripts import script_run
from tests.support.sizes import SEED, sizes

WORKERS, STATEMENTS = 6, 4


def work(config, worker, until, results):
    """Scripts one after the other; each row says which script and which statement put it there."""
    balancer = Balancer.from_config(config)
    for number in range(10_000):
        if time.monotonic() > until:
            return
        script = f"{worker}-{number}"
        sql = ";".join(f"INSERT INTO chaos SELECT '{script}', {k} WHERE sleep(15)" for k in range(1, STATEMENTS + 1))
        try:
            script_run(balancer, split(f"SET MEM_LIMIT=1g; {sql}"), owner=script).run()
            results[script] = (STATEMENTS + 1, "none")
        except StatementFailed as error:
            results[script] = (error.number - 1, error.outcome)  # the first is the SET
        except NoNodeAvailable:
            results[script] = (0, "not started")
            time.sleep(0.05)


def trouble(cluster, rng, until):
    """One coordinator at a time, so that there is always somewhere to go."""
    done = collections.Counter()
    while time.monotonic() < until:
        node = rng.choice(cluster.nodes)
        what = rng.choice(["kill", "pause", "drain"])
        done[what] += 1
        getattr(node, what)()
        time.sleep(rng.uniform(0.1, 0.6))
        if what == "pause":
            node.resume()
        else:
            node.kill()
            node.start()
        time.sleep(rng.uniform(0.0, 0.3))
    return done


@pytest.mark.parametrize("seconds", sizes("CHAOS_SECONDS", 240))
def test_what_a_run_says_is_what_the_data_show(seconds):
    rng = random.Random(SEED)
    with Sandbox(nodes=3, lag=0) as cluster:
        session = {**cluster.config["session"], "open_timeout": 1, "rpc_timeout": 2}
        config = {**cluster.config, "session": session}
        balancer = Balancer.from_config(config)
        script_run(balancer, split("CREATE TABLE chaos (script STRING, k INT)")).run()
        results = {}
        until = time.monotonic() + seconds
        threads = [threading.Thread(target=work, args=(config, n, until, results)) for n in range(WORKERS)]
        for thread in threads:
            thread.start()
        troubles = trouble(cluster, rng, until)
        for thread in threads:
            thread.join(60)
            assert not thread.is_alive(), "a run hangs"
        for node in cluster.nodes:
            balancer.ready(node.address)
        with balancer.connect() as connection, connection.cursor() as cursor:
            cursor.execute("SELECT script, k, count(*) FROM chaos GROUP BY script, k")
            rows = {(script, k): count for script, k, count in cursor.fetchall()}
        leases = balancer.status()["leases"]
    ended = collections.Counter(outcome for _, outcome in results.values())
    print(f"seed {SEED}: {len(results)} scripts, {dict(ended)}, {dict(troubles)}")
    assert len(results) > 50
    assert ended["none"] > 20
    assert troubles.total() > 5
    assert set(rows.values()) <= {1}, "a statement ran twice"
    for script, (reached, outcome) in results.items():
        ran = [rows.get((script, k), 0) for k in range(1, STATEMENTS + 1)]
        before, at, after = ran[: max(reached - 1, 0)], ran[max(reached - 1, 0) : reached], ran[reached:]
        told = f"{script} said statement {reached} {outcome}, the data show {ran}"
        assert all(before), told
        if outcome == "none":
            assert all(ran), told
            continue
        assert not any(after), told
        if outcome == "not started":
            assert not any(at), told
    assert leases == []
