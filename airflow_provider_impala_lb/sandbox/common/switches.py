"""Switches: a test holds, delays or fails what a coordinator does at one of the points of a statement's life.

A coordinator is a process of its own, so a switch is a file in the node's directory: whoever tests writes it, the
coordinator looks for it at each point. It acts from when it is there until it is gone, also over a restart of the
coordinator.
"""

from __future__ import annotations

import json
import os
import threading
import time
import uuid
from collections import Counter
from collections.abc import Callable
from dataclasses import asdict, dataclass
from pathlib import Path
from types import TracebackType
from typing import Any

from airflow_provider_impala_lb.sandbox.common.errors import Refused, StatementCancelled
from airflow_provider_impala_lb.sandbox.common.private_files import make_private, write_private

POINTS = {
    "planning": "registered and on the pages, but its session does not know it (ImpalaServer::ExecuteInternal)",
    "inflight": "begun, but ExecuteStatement has not answered, and its session does not know it (SetQueryInflight)",
    "admission": "before admission control sees it (FinishExecQueryOrDmlRequest)",
    "execution": "admitted; nothing is read or written yet (Coordinator::Exec)",
    "finalising": "all rows are written, none is visible; a cancel comes too late (Coordinator::FinalizeResultSink)",
    "catalog": "called the catalog service, which has not done it yet; a cancel comes too late (CatalogOpExecutor)",
    "catalog_answer": "the catalog service has done it, and the coordinator does not know yet",
    "sync_ddl": "SYNC_DDL waits for what was changed (CatalogServiceCatalog.waitForSyncDdlVersion)",
    "ctas": "the table is there, the INSERT part not admitted yet (ClientRequestState::ExecDdlRequestImpl)",
    "unregistering": "hidden from clients, perhaps still running (QueryDriver::Finalize)",
    "archiving": "ended; its record is not in the query log yet (ImpalaServer::ArchiveQuery)",
    "leaving": "its record is in the query log, and it is still in flight (ImpalaServer::FinishUnregisterQuery)",
    "queries_page": "somebody asks for /queries",
}
"""Where a switch can act, and what has happened then."""

EXECUTOR_DIED = "Failed due to unreachable impalad(s)"
"""The beginning of the error of a query one of whose executors has gone."""

_LOOK = 0.005
"""Seconds between two looks whether a switch is gone."""


@dataclass(frozen=True)
class Setting:
    """One switch, as it lies in its file.

    :ivar point: one of :data:`POINTS`.
    :ivar action: ``hold``, ``delay``, ``fail``, or for the page ``copy`` and ``of``.
    :ivar sql: it acts on statements that contain this; empty (default): on all.
    :ivar times: how often it acts; 0 (default): always.
    :ivar seconds: of a delay; default 0.
    :ivar text: the error of ``fail``; the URL of another coordinator for ``of``; default empty.
    """

    point: str
    action: str
    sql: str = ""
    times: int = 0
    seconds: float = 0
    text: str = ""


class Switch:
    """A switch that is on, in the process of the test. A context manager, which switches it off at its end.

    :param directory: the node's switches.
    :param setting: what it does.
    :raises ValueError: a point that is none, or where nothing fails; a value below 0.
    """

    def __init__(self, directory: Path, setting: Setting) -> None:
        if setting.point not in POINTS:
            raise ValueError(f"{setting.point!r} is no point. Known: {', '.join(POINTS)}.")
        if setting.action == "fail" and setting.point in ("unregistering", "leaving"):
            raise ValueError(f"Nothing fails at {setting.point!r}.")
        if setting.seconds < 0 or setting.times < 0:
            raise ValueError("seconds and times: 0 or more.")
        self._name = uuid.uuid4().hex
        self._directory = make_private(directory)
        self._file = directory / f"{self._name}.json"
        new = directory / f"{self._name}.new"
        write_private(new, json.dumps(asdict(setting)))
        os.replace(new, self._file)

    def __enter__(self) -> Switch:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.release()

    def release(self) -> None:
        """Switch it off: who stands there goes on. Does nothing to one that is off."""
        self._file.unlink(missing_ok=True)

    @property
    def queries(self) -> list[str]:
        """Ids of the statements that stand there now, as Impala prints them; ``page`` for a request for a page."""
        marks = sorted(self._directory.glob(f"{self._name}.*.here"))
        return [mark.name.split(".")[1].replace("-", ":") for mark in marks]

    def wait(self, timeout: float = 10.0, count: int = 1) -> list[str]:
        """Wait until statements stand there.

        :param timeout: seconds; default 10.
        :param count: how many; default 1.
        :returns: as :attr:`queries`.
        :raises TimeoutError: not in time.
        """
        end = time.monotonic() + timeout
        while len(found := self.queries) < count:
            if time.monotonic() >= end:
                raise TimeoutError(f"{len(found)} of {count} statements came there within {timeout:g} s.")
            time.sleep(_LOOK)
        return found


class Switches:
    """The switches of a coordinator, in its own process. Safe for threads.

    :param directory: where they lie; it need not be there.
    :ivar directory: the same.
    """

    def __init__(self, directory: Path) -> None:
        self.directory = directory
        self._lock = threading.Lock()
        self._acted: Counter[str] = Counter()

    def at(self, point: str, sql: str = "") -> list[tuple[Path, Setting]]:
        """The switches that act now; each counts as having acted once more.

        :param point: one of :data:`POINTS`.
        :param sql: the statement; default empty.
        """
        try:
            names = sorted(name for name in os.listdir(self.directory) if name.endswith(".json"))
        except FileNotFoundError:
            return []
        found = []
        for path in (self.directory / name for name in names):
            try:
                setting = Setting(**json.loads(path.read_text()))
            except FileNotFoundError:  # released in this moment
                continue
            if setting.point == point and setting.sql in sql and self._acts(path.name, setting):
                found.append((path, setting))
        return found

    def _acts(self, name: str, setting: Setting) -> bool:
        with self._lock:
            if setting.times and self._acted[name] >= setting.times:
                return False
            self._acted[name] += 1
            return True

    def reach(self, point: str, query_id: str, sql: str = "", interrupted: Callable[[], bool] = lambda: False) -> None:
        """A statement has come to a point: it waits there while it is held or delayed.

        :param point: one of :data:`POINTS`.
        :param query_id: as printed.
        :param sql: the statement; default empty.
        :param interrupted: ends the waiting; default: nothing does.
        :raises StatementCancelled: it was interrupted.
        :raises Refused: it fails there.
        """
        for path, setting in self.at(point, sql):
            if setting.action == "hold":
                self._stand(path, query_id, interrupted, path.exists)
            elif setting.action == "delay":
                end = time.monotonic() + setting.seconds
                self._stand(path, query_id, interrupted, lambda end=end: time.monotonic() < end)  # type: ignore[misc]
            elif setting.action == "fail":
                raise Refused(setting.text or _FAILURES.get(point, f"Failed at {point}, as a switch says."))

    def _stand(self, path: Path, query_id: str, interrupted: Callable[[], bool], more: Callable[[], Any]) -> None:
        mark = path.with_name(f"{path.stem}.{query_id.replace(':', '-')}.here")
        mark.touch()
        try:
            while more():
                if interrupted():
                    raise StatementCancelled()
                time.sleep(_LOOK)
        finally:
            mark.unlink(missing_ok=True)


_FAILURES = {
    "planning": "AnalysisException: Failed to load metadata for table: a switch of the practice cluster",
    "execution": f"{EXECUTOR_DIED}: 127.0.0.1:27001",
    "catalog": "RPC recv timed out: dest address: 127.0.0.1:26000, rpc: N6impala19TExecDdlRequestE",
    "catalog_answer": "RPC recv timed out: dest address: 127.0.0.1:26000, rpc: N6impala19TExecDdlRequestE",
    "admission": "Rejected query from pool default-pool: disabled by requests limit set to 0",
}
"""What Impala says, where a switch has no text of its own."""
