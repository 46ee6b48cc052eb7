"""By which clock leases end: the file server's where it stamps files itself, else this host's, without its steps.

A host whose own clock is ten minutes ahead would otherwise end live leases of the others, and one whose clock is set
forward, or that was suspended, those of all its own scripts.
"""

from __future__ import annotations

import errno
import os
import time
from collections.abc import Callable, Mapping
from contextlib import suppress
from functools import cache
from typing import NamedTuple, Protocol
from zlib import crc32

from airflow_provider_impala_lb.core.state.model import HostNote

MEASURE_EVERY = 60.0
"""Seconds between two measurements of the file server's time."""
STEP_SECONDS = 1.0
"""When the host's clock and its uptime differ by so much more or less than before, the clock was set: NTP does that to
a clock that is wrong, and to the one of a virtual machine that was stopped and does not know it."""
CLOSE_SECONDS = 10.0
"""A measurement that takes longer says too little of when it was: on a mount that hung meanwhile, or by a process that
was stopped. A lease has three times as long left when it is renewed."""
_ATTEMPTS = 3
FASTEST = 2.0
"""A host's clock that was set forward is followed at this speed: a lease is renewed four times in its life."""
PROBE = ".impala-lb-clock."
"""How the names of the files and directories begin that are made to try something, or for a measurement."""


class HostTime(NamedTuple):
    """What this host's clocks show.

    :ivar wall: seconds since the epoch. It may be set.
    :ivar uptime: seconds since the boot, also those in which the host was suspended (CLOCK_BOOTTIME). It cannot be set.
    :ivar boot: which boot of which kernel; "": not known.
    """

    wall: float
    uptime: float
    boot: str


class HostClock(Protocol):
    """Reads this host's clocks."""

    def __call__(self) -> HostTime:
        """What they show."""
        ...


def host_time() -> HostTime:
    """What this host's clocks show."""
    return HostTime(time.time(), uptime(), _boot())


def uptime() -> float:
    """Seconds since the boot; where there is no CLOCK_BOOTTIME (not Linux), without those of a suspension."""
    return time.clock_gettime(time.CLOCK_BOOTTIME) if hasattr(time, "CLOCK_BOOTTIME") else time.monotonic()


@cache
def _boot() -> str:
    try:
        # with the namespace: in one of its own the uptime begins elsewhere, time_namespaces(7)
        with open("/proc/sys/kernel/random/boot_id", encoding="utf-8") as file:
            boot = file.read() + os.readlink("/proc/self/ns/time")
    except OSError:
        return ""
    return f"{crc32(boot.encode()):08x}"


def steady(hosts: Mapping[str, HostNote], time: HostTime) -> float:
    """This host's time in seconds since the epoch, as it would be without the steps of its clock.

    It goes on from what was noted last on this kernel, by any process, and follows the host's clock at half to twice
    the speed of the uptime. So after a step it is wrong for as long as the step, and no lease that is renewed lapses.

    :param hosts: as noted in the state, by name.
    :param time: what this host's clocks show.
    """
    last: HostNote | None = None
    for note in hosts.values():
        if note.boot == time.boot and (last is None or note.uptime > last.uptime):
            last = note
    if last is None or not time.boot:
        return time.wall
    elapsed = max(0.0, time.uptime - last.uptime)
    return min(max(time.wall, last.seen + elapsed / FASTEST), last.seen + elapsed * FASTEST)


class ServerClock:
    """The time by which the file server stamps files, measured in a directory at once, every 60 s after, and when the
    host's clock was set: it runs by the uptime in between, which such a step does not reach.

    :param directory: in which something is made to measure.
    :param measure: gives the server's time in seconds since the epoch, for a directory; default `server_time`.
    """

    def __init__(self, directory: str, measure: Callable[[str], float] | None = None) -> None:
        self._directory = directory
        self._measure = measure or server_time
        self._measured: tuple[float, HostTime] | None = None  # in one piece: threads share it

    def now(self) -> float:
        """Seconds since the epoch. Call it outside the lock: it may make a small directory.

        :raises OSError: it cannot be measured, and never was, or the host's clock was set since: after that nothing
            tells for how long a virtual machine was stopped.
        """
        known, here = self._measured, host_time()
        was_set = known is not None and abs(_passed(known[1], here)) > STEP_SECONDS
        if known is None or was_set or here.uptime - known[1].uptime >= MEASURE_EVERY:
            try:
                known = self._measured = self._measure_closely()
            except OSError:
                if known is None or was_set:
                    raise
            here = host_time()
        server, at = known
        return server + here.uptime - at.uptime

    def _measure_closely(self) -> tuple[float, HostTime]:
        """The server's time, and what this host's clocks showed then.

        :raises OSError: it cannot be measured.
        """
        for _ in range(_ATTEMPTS):
            before = host_time()
            server = self._measure(self._directory)
            at = host_time()
            if at.uptime - before.uptime <= CLOSE_SECONDS and abs(_passed(before, at)) <= STEP_SECONDS:
                return server, at
        raise OSError(errno.ETIMEDOUT, f"{_ATTEMPTS} measurements took more than {CLOSE_SECONDS:g} s each")


def _passed(before: HostTime, after: HostTime) -> float:
    """Seconds by which a host's clock has gone on more than its uptime."""
    return after.wall - before.wall - (after.uptime - before.uptime)


def server_time(directory: str) -> float:
    """The file server's time, in seconds since the epoch: by its stamp on a new private directory.

    Not on a file: a client that a server has delegated a file to with its time stamps stamps it by its own clock (Linux
    fs/nfs/inode.c, ``nfs_setattr`` with ``nfs_have_delegated_mtime``), and nobody is delegated a directory so.

    :param directory: in which it is made.
    :raises OSError: it cannot be made.
    """
    path = os.path.join(directory, PROBE + os.urandom(8).hex())
    os.mkdir(path, 0o700)
    try:
        return os.stat(path, follow_symlinks=False).st_mtime
    finally:
        with suppress(OSError):
            os.rmdir(path)
