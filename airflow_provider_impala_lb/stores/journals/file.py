"""Journals in a private directory beside the lock file: one file for each key, changed in place, synced.

How a change is exact is the same as for the state: in place under flock where that makes reads fresh
(journal_slots.py), elsewhere versions in the file's attributes (cas.py). Each file says which it is, and is made whole:
one that holds nothing is damaged, not new.

A file is not unlinked when its document is removed, it is emptied: who waits for its lock would then get the lock of a
file that is no longer there, and over NFS could not even see that (a file that is open somewhere is renamed by its
client, and keeps its link). `sweep` unlinks what is empty. Whoever has a file open holds the directory's lock, shared;
the sweep takes it alone, for a tenth of a second at a time, so what it unlinks nobody has open.
"""

from __future__ import annotations

import errno
import os
import secrets
import time
from collections.abc import Callable
from contextlib import suppress
from typing import TypeVar

from airflow_provider_impala_lb.core.ports import Change, Result, Swept
from airflow_provider_impala_lb.errors import ConfigError, JournalDamaged, StateUnavailable
from airflow_provider_impala_lb.stores.file import data_file, filesystem, used
from airflow_provider_impala_lb.stores.file import xattr as attributes
from airflow_provider_impala_lb.stores.file import xattr_versions as cas
from airflow_provider_impala_lb.stores.file.clock import HostClock, ServerClock, clock_of, file_system_of
from airflow_provider_impala_lb.stores.file.data_file import sync_directory
from airflow_provider_impala_lb.stores.file.faults import fault_of
from airflow_provider_impala_lb.stores.file.lock import Lock
from airflow_provider_impala_lb.stores.file.xattr_versions import Versions
from airflow_provider_impala_lb.stores.journals import slots as journal_slots
from airflow_provider_impala_lb.stores.journals.directory import JournalDirectory
from airflow_provider_impala_lb.stores.journals.document import damaged, name_of, seal, unseal

Answer = TypeVar("Answer")

_ALONE_SECONDS = 0.1
_ALONE_WAIT = 1.0


class _Absent(Exception):
    """There is no such file."""


class _Stale(Exception):
    """The file that was opened is no longer there."""


class FileJournals:
    """The journals beside ``lock_file``, in ``<lock_file>.journal/``, for this user alone.

    :param deadline: seconds to wait for locks, in all.
    """

    def __init__(self, lock_file: str, deadline: float = 5.0) -> None:
        self.where = f"{lock_file}.journal"
        self._directory = JournalDirectory(self.where)
        self._deadline = deadline
        self._clock: HostClock | ServerClock | None = None
        self._host_clock = HostClock()
        self._coherent = True

    def change(self, key: str, fn: Change[Result]) -> Result:
        name = name_of(key)

        def changed(envelope: bytes, now: float) -> tuple[Result, bytes]:
            result, document = fn(self._opened(name, envelope)[1] if envelope else None, now)
            return result, b"" if document is None else seal(self.where, key, document)

        now = self._now()
        self._directory.make()
        result = self._update(name, now, changed, self._make)
        used.note(self._directory.parent)
        used.note(self.where)
        return result

    def read(self, key: str) -> bytes | None:
        envelope = self._look(name_of(key)) if self._directory.exists() else None
        return self._opened(name_of(key), envelope)[1] if envelope else None

    def keys(self) -> list[str]:
        found = []
        for name in self._directory.names() if self._directory.exists() else []:
            with suppress(JournalDamaged):
                if envelope := self._look(name):
                    found.append(self._opened(name, envelope)[0])
        return found

    def sweep(self, wanted: Callable[[str, bytes, float], bool]) -> Swept:
        removed, bad, empty = 0, [], []

        def swept(envelope: bytes, now: float) -> tuple[bool, bytes]:
            if not envelope:
                return False, b""
            key, document = self._opened(name, envelope)
            drop = not wanted(key, document, now)
            return drop, b"" if drop else envelope

        for name in self._directory.names() if self._directory.exists() else []:
            now = self._now()
            try:
                envelope = self._look(name)
                if envelope and swept(envelope, now)[0]:
                    removed += self._update(name, now, swept, _none)
                    envelope = self._look(name)
            except _Absent:
                continue
            except (JournalDamaged, ConfigError) as error:
                bad.append(str(error))
                continue
            if envelope == b"":
                empty.append(name)
        self._tidy(empty)
        return Swept(removed, bad)

    def durability(self) -> str | None:
        kind = filesystem.name(file_system_of(self.where, self._directory.parent))
        if kind in ("tmpfs", "ramfs"):
            return f"{self.where} lies on {kind}: a restart of the host forgets which statements ran"
        return None

    def _opened(self, name: str, envelope: bytes) -> tuple[str, bytes]:
        return unseal(self._directory.path_of(name), name, envelope)

    def _look(self, name: str) -> bytes | None:
        """A recent envelope, b"" if the document was removed, None if there is no such file."""
        self._now()
        try:
            return self._locked(name, _none, lambda descriptor, until: self._load(name, descriptor))
        except _Absent:
            return None

    def _load(self, name: str, descriptor: int) -> bytes:
        if not self._is_cas(name, descriptor):
            return journal_slots.load(descriptor)[1]
        envelope = Versions(self._directory.path_of(name), journal=True).read(descriptor)
        if envelope is None:
            raise damaged(self._directory.path_of(name), "its newest version is gone or unreadable")
        return envelope

    def _update(
        self,
        name: str,
        now: float,
        change: Callable[[bytes, float], tuple[Answer, bytes]],
        make: Callable[[str], None],
    ) -> Answer:
        """Replace an envelope, b"" for no document, durably.

        :param make: makes the file, if it is not there.
        """
        return self._locked(name, make, lambda descriptor, until: self._exchange(name, descriptor, until, now, change))

    def _exchange(
        self,
        name: str,
        descriptor: int,
        until: float,
        now: float,
        change: Callable[[bytes, float], tuple[Answer, bytes]],
    ) -> Answer:
        if self._is_cas(name, descriptor):
            return self._exchange_version(name, descriptor, until, change)
        version, old = journal_slots.load(descriptor)
        answer, new = change(old, now)
        if new != old:
            journal_slots.prepare(descriptor, version + 1, new)
            try:
                if not old:
                    sync_directory(self.where)  # who made the file may have been killed before it did
                journal_slots.promise(descriptor, version + 1, new)
            except OSError as error:
                raise attributes.OutcomeUnknown(error) from error
        return answer

    def _exchange_version(
        self, name: str, descriptor: int, until: float, change: Callable[[bytes, float], tuple[Answer, bytes]]
    ) -> Answer:
        # Also if nothing changes: only a commit proves that what was read is the newest (attributes.py).
        def changed(envelope: bytes | None) -> tuple[bytes, Answer]:
            if envelope is None:
                raise damaged(self._directory.path_of(name), "its newest version is gone or unreadable")
            answer, new = change(envelope, self._host_clock.now())
            return new, answer

        return Versions(self._directory.path_of(name), journal=True).update(descriptor, changed, until)

    def _locked(self, name: str, make: Callable[[str], None], work: Callable[[int, float], Answer]) -> Answer:
        until = time.monotonic() + self._deadline
        with self._directory.lock(self._deadline, shared=True):
            return self._locked_in(name, make, work, until)

    def _locked_in(
        self, name: str, make: Callable[[str], None], work: Callable[[int, float], Answer], until: float
    ) -> Answer:
        while True:
            try:
                return self._once(name, make, work, until)
            except _Stale as stale:
                # The mount opened, by what it still knew, what a sweep had unlinked before: no sweep does while we are
                # here. So nothing was read or written that counts.
                if time.monotonic() >= until:
                    raise StateUnavailable(f"{self._directory.path_of(name)}: {os.strerror(errno.ESTALE)}") from stale

    def _once(
        self, name: str, make: Callable[[str], None], work: Callable[[int, float], Answer], until: float
    ) -> Answer:
        path = self._directory.path_of(name)
        lock = Lock(path, max(0.0, until - time.monotonic()), make, home=self._directory.parent)
        descriptor = lock.acquire()
        try:
            return work(descriptor, until)
        except journal_slots.Unreadable as error:
            raise damaged(self._directory.path_of(name), str(error)) from None
        except journal_slots.Newer:
            raise ConfigError(f"{path}: was written by a newer version of this package; upgrade this") from None
        except OSError as error:
            if error.errno == errno.ESTALE and not isinstance(error, attributes.OutcomeUnknown):
                raise _Stale from error
            if isinstance(error, attributes.OutcomeUnknown):
                raise StateUnavailable(f"{path}: {error.strerror}") from error
            raise fault_of(path, error, self._directory.parent, "cannot be used") from error
        finally:
            lock.release_quietly(descriptor)  # what was to be durable is: no error here can mean otherwise

    def _is_cas(self, name: str, descriptor: int) -> bool:
        if not os.fstat(descriptor).st_size:
            if self._coherent and not attributes.is_used(descriptor):
                raise damaged(self._directory.path_of(name), "it is empty")
            return True
        if not self._coherent:
            kind = filesystem.name(filesystem.kind(descriptor))
            raise ConfigError(
                f"{self._directory.path_of(name)}: was made on another file system, for hosts that see at once what "
                f"was written under a lock; this one ({kind}) is not known to show it"
            )
        return False

    def _now(self) -> float:
        if self._clock is None:
            self._clock, self._coherent = clock_of(self.where, self._directory.parent)
        return self._clock.now()

    def _make(self, path: str) -> None:
        """Make the file, whole, with an empty body. :raises FileExistsError: another process was faster."""
        if self._coherent:
            _make_slots(path)
        else:
            cas.make(path, 0o600)
        sync_directory(self.where)

    def _tidy(self, empty: list[str]) -> None:
        """Unlink the files of these names that are empty, and what killed writers have left. As far as possible."""
        left = sorted(self._directory.left())
        with suppress(StateUnavailable):  # others were there all the time: the next sweep is soon enough
            while empty or left:
                with self._directory.lock(_ALONE_WAIT, shared=False):
                    until = time.monotonic() + _ALONE_SECONDS
                    while (empty or left) and time.monotonic() < until:
                        with suppress(_Absent, JournalDamaged, ConfigError, OSError):
                            self._unlink(empty.pop()) if empty else self._clean(left.pop())
                    with suppress(OSError):
                        sync_directory(self.where)

    def _unlink(self, name: str) -> None:
        """Under the directory's lock, alone."""

        def emptied(envelope: bytes, now: float) -> tuple[bool, bytes]:
            return not envelope, envelope

        until = time.monotonic() + _ALONE_WAIT
        if self._locked_in(name, _none, lambda found, _: self._exchange(name, found, until, 0.0, emptied), until):
            os.unlink(self._directory.path_of(name))

    def _clean(self, name: str) -> None:
        """As `_unlink`."""
        path = self._directory.path_of(name)
        versions = Versions(path, journal=True)
        until = time.monotonic() + _ALONE_WAIT

        def renew(descriptor: int, _: float) -> None:
            def same(envelope: bytes | None) -> tuple[bytes, None]:
                if envelope is None:
                    raise damaged(self._directory.path_of(name), "its newest version is gone or unreadable")
                return envelope, None

            if self._is_cas(name, descriptor):
                versions.update(descriptor, same, until)

        with suppress(_Absent):
            self._locked_in(name, _none, renew, until)
        data_file.clean(path, versions.data_file)


def _none(path: str) -> None:
    raise _Absent


def _make_slots(path: str) -> None:
    temporary = data_file.path_of(path, secrets.token_hex(8))
    descriptor = os.open(temporary, data_file.WRITE_NEW, 0o600)
    try:
        os.fchmod(descriptor, 0o600)
        journal_slots.begin(descriptor)
        os.fsync(descriptor)
        data_file.publish(temporary, path)
    finally:
        os.close(descriptor)
        with suppress(OSError):
            os.unlink(temporary)
