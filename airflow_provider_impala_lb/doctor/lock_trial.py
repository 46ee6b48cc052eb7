"""Two sides that take turns on one state file, to see whether a lock there does what it promises.

Run as a program by the doctor, since on a broken mount a lock may hang where no signal reaches it (NFSv3 without a
lock manager): ``python -m airflow_provider_impala_lb.doctor.lock_trial PATH PATH``, the same new file by one mount
or by two. It prints one JSON object: ``{"turns", "stale", "lost", "seconds"}``. On two hosts: two_hosts.py.
"""

from __future__ import annotations

import json
import os
import sys
import time
from collections.abc import Callable

import msgspec

from airflow_provider_impala_lb.core.state.state import State
from airflow_provider_impala_lb.stores.file.store import FileStore

FAST_SECONDS = 1.5
SLOW_TURNS = 3
SLOW_PAUSE = 1.1
"""Longer than the second for which GlusterFS's caches serve what they got with a lookup: hot loops hide that."""
RUSH = 100
_TURN, _RUSH = "turn", "rush"
_NOW_RUSH = -1


class Turns(msgspec.Struct):
    """How many ``turns`` were taken, how many of them were ``stale`` (did not see the other's last), and how many
    updates were ``lost`` when both wrote at once."""

    turns: int
    stale: int
    lost: int
    seconds: float


def lead(path: str, tell: Callable[[int], object], hear: Callable[[], int]) -> Turns:
    """Play against a side that follows. It is told whose turn it is by ``tell``, and heard by ``hear``.

    :raises StateUnavailable: the lock was not free, or the file is not to be had. What ``tell`` and ``hear`` raise.
    """
    start = time.monotonic()
    turns = stale = 0
    mine = FileStore(path)
    slow = SLOW_TURNS
    while slow:
        if time.monotonic() - start > FAST_SECONDS:
            slow -= 1
            time.sleep(SLOW_PAUSE)
            os.stat(path)  # a fresh lookup, which fills such a cache
        stale += not mine.transact(_expect(2 * turns))
        tell(2 * turns + 1)
        stale += not hear()
        turns += 1
    tell(_NOW_RUSH)
    for _ in range(RUSH):
        mine.transact(_count)
    hear()  # the other has ended its rush too
    counted = mine.transact(lambda state, now: state.node(_RUSH).picks)
    return Turns(turns=2 * turns, stale=stale, lost=2 * RUSH - counted, seconds=time.monotonic() - start)


def follow(path: str, tell: Callable[[int], object], hear: Callable[[], int]) -> None:
    """The other side: takes its turn when it is told to, and in the end rushes with the first. Errors as `lead`."""
    store = FileStore(path)
    while (number := hear()) != _NOW_RUSH:
        tell(store.transact(_expect(number)))
    for _ in range(RUSH):
        store.transact(_count)
    tell(RUSH)


def play(paths: tuple[str, str]) -> dict[str, float]:
    """Both sides on this host, the second in a process of its own. :returns: a `Turns`, ready for JSON."""
    to_other, from_other = os.pipe(), os.pipe()
    child = os.fork()
    if child == 0:
        status = 1
        try:
            os.close(to_other[1])  # else it would never hear that the first one is gone
            os.close(from_other[0])
            follow(paths[1], _by(from_other[1]), _from(to_other[0]))
            status = 0
        finally:
            os._exit(status)
    os.close(to_other[0])
    os.close(from_other[1])
    found = lead(paths[0], _by(to_other[1]), _from(from_other[0]))
    os.waitpid(child, 0)
    return msgspec.structs.asdict(found)


def _by(pipe: int) -> Callable[[int], object]:
    return lambda number: os.write(pipe, b"%d\n" % number)


def _from(pipe: int) -> Callable[[], int]:
    def hear() -> int:
        told = os.read(pipe, 16)
        if not told:
            raise EOFError("the other process ended early")
        return int(told)

    return hear


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
