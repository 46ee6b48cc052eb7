"""The statement under way in a session: HiveServer2's operation. It is sent, asked about and closed by impyla's cursor.

A session has one cursor, and that has one operation at a time: there is no second statement before the first is closed.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from contextlib import suppress
from logging import getLogger
from typing import Any

import msgspec

from airflow_provider_impala_lb.impala.hs2.connection_failure import describe, is_timeout, is_unreadable, status_error
from airflow_provider_impala_lb.impala.hs2.ids import StatementError, guid_of, print_id, warnings_in
from airflow_provider_impala_lb.impala.hs2.reconnecting_client import ReconnectingClient
from airflow_provider_impala_lb.impala.hs2.rows import be_lenient, fetch_no_further_than_the_end
from airflow_provider_impala_lb.impala.sql.statement import classify
from airflow_provider_impala_lb.impala.web.debug_pages import DebugPages, ProbeFailed

log = getLogger(__name__)


FIRST_POLL, LONGEST_POLL, POLL_SHARE = 0.002, 1.0, 1 / 36


def next_poll(waited: float) -> float:
    """Pause before the next poll, in seconds: 2 ms and 1/36 of the time already waited, 1 s at most.

    So a statement's end is noticed at most 2 ms and 2.8 % late, whether it takes 10 ms or an hour, which leaves 3 ms
    of 3 % and 5 ms for the way there and back: 30 polls in the first 0.1 s, 100 in 1 s, 180 in 10 s, then up to 1/s.
    """
    return min(FIRST_POLL + waited * POLL_SHARE, LONGEST_POLL)


class Limits(msgspec.Struct, frozen=True):
    """What may end the waiting before the statement ends.

    :ivar timeout: seconds since it was sent, after which it is cancelled; None: never.
    :ivar publish_timeout: of a statement with SYNC_DDL: seconds for the other coordinators to hear of it, once all is
        scanned; then it is cancelled, too. None: never.
    :ivar on_poll: called after each poll that found it under way; what it raises ends the waiting (`HandedOver`), and
        the statement goes on.
    """

    timeout: float | None = None
    publish_timeout: float | None = None
    on_poll: Callable[[], None] | None = None


class Operation:
    """The one under way, or none.

    :param cursor: impyla's cursor of the session. :param secret: the session's.
    :param check: raises if the script was told to stop: a failure then says nothing of the statement.
    :param pages: the coordinator's, where its answers cannot be read; None: it has none.
    :param is_impala: whether the server is known to be Impala.
    :ivar handle: by which the server knows it, from its answer until it is closed; else None.
    :ivar query_id: of the statement that was sent last, also once it is closed; None until the server has accepted it.
    """

    def __init__(
        self,
        cursor: Any,
        line: ReconnectingClient,
        secret: bytes,
        check: Callable[[], None],
        pages: DebugPages | None,
        is_impala: bool,
    ) -> None:
        self.handle: Any = None
        self.query_id: str | None = None
        self._cursor, self._line, self._secret, self._check = cursor, line, secret, check
        self._pages, self._is_impala = pages, is_impala
        self._adopted = False
        cursor._close_finished_operation = self._close_after_rows

    @property
    def has_rows(self) -> bool:
        """Whether it may have rows to fetch."""
        return self.handle is not None and bool(self._cursor.has_result_set)

    @property
    def has_ended(self) -> bool:
        """Whether it was seen to end."""
        return self.handle is not None and bool(self._cursor._last_operation_finished)

    def send(self, sql: str, options: Mapping[str, str] | None) -> None:
        """Send it, once. Raises whatever comes in place of the server's answer."""

        def send() -> None:
            self._cursor._last_operation_string = sql
            self._adopted = False
            self._cursor._last_operation = self._cursor.session.execute(sql, dict(options or {}), run_async=True)
            self.handle = self._cursor._last_operation.handle
            self._prepare(self._cursor._last_operation)

        self._cursor._execute_async(send)
        self.query_id = print_id(self.handle.operationId.guid)

    def adopt(self, query_id: str) -> None:
        """Go on with a statement whose handle never arrived. On Impala a handle's secret is its session's
        (impala-hs2-server.cc: ``SecretArg::Operation`` is held against the session's secret)."""
        from impala._thrift_gen.TCLIService.ttypes import THandleIdentifier, TOperationHandle, TOperationType
        from impala.hiveserver2 import Operation as ImpylasOperation

        self.query_id = query_id
        self.handle = TOperationHandle(
            THandleIdentifier(guid_of(query_id), self._secret), TOperationType.EXECUTE_STATEMENT, True
        )
        self._adopted = True
        cursor = self._cursor
        cursor._last_operation = ImpylasOperation(cursor.session, self.handle, retries=1)
        self._prepare(cursor._last_operation)
        cursor._last_operation_active = True
        cursor._last_operation_finished = False

    def _prepare(self, operation: Any) -> None:
        be_lenient(operation)
        if self._is_impala:
            fetch_no_further_than_the_end(operation)

    def status(self) -> Any:
        """Its state, as the server answers, or, where no answer comes or can be read, as its page says.

        :raises StatementError: it gives none.
        """
        from impala._thrift_gen.TCLIService.ttypes import TGetOperationStatusReq

        try:
            response = self._line.GetOperationStatus(TGetOperationStatusReq(operationHandle=self.handle))
        except Exception as error:
            self._check()
            failure = StatementError(f"the connection failed while it ran: {describe(error)}", query_id=self.query_id)
            # Impala answers once the statement is planned (the lock of ExecuteInternal, impala-server.cc).
            if (is_unreadable(error) or is_timeout(error)) and (shown := self._status_on_page()) is not None:
                return shown
            raise failure from error
        problem = status_error(response)
        if problem:
            self._check()
            raise StatementError(problem, query_id=self.query_id)
        return response

    def _status_on_page(self) -> Any:
        """None if there is no page, or it does not know the statement."""
        from impala._thrift_gen.TCLIService.ttypes import TGetOperationStatusResp, TOperationState, TStatus, TStatusCode

        try:
            found = self._pages.queries().by_id(self.query_id or "") if self._pages else None
            if found is None or self._pages is None:
                return None
            state, message = TOperationState.RUNNING_STATE, None
            if found.state == "FINISHED":
                state = TOperationState.FINISHED_STATE
            elif found.state in ("EXCEPTION", "ERROR") or not found.in_flight:
                state, message = TOperationState.ERROR_STATE, self._pages.status(found.id)
        except ProbeFailed as error:
            log.warning("Query %s: %s", self.query_id, error)
            return None
        ok = TStatus(statusCode=TStatusCode.SUCCESS_STATUS)
        has_rows = self.handle.hasResultSet
        return TGetOperationStatusResp(status=ok, operationState=state, errorMessage=message, hasResultSet=has_rows)

    def log_text(self) -> str:
        """Its log. Raises whatever comes."""
        return self._cursor._last_operation.get_log() or ""

    def cancel(self) -> None:
        """Cancel it; its state tells what came of that. Never raises."""
        with suppress(Exception):
            self._cursor._last_operation.cancel()

    def ended(self, response: Any) -> None:
        """Note that it has ended, by this answer of :meth:`status`."""
        self._cursor._last_operation.update_has_result_set(response)
        self._cursor._last_operation_finished = True

    def find_rows(self) -> None:
        """One that was adopted does not say whether it has rows, but what columns they have."""
        if not self._adopted:
            return
        from impala.error import Error

        self._adopted = False
        try:
            columns = self._cursor._last_operation.get_result_schema()
        except (Error, TypeError):  # impyla reads the columns of a statement that has none, too
            columns = None
        except Exception as error:
            sql = self._cursor._last_operation_string
            if is_unreadable(error) and sql and not classify(sql).reads_only:
                log.warning("Statement %s is done, asking for its columns failed: %s", self.query_id, describe(error))
                self.handle.hasResultSet = False
                return
            raise StatementError(
                f"it ran, asking for its columns failed: {describe(error)}", query_id=self.query_id
            ) from error
        self.handle.hasResultSet = bool(columns)

    def finish(self) -> tuple[str, int | None]:
        """Close it if it is still open. Returns its warnings, and the rows it modified."""
        cursor = self._cursor
        if self.handle is None:
            return "", None
        if not cursor._last_operation_active:  # impyla closed it after the last row, and kept the log
            self.handle = None
            return warnings_in(cursor._last_operation_log), None
        self.handle = None
        text, answer = self._close()
        result = getattr(answer, "dml_result", None)
        rows = sum(result.rows_modified.values()) if result and result.rows_modified else None
        cursor._rowcount = -1 if rows is None else rows
        return warnings_in(text), rows

    def _close(self) -> tuple[str, Any]:
        """Close the one that has finished. Returns its log, and the server's answer.

        What fails here is only the tidying up, and undoes nothing: a warning (impyla lets a lost close look like a lost
        statement, or lost rows).
        """
        cursor = self._cursor
        operation, cursor._last_operation_active = cursor._last_operation, False
        text, answer = "", None
        try:
            text = operation.get_log() or ""
        except Exception as error:
            log.warning("Statement %s had finished, asking for its log failed: %s", self.query_id, describe(error))
        try:
            answer = operation.close()
        except Exception as error:
            log.warning("Statement %s had finished, closing it failed: %s", self.query_id, describe(error))
        return text, answer

    def _close_after_rows(self) -> None:
        """In place of impyla's own, which is called once the last row has been handed out."""
        self._cursor._last_operation_log, _ = self._close()

    def discard(self) -> None:
        """Close one that failed, so that the coordinator need not keep it. What that says does not matter."""
        operation, self._cursor._last_operation_active, self.handle = self._cursor._last_operation, False, None
        with suppress(Exception):
            operation.close()
