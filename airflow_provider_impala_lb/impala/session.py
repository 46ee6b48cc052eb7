"""One HiveServer2 session on one coordinator: opened, used for statements in order, closed."""

from __future__ import annotations

import math
import threading
import time
from collections.abc import Callable, Mapping
from contextlib import suppress
from logging import getLogger
from typing import Any

from airflow_provider_impala_lb.core.config import Node, SessionConfig
from airflow_provider_impala_lb.impala.errors import (
    Cancelled,
    NodeRefused,
    is_transport_failure,
    node_refuses,
    refusal,
    sort_open_failure,
    status_error,
)
from airflow_provider_impala_lb.impala.rows import read_no_columns_as_no_rows
from airflow_provider_impala_lb.impala.statement import (
    Ended,
    StatementError,
    next_poll,
    print_id,
    progress_in,
    warnings_in,
    without_stack,
)
from airflow_provider_impala_lb.impala.wire import Wire, user_of

log = getLogger(__name__)

CANCEL_SECONDS = 4.0
"""To cancel and close from a second connection, in all: Airflow kills a task 5 s after it asked it to end."""
SLOW_SECONDS = 2.0
"""A statement that runs longer gets a line in the log with its id and web page, then progress lines."""


class Session:
    """One session on ``node``. Use :meth:`open`; then :meth:`execute` for each statement; then :meth:`close`.

    :ivar id: the session id as Impala prints it.
    :ivar web: the coordinator's web address as it says itself (``http_addr``), else the configured one.
    :ivar cursor: impyla's cursor of the session, to fetch rows from.
    """

    def __init__(self, node: Node, config: SessionConfig, password: str | None, wire: Wire, handle: Any, cursor: Any):
        self.node = node
        self.cursor = cursor
        self.id = print_id(handle.sessionId.guid)
        self.user = user_of(config)
        self.web = node.web
        self.query_id: str | None = None
        self._config, self._password = config, password
        self._wire, self._handle = wire, handle
        self._operation: Any = None  # the handle of the statement that is not closed yet
        self._broken = False
        self._cancelled: str | None = None
        self._closed = False
        self._ended: bool | None = None
        self._end_tried = threading.Event()

    @classmethod
    def open(
        cls, node: Node, config: SessionConfig, *, password: str | None = None, database: str | None = None
    ) -> Session:
        """Connect, log in and open a session, all within ``config.open_timeout`` seconds.

        :param database: instead of the configuration's.
        :raises NodeRefused: down, silent, full, shutting down: nothing was run, another node may be tried.
        :raises ConfigError: the login was refused.
        """
        from impala._thrift_gen.TCLIService.ttypes import TOpenSessionReq, TProtocolVersion
        from impala.hiveserver2 import HiveServer2Cursor, HS2Session

        start = time.monotonic()
        login = f"user {user_of(config)!r}, auth_mechanism {config.auth_mechanism}"
        wire = None
        try:
            wire = Wire(node, config, password, config.open_timeout)
            wire.limit(config.open_timeout - (time.monotonic() - start))
            request = TOpenSessionReq(
                client_protocol=TProtocolVersion.HIVE_CLI_SERVICE_PROTOCOL_V6,
                username=user_of(config),
                configuration=_open_options(config, database),
            )
            response = wire.client.OpenSession(request)
            problem = status_error(response)
            if problem:
                raise refusal(f"refused a session: {problem}")
            wire.limit(config.rpc_timeout)
        except BaseException as error:  # a task's time limit may come here too
            if wire:
                wire.close()
            if isinstance(error, NodeRefused) or not isinstance(error, Exception):
                raise
            sorted_out = sort_open_failure(error, seconds=config.open_timeout, login=login)
            if isinstance(sorted_out, NodeRefused):
                raise sorted_out from error
            raise type(sorted_out)(f"{node.address}: {sorted_out}") from error
        held = HS2Session(
            wire.service, response.sessionHandle, response.configuration, response.serverProtocolVersion, retries=1
        )
        session = cls(node, config, password, wire, response.sessionHandle, HiveServer2Cursor(held))
        address = (response.configuration or {}).get("http_addr")
        if address and not session.web:
            session.web = address if "://" in address else f"http://{address}"
        return session

    def execute(self, sql: str, *, on_start: Callable[[str], None] | None = None) -> Ended:
        """Run one statement to its end. Rows of a query are left to be fetched from :attr:`cursor`.

        :param on_start: called with the query id once the coordinator has accepted the statement.
        :raises StatementError: it failed, or its outcome is not known; the text says what is known.
        :raises Cancelled: :meth:`cancel` was called meanwhile.
        """
        start = time.monotonic()
        self.finish()
        self._check_cancelled()
        if self._broken:
            # impyla would open the socket anew and send it, or read the answer to an earlier call as the one to this.
            raise StatementError("the connection had failed before, so it was not sent")
        self._submit(sql)
        self.query_id = print_id(self._operation.operationId.guid)
        if on_start:
            on_start(self.query_id)
        self._wait(start)
        cursor = self.cursor
        if cursor.has_result_set:
            return Ended(self.query_id, None, time.monotonic() - start)
        # DDL and DML: closing is what tells the number of rows, and frees the query on the coordinator.
        query_id, seconds = self.query_id, time.monotonic() - start
        warnings, rows = self.finish()
        return Ended(query_id, rows, seconds, warnings)

    def fetch(self, handler: Callable[[Any], Any], cursor: Any) -> Any:
        """What ``handler`` makes of the last statement's rows.

        :raises StatementError: the rows could not be fetched. What else the handler raises passes through.
        """
        from impala.error import Error
        from thrift.Thrift import TException

        try:
            return self._call(handler, cursor)
        except (Error, TException) as error:
            self._check_cancelled()
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
            text = self._call(operation.get_log)
            answer = self._call(operation.close)
        except Exception as error:
            if is_transport_failure(error):
                self._broken = True
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

    def wait_ended(self) -> bool:
        """After :meth:`cancel`, maybe still under way in another thread: was the statement seen to have ended?"""
        self._end_tried.wait(CANCEL_SECONDS + 1)
        return bool(self._ended)

    def close(self) -> None:
        """Close the session. What runs in it is cancelled first. Never raises."""
        if self._closed:
            return
        self._closed = True
        self.cursor._closed = True  # else its finalizer would talk to the server again, for as long as it likes
        try:
            if self._cancelled is None:
                if self._broken:
                    self._end_elsewhere()
                else:
                    self._end_here()
        finally:
            self._wire.close()

    def __enter__(self) -> Session:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def _submit(self, sql: str) -> None:
        def send() -> None:
            self.cursor._last_operation_string = sql
            self.cursor._last_operation = self.cursor.session.execute(sql, None, run_async=True)
            self._operation = self.cursor._last_operation.handle
            read_no_columns_as_no_rows(self.cursor._last_operation)

        self.query_id = None
        try:
            self._call(self.cursor._execute_async, send)
        except Exception as error:
            self._check_cancelled()
            if is_transport_failure(error):
                raise StatementError(f"the connection failed while it was sent: {error}") from error
            raise StatementError(str(error), refused=node_refuses(str(error))) from error

    def _wait(self, start: float) -> None:
        """Poll until the statement has ended. Only FINISHED is success: Spark and Hive answer a cancelled statement
        with CANCELED, which impyla's own loop takes for success."""
        from impala._thrift_gen.TCLIService.ttypes import TGetOperationStatusReq, TOperationState

        request = TGetOperationStatusReq(operationHandle=self._operation)
        next_progress = SLOW_SECONDS
        while True:
            try:
                response = self._call(self._wire.client.GetOperationStatus, request)
            except Exception as error:
                self._check_cancelled()
                raise StatementError(
                    f"the connection failed while it ran: {error or type(error).__name__}", query_id=self.query_id
                ) from error
            problem = status_error(response)
            if problem:
                self._check_cancelled()
                raise StatementError(problem, query_id=self.query_id)
            state = TOperationState._VALUES_TO_NAMES.get(response.operationState, str(response.operationState))
            if state not in ("INITIALIZED_STATE", "PENDING_STATE", "RUNNING_STATE"):
                break
            self._check_cancelled()
            waited = time.monotonic() - start
            if waited >= next_progress:
                self._say_progress(waited)
                next_progress = waited * 2
            time.sleep(next_poll(waited))
        self._check_cancelled()
        self.cursor._last_operation.update_has_result_set(response)
        self.cursor._last_operation_finished = True
        if state != "FINISHED_STATE":
            self._discard()
            message = without_stack(response.errorMessage or f"it ended in {state}")
            raise StatementError(message, query_id=self.query_id)

    def _say_progress(self, waited: float) -> None:
        """One line about a slow statement, with Impala's own words for how much of the scan is done."""
        with suppress(Exception):  # a line is not worth a statement; a broken connection shows at the next poll
            found = progress_in(self._call(self.cursor._last_operation.get_log))
            page = f", {self.web}/query_plan?query_id={self.query_id}" if self.web else ""
            state = f": {found[-1]}" if found else ""
            log.info("Query %s has run on %s for %.0f s%s%s", self.query_id, self.node.address, waited, state, page)

    def _discard(self) -> None:
        """Close a statement that failed, so that the coordinator need not keep it. What that says does not matter."""
        operation, self.cursor._last_operation_active, self._operation = self.cursor._last_operation, False, None
        with suppress(Exception):
            self._call(operation.close)

    def _check_cancelled(self) -> None:
        if self._cancelled is not None:
            raise Cancelled(self._cancelled)

    def _call(self, function: Callable[..., Any], *arguments: Any) -> Any:
        """One call of the protocol. Interrupted by anything (a signal's exception too), the connection is out of step
        with the server, and must not be used again."""
        from impala.error import Error

        try:
            return function(*arguments)
        except Error:
            raise  # a whole answer, and it says no
        except BaseException:
            self._broken = True
            raise

    def _end_here(self) -> None:
        from impala._thrift_gen.TCLIService.ttypes import TCancelOperationReq, TCloseSessionReq

        self._wire.limit(CANCEL_SECONDS / 2)
        try:
            if self._operation is not None and not self.cursor._last_operation_finished:
                self._wire.client.CancelOperation(TCancelOperationReq(operationHandle=self._operation))
            self.finish()
            problem = status_error(self._wire.client.CloseSession(TCloseSessionReq(sessionHandle=self._handle)))
        except Exception as error:
            problem = str(error)
        if problem:
            log.warning("Session %s on %s could not be closed: %s", self.id, self.node.address, problem)

    def _end_elsewhere(self) -> None:
        """Cancel and close over a new connection: handles are good on any, with the same user (HiveServer2)."""
        from impala._thrift_gen.TCLIService.ttypes import TCancelOperationReq, TCloseSessionReq

        end = time.monotonic() + CANCEL_SECONDS
        wire = None
        try:
            wire = Wire(self.node, self._config, self._password, CANCEL_SECONDS / 2)
            if self._operation is not None:
                wire.limit(end - time.monotonic())
                wire.client.CancelOperation(TCancelOperationReq(operationHandle=self._operation))
                log.info("Query %s on %s was cancelled", self.query_id, self.node.address)
            wire.limit(end - time.monotonic())
            problem = status_error(wire.client.CloseSession(TCloseSessionReq(sessionHandle=self._handle)))
            if problem is None:
                self._ended = self._operation is None or self._gone(wire, end)
        except Exception as error:
            problem = str(error) or type(error).__name__
        finally:
            if wire:
                wire.close()
        if problem:
            log.warning(
                "Session %s on %s (query %s) could not be ended: %s. The coordinator ends it by itself",
                self.id,
                self.node.address,
                self.query_id,
                problem,
            )

    def _gone(self, wire: Wire, end: float) -> bool:
        """Whether the coordinator does not know the statement any more: closing a session waits for its statements'
        threads (ClientRequestState::Finalize), so then nothing of it is left to happen."""
        from impala._thrift_gen.TCLIService.ttypes import TGetOperationStatusReq, TOperationState

        over = (TOperationState.CANCELED_STATE, TOperationState.CLOSED_STATE, TOperationState.ERROR_STATE)
        while (left := end - time.monotonic()) > 0:
            wire.limit(left)
            answer = wire.client.GetOperationStatus(TGetOperationStatusReq(operationHandle=self._operation))
            if status_error(answer) or answer.operationState in over:
                return True
            time.sleep(0.05)
        return False


def _open_options(config: SessionConfig, database: str | None) -> Mapping[str, str]:
    """OpenSession's configuration: the query options, and the database without a statement of its own."""
    options = {"QUERY_TIMEOUT_S": str(math.ceil(config.reconnect_timeout))}  # 0 would be: never
    for key, value in config.query_options.items():
        options[key.upper()] = str(value).lower() if isinstance(value, bool) else str(value)
    database = database or config.database
    if database:
        options["use:database"] = database
    return options
