"""The statement under way in a session: HiveServer2's operation, sent, polled, fetched and closed by impyla's cursor.

A session has one cursor, and that has one operation at a time: there is no second statement before the first is closed.
This is the only file that touches what impyla 0.24 keeps to itself.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping
from contextlib import suppress
from logging import getLogger
from typing import Any, NoReturn

import msgspec

from airflow_provider_impala_lb.core.stop_request import StopRequest
from airflow_provider_impala_lb.impala.hs2.connection import describe
from airflow_provider_impala_lb.impala.hs2.connection_failure import is_timeout, is_unreadable
from airflow_provider_impala_lb.impala.hs2.ids import (
    StatementError,
    applied_at,
    guid_of,
    print_id,
    progress_in,
    warnings_in,
    without_stack,
)
from airflow_provider_impala_lb.impala.hs2.reconnecting_client import ReconnectingClient, was_gone
from airflow_provider_impala_lb.impala.hs2.replies import status_error
from airflow_provider_impala_lb.impala.sql.classification import classify
from airflow_provider_impala_lb.impala.web.debug_pages import DebugPages, ProbeFailed

log = getLogger(__name__)

FIRST_POLL, LONGEST_POLL, POLL_SHARE = 0.002, 1.0, 1 / 36
SLOW_SECONDS = 2.0
"""A statement that runs longer gets a line in the log with its id and web page, then progress lines."""
_CANCEL_SECONDS = 10.0
"""So long after its time was up a statement is still looked at: it may have come to its end just then."""
_TEXT = ("STRING", "LIST", "MAP", "STRUCT", "UNIONTYPE", "NULL", "VARCHAR", "CHAR", "TIMESTAMP", "DECIMAL", "DATE")
"""Types that travel as text (impyla's ``HS2_STRING_TYPES``)."""


def next_poll(waited: float) -> float:
    """Pause before the next poll, in seconds: 2 ms and 1/36 of the time already waited, 1 s at most.

    So a statement's end is noticed at most 2 ms and 2.8 % late, whether it takes 10 ms or an hour, which leaves 3 ms
    of 3 % and 5 ms for the way there and back: 30 polls in the first 0.1 s, 100 in 1 s, 180 in 10 s, then up to 1/s.

    :param waited: seconds since it was sent.
    """
    return min(FIRST_POLL + waited * POLL_SHARE, LONGEST_POLL)


class Limits(msgspec.Struct, frozen=True):
    """What may end the waiting before the statement ends.

    :ivar timeout: seconds since it was sent, after which it is cancelled; None: never.
    :ivar publish_timeout: of a statement with SYNC_DDL: seconds for the other coordinators to hear of it, once its
        timeline says that it is done and only waits for them (Impala 4.3 and later); then it is left to that, and not
        waited for any more. None: never.
    :ivar on_poll: called after each poll that found it under way; what it raises ends the waiting (`HandedOver`), and
        the statement goes on.
    """

    timeout: float | None = None
    publish_timeout: float | None = None
    on_poll: Callable[[], None] | None = None


class Operation:
    """The one under way, or none.

    :param cursor: impyla's cursor of the session.
    :param client: of the session.
    :param stop: says when to stop waiting; a failure then says nothing of the statement.
    :param pages: the coordinator's, where its replies cannot be read; None: it has none.
    :param is_impala: whether the server is known to be Impala.
    :ivar handle: by which the server knows it, from its reply until it is closed; else None.
    :ivar query_id: of the statement that was sent last, also once it is closed; None until the server has accepted it.
    :ivar sql: the statement that was sent last; None: none was sent from here.
    :ivar left_open: one that has ended could not be closed, so it is still registered: a later one need not be the
        only one of the session.
    :ivar unsettled: a statement was sent, and was not seen to end: it may still run, or arrive.
    """

    def __init__(
        self, cursor: Any, client: ReconnectingClient, stop: StopRequest, pages: DebugPages | None, is_impala: bool
    ) -> None:
        self.handle: Any = None
        self.query_id: str | None = None
        self.sql: str | None = None
        self.unsettled = self.left_open = False
        self._cursor, self._client, self._stop, self._pages, self._is_impala = cursor, client, stop, pages, is_impala
        self._adopted = self._answered = False
        cursor._close_finished_operation = self._close_after_rows
        cursor._closed = True  # else its finalizer would talk to the server, for as long as that likes, in any thread

    @property
    def has_rows(self) -> bool:
        """Whether it may have rows to fetch."""
        return self.handle is not None and bool(self._cursor.has_result_set)

    @property
    def has_ended(self) -> bool:
        """Whether it was seen to end."""
        return self.handle is not None and bool(self._cursor._last_operation_finished)

    def send(self, sql: str, options: Mapping[str, str] | None) -> None:
        """Send it, once.

        :param sql: the statement, with its label.
        :param options: query options for it alone; None: none.
        :raises Exception: whatever comes in place of the server's reply.
        """
        cursor = self._cursor

        def send() -> None:
            self.sql = cursor._last_operation_string = sql
            self._adopted, self._answered, self.unsettled = False, False, True
            cursor._last_operation = cursor.session.execute(sql, dict(options or {}), run_async=True)
            self.handle = cursor._last_operation.handle
            self._prepare(cursor._last_operation)

        cursor._execute_async(send)
        self._answered = True
        self.query_id = print_id(self.handle.operationId.guid)

    @property
    def was_answered(self) -> bool:
        """The server has answered with the handle. Else it was made of an id: the statement may be planned still, or,
        being DDL that is not asynchronous, be at work in the call that sent it. Nobody's close waits for that
        (``ClientRequestState::Finalize``, without a wait thread; up to 4.5 it is refused)."""
        return self._answered

    def adopt(self, query_id: str, *, was_answered: bool = False) -> None:
        """Go on with a statement whose handle never arrived.

        On Impala a handle's secret is its session's (impala-hs2-server.cc: ``SecretArg::Operation`` is held against the
        session's secret).

        :param query_id: as Impala prints it.
        :param was_answered: another process had it as the server's answer; default False.
        """
        from impala._thrift_gen.TCLIService.ttypes import THandleIdentifier, TOperationHandle, TOperationType
        from impala.hiveserver2 import Operation as ImpylasOperation

        cursor = self._cursor
        self.query_id = query_id
        secret = cursor.session.handle.sessionId.secret
        self.handle = TOperationHandle(
            THandleIdentifier(guid_of(query_id), secret), TOperationType.EXECUTE_STATEMENT, True
        )
        self._adopted = self.unsettled = True
        self._answered = was_answered
        cursor._last_operation = ImpylasOperation(cursor.session, self.handle, retries=1)
        self._prepare(cursor._last_operation)
        cursor._last_operation_active = True
        cursor._last_operation_finished = False

    def _prepare(self, operation: Any) -> None:
        _be_lenient(operation)
        if self._is_impala:
            _fetch_no_further_than_the_end(operation)

    def status(self) -> Any:
        """Its state, as the server answers, or, where no reply comes or can be read, as its page says.

        :returns: a reply to GetOperationStatus.
        :raises StatementError: there is none.
        """
        from impala._thrift_gen.TCLIService.ttypes import TGetOperationStatusReq

        try:
            reply = self._client.call("GetOperationStatus", TGetOperationStatusReq(operationHandle=self.handle))
        except Exception as error:
            self._stop.check()
            failure = StatementError(f"the connection failed while it ran: {describe(error)}", query_id=self.query_id)
            # Impala answers once the statement is planned (the lock of ExecuteInternal, impala-server.cc).
            if (is_unreadable(error) or is_timeout(error)) and (shown := self._status_on_page()) is not None:
                return shown
            raise failure from error
        problem = status_error(reply)
        if problem:
            self._stop.check()
            raise StatementError(problem, query_id=self.query_id)
        return reply

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

    def wait(self, start: float, limits: Limits) -> None:
        """Poll until it has ended well.

        Only FINISHED is success: Spark and Hive answer a cancelled statement with CANCELED, which impyla's own loop
        takes for success.

        :param start: when it was sent, by the monotonic clock.
        :param limits: what may end the waiting before.
        :raises Cancelled: by the stop request.
        :raises StatementError: it failed, was cancelled, or cannot be asked for.
        """
        from impala._thrift_gen.TCLIService.ttypes import TOperationState

        next_progress = SLOW_SECONDS
        late, late_at = "", 0.0
        publish_timeout, done_at = limits.publish_timeout, None
        look_at = publish_timeout or 0.0
        while True:
            reply = self.status()
            state = TOperationState._VALUES_TO_NAMES.get(reply.operationState, str(reply.operationState))
            if state not in ("INITIALIZED_STATE", "PENDING_STATE", "RUNNING_STATE"):
                break
            self._stop.check()
            if limits.on_poll is not None:
                limits.on_poll()
            waited = time.monotonic() - start
            if late and waited - late_at >= _CANCEL_SECONDS:
                self._fail(late)
            if not late:
                if publish_timeout is not None and done_at is None and waited >= look_at:
                    # Its time begins by the timeline's own times, so it cannot be up before the next look.
                    done_at, look_at = self._done_at(waited), waited + publish_timeout
                if publish_timeout is not None and done_at is not None and waited - done_at >= publish_timeout:
                    self._leave(publish_timeout)
                if limits.timeout is not None and waited >= limits.timeout:
                    late = f"statement_timeout: it was cancelled after {limits.timeout:g} s"
                    late_at = waited
                    self.cancel()
            if waited >= next_progress:
                self._log_progress(waited)
                next_progress = waited * 2
            pause = next_poll(waited - late_at)
            time.sleep(pause if limits.timeout is None or late else min(pause, max(0.001, limits.timeout - waited)))
        self._stop.check()
        self.ended(reply)
        if state == "FINISHED_STATE":
            self.unsettled = False
        else:
            self._fail(late or without_stack(reply.errorMessage or f"it ended in {state}"))

    def _fail(self, reason: str) -> NoReturn:
        self.discard()
        raise StatementError(reason, query_id=self.query_id)

    def _leave(self, seconds: float) -> NoReturn:
        """It is done, and waits for other coordinators. Nothing cancels that wait, and closing it would take as long
        (``ImpalaServer::WaitForCatalogUpdateTopicPropagation``, ``ClientRequestState::Finalize``): the end of the
        session will."""
        self._cursor._last_operation_active, self.handle = False, None
        self.left_open, self.unsettled = True, False
        raise StatementError(
            f"publish_timeout: it is done, and {seconds:g} s after that the other coordinators had not all heard of "
            "it, so it is not waited for any more",
            query_id=self.query_id,
        )

    def _done_at(self, waited: float) -> float | None:
        """When its work was done, in seconds since it was sent; None: it may be at work, or its profile does not say.

        The whole profile is read for that, by HiveServer2's own call, which every Impala has (GetRuntimeProfile,
        impala-hs2-server.cc); users may be refused it, and other servers do not know it.
        """
        from impala._thrift_gen.ImpalaService.ImpalaHiveServer2Service import TGetRuntimeProfileReq

        request = TGetRuntimeProfileReq(operationHandle=self.handle, sessionHandle=self._cursor.session.handle)
        try:
            reply = self._client.call("GetRuntimeProfile", request)
        except Exception:  # a broken connection shows at the next poll
            return None
        done_at = None if status_error(reply) else applied_at(reply.profile or "")
        return None if done_at is None else min(done_at, waited)

    def _log_progress(self, waited: float) -> None:
        """One line about a slow statement, with Impala's own words for how much of the scan is done."""
        with suppress(Exception):  # a line is not worth a statement; a broken connection shows at the next poll
            found = progress_in(self.log_text())
            page = f", {self._pages.url}/query_plan?query_id={self.query_id}" if self._pages else ""
            state = f": {found[-1]}" if found else ""
            log.info("Query %s has run on %s for %.0f s%s%s", self.query_id, self._client.address, waited, state, page)

    def log_text(self) -> str:
        """Its log.

        :raises Exception: whatever comes.
        """
        return self._cursor._last_operation.get_log() or ""

    def cancel(self) -> None:
        """Cancel it; its state tells what came of that. Never raises."""
        with suppress(Exception):
            self._cursor._last_operation.cancel()

    def ended(self, reply: Any) -> None:
        """Note that it has ended.

        :param reply: of :meth:`status`.
        """
        self._cursor._last_operation.update_has_result_set(reply)
        self._cursor._last_operation_finished = True

    def find_rows(self) -> None:
        """Of one that was adopted: find out whether it has rows, by what columns they have.

        :raises StatementError: it only reads, and that cannot be found out.
        """
        if not self._adopted:
            return
        from impala.error import Error

        self._adopted = False
        try:
            columns = self._cursor._last_operation.get_result_schema()
        except (Error, TypeError):  # impyla reads the columns of a statement that has none, too
            columns = None
        except Exception as error:
            if is_unreadable(error) and self.sql and not classify(self.sql).reads_only:
                log.warning("Statement %s is done, asking for its columns failed: %s", self.query_id, describe(error))
                self.handle.hasResultSet = False
                return
            raise StatementError(
                f"it ran, asking for its columns failed: {describe(error)}", query_id=self.query_id
            ) from error
        self.handle.hasResultSet = bool(columns)

    def make_way(self) -> None:
        """Close the one before, for the next one to be sent.

        :raises StatementError: that was not seen to end, and what comes after it would be overtaken by it.
        """
        self.finish()
        sent = classify(self.sql) if self.sql else None
        if self.unsettled and (sent is None or sent.session_only or not sent.changes_nothing):
            raise StatementError(
                f"what was sent before it (query {self.query_id or 'not known'}) was not seen to end and may still run "
                "or arrive, so nothing more is sent in this session"
            )
        self.query_id = None

    def finish(self) -> tuple[str, int | None]:
        """Close it if it is still open; one that was not seen to end is discarded.

        :returns: its warnings, and how many rows it modified; None: it does not say.
        """
        cursor = self._cursor
        if self.handle is None:
            return "", None
        if self.unsettled and not cursor._last_operation_finished:  # who waited for it was interrupted
            self.discard()
            return "", None
        if not cursor._last_operation_active:  # impyla closed it after the last row, and kept the log
            self.handle = None
            return warnings_in(cursor._last_operation_log), None
        self.handle = None
        text, reply = self._close()
        result = getattr(reply, "dml_result", None)
        rows = sum(result.rows_modified.values()) if result and result.rows_modified else None
        cursor._rowcount = -1 if rows is None else rows
        return warnings_in(text), rows

    def _close(self) -> tuple[str, Any]:
        """Close the one that has finished. Returns its log, and the server's reply.

        What fails here is only the tidying up, and undoes nothing: a warning (impyla lets a lost close look like a lost
        statement, or lost rows).
        """
        cursor = self._cursor
        operation, cursor._last_operation_active = cursor._last_operation, False
        text, reply = "", None
        try:
            text = operation.get_log() or ""
        except Exception as error:
            log.warning("Statement %s had finished, asking for its log failed: %s", self.query_id, describe(error))
        try:
            reply = operation.close()
            self.unsettled &= was_gone(reply)
        except Exception as error:
            self.left_open = True
            log.warning("Statement %s had finished, closing it failed: %s", self.query_id, describe(error))
        return text, reply

    def _close_after_rows(self) -> None:
        """In place of impyla's own, which is called once the last row has been handed out."""
        self._cursor._last_operation_log, _ = self._close()

    def discard(self) -> None:
        """Close one that failed, so that the coordinator need not keep it. Never raises."""
        operation, self._cursor._last_operation_active, self.handle = self._cursor._last_operation, False, None
        if not self._answered:  # the newest versions would take it off their page, and it could not be seen to end
            return
        try:
            # It answers once the statement's threads have ended.
            self.unsettled &= was_gone(operation.close())
        except Exception as error:
            self.left_open = True
            log.debug("Statement %s could not be closed: %s", self.query_id, describe(error))


def _fetch_no_further_than_the_end(operation: Any) -> None:
    """Let this operation of impyla's believe the server that there are no more rows. impyla asks once more, since Hive
    and Spark always say so; on Impala it is the truth (FetchInternal, impala-hs2-server.cc: ``!eos()``), by which
    impala-shell goes, too. That spares one of the seven calls that a short query takes.
    """
    fetch, wrap = operation.fetch, operation._wrap_results
    more = True

    def wrap_results(results: Any, has_more: bool, *arguments: Any, **options: Any) -> Any:
        nonlocal more
        more = has_more
        return wrap(results, has_more, *arguments, **options)

    def fetch_results(schema: Any = None, *arguments: Any, **options: Any) -> Any:
        return fetch(schema, *arguments, **options) if more else wrap(None, False, schema)

    operation._wrap_results, operation.fetch = wrap_results, fetch_results


def _be_lenient(operation: Any) -> None:
    """Let this operation of impyla's fetch what servers do send.

    * A result set without columns: Spark answers DDL and DML so: one is announced, with a schema even, and what is
      fetched has no columns; impyla goes through them all the same (``CBatch``: TypeError). Whether there is a result
      set at all is no promise of HiveServer2's: Impala has one for DDL, in one row, and none for DML.
    * A TIMESTAMP that is no datetime: Impala before 4.0 has some of a time without a date (``08:30:00``, IMPALA-9531),
      and years past 9999 can be stored by others. impyla raises a bare Exception then, when the statement has run. Such
      a value stays the text that it is, with a warning that names its column.
    """
    wrap = operation._wrap_results
    warned: set[str] = set()

    def wrap_results(results: Any, more: bool, schema: Any, **options: Any) -> Any:
        if not results or not results.columns:
            return wrap(None, more, schema, **options)
        try:
            return wrap(results, more, schema, **options)
        except Exception:
            if not _converted(results, schema, warned):
                raise
            return wrap(results, more, schema, convert_types=False, convert_strings_to_unicode=False)

    operation._wrap_results = wrap_results


def _converted(results: Any, schema: Any, warned: set[str]) -> bool:
    """Convert value by value what impyla has not, and leave what cannot be. Returns whether there was such a value.

    impyla converts in place: before it gave up some values have become Python's, and some have not.
    """
    from decimal import Decimal

    from impala.hiveserver2 import _parse_date, _parse_timestamp

    parsers: dict[str, Callable[[str], Any]] = {"TIMESTAMP": _parse_timestamp, "DATE": _parse_date, "DECIMAL": Decimal}
    unconverted = False
    for column, (name, kind, *_) in zip(results.columns, schema, strict=True):
        if kind not in _TEXT or column.stringVal is None:
            continue
        values, nulls, parse = column.stringVal.values, column.stringVal.nulls, parsers.get(kind)
        for index, value in enumerate(values):
            if index // 8 < len(nulls) and nulls[index // 8] >> index % 8 & 1:
                continue
            try:
                text = value.decode() if isinstance(value, bytes) else value
            except UnicodeDecodeError:
                continue
            values[index] = text
            if parse is None or not isinstance(text, str):
                continue
            try:
                values[index] = parse(text)
            except Exception as error:  # a bare one, or ValueError, or ArithmeticError
                unconverted = True
                if name not in warned:
                    warned.add(name)
                    log.warning("Column %s: %r is no %s for Python, and stays text: %s", name, text, kind, error)
    return unconverted
