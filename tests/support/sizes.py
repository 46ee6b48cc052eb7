"""How often what is random, or is killed, is repeated: in `make test`, in `make test-all`, and in `make test-long`.

In the long suite the environment may say another number, by the name in this table: ``KILLS=50000 make test-long``.
``SEED=7``: another sequence of everything that is random; a failure names the seed that it was found with.
"""

import os
from collections.abc import Collection, Iterable
from typing import Any

import pytest

SEED = int(os.environ.get("SEED", "4692"))

SIZES: dict[str, tuple[int | None, int, int]] = {
    # name: quick (None: not there), slow, long
    "EXAMPLE_RUNS": (1, 8, 200),  # of the example DAG through Airflow
    "KILLS": (20, 500, 10_000),  # kill -9 of processes that pick
    "LEASE_KILLS": (20, 100, 2_000),  # of processes that hold leases
    "JOURNAL_KILLS": (20, 200, 4_000),  # of processes that write journals
    "FAULT_RUNS": (None, 1_000, 10_000),  # random scripts over a network that breaks at random
    "LIVES": (4, 500, 2_000),  # of scripts: attempts that are killed and stopped, where all breaks at random
    "STALE_RUNS": (None, 100, 2_000),  # sticky scripts whose coordinator is gone
    "CHAOS_SECONDS": (None, 12, 600),  # scripts while coordinators are killed, stopped and drained at random
    "MOVE_SECONDS": (None, 15, 600),  # restartable scripts while the load goes up and down at random
    "POD_DAYS": (None, 3, 365),  # of one pod a minute, simulated, on a real store
    "GLUSTER_DAYS": (None, 1, 7),  # the same on a GlusterFS
    "DAILY_KEYS": (None, 5_000, 100_000),  # session keys a day, for three days
}


def sizes(name: str, seconds: float = 300) -> list[object]:
    """For ``pytest.mark.parametrize``: the same test in each suite, in that suite's size.

    :param name: in `SIZES`
    :param seconds: that the slow one may take. No mark of the test itself: that would hold for the long one, too
    """
    quick, slow, long = SIZES[name]
    found = [
        pytest.param(slow, marks=[pytest.mark.slow, pytest.mark.timeout(seconds)]),
        pytest.param(int(os.environ.get(name, long)), marks=[pytest.mark.long, pytest.mark.timeout(24 * 3600)]),
    ]
    return found if quick is None else [quick, *found]


def cases(all_cases: Iterable[object], quick: Collection[str]) -> list[Any]:
    """For ``pytest.mark.parametrize``: all cases, of which a few are in the quick suite.

    :param all_cases: each named by its ``str()``
    :param quick: the names of those few
    """
    names = set(map(str, all_cases))
    assert names.issuperset(quick), names
    return [
        pytest.param(each, id=str(each), marks=() if str(each) in quick else pytest.mark.slow) for each in all_cases
    ]
