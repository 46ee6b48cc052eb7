"""The store's clock: the file server's time, not the host's, since hosts that share a file disagree.

A lease ends by this clock. A host whose own clock is ten minutes ahead would otherwise end live leases of the others.
"""

from __future__ import annotations

import os
import time
from collections.abc import Callable
from contextlib import suppress
from typing import Protocol

MEASURE_EVERY = 60.0
"""Seconds between two measurements of the file server's time."""
PROBE = ".impala-lb-clock."
"""How the names of the files begin that are made for a measurement."""


class Clock(Protocol):
    """Tells the time by which leases end."""

    def now(self) -> float:
        """Seconds since the epoch."""
        ...


class HostClock:
    """For a local file system, whose time stamps are the host's own clock."""

    def now(self) -> float:
        """Seconds since the epoch."""
        return time.time()


class ServerClock:
    """The time by which the file server stamps files, measured in a directory at once and every 60 s after.

    Between two measurements it runs by the monotonic clock, so a step of the host's clock does not reach it.

    :param directory: in which files are made to measure.
    :param measure: gives the server's time in seconds since the epoch, for a directory; default `server_time`.
    """

    def __init__(self, directory: str, measure: Callable[[str], float] | None = None) -> None:
        self._directory = directory
        self._measure = measure or server_time
        self._server = self._monotonic = 0.0
        self._due = float("-inf")

    def now(self) -> float:
        """Seconds since the epoch. Call it outside the lock: it may create a small file."""
        monotonic = time.monotonic()
        if monotonic >= self._due:
            try:
                measured = self._measure(self._directory)
            except OSError:
                # A directory that may not be written, or is away: the old offset stays; at the start, the host's clock.
                measured = self._server + monotonic - self._monotonic if self._server else time.time()
            self._monotonic = monotonic = time.monotonic()
            self._server = measured
            self._due = monotonic + MEASURE_EVERY
        return self._server + monotonic - self._monotonic


def server_time(directory: str) -> float:
    """The file server's time, in seconds since the epoch: the server stamps a private file with its own "now"
    (utimensat without a time), and the stamp is read.

    :param directory: in which that file is made.
    :raises OSError: it cannot be made.
    """
    path = os.path.join(directory, PROBE + os.urandom(8).hex())
    descriptor = os.open(path, os.O_RDWR | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC | os.O_NOFOLLOW, 0o600)
    try:
        os.utime(descriptor)
        return os.fstat(descriptor).st_mtime
    finally:
        os.close(descriptor)
        with suppress(OSError):
            os.unlink(path)
