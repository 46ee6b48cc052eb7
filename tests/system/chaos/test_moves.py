"""Scripts while the nodes' load goes up and down at random: no two tries of one script ever run side by side."""

import collections
import itertools
import random
import re
import threading
import time

import pytest

from airflow_provider_impala_lb import Balancer
from airflow_provider_impala_lb.impala.script import metadata_sync
from airflow_provider_impala_lb.impala.sql.splitter import split
from airflow_provider_impala_lb.sandbox import Sandbox
from tests.support.scripts import script_run
from tests.support.sizes import SEED, sizes
from tests.system.chaos.load import LOAD

WORKERS, STATEMENTS, MOVES = 6, 4, 3


def work(config, worker, over, done, moves):
    """Restartable scripts one after the other: each writes its own table, four times over."""
    balancer = Balancer.from_config(config)
    script_run(balancer, split(f"CREATE TABLE IF NOT EXISTS moves{worker} (script INT, k INT)")).run()
    for number in range(10_000):
        if over.is_set():
            return
        sql = ";".join(
            f"INSERT OVERWRITE moves{worker} SELECT {number}, {k} WHERE sleep(700)" for k in range(1, STATEMENTS + 1)
        )
        name = f"w{worker}n{number}"
        key = f"key{worker}" if worker % 2 else None
        opened = []

        def begun(pick, session, opened=opened):
            opened.append(session.id)
            if len(opened) > 1:
                moves.append(pick.node)

        run = script_run(
            balancer,
            split(sql),
            owner=name,
            tags={"dag": name},
            session_key=key,
            restartable=True,
            max_wait=30,
            on_session=begun,
        )
        done[name] = run.run().session


@pytest.mark.parametrize("seconds", sizes("MOVE_SECONDS", 240))
def test_a_moved_script_has_ended_before_it_begins_anew(monkeypatch, seconds):
    monkeypatch.setattr(metadata_sync, "MOVE_SECONDS", 0.1)
    rng = random.Random(SEED)
    with Sandbox(nodes=3, lag=0) as cluster:
        config = {**cluster.config, "load": LOAD, "max_leases_per_node": 5}
        balancer = Balancer.from_config(config)
        done, moves, over = {}, [], threading.Event()
        threads = [threading.Thread(target=work, args=(config, n, over, done, moves)) for n in range(WORKERS)]
        for thread in threads:
            thread.start()
        start = time.monotonic()
        while time.monotonic() < start + seconds or (len(moves) < MOVES and time.monotonic() < start + 90):
            node, memory, before = rng.choice(cluster.nodes), rng.choice([0.85, 0.97, 0.97]), len(moves)
            node.set_load(memory=memory)
            begin, least = time.monotonic(), rng.uniform(1.0, 3.0)
            while time.monotonic() < begin + least or (
                memory == 0.97 and len(moves) == before and time.monotonic() < begin + 8
            ):
                time.sleep(0.05)
            node.set_load(memory=0.3)
        over.set()
        for node in cluster.nodes:
            node.set_load(memory=0.3)
        for thread in threads:
            thread.join(90)
            assert not thread.is_alive(), "a run hangs"
        journal = sorted((entry for node in cluster.nodes for entry in node.journal()), key=lambda entry: entry["t"])
        with balancer.connect() as connection, connection.cursor() as cursor:
            last = {}
            for worker in range(WORKERS):
                cursor.execute(f"SELECT script, k FROM moves{worker}")
                last[worker] = cursor.fetchall()
        status = balancer.status()

    opened, sessions = {}, collections.defaultdict(list)
    for entry in journal:
        if entry.get("event") == "open":
            opened[entry["session"]] = entry["t"]
        elif "metadata_sync=" not in (sql := entry.get("sql", "")) and (found := re.search(r"dag=(w\d+n\d+)", sql)):
            tries = sessions[found[1]]
            if not tries or tries[-1][0] != entry["session"]:
                assert entry["session"] not in {session for session, _ in tries}, "an earlier try went on"
                tries.append((entry["session"], []))
            tries[-1][1].append(entry)
    moved = 0
    for name, session in done.items():
        tries = sessions[name]
        assert tries[-1][0] == session
        assert [entry["state"] for entry in tries[-1][1]] == ["FINISHED"] * STATEMENTS
        for (_, before), (after, _) in itertools.pairwise(tries):
            moved += 1
            assert max(entry["t"] for entry in before) <= opened[after], f"{name} ran in two sessions at once"
    numbers = {
        worker: max(int(name.split("n")[1]) for name in done if name[1] == str(worker)) for worker in range(WORKERS)
    }
    assert last == {worker: [(numbers[worker], STATEMENTS)] for worker in range(WORKERS)}
    print(f"seed {SEED}: {len(done)} scripts, {moved} moves")
    assert len(done) >= WORKERS
    assert moved >= MOVES
    assert status["leases"] == [] and status["waiting"] == []
