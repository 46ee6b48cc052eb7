"""One statement from its start to its close: run, polled, fetched from, cancelled."""

from __future__ import annotations

import threading
import time
from collections.abc import Mapping
from dataclasses import dataclass, field

import duckdb  # noqa: TID253 (only a coordinator's process comes here)

from airflow_provider_impala_lb.sandbox.common.activity_log import ActivityLog
from airflow_provider_impala_lb.sandbox.common.confinement import Confinement
from airflow_provider_impala_lb.sandbox.common.errors import Refused, StatementCancelled
from airflow_provider_impala_lb.sandbox.common.flags import Flags
from airflow_provider_impala_lb.sandbox.common.metadata_lag import CoordinatorCatalog
from airflow_provider_impala_lb.sandbox.coordinator.ids import new_query_guid, printed
from airflow_provider_impala_lb.sandbox.coordinator.session import Session
from airflow_provider_impala_lb.sandbox.sql.engine import Engine, as_runtime_error
from airflow_provider_impala_lb.sandbox.sql.lexer import hint_warnings
from airflow_provider_impala_lb.sandbox.sql.plan import Outcome, Plan, Row

_FIRST_FETCH = 1024


@dataclass(frozen=True)
class Services:
    """What all statements of one coordinator work with.

    :ivar flags: the coordinator's.
    :ivar catalog: what the coordinator shows of the catalog.
    :ivar engine: runs the queries.
    :ivar confinement: which files statements may touch.
    :ivar log: has an entry for each statement that ended.
    """

    flags: Flags
    catalog: CoordinatorCatalog
    engine: Engine
    confinement: Confinement
    log: ActivityLog


@dataclass
class _Buffer:
    rows: list[Row] = field(default_factory=list)
    position: int = 0


class Operation:
    """A statement of a session. It runs in a thread of its own; every other thread only looks or cancels.

    :param services: what it works with.
    :param session: whose it is.
    :param sql: as received.
    :param options: the query options it runs with.
    :param address: the client's ``host:port``.
    :ivar guid: of its handle.
    :ivar secret: of its handle: its session's, since in Impala whoever has that may use the handles of its statements.
    :ivar id: the guid as printed.
    :ivar session: as given.
    :ivar sql: as given.
    :ivar options: as given.
    :ivar address: as given.
    :ivar database: the session's when it came.
    :ivar plan: None until analysis has passed.
    :ivar state: ``INITIALIZED``, ``RUNNING``, ``FINISHED`` or ``ERROR`` (also when cancelled, as in Impala).
    :ivar error: the message in state ``ERROR``, else None.
    :ivar warnings: of hints that Impala does not know.
    :ivar started: seconds since 1970.
    :ivar ended: seconds since 1970; None: it runs.
    :ivar last_used: when the client last asked for it, seconds since 1970.
    :ivar calls: how many calls use it now.
    :ivar rows_fetched: by the client, so far.
    :ivar modified: rows written, by partition; None: no DML, or not ended.
    :ivar done: set when it has ended.
    :ivar cancelled: set when somebody cancelled it.
    :ivar cancel_reason: the error it gets then.
    """

    def __init__(
        self, services: Services, session: Session, sql: str, options: Mapping[str, str], address: str
    ) -> None:
        self.guid, self.secret = new_query_guid(), session.secret
        self.id = printed(self.guid)
        self.session, self.sql = session, sql
        self.options, self.address = options, address
        self.database = session.database
        self.plan: Plan | None = None
        self.state = "INITIALIZED"
        self.error: str | None = None
        self.warnings = hint_warnings(sql)
        self.started = time.time()
        self.ended: float | None = None
        self.last_used = time.time()
        self.calls = 0
        self.rows_fetched = 0
        self.modified: dict[str, int] | None = None
        self.done = threading.Event()
        self.cancelled = threading.Event()
        self.cancel_reason = ""
        self._services = services
        self._lock = threading.Lock()
        self._fetching = threading.Lock()
        self._cursors: list[duckdb.DuckDBPyConnection] = []
        self._outcome = Outcome()
        self._buffer = _Buffer()
        self._slept: tuple[float, float] | None = None
        self._worked = False

    # -- life

    def start(self, plan: Plan) -> None:
        """Run the plan: here if it is immediate, else in a thread.

        :param plan: what analysis found.
        :raises StatementCancelled: it was cancelled while it was planned; nothing of it runs.
        """
        self.plan = plan
        with self._lock:
            if not self.cancelled.is_set():
                self.state = "RUNNING"
        self.check_cancelled()
        if plan.immediate:
            self._run()
        else:
            threading.Thread(target=self._run, name=f"query-{self.id}", daemon=True).start()

    def _run(self) -> None:
        assert self.plan is not None
        engine = self._services.engine
        engine.register_sleeper(self.id, self._sleep)
        try:
            outcome = self.plan.run(self)
            if self.plan.changes_catalog and self.options.get("SYNC_DDL") == "1":
                self._wait_until_everywhere()
            if outcome.cursor is not None:
                self._buffer.rows = list(outcome.cursor.fetchmany(_FIRST_FETCH))
            else:
                self._buffer.rows = list(outcome.rows)
            self._outcome, self.modified = outcome, outcome.modified
        except duckdb.Error as error:
            self._end(as_runtime_error(error))
        except Exception as error:
            self._end(error)
        else:
            self._end(None)
        finally:
            engine.forget_sleeper(self.id)

    def _end(self, error: Exception | None) -> None:
        with self._lock:
            if self.ended is not None:
                return
            self.ended = time.time()
            if isinstance(error, StatementCancelled) or (error and self.cancelled.is_set()):
                self.error, outcome = self.cancel_reason or "Cancelled", "CANCELLED"
            elif error is not None:
                text = str(error) if isinstance(error, Refused) else f"{type(error).__name__}: {error}"
                self.error, outcome = text, "ERROR"
            else:
                outcome = "FINISHED"
            # Written before the client can see the end, so that who waited for a statement finds it in the journal.
            if self.plan is None or self.plan.kind != "METADATA":
                self._services.log.statement(self.session.id, self.session.user, self.sql, outcome, self.id)
            self.state = "ERROR" if self.error else "FINISHED"
        self.done.set()

    def refuse(self, error: Exception) -> None:
        """Analysis failed: the statement ends before it began.

        :param error: what analysis found.
        """
        self._end(error)

    def cancel(self, reason: str = "Cancelled") -> None:
        """End it, whatever it is doing. One that has ended, but has rows left, gives no more.

        It is in error at once; its thread ends later (``ClientRequestState::Cancel``).

        :param reason: its error from now on; default ``Cancelled``.
        """
        with self._lock:
            if self.state == "ERROR" or self.cancelled.is_set():
                return
            self.cancel_reason = reason
            self.cancelled.set()
            self.error, self.state = reason, "ERROR"
            cursors = list(self._cursors)
        for cursor in cursors:
            cursor.interrupt()

    def fail(self, text: str) -> None:
        """It ended, but its rows cannot be sent: it is in error from now on.

        :param text: the error; one that it has already stays.
        """
        with self._lock:
            self.error, self.state = self.error or text, "ERROR"

    def close(self) -> None:
        """Free its cursors; those that are in use are interrupted."""
        for cursor in self._cursors:
            cursor.interrupt()
        if self.done.is_set():
            with self._fetching:
                for cursor in self._cursors:
                    cursor.close()

    # -- for the statement's own thread

    def cursor(self) -> duckdb.DuckDBPyConnection:
        """A DuckDB cursor that :meth:`cancel` interrupts.

        :raises StatementCancelled: it is cancelled already.
        """
        cursor = self._services.engine.cursor()
        with self._lock:
            self._cursors.append(cursor)
        self.check_cancelled()
        return cursor

    def check_cancelled(self) -> None:
        """Called before a step that cannot be interrupted.

        :raises StatementCancelled: it is cancelled.
        """
        if self.cancelled.is_set():
            raise StatementCancelled()

    def wait(self, seconds: float) -> None:
        """Sleep.

        :param seconds: how long.
        :raises StatementCancelled: somebody cancelled it meanwhile.
        """
        if self.cancelled.wait(seconds):
            raise StatementCancelled()

    def _wait_until_everywhere(self) -> None:
        """:raises Refused: not in time (``CatalogServiceCatalog.waitForSyncDdlVersion``); the change is done."""
        self._worked = True
        needed, limit = self._services.catalog.seconds_until_everywhere(), self._services.flags.sync_ddl_limit
        self.wait(min(needed, limit))
        if needed > limit:
            raise Refused(
                "CatalogException: Couldn't retrieve the catalog topic update for the SYNC_DDL operation after 1 "
                f"attempts and elapsed time of {limit * 1000:.0f} msec. The operation has been successfully executed "
                "but its effects may have not been broadcast to all the coordinators."
            )

    def _sleep(self, seconds: float) -> None:
        self._slept = (time.time(), seconds)
        self.wait(seconds)

    # -- for the client's calls

    def fetch(self, count: int) -> tuple[int, list[Row], bool]:
        """The next rows. Waits until the statement has ended.

        :param count: how many at most.
        :returns: the offset of the first, the rows, whether there are more.
        :raises Refused: the statement failed or was cancelled.
        """
        self.done.wait()
        with self._fetching:
            if self.state == "ERROR":
                raise Refused(self.error or "Cancelled")
            buffer, cursor = self._buffer, self._outcome.cursor
            remaining = len(buffer.rows) - buffer.position
            if cursor is not None and remaining < count + 1:
                try:
                    more: list[Row] = list(cursor.fetchmany(count + 1 - remaining))
                except duckdb.Error as error:
                    failed = as_runtime_error(error)
                    self.error = self.error or (str(failed) if isinstance(failed, Refused) else "Cancelled")
                    self.state = "ERROR"
                    raise Refused(self.error) from None
                buffer.rows = buffer.rows[buffer.position :] + more
                buffer.position = 0
            rows = buffer.rows[buffer.position : buffer.position + count]
            buffer.position += len(rows)
            offset = self.rows_fetched
            self.rows_fetched += len(rows)
            return offset, rows, buffer.position < len(buffer.rows)

    @property
    def running(self) -> bool:
        """Has it not ended?"""
        return self.ended is None

    @property
    def progress(self) -> tuple[int, int]:
        """Steps done, and all: one for each file it reads, at least three; ``sleep()`` is done by its time."""
        total = max(3, self.plan.files if self.plan else 0)
        if not self.running or self._worked:
            return total, total
        slept = self._slept
        part = (time.time() - slept[0]) / max(slept[1], 0.001) if slept else 1 / total
        return min(total - 1, int(part * total)), total

    def progress_line(self) -> str:
        """Impala's words: with a colon while something is left to do, else without (progress-updater.cc)."""
        done, total = self.progress
        colon = ":" if done < total else ""
        return f"Query {self.id}{colon} {100 * done // total}% Complete ({done} out of {total})"
