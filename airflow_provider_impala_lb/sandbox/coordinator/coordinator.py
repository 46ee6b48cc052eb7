"""A coordinator: its sessions and statements, who may use them, what ends them, and its graceful shutdown."""

from __future__ import annotations

import json
import threading
import time
import traceback
from collections import OrderedDict, deque
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path

from airflow_provider_impala_lb.sandbox.common import query_options
from airflow_provider_impala_lb.sandbox.common.confinement import Confinement
from airflow_provider_impala_lb.sandbox.common.errors import Refused
from airflow_provider_impala_lb.sandbox.common.metadata_lag import CoordinatorCatalog
from airflow_provider_impala_lb.sandbox.common.registry import registered
from airflow_provider_impala_lb.sandbox.common.simulated_load import DEFAULT_POOL
from airflow_provider_impala_lb.sandbox.common.web_access import open_page
from airflow_provider_impala_lb.sandbox.coordinator.graceful_shutdown import GracefulShutdown
from airflow_provider_impala_lb.sandbox.coordinator.ids import printed, same
from airflow_provider_impala_lb.sandbox.coordinator.operation import Operation, Services
from airflow_provider_impala_lb.sandbox.coordinator.session import Session
from airflow_provider_impala_lb.sandbox.sql.engine import Engine

VERSION = "impalad version 4.5.0-SANDBOX RELEASE (build practice cluster, DuckDB underneath)"
_KEPT = 200


@dataclass(eq=False)
class Connection:
    """One TCP connection.

    :ivar id: unique, as the pages show it.
    :ivar address: the client's ``host:port``.
    :ivar user: empty unless the client proved who it is (PLAIN).
    :ivar opened: seconds since 1970; default now.
    """

    id: str
    address: str
    user: str
    opened: float = field(default_factory=time.time)


@dataclass
class Counters:
    """What happened since the start; all default to 0.

    :ivar queries: statements registered.
    :ivar queries_expired: of these, by their idle timeout.
    :ivar sessions_expired: by their idle timeout.
    :ivar connections: served.
    :ivar setup_timeouts: connections that were closed because no thread became free for them.
    """

    queries: int = 0
    queries_expired: int = 0
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
    :ivar queries: the registered statements, by guid.
    :ivar closed_queries: the last 200 that were closed, by guid, oldest first.
    :ivar expired_queries: session and message of statements that expired, by guid; kept as long as the session.
    :ivar counters: what happened since the start.
    :ivar pools: statements admitted since the start, by pool.
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
        self.queries: dict[bytes, Operation] = {}
        self.closed_queries: OrderedDict[bytes, Operation] = OrderedDict()
        self.expired_queries: dict[bytes, tuple[Session, str]] = {}
        self.counters = Counters()
        self.pools: dict[str, int] = {}
        self.shutdown = GracefulShutdown(self.flags)
        self.over = threading.Event()
        self.setup_queue: deque[str] = deque()
        self._lock = threading.RLock()
        threading.Thread(target=self._maintain, name="maintenance", daemon=True).start()

    @property
    def version(self) -> str:
        """Of the server, as clients and pages see it."""
        return VERSION

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
        with self._lock:
            session.calls += 1
            session.last_used = time.time()
            session.disconnected = None
            session.connections.add(connection.id)

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
        """Close a session; its statements are cancelled and forgotten.

        :param session: one that is closed already stays so.
        :param reason: the error that its running statements get.
        """
        with self._lock:
            if session.closed:
                return
            session.closed = True
            self.sessions.pop(session.guid, None)
            for guid in [guid for guid, (owner, _) in self.expired_queries.items() if owner is session]:
                del self.expired_queries[guid]
        self._unregister_all(session, reason)
        self.services.log.event(session.id, session.user, "close")

    # -- statements

    def register(self, operation: Operation) -> None:
        """Make a statement known to clients and pages.

        :param operation: a new one.
        :raises Refused: its session is closed.
        """
        with self._lock:
            if operation.session.closed:
                raise Refused("Session has been closed, ignoring query.")
            self.queries[operation.guid] = operation
            operation.session.operation_guids[operation.guid] = None
            operation.session.statements += 1
            self.counters.queries += 1
            pool = _pool_of(operation)
            self.pools[pool] = self.pools.get(pool, 0) + 1

    def refused(self, operation: Operation, error: Exception) -> None:
        """Analysis failed: the client gets no handle, but the web pages and the activity log have it.

        :param operation: a registered one.
        :param error: what analysis found.
        """
        operation.refuse(error)
        self.unregister(operation)

    def load_metadata(self, operation: Operation) -> None:
        """The pause that every statement makes before it is planned (``stress_metadata_loading_pause_injection_ms``).

        :param operation: the statement.
        :raises StatementCancelled: it was cancelled meanwhile.
        """
        operation.wait(self.flags.stress_metadata_loading_pause_injection_ms / 1000)

    def _keep(self, operation: Operation) -> None:
        self.closed_queries[operation.guid] = operation
        while len(self.closed_queries) > _KEPT:
            self.closed_queries.popitem(last=False)

    def unregister(self, operation: Operation, reason: str = "Cancelled") -> None:
        """Forget an operation but for its profile; what still runs of it is cancelled.

        :param operation: one that is forgotten already stays so.
        :param reason: the error that it gets if it runs; default ``Cancelled``.
        """
        with self._lock:
            if self.queries.pop(operation.guid, None) is None:
                return
            operation.session.operation_guids.pop(operation.guid, None)
            self._keep(operation)
        if operation.running:
            operation.cancel(reason)
            operation.done.wait(5)
        operation.close()

    def _unregister_all(self, session: Session, reason: str) -> None:
        with self._lock:
            operations = [self.queries[guid] for guid in session.operation_guids]
        for operation in operations:
            self.unregister(operation, reason)

    @contextmanager
    def using_operation(
        self, guid: bytes, secret: bytes, connection: Connection, closed_too: bool = False
    ) -> Iterator[Operation]:
        """The operation of a handle, its session kept from expiring meanwhile.

        :param guid: of the handle.
        :param secret: of the handle.
        :param connection: over which the call came.
        :param closed_too: also one of the last 200 that were closed (for its profile); default False.
        :raises Refused: unknown, wrong secret, another user's.
        """
        with self._lock:
            operation = self.queries.get(guid)
            if operation is None and closed_too:
                operation = self.closed_queries.get(guid)
            expired = self.expired_queries.get(guid)
        if operation is None and expired is not None:
            raise Refused(expired[1])
        if operation is None or not same(operation.secret, secret):
            raise Refused(f"Invalid or unknown query handle: {printed(guid)}.")
        self._enter(operation.session, connection)
        with self._lock:
            operation.calls += 1
        try:
            yield operation
        finally:
            with self._lock:
                operation.calls -= 1
                operation.last_used = time.time()
            self._leave(operation.session)

    def find(self, query_id: str) -> Operation | None:
        """The statement of an id, also one of the last 200 that were closed; None: there is none.

        :param query_id: as printed.
        """
        with self._lock:
            known = [*self.queries.values(), *self.closed_queries.values()]
        return next((operation for operation in known if operation.id == query_id), None)

    def kill_query(self, query_id: str, user: str) -> bool:
        """KILL QUERY, here or on another coordinator.

        :param query_id: as printed.
        :param user: who asks.
        :returns: False: no coordinator has it.
        :raises Refused: it is somebody else's.
        """
        operation = next((each for each in list(self.queries.values()) if each.id == query_id), None)
        if operation is not None:
            if operation.session.user != user:
                raise Refused(f"User '{user}' is not authorized to kill the query.")
            operation.cancel()
            return True
        for node in registered(self.directory):
            if node.address == self.address:
                continue
            url = f"{node.web}/cancel_query?json&query_id={query_id}"
            with suppress(OSError), open_page(url, self.web_key, timeout=5) as page:
                if "error" not in json.load(page):
                    return True
        return False

    # -- what ends by itself

    def _maintain(self) -> None:
        while not self.over.wait(0.25):
            now = time.time()
            with self._lock:
                sessions, operations = list(self.sessions.values()), list(self.queries.values())
            try:
                for operation in operations:
                    self._expire_query(operation, now)
                for session in sessions:
                    self._expire_session(session, now)
            except Exception:
                traceback.print_exc()  # one bad session must not stop the clock of the others
            if self.shutdown.is_over(len(self.queries), now):
                self.over.set()

    def _expire_query(self, operation: Operation, now: float) -> None:
        own, flag = query_options.seconds(operation.options, "QUERY_TIMEOUT_S"), self.flags.idle_query_timeout
        timeout = min(own or flag, flag or own)
        if timeout and not operation.calls and now - operation.last_used >= timeout:
            reason = f"Query {operation.id} expired due to client inactivity (timeout is {timeout:g}s)"
            with self._lock:
                self.counters.queries_expired += 1
                self.expired_queries[operation.guid] = (operation.session, reason)
            operation.cancel(reason)
            self.unregister(operation, reason)
            return
        limit = query_options.seconds(operation.options, "EXEC_TIME_LIMIT_S")
        if limit and operation.running and now - operation.started >= limit:
            operation.cancel(f"Query {operation.id} expired due to execution time limit of {limit}s000ms")

    def _expire_session(self, session: Session, now: float) -> None:
        if session.calls:
            return
        gone = self.flags.disconnected_session_timeout
        if session.disconnected is not None and 0 < gone <= now - session.disconnected:
            self.remove_session(session, "Session closed because it has no active connections")
        elif not session.expired and session.idle_too_long(now):
            with self._lock:
                session.expired = True
                self.counters.sessions_expired += 1
            self._unregister_all(session, "Session expired due to inactivity")

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
        with self._lock:
            return self.shutdown.status(len(self.queries), self.executing())

    def check_not_shutting_down(self) -> None:
        """Called before anything new is accepted.

        :raises Refused: a graceful shutdown has begun.
        """
        if self.shutdown.begun:
            raise Refused(f"Server is being shut down: {self.shutdown_status()}.")

    def executing(self, pool: str | None = None) -> int:
        """How many statements run.

        :param pool: only what was admitted there; None (default): all.
        """
        with self._lock:
            running = [operation for operation in self.queries.values() if operation.running]
        return sum(1 for operation in running if pool is None or _pool_of(operation) == pool)


def _pool_of(operation: Operation) -> str:
    return operation.options.get("REQUEST_POOL", DEFAULT_POOL)
