"""What an error of the lock file's directory means: somebody has to correct something, or it may come back by itself.

Rights, a mount without locks, a directory that this host has never seen: with these every pick would go on without the
shared state, for ever, and limits would bind nobody. So they are errors of the configuration. But what this process, or
for a share that is away this host, has used before is out of reach: work goes on.

A process that has used the directory knows that. A new one, as each Airflow task is, finds a mark that an earlier one
of the same user has left on this host, in ``$TMPDIR`` or ``/var/tmp``, which outlasts a restart. Anybody may write
there, so the marks lie in a directory that belongs to this user alone (mode 0700); no link is followed, and what is
not so is not used. Without marks an outage looks like a mistake; never the other way round. What lies on the same file
system as the marks cannot go away without them, and gets none.
"""

from __future__ import annotations

import errno
import grp
import os
import pwd
import stat
import zlib
from contextlib import suppress

from airflow_provider_impala_lb.errors import ConfigError, StateUnavailable
from airflow_provider_impala_lb.stores.file import filesystem

_NO_SUCH_CALL = {errno.ENOSYS, errno.EOPNOTSUPP}
_MARKS_FLAGS = os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC | os.O_NOFOLLOW

_used: set[tuple[int, str]] = set()


class OutcomeUnknown(OSError):
    """A commit failed after it was sent: it may have been made, once.

    :param error: how it failed.
    """

    def __init__(self, error: OSError) -> None:
        message = f"{error.strerror}; outcome unknown: it may have been noted all the same"
        super().__init__(error.errno, message)


def fault_of(
    path: str, error: OSError, directory: str, failed: str, *, rights: str = ""
) -> ConfigError | StateUnavailable:
    """The error to raise.

    :param path: the file that was worked on.
    :param error: what the system said.
    :param directory: the lock file's, also where ``path`` is a file of the journals beside it.
    :param failed: what could not be done, e.g. "cannot be opened".
    :param rights: the directory whose rights count, default that of ``path``. If this process has used it, they were
        taken away meanwhile (a ticket that ran out, say), and what runs goes on.
    :returns: a `ConfigError` where somebody has to correct something, else a `StateUnavailable`.
    """
    if isinstance(error, OutcomeUnknown):
        return StateUnavailable(f"{path}: {error.strerror}")
    code = error.errno
    if code == errno.ELOOP:
        return ConfigError(f"lock_file {path}: is a symbolic link; name the file itself")
    if code == errno.EISDIR:
        return ConfigError(f"lock_file {path}: is a directory; name a file in it")
    if code in (errno.ENOTDIR, errno.ENAMETOOLONG):
        return ConfigError(f"lock_file {path}: {error.strerror}; correct the path")
    if code in _NO_SUCH_CALL:
        return ConfigError(
            f"lock_file {path}: {failed}: {error.strerror}. {_kind(directory)} lacks what the shared state needs: "
            "put the lock file on a local disk (one host), NFS or GlusterFS, or use a Redis (store: redis://...)"
        )
    away = f"{path}: its directory is not there; is the share mounted?"
    if code == errno.ENOENT:
        if used_by_this_host(directory):
            return StateUnavailable(away)
        return ConfigError(
            f"lock_file {path}: its directory is not there, and this host ({os.uname().nodename}) has never used it. "
            f"If lock_file is right, mount the share here, or make the directory: mkdir -m 2770 {directory}. There is: "
            f"{_nearest(directory)}"
        )
    outage = StateUnavailable(f"{path}: {failed}: {error.strerror}")
    if code in (errno.EACCES, errno.EPERM) and not used_by_this_process(rights or os.path.dirname(path)):
        return ConfigError(f"lock_file {path}: {failed}: {error.strerror}. {_rights(path, directory)}")
    if code in (errno.EROFS, errno.ENOLCK) and not used_by_this_host(directory):
        mount = mount_point(directory)
        remedy = (
            f"Mount it for writing: mount -o remount,rw {mount}"
            if code == errno.EROFS
            else f"{_kind(directory)} gives no locks: NFSv3 needs rpc.statd and a lock manager on both sides, NFSv4 "
            f"neither; mount {mount} with vers=4.2, or start them"
        )
        return ConfigError(f"lock_file {path}: {failed}: {error.strerror}. {remedy}")
    return outage


def file_system_of(where: str, directory: str) -> int:
    """The magic number of the directory's file system, see `filesystem.kind`.

    :param where: what is to lie there, for the error.
    :param directory: the lock file's.
    :raises StateUnavailable: as `fault_of`.
    :raises ConfigError: as `fault_of`.
    """
    try:
        return filesystem.kind_of(directory)
    except OSError as error:
        raise fault_of(where, error, directory, "cannot be reached") from error


def mount_point(directory: str) -> str:
    """Where the file system is mounted that a directory lies on.

    :param directory: its path.
    """
    while directory != "/" and not os.path.ismount(directory):
        directory = os.path.dirname(directory)
    return directory


def _kind(directory: str) -> str:
    with suppress(OSError):
        return f"Its file system ({filesystem.name(filesystem.kind_of(directory))})"
    return "Its file system"


def _nearest(directory: str) -> str:
    while directory != "/" and not os.path.isdir(directory):
        directory = os.path.dirname(directory)
    return directory


def _rights(path: str, directory: str) -> str:
    groups = ", ".join(sorted(_group(group) for group in {os.getegid(), *os.getgroups()}))
    me = f"this process runs as user {_user(os.geteuid())} with the groups {groups}"
    for item in (directory,) if os.access(path, os.R_OK | os.W_OK) else (path, directory):
        with suppress(OSError):
            status = os.stat(item)
            group = _group(status.st_gid)
            return (
                f"{item} belongs to {_user(status.st_uid)}:{group} with mode {stat.filemode(status.st_mode)}, and "
                f"{me}: add the user to group {group} and start its processes anew, or give {directory} to a group of "
                f"all workers' users: chgrp GROUP {directory}; chmod 2770 {directory}"
            )
    return f"It lies in a directory that may not be entered, and {me}"


def _user(number: int) -> str:
    with suppress(KeyError):
        return pwd.getpwuid(number).pw_name
    return str(number)


def _group(number: int) -> str:
    with suppress(KeyError):
        return grp.getgrgid(number).gr_name
    return str(number)


def note_used(directory: str) -> None:
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
                mark = os.open(_mark(directory), flags, 0o600, dir_fd=marks)
                try:
                    os.utime(mark)  # what is old is removed from there: tmpfiles.d(5), 30 days
                finally:
                    os.close(mark)
        finally:
            os.close(marks)


def used_by_this_process(directory: str) -> bool:
    """Whether this process, as this user, has used a directory.

    :param directory: its path.
    """
    return (os.geteuid(), directory) in _used


def used_by_this_host(directory: str) -> bool:
    """Whether a process of this user has used a directory on this host.

    :param directory: its path.
    """
    if used_by_this_process(directory):
        return True
    with suppress(OSError):
        marks = _open_marks(make=False)
        try:
            return stat.S_ISREG(os.stat(_mark(directory), dir_fd=marks, follow_symlinks=False).st_mode)
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
    descriptor = os.open(path, _MARKS_FLAGS)
    status = os.fstat(descriptor)
    if status.st_uid != os.geteuid() or stat.S_IMODE(status.st_mode) & 0o077:
        os.close(descriptor)
        raise PermissionError(f"{path} is not this user's alone")
    return descriptor


def _mark(directory: str) -> str:
    # Not hashlib: it loads OpenSSL, which takes as long as a pick.
    return f"{zlib.crc32(directory.encode(errors='surrogateescape')):08x}"
