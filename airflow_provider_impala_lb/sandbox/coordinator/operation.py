"""One statement from its registration to its end: planned, admitted, run, polled, fetched from, cancelled
(Impala's ``ClientRequestState``)."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass

import duckdb  # noqa: TID253 (only a coordinator's process comes here)

from airflow_provider_impala_lb.sandbox.common import query_options
from airflow_provider_impala_lb.sandbox.common.activity_log import ActivityLog
from airflow_provider_impala_lb.sandbox.common.catalog import Change
from airflow_provider_impala_lb.sandbox.common.confinement import Confinement
from airflow_provider_impala_lb.sandbox.common.errors import Refused, StatementCancelled
from airflow_provider_impala_lb.sandbox.common.flags import Flags
from airflow_provider_impala_lb.sandbox.common.metadata_lag import CoordinatorCatalog
from airflow_provider_impala_lb.sandbox.common.switches import Switches
from airflow_provider_impala_lb.sandbox.common.versions import Behaviour
from airflow_provider_impala_lb.sandbox.coordinator.admission import Admission, AdmissionController, pool_of
from airflow_provider_impala_lb.sandbox.coordinator.ids import new_query_guid, printed
from airflow_provider_impala_lb.sandbox.coordinator.result_rows import ResultRows
from airflow_provider_impala_lb.sandbox.coordinator.session import Session
from airflow_provider_impala_lb.sandbox.sql.catalog_calls import CatalogCalls
from airflow_provider_impala_lb.sandbox.sql.engine import Engine, as_runtime_error
from airflow_provider_impala_lb.sandbox.sql.lexer import hint_warnings
from airflow_provider_impala_lb.sandbox.sql.plan import Outcome, Plan, Row


@dataclass(frozen=True)
class Services:
    """What all statements of one coordinator work with.

    :ivar flags: the coordinator's.
    :ivar catalog: what the coordinator shows of the catalog.
    :ivar engine: runs the queries.
    :ivar confinement: which files statements may touch.
    :ivar log: has an entry for each statement that ended.
    :ivar switches: of tests, which hold, delay or fail statements.
    :ivar behaviour: of Impala's version.
    :ivar admission: the pools.
    :ivar calls: what is with the catalog service.
    """

    flags: Flags
    catalog: CoordinatorCatalog
    engine: Engine
    confinement: Confinement
    log: ActivityLog
    switches: Switches
    behaviour: Behaviour
    admission: AdmissionController
    calls: CatalogCalls


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
    :ivar plan: None until it is planned.
    :ivar state: ``INITIALIZED``, ``PENDING``, ``RUNNING``, ``FINISHED`` or ``ERROR`` (also when cancelled).
    :ivar error: the message in state ``ERROR``, else None.
    :ivar warnings: of hints that Impala does not know.
    :ivar started: seconds since 1970.
    :ivar end_time: seconds since 1970, as the pages show it; None: not yet.
    :ivar inflight_since: since when its session knows it, seconds since 1970; None: not yet.
    :ivar executing_since: when its execution began, after admission, seconds since 1970; None: not yet, or it needs
        none.
    :ivar last_active: when it was last worked on for its client, seconds since 1970.
    :ivar all_rows_returned: there is nothing to fetch any more.
    :ivar modified: rows written, by partition; None: no DML, or not ended.
    :ivar done: set when nothing of it runs any more and its state is final, but for fetching.
    :ivar admission: what became of it; None: it was not asked for.
    :ivar events: of its timeline: name, and seconds since it came.
    :ivar slept: since when it is in ``sleep()``, and for how long, seconds; None: never.
    :ivar worked: its rows are written, although it may go on.
    :ivar retry: runs it once more under another id, if it can; None: nothing does.
    :ivar was_retried: it failed, and the server has run it once more under another id.
    :ivar run_child: runs a statement for this one; None: it has no coordinator.
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
        self.started = self.last_active = time.time()
        self.end_time: float | None = None
        self.inflight_since: float | None = None
        self.executing_since: float | None = None
        self.all_rows_returned = False
        self.modified: dict[str, int] | None = None
        self.done = threading.Event()
        self.admission: Admission | None = None
        self.events = [("Query submitted", 0.0)]
        self.run_child: Callable[[Operation, str], list[Row]] | None = None
        self.retry: Callable[[Operation, Exception], bool] | None = None
        self.was_retried = False
        self._services = services
        self._lock = threading.Lock()
        self._planning = threading.Lock()
        self._planned = False
        self._stop_planning = threading.Event()
        self._cancelled = threading.Event()
        self._interruptible = False
        self._waited_for = False
        self._active = 0
        self._fetching = threading.Lock()
        self._cursors: list[duckdb.DuckDBPyConnection] = []
        self._on_cancel: list[Callable[[], None]] = []
        self._result = ResultRows(Outcome())
        self.slept: tuple[float, float] | None = None
        self.worked = False

    # -- its client's thread: planning and start

    @contextmanager
    def planning(self) -> Iterator[None]:
        """It is planned within, locked: who cancels it waits for that (``ImpalaServer::ExecuteInternal``)."""
        with self._planning:
            try:
                yield
            finally:
                self._planned = True

    def load_metadata(self, seconds: float) -> None:
        """The pause that it makes before it is planned.

        :param seconds: how long; and as long as a switch holds it.
        :raises Refused: its planning was stopped.
        """
        try:
            self._services.switches.reach("planning", self.id, self.sql, self._stop_planning.is_set)
            if self._stop_planning.wait(seconds):
                raise StatementCancelled()
        except StatementCancelled:
            raise Refused("UserCancelledException: Query cancelled by user request") from None

    def start(self, plan: Plan) -> None:
        """Run the plan (``ClientRequestState::Exec``): what is done at once here, all else in a thread.

        :param plan: what analysis found.
        :raises Refused: it was cancelled while it was planned, and nothing of it runs; or it failed here.
        """
        self.plan = plan
        self._mark_active()
        if self._cancelled.is_set():
            self._finish(StatementCancelled())
            raise Refused("Cancelled")
        if plan.immediate or self._runs_in_callers_thread:
            self._set_state("RUNNING")
            self._work()
            if self.error is not None:
                raise Refused(self.error)
        else:
            self._set_state("PENDING")
            threading.Thread(target=self._work, name=f"query-{self.id}", daemon=True).start()

    @property
    def _runs_in_callers_thread(self) -> bool:
        """DDL without ENABLE_ASYNC_DDL_EXECUTION, but for COMPUTE STATS, whose child queries run in any case in a
        thread (``ClientRequestState::ExecDdlRequest``)."""
        assert self.plan is not None
        if self.plan.kind not in ("DDL", "LOAD") or self.plan.child_queries:
            return False
        wanted = query_options.is_on(self.options, "ENABLE_ASYNC_DDL_EXECUTION")
        return not (self._services.behaviour.async_ddl and wanted)

    def wait_for_it(self) -> None:
        """From now on who unregisters it waits for its end (``ClientRequestState::WaitAsync``)."""
        self._waited_for = True

    def refuse(self, error: Exception) -> None:
        """Planning failed: it ends before it began.

        :param error: what analysis found.
        """
        self._mark_active()
        self._finish(error)

    # -- its own thread

    def _work(self) -> None:
        assert self.plan is not None
        engine = self._services.engine
        engine.register_sleeper(self.id, self._sleep)
        error: Exception | None = None
        try:
            if self.plan.kind in ("QUERY", "DML"):
                self.admit()
            else:
                self._set_state("RUNNING")
            outcome = self.plan.run(self)
            limit = int(self.options.get("NUM_ROWS_PRODUCED_LIMIT") or 0)
            self._result, self.modified = ResultRows(outcome, self.id, limit), outcome.modified
        except Exception as failed:
            error = as_runtime_error(failed) if isinstance(failed, duckdb.Error) else failed
        finally:
            engine.forget_sleeper(self.id)
        if error is not None and self.retry is not None:
            self.was_retried = self.retry(self, error)
        self._finish(error)

    def _finish(self, error: Exception | None) -> None:
        """Its rows are there, it is done, or it failed (``ClientRequestState::Wait``)."""
        stopped = self._cancelled.is_set() or self._stop_planning.is_set()
        cancelled = isinstance(error, StatementCancelled) or (error is not None and stopped)
        outcome = "FINISHED" if error is None else "CANCELLED" if cancelled else "ERROR"
        text = "Cancelled" if cancelled else str(error) if isinstance(error, Refused) else repr(error)
        # Written before the client can see the end, so that who waited for a statement finds it in the journal.
        if self.plan is None or self.plan.kind != "METADATA":
            self._services.log.statement(self.session.id, self.session.user, self.sql, outcome, self.id)
        with self._lock:
            self._interruptible = False
            if error is not None:
                self._fail(text)
            elif self.state != "ERROR":
                self.state = "FINISHED"
            has_rows = self.plan is not None and self.plan.columns is not None
            self.all_rows_returned = error is None and not has_rows
            self.mark("Rows available" if has_rows else "Request finished")
            if not has_rows and self._services.behaviour.ends_dml_at_its_end:
                self.end_time = self.end_time or time.time()
        if error is not None or not self._result.streams:
            self._release()
        self._mark_inactive()
        self.done.set()

    def _fail(self, text: str) -> None:
        """The first error stays (``ClientRequestState::UpdateQueryStatus``)."""
        if self.state != "ERROR":
            self.error, self.state = text, "ERROR"

    def _set_state(self, state: str) -> None:
        with self._lock:
            if self.state != "ERROR":
                self.state = state

    def _release(self) -> None:
        """It needs its place in the pool no more; a query has its end time by that (``UpdateEndTime``)."""
        if self.admission is not None:
            self._services.admission.release(self.admission)
            if self.plan is not None and self.plan.kind == "QUERY":
                self.end_time = self.end_time or time.time()

    # -- for the plan's run

    def reach(self, point: str) -> None:
        """It has come to a point where a switch may hold it; a cancel ends that.

        :param point: one of :data:`airflow_provider_impala_lb.sandbox.common.switches.POINTS`.
        :raises StatementCancelled: it was cancelled.
        :raises Refused: a switch lets it fail.
        """
        self._services.switches.reach(point, self.id, self.sql, self._cancelled.is_set)

    def admit(self) -> None:
        """Wait until it may run, and begin its execution (``ClientRequestState::FinishExecQueryOrDmlRequest``).

        :raises Refused: admission control refuses it.
        :raises StatementCancelled: it was cancelled meanwhile.
        """
        self._interruptible = True
        self.mark("Submit for admission")
        self.reach("admission")
        trivial = self.plan is not None and self.plan.trivial and self._services.behaviour.admits_trivial_queries
        self.admission = Admission(self.id, pool_of(self.options), self._cancelled, trivial)
        self._services.admission.submit(self.admission)
        self.mark("Completed admission")
        self.executing_since = time.time()
        self._set_state("RUNNING")
        self.check_cancelled()
        self.reach("execution")

    def begin_finalising(self) -> None:
        """All rows are written: from here on a cancel comes too late, whatever its client is told
        (``Coordinator::Wait``, ``ClientRequestState::UpdateCatalog``).

        :raises StatementCancelled: it was cancelled before.
        :raises Refused: a switch lets it fail.
        """
        with self._lock:
            if self._cancelled.is_set():
                raise StatementCancelled()
            self._interruptible = False
        self.worked = True
        self.mark("DML data written")
        if not self._services.behaviour.ends_dml_at_its_end:
            self.end_time = time.time()
        self._services.switches.reach("finalising", self.id, self.sql)

    @contextmanager
    def catalog_change(self) -> Iterator[Change]:
        """A call to the catalog service, which a cancel does not stop. With SYNC_DDL it waits until every
        coordinator shows what it changed; if it changed nothing, it waits for nothing."""
        switches = self._services.switches
        with self._services.calls.noted(self):
            switches.reach("catalog", self.id, self.sql)
            with self._services.catalog.change() as change:
                yield change
        switches.reach("catalog_answer", self.id, self.sql)
        if change.records and self._services.behaviour.shows_catalog_updates:
            self.mark("Applied catalog updates from DDL")
        if change.records and query_options.is_on(self.options, "SYNC_DDL"):
            switches.reach("sync_ddl", self.id, self.sql)
            self._services.catalog.wait_until_everywhere(self._services.flags.sync_ddl_limit)

    def mark(self, event: str) -> None:
        """Note an event of its timeline, which happens now.

        :param event: by its name in Impala.
        """
        self.events.append((event, time.time() - self.started))

    def child_query(self, sql: str) -> list[Row]:
        """Run a statement of its own, in the same session (``ChildQuery::ExecAndFetch``).

        :param sql: it.
        :returns: all its rows.
        :raises StatementCancelled: one of the two was cancelled.
        :raises Refused: the child failed.
        """
        assert self.run_child is not None, "a coordinator's"
        return self.run_child(self, sql)

    def cursor(self, sql: str) -> duckdb.DuckDBPyConnection:
        """A DuckDB cursor that :meth:`cancel` interrupts.

        :param sql: what it will execute.
        :raises StatementCancelled: it is cancelled already.
        """
        cursor = self._services.engine.cursor(sql)
        with self._lock:
            self._cursors.append(cursor)
        self.check_cancelled()
        return cursor

    def check_cancelled(self) -> None:
        """Called before a step that cannot be interrupted.

        :raises StatementCancelled: it is cancelled.
        """
        if self._cancelled.is_set():
            raise StatementCancelled()

    def _sleep(self, seconds: float) -> None:
        self.slept = (time.time(), seconds)
        if self._cancelled.wait(seconds):
            raise StatementCancelled()

    # -- its end

    def cancel(self, reason: str | None = None) -> None:
        """Stop it as far as it can be stopped (``ClientRequestState::Cancel``).

        With a reason it is in error at once, and its threads end later. Without one (CancelOperation) its threads say
        what became of it: a query or DML is ``Cancelled``; DDL goes on, and is FINISHED.

        :param reason: its error from now on; None (default): none.
        """
        if self._services.behaviour.cancels_planning and not self._planned:
            self._stop_planning.set()
        with self._planning, self._lock:
            if self.state in ("PENDING", "RUNNING") and self._interruptible:
                # Its waiting thread ends at once, although what it started elsewhere ends later.
                self._fail(reason or "Cancelled")
            elif reason is not None and not self.all_rows_returned:
                self._fail(reason)
            self._cancelled.set()
            cursors, others = list(self._cursors), list(self._on_cancel)
        for other in others:
            other()
        for cursor in cursors:
            cursor.interrupt()

    def when_cancelled(self, call: Callable[[], None]) -> None:
        """Also cancel something else.

        :param call: does it.
        """
        with self._lock:
            self._on_cancel.append(call)

    def finalize(self, reason: str | None) -> None:
        """The end of what it does, before its record is made (``ClientRequestState::Finalize``). Waits for its threads,
        but for those of a statement that nobody waits for yet.

        :param reason: its error, if it has not ended; None: none.
        """
        self._services.switches.reach("unregistering", self.id, self.sql)
        self.cancel(reason)
        self._mark_active()
        while self._waited_for and not self.done.wait(0.5):
            for cursor in self._cursors:
                cursor.interrupt()  # the first came perhaps before DuckDB had begun
        self._release()
        if self.end_time is None:
            self.end_time = time.time()
        self.mark("Unregister query")
        if self.done.is_set():
            with self._fetching:
                for cursor in self._cursors:
                    cursor.close()

    def fail(self, text: str) -> None:
        """It ended, but its rows cannot be sent: it is in error from now on.

        :param text: the error; one that it has already stays.
        """
        with self._lock:
            self._fail(text)

    # -- for the client's calls

    def _mark_active(self) -> None:
        with self._lock:
            self.last_active = time.time()
            self._active += 1

    def _mark_inactive(self) -> None:
        with self._lock:
            self.last_active = time.time()
            self._active -= 1

    def idle_since(self) -> float | None:
        """Since when its client could have fetched and has not, seconds since 1970; None: it runs, or is fetched from.
        Asking for its state does not count."""
        with self._lock:
            return None if self._active > 0 else self.last_active

    def fetch(self, count: int) -> tuple[int, list[Row], bool] | None:
        """The next rows.

        :param count: how many at most.
        :returns: the offset of the first, the rows, whether there are more; None: it has not ended in
            FETCH_ROWS_TIMEOUT_MS.
        :raises Refused: it failed or was cancelled.
        """
        limit = int(self.options.get("FETCH_ROWS_TIMEOUT_MS") or 0) / 1000
        if not self.done.wait(limit or None):
            return None
        self._mark_active()
        try:
            with self._fetching:
                if self._cancelled.is_set() and self._result.streams and not self.all_rows_returned:
                    raise Refused("Cancelled")
                if self.state == "ERROR":
                    raise Refused(self.error or "Cancelled")
                found = self._result.next(count)
            self.all_rows_returned = not found[2]
            if self.all_rows_returned:
                self._release()
            return found
        except Refused as refused:
            self.fail(str(refused))
            raise Refused(self.error or "Cancelled") from None
        finally:
            self._mark_inactive()

    # -- what the pages show

    @property
    def rows_fetched(self) -> int:
        """By the client, so far."""
        return self._result.returned

    @property
    def cancelled(self) -> bool:
        """Did somebody cancel it?"""
        return self._cancelled.is_set()

    @property
    def has_coordinator(self) -> bool:
        """Was it admitted, so that it has a progress?"""
        return self.executing_since is not None
