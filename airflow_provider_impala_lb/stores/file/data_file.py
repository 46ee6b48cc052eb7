"""A version of the state that is too large for an attribute (cas.py): a file beside the lock file, never changed.

It is written and synced before the version that names it is committed, so whoever finds the version finds the file. A
writer killed in between leaves one that nobody names; those are removed, long after.
"""

from __future__ import annotations

import errno
import os
import re
import stat
import zlib
from contextlib import suppress

from airflow_provider_impala_lb.errors import ConfigError
from airflow_provider_impala_lb.stores.file.clock import PROBE, server_time

ORPHAN_SECONDS = 3600.0
WRITE_NEW = os.O_RDWR | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC | os.O_NOFOLLOW


def path_of(lock_file: str, token: str) -> str:
    """The name is made here from the token (16 hex digits), never read from anywhere: it cannot lead elsewhere."""
    directory, name = os.path.split(lock_file)
    return os.path.join(directory, f".{name}.{token}")


def write(lock_file: str, token: str, content: bytes, mode: int = 0o660) -> None:
    with os.fdopen(os.open(path_of(lock_file, token), WRITE_NEW, mode), "wb") as file:
        os.fchmod(file.fileno(), mode)  # whatever the umask
        file.write(content)
        file.flush()
        os.fsync(file.fileno())


def publish(temporary: str, path: str) -> None:
    """Give the finished file its name, unless that is taken.

    :raises FileExistsError: it is. :raises ConfigError: there are no hard links on this file system (link(2), EPERM).
    """
    try:
        os.link(temporary, path)
    except OSError as error:
        if error.errno not in (errno.EPERM, errno.EOPNOTSUPP, errno.ENOSYS):
            raise
        raise ConfigError(
            f"lock_file {path}: its file system makes no hard links ({error.strerror}), and a new file is whole only "
            "by one: put the lock file on a local disk (one host), NFS or GlusterFS, or use a Redis (store: redis://...)"
        ) from None


def sync_directory(path: str) -> None:
    """Make durable what was made and removed in it."""
    descriptor = os.open(path, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def read(lock_file: str, token: str, length: int, crc: int) -> bytes | None:
    """Its content; None if it is not there, not a regular file, or not what its version says of it.

    :raises OSError: it could not be read now, e.g. because of a lost connection: no reason to give the state up.
    """
    # O_NONBLOCK: opening a pipe to read would wait for a writer
    flags = os.O_RDONLY | os.O_CLOEXEC | os.O_NOFOLLOW | os.O_NONBLOCK
    try:
        descriptor = os.open(path_of(lock_file, token), flags)
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


def remove(lock_file: str, token: str) -> None:
    with suppress(OSError):  # another user's in a sticky directory, say: it takes space, no more
        os.unlink(path_of(lock_file, token))


def clean(lock_file: str, newest: str | None) -> None:
    """Remove what killed writers left, but for the one with the token ``newest``; also the clock's probes (clock.py),
    of which this makes one too. Under the lock.

    Only what is an hour older, by the file server's stamps, than a file made now: hosts' clocks disagree, and without
    the lock (a lost connection frees it) a file may be there that is about to be named.
    """
    directory, name = os.path.split(lock_file)
    form = re.compile(rf"(?:{re.escape(f'.{name}.')}|{re.escape(PROBE)})([0-9a-f]{{16}})")
    found = [form.fullmatch(entry) for entry in os.listdir(directory)]
    paths = [os.path.join(directory, match[0]) for match in found if match and match[1] != newest]
    if paths:
        now = server_time(directory)
        for path in paths:
            with suppress(OSError):
                if now - os.lstat(path).st_mtime > ORPHAN_SECONDS:
                    os.unlink(path)
