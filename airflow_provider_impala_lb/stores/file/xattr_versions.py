"""The state in attributes of the lock file (attributes.py says how), where flock makes nothing coherent.

Two versions have to fit into the one block of 4 KB that ext4 has for a file's attributes (ext4(5), ea_inode), together
with the file server's own. A larger one goes into a data file (data_file.py), and the attribute says which.
"""

from __future__ import annotations

import os
import re
import secrets
import time
import zlib
from collections.abc import Callable
from contextlib import suppress

from airflow_provider_impala_lb.core.ports import Result
from airflow_provider_impala_lb.errors import ConfigError, StateUnavailable
from airflow_provider_impala_lb.stores.file import data_file
from airflow_provider_impala_lb.stores.file import xattr as attributes
from airflow_provider_impala_lb.stores.file.data_file import sync_directory
from airflow_provider_impala_lb.stores.file.xattr import OutcomeUnknown, Stale, Version

INLINE_BYTES = 1600
"""A state compressed to more than this goes into a data file."""
LOST_AFTER = 2.0
"""What cannot be read for so long, in seconds, is lost: twice as long as GlusterFS's caches may hide a data file."""
CLEAN_EVERY = 600.0
_PAUSE = 0.002
_READ_TRIES = 10

# Format 1; z: the state, or f: the data file's length and crc32. The token, new for each commit, tells mine from yours.
_RECORD = re.compile(rb"1(?:z([0-9a-f]{16})(.*)|f([0-9a-f]{16}) ([0-9]{1,10}) ([0-9a-f]{8}))", re.DOTALL)


def make(path: str, mode: int = 0o660) -> None:
    """Make the lock file, with an empty state in it, whole or not at all.

    :raises FileExistsError: another one has made it. :raises ConfigError: no such attributes here.
    """
    temporary = data_file.path_of(path, secrets.token_hex(8))
    descriptor = os.open(temporary, data_file.WRITE_NEW, mode)
    try:
        os.fchmod(descriptor, mode)
        with attributes.needed(path, descriptor):
            attributes.begin(descriptor, _inline(zlib.compress(b"")))
        data_file.publish(temporary, path)
    finally:
        os.close(descriptor)
        with suppress(OSError):
            os.unlink(temporary)


class Versions:
    """The versions of the lock file ``path``. A body is opaque: bytes in, bytes out; that of a new file is empty.

    :param journal: for what must not be lost. Each commit is synced; a file without any version is not begun anew, but
        lost; and nothing is cleaned up (journal_file.py does).
    """

    def __init__(self, path: str, *, journal: bool = False) -> None:
        self.data_file: str | None = None
        """The token of the one that the last commit named."""
        self._path = path
        self._journal = journal
        self._clean_next: float | None = None

    def update(self, descriptor: int, change: Callable[[bytes | None], tuple[bytes, Result]], until: float) -> Result:
        """Replace the newest body by what ``change`` makes of it; called again each time a read was stale.

        :param descriptor: the open, locked lock file.
        :param change: gets the body, None if it is lost for good; returns the new one, and a result for the caller.
        :param until: when to give up, by the monotonic clock; tried once in any case.
        :raises StateUnavailable: no read was fresh in that time; nothing was changed.
        :raises OSError: the message says so if it is not known whether anything was changed.
        """
        start = time.monotonic()
        while True:
            waited = time.monotonic() - start
            with suppress(Stale), attributes.needed(self._path, descriptor):
                base = self._newest(descriptor)
                old = self._body(base)
                if old is None and waited < LOST_AFTER:
                    raise Stale
                body, result = change(old)
                self._commit(descriptor, base, body)
                return result
            if time.monotonic() >= until:
                raise StateUnavailable(f"{self._path}: what was read there was out of date for {waited:.1f} s")
            time.sleep(_PAUSE)

    def read(self, descriptor: int) -> bytes | None:
        """A recent body, without the lock; None if it is lost."""
        body: bytes | None = None
        with attributes.needed(self._path, descriptor):
            for attempt in range(_READ_TRIES):
                time.sleep(_PAUSE * attempt)
                with suppress(Stale):
                    found = attributes.newest(descriptor)
                    body = self._body(found) if found else None if self._journal else b""
                if body is not None:
                    break
        return body

    def _newest(self, descriptor: int) -> Version:
        found = attributes.newest(descriptor)
        if found is None and self._journal:
            return Version(0, b"", [])  # it was made with one
        if found is None:
            # An empty file that an admin made, or all is lost. Go on only with a list that shows version 0: it cannot
            # be so old that it shows none although there are some.
            attributes.begin(descriptor, _inline(zlib.compress(b"")))
            raise Stale
        return found

    def _body(self, base: Version) -> bytes | None:
        """What this version holds; None if its data file is not there (yet, or any more), or if it is damaged."""
        if base.record[:1].isdigit() and base.record[:1] > b"1":
            raise ConfigError(f"lock_file {self._path}: was written by a newer version of this package; upgrade this")
        fields = _RECORD.fullmatch(base.record)
        if not fields:
            return None
        _, packed, token, length, crc = fields.groups()
        if token is not None:
            packed = data_file.read(self._path, token.decode(), int(length), int(crc, 16))
        try:
            return zlib.decompress(packed) if packed is not None else None
        except zlib.error:
            return None

    def _commit(self, descriptor: int, base: Version, body: bytes) -> None:
        packed = zlib.compress(body, 1)
        token = None
        if len(packed) > INLINE_BYTES:
            token = self._commit_in_file(descriptor, base, packed)
        else:
            try:
                attributes.commit(descriptor, base, _inline(packed))
            except OSError as error:
                if isinstance(error, OutcomeUnknown) or error.errno not in attributes.NO_ROOM:
                    raise
                # others' attributes, such as access lists, take room in that block too
                token = self._commit_in_file(descriptor, base, packed)
        if self._journal:
            try:
                os.fsync(descriptor)
            except OSError as error:
                raise OutcomeUnknown(error) from error
        self.data_file = token
        before = _RECORD.fullmatch(base.record)
        if before and before[3]:
            data_file.remove(self._path, before[3].decode())
        if self._journal:
            return
        if self._clean_next is None or (token and time.monotonic() >= self._clean_next):
            self._clean_next = time.monotonic() + CLEAN_EVERY
            with suppress(OSError):
                data_file.clean(self._path, token)

    def _commit_in_file(self, descriptor: int, base: Version, packed: bytes) -> str:
        """:returns: the data file's token."""
        token = secrets.token_hex(8)
        try:
            data_file.write(self._path, token, packed, 0o600 if self._journal else 0o660)
            if self._journal:
                sync_directory(os.path.dirname(self._path))
            record = b"1f%s %d %08x" % (token.encode(), len(packed), zlib.crc32(packed))
            attributes.commit(descriptor, base, record)
        except OutcomeUnknown:
            raise  # the file may be needed
        except (OSError, Stale):
            data_file.remove(self._path, token)
            raise
        return token


def _inline(packed: bytes) -> bytes:
    return b"1z" + secrets.token_hex(8).encode() + packed
