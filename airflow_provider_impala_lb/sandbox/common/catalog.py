"""The catalog that all coordinators share, as the catalog service and the metastore have it.

Every DDL and INSERT appends records to one log in the cluster's directory, under a lock file; the position of a record
in it is its version. What a coordinator SHOWS of it: `common/metadata_lag.py`.
"""

from __future__ import annotations

import fcntl
import json
import os
import shutil
import time
import uuid
from collections import deque
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Any

from airflow_provider_impala_lb.sandbox.common.private_files import write_private

CALLS = "catalog.calls"
"""Directory of notes of what is with the catalog service, in the cluster's own."""


@dataclass(frozen=True)
class DataFile:
    """One file of a table.

    :ivar path: absolute.
    :ivar rows: how many; None (default): they were not counted.
    :ivar partition: ``p=1/q=a``; empty (default): of a table without partitions.
    """

    path: str
    rows: int | None = None
    partition: str = ""


@dataclass(frozen=True)
class CatalogObject:
    """A database, a table or a view.

    :ivar database: its name.
    :ivar table: the name of the table or view without its database; empty (default): it is a database.
    :ivar kind: ``TABLE`` (default, also of a database) or ``VIEW``.
    :ivar columns: name, Impala type, comment; the partition columns come last, as in Impala.
    :ivar partition_columns: names; default none.
    :ivar file_format: ``PARQUET`` (default) or ``TEXTFILE``.
    :ivar location: directory of the files.
    :ivar external: DROP TABLE leaves the files; default False.
    :ivar delimiter: between the fields of a text file; default Ctrl-A.
    :ivar comment: default empty.
    :ivar properties: TBLPROPERTIES, name and value; default none.
    :ivar sql: a view's query, as written.
    :ivar view_database: the database of unqualified names in ``sql``.
    :ivar num_rows: as COMPUTE STATS counted them; -1 (default): it has not.
    :ivar files: the table's; default none.
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
        """``db`` or ``db.table``."""
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


def apply(objects: dict[str, CatalogObject], record: dict[str, Any]) -> None:
    """Apply one record.

    :param objects: by key; changed.
    :param record: as it stands in the log: ``op`` (``put``, ``drop`` or ``files``), ``key``, and what ``op`` needs.
    """
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
    """Make the catalog, with the database ``default``; one that is there is kept, with the new lag.

    :param directory: the cluster's.
    :param lag: seconds, 0 or more: see :mod:`airflow_provider_impala_lb.sandbox.common.metadata_lag`.
    """
    shutil.rmtree(directory / CALLS, ignore_errors=True)  # the catalog service ends with the cluster
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
    """What one transaction does. Nothing is written unless its block ends without an exception.

    :param latest: the catalog as it is now; the change is applied to it.
    :ivar latest: the catalog as it will be.
    :ivar records: for the log, in order.
    :ivar shown: keys of what the coordinator shows as it is from now on, although this does not change it.
    """

    def __init__(self, latest: dict[str, CatalogObject]) -> None:
        self.latest = latest
        self.records: list[dict[str, Any]] = []
        self.shown: list[str] = []

    def show(self, key: str) -> None:
        """The coordinator shows an object as it is, or that it is gone; nothing is changed for the others.

        :param key: ``db`` or ``db.table``.
        """
        self.shown.append(key)

    def put(self, item: CatalogObject) -> None:
        """Make an object, or replace it.

        :param item: as it shall be.
        """
        self._add({"op": "put", "key": item.key, "object": asdict(item)})

    def drop(self, key: str) -> None:
        """Take an object away, if it is there.

        :param key: ``db`` or ``db.table``.
        """
        self._add({"op": "drop", "key": key})

    def files(self, key: str, add: Sequence[DataFile], remove: Sequence[str] = ()) -> None:
        """Add and take away files of the table as it is NOW, whatever the coordinator showed of it.

        :param key: ``db.table``; one that is gone stays gone.
        :param add: new files.
        :param remove: paths of files; default none.
        """
        self._add({"op": "files", "key": key, "add": [asdict(file) for file in add], "remove": list(remove)})

    def _add(self, record: dict[str, Any]) -> None:
        apply(self.latest, record)
        self.records.append(record)


@dataclass(frozen=True)
class Record:
    """One line of the log.

    :ivar version: its position, from 1.
    :ivar written: seconds since 1970.
    :ivar content: for :func:`apply`.
    """

    version: int
    written: float
    content: dict[str, Any]


class SharedCatalog:
    """The log in the cluster's directory, as far as this process has read it. One thread at a time.

    :param directory: the cluster's; :func:`create_catalog` was there.
    :ivar epoch: when the catalog was made, seconds since 1970.
    :ivar service_id: of the catalog service, as the pages show it.
    :ivar lag: seconds, as the cluster was started with.
    :ivar latest: the current state, by key.
    :ivar version: of the last record.
    :ivar written: when the last record was written, seconds since 1970; 0: there is none.
    :ivar unshown: records read, oldest first; the coordinator takes out those that it shows.
    """

    def __init__(self, directory: Path) -> None:
        settings = json.loads((directory / "catalog.json").read_text())
        self.epoch: float = settings["epoch"]
        self.service_id: str = settings["service_id"]
        self.lag: float = settings["lag"]
        self.latest: dict[str, CatalogObject] = {}
        self.version = 0
        self.written = 0.0
        self.unshown: deque[Record] = deque()
        self._log = directory / "catalog.log"
        self._lock_file = directory / "catalog.lock"
        self._offset = 0
        self._log.touch()

    def read_on(self) -> None:
        """Read what was appended since the last call. A line without its end is left for later."""
        if os.stat(self._log).st_size <= self._offset:
            return
        with open(self._log, "rb") as log:
            log.seek(self._offset)
            text = log.read()
        for line in text[: text.rfind(b"\n") + 1].splitlines():
            content = json.loads(line)
            self.version += 1
            self.written = content["t"]
            apply(self.latest, content)
            self.unshown.append(Record(self.version, self.written, content))
        self._offset += text.rfind(b"\n") + 1

    @contextmanager
    def change(self) -> Iterator[Change]:
        """A transaction on the current state, alone among all coordinators."""
        with open(self._lock_file, "a") as lock:
            fcntl.flock(lock, fcntl.LOCK_EX)
            self.read_on()
            change = Change(dict(self.latest))
            yield change
            if not change.records:
                return
            # The clock may step back; versions and times must not disagree about the order.
            written = max(self.written, time.time())
            lines = [json.dumps({"t": written, **record}) + "\n" for record in change.records]
            with open(self._log, "r+b") as log:
                # A writer killed in mid-write leaves a last line without its end; it was never answered for.
                log.truncate(self._offset)
                log.seek(self._offset)
                log.write("".join(lines).encode())
            self.read_on()
