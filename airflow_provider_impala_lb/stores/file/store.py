"""The state in one file that hosts share: locked, read, changed, written, unlocked.

Why in the lock file itself, and read after the lock, each measured on ext4, tmpfs and two NFS clients
(docs/design.md): a state read before the lock lost 70 % of the updates, one replaced by rename 42 to 75 % (NFS caches
names).

Where a read under the lock sees what was written under it (filesystem.py), the state lies in the file (slots.py).
Elsewhere the file is made for the other mode, versions in its attributes (cas.py), and stays empty. The file says which
it is, so that all hosts agree, by whatever way they reach it.
"""

from __future__ import annotations

import os
import secrets
import time
from collections.abc import Callable
from contextlib import suppress
from logging import getLogger
from typing import Literal

from airflow_provider_impala_lb.core.ports import Result
from airflow_provider_impala_lb.core.state.loading import load_or_reset
from airflow_provider_impala_lb.core.state.state import State, encode
from airflow_provider_impala_lb.errors import ConfigError, StateUnavailable
from airflow_provider_impala_lb.stores.file import filesystem, used
from airflow_provider_impala_lb.stores.file import xattr as attributes
from airflow_provider_impala_lb.stores.file import xattr_versions as cas
from airflow_provider_impala_lb.stores.file.clock import PROBE, HostClock, ServerClock, clock_of
from airflow_provider_impala_lb.stores.file.faults import fault_of
from airflow_provider_impala_lb.stores.file.lock import Lock, make_empty, require_regular
from airflow_provider_impala_lb.stores.file.state_slots import MAGIC, Slots
from airflow_provider_impala_lb.stores.file.xattr_versions import Versions

log = getLogger(__name__)

_READ_TRIES = 5


class FileStore:
    """The state in the file ``path``, shared by all processes on all hosts that mount it.

    :param deadline: seconds to wait for the lock.
    """

    def __init__(self, path: str, deadline: float = 5.0) -> None:
        self.where = path
        self._directory = os.path.dirname(path)
        self._what = f"lock_file {path}"
        self._lock = Lock(path, deadline, self._make)
        self._slots, self._versions = Slots(path), Versions(path)
        self._is_cas: bool | None = None  # as the file said last
        self._clock: HostClock | ServerClock | None = None
        self._host_clock = HostClock()
        self._coherent = True
        self._warned = False

    @property
    def mode(self) -> Literal["slots", "cas"]:
        """In which mode the file is, or if it is not there will be made.

        :raises StateUnavailable, ConfigError: that is not known yet, and the file cannot be read.
        """
        if self._is_cas is None:
            self.read()
        return "cas" if self._is_cas else "slots"

    @property
    def one_clock(self) -> bool:
        """Whether all hosts have one clock here; raises as `mode`. Not in the mode ``cas``: GlusterFS stamps files with
        the client's time (storage/ctime, "Consistent time attributes"), so there each host goes by its own."""
        return self.mode == "slots"

    def transact(self, change: Callable[[State, float], Result]) -> Result:
        until = time.monotonic() + self._lock.deadline
        now = self._now()
        unreadable = committed = False

        def changed(record: bytes | None) -> tuple[bytes, Result]:
            nonlocal unreadable
            state, unreadable = load_or_reset(self._what, record)
            result = change(state, self._host_clock.now())
            return encode(state), result

        try:
            descriptor = self._lock.acquire()
            try:
                self._is_cas = self._find_mode(descriptor)
                if self._is_cas:
                    result = self._versions.update(descriptor, changed, until)
                    committed = True  # the server has said so: no error of the unlock after it can mean otherwise
                else:
                    version, state, unreadable = self._slots.load(descriptor)
                    result = change(state, now)
                    self._slots.save(descriptor, version + 1, state)
                    state.close()
            except BaseException:
                self._lock.release_quietly(descriptor)
                raise
            self._lock.release(descriptor)
        except OSError as error:
            if not committed:
                if isinstance(error, attributes.OutcomeUnknown):
                    raise StateUnavailable(f"{self.where}: {error.strerror}") from error
                raise fault_of(self.where, error, self._directory, "cannot be written") from error
        used.note(self._directory)
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
            self._is_cas = not self._coherent
            return State(), now
        except OSError as error:
            raise fault_of(self.where, error, self._directory, "cannot be opened") from error
        try:
            require_regular(self.where, descriptor)
            self._is_cas = self._find_mode(descriptor)
            if self._is_cas:
                state, _ = load_or_reset(self._what, self._versions.read(descriptor))
                return state, self._host_clock.now()
            for _ in range(_READ_TRIES):
                state, again = self._slots.read(descriptor)
                if not again:
                    break
            return state, now
        except OSError as error:
            raise fault_of(self.where, error, self._directory, "cannot be read") from error
        finally:
            os.close(descriptor)

    def try_out(self) -> None:
        """Write and lock as a pick does. Where the file is not there yet, another one in its directory, which is
        removed: whoever tries may be another user than the workers.

        :raises StateUnavailable, ConfigError: as :meth:`transact`.
        """
        if os.path.lexists(self.where):
            self.transact(lambda state, now: None)
            return
        self._now()
        path = os.path.join(self._directory, PROBE + secrets.token_hex(8))
        try:
            with Lock(path, self._lock.deadline, self._make).hold() as descriptor:
                os.pwrite(descriptor, b"tried", 0)
        except (ConfigError, StateUnavailable) as error:
            raise type(error)(str(error).replace(path, self.where)) from error
        except OSError as error:
            raise fault_of(self.where, error, self._directory, "cannot be made") from error
        finally:
            with suppress(OSError):
                os.unlink(path)

    def _now(self) -> float:
        """The clock, chosen by the file system at first use. Outside the lock."""
        if self._clock is None:
            self._clock, self._coherent = clock_of(self.where, self._directory)
        return self._clock.now()

    def _make(self, path: str) -> None:
        make = make_empty if self._coherent else cas.make
        make(path)

    def _find_mode(self, descriptor: int) -> bool:
        """Whether this file is in the mode ``cas``.

        :raises ConfigError: it is in the other one, on a file system that would lose updates without an error.
        """
        if not os.fstat(descriptor).st_size:
            return not self._coherent or attributes.is_used(descriptor)
        if not self._coherent and os.pread(descriptor, len(MAGIC), 0).strip(b"\0") in (b"", MAGIC):
            raise ConfigError(
                f"{self._what}: was made on another file system, for hosts that see at once what was written "
                f"under a lock, and this one ({filesystem.name(filesystem.kind(descriptor))}) is not known to show it: "
                "updates would be lost without an error. Stop all that use it, remove it, and let a host with this "
                "mount make it anew: then all hosts, by any mount, use the mode that is exact here too"
            )
        return False
