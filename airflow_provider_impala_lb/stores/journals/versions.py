"""A journal in attributes of its file, which stays empty: where flock makes nothing coherent, see
file/xattr_versions.py."""

from __future__ import annotations

from collections.abc import Callable

from airflow_provider_impala_lb.core.ports import Result
from airflow_provider_impala_lb.stores.file.bounded_calls import Call
from airflow_provider_impala_lb.stores.file.xattr_versions import Durability, Versions
from airflow_provider_impala_lb.stores.journals.document import damaged


class JournalVersions:
    """One journal's file, in versions. See `JournalFormat` (file.py).

    :param path: of the file.
    :param clock: this host's, in seconds since the epoch: GlusterFS stamps files with the client's time.
    :param mode: permission bits of data files.
    """

    def __init__(self, path: str, clock: Callable[[], float], mode: int) -> None:
        self._path = path
        self._clock = clock
        self._versions = Versions(path, Durability.SYNCED, mode)

    def load(self, descriptor: int) -> bytes:
        """See `JournalFormat.load`.

        :param descriptor: of the open file.
        """
        return self._known(self._versions.read(descriptor))

    def exchange(
        self, descriptor: int, change: Callable[[bytes, float], tuple[Result, bytes]], now: float, call: Call
    ) -> Result:
        """See `JournalFormat.exchange`. Commits also if nothing changes: only a commit proves that what was read is the
        newest (file/xattr.py).

        :param descriptor: of the open file.
        :param change: gets the envelope and the time; returns its result, and the new envelope.
        :param now: not used: the clock is this host's.
        :param call: when to give up, and whether anybody still waits for it.
        """

        def changed(envelope: bytes | None) -> tuple[bytes, Result]:
            result, new = change(self._known(envelope), self._clock())
            return new, result

        return self._versions.update(descriptor, changed, call)

    def data_file(self, descriptor: int, call: Call) -> str | None:
        """See `JournalFormat.data_file`.

        :param descriptor: of the open file.
        :param call: when to give up, and whether anybody still waits for it.
        """
        self.exchange(descriptor, lambda envelope, now: (None, envelope), 0.0, call)
        return self._versions.data_file

    def _known(self, envelope: bytes | None) -> bytes:
        if envelope is None:
            raise damaged(self._path, "its newest version is gone or unreadable")
        return envelope
