"""The state, or a journal, in attributes of its file (xattr.py says how), where flock makes nothing coherent.

Two versions have to fit into the one block of 4 KB that ext4 has for a file's attributes (ext4(5), ea_inode), together
with the file server's own. A larger one goes into a data file beside the file, and the attribute says which. That is
written and synced before the version that names it is committed, so whoever finds the version finds the data file, and
it is never changed. A writer killed in between leaves one that nobody names; those are removed, long after.
"""

from __future__ import annotations

import enum
import errno
import os
import re
import secrets
import stat
import time
import zlib
from collections.abc import Callable
from contextlib import suppress
from typing import Final

from airflow_provider_impala_lb.core.ports import Result
from airflow_provider_impala_lb.core.state.loading import load_or_reset
from airflow_provider_impala_lb.core.state.state import State, encode
from airflow_provider_impala_lb.errors import ConfigError, StateUnavailable
from airflow_provider_impala_lb.stores.file import xattr
from airflow_provider_impala_lb.stores.file.bounded_calls import Call
from airflow_provider_impala_lb.stores.file.faults import OutcomeUnknown
from airflow_provider_impala_lb.stores.file.new_file import (
    create,
    hidden_path,
    make_whole,
    remove_abandoned,
    sync_directory,
)
from airflow_provider_impala_lb.stores.file.xattr import Stale, Version

INLINE_BYTES = 1600
"""A body compressed to more than this goes into a data file."""
LOST_AFTER = 2.0
"""What cannot be read for so long, in seconds, is lost: twice as long as GlusterFS's caches may hide a data file."""
CLEAN_EVERY = 600.0
"""Seconds between two looks for what killed writers left."""
_PAUSE = 0.002
_READ_ATTEMPTS = 10

# Format 1; z: the state, or f: the data file's length and crc32. The token, new for each commit, tells mine from yours.
_RECORD = re.compile(rb"1(?:z([0-9a-f]{16})(.*)|f([0-9a-f]{16}) ([0-9]{1,10}) ([0-9a-f]{8}))", re.DOTALL)


class Durability(enum.Enum):
    """What is done against a loss, and what a loss is."""

    SOFT = enum.auto()
    """Nothing is synced, and a file without any version is begun anew: for the shared state, which heals."""
    SYNCED = enum.auto()
    """Each commit is synced before it returns, and a file without any version is damaged: for journals."""


def make(path: str, mode: int = 0o660) -> None:
    """Make a file with version 0, whose body is empty, whole or not at all.

    :param path: of the new file.
    :param mode: permission bits, set whatever the umask; default 0660.
    :raises FileExistsError: another one has made it.
    :raises ConfigError: no such attributes here, or the mount does not refuse what makes them exact.
    """

    def fill(descriptor: int) -> None:
        with xattr.needed(path, descriptor):
            _begin(path, descriptor)

    make_whole(path, mode, fill)


class StateVersions:
    """The state of the lock file, in versions.

    :param path: of the lock file.
    :param clock: this host's, in seconds since the epoch: GlusterFS stamps files with the client's time.
    """

    mode: Final = "cas"
    is_confirmed: Final = True

    def __init__(self, path: str, clock: Callable[[], float]) -> None:
        self._what = f"lock_file {path}"
        self._clock = clock
        self._versions = Versions(path, Durability.SOFT)

    def update(
        self, descriptor: int, change: Callable[[State, float], Result], now: float, call: Call
    ) -> tuple[Result, bool]:
        """Replace the state by what ``change`` makes of it, see `StateFormat.update` (store.py).

        :param descriptor: of the open file.
        :param change: gets the state and the time.
        :param now: not used: the clock is this host's.
        :param call: when to give up, and whether anybody still waits for it.
        """
        renewed = False

        def changed(record: bytes | None) -> tuple[bytes, Result]:
            nonlocal renewed
            state, renewed = load_or_reset(self._what, record)
            result = change(state, self._clock())
            return encode(state), result

        return self._versions.update(descriptor, changed, call), renewed

    def read(self, descriptor: int, now: float, *, records: bool = True) -> tuple[State, float]:
        """A recent state without the lock, see `StateFormat.read` (store.py).

        :param descriptor: of the open file.
        :param now: not used: the clock is this host's.
        :param records: as in `Store.read`.
        """
        state, _ = load_or_reset(self._what, self._versions.read(descriptor))
        return state if records else State(state.head), self._clock()


class Versions:
    """The versions of one file. A body is opaque: bytes in, bytes out; that of a new file is empty.

    What killed writers left is removed only with `Durability.SOFT`; who keeps many files in one directory does that
    himself, by `remove_abandoned`.

    :param path: of the file.
    :param durability: what is done against a loss.
    :param mode: permission bits of data files; default 0660.
    :ivar data_file: the token of the data file that the last commit named; None if it named none.
    """

    def __init__(self, path: str, durability: Durability, mode: int = 0o660) -> None:
        self.data_file: str | None = None
        self._path = path
        self._synced = durability is Durability.SYNCED
        self._mode = mode
        self._clean_next: float | None = None

    def update(self, descriptor: int, change: Callable[[bytes | None], tuple[bytes, Result]], call: Call) -> Result:
        """Replace the newest body by what ``change`` makes of it; called again each time a read was stale.

        :param descriptor: of the open, locked file.
        :param change: gets the body, None if it is lost for good; returns the new one, and a result for the caller.
        :param call: when to give up (attempted once in any case), and whether anybody still waits for it.
        :raises StateUnavailable: no read was fresh in that time; nothing was changed.
        :raises OutcomeUnknown: it may have been changed, once.
        :raises OSError: nothing was changed.
        """
        start = time.monotonic()
        while True:
            waited = time.monotonic() - start
            with suppress(Stale), xattr.needed(self._path, descriptor):
                base = self._newest(descriptor)
                old = self._body(base)
                if old is None and waited < LOST_AFTER:
                    raise Stale
                body, result = call.compute(change, old)
                self._commit(descriptor, base, body, call)
                return result
            if call.passed():
                raise StateUnavailable(f"{self._path}: what was read there was out of date for {waited:.1f} s")
            time.sleep(_PAUSE)

    def read(self, descriptor: int) -> bytes | None:
        """A recent body, without the lock; None if it is lost.

        A data file that a later commit removes while it is read is a stale one on GlusterFS: then there is a newer one.

        :param descriptor: of the open file.
        :raises OSError: it cannot be read now.
        """
        body: bytes | None = None
        with xattr.needed(self._path, descriptor):
            for attempt in range(_READ_ATTEMPTS):
                time.sleep(_PAUSE * attempt)
                try:
                    with suppress(Stale):
                        newest = xattr.newest(descriptor)
                        body = self._body(newest) if newest else None if self._synced else b""
                except OSError as error:
                    if error.errno != errno.ESTALE or attempt + 1 == _READ_ATTEMPTS:
                        raise
                if body is not None:
                    break
        return body

    def _newest(self, descriptor: int) -> Version:
        newest = xattr.newest(descriptor)
        if newest is None and self._synced:
            return Version(0, b"", [])  # it was made with one
        if newest is None:
            # An empty file that an admin made, or all is lost. Go on only with a list that shows version 0: it cannot
            # be so old that it shows none although there are some.
            _begin(self._path, descriptor)
            raise Stale
        return newest

    def _body(self, base: Version) -> bytes | None:
        """What this version holds; None if its data file is not there (yet, or any more), or if it is damaged."""
        if base.record[:1].isdigit() and base.record[:1] > b"1":
            raise ConfigError(f"lock_file {self._path}: was written by a newer version of this package; upgrade this")
        fields = _RECORD.fullmatch(base.record)
        if not fields:
            return None
        _, packed, token, length, crc = fields.groups()
        if token is not None:
            packed = read_data_file(self._path, token.decode(), int(length), int(crc, 16))
        try:
            return zlib.decompress(packed) if packed is not None else None
        except zlib.error:
            return None

    def _commit(self, descriptor: int, base: Version, body: bytes, call: Call) -> None:
        packed = zlib.compress(body, 1)
        token = None
        if len(packed) > INLINE_BYTES:
            token = self._commit_in_file(descriptor, base, packed, call)
        else:
            call.commits()
            try:
                xattr.commit(descriptor, base, _inline(packed))
            except OSError as error:
                if isinstance(error, OutcomeUnknown) or error.errno not in xattr.NO_ROOM:
                    raise
                # others' attributes, such as access lists, take room in that block too
                token = self._commit_in_file(descriptor, base, packed, call)
        if self._synced:
            try:
                os.fsync(descriptor)
            except OSError as error:
                raise OutcomeUnknown(error) from error
        self.data_file = token
        before = _RECORD.fullmatch(base.record)
        if before and before[3]:
            _remove_data_file(self._path, before[3].decode())
        if self._synced:
            return
        if self._clean_next is None or (token and time.monotonic() >= self._clean_next):
            self._clean_next = time.monotonic() + CLEAN_EVERY
            with suppress(OSError):
                remove_abandoned(self._path, token)

    def _commit_in_file(self, descriptor: int, base: Version, packed: bytes, call: Call) -> str:
        """:returns: the data file's token."""
        token = secrets.token_hex(8)
        try:
            write_data_file(self._path, token, packed, self._mode)
            if self._synced:
                sync_directory(os.path.dirname(self._path))
            record = b"1f%s %d %08x" % (token.encode(), len(packed), zlib.crc32(packed))
            call.commits()
            xattr.commit(descriptor, base, record)
        except OutcomeUnknown:
            raise  # the file may be needed
        except (OSError, Stale):
            _remove_data_file(self._path, token)
            raise
        return token


def _begin(path: str, descriptor: int) -> None:
    """Make version 0, with an empty body, where commits are exact."""
    record = _inline(zlib.compress(b""))
    xattr.begin(descriptor, record)
    xattr.require_refusals(path, descriptor, record)


def _inline(packed: bytes) -> bytes:
    return b"1z" + secrets.token_hex(8).encode() + packed


def write_data_file(path: str, token: str, content: bytes, mode: int = 0o660) -> None:
    """Make a data file, synced.

    :param path: of the file it belongs to.
    :param token: 16 hex digits, new.
    :param content: its content.
    :param mode: permission bits, set whatever the umask; default 0660.
    :raises OSError: it was not made, or only in part.
    """
    with os.fdopen(create(hidden_path(path, token), mode), "wb") as file:
        file.write(content)
        file.flush()
        os.fsync(file.fileno())


def read_data_file(path: str, token: str, length: int, crc: int) -> bytes | None:
    """A data file's content; None if it is not there, not a regular file, or not what its version says of it.

    :param path: of the file it belongs to.
    :param token: 16 hex digits.
    :param length: of its content, in bytes.
    :param crc: the content's crc32.
    :raises OSError: it could not be read now, e.g. because of a lost connection: no reason to give the state up.
    """
    # O_NONBLOCK: opening a pipe to read would wait for a writer
    flags = os.O_RDONLY | os.O_CLOEXEC | os.O_NOFOLLOW | os.O_NONBLOCK
    try:
        descriptor = os.open(hidden_path(path, token), flags)
    except OSError as error:
        if error.errno in (errno.ENOENT, errno.ELOOP, errno.ENXIO):
            return None
        raise
    try:
        if not stat.S_ISREG(os.fstat(descriptor).st_mode):
            return None
        content = bytearray()
        while len(content) <= length and (more := os.read(descriptor, length + 1 - len(content))):
            content += more
    finally:
        os.close(descriptor)
    return bytes(content) if len(content) == length and zlib.crc32(content) == crc else None


def _remove_data_file(path: str, token: str) -> None:
    with suppress(OSError):  # another user's in a sticky directory, say: it takes space, no more
        os.unlink(hidden_path(path, token))
