"""A journal in its file, in place: two slots that take turns, and a mark that says which of them was promised last.

::

    0       "impala-lb journal, slots 1\\n"
    512     the mark: version, the crc32 of its body, crc32
    4 KiB   even versions: version, length, crc32, body
    +1 MiB  odd versions

Version n+1 goes into the slot that does not hold version n, and is synced; then the mark n+1 is written and synced;
then the writer is told. So of a slot that fails its checksum it is known whether its version had been promised:

* it is n+1 and the mark says n: a write that was cut off, before anybody was told. Version n is the newest.
* the mark says n+1: a promised version was damaged later. Version n is whole, but an older one, and to go by it would
  be to run a statement twice: damaged. Also if there is another body in it than was promised, as from a lost host's
  late write.
* the mark cannot be read: while it is written both slots are whole, and the newer one counts. With a slot that fails
  too, nothing says which case it is: damaged.

Whole and newer than the mark is a version whose writer was killed in between. It counts, once the mark says so too:
before that its slot would be the only synced copy of anything, and the next writer takes the other one.

What one file cannot show: that all of it went back, such as to a backup, or that a disk lost the writes of both the
slot and the mark although it had reported them synced.
"""

from __future__ import annotations

import os
import zlib
from contextlib import suppress

from airflow_provider_impala_lb.stores.file import slot

MAGIC = b"impala-lb journal, slots 1\n"
FAMILY = b"impala-lb journal, "
MARK_START = 512
"""In a sector of its own, which a disk writes whole or not at all."""
SLOTS_START = 4096
SLOT_BYTES = 1 << 20
_MARK_BYTES = 35  # "%016d %08x %08x\n"


class Unreadable(Exception):
    """Why the newest promised version is not known."""


class Newer(Exception):
    """Written by a newer version of this package."""


def begin(descriptor: int) -> None:
    """Make version 1, an empty body, in a new file that nobody knows yet. Not synced."""
    slot.write(descriptor, slot.pack(1, b""), _start(1), SLOT_BYTES)
    _mark(descriptor, 1, b"")
    slot.write(descriptor, MAGIC, 0, MARK_START)


def load(descriptor: int) -> tuple[int, bytes]:
    """The newest version's number, and its body, synced and marked. Under the lock.

    :raises Unreadable: see the top. :raises OSError: not now.
    """
    _check_magic(os.pread(descriptor, len(MAGIC), 0))
    found: dict[int, bytes] = {}
    for start in (_start(0), _start(1)):
        first = slot.first(descriptor, start)
        body = slot.body(descriptor, start, first)
        if body is not None and _start(first.version) == start:
            found[first.version] = body
    if not found:
        raise Unreadable("both of its slots fail their checksums")
    newest = max(found)
    marked = _marked(descriptor)
    if marked is None and len(found) < 2:
        raise Unreadable("its mark and one of its slots fail their checksums")
    version, crc = marked or (0, 0)
    if newest < version:
        raise Unreadable(f"version {version}, which was noted, fails its checksum, and {newest} is older")
    if newest > version:
        os.fsync(descriptor)
        _mark(descriptor, newest, found[newest])
        os.fsync(descriptor)
    elif zlib.crc32(found[newest]) != crc:
        raise Unreadable(f"version {version} is not what was noted as such")
    return newest, found[newest]


def prepare(descriptor: int, version: int, body: bytes) -> None:
    """Write this version, the one after the newest, where it harms nothing. :raises OSError: nothing was changed."""
    start = _start(version)
    try:
        slot.write(descriptor, slot.pack(version, body), start, SLOT_BYTES)
    except OSError:
        _forget(descriptor, version)
        raise


def promise(descriptor: int, version: int, body: bytes) -> None:
    """Make the prepared version the newest, durably. :raises OSError: it may be, or become so."""
    try:
        os.fdatasync(descriptor)
    except OSError:
        # The kernel reports it once, and then takes the pages for written: the next reader must not find them whole.
        _forget(descriptor, version)
        raise
    _mark(descriptor, version, body)
    os.fdatasync(descriptor)


def _forget(descriptor: int, version: int) -> None:
    with suppress(OSError):
        os.pwrite(descriptor, bytes(slot.HEAD_BYTES), _start(version))


def _start(version: int) -> int:
    return SLOTS_START + version % 2 * SLOT_BYTES


def _mark(descriptor: int, version: int, body: bytes) -> None:
    said = b"%016d %08x" % (version, zlib.crc32(body))
    slot.write(descriptor, b"%s %08x\n" % (said, zlib.crc32(said)), MARK_START, SLOTS_START - MARK_START)


def _marked(descriptor: int) -> tuple[int, int] | None:
    """The version and the crc32 of its body; None if the mark cannot be read."""
    found = os.pread(descriptor, _MARK_BYTES, MARK_START)
    said = found[:25]
    if found != b"%s %08x\n" % (said, zlib.crc32(said)):
        return None
    return int(said[:16]), int(said[17:], 16)


def _check_magic(found: bytes) -> None:
    if found == MAGIC:
        return
    if found.startswith(FAMILY):
        raise Newer
    raise Unreadable(f"it begins with {found!r}")
