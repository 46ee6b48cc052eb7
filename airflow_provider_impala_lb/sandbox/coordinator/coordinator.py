"""A coordinator: its sessions and statements, who may use them, what ends them, and its graceful shutdown."""

from __future__ import annotations

import json
import threading
import time
import traceback
from collections import deque
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from urllib.parse import urlencode

from airflow_provider_impala_lb.sandbox.common import query_options
from airflow_provider_impala_lb.sandbox.common.confinement import Confinement
from airflow_provider_impala_lb.sandbox.common.errors import Refused
from airflow_provider_impala_lb.sandbox.common.metadata_lag import CoordinatorCatalog
from airflow_provider_impala_lb.sandbox.common.versions import Behaviour
from airflow_provider_impala_lb.sandbox.common.web_access import open_page
from airflow_provider_impala_lb.sandbox.coordinator.graceful_shutdown import GracefulShutdown
from airflow_provider_impala_lb.sandbox.coordinator.ids import printed, same
from airflow_provider_impala_lb.sandbox.coordinator.operation import Operation, Services
from airflow_provider_impala_lb.sandbox.coordinator.registry import registered
from airflow_provider_impala_lb.sandbox.coordinator.session import Connection, Session
from airflow_provider_impala_lb.sandbox.coordinator.statements import QueryDriver, Statements, may_be_retried
from airflow_provider_impala_lb.sandbox.coordinator.time_limits import TimeLimits, in_background
from airflow_provider_impala_lb.sandbox.sql.analysis import Statement
from airflow_provider_impala_lb.sandbox.sql.catalog_calls import CatalogCall
from airflow_provider_impala_lb.sandbox.sql.engine import Engine
from airflow_provider_impala_lb.sandbox.sql.lexer import statement
from airflow_provider_impala_lb.sandbox.sql.plan import Plan, Row
from airflow_provider_impala_lb.sandbox.sql.planner import plan


@dataclass
class Counters:
    """What happened since the start; all default to 0.

    :ivar queries: statements registered.
    :ivar sessions_expired: by their idle timeout.
    :ivar connections: served.
    :ivar setup_timeouts: connections that were closed because no thread became free for them.
    """

    queries: int = 0
    sessions_expired: int = 0
    connections: int = 0
    setup_timeouts: int = 0


class Coordinator:
    """All state of one node but its sockets. Safe for threads.

    :param directory: the cluster's, with the catalog and the warehouse in it.
    :param services: what its statements work with.
    :param load_file: where the load stands that its metrics report beside the truth.
    :ivar services: the same.
    :ivar flags: Impala's flags.
    :ivar directory: the cluster's.
    :ivar warehouse: the directory of the tables.
    :ivar load_file: as given.
    :ivar address: ``host:port`` of HiveServer2; empty until the process has its port.
    :ivar web_address: ``host:port`` of the web pages; empty until then.
    :ivar web_key: lets one coordinator see the pages of another.
    :ivar started: seconds since 1970.
    :ivar sessions: the open ones, by guid.
    :ivar connections: the open ones, by id.
    :ivar statements: the registered ones, and the query log.
    :ivar limits: what ends statements by itself.
    :ivar counters: what happened since the start.
    :ivar admins: users who may kill everybody's statements.
    :ivar shutdown: the graceful shutdown, begun or not.
    :ivar over: set when the process shall end.
    :ivar setup_queue: client addresses of connections that wait for a thread.
    """

    def __init__(self, directory: Path, services: Services, load_file: Path) -> None:
        self.services, self.flags = services, services.flags
        self.directory, self.warehouse = directory, directory / "warehouse"
        self.address = self.web_address = self.web_key = ""
        self.load_file = load_file
        self.started = time.time()
        self.sessions: dict[bytes, Session] = {}
        self.connections: dict[str, Connection] = {}
        self.statements = Statements(services, lambda: self.address)
        self.limits = TimeLimits(services, self.statements)
        self.counters = Counters()
        self.admins: frozenset[str] = frozenset()
        self.shutdown = GracefulShutdown(self.flags)
        self.over = threading.Event()
        self.setup_queue: deque[str] = deque()
        self._lock = threading.RLock()
        threading.Thread(target=self._maintain, name="maintenance", daemon=True).start()

    @property
    def version(self) -> str:
        """Of the server, as clients and pages see it."""
        return self.services.behaviour.banner

    @property
    def behaviour(self) -> Behaviour:
        """Of Impala's version."""
        return self.services.behaviour

    @property
    def catalog(self) -> CoordinatorCatalog:
        """What this coordinator shows of the catalog."""
        return self.services.catalog

    @property
    def engine(self) -> Engine:
        """Runs the queries."""
        return self.services.engine

    @property
    def confinement(self) -> Confinement:
        """Which files statements may touch."""
        return self.services.confinement

    # -- connections

    def connected(self, connection: Connection) -> None:
        """A connection has a thread that serves it.

        :param connection: the new one.
        """
        with self._lock:
            self.connections[connection.id] = connection
            self.counters.connections += 1

    def disconnected(self, connection: Connection) -> None:
        """A connection has ended.

        A session outlives its connections: the clock of ``disconnected_session_timeout`` starts with the last. Unless
        that is 0 or less: then the session ends with the last (``ImpalaServer::ConnectionEnd``).

        :param connection: the one that ended.
        """
        ended: list[Session] = []
        with self._lock:
            self.connections.pop(connection.id, None)
            for session in self.sessions.values():
                session.connections.discard(connection.id)
                if not session.connections and session.disconnected is None:
                    session.disconnected = time.time()
                    ended.append(session)
        if self.flags.disconnected_session_timeout <= 0:
            for session in ended:
                self.remove_session(session, "Session closed")

    # -- sessions

    def open_session(self, connection: Connection, user: str, configuration: dict[str, str]) -> Session:
        """Open a session.

        :param connection: over which it is asked for.
        :param user: who the client says it is; not used where the connection knows.
        :param configuration: query options, and ``use:database``; unknown ones are passed over, as in Impala.
        :raises Refused: the coordinator shuts down, or the user has as many sessions as are allowed.
        """
        self.check_not_shutting_down()
        user = connection.user or user
        session = Session(user, connection.user or user, self.flags.idle_session_timeout)
        for name, value in configuration.items():
            if name.lower() == "use:database":
                session.database = value.lower()
            else:
                with suppress(Refused):  # Impala ignores what it does not know here
                    session.options.update([query_options.checked(name, value)])
        limit = self.flags.max_hs2_sessions_per_user
        with self._lock:
            held = sum(1 for each in self.sessions.values() if each.user == user and not each.closed)
            if limit > 0 and held >= limit:
                raise Refused(f"Number of sessions for user {user} exceeds coordinator limit {limit}")
            session.connections.add(connection.id)
            self.sessions[session.guid] = session
        self.services.log.event(session.id, user, "open")
        return session

    @contextmanager
    def using_session(self, guid: bytes, secret: bytes, connection: Connection) -> Iterator[Session]:
        """The session of a handle, kept from expiring meanwhile.

        :param guid: of the handle.
        :param secret: of the handle.
        :param connection: over which the call came; the session is connected over it from now on.
        :raises Refused: unknown, wrong secret, another user's, expired or closed.
        """
        session = self._session(guid, secret)
        session.check_usable()
        self._enter(session, connection)
        try:
            yield session
        finally:
            self._leave(session)

    def _session(self, guid: bytes, secret: bytes) -> Session:
        with self._lock:
            session = self.sessions.get(guid)
        if session is None or not same(session.secret, secret):
            raise Refused(f"Invalid session id: {printed(guid)}")
        return session

    def _enter(self, session: Session, connection: Connection) -> None:
        if connection.user and connection.user != session.connected_user:
            raise Refused(
                f"The user authorized on the connection '{connection.user}' does not match the session username "
                f"'{session.connected_user}'"
            )
        self._enter_session(session)
        with self._lock:
            session.disconnected = None
            session.connections.add(connection.id)

    def _enter_session(self, session: Session) -> None:
        with self._lock:
            session.calls += 1
            session.last_used = time.time()

    def _leave(self, session: Session) -> None:
        with self._lock:
            session.calls -= 1
            session.last_used = time.time()

    def close_session(self, guid: bytes, secret: bytes, connection: Connection) -> None:
        """Close a session, as its client wants.

        :param guid: of the handle.
        :param secret: of the handle.
        :param connection: over which the call came.
        :raises Refused: unknown, wrong secret or another user's.
        """
        session = self._session(guid, secret)
        if connection.user and connection.user != session.connected_user:
            self._enter(session, connection)
        self.remove_session(session, "Session closed")

    def remove_session(self, session: Session, reason: str) -> None:
        """Close a session: it takes no more statements, and those that it knows are unregistered. One that is being
        planned goes on (``ImpalaServer::CloseSessionInternal``).

        :param session: one that is closed already stays so.
        :param reason: the error of statements that have not ended.
        """
        with self._lock:
            if session.closed:
                return
            session.closed = True
            self.sessions.pop(session.guid, None)
        self.statements.end_session(session, reason)
        self.services.log.event(session.id, session.user, "close")

    # -- statements

    def execute(self, session: Session, sql: str, overlay: dict[str, str], address: str) -> Operation:
        """Plan a statement and begin it (``ImpalaServer::ExecuteStatementCommon``).

        :param session: whose it is; it is in use.
        :param sql: as received.
        :param overlay: query options of this statement.
        :param address: the client's ``host:port``.
        :returns: the statement, known to its session.
        :raises Refused: it cannot be planned, failed at once, or its session was closed meanwhile.
        """
        operation = Operation(self.services, session, sql, session.effective_options(overlay), address)

        def make_plan() -> Plan:
            operation.load_metadata(self.flags.stress_metadata_loading_pause_injection_ms / 1000)
            size, limit = len(sql.encode()), int(operation.options["MAX_STATEMENT_LENGTH_BYTES"])
            if size > limit:
                raise Refused(f"Statement length of {size} bytes exceeds the maximum statement length ({limit} bytes)")
            return plan(Statement(self, session, operation.id, operation.options, statement(sql)))

        operation.run_child, operation.retry = self._run_child, self._retry
        return self.begin(operation, make_plan)

    def _retry(self, original: Operation, error: Exception) -> bool:
        if not may_be_retried(original, error, self.behaviour):
            return False
        again = Operation(self.services, original.session, original.sql, original.options, original.address)
        retried = self.statements.retry(original, again)
        if retried:
            self.counters.queries += 1
            in_background(lambda: self.statements.archive_retried(original))
        return retried

    def _run_child(self, parent: Operation, sql: str) -> list[Row]:
        parent.check_cancelled()
        self._enter_session(parent.session)
        try:
            child = self.execute(parent.session, sql, dict(parent.options), parent.address)
            driver = self.statements.driver(child.guid)
            parent.when_cancelled(lambda: self.statements.unregister_quietly(driver, "Cancelled"))
            if parent.cancelled:  # meanwhile
                self.statements.unregister_quietly(driver, "Cancelled")
            found: list[Row] = []
            while True:
                fetched = child.fetch(1024)
                if fetched is not None:
                    found += fetched[1]
                    if not fetched[2]:
                        break
            self.statements.unregister_quietly(driver, None)
        finally:
            self._leave(parent.session)
        parent.check_cancelled()
        return found

    def begin(self, operation: Operation, make_plan: Callable[[], Plan]) -> Operation:
        """Register a statement, plan it, start it, and let its session know it.

        :param operation: a new one.
        :param make_plan: plans it. It is on the pages meanwhile, "so that queries that take a long time to plan show
            up" (``ImpalaServer::ExecuteInternal``).
        :returns: the same.
        :raises Refused: as :meth:`execute`.
        """
        with operation.planning():
            driver = self.statements.register(operation)
            self.counters.queries += 1
            made: Plan | Exception
            try:
                made = make_plan()
            except Exception as error:
                made = error
        try:
            if isinstance(made, Exception):
                operation.refuse(made)
                raise made
            operation.start(made)
            operation.wait_for_it()
            self.statements.set_inflight(operation)
        except Exception as error:
            self.statements.unregister_quietly(driver, str(error))
            if isinstance(error, Refused):
                error.query_id = operation.id
            raise
        return operation

    @contextmanager
    def using_operation(
        self, guid: bytes, secret: bytes, connection: Connection, closed_too: bool = False
    ) -> Iterator[QueryDriver]:
        """The statement of a handle, its session kept from expiring meanwhile.

        :param guid: of the handle.
        :param secret: of the handle.
        :param connection: over which the call came.
        :param closed_too: also one that is hidden from clients and not archived yet; default False.
        :raises Refused: unknown, hidden, wrong secret, or another user's.
        """
        driver = self.statements.driver(guid, hidden_too=closed_too)
        if not same(driver.original.secret, secret):
            raise Refused(self.services.behaviour.unknown_handle(printed(guid)))
        session = driver.original.session
        if session.closed:
            raise Refused(f"Query id {printed(guid)} not found.")
        session.check_usable()
        self._enter(session, connection)
        try:
            yield driver
        finally:
            self._leave(session)

    def kill_query(self, query_id: str, user: str) -> None:
        """KILL QUERY, here or on another coordinator (``ClientRequestState::ExecKillQueryRequest``).

        :param query_id: as printed.
        :param user: who asks.
        :raises Refused: no coordinator has it, it is somebody else's, or it cannot be killed yet.
        """
        if self.kill_query_here(query_id, user):
            return
        for node in registered(self.directory):
            if node.address == self.address:
                continue
            url = f"{node.web}/kill_query?json&{urlencode({'query_id': query_id, 'user': user})}"
            with suppress(OSError), open_page(url, self.web_key, timeout=10) as page:
                answer = json.load(page)
                if "error" in answer:
                    raise Refused(answer["error"])
                if answer.get("killed"):
                    return
        raise Refused("Could not find query on any coordinator.")

    def kill_query_here(self, query_id: str, user: str) -> bool:
        """KILL QUERY of this coordinator's (``ImpalaServer::KillQuery``).

        :param query_id: as printed.
        :param user: who asks; an admin of the cluster may kill everybody's.
        :returns: False: it is not here, or hidden already.
        :raises Refused: it is somebody else's, or cannot be killed yet.
        """
        operation = self.statements.find(query_id)
        if operation is None:
            return False
        try:
            driver = self.statements.driver(operation.guid)
        except Refused:
            return False
        if user != operation.session.user and user not in self.admins:
            raise Refused(f"User '{user}' is not authorized to kill the query.")
        self.cancel_and_unregister(driver, "Cancelled")
        return True

    def cancel_and_unregister(self, driver: QueryDriver, reason: str) -> None:
        """End a statement as an administrator does, by KILL QUERY or by the page.

        :param driver: a registered one.
        :param reason: its error.
        :raises Refused: an older server, and its session does not know it yet.
        """
        self.check_cancellable(driver, finalizes=True)
        self.statements.unregister_quietly(driver, reason, interrupted=True)

    def check_cancellable(self, driver: QueryDriver, *, finalizes: bool = False) -> None:
        """Called before a statement is cancelled, or closed.

        :param driver: a registered one.
        :param finalizes: no client sees it after that, though an older server refuses it; default False.
        :raises Refused: an older server, and its session does not know it yet.
        """
        if not self.services.behaviour.cancels_planning and not self.statements.is_inflight(driver.active):
            if finalizes and self.services.behaviour.loses_what_it_cannot_cancel:
                self.statements.lose(driver)
            raise Refused("Query not yet running")

    # -- what ends by itself

    def _maintain(self) -> None:
        while not self.over.wait(0.25):
            now = time.time()
            with self._lock:
                sessions = list(self.sessions.values())
            try:
                for operation in self.statements.registered():
                    self.limits.check(operation, now)
                for session in sessions:
                    self._expire_session(session, now)
                for call in self.services.calls.take_orphaned():
                    self._do_orphaned(call)
            except Exception:
                traceback.print_exc()  # one bad session must not stop the clock of the others
            if self.shutdown.is_over(len(self.statements.registered()), now):
                self.over.set()

    def _do_orphaned(self, call: CatalogCall) -> None:
        """The catalog service goes on where a coordinator has died."""
        try:
            state = "FINISHED" if self.services.calls.do(call, self) else "CANCELLED"
        except Refused:
            state = "ERROR"
        self.services.log.statement(call.session, call.user, call.sql, state, call.query_id)

    def _expire_session(self, session: Session, now: float) -> None:
        if session.calls:
            return
        gone = self.flags.disconnected_session_timeout
        if session.disconnected is not None and 0 < gone <= now - session.disconnected:
            in_background(lambda: self.remove_session(session, "Session closed because it has no active connections"))
        elif not session.expired and session.idle_too_long(now):
            with self._lock:
                session.expired = True
                self.counters.sessions_expired += 1
            in_background(lambda: self.statements.end_session(session, "Session expired due to inactivity"))

    # -- graceful shutdown

    def begin_shutdown(self, deadline: float | None = None) -> str:
        """Refuse new work; exit when the grace period is over and nothing is registered, or at the deadline.

        :param deadline: seconds from now; it counts if it is sooner than the one that holds. None (default): the
            flag's.
        :returns: as :meth:`shutdown_status`.
        """
        self.shutdown.begin(deadline)
        return self.shutdown_status()

    def shutdown_status(self) -> str:
        """Impala's line for a shutdown that has begun."""
        return self.shutdown.status(len(self.statements.registered()), self.executing())

    def check_not_shutting_down(self) -> None:
        """Called before anything new is accepted.

        :raises Refused: a graceful shutdown has begun.
        """
        if self.shutdown.begun:
            raise Refused(f"Server is being shut down: {self.shutdown_status()}.")

    def executing(self) -> int:
        """How many statements run."""
        return sum(1 for operation in self.statements.registered() if not operation.done.is_set())
