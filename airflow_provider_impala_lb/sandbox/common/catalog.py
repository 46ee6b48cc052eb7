"""The catalog that all coordinators share, and the delay with which each of them learns of the others' changes.

Every DDL and INSERT appends records to one log, under a lock file; the line of each record gives it a version. A
coordinator reads the whole log, but *shows* only what has reached it:

* its own changes, at once (as Impala applies the catalog service's answer before it answers the client);
* what it fetched with REFRESH or INVALIDATE METADATA, which bring a table, but not the database around it;
* everything else by rounds, as Impala's statestore sends it. Rounds take ``lag / 2`` seconds and start at the
  catalog's epoch, on the clock all processes share. The update that arrives with round k was gathered at round
  k - 1, so a change made at time t is seen elsewhere at::

      epoch + (ceil((t - epoch) / (lag / 2)) + 1) * lag / 2        between lag/2 and lag after t

``lag=0`` shows every change at once. :attr:`Catalog.version` is the version that the last round brought; a
coordinator's own changes do not move it.
"""

from __future__ import annotations

import fcntl
import json
import math
import os
import threading
import time
import uuid
from collections import deque
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Any

from airflow_provider_impala_lb.sandbox.common.private_files import write_private


@dataclass(frozen=True)
class DataFile:
    """One file of a table. ``partition`` is ``p=1/q=a``, or empty."""

    path: str
    rows: int | None = None
    partition: str = ""


@dataclass(frozen=True)
class CatalogObject:
    """A database (``table`` is empty), a table or a view.

    :param columns: name, Impala type, comment; the partition columns come last, as in Impala.
    :param sql: a view's query, as written; unqualified names in it belong to ``view_database``.
    :param num_rows: what COMPUTE STATS found, -1 before.
    """

    database: str
    table: str = ""
    kind: str = "TABLE"
    columns: tuple[tuple[str, str, str], ...] = ()
    partition_columns: tuple[str, ...] = ()
    file_format: str = "PARQUET"
    location: str = ""
    external: bool = False
    delimiter: str = "\x01"
    comment: str = ""
    properties: tuple[tuple[str, str], ...] = ()
    sql: str = ""
    view_database: str = ""
    num_rows: int = -1
    files: tuple[DataFile, ...] = field(default=())

    @property
    def key(self) -> str:
        return f"{self.database}.{self.table}" if self.table else self.database


def _load(record: dict[str, Any]) -> CatalogObject:
    return CatalogObject(
        **{
            **record,
            "columns": tuple(tuple(column) for column in record["columns"]),
            "partition_columns": tuple(record["partition_columns"]),
            "properties": tuple(tuple(pair) for pair in record["properties"]),
            "files": tuple(DataFile(**file) for file in record["files"]),
        }
    )


def _apply(objects: dict[str, CatalogObject], record: dict[str, Any]) -> None:
    key = record["key"]
    if record["op"] == "put":
        objects[key] = _load(record["object"])
    elif record["op"] == "drop":
        objects.pop(key, None)
    elif key in objects:  # "files"
        removed = set(record["remove"])
        kept = tuple(file for file in objects[key].files if file.path not in removed)
        objects[key] = replace(objects[key], files=kept + tuple(DataFile(**file) for file in record["add"]))


def create_catalog(directory: Path, lag: float) -> None:
    """Make the catalog in ``directory``, with the database ``default``; one that is there is kept, with the new lag.

    :param lag: seconds, 0 or more.
    """
    settings = directory / "catalog.json"
    fixed = {"epoch": time.time(), "service_id": f"{uuid.uuid4().hex[:16]}:{uuid.uuid4().hex[:16]}"}
    if settings.exists():
        fixed = json.loads(settings.read_text())
    write_private(settings, json.dumps({**fixed, "lag": lag}))
    log = directory / "catalog.log"
    if not log.exists() or not log.stat().st_size:
        # As old as the catalog itself: every coordinator knows it from the start.
        first = {
            "op": "put",
            "key": "default",
            "object": asdict(CatalogObject("default", comment="Default Hive database")),
        }
        write_private(log, json.dumps({"t": fixed["epoch"], **first}) + "\n")


class Change:
    """What one transaction does. Nothing is written unless its block ends without an exception."""

    def __init__(self, latest: dict[str, CatalogObject]) -> None:
        self.latest = latest
        self.records: list[dict[str, Any]] = []

    def put(self, item: CatalogObject) -> None:
        self._add({"op": "put", "key": item.key, "object": asdict(item)})

    def drop(self, key: str) -> None:
        self._add({"op": "drop", "key": key})

    def files(self, key: str, add: Sequence[DataFile], remove: Sequence[str] = ()) -> None:
        """Add and take away files of the CURRENT table, whatever this coordinator knew of it."""
        self._add({"op": "files", "key": key, "add": [asdict(file) for file in add], "remove": list(remove)})

    def _add(self, record: dict[str, Any]) -> None:
        _apply(self.latest, record)
        self.records.append(record)


class Catalog:
    """One coordinator's window on the shared catalog in ``directory``. Safe for threads.

    :attr latest: the catalog's current state, which only the catalog service would know.
    """

    def __init__(self, directory: Path) -> None:
        settings = json.loads((directory / "catalog.json").read_text())
        self.epoch: float = settings["epoch"]
        self.service_id: str = settings["service_id"]
        self.round: float = settings["lag"] / 2
        self.latest: dict[str, CatalogObject] = {}
        self._log = directory / "catalog.log"
        self._lock_file = directory / "catalog.lock"
        self._lock = threading.RLock()
        self._offset = 0
        self._version = 0
        self._written_at = 0.0
        self._shown: dict[str, CatalogObject] = {}
        self._shown_version: dict[str, int] = {}
        self._pending: deque[tuple[int, float, dict[str, Any]]] = deque()
        self._topic_version = 0
        self._log.touch()

    @property
    def version(self) -> int:
        """The version that the last round brought to this coordinator."""
        self._follow()
        return self._topic_version

    @property
    def topic(self) -> int:
        """The number of the round whose update arrived last."""
        return int((time.time() - self.epoch) / self.round) if self.round else self.version

    def view(self) -> dict[str, CatalogObject]:
        """What this coordinator shows now, by key (``db`` or ``db.table``): a copy, not changed later."""
        with self._lock:
            self._follow()
            return dict(self._shown)

    def refresh(self, key: str) -> CatalogObject | None:
        """Fetch one table as it is now. None if there is none: then there is nothing to fetch, and one that is still
        shown here stays until a round takes it away (``CatalogOpExecutor.execResetMetadata`` answers with an error)."""
        with self._lock:
            self._follow()
            if key in self.latest:
                self._show(key)
            return self.latest.get(key)

    def refresh_all(self) -> None:
        """Fetch everything as it is now."""
        with self._lock:
            self._follow()
            for key in sorted({*self.latest, *self._shown}):  # a database before its tables
                self._show(key)

    @contextmanager
    def change(self) -> Iterator[Change]:
        """A transaction on the current state, alone among all coordinators. Its effects are shown here at once."""
        with self._lock, open(self._lock_file, "a") as lock:
            fcntl.flock(lock, fcntl.LOCK_EX)
            self._follow()
            change = Change(dict(self.latest))
            yield change
            if not change.records:
                return
            # The clock may step back; versions and times must not disagree about the order.
            self._written_at = max(self._written_at, time.time())
            lines = [json.dumps({"t": self._written_at, **record}) + "\n" for record in change.records]
            with open(self._log, "r+b") as log:
                # A writer killed in mid-write leaves a last line without its end; it was never answered for.
                log.truncate(self._offset)
                log.seek(self._offset)
                log.write("".join(lines).encode())
            self._follow()
            for record in change.records:
                self._show(record["key"])

    def seconds_until_everywhere(self) -> float:
        """How long until every coordinator shows what is in the catalog now (what SYNC_DDL waits for)."""
        with self._lock:
            self._follow()
            if not self.round or not self._written_at:
                return 0.0
            gathered = math.ceil((self._written_at - self.epoch) / self.round)
            return max(0.0, self.epoch + (gathered + 1) * self.round - time.time())

    def _show(self, key: str) -> None:
        """As it is now; but nothing comes into a database that is not known here yet (``ImpaladCatalog.addTable``)."""
        if key in self.latest and "." in key and key.split(".")[0] not in self._shown:
            return
        self._shown_version[key] = self._version
        if key in self.latest:
            self._shown[key] = self.latest[key]
        else:
            self._shown.pop(key, None)

    def _follow(self) -> None:
        """Read what was appended to the log, then let the rounds that are over take effect."""
        with self._lock:
            if os.stat(self._log).st_size > self._offset:
                with open(self._log, "rb") as log:
                    log.seek(self._offset)
                    text = log.read()
                for line in text[: text.rfind(b"\n") + 1].splitlines():
                    record = json.loads(line)
                    self._version += 1
                    self._written_at = record["t"]
                    _apply(self.latest, record)
                    self._pending.append((self._version, record["t"], record))
                self._offset += text.rfind(b"\n") + 1
            gathered_until = math.inf
            if self.round:
                rounds = math.floor((time.time() - self.epoch) / self.round)
                gathered_until = self.epoch + max(0, rounds - 1) * self.round
            while self._pending and self._pending[0][1] <= gathered_until:
                version, _, record = self._pending.popleft()
                if self._shown_version.get(record["key"], 0) < version:
                    _apply(self._shown, record)
                    self._shown_version[record["key"]] = version
                self._topic_version = version
