"""One of two places in a file that take turns: version, length, checksum, body. Half a write fails the checksum."""

from __future__ import annotations

import errno
import os
import zlib
from typing import NamedTuple

HEAD_BYTES = 35
"""``%016d %08d %08x\\n``: version, length, crc32 of the body seeded with the version."""
_FIRST_READ = 8192


class First(NamedTuple):
    """How a slot begins.

    :ivar version: which it says it holds; 0 if none.
    :ivar content: its first bytes.
    """

    version: int
    content: bytes


def first(descriptor: int, start: int) -> First:
    """Read how a slot begins.

    :param descriptor: of the open file.
    :param start: of the slot, in bytes.
    """
    content = os.pread(descriptor, _FIRST_READ, start)
    try:
        return First(int(content[:16]), content)
    except ValueError:
        return First(0, content)


def body(descriptor: int, start: int, first: First) -> bytes | None:
    """The body of a slot; None if it was never written, is torn or damaged.

    :param descriptor: of the open file.
    :param start: of the slot, in bytes.
    :param first: how it begins.
    """
    version, record = first
    try:
        length, crc = int(record[17:25]), int(record[26:34], 16)
    except ValueError:
        return None
    missing = HEAD_BYTES + length - len(record)
    if missing > 0:
        record += os.pread(descriptor, missing, start + len(record))
    content = record[HEAD_BYTES : HEAD_BYTES + length]
    whole = version > 0 and len(content) == length and zlib.crc32(content, version & 0xFFFFFFFF) == crc
    return content if whole else None


def pack(version: int, body: bytes) -> bytes:
    """What a slot holds.

    :param version: 1 or more.
    :param body: its content.
    """
    return b"%016d %08d %08x\n" % (version, len(body), zlib.crc32(body, version & 0xFFFFFFFF)) + body


def write(descriptor: int, data: bytes, start: int, room: int) -> None:
    """Write bytes, all of them or with an error.

    :param descriptor: of the open file.
    :param data: the bytes.
    :param start: where in the file.
    :param room: how many bytes there is room for.
    :raises OSError: EFBIG or ENOSPC; part of it may have been written.
    """
    if len(data) > room:
        raise OSError(errno.EFBIG, f"the state has outgrown its place of {room >> 10} KiB")
    if os.pwrite(descriptor, data, start) != len(data):
        raise OSError(errno.ENOSPC, "the state was written only in part; is the file system full?")
