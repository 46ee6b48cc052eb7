"""Two processes that take turns on one state file, to see whether a lock there does what it promises.

Run as a program by the doctor, since on a broken mount a lock may hang where no signal reaches it (NFSv3 without a
lock manager): ``python -m airflow_provider_impala_lb.doctor.lock_trial PATH PATH``, the same new file by one mount
or by two. It prints one JSON object: ``{"turns", "stale", "lost", "seconds"}``. On two hosts: two_hosts.py.
"""

from __future__ import annotations

import os
import sys
import time
from collections.abc import Callable

import msgspec

from airflow_provider_impala_lb.core.state.state import State
from airflow_provider_impala_lb.stores.file.store import FileStore

FAST_SECONDS = 1.5
"""For so long they take turns without a pause."""
SLOW_TURNS = 3
"""So many turns of each are taken with a pause after that."""
SLOW_PAUSE = 1.1
"""Longer than the second for which GlusterFS's caches serve what they got with a lookup: hot loops hide that."""
RUSH = 100
"""So often each of them counts in the end, both at once."""
_TURN, _RUSH = "turn", "rush"  # nodes of the state, whose picks are what is counted
_BEGIN_RUSH = -1


class TrialResult(msgspec.Struct):
    """What came of a trial.

    :ivar turns: how many were taken.
    :ivar stale: how many of them did not see the other's last write.
    :ivar lost: how many updates were lost when both wrote at once.
    :ivar seconds: how long it took.
    """

    turns: int
    stale: int
    lost: int
    seconds: float


def lead(path: str, tell: Callable[[int], object], hear: Callable[[], int]) -> TrialResult:
    """Try the lock against a process that follows. What ``tell`` and ``hear`` raise goes through.

    :param path: of the state file, by this process's mount.
    :param tell: sends a number to the other process.
    :param hear: waits for a number of the other process.
    :raises StateUnavailable: the lock was not free, or the file is not to be had.
    """
    start = time.monotonic()
    turns = stale = 0
    store = FileStore(path)
    slow = SLOW_TURNS
    while slow:
        if time.monotonic() - start > FAST_SECONDS:
            slow -= 1
            time.sleep(SLOW_PAUSE)
            os.stat(path)  # a fresh lookup, which fills such a cache
        stale += not store.transact(_Expect(2 * turns))
        tell(2 * turns + 1)
        stale += not hear()
        turns += 1
    tell(_BEGIN_RUSH)
    for _ in range(RUSH):
        store.transact(_count)
    hear()  # the other has ended its rush too
    counted = store.transact(lambda state, now: state.node(_RUSH).picks)
    return TrialResult(turns=2 * turns, stale=stale, lost=2 * RUSH - counted, seconds=time.monotonic() - start)


def follow(path: str, tell: Callable[[int], object], hear: Callable[[], int]) -> None:
    """Be the other process: take a turn when told to, and in the end rush with the one that leads.

    :param path: of the state file, by this process's mount.
    :param tell: as for `lead`.
    :param hear: as for `lead`.
    :raises StateUnavailable: as `lead`.
    """
    store = FileStore(path)
    while (number := hear()) != _BEGIN_RUSH:
        tell(store.transact(_Expect(number)))
    for _ in range(RUSH):
        store.transact(_count)
    tell(RUSH)


def run_trial(paths: tuple[str, str]) -> TrialResult:
    """Try the lock on this host, with a second process.

    :param paths: of the state file: by the mount of the first process, and by that of the second.
    :raises StateUnavailable: as `lead`.
    :raises EOFError: the second process ended early.
    """
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
    result = lead(paths[0], _by(to_other[1]), _from(from_other[0]))
    os.waitpid(child, 0)
    return result


def _by(pipe: int) -> Callable[[int], object]:
    return lambda number: os.write(pipe, b"%d\n" % number)


def _from(pipe: int) -> Callable[[], int]:
    def hear() -> int:
        number = os.read(pipe, 16)
        if not number:
            raise EOFError("the other process ended early")
        return int(number)

    return hear


class _Expect:
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
    print(msgspec.json.encode(run_trial((sys.argv[1], sys.argv[2]))).decode())
