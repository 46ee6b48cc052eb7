"""Random lives of scripts: nothing twice, nothing lost, nothing out of order, no false word, no hang.

``LIFE_ONLY=17`` or ``LIFE_ONLY=17,43`` in the environment: live these again (what they are to suffer is the same each
time; how fast it all goes is not). The workers' logs are kept where the test says.
"""

from __future__ import annotations

import collections
import itertools
import os
import queue
import shutil
import tempfile
import time
import traceback
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest
from impala.dbapi import connect

from airflow_provider_impala_lb.sandbox import Sandbox, SandboxNode
from tests.support.sizes import SEED, sizes
from tests.system.lives.judge import ended_by_name, faults_of
from tests.system.lives.life import Life, Lived
from tests.system.lives.nursery import Nursery
from tests.system.lives.stage import Slot, Stage, hang_up
from tests.system.lives.story import DATABASES, Story

ONLY = os.environ.get("LIFE_ONLY")
AT_ONCE = 14
FLAGS = {"fe_service_threads": 512, "query_log_size": 45}


class Theatre:
    """A coordinator for each life at a time, and one that no harm is done to.

    :param cluster: all of them
    :param nursery: begins the workers
    :param directory: for what is kept
    """

    def __init__(self, cluster: Sandbox, nursery: Nursery, directory: Path) -> None:
        self._nursery, self._directory = nursery, directory
        *nodes, steady = cluster.nodes
        self._free: queue.SimpleQueue[Slot] = queue.SimpleQueue()
        self._clients: list[tuple[Any, Any]] = []
        for node in nodes:
            connection = connect(host=steady.host, port=steady.port, timeout=60)
            self._clients.append((connection, connection.cursor()))
            self._free.put(Slot(node, steady, self._clients[-1][1]))

    def close(self) -> None:
        """Hang up, while the cluster is there."""
        for connection, cursor in self._clients:
            hang_up(connection, cursor)

    def live(self, number: int) -> Lived:
        """One life.

        :param number: of it
        """
        story, slot = Story(SEED, number), self._free.get()
        try:
            directory = self._directory / story.name
            directory.mkdir()
            stage = Stage(story, slot, directory)
            lived = Lived(story, outcome="raised")
            try:
                with stage:
                    lived = Life(stage, self._nursery).live()
            except Exception:
                lived.faults.append(traceback.format_exc())
        finally:
            self._free.put(slot)
        lived.sent, lived.told, lived.happened = stage.sent, stage.told, stage.happened
        return lived


def prepare(node: SandboxNode) -> None:
    with connect(host=node.host, port=node.port, timeout=60) as connection, connection.cursor() as cursor:
        for database in DATABASES[1:]:
            cursor.execute(f"CREATE DATABASE {database}")


def chosen(lives: int) -> list[int]:
    """The first so many; of a few only those that wait for no page to become well again."""
    numbers = (number for number in itertools.count() if lives >= 100 or Story(SEED, number).pages == "well")
    return list(itertools.islice(numbers, lives))


def lines_of(lived: Lived, faults: list[str]) -> str:
    return "\n".join(
        [
            f"life {lived.story.number}, {lived.outcome}: {faults}",
            f" {lived.story}",
            *(f"  {line}" for line in lived.told),
        ]
    )


@pytest.mark.parametrize("lives", sizes("LIVES", 1800))
def test_lives_of_scripts(lives):
    numbers = [int(number) for number in ONLY.split(",")] if ONLY else chosen(lives)
    start, directory = time.monotonic(), Path(tempfile.mkdtemp(prefix="lives-"))
    at_once = min(AT_ONCE, len(numbers))
    with Sandbox(nodes=at_once + 1, lag=0, flags=FLAGS, users=None) as cluster, Nursery(directory / "said") as nursery:
        prepare(cluster.nodes[-1])
        theatre = Theatre(cluster, nursery, directory)
        with ThreadPoolExecutor(at_once) as pool:
            results = list(pool.map(theatre.live, numbers))
        theatre.close()
        ended = ended_by_name(cluster.nodes)
    wrong = [(lived, faults) for lived in results if (faults := faults_of(lived, ended))]
    outcomes, happened, questions = collections.Counter(), collections.Counter(), collections.Counter()  # type: ignore[var-annotated]
    for lived in results:
        outcomes[lived.outcome] += 1
        happened.update(set(lived.happened))
        questions.update(lived.questions)
    slowest, attempts = max(results, key=lambda lived: lived.seconds), [len(lived.words) for lived in results]
    print(f"\nseed {SEED}: {len(results)} lives in {time.monotonic() - start:.0f} s: {dict(outcomes)}")
    print(f"{sum(attempts)} processes; the slowest life, {slowest.story.number}, took {slowest.seconds:.0f} s")
    print(f"what happened, in so many lives: {dict(sorted(happened.items()))}")
    asked = sum(bool(lived.questions) for lived in results)
    print(f"{asked} lives had a question:" + "".join(f"\n  {times} x {why}" for why, times in questions.most_common()))
    if wrong or ONLY:
        print(f"what the workers said, and their logs: {directory}/said")
    else:
        shutil.rmtree(directory)
    if ONLY:
        print("\n".join(lines_of(lived, []) for lived in results))
    assert not wrong, f"seed {SEED}, {len(wrong)} lives\n" + "\n".join(lines_of(*each) for each in wrong)
