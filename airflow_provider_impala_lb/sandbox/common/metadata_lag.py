"""Where a coordinator holds back what the others changed: new metadata reach it late, as on Impala.

A coordinator reads the whole shared catalog, but SHOWS only what has reached it:

* its own changes, at once (as Impala applies the catalog service's answer before it answers the client);
* what it fetched with REFRESH or INVALIDATE METADATA, which bring a table, but not the database around it;
* everything else by rounds, as Impala's statestore sends it. Rounds take ``lag / 2`` seconds and start at the
  catalog's epoch, on the clock all processes share. The update that arrives with round k was gathered at round
  k - 1, so a change made at time t is seen elsewhere at::

      epoch + (ceil((t - epoch) / (lag / 2)) + 1) * lag / 2        between lag/2 and lag after t

``lag=0`` shows every change at once.
"""

from __future__ import annotations

import math
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from airflow_provider_impala_lb.sandbox.common.catalog import CatalogObject, Change, SharedCatalog, apply
from airflow_provider_impala_lb.sandbox.common.errors import Refused


@dataclass(frozen=True)
class Rounds:
    """When the statestore gathers and delivers. Times are seconds since 1970.

    :ivar epoch: when round 0 began.
    :ivar length: seconds of a round; 0: no lag.
    """

    epoch: float
    length: float

    def gathered_until(self, now: float) -> float:
        """Changes up to this time have arrived everywhere.

        :param now: the time.
        """
        if not self.length:
            return math.inf
        return self.epoch + max(0, math.floor((now - self.epoch) / self.length) - 1) * self.length

    def everywhere_at(self, written: float) -> float:
        """When a change has arrived everywhere. Not asked where there is no lag.

        :param written: the time of the change.
        """
        return self.epoch + (math.ceil((written - self.epoch) / self.length) + 1) * self.length


class CoordinatorCatalog:
    """One coordinator's view of the shared catalog. Safe for threads.

    :param directory: the cluster's.
    :ivar epoch: when the catalog was made, seconds since 1970.
    :ivar service_id: of the catalog service, as the pages show it.
    """

    def __init__(self, directory: Path) -> None:
        self._shared = SharedCatalog(directory)
        self.epoch, self.service_id = self._shared.epoch, self._shared.service_id
        self._rounds = Rounds(self.epoch, self._shared.lag / 2)
        self._lock = threading.RLock()
        self._shown: dict[str, CatalogObject] = {}
        self._shown_version: dict[str, int] = {}
        self._round_version = 0

    @property
    def version(self) -> int:
        """The version that the last round brought; the coordinator's own changes do not move it."""
        self._follow()
        return self._round_version

    @property
    def topic(self) -> int:
        """The number of the round whose update arrived last."""
        if not self._rounds.length:
            return self.version
        return int((time.time() - self.epoch) / self._rounds.length)

    def view(self) -> dict[str, CatalogObject]:
        """What this coordinator shows now, by key (``db`` or ``db.table``): a copy, not changed later."""
        with self._lock:
            self._follow()
            return dict(self._shown)

    def refresh(self, key: str) -> CatalogObject | None:
        """Fetch one table as it is now.

        :param key: ``db.table``.
        :returns: None: there is no such table, and nothing to fetch. One that is still shown here stays until a round
            takes it away (``CatalogOpExecutor.execResetMetadata`` answers with an error).
        """
        with self._lock:
            self._follow()
            if key in self._shared.latest:
                self._show(key)
            return self._shared.latest.get(key)

    def refresh_all(self) -> None:
        """Fetch everything as it is now."""
        with self._lock:
            self._follow()
            for key in sorted({*self._shared.latest, *self._shown}):  # a database before its tables
                self._show(key)

    @contextmanager
    def change(self) -> Iterator[Change]:
        """A transaction on the current state, alone among all coordinators. Its effects are shown here at once."""
        with self._lock:
            with self._shared.change() as change:
                yield change
            self._end_rounds()
            for key in [*(record["key"] for record in change.records), *change.shown]:
                self._show(key)

    def seconds_until_everywhere(self) -> float:
        """How long until every coordinator shows what is in the catalog now."""
        with self._lock:
            self._follow()
            if not self._rounds.length or not self._shared.written:
                return 0.0
            return max(0.0, self._rounds.everywhere_at(self._shared.written) - time.time())

    def wait_until_everywhere(self, limit: float) -> None:
        """Wait until every coordinator shows what is in the catalog now (SYNC_DDL).

        :param limit: seconds to wait at most.
        :raises Refused: not in time (``CatalogServiceCatalog.waitForSyncDdlVersion``); the change is done.
        """
        needed = self.seconds_until_everywhere()
        time.sleep(min(needed, limit))
        if needed > limit:
            raise Refused(
                "CatalogException: Couldn't retrieve the catalog topic update for the SYNC_DDL operation after 1 "
                f"attempts and elapsed time of {limit * 1000:.0f} msec. The operation has been successfully executed "
                "but its effects may have not been broadcast to all the coordinators."
            )

    def _show(self, key: str) -> None:
        """As it is now; but nothing comes into a database that is not shown here yet (``ImpaladCatalog.addTable``)."""
        latest = self._shared.latest
        if key in latest and "." in key and key.split(".")[0] not in self._shown:
            return
        self._shown_version[key] = self._shared.version
        if key in latest:
            self._shown[key] = latest[key]
        else:
            self._shown.pop(key, None)

    def _follow(self) -> None:
        """Read what was appended to the log, then let the rounds that are over take effect."""
        with self._lock:
            self._shared.read_on()
            self._end_rounds()

    def _end_rounds(self) -> None:
        gathered_until, unshown = self._rounds.gathered_until(time.time()), self._shared.unshown
        while unshown and unshown[0].written <= gathered_until:
            record = unshown.popleft()
            key = record.content["key"]
            if self._shown_version.get(key, 0) < record.version:
                apply(self._shown, record.content)
                self._shown_version[key] = record.version
            self._round_version = record.version
