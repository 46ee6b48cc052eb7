"""The state in the lock file itself, in extent: one inode for ever, two checksummed heads, the records behind them.

::

    0       "impala-lb state, slots 1\\n"
    4 KiB   head, even versions:  version, length, crc32, JSON
    +4 MiB  head, odd versions
    16 MiB  the records, kind by kind, two places of 16 MiB for each

Version n+1 of the head goes into the slot that does not hold version n, which stays whole: a writer killed in the
middle costs its own update and nothing else. Records that are only added go behind those that version n knows of;
what is taken out of them, into the extent that version n does not use. So a pick reads and writes the head alone, a
lease begins with one line more, and only its end reads the other leases. The file is sparse: what was never written
takes no space.

For file systems on which a read under the lock sees what was written under it (docs/design.md, "The lock file"). No
fsync: after a power loss the state may go back some seconds, which the next picks heal.
"""

from __future__ import annotations

import os
from collections.abc import Callable
from contextlib import suppress
from typing import Final

from airflow_provider_impala_lb.core.ports import Result
from airflow_provider_impala_lb.core.state.loading import load_or_reset
from airflow_provider_impala_lb.core.state.record_log import Extent
from airflow_provider_impala_lb.core.state.state import State, encode_head
from airflow_provider_impala_lb.errors import ConfigError
from airflow_provider_impala_lb.stores.file import slot
from airflow_provider_impala_lb.stores.file.bounded_calls import Call

MAGIC = b"impala-lb state, slots 1\n"
FAMILY = b"impala-lb state, "
HEAD_START = 4096
HEAD_BYTES = 4 << 20
"""Room for the numbers of about 10,000 nodes."""
RECORDS_START = 16 << 20
RECORDS_BYTES = 16 << 20
"""Room for about 60,000 leases."""
_READ_ATTEMPTS = 5


class StateSlots:
    """How the state lies in the file, read and written in extent. All methods but `read` need the lock.

    :param path: of the lock file, for errors.
    """

    mode: Final = "slots"
    is_confirmed: Final = False

    def __init__(self, path: str) -> None:
        self._what = f"lock_file {path}"

    def update(
        self, descriptor: int, change: Callable[[State, float], Result], now: float, call: Call
    ) -> tuple[Result, bool]:
        """Replace the state by what ``change`` makes of it, see `StateFormat.update` (store.py).

        :param descriptor: of the open file.
        :param change: gets the state and the time.
        :param now: seconds since the epoch, by the file server's clock.
        :param call: whether anybody still waits for it.
        """
        version, state, renewed = self._load(descriptor, call)
        result = call.compute(change, state, now)
        call.commits()
        self.save(descriptor, version + 1, state)
        state.close()
        return result, renewed

    def read(self, descriptor: int, now: float, *, records: bool = True) -> tuple[State, float]:
        """A recent state without the lock, see `StateFormat.read` (store.py).

        :param descriptor: of the open file.
        :param now: seconds since the epoch, by the file server's clock.
        :param records: as in `Store.read`.
        """
        if not records:
            return State(self._load(descriptor)[1].head), now
        for _ in range(_READ_ATTEMPTS):
            state, again = self._read_once(descriptor)
            if not again:
                break
        return state, now

    def save(self, descriptor: int, version: int, state: State) -> None:
        """Write the version after the newest.

        :param descriptor: of the open file.
        :param version: its number.
        :param state: its content.
        :raises OSError: EFBIG or ENOSPC; the newest stays.
        """
        for kind, records in enumerate(state.records):
            extent = records.extent
            if records.rewritten:
                text = records.text
                extent.slot, extent.generation = 1 - extent.slot, extent.generation + 1
                slot.write(descriptor, text, _start(kind, extent), RECORDS_BYTES)
                extent.length = len(text)
            elif added := records.added:
                slot.write(descriptor, added, _start(kind, extent) + extent.length, RECORDS_BYTES - extent.length)
                extent.length += len(added)
        body = encode_head(state)
        start = HEAD_START + version % 2 * HEAD_BYTES
        try:
            slot.write(descriptor, slot.pack(version, body), start, HEAD_BYTES)
        except OSError:
            # A cut record fails its checksum, so version n, in the other slot, is still the newest; unless what was cut
            # off is by chance what stood there before.
            with suppress(OSError):
                os.pwrite(descriptor, bytes(slot.HEAD_BYTES), start)
            raise
        if version == 1:  # last: a file whose first head was cut off is a new one, and not one whose state was lost
            slot.write(descriptor, MAGIC, 0, len(MAGIC))

    def _load(self, descriptor: int, call: Call | None = None) -> tuple[int, State, bool]:
        """The newest version's number, that version, and whether it had to be begun anew.

        :param call: by which its records are read, when one is asked for.
        :raises ConfigError: the file holds something else, or the work of a newer version.
        """
        version, record = self._newest(descriptor)

        def records(kind: int, extent: Extent) -> bytes:
            return call.read(_records, descriptor, kind, extent) if call else _records(descriptor, kind, extent)

        state, renewed = load_or_reset(self._what, record, records)
        return version, state, renewed

    def _read_once(self, descriptor: int) -> tuple[State, bool]:
        """A state, and whether it has to be read again: a writer may have passed by."""
        _, state, unreadable = self._load(descriptor)
        for records in state.records:
            _ = records.text
        # An extent is not written again before a head that names the other one has been: see `save`.
        _, after, _ = self._load(descriptor)
        overtaken = any(
            before.extent.generation != now.extent.generation
            for before, now in zip(state.records, after.records, strict=True)
        )
        return state, unreadable or overtaken

    def _newest(self, descriptor: int) -> tuple[int, bytes | None]:
        """The newest whole head and its version; (0, b"") for a new file, (0, None) if none can be read."""
        magic = os.pread(descriptor, len(MAGIC), 0)
        if magic != MAGIC:
            if not magic.strip(b"\0"):
                return 0, b""
            if magic.startswith(FAMILY):
                raise ConfigError(
                    f"{self._what}: was written by a newer version of this package ({magic!r}). Upgrade this host, "
                    "or name another file"
                )
            raise ConfigError(
                f"{self._what}: holds something else (it begins with {magic[:24]!r}); nothing was "
                "changed. Name another file, or remove it if it is an old one of yours"
            )
        starts = [HEAD_START + index * HEAD_BYTES for index in (0, 1)]
        firsts = [slot.first(descriptor, start) for start in starts]
        newer = int(firsts[1].version > firsts[0].version)
        for index in (newer, 1 - newer):  # the other one only if the newer is torn
            if (body := slot.body(descriptor, starts[index], firsts[index])) is not None:
                return firsts[index].version, body
        return 0, None if os.fstat(descriptor).st_size > HEAD_START else b""


def _start(kind: int, extent: Extent) -> int:
    return RECORDS_START + (2 * kind + extent.slot) * RECORDS_BYTES


def _records(descriptor: int, kind: int, extent: Extent) -> bytes:
    return os.pread(descriptor, extent.length, _start(kind, extent))
