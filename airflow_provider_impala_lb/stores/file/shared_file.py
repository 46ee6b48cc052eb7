"""How this host works on files in a directory that hosts share: by which clock, in which format, and how they are made.

Where a read under the lock sees what was written under it (filesystem.py), a file holds its content itself, in slots.
Elsewhere it stays empty, and versions lie in its attributes (xattr_versions.py). The file says which it is, so that all
hosts agree, by whatever way they reach it.
"""

from __future__ import annotations

import os
from collections.abc import Callable

from airflow_provider_impala_lb.stores.file import filesystem, xattr
from airflow_provider_impala_lb.stores.file.clock import HostClock, ServerClock, host_time
from airflow_provider_impala_lb.stores.file.faults import fault_of, file_system_of
from airflow_provider_impala_lb.stores.file.new_file import make_empty, make_whole


class SharedFile:
    """What the lock file and the journals beside it have in common. What file system they lie on is asked once.

    :param where: the lock file or what lies beside it, for errors.
    :param directory: the lock file's.
    :param begin: writes the first content of a new file in slots, given its descriptor; default none.
    :ivar host_clock: this host's own clock.
    :ivar is_coherent: whether a read under the lock sees here what was written under it; known once `now` was called.
    :ivar has_server_clock: whether `now` is the file server's time; known as that.
    """

    def __init__(self, where: str, directory: str, begin: Callable[[int], None] | None = None) -> None:
        self.host_clock: HostClock = host_time
        self._where = where
        self._directory = directory
        self._begin = begin
        self._server_clock: ServerClock | None = None
        self._is_known = False
        self.is_coherent = True

    @property
    def has_server_clock(self) -> bool:
        """See the class."""
        return self._server_clock is not None

    def now(self, *, to_look: bool = False) -> float:
        """Seconds since the epoch, by the clock of the file system. Outside the lock: it may make a small directory.

        :param to_look: nothing will be written by it, so this host's clock will do where the file server's cannot be
            measured; default False.
        :raises StateUnavailable: the directory is out of reach.
        :raises ConfigError: the directory cannot be used.
        """
        if not self._is_known:
            magic = file_system_of(self._where, self._directory)
            self.is_coherent = filesystem.is_coherent(magic)
            self._server_clock = ServerClock(self._directory) if magic == filesystem.NFS else None
            self._is_known = True
        if self._server_clock is None:
            return self.host_clock().wall
        try:
            return self._server_clock.now()
        except OSError as error:
            if to_look:
                return self.host_clock().wall
            failed = "the file server's time, by which leases end, cannot be measured with a directory beside it"
            raise fault_of(self._where, error, self._directory, failed, rights=self._directory) from error

    def make(self, path: str, mode: int = 0o660) -> None:
        """Make a file, whole at once, in the format that is exact on this file system.

        :param path: of the new file.
        :param mode: its permission bits; default 0660.
        :raises FileExistsError: made by another process meanwhile.
        :raises ConfigError: no format is exact here.
        """
        if not self.is_coherent:
            from airflow_provider_impala_lb.stores.file import xattr_versions

            xattr_versions.make(path, mode)
        elif self._begin:
            make_whole(path, mode, self._begin)
        else:
            make_empty(path, mode)

    def holds_versions(self, descriptor: int) -> bool:
        """Whether an open file is one for versions in attributes: an empty one that has some, or is to have some.

        :param descriptor: of the file.
        """
        return not os.fstat(descriptor).st_size and (not self.is_coherent or xattr.is_used(descriptor))
