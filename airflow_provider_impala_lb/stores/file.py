"""The state in one file that hosts share: locked, read, changed, written, unlocked.

Why in the lock file itself, and read after the lock, each measured on ext4, tmpfs and two NFS clients
(docs/design.md): a state read before the lock lost 70 % of the updates, one replaced by rename 42 to 75 % (NFS caches
names).
"""

from __future__ import annotations

import os
from collections.abc import Callable
from logging import getLogger

from airflow_provider_impala_lb.core.state import State
from airflow_provider_impala_lb.core.store import Result
from airflow_provider_impala_lb.errors import ConfigError, StateUnavailable
from airflow_provider_impala_lb.stores import filesystem
from airflow_provider_impala_lb.stores.clock import HostClock, ServerClock
from airflow_provider_impala_lb.stores.lock import Lock, require_regular, unusable
from airflow_provider_impala_lb.stores.slots import Slots

log = getLogger(__name__)

_READ_TRIES = 5


class FileStore:
    """The state in the file ``path``, shared by all processes on all hosts that mount it.

    :param deadline: seconds to wait for the lock.
    """

    def __init__(self, path: str, deadline: float = 5.0) -> None:
        self.where = path
        self._lock = Lock(path, deadline)
        self._layout = Slots(path)
        self._clock: HostClock | ServerClock | None = None
        self._warned = False

    @property
    def one_clock(self) -> bool:
        return True

    def transact(self, change: Callable[[State, float], Result]) -> Result:
        now = self._now()
        unreadable = False
        try:
            descriptor = self._lock.acquire()
            try:
                version, state, unreadable = self._layout.load(descriptor)
                result = change(state, now)
                self._layout.save(descriptor, version + 1, state)
            finally:
                self._lock.release(descriptor)
        except OSError as error:
            raise StateUnavailable(f"{self.where}: {error.strerror or error}") from error
        for records in state.records:
            records.close()
        if unreadable and not self._warned:
            self._warned = True
            log.warning("%s: the state in it was unreadable; it was started anew, and heals by itself", self.where)
        return result

    def read(self) -> tuple[State, float]:
        now = self._now()
        try:
            # O_NONBLOCK: opening a pipe to read would wait for a writer
            descriptor = os.open(self.where, os.O_RDONLY | os.O_CLOEXEC | os.O_NOFOLLOW | os.O_NONBLOCK)
        except FileNotFoundError:
            return State(), now
        except OSError as error:
            raise unusable(self.where, error) from error
        try:
            require_regular(self.where, descriptor)
            for _ in range(_READ_TRIES):
                state, again = self._layout.read(descriptor)
                if not again:
                    break
            return state, now
        except OSError as error:
            raise StateUnavailable(f"{self.where}: cannot be read: {error.strerror}") from error
        finally:
            os.close(descriptor)

    def _now(self) -> float:
        """The clock, chosen by the file system at first use. Outside the lock."""
        if self._clock is None:
            directory = os.path.dirname(self.where)
            try:
                descriptor = os.open(directory, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
            except FileNotFoundError:
                raise StateUnavailable(f"{self.where}: its directory is not there; is the share mounted?") from None
            except OSError as error:
                raise StateUnavailable(f"{self.where}: {error.strerror}") from error
            try:
                magic = filesystem.kind(descriptor)
            finally:
                os.close(descriptor)
            if not filesystem.is_coherent(magic):
                raise ConfigError(
                    f"lock_file {self.where}: lies on {filesystem.name(magic)}, which is not known to show one host "
                    "what another wrote under a lock: updates would be lost without an error. Put it on a local "
                    f"disk or NFS (known to be exact: {', '.join(sorted(set(filesystem.COHERENT.values())))})"
                )
            self._clock = ServerClock(directory) if magic == filesystem.NFS else HostClock()
        return self._clock.now()
