"""The directory in which the journals' files are, whose it is, and the lock on it.

It is one user's, or a group's: where the lock file's directory is one that a group shares (setgid, and writable for the
group), the journals' is made like it, as git does it for a repository that is shared. Who may write there may take the
journals' directory away in any case.
"""

from __future__ import annotations

import errno
import os
import re
import secrets
import shlex
import stat
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress

from airflow_provider_impala_lb.core.timing import Deadline
from airflow_provider_impala_lb.errors import ConfigError, StateUnavailable
from airflow_provider_impala_lb.stores.file.clock import PROBE
from airflow_provider_impala_lb.stores.file.faults import fault_of, file_system_of
from airflow_provider_impala_lb.stores.file.lock import Lock
from airflow_provider_impala_lb.stores.file.new_file import NEW, make_empty, sync_directory

_FLAGS = os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC | os.O_NOFOLLOW
_LOCK = "lock"
_JOURNAL = re.compile(r"[0-9a-f]{32}")
_NAME_SECONDS, _NAME_PAUSE = 3.0, 0.05
"""A mount may say for a second or so that what another host has just made is there and not there (GlusterFS)."""
_HIDDEN = re.compile(r"\.([0-9a-f]{32})\.[0-9a-f]{16}")


class JournalDirectory:
    """A directory of mode 0700 or 2770, in one that is there.

    :param path: of the directory; it is made by `make`.
    :ivar path: of the directory.
    :ivar parent: the path of the one that it lies in.
    :ivar file_mode: permission bits of the files in it, known once `make` or `exists` was called.
    """

    def __init__(self, path: str) -> None:
        self.path = path
        self.parent = os.path.dirname(path)
        self.file_mode = 0o600
        self._own_ids = {os.geteuid()}
        self._synced = False

    def make(self) -> None:
        """Make it, if need be, durably.

        :raises StateUnavailable: it cannot be made or opened.
        :raises ConfigError: as `exists`.
        """
        try:
            deadline = Deadline(_NAME_SECONDS)
            while True:
                groups = self._group_of_parent() is not None
                with suppress(FileExistsError):
                    os.mkdir(self.path, 0o770 if groups else 0o700)
                    if groups:
                        self._share()
                try:
                    if self.exists():
                        break
                except ConfigError:
                    if not groups or deadline.passed():  # whoever makes it may not have set its mode yet
                        raise
                if deadline.passed():
                    raise StateUnavailable(f"{self.path}: keeps vanishing")
                time.sleep(_NAME_PAUSE)
            if not self._synced:  # whoever made it may have been killed before
                sync_directory(self.parent)
                self._synced = True
        except OSError as error:
            raise fault_of(self.path, error, self.parent, "cannot be made", rights=self.path) from error

    def exists(self) -> bool:
        """Whether it is there.

        :raises ConfigError: in its place is something else, or a directory that others may write, or have made, and
            that is no group's.
        :raises StateUnavailable: it cannot be opened, or the one that it is to be in is not there.
        """
        try:
            descriptor = os.open(self.path, _FLAGS)
        except FileNotFoundError:
            file_system_of(self.path, self.parent)
            return False
        except OSError as error:
            if error.errno in (errno.ELOOP, errno.ENOTDIR):
                raise ConfigError(f"{self.path}: is not a directory, but journals are to be kept in it") from None
            fault = fault_of(self.path, error, self.parent, "cannot be opened", rights=self.path)
            if error.errno == errno.EACCES and isinstance(fault, ConfigError):
                raise ConfigError(f"{fault}. {self._how_to_share}") from None
            raise fault from error
        try:
            status = os.fstat(descriptor)
        finally:
            os.close(descriptor)
        if status.st_mode & stat.S_ISGID and status.st_gid == self._group_of_parent() and _is_groups(status.st_mode):
            self.file_mode = 0o660
            return True
        self.file_mode = 0o600
        if stat.S_IMODE(status.st_mode) & 0o022:
            raise ConfigError(
                f"{self.path}: others may write into it (mode {stat.S_IMODE(status.st_mode):o}), so what it says of "
                "statements that ran cannot be trusted; remove it, or set its mode to 700 if you know what is in it. "
                f"{self._how_to_share}"
            )
        if status.st_uid not in self._own_ids and status.st_uid != self._user_as_stamped():
            raise ConfigError(
                f"{self.path}: belongs to user {status.st_uid}, and this process runs as {os.geteuid()}. "
                f"{self._how_to_share}"
            )
        return True

    def why_one_users(self) -> str | None:
        """What to set, where a group shares the lock file's directory, and this one, which is there, is one user's.

        :returns: None where it is not so.
        :raises ConfigError: as `exists`.
        :raises StateUnavailable: as `exists`.
        """
        one_users = self.exists() and self.file_mode == 0o600 and self._group_of_parent() is not None
        return self._how_to_share if one_users else None

    def names(self) -> list[str]:
        """The names of the journals' files; they may come and go.

        :raises StateUnavailable: the directory cannot be read.
        """
        return [entry for entry in self._entries() if _JOURNAL.fullmatch(entry)]

    def names_with_hidden_files(self) -> set[str]:
        """The names of the journals' files beside which there is a data file (file/xattr_versions.py), or what a killed
        writer may have left.

        :raises StateUnavailable: the directory cannot be read.
        """
        return {match[1] for entry in self._entries() if (match := _HIDDEN.fullmatch(entry))}

    def path_of(self, name: str) -> str:
        """The path of a file in it.

        :param name: the file's.
        """
        return os.path.join(self.path, name)

    @contextmanager
    def lock(self, deadline: float, *, shared: bool) -> Iterator[None]:
        """Hold the directory's lock for a block.

        :param deadline: seconds to wait.
        :param shared: True to work on files, False, alone, to unlink them.
        :raises StateUnavailable: it was not free in that time.
        """
        lock = Lock(
            self.path_of(_LOCK),
            deadline,
            lambda path: make_empty(path, self.file_mode),
            home=self.parent,
            shared=shared,
        )
        descriptor = lock.acquire()
        try:
            yield
        finally:
            lock.release_quietly(descriptor)

    def _share(self) -> None:
        """Give a new directory the mode of a shared one, whatever the umask."""
        descriptor = os.open(self.path, _FLAGS)
        try:
            os.fchmod(descriptor, 0o2770)
        finally:
            os.close(descriptor)

    def _group_of_parent(self) -> int | None:
        """The group that shares the lock file's directory; None: none does."""
        with suppress(OSError):
            status = os.stat(self.parent)
            if status.st_mode & stat.S_ISGID and _is_groups(status.st_mode):
                return status.st_gid
        return None

    @property
    def _how_to_share(self) -> str:
        parent, path = shlex.quote(self.parent), shlex.quote(self.path)
        return (
            f"Users share journals by a group of theirs: chgrp GROUP {parent}; chmod 2770 {parent}; "
            f"chgrp -R GROUP {path}; chmod 2770 {path}; chmod 660 {path}/*"
        )

    def _entries(self) -> list[str]:
        try:
            return os.listdir(self.path)
        except FileNotFoundError:
            return []
        except OSError as error:
            raise fault_of(self.path, error, self.parent, "cannot be read", rights=self.path) from error

    def _user_as_stamped(self) -> int | None:
        """As which user the file server sees this one (root, or all, may be mapped to another); None: unknown."""
        path = self.path_of(PROBE + secrets.token_hex(8))
        try:
            descriptor = os.open(path, NEW, 0o600)  # its mode does not matter, and a server may refuse to set one
        except OSError:
            return None
        try:
            user = os.fstat(descriptor).st_uid
        finally:
            os.close(descriptor)
            with suppress(OSError):
                os.unlink(path)
        self._own_ids.add(user)
        return user


def _is_groups(mode: int) -> bool:
    """Whether a directory's mode lets a group work in it, and nobody else write."""
    return mode & 0o070 == 0o070 and not mode & 0o002
