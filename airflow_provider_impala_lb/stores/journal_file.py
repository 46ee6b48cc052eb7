"""Journals in a private directory beside the lock file: one file for each key, changed in place, synced.

How a change is exact is the same as for the state: in place under flock where that makes reads fresh
(journal_slots.py), elsewhere versions in the file's attributes (cas.py). Each file says which it is, and is made whole:
one that holds nothing is damaged, not new.

A file is not unlinked when its document is removed, it is emptied: who waits for its lock would then hold the lock of a
file that is no longer there, and over NFS cannot even see that (a file that is open somewhere is renamed by its client,
and keeps its link). `sweep` unlinks what is empty. Whoever has a file open holds the directory's lock, shared; the
sweep takes it alone, for a tenth of a second at a time, so what it unlinks nobody has open.
"""

from __future__ import annotations

import os
import re
import secrets
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from logging import getLogger

from airflow_provider_impala_lb.core.journals import Change, Swept
from airflow_provider_impala_lb.core.store import Result
from airflow_provider_impala_lb.errors import ConfigError, JournalDamaged, StateUnavailable
from airflow_provider_impala_lb.stores import attributes, cas, data_file, filesystem, journal_slots
from airflow_provider_impala_lb.stores.cas import Versions
from airflow_provider_impala_lb.stores.clock import HostClock, ServerClock, clock_of
from airflow_provider_impala_lb.stores.data_file import sync_directory
from airflow_provider_impala_lb.stores.envelope import damaged, name_of, seal, unseal
from airflow_provider_impala_lb.stores.lock import Lock

log = getLogger(__name__)

UNKNOWN = "outcome unknown: it may have been noted all the same"
_NAME = re.compile(r"[0-9a-f]{32}")


class FileJournals:
    """The journals beside ``lock_file``, in ``<lock_file>.journal/``, for this user alone.

    :param deadline: seconds to wait for locks.
    """

    def __init__(self, lock_file: str, deadline: float = 5.0) -> None:
        self.where = f"{lock_file}.journal"
        self._parent = os.path.dirname(lock_file)
        self._deadline = deadline
        self._clock: HostClock | ServerClock | None = None
        self._host_clock = HostClock()
        self._coherent = True

    def change(self, key: str, fn: Change[Result]) -> Result:
        name = name_of(key)

        def changed(envelope: bytes, now: float) -> tuple[Result, bytes]:
            result, document = fn(self._document(name, envelope), now)
            return result, b"" if document is None else seal(self.where, key, document)

        self._make_directory()
        return self._update(name, changed)

    def read(self, key: str) -> bytes | None:
        found = self._peek(name_of(key))
        return found[1] if found else None

    def keys(self) -> list[str]:
        found = []
        for name in self._names():
            with suppress(JournalDamaged):
                if peeked := self._peek(name):
                    found.append(peeked[0])
        return found

    def sweep(self, wanted: Callable[[str, bytes, float], bool]) -> Swept:
        raise NotImplementedError

    def durability(self) -> str | None:
        return None

    def _document(self, name: str, envelope: bytes) -> bytes | None:
        return unseal(self.where, name, envelope)[1] if envelope else None

    def _peek(self, name: str) -> tuple[str, bytes] | None:
        """Key and document, None if there is none."""
        if not os.path.lexists(os.path.join(self.where, name)):
            return None
        envelope = self._update(name, lambda envelope, now: (envelope, envelope))
        return unseal(self.where, name, envelope) if envelope else None

    def _names(self) -> list[str]:
        try:
            return [name for name in os.listdir(self.where) if _NAME.fullmatch(name)]
        except FileNotFoundError:
            return []

    def _update(self, name: str, change: Callable[[bytes, float], tuple[Result, bytes]]) -> Result:
        """Replace an envelope, b"" for none, durably."""
        path = os.path.join(self.where, name)
        until = time.monotonic() + self._deadline
        now = self._now()
        began = False  # to do what may be noted although an error follows

        def in_versions(envelope: bytes | None) -> tuple[bytes, Result]:
            if envelope is None:
                raise damaged(self.where, name, "its newest version is gone or unreadable")
            result, new = change(envelope, self._host_clock.now())
            return new, result

        with self._directory_lock() as _:
            lock = Lock(path, max(0.0, until - time.monotonic()), self._make_file)
            descriptor = lock.acquire()
            try:
                if self._is_cas(name, descriptor):
                    return Versions(path, journal=True).update(descriptor, in_versions, until)
                version, old = journal_slots.load(descriptor)
                result, new = change(old, now)
                if new == old:
                    return result
                journal_slots.prepare(descriptor, version + 1, new)
                began = True
                journal_slots.promise(descriptor, version + 1, new)
                if not old:
                    sync_directory(self.where)  # who made the file may have been killed before it did
                return result
            except journal_slots.Unreadable as error:
                raise damaged(self.where, name, str(error)) from None
            except journal_slots.Newer:
                raise ConfigError(f"{path}: was written by a newer version of this package; upgrade this") from None
            except OSError as error:
                why = error.strerror or str(error)
                raise StateUnavailable(f"{path}: {why}{'; ' + UNKNOWN if began else ''}") from error
            finally:
                lock.release_quietly(descriptor)

    def _is_cas(self, name: str, descriptor: int) -> bool:
        if os.fstat(descriptor).st_size:
            if not self._coherent:
                raise ConfigError(
                    f"{self.where}/{name}: was made on another file system, for hosts that see at once what was "
                    f"written under a lock; this one ({filesystem.name(filesystem.kind(descriptor))}) is not known to "
                    "show it"
                )
            return False
        if self._coherent and not attributes.is_used(descriptor):
            raise damaged(self.where, name, "it is empty")
        return True

    def _now(self) -> float:
        if self._clock is None:
            self._clock, self._coherent = clock_of(self.where, self._parent)
        return self._clock.now()

    @contextmanager
    def _directory_lock(self) -> Iterator[int]:
        lock = Lock(os.path.join(self.where, "lock"), self._deadline, shared=True)
        descriptor = lock.acquire()
        try:
            yield descriptor
        finally:
            lock.release_quietly(descriptor)

    def _make_directory(self) -> None:
        try:
            os.mkdir(self.where, 0o700)
            sync_directory(self._parent)
        except FileExistsError:
            pass
        except FileNotFoundError:
            raise StateUnavailable(f"{self.where}: its directory is not there; is the share mounted?") from None
        except OSError as error:
            raise StateUnavailable(f"{self.where}: cannot be made: {error.strerror}") from error

    def _make_file(self, path: str) -> None:
        if not self._coherent:
            cas.make(path, 0o600)
            sync_directory(self.where)
            return
        temporary = data_file.path_of(path, secrets.token_hex(8))
        descriptor = os.open(temporary, data_file.WRITE_NEW, 0o600)
        try:
            os.fchmod(descriptor, 0o600)
            journal_slots.begin(descriptor)
            os.fsync(descriptor)
            os.link(temporary, path)
        finally:
            os.close(descriptor)
            with suppress(OSError):
                os.unlink(temporary)
        sync_directory(self.where)
