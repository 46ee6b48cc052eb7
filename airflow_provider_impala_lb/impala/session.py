"""One HiveServer2 session on one coordinator: opened, used for statements in order, closed."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Mapping
from contextlib import suppress
from logging import getLogger
from typing import Any

from airflow_provider_impala_lb.core.config import Node, SessionConfig
from airflow_provider_impala_lb.errors import ConfigError
from airflow_provider_impala_lb.impala.ending import end_elsewhere
from airflow_provider_impala_lb.impala.errors import Cancelled
from airflow_provider_impala_lb.impala.label import nonce_of
from airflow_provider_impala_lb.impala.line import Line
from airflow_provider_impala_lb.impala.lookup import look_up
from airflow_provider_impala_lb.impala.opening import attach, open_session
from airflow_provider_impala_lb.impala.pages import Pages
from airflow_provider_impala_lb.impala.rows import read_no_columns_as_no_rows
from airflow_provider_impala_lb.impala.sql import changes_nothing, session_only
from airflow_provider_impala_lb.impala.statement import (
    Ended,
    StatementError,
    guid_of,
    print_id,
    warnings_in,
)
from airflow_provider_impala_lb.impala.transport import (
    describe,
    is_refused,
    is_transport_failure,
    status_error,
)
from airflow_provider_impala_lb.impala.waiting import Limits, wait_for_end
from airflow_provider_impala_lb.impala.wire import Wire, user_of

log = getLogger(__name__)

CANCEL_SECONDS = 4.0
"""To cancel and close from a second connection, in all: Airflow kills a task 5 s after it asked it to end."""
_HANGUP_SECONDS = 0.2
_FIRST_PAUSE, _LONGEST_PAUSE = 0.05, 2.0


class Session:
    """One session on ``node``. Use :meth:`open`; then :meth:`execute` for each statement; then :meth:`close`.

    :ivar id: the session id as Impala prints it.
    :ivar web: the coordinator's web address as it says itself (``http_addr``), else the configured one.
    :ivar cursor: impyla's cursor of the session, to fetch rows from.
    """

    def __init__(
        self,
        node: Node,
        config: SessionConfig,
        password: str | None,
        wire: Wire,
        handle: Any,
        configuration: Mapping[str, str] | None = None,
        pages: Pages | None = None,
    ):
        from impala._thrift_gen.TCLIService.ttypes import TProtocolVersion
        from impala.hiveserver2 import HiveServer2Cursor, HS2Session

        self.node = node
        self.id = print_id(handle.sessionId.guid)
        self.user = user_of(config)
        address = (configuration or {}).get("http_addr")
        self.web = node.web or (address if not address or "://" in address else f"http://{address}")
        # A login is for the configured address only, not for whatever a server says of itself.
        self.pages = pages or (Pages(self.web, None, None) if self.web else None)
        self.query_id: str | None = None
        self._config, self._password = config, password
        self._handle = handle
        self._line = Line(node, config, password, wire, self.pause)
        wire.service.client = self._line
        protocol = TProtocolVersion.HIVE_CLI_SERVICE_PROTOCOL_V6
        self.cursor = HiveServer2Cursor(HS2Session(wire.service, handle, configuration or {}, protocol, retries=1))
        self._operation: Any = None  # the handle of the statement that is not closed yet
        self._lost = self._adopted = False
        self._cancelled: str | None = None
        self._closed = False
        self._ended: bool | None = None
        self._end_tried = threading.Event()

    @classmethod
    def open(
        cls,
        node: Node,
        config: SessionConfig,
        *,
        password: str | None = None,
        database: str | None = None,
        pages: Pages | None = None,
    ) -> Session:
        """Connect, log in and open a session, all within ``config.open_timeout`` seconds.

        :param database: instead of the configuration's. :param pages: of the node, with a login.
        :raises NodeRefused: down, silent, full, shutting down: nothing was run, another node may be tried.
        :raises ConfigError: the login was refused.
        """
        wire, handle, configuration = open_session(node, config, password, database)
        return cls(node, config, password, wire, handle, configuration, pages)

    @classmethod
    def attach(
        cls,
        node: Node,
        config: SessionConfig,
        guid: bytes,
        secret: bytes,
        *,
        password: str | None = None,
        pages: Pages | None = None,
    ) -> Session:
        """Go on with a session that another process has opened, over a connection of one's own.

        :raises NodeRefused: the node cannot be reached, or does not know the session. :raises ConfigError: a bad login.
        """
        wire, handle, configuration = attach(node, config, password, guid, secret)
        return cls(node, config, password, wire, handle, configuration, pages)

    @property
    def handle(self) -> tuple[bytes, bytes]:
        """Its guid and its secret, for :meth:`attach`."""
        identifier = self._handle.sessionId
        return identifier.guid, identifier.secret

    def adopt(self, query_id: str) -> None:
        """Go on with a statement that was sent over another connection: :meth:`wait` for it."""
        self.query_id = query_id
        self._adopt(query_id)

    @property
    def has_rows(self) -> bool:
        """Whether the statement under way may have rows to fetch."""
        return self._operation is not None and bool(self.cursor.has_result_set)

    def outlives_connections(self) -> bool:
        """Whether a session of this server is there after its connection has gone. On Impala since 3.3 (IMPALA-1653);
        Spark and Hive end it. Tried with one that is opened for it."""
        from airflow_provider_impala_lb.errors import ImpalaLBError

        try:
            other = self.another()
            guid, secret = other.handle
            other.detach()
            time.sleep(_HANGUP_SECONDS)  # the server has to notice
            with Session.attach(self.node, self._config, guid, secret, password=self._password) as again:
                again.execute("SELECT 1")  # Spark answers GetInfo for a session that is gone
        except (ImpalaLBError, StatementError) as error:
            log.info("%s does not keep a session without a connection: %s", self.node.address, error)
            return False
        return True

    @property
    def has_ended(self) -> bool:
        """Whether the statement under way was seen to end."""
        return self._operation is not None and bool(self.cursor._last_operation_finished)

    def detach(self) -> None:
        """Leave the session, and what runs in it, to somebody else who has its handle."""
        self._closed = True
        self.cursor._closed = True
        self._line.hang_up()

    def nobody_listens(self) -> bool:
        """Whether a connection is refused: the process is gone."""
        try:
            Wire(self.node, self._config, self._password, CANCEL_SECONDS / 2).close()
        except Exception as error:
            return is_refused(error)
        return False

    @property
    def patience(self) -> float:
        """Seconds to try for, where something is out of reach: ``session.reconnect_timeout``."""
        return self._config.reconnect_timeout

    def another(self) -> Session:
        """A second session on the same node. Errors as :meth:`open`."""
        return Session.open(self.node, self._config, password=self._password, pages=self.pages)

    @property
    def lost(self) -> bool:
        """The session was closed to find out what became of a statement: the script needs a new one."""
        return self._lost

    def execute(
        self,
        sql: str,
        *,
        on_start: Callable[[str], None] | None = None,
        options: Mapping[str, str] | None = None,
        limits: Limits | None = None,
    ) -> Ended:
        """Run one statement to its end. Rows of a query are left to be fetched from :attr:`cursor`.

        :param on_start: called with the query id once the coordinator has accepted the statement.
        :param options: query options for this statement alone. :param limits: what may end the waiting before.
        :raises LetGo: by the limits; the statement goes on, and somebody else waits for it.
        :raises StatementError: it failed, or its outcome is not known; the text says what is known.
        :raises Cancelled: :meth:`cancel` was called meanwhile.
        """
        start = time.monotonic()
        done = self.submit(sql, options=options)
        if on_start:
            on_start(self.query_id or "")
        if done:
            return Ended(self.query_id or "", None, time.monotonic() - start)
        return self.wait(start=start, limits=limits)

    def submit(self, sql: str, *, options: Mapping[str, str] | None = None) -> bool:
        """Send a statement. A lost answer is looked into: what changes nothing is sent again, anything else is looked
        up on the coordinator's web page. :attr:`query_id` is set once it is accepted.

        :returns: True if it was found to be done already. Errors as :meth:`execute`.
        """
        self.finish()
        self.query_id = None
        self.check_cancelled()
        if self._lost or self._closed:
            raise StatementError("the session was closed before, so it was not sent")
        until, pause = time.monotonic() + self._config.reconnect_timeout, _FIRST_PAUSE
        while True:
            sent_at = time.monotonic()
            try:
                self._send(sql, options)
                return False
            except Exception as error:
                self.check_cancelled()
                if isinstance(error, ConfigError):
                    raise StatementError(f"the connection failed while it was sent: {error}") from error
                if not is_transport_failure(error):
                    raise StatementError(str(error)) from error
                failure = StatementError(f"the connection failed while it was sent: {describe(error)}")
                failure.__cause__ = cause = error
            if session_only(sql):
                # Not in this session: the lost one may still arrive, and undo a later USE or SET.
                self.give_up()
                raise failure
            if changes_nothing(sql):
                # Where nobody listens the line has tried for as long as it is of use: the session is gone.
                if time.monotonic() >= until or is_refused(cause):
                    raise failure
                self.pause(pause)
                pause = min(pause * 2, _LONGEST_PAUSE)
                continue
            found = look_up(self, nonce_of(sql), sent_at, failure)
            self.query_id = found.id
            if not found.in_flight:
                return True
            self._adopt(found.id)
            return False

    def wait(self, *, start: float | None = None, limits: Limits | None = None) -> Ended:
        """Wait for the end of the statement that was submitted. Parameters and errors as :meth:`execute`.

        :param start: when it was sent, by the monotonic clock.
        """
        start = time.monotonic() if start is None else start
        wait_for_end(self, start, limits or Limits())
        if self._adopted:
            self._find_rows(self.cursor._last_operation)
        if self.cursor.has_result_set:
            return Ended(self.query_id or "", None, time.monotonic() - start)
        # DDL and DML: closing is what tells the number of rows, and frees the query on the coordinator.
        query_id, seconds = self.query_id or "", time.monotonic() - start
        warnings, rows = self.finish()
        return Ended(query_id, rows, seconds, warnings)

    def fetch(self, handler: Callable[[Any], Any], cursor: Any) -> Any:
        """What ``handler`` makes of the last statement's rows.

        :raises RowsLost: some rows are lost, the query has to be run again to have them.
        :raises StatementError: the rows could not be fetched. What else the handler raises passes through.
        """
        from impala.error import Error
        from thrift.Thrift import TException

        try:
            return handler(cursor)
        except (Error, TException) as error:
            self.check_cancelled()
            raise StatementError(f"it ran, fetching its rows failed: {error}", query_id=self.query_id) from error

    def finish(self) -> tuple[str, int | None]:
        """Close the last statement if it is still open. Returns its warnings, and the rows it modified."""
        cursor = self.cursor
        if self._operation is None:
            return "", None
        if not cursor._last_operation_active:  # impyla closed it after the last row, and kept the log
            self._operation = None
            return warnings_in(cursor._last_operation_log), None
        operation, cursor._last_operation_active = cursor._last_operation, False
        self._operation = None
        try:
            text = operation.get_log()
            answer = operation.close()
        except Exception as error:
            # It had finished: what failed is only the tidying up (impyla lets a lost close look like a lost statement).
            log.warning("Statement %s had finished, closing it failed: %s", self.query_id, error)
            return "", None
        result = getattr(answer, "dml_result", None)
        rows = sum(result.rows_modified.values()) if result and result.rows_modified else None
        cursor._rowcount = -1 if rows is None else rows
        return warnings_in(text), rows

    def cancel(self, why: str) -> None:
        """End the running statement and the session, over a second connection, within 4 s. Never raises.

        For a signal handler or another thread: the first connection may be in the middle of an answer, and belongs
        to whoever reads it (impyla's threadsafety is 1). The statement's caller then gets :class:`Cancelled`.
        """
        if self._closed or self._cancelled:
            return
        self._cancelled = why
        try:
            self._end_elsewhere()
        finally:
            self._end_tried.set()
            self._line.interrupt()

    def wait_ended(self) -> bool:
        """After :meth:`cancel`, maybe still under way in another thread: was the statement seen to have ended?"""
        self._end_tried.wait(CANCEL_SECONDS + 1)
        return bool(self._ended)

    def give_up(self) -> bool:
        """Close the session so that a statement of it that is still on its way is refused, and the session lost.
        Returns whether the coordinator has confirmed it."""
        from impala._thrift_gen.TCLIService.ttypes import TCloseSessionReq

        self._lost = True
        try:
            answer = self._line.CloseSession(TCloseSessionReq(sessionHandle=self._handle))
        except Exception as error:
            self.check_cancelled()
            log.warning("Session %s on %s could not be closed: %s", self.id, self.node.address, describe(error))
            return False
        problem = status_error(answer)
        return problem is None or "Invalid session id" in problem

    def close(self) -> None:
        """Close the session. What runs in it is cancelled first. Never raises."""
        if self._closed:
            return
        self._closed = True
        self.cursor._closed = True  # else its finalizer would talk to the server again, for as long as it likes
        try:
            if self._cancelled is None and not self._lost:
                if self._line.up:
                    self._end_here()
                else:
                    self._end_elsewhere()
        finally:
            self._line.hang_up()

    def __enter__(self) -> Session:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def _send(self, sql: str, options: Mapping[str, str] | None) -> None:
        def send() -> None:
            self.cursor._last_operation_string = sql
            self._adopted = False
            self.cursor._last_operation = self.cursor.session.execute(sql, dict(options or {}), run_async=True)
            self._operation = self.cursor._last_operation.handle
            read_no_columns_as_no_rows(self.cursor._last_operation)

        self.cursor._execute_async(send)
        self.query_id = print_id(self._operation.operationId.guid)

    def _adopt(self, query_id: str) -> None:
        """Go on with a statement whose handle never arrived. On Impala a handle's secret is its session's
        (impala-hs2-server.cc: ``SecretArg::Operation`` is held against the session's secret)."""
        from impala._thrift_gen.TCLIService.ttypes import THandleIdentifier, TOperationHandle, TOperationType
        from impala.hiveserver2 import Operation

        identifier = THandleIdentifier(guid_of(query_id), self._handle.sessionId.secret)
        self._operation = TOperationHandle(identifier, TOperationType.EXECUTE_STATEMENT, True)
        self._adopted = True
        cursor = self.cursor
        cursor._last_operation = Operation(cursor.session, self._operation, retries=1)
        cursor._last_operation_active = True
        cursor._last_operation_finished = False

    def status(self) -> Any:
        """The state of the statement under way, as the server answers. :raises StatementError: it gives none."""
        from impala._thrift_gen.TCLIService.ttypes import TGetOperationStatusReq

        try:
            response = self._line.GetOperationStatus(TGetOperationStatusReq(operationHandle=self._operation))
        except Exception as error:
            self.check_cancelled()
            raise StatementError(
                f"the connection failed while it ran: {describe(error)}", query_id=self.query_id
            ) from error
        problem = status_error(response)
        if problem:
            self.check_cancelled()
            raise StatementError(problem, query_id=self.query_id)
        return response

    def log_text(self) -> str:
        """The log of the statement under way. Raises whatever comes."""
        return self.cursor._last_operation.get_log() or ""

    def cancel_statement(self) -> None:
        """Cancel the statement under way; its state tells what came of it. Never raises."""
        with suppress(Exception):
            self.cursor._last_operation.cancel()

    def ended(self, response: Any) -> None:
        """Note that the statement under way has ended, by this answer of :meth:`status`."""
        self.cursor._last_operation.update_has_result_set(response)
        self.cursor._last_operation_finished = True

    def _find_rows(self, operation: Any) -> None:
        """A statement without a handle of its own does not say whether it has rows, but what columns they have."""
        from impala.error import Error

        self._adopted = False
        try:
            columns = operation.get_result_schema()
        except (Error, TypeError):  # impyla reads the columns of a statement that has none, too
            columns = None
        except Exception as error:
            raise StatementError(
                f"it ran, asking for its columns failed: {describe(error)}", query_id=self.query_id
            ) from error
        self._operation.hasResultSet = bool(columns)

    def discard(self) -> None:
        """Close a statement that failed, so that the coordinator need not keep it. What that says does not matter."""
        operation, self.cursor._last_operation_active, self._operation = self.cursor._last_operation, False, None
        with suppress(Exception):
            operation.close()

    def check_cancelled(self) -> None:
        """:raises Cancelled: the script was told to stop."""
        if self._cancelled is not None:
            raise Cancelled(self._cancelled)

    def pause(self, seconds: float) -> None:
        """Wait. :raises Cancelled: the script was told to stop."""
        end = time.monotonic() + seconds
        while (left := end - time.monotonic()) > 0:
            self.check_cancelled()
            time.sleep(min(left, 0.1))
        self.check_cancelled()

    def _end_here(self) -> None:
        from impala._thrift_gen.TCLIService.ttypes import TCancelOperationReq, TCloseSessionReq

        self._line.limit(CANCEL_SECONDS / 2)
        try:
            if self._operation is not None and not self.cursor._last_operation_finished:
                self._line.CancelOperation(TCancelOperationReq(operationHandle=self._operation))
            self.finish()
            problem = status_error(self._line.CloseSession(TCloseSessionReq(sessionHandle=self._handle)))
        except Exception as error:
            problem = describe(error)
        if problem:
            log.warning("Session %s on %s could not be closed: %s", self.id, self.node.address, problem)

    def _end_elsewhere(self) -> None:
        ending = end_elsewhere(self.node, self._config, self._password, self._handle, self._operation, CANCEL_SECONDS)
        self._ended = ending.seen
        if ending.problem is None and self._operation is not None:
            log.info("Query %s on %s was cancelled", self.query_id, self.node.address)
        elif ending.problem:
            log.warning(
                "Session %s on %s (query %s) could not be ended: %s. The coordinator ends it by itself",
                self.id,
                self.node.address,
                self.query_id,
                ending.problem,
            )
