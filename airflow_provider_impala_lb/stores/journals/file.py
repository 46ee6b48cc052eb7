"""Journals in a directory beside the lock file: one file for each key, changed in place, synced.

How a change is exact is the same as for the state: in place under flock where that makes reads fresh (slots.py),
elsewhere versions in the file's attributes (versions.py, imported only there). Each file says which it is, and is made
whole: one that holds nothing is damaged, not new.

A file is not unlinked when its document is removed, it is emptied: who waits for its lock would then get the lock of a
file that is no longer there, and over NFS could not even see that (a file that is open somewhere is renamed by its
client, and keeps its link). `FileJournals.sweep` unlinks what is empty. Whoever has a file open holds the directory's
lock, shared; the sweep takes it alone, for a tenth of a second at a time, so what it unlinks nobody has open.
"""

from __future__ import annotations

import errno
import os
from collections.abc import Callable
from contextlib import suppress
from functools import partial
from typing import Protocol, TypeVar

from airflow_provider_impala_lb.core.ports import Change, Result, Swept
from airflow_provider_impala_lb.core.timing import Deadline
from airflow_provider_impala_lb.errors import ConfigError, JournalDamaged, StateUnavailable
from airflow_provider_impala_lb.stores.file import filesystem
from airflow_provider_impala_lb.stores.file.bounded_calls import BoundedCalls, Call
from airflow_provider_impala_lb.stores.file.faults import OutcomeUnknown, fault_of, file_system_of, note_used
from airflow_provider_impala_lb.stores.file.lock import Lock
from airflow_provider_impala_lb.stores.file.new_file import remove_abandoned, sync_directory
from airflow_provider_impala_lb.stores.file.shared_file import SharedFile
from airflow_provider_impala_lb.stores.journals import slots
from airflow_provider_impala_lb.stores.journals.directory import JournalDirectory
from airflow_provider_impala_lb.stores.journals.document import damaged, name_of, unwrap, wrap
from airflow_provider_impala_lb.stores.journals.slots import JournalSlots

Answer = TypeVar("Answer")

_ALONE_SECONDS = 0.1
_ALONE_WAIT = 1.0


class JournalFormat(Protocol):
    """How one journal lies in its open file. An envelope is ``b""`` for no document."""

    def load(self, descriptor: int) -> bytes:
        """A recent envelope. Under the lock.

        :param descriptor: of the open file.
        :raises JournalDamaged: it cannot be read.
        :raises ConfigError: it was written by a newer version.
        """
        ...

    def exchange(
        self, descriptor: int, change: Callable[[bytes, float], tuple[Result, bytes]], now: float, call: Call
    ) -> Result:
        """Replace the envelope, durably. Under the lock.

        :param descriptor: of the open file.
        :param change: gets the envelope and a clock's time; returns a result for the caller, and the new envelope.
        :param now: seconds since the epoch, by the file server's clock.
        :param call: when to give up, and whether anybody still waits for it.
        :raises OutcomeUnknown: it may have been replaced, once.
        :raises OSError: nothing was changed; `Abandoned` if nobody waits for it any more.
        :raises JournalDamaged: as `load`.
        :raises ConfigError: as `load`.
        """
        ...

    def data_file(self, descriptor: int, call: Call) -> str | None:
        """The token of the hidden file that the newest version needs; None if it needs none. Under the lock.

        :param descriptor: of the open file.
        :param call: when to give up, and whether anybody still waits for it.
        """
        ...


Work = Callable[[JournalFormat, int, Call], Answer]
"""What is done with a journal, given its open and locked file, and when to give up."""


class _Absent(Exception):
    """There is no such file."""


class _Stale(Exception):
    """The file that was opened is no longer there."""


class FileJournals:
    """The journals beside a lock file, in ``<lock_file>.journal/``, for this user or a group alone.

    :param lock_file: path of the lock file.
    :param deadline: seconds to wait for locks, in all; default 5. For a file system that may hang a second longer.
    :ivar where: the directory's path.
    """

    def __init__(self, lock_file: str, deadline: float = 5.0) -> None:
        self.where = f"{lock_file}.journal"
        self._directory = JournalDirectory(self.where)
        self._calls = BoundedCalls.of(lock_file)
        self._file = SharedFile(self.where, self._directory.parent, slots.begin)
        self._deadline = deadline

    def change(self, key: str, fn: Change[Result]) -> Result:
        """See `JournalStore.change`.

        :param key: any text.
        :param fn: gets the document and the time; returns its result, and the document to keep.
        """
        name = name_of(key)

        def changed(envelope: bytes, now: float) -> tuple[Result, bytes]:
            result, document = fn(self._unwrap(name, envelope)[1] if envelope else None, now)
            return result, b"" if document is None else wrap(self.where, key, document)

        def work(call: Call) -> Result:
            now = self._file.now()
            self._directory.make()
            result = self._locked(
                name,
                self._make,
                lambda journal, descriptor, call: journal.exchange(descriptor, changed, now, call),
                call,
            )
            note_used(self._directory.parent)
            note_used(self.where)
            return result

        return self._run(work, name)

    def read(self, key: str) -> bytes | None:
        """See `JournalStore.read`.

        :param key: any text.
        """
        name = name_of(key)
        envelope = self._run(lambda call: self._look(name, call) if self._directory.exists() else None, name)
        return self._unwrap(name, envelope)[1] if envelope else None

    def keys(self) -> list[str]:
        """See `JournalStore.keys`."""
        keys = []
        for name in self._names():
            with suppress(JournalDamaged):
                if envelope := self._run(partial(self._look, name), name):
                    keys.append(self._unwrap(name, envelope)[0])
        return keys

    def sweep(self, wanted: Callable[[str, bytes, float], bool]) -> Swept:
        """See `JournalStore.sweep`. Also unlinks the files that are empty, and what killed writers left.

        :param wanted: whether to keep a document, given its key, itself and the time.
        """
        removed, bad, empty = 0, [], []

        def swept(envelope: bytes, now: float) -> tuple[bool, bytes]:
            if not envelope:
                return False, b""
            key, document = self._unwrap(name, envelope)
            drop = not wanted(key, document, now)
            return drop, b"" if drop else envelope

        def sweep_one(call: Call) -> tuple[bool, bytes | None]:
            """Whether the document was removed, as ``swept`` says of the newest, and the envelope as it is then."""
            now = self._file.now()
            envelope = self._look(name, call)
            if not (envelope and call.compute(swept, envelope, now)[0]):
                return False, envelope
            has_gone = self._locked(
                name,
                _raise_absent,
                lambda journal, descriptor, call: journal.exchange(descriptor, swept, now, call),
                call,
            )
            return has_gone, self._look(name, call)

        for name in self._names():
            try:
                has_gone, envelope = self._run(sweep_one, name)
                removed += has_gone
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
        """See `JournalStore.durability`.

        :raises StateUnavailable: the directory is out of reach.
        :raises ConfigError: the directory cannot be used.
        """
        kind = filesystem.name(self._run(lambda call: file_system_of(self.where, self._directory.parent)))
        if kind in ("tmpfs", "ramfs"):
            return f"{self.where} lies on {kind}: a restart of the host forgets which statements ran"
        return None

    def _unwrap(self, name: str, envelope: bytes) -> tuple[str, bytes]:
        return unwrap(self._directory.path_of(name), name, envelope)

    def _run(self, work: Callable[[Call], Answer], name: str = "") -> Answer:
        """What ``work`` returns, which may have to be left behind.

        :param name: the journal's file, for errors; default the directory.
        """
        what = self._directory.path_of(name) if name else self.where
        return self._calls.run(work, self._deadline, what=what)

    def _names(self) -> list[str]:
        return self._run(lambda call: self._directory.names() if self._directory.exists() else [])

    def _look(self, name: str, call: Call) -> bytes | None:
        """A recent envelope, b"" if the document was removed, None if there is no such file."""
        self._file.now(to_look=True)
        try:
            return self._locked(name, _raise_absent, lambda journal, descriptor, call: journal.load(descriptor), call)
        except _Absent:
            return None

    def _locked(self, name: str, make: Callable[[str], None], work: Work[Answer], call: Call) -> Answer:
        """What ``work`` returns, which has the file locked.

        :param make: makes the file, if it is not there.
        """
        with self._directory.lock(call.remaining, shared=True):
            return self._locked_inside(name, make, work, call)

    def _locked_inside(
        self,
        name: str,
        make: Callable[[str], None],
        work: Work[Answer],
        call: Call,
    ) -> Answer:
        """As `_locked`, for who holds the directory's lock."""
        while True:
            try:
                return self._locked_once(name, make, work, call)
            except _Stale as stale:
                # The mount opened, by what it still knew, what a sweep had unlinked before: no sweep does while we are
                # here. So nothing was read or written that counts.
                if call.passed():
                    raise StateUnavailable(f"{self._directory.path_of(name)}: {os.strerror(errno.ESTALE)}") from stale

    def _locked_once(
        self,
        name: str,
        make: Callable[[str], None],
        work: Work[Answer],
        call: Call,
    ) -> Answer:
        path = self._directory.path_of(name)
        lock = Lock(path, call.remaining, make, home=self._directory.parent)
        descriptor = lock.acquire()
        try:
            return work(self._format_of(path, descriptor), descriptor, call)
        except OSError as error:
            if error.errno == errno.ESTALE and not isinstance(error, OutcomeUnknown):
                raise _Stale from error
            raise fault_of(path, error, self._directory.parent, "cannot be used") from error
        finally:
            lock.release_quietly(descriptor)  # what was to be durable is: no error here can mean otherwise

    def _format_of(self, path: str, descriptor: int) -> JournalFormat:
        """How the journal lies in the open file.

        :raises JournalDamaged: in no way.
        :raises ConfigError: in slots, on a file system that would lose changes without an error.
        """
        if self._file.holds_versions(descriptor):
            from airflow_provider_impala_lb.stores.journals.versions import JournalVersions

            return JournalVersions(path, lambda: self._file.host_clock().wall, self._directory.file_mode)
        if not os.fstat(descriptor).st_size:
            raise damaged(path, "it is empty")
        if not self._file.is_coherent:
            kind = filesystem.name(filesystem.kind(descriptor))
            raise ConfigError(
                f"{path}: was made on another file system, for hosts that see at once what was written under a lock; "
                f"this one ({kind}) is not known to show it"
            )
        return JournalSlots(path)

    def _make(self, path: str) -> None:
        """Make the file, whole, with an empty body.

        :raises FileExistsError: another process was faster.
        """
        self._file.make(path, self._directory.file_mode)
        sync_directory(self.where)

    def _tidy(self, empty: list[str]) -> None:
        """Unlink the files of these names that are empty, and what killed writers have left. As far as possible."""
        to_clean = sorted(self._run(lambda call: self._directory.names_with_hidden_files()))

        def tidy(call: Call) -> None:
            with self._directory.lock(_ALONE_WAIT, shared=False):
                alone = Deadline(_ALONE_SECONDS)
                while (empty or to_clean) and not alone.passed():
                    with suppress(_Absent, JournalDamaged, ConfigError, OSError):
                        self._unlink(empty.pop(), call) if empty else self._clean(to_clean.pop())
                with suppress(OSError):
                    sync_directory(self.where)

        with suppress(StateUnavailable):  # others were there all the time: the next sweep is soon enough
            while empty or to_clean:
                self._run(tidy)

    def _unlink(self, name: str, call: Call) -> None:
        """Under the directory's lock, alone."""

        def is_empty(journal: JournalFormat, descriptor: int, call: Call) -> bool:
            return journal.exchange(descriptor, lambda envelope, now: (not envelope, envelope), 0.0, call)

        if self._locked_inside(name, _raise_absent, is_empty, Call(_ALONE_WAIT)):
            call.commits()  # one that comes back late may have lost the directory's lock
            os.unlink(self._directory.path_of(name))

    def _clean(self, name: str) -> None:
        """As `_unlink`."""

        def data_file(journal: JournalFormat, descriptor: int, call: Call) -> str | None:
            return journal.data_file(descriptor, call)

        newest = None
        with suppress(_Absent):
            newest = self._locked_inside(name, _raise_absent, data_file, Call(_ALONE_WAIT))
        remove_abandoned(self._directory.path_of(name), newest)


def _raise_absent(path: str) -> None:
    raise _Absent
