"""A journal in its file, in place: two slots that take turns, and a record that says which was committed last.

::

    0       "impala-lb journal, slots 1\\n"
    512     the commit record: version, the crc32 of its body, crc32
    4 KiB   even versions: version, length, crc32, body
    +1 MiB  odd versions

Version n+1 goes into the slot that does not hold version n, and is synced; then the commit record of n+1 is written and
synced; then the writer is told. So of a slot that fails its checksum it is known whether its version was committed:

* it is n+1 and the commit record says n: a write that was cut off, before anybody was told. Version n is the newest.
* the commit record says n+1: a committed version was damaged later. Version n is whole, but an older one, and to go by
  it would be to run a statement twice: damaged. Also if there is another body in it than was committed, as from a lost
  host's late write.
* the commit record cannot be read: while it is written both slots are whole, and the newer one counts. With a slot that
  fails too, nothing says which case it is: damaged.

Whole and newer than the commit record is a version whose writer was killed in between. It counts, once the record says
so too: before that its slot would be the only synced copy of anything, and the next writer takes the other one.

What one file cannot show: that all of it went back, such as to a backup, or that a disk lost the writes of both the
slot and the commit record although it had reported them synced.
"""

from __future__ import annotations

import os
import zlib
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress

from airflow_provider_impala_lb.core.ports import Result
from airflow_provider_impala_lb.errors import ConfigError
from airflow_provider_impala_lb.stores.file import slot
from airflow_provider_impala_lb.stores.file.bounded_calls import Call
from airflow_provider_impala_lb.stores.file.faults import OutcomeUnknown
from airflow_provider_impala_lb.stores.file.new_file import sync_directory
from airflow_provider_impala_lb.stores.journals.document import damaged

MAGIC = b"impala-lb journal, slots 1\n"
FAMILY = b"impala-lb journal, "
COMMIT_RECORD_START = 512
"""In a sector of its own, which a disk writes whole or not at all."""
SLOTS_START = 4096
SLOT_BYTES = 1 << 20
_COMMIT_RECORD_BYTES = 35  # "%016d %08x %08x\n"


class Unreadable(Exception):
    """The newest committed version is not known; the text says why."""


class Newer(Exception):
    """Written by a newer version of this package."""


class JournalSlots:
    """One journal's file, read and written in place. See `JournalFormat` (file.py).

    :param path: of the file.
    """

    def __init__(self, path: str) -> None:
        self._path = path

    def load(self, descriptor: int) -> bytes:
        """See `JournalFormat.load`.

        :param descriptor: of the open file.
        """
        with self._named():
            return load(descriptor)[1]

    def exchange(
        self, descriptor: int, change: Callable[[bytes, float], tuple[Result, bytes]], now: float, call: Call
    ) -> Result:
        """See `JournalFormat.exchange`.

        :param descriptor: of the open file.
        :param change: gets the envelope and the time; returns its result, and the new envelope.
        :param now: seconds since the epoch, by the file server's clock.
        :param call: whether anybody still waits for it.
        """
        with self._named():
            version, old = load(descriptor)
        result, new = call.compute(change, old, now)
        if new != old:
            call.commits()  # already what is prepared counts once it is whole
            prepare(descriptor, version + 1, new)
            try:
                if not old:
                    sync_directory(os.path.dirname(self._path))  # who made the file may have been killed before it did
                commit(descriptor, version + 1, new)
            except OSError as error:
                raise OutcomeUnknown(error) from error
        return result

    def data_file(self, descriptor: int, call: Call) -> str | None:
        """See `JournalFormat.data_file`: there is none.

        :param descriptor: not used.
        :param call: not used: nothing is waited for.
        """
        return None

    @contextmanager
    def _named(self) -> Iterator[None]:
        try:
            yield
        except Unreadable as error:
            raise damaged(self._path, str(error)) from None
        except Newer:
            raise ConfigError(f"{self._path}: was written by a newer version of this package; upgrade this") from None


def begin(descriptor: int) -> None:
    """Make version 1, an empty body, in a new file that nobody knows yet; synced.

    :param descriptor: of the open file.
    :raises OSError: it was not made.
    """
    slot.write(descriptor, slot.pack(1, b""), _start(1), SLOT_BYTES)
    _write_commit_record(descriptor, 1, b"")
    slot.write(descriptor, MAGIC, 0, COMMIT_RECORD_START)
    os.fsync(descriptor)


def load(descriptor: int) -> tuple[int, bytes]:
    """The newest version, made durable if its writer was killed before that. Under the lock.

    :param descriptor: of the open file.
    :returns: its number, and its body.
    :raises Unreadable: see the top.
    :raises Newer: the file was written by a newer version of this package.
    :raises OSError: it could not be read now.
    """
    _check_magic(os.pread(descriptor, len(MAGIC), 0))
    bodies: dict[int, bytes] = {}
    for start in (_start(0), _start(1)):
        first = slot.first(descriptor, start)
        body = slot.body(descriptor, start, first)
        if body is not None and _start(first.version) == start:
            bodies[first.version] = body
    if not bodies:
        raise Unreadable("both of its slots fail their checksums")
    newest = max(bodies)
    committed = _read_commit_record(descriptor)
    if committed is None and len(bodies) < 2:
        raise Unreadable("its commit record and one of its slots fail their checksums")
    version, crc = committed or (0, 0)
    if newest < version:
        raise Unreadable(f"version {version}, which was noted, fails its checksum, and {newest} is older")
    if newest > version:
        os.fsync(descriptor)
        _write_commit_record(descriptor, newest, bodies[newest])
        os.fsync(descriptor)
    elif zlib.crc32(bodies[newest]) != crc:
        raise Unreadable(f"version {version} is not what was noted as such")
    return newest, bodies[newest]


def prepare(descriptor: int, version: int, body: bytes) -> None:
    """Write the version after the newest, where it harms nothing.

    :param descriptor: of the open file.
    :param version: its number.
    :param body: its content.
    :raises OSError: nothing was changed.
    """
    start = _start(version)
    try:
        slot.write(descriptor, slot.pack(version, body), start, SLOT_BYTES)
    except OSError:
        _forget(descriptor, version)
        raise


def commit(descriptor: int, version: int, body: bytes) -> None:
    """Make the prepared version the newest, durably.

    :param descriptor: of the open file.
    :param version: its number.
    :param body: its content.
    :raises OSError: it may be the newest, or become so.
    """
    try:
        os.fdatasync(descriptor)
    except OSError:
        # The kernel reports it once, and then takes the pages for written: the next reader must not find them whole.
        _forget(descriptor, version)
        raise
    _write_commit_record(descriptor, version, body)
    os.fdatasync(descriptor)


def _forget(descriptor: int, version: int) -> None:
    with suppress(OSError):
        os.pwrite(descriptor, bytes(slot.HEAD_BYTES), _start(version))


def _start(version: int) -> int:
    return SLOTS_START + version % 2 * SLOT_BYTES


def _write_commit_record(descriptor: int, version: int, body: bytes) -> None:
    text = b"%016d %08x" % (version, zlib.crc32(body))
    room = SLOTS_START - COMMIT_RECORD_START
    slot.write(descriptor, b"%s %08x\n" % (text, zlib.crc32(text)), COMMIT_RECORD_START, room)


def _read_commit_record(descriptor: int) -> tuple[int, int] | None:
    """The version and the crc32 of its body; None if the record cannot be read."""
    record = os.pread(descriptor, _COMMIT_RECORD_BYTES, COMMIT_RECORD_START)
    text = record[:25]
    if record != b"%s %08x\n" % (text, zlib.crc32(text)):
        return None
    return int(text[:16]), int(text[17:], 16)


def _check_magic(magic: bytes) -> None:
    if magic == MAGIC:
        return
    if magic.startswith(FAMILY):
        raise Newer
    raise Unreadable(f"it begins with {magic!r}")
