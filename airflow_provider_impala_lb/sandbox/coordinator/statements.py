"""All statements of a coordinator: registered, known to their sessions, unregistered, archived."""

from __future__ import annotations

import queue
import threading
import time
import traceback
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass

from airflow_provider_impala_lb.sandbox.common import query_options
from airflow_provider_impala_lb.sandbox.common.errors import Refused
from airflow_provider_impala_lb.sandbox.common.switches import EXECUTOR_DIED
from airflow_provider_impala_lb.sandbox.common.versions import Behaviour
from airflow_provider_impala_lb.sandbox.coordinator.ids import printed
from airflow_provider_impala_lb.sandbox.coordinator.operation import Operation, Services
from airflow_provider_impala_lb.sandbox.coordinator.query_log import QueryLog, QueryRecord
from airflow_provider_impala_lb.sandbox.coordinator.session import Session

_POOL_SIZE = 4  # --unregistration_thread_pool_size


@dataclass(eq=False)
class QueryDriver:
    """A statement as its client has it: it stays the same where the server runs it once more.

    :ivar original: what the client's handle names.
    :ivar retried: the second run, under another id; None (default): there is none.
    :ivar finalized: its unregistering has begun: no client sees it any more, although it may still run; default False.
    """

    original: Operation
    retried: Operation | None = None
    finalized: bool = False

    @property
    def active(self) -> Operation:
        """The run that counts."""
        return self.retried or self.original


class Statements:
    """The registered statements of one coordinator (``query_driver_map_``). Safe for threads.

    :param services: what they work with.
    :param address: gives the coordinator's ``host:port``.
    :ivar log: those that were unregistered.
    """

    def __init__(self, services: Services, address: Callable[[], str]) -> None:
        self._services, self._address = services, address
        self.log = QueryLog(services.flags, services.behaviour)
        self._lock = threading.RLock()
        self._drivers: dict[bytes, QueryDriver] = {}
        self._interrupted: dict[bytes, tuple[Session, str]] = {}
        self._leaving: queue.SimpleQueue[QueryDriver] = queue.SimpleQueue()
        for number in range(_POOL_SIZE):
            threading.Thread(target=self._archive_all, name=f"unregistration-{number}", daemon=True).start()

    # -- their way in

    def register(self, operation: Operation) -> QueryDriver:
        """A statement is on the pages from now on; its session does not know it (``ImpalaServer::RegisterQuery``).

        :param operation: a new one.
        :returns: what its handle names.
        :raises Refused: its session is closed.
        """
        with self._lock:
            if operation.session.closed:
                raise Refused("Session has been closed, ignoring query.")
            driver = self._drivers[operation.guid] = QueryDriver(operation)
            return driver

    def set_inflight(self, operation: Operation) -> None:
        """Its session knows it from now on, and ends it when it is closed (``ImpalaServer::SetQueryInflight``).

        :param operation: a registered one.
        :raises Refused: its session was closed meanwhile.
        """
        self._services.switches.reach("inflight", operation.id, operation.sql)
        with self._lock:
            if operation.session.closed:
                raise Refused("Session closed")
            operation.inflight_since = time.time()
            operation.session.statements += 1
            operation.session.operation_guids[operation.guid] = None

    def is_inflight(self, operation: Operation) -> bool:
        """Does its session know it?

        :param operation: a registered one.
        """
        return operation.guid in operation.session.operation_guids

    # -- who looks for them

    def registered(self) -> list[Operation]:
        """All, also those that are hidden from clients: what the pages show in flight."""
        with self._lock:
            return list({driver.active.guid: driver.active for driver in self._drivers.values()}.values())

    def driver(self, guid: bytes, hidden_too: bool = False) -> QueryDriver:
        """What the handle names (``ImpalaServer::GetActiveQueryHandle``).

        :param guid: of the handle.
        :param hidden_too: also one that is hidden from clients, for its profile; default False.
        :raises Refused: unknown, or its unregistering has begun.
        """
        with self._lock:
            driver = self._drivers.get(guid)
            if driver is not None and (hidden_too or not driver.finalized):
                return driver
            raise Refused(self._why_unknown(guid))

    def _why_unknown(self, guid: bytes) -> str:
        kept = self._interrupted.get(guid)
        return kept[1] if kept is not None else self._services.behaviour.unknown_handle(printed(guid))

    def lose(self, driver: QueryDriver) -> None:
        """Hide a statement from clients, and never unregister it: a fault of Impala 4.0 to 4.3.

        :param driver: a registered one.
        """
        driver.finalized = True

    def find(self, query_id: str) -> Operation | None:
        """The registered statement of an id, also one that is hidden from clients; None: there is none.

        :param query_id: as printed.
        """
        return next((operation for operation in self.registered() if operation.id == query_id), None)

    # -- their way out

    def unregister(self, driver: QueryDriver, reason: str | None = None, interrupted: bool = False) -> None:
        """Take a statement away. Clients do not see it any more from the beginning of this; the record of it is made,
        and it leaves the list in flight, in the background (``ImpalaServer::UnregisterQuery``).

        :param driver: a registered one.
        :param reason: its error, if it has not ended; None (default): none.
        :param interrupted: whoever asks for it later gets the reason, until its session is closed; default False.
        :raises Refused: somebody unregisters it already.
        """
        operation = driver.active
        with self._lock:
            if driver.finalized:
                raise Refused(self._why_unknown(driver.original.guid))
            if interrupted and self._services.behaviour.cancels_planning and not operation.session.closed:
                self._interrupted[driver.original.guid] = (operation.session, reason or "Cancelled")
            driver.finalized = True
        if self._services.behaviour.archives_in_background:
            operation.finalize(reason)
            self._leaving.put(driver)
        else:
            operation.cancel(reason)
            self._forget(driver)
            operation.finalize(reason)
            self._archive(operation)

    def end_session(self, session: Session, reason: str) -> None:
        """Unregister all that a session knows, and what is kept for it.

        :param session: closed, or expired: nothing becomes known to it any more.
        :param reason: the error of what has not ended.
        """
        with self._lock:
            drivers = [self._drivers[guid] for guid in list(session.operation_guids) if guid in self._drivers]
        for driver in drivers:
            self.unregister_quietly(driver, reason, interrupted=True)
        if session.closed:
            with self._lock:
                for guid in [guid for guid, (owner, _) in self._interrupted.items() if owner is session]:
                    del self._interrupted[guid]

    def retry(self, original: Operation, again: Operation) -> bool:
        """Run a query once more under another id: the handle that its client has stays good, and both are in the log
        with the same text (``QueryDriver::RetryQueryFromThread``).

        :param original: it failed, and its client does not know yet.
        :param again: the same, new.
        :returns: False: its session is closed, or it is being unregistered.
        """
        assert original.plan is not None
        try:
            with self._lock:
                driver = self.driver(original.guid)
                if original.session.closed:
                    return False
                self._drivers[again.guid] = driver
            with again.planning():
                pass
            again.start(original.plan)
            again.wait_for_it()
            self.set_inflight(again)
            with self._lock:
                self.driver(original.guid)  # not unregistered meanwhile
                driver.retried = again
        except Refused as refused:
            again.cancel(str(refused))
            with self._lock:
                self._drivers.pop(again.guid, None)
                original.session.operation_guids.pop(again.guid, None)
            return False
        return True

    def archive_retried(self, original: Operation) -> None:
        """When the first run has ended, its record goes to the log.

        :param original: it.
        """
        original.done.wait()
        original.finalize(None)
        self._archive(original)

    def unregister_quietly(self, driver: QueryDriver, reason: str | None, interrupted: bool = False) -> None:
        """As :meth:`unregister`; that somebody else does it already is no error.

        :param driver: a registered one.
        :param reason: its error, if it has not ended; None: none.
        :param interrupted: whoever asks for it later gets the reason; default False.
        """
        with suppress(Refused):
            self.unregister(driver, reason, interrupted)

    def _archive_all(self) -> None:
        while True:
            driver = self._leaving.get()
            try:
                self._archive(driver.active)
                self._services.switches.reach("leaving", driver.active.id, driver.active.sql)
            except Exception:
                traceback.print_exc()
            finally:
                self._forget(driver)

    def _archive(self, operation: Operation) -> None:
        """Its record comes to the front of the log (``ImpalaServer::CloseClientRequestState``); one whose profile
        cannot be compressed is not kept (``ImpalaServer::ArchiveQuery``)."""
        with self._lock:
            operation.session.operation_guids.pop(operation.guid, None)
        try:
            self._services.switches.reach("archiving", operation.id, operation.sql)
        except Refused:
            return
        self.log.push(QueryRecord.of(operation, self._address()))

    def _forget(self, driver: QueryDriver) -> None:
        with self._lock:
            for run in (driver.original, driver.retried):
                if run is not None:
                    self._drivers.pop(run.guid, None)


def may_be_retried(operation: Operation, error: Exception, behaviour: Behaviour) -> bool:
    """Only a query, and only where an executor has died before any row was fetched (``QueryDriver::TryQueryRetry``).

    :param operation: the first run.
    :param error: what it failed of.
    :param behaviour: of Impala's version.
    """
    wanted = query_options.is_on(operation.options, "RETRY_FAILED_QUERIES") and behaviour.retries_queries
    is_query = operation.plan is not None and operation.plan.kind == "QUERY"
    died = str(error).startswith(EXECUTOR_DIED)
    return wanted and is_query and died and not operation.cancelled and not operation.rows_fetched
