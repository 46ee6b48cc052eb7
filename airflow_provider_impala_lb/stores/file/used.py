"""Which lock files' directories this host has used before: one that is not there now is then an outage, and no mistake.

A process that has used the directory knows that. A new one, as each Airflow task is, finds a mark that an earlier one
of the same user has left on this host, in ``$TMPDIR`` or ``/var/tmp``, which outlasts a restart. Anybody may write
there, so the marks lie in a directory that belongs to this user alone (mode 0700); no link is followed, and what is
not so is not used. Without marks an outage looks like a mistake; never the other way round.

What lies on the same file system as the marks cannot go away without them, and gets none.
"""

from __future__ import annotations

import os
import stat
import zlib
from contextlib import suppress

_FLAGS = os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC | os.O_NOFOLLOW

_used: set[tuple[int, str]] = set()


def note(directory: str) -> None:
    """Remember that this process has used a lock file's directory. Never raises.

    :param directory: its path.
    """
    me = (os.geteuid(), directory)
    if me in _used:
        return
    _used.add(me)
    with suppress(OSError):
        marks = _open_marks(make=True)
        try:
            if os.fstat(marks).st_dev != os.stat(directory).st_dev:
                flags = os.O_WRONLY | os.O_CREAT | os.O_CLOEXEC | os.O_NOFOLLOW
                mark = os.open(_name(directory), flags, 0o600, dir_fd=marks)
                try:
                    os.utime(mark)  # what is old is removed from there: tmpfiles.d(5), 30 days
                finally:
                    os.close(mark)
        finally:
            os.close(marks)


def by_this_process(directory: str) -> bool:
    """Whether this process, as this user, has used a directory.

    :param directory: its path.
    """
    return (os.geteuid(), directory) in _used


def by_this_host(directory: str) -> bool:
    """Whether a process of this user has used a directory on this host.

    :param directory: its path.
    """
    if by_this_process(directory):
        return True
    with suppress(OSError):
        marks = _open_marks(make=False)
        try:
            return stat.S_ISREG(os.stat(_name(directory), dir_fd=marks, follow_symlinks=False).st_mode)
        finally:
            os.close(marks)
    return False


def _open_marks(*, make: bool) -> int:
    """The directory of the marks.

    :raises OSError: there is none, or it is not this user's alone.
    """
    path = os.path.join(os.environ.get("TMPDIR") or "/var/tmp", f"impala-lb-{os.geteuid()}")  # noqa: S108  see the top
    if make:
        with suppress(FileExistsError):
            os.mkdir(path, 0o700)
    descriptor = os.open(path, _FLAGS)
    status = os.fstat(descriptor)
    if status.st_uid != os.geteuid() or stat.S_IMODE(status.st_mode) & 0o077:
        os.close(descriptor)
        raise PermissionError(f"{path} is not this user's alone")
    return descriptor


def _name(directory: str) -> str:
    # Not hashlib: it loads OpenSSL, which takes as long as a pick.
    return f"{zlib.crc32(directory.encode(errors='surrogateescape')):08x}"
