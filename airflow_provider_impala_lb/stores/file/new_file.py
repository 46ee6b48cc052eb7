"""New files in a directory that hosts share: how one appears whole, with the mode that was asked for, and durably.

A file is filled under a name that nobody looks for, ``.<name>.<16 hex digits>``, and gets its own name by a hard link,
which is refused if another process was faster. A process killed in between leaves the first name behind, which
`remove_abandoned` removes.
"""

from __future__ import annotations

import errno
import os
import re
import stat
from collections.abc import Callable
from contextlib import suppress

from airflow_provider_impala_lb.errors import ConfigError
from airflow_provider_impala_lb.stores.file.clock import PROBE, server_time

ABANDONED_SECONDS = 3600.0
"""What nobody names is removed when it is this old."""
NEW = os.O_RDWR | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC | os.O_NOFOLLOW
"""Flags of ``open`` for a file that must not be there yet."""


def create(path: str, mode: int) -> int:
    """Make an empty file, and return its descriptor, open for reading and writing.

    :param path: of the new file.
    :param mode: permission bits, set whatever the umask: the workers of a host share a group, not a user.
    :raises FileExistsError: made by another process meanwhile.
    :raises OSError: it cannot be made.
    """
    descriptor = os.open(path, NEW, mode)
    try:
        os.fchmod(descriptor, mode)
    except BaseException:
        os.close(descriptor)
        raise
    return descriptor


def make_empty(path: str, mode: int = 0o660) -> None:
    """Make an empty file.

    :param path: of the new file.
    :param mode: permission bits, set whatever the umask; default 0660.
    :raises FileExistsError: made by another process meanwhile.
    """
    os.close(create(path, mode))


def make_whole(path: str, mode: int, fill: Callable[[int], None]) -> None:
    """Make a file that has its content from the moment it has its name.

    :param path: of the new file.
    :param mode: permission bits, set whatever the umask.
    :param fill: writes the content, given the open descriptor.
    :raises FileExistsError: made by another process meanwhile.
    :raises ConfigError: there are no hard links on this file system (link(2), EPERM).
    """
    temporary = hidden_path(path, os.urandom(8).hex())
    try:
        descriptor = create(temporary, mode)
        try:
            fill(descriptor)
            _publish(temporary, path)
        finally:
            os.close(descriptor)
    finally:
        with suppress(OSError):  # also where its mode could not be set
            os.unlink(temporary)


def hidden_path(path: str, token: str) -> str:
    """The path of a file that belongs to another one, beside it.

    :param path: of the file it belongs to.
    :param token: 16 hex digits. The name is made here, never read from anywhere, so it cannot lead elsewhere.
    """
    directory, name = os.path.split(path)
    return os.path.join(directory, f".{name}.{token}")


def remove_abandoned(path: str, newest: str | None) -> None:
    """Remove what killed processes left beside a file: its hidden files, and the clock's probes (clock.py), of which
    this makes one too. Under the lock.

    Only what is an hour older, by the file server's stamps, than a file made now: hosts' clocks disagree, and without
    the lock (a lost connection frees it) a file may be there that is about to be named.

    :param path: of the file.
    :param newest: the token of the hidden file that is to stay; None: there is none.
    :raises OSError: the directory cannot be read, or nothing can be made in it.
    """
    directory, name = os.path.split(path)
    form = re.compile(rf"(?:{re.escape(f'.{name}.')}|{re.escape(PROBE)})([0-9a-f]{{16}})")
    matches = [form.fullmatch(entry) for entry in os.listdir(directory)]
    paths = [os.path.join(directory, match[0]) for match in matches if match and match[1] != newest]
    if paths:
        now = server_time(directory)
        for hidden in paths:
            with suppress(OSError):
                status = os.lstat(hidden)
                if now - status.st_mtime > ABANDONED_SECONDS:
                    os.rmdir(hidden) if stat.S_ISDIR(status.st_mode) else os.unlink(hidden)


def sync_directory(path: str) -> None:
    """Make durable what was made and removed in it.

    :param path: of the directory.
    """
    descriptor = os.open(path, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def _publish(temporary: str, path: str) -> None:
    """Give the finished file its name, unless that is taken."""
    try:
        os.link(temporary, path)
    except OSError as error:
        if error.errno not in (errno.EPERM, errno.EOPNOTSUPP, errno.ENOSYS):
            raise
        raise ConfigError(
            f"lock_file {path}: its file system makes no hard links ({error.strerror}), and a new file is whole only "
            "by one: put the lock file on a local disk (one host), NFS or GlusterFS, or use a Redis (store: redis://...)"
        ) from None
