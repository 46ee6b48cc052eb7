"""The store's clock: the file server's time, not the host's, since hosts that share a file disagree.

A lease ends by this clock. A host whose own clock is ten minutes ahead would otherwise end live leases of the others.
"""

from __future__ import annotations

import os
import secrets
import time
from collections.abc import Callable
from contextlib import suppress

from airflow_provider_impala_lb.stores.file import filesystem
from airflow_provider_impala_lb.stores.file.faults import fault_of

MEASURE_EVERY = 60.0
PROBE = ".impala-lb-clock."


class HostClock:
    """For a local file system, whose time stamps are the host's own clock."""

    def now(self) -> float:
        return time.time()


class ServerClock:
    """The time by which the file server stamps files, measured in ``directory`` at once and every 60 s after.

    Between two measurements it runs by the monotonic clock, so a step of the host's clock does not reach it.
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
    """Let the server stamp a private file with its own "now" (utimensat without a time), and read the stamp."""
    path = os.path.join(directory, PROBE + secrets.token_hex(8))
    descriptor = os.open(path, os.O_RDWR | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC | os.O_NOFOLLOW, 0o600)
    try:
        os.utime(descriptor)
        return os.fstat(descriptor).st_mtime
    finally:
        os.close(descriptor)
        with suppress(OSError):
            os.unlink(path)


def clock_of(where: str, directory: str) -> tuple[HostClock | ServerClock, bool]:
    """The clock for files in this directory, and whether a read under a lock sees there what was written under it.

    Parameters and errors as `file_system_of`.
    """
    magic = file_system_of(where, directory)
    return ServerClock(directory) if magic == filesystem.NFS else HostClock(), filesystem.is_coherent(magic)


def file_system_of(where: str, directory: str) -> int:
    """On what kind of file system it is.

    :param where: what is to lie there, for the error. :raises StateUnavailable, ConfigError: as `faults.fault_of`.
    """
    try:
        return filesystem.kind_of(directory)
    except OSError as error:
        raise fault_of(where, error, directory, "cannot be reached") from error
