"""The query log: what is kept of statements that were unregistered, in order of archiving."""

from __future__ import annotations

import threading
import time
from collections import deque
from dataclasses import dataclass
from typing import Any

from airflow_provider_impala_lb.sandbox.common.flags import Flags
from airflow_provider_impala_lb.sandbox.common.versions import Behaviour
from airflow_provider_impala_lb.sandbox.coordinator.admission import pool_of
from airflow_provider_impala_lb.sandbox.coordinator.operation import Operation
from airflow_provider_impala_lb.sandbox.coordinator.profile import exec_summary, impala_state, profile_text, progress_of

_FIXED_SIZE = 2000
"""Bytes that a record takes beside its texts, about (``ImpalaServer::EstimateSize``)."""


@dataclass(frozen=True)
class QueryRecord:
    """One statement as the pages show it, at one moment (``QueryStateRecord``).

    :ivar id: as printed.
    :ivar sql: its text; a line's end is a blank (``ImpalaServer::Execute``).
    :ivar user: whose it is.
    :ivar database: the session's when it came.
    :ivar kind: QUERY, DML, DDL ...; ``N/A`` until it is planned.
    :ivar state: Impala's word of the pages.
    :ivar status: the error; ``OK`` without one.
    :ivar started: seconds since 1970.
    :ivar ended: seconds since 1970; None: not yet.
    :ivar progress: steps done, and all; None: no coordinator runs it, as for DDL.
    :ivar rows_fetched: by the client.
    :ivar waits_for_close: failed, or all its rows are fetched.
    :ivar last_event: of its timeline.
    :ivar pool: of its admission; empty for what needs none.
    :ivar profile: its runtime profile, as text.
    :ivar summary: its TExecSummary.
    """

    id: str
    sql: str
    user: str
    database: str
    kind: str
    state: str
    status: str
    started: float
    ended: float | None
    progress: tuple[int, int] | None
    rows_fetched: int
    waits_for_close: bool
    last_event: str
    pool: str
    profile: str
    summary: Any

    @classmethod
    def of(cls, operation: Operation, address: str) -> QueryRecord:
        """A statement as it is now.

        :param operation: the statement.
        :param address: the coordinator's ``host:port``.
        """
        return cls(
            operation.id,
            operation.sql.replace("\n", " "),
            operation.session.user,
            operation.database,
            operation.plan.kind if operation.plan else "UNKNOWN",
            impala_state(operation),
            operation.error or "OK",
            operation.started,
            operation.end_time,
            progress_of(operation) if operation.has_coordinator else None,
            operation.rows_fetched,
            operation.state == "ERROR" or operation.all_rows_returned,
            operation.events[-1][0],
            _pool_of(operation),
            profile_text(operation, address),
            exec_summary(operation),
        )

    def shown_sql(self, size: int) -> str:
        """The text as the page cuts it (``ImpalaHttpHandler::QueryStateToJson``).

        :param size: characters; 0: all of it.
        """
        return f"{self.sql[:size]}..." if size and len(self.sql) > size else self.sql

    @property
    def duration(self) -> float:
        """Seconds, until now if it has not ended."""
        return (self.ended or time.time()) - self.started

    @property
    def size(self) -> int:
        """Bytes, as ``--query_log_size_in_bytes`` counts them."""
        return _FIXED_SIZE + len(self.sql.encode()) + len(self.profile.encode())


def _pool_of(operation: Operation) -> str:
    """Empty for what needs no admission: all but a query, DML and CREATE TABLE AS SELECT."""
    plan = operation.plan
    admitted = plan is not None and (plan.kind in ("QUERY", "DML") or operation.admission is not None)
    return pool_of(operation.options) if admitted else ""


class QueryLog:
    """The newest first, in the order in which they were archived; when one is too many, the oldest goes
    (``ImpalaServer::ArchiveQuery``). Safe for threads.

    :param flags: ``query_log_size`` and ``query_log_size_in_bytes``.
    :param behaviour: of Impala's version.
    :ivar most: records that it keeps.
    :ivar most_bytes: bytes of them.
    """

    def __init__(self, flags: Flags, behaviour: Behaviour) -> None:
        given = flags.query_log_size
        self.most = behaviour.query_log_size if given is None else given
        self.most_bytes = flags.query_log_size_in_bytes if behaviour.query_log_has_bytes else -1
        self._records: deque[QueryRecord] = deque()
        self._bytes = 0
        self._lock = threading.Lock()

    def push(self, record: QueryRecord) -> None:
        """Keep a record; those that are too many go.

        :param record: the newest.
        """
        if not self.most or not self.most_bytes:
            return
        with self._lock:
            self._records.appendleft(record)
            self._bytes += record.size
            while self._records and (0 <= self.most < len(self._records) or 0 <= self.most_bytes < self._bytes):
                self._bytes -= self._records.pop().size

    def records(self) -> list[QueryRecord]:
        """All, the newest first."""
        with self._lock:
            return list(self._records)

    @property
    def size(self) -> int:
        """Bytes that all take (``impala-server.query-log-est-total-bytes``)."""
        return self._bytes

    def find(self, query_id: str) -> QueryRecord | None:
        """The record of a statement; None: it is not there.

        :param query_id: as printed.
        """
        return next((record for record in self.records() if record.id == query_id), None)
