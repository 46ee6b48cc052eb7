"""Two processes that take turns on one state file, to see whether a lock there does what it promises.

Run as a program by the doctor, since on a broken mount a lock may hang where no signal reaches it (NFSv3 without a
lock manager): ``python -m airflow_provider_impala_lb.stores.turns PATH PATH``, the same new file by one mount or by
two. It prints one JSON object: ``{"turns", "stale", "lost", "seconds"}``.
"""

from __future__ import annotations

import json
import os
import sys
import time

from airflow_provider_impala_lb.core.state import State
from airflow_provider_impala_lb.stores.file import FileStore

FAST_SECONDS = 1.5
SLOW_TURNS = 3
SLOW_PAUSE = 1.1
"""Longer than the second for which GlusterFS's caches serve what they got with a lookup: hot loops hide that."""
RUSH = 100
_TURN, _RUSH = "turn", "rush"


def play(paths: tuple[str, str]) -> dict[str, float]:
    """:returns: ``turns`` taken, how many of them were ``stale`` (did not see the other's last), and how many updates
    were ``lost`` when both wrote at once."""
    start = time.monotonic()
    to_other, from_other = os.pipe(), os.pipe()
    child = os.fork()
    if child == 0:
        status = 1
        try:
            os.close(to_other[1])  # else it would never hear that the first one is gone
            os.close(from_other[0])
            _answer(paths[1], to_other[0], from_other[1])
            status = 0
        finally:
            os._exit(status)
    os.close(to_other[0])
    os.close(from_other[1])
    turns = stale = 0
    mine = FileStore(paths[0])
    slow = SLOW_TURNS
    while slow:
        if time.monotonic() - start > FAST_SECONDS:
            slow -= 1
            time.sleep(SLOW_PAUSE)
            os.stat(paths[0])  # a fresh lookup, which fills such a cache
        stale += not mine.transact(_expect(2 * turns))
        os.write(to_other[1], b"%d\n" % (2 * turns + 1))
        stale += not int(os.read(from_other[0], 16))
        turns += 1
    os.write(to_other[1], b"-1\n")
    for _ in range(RUSH):
        mine.transact(_count)
    os.waitpid(child, 0)
    counted = mine.transact(lambda state, now: state.node(_RUSH).picks)
    return {"turns": 2 * turns, "stale": stale, "lost": 2 * RUSH - counted, "seconds": time.monotonic() - start}


def _answer(path: str, read: int, write: int) -> None:
    """The other one: takes its turn when it is told to, and in the end rushes with the first."""
    store = FileStore(path)
    while told := os.read(read, 16):
        number = int(told)
        if number < 0:
            break
        os.write(write, b"%d\n" % store.transact(_expect(number)))
    else:
        return  # the first one was killed
    for _ in range(RUSH):
        store.transact(_count)


class _expect:
    """A change that is right if the last turn was ``number``; counts on from there either way."""

    def __init__(self, number: int) -> None:
        self.number = number

    def __call__(self, state: State, now: float) -> bool:
        seen, state.node(_TURN).picks = state.node(_TURN).picks, self.number + 1
        return seen == self.number


def _count(state: State, now: float) -> None:
    state.node(_RUSH).picks += 1
    time.sleep(0.0005)  # wide enough for the other to come in between, if the lock lets it


if __name__ == "__main__":
    print(json.dumps(play((sys.argv[1], sys.argv[2]))))
