"""The state in one file that hosts share: locked, read, changed, written, unlocked.

Why in the lock file itself, and read after the lock, each measured on ext4, tmpfs and two NFS clients
(docs/design.md): a state read before the lock lost 70 % of the updates, one replaced by rename 42 to 75 % (NFS caches
names).

Where a read under the lock sees what was written under it, the state lies in the file (state_slots.py): one host's
local disks, and NFS. Elsewhere it lies in the file's attributes (xattr_versions.py, imported only there).
"""

from __future__ import annotations

import os
import random
from collections.abc import Callable
from contextlib import suppress
from logging import getLogger
from typing import Literal, Protocol

from airflow_provider_impala_lb.core.ports import Result
from airflow_provider_impala_lb.core.state.state import State
from airflow_provider_impala_lb.errors import ConfigError, StateUnavailable
from airflow_provider_impala_lb.stores.file import filesystem
from airflow_provider_impala_lb.stores.file.bounded_calls import BoundedCalls, Call
from airflow_provider_impala_lb.stores.file.clock import PROBE, steady
from airflow_provider_impala_lb.stores.file.faults import fault_of, note_used
from airflow_provider_impala_lb.stores.file.lock import Lock, require_regular
from airflow_provider_impala_lb.stores.file.new_file import remove_abandoned
from airflow_provider_impala_lb.stores.file.shared_file import SharedFile
from airflow_provider_impala_lb.stores.file.state_slots import MAGIC, StateSlots

log = getLogger(__name__)

CLEAN_SHARE = 0.01
"""Of the processes, which look for what killed ones left."""
Mode = Literal["slots", "cas"]


class StateFormat(Protocol):
    """How the state lies in an open lock file."""

    @property
    def mode(self) -> Mode:
        """What to call it."""
        ...

    @property
    def is_confirmed(self) -> bool:
        """Whether an `update` that returned has been made, whatever error the unlock and the close report after it."""
        ...

    def update(
        self, descriptor: int, change: Callable[[State, float], Result], now: float, call: Call
    ) -> tuple[Result, bool]:
        """Replace the state by what ``change`` makes of it. Under the lock.

        :param descriptor: of the open file.
        :param change: as in `Store.transact`.
        :param now: seconds since the epoch, by the file server's clock.
        :param call: when to give up, and whether anybody still waits for it.
        :returns: the change's result, and whether the state was unreadable and had to be begun anew.
        :raises OSError: it cannot be written; `OutcomeUnknown` if it may have been.
        :raises ConfigError: the file holds something else, or the work of a newer version.
        :raises StateUnavailable: there is no time left.
        :raises Abandoned: nobody waits for it any more; nothing was changed.
        """
        ...

    def read(self, descriptor: int, now: float, *, records: bool = True) -> tuple[State, float]:
        """A recent state without the lock, and the time by its clock.

        :param descriptor: of the open file.
        :param now: seconds since the epoch, by the file server's clock.
        :param records: as in `Store.read`.
        :raises OSError: it cannot be read.
        :raises ConfigError: the file holds something else, or the work of a newer version.
        """
        ...


class FileStore:
    """The state in a lock file, shared by all processes on all hosts that mount it.

    :param path: of the lock file. It is made if it is not there, its directory is not.
    :param deadline: seconds to wait for the lock; default 5. For a file system that may hang a second longer.
    :ivar where: the path.
    """

    def __init__(self, path: str, deadline: float = 5.0) -> None:
        self.where = path
        self._directory = os.path.dirname(path)
        self._calls = BoundedCalls.of(path)
        self._file = SharedFile(path, self._directory)
        self._lock = Lock(path, deadline, self._file.make)
        self._formats: dict[Mode, StateFormat] = {"slots": StateSlots(path)}
        self._mode: Mode | None = None  # as the file said last
        self._warned = self._cleaned = False

    @property
    def mode(self) -> Mode:
        """In which mode the file is, or if it is not there will be made.

        :raises StateUnavailable: that is not known yet, and the file cannot be read.
        :raises ConfigError: as :meth:`transact`.
        """
        if self._mode is None:
            self.read()
        assert self._mode is not None
        return self._mode

    @property
    def one_clock(self) -> bool:
        """Whether all hosts have one clock here. Not in the mode ``cas``: GlusterFS stamps files with the client's time
        (storage/ctime, "Consistent time attributes"), so there each host goes by its own.

        :raises StateUnavailable: as :attr:`mode`.
        :raises ConfigError: as :attr:`mode`.
        """
        return self.mode == "slots"

    def transact(self, change: Callable[[State, float], Result]) -> Result:
        """See `Store.transact`.

        :param change: gets the state and the time; called again if it was computed on a stale state.
        """
        result, renewed = self._calls.run(
            lambda call: self._transact(change, call), self._lock.deadline, self._calls.changes
        )
        if renewed and not self._warned:
            self._warned = True
            log.warning("%s: the state in it was unreadable; it was started anew, and heals by itself", self.where)
        return result

    def _transact(self, change: Callable[[State, float], Result], call: Call) -> tuple[Result, bool]:
        """The change's result, and whether the state was begun anew."""
        now, measured = self._file.now(), self._file.host_clock().uptime
        confirmed = False
        try:
            descriptor = self._lock.acquire(call)
            try:
                state_format = self._format_of(descriptor)
                dated = self._by_server_time(change, measured) if self._by_server_clock else self._by_host_clock(change)
                found = state_format.update(descriptor, dated, now, call)
                confirmed = state_format.is_confirmed
            except BaseException:
                self._lock.release_quietly(descriptor)
                raise
            self._lock.release(descriptor)
        except OSError as error:
            if not confirmed:
                raise fault_of(self.where, error, self._directory, "cannot be written") from error
        note_used(self._directory)
        self._clean_once()
        return found

    def read(self, *, records: bool = True) -> tuple[State, float]:
        """See `Store.read`.

        :param records: as there.
        """
        return self._calls.run(lambda call: self._read(records), self._lock.deadline, self._calls.looks)

    def _read(self, records: bool) -> tuple[State, float]:
        now = self._file.now(to_look=True)
        try:
            # O_NONBLOCK: opening a pipe to read would wait for a writer
            descriptor = os.open(self.where, os.O_RDONLY | os.O_CLOEXEC | os.O_NOFOLLOW | os.O_NONBLOCK)
        except FileNotFoundError:
            self._mode = "slots" if self._file.is_coherent else "cas"
            return State(), now
        except OSError as error:
            raise fault_of(self.where, error, self._directory, "cannot be opened") from error
        try:
            require_regular(self.where, descriptor)
            state, now = self._format_of(descriptor).read(descriptor, now, records=records)
            return state, now if self._by_server_clock else steady(state.hosts, self._file.host_clock())
        except OSError as error:
            raise fault_of(self.where, error, self._directory, "cannot be read") from error
        finally:
            os.close(descriptor)

    def try_out(self) -> None:
        """Write and lock as a pick does. Where the file is not there yet, another one in its directory, which is
        removed: whoever tries may be another user than the workers.

        :raises StateUnavailable: as :meth:`transact`.
        :raises ConfigError: as :meth:`transact`.
        """
        if self._calls.run(lambda call: os.path.lexists(self.where), self._lock.deadline):
            self.transact(lambda state, now: None)
        else:
            self._calls.run(lambda call: self._try_out_beside(), self._lock.deadline)

    def _try_out_beside(self) -> None:
        self._file.now()
        path = os.path.join(self._directory, PROBE + os.urandom(8).hex())
        try:
            with Lock(path, self._lock.deadline, self._file.make).hold() as descriptor:
                os.pwrite(descriptor, b"tried", 0)
        except (ConfigError, StateUnavailable) as error:
            raise type(error)(str(error).replace(path, self.where)) from error
        except OSError as error:
            raise fault_of(self.where, error, self._directory, "cannot be made") from error
        finally:
            with suppress(OSError):
                os.unlink(path)

    @property
    def _by_server_clock(self) -> bool:
        return self._mode == "slots" and self._file.has_server_clock

    def _by_server_time(self, change: Callable[[State, float], Result], measured: float) -> Callable[..., Result]:
        """The same change, dated when it is made: this process may have waited for the lock, or been stopped.

        :param measured: the host's uptime when it got the server's time.
        """
        return lambda state, now: change(state, now + self._file.host_clock().uptime - measured)

    def _by_host_clock(self, change: Callable[[State, float], Result]) -> Callable[[State, float], Result]:
        """The same change by this host's clock, but for the steps of that."""

        def dated(state: State, _: float) -> Result:
            here = self._file.host_clock()
            now = steady(state.hosts, here)
            result = change(state, now)
            for note in state.hosts.values():
                if note.seen == now:  # noted by this change
                    note.boot, note.uptime = here.boot, here.uptime
            return result

        return dated

    def _clean_once(self) -> None:
        """Now and then, at a process's first turn, remove what killed ones left of a measurement of the clock. (In the
        mode ``cas`` they leave more, and it is done there.)"""
        if self._cleaned or self._mode != "slots":
            return
        self._cleaned = True
        if random.random() < CLEAN_SHARE:
            with suppress(OSError):
                remove_abandoned(self.where, None)

    def _format_of(self, descriptor: int) -> StateFormat:
        """How the state lies in the open file.

        :raises ConfigError: in slots, on a file system that would lose updates without an error.
        """
        mode: Mode = "cas" if self._file.holds_versions(descriptor) else "slots"
        if mode == "slots":
            if not self._file.is_coherent:
                self._refuse_slots(descriptor)
        elif mode not in self._formats:
            from airflow_provider_impala_lb.stores.file.xattr_versions import StateVersions

            self._formats[mode] = StateVersions(self.where, lambda: self._file.host_clock().wall)
        self._mode = mode
        return self._formats[mode]

    def _refuse_slots(self, descriptor: int) -> None:
        # Where the file holds something else, StateSlots says so.
        if os.pread(descriptor, len(MAGIC), 0).strip(b"\0") in (b"", MAGIC):
            raise ConfigError(
                f"lock_file {self.where}: was made on another file system, for hosts that see at once what was written "
                f"under a lock, and this one ({filesystem.name(filesystem.kind(descriptor))}) is not known to show it: "
                "updates would be lost without an error. Stop all that use it, remove it, and let a host with this "
                "mount make it anew: then all hosts, by any mount, use the mode that is exact here too"
            )
