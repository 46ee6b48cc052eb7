"""One HiveServer2 session on one coordinator: opened or gone on with, used for statements in order, closed.

A statement is planned before it is answered (ExecuteStatement, impala-hs2-server.cc), which may take minutes, and
nothing passes over the connection meanwhile: what ends idle connections on the way ends this one each time. So a
statement whose answer was lost is looked for on the coordinator's page first, and waited for if it is there.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from logging import getLogger
from typing import Any

from airflow_provider_impala_lb.core.stop_request import StopRequest
from airflow_provider_impala_lb.errors import ImpalaLBError
from airflow_provider_impala_lb.impala.hs2.connection import (
    CANCEL_SECONDS,
    Closed,
    HS2Connection,
    Login,
    closed_by,
    describe,
    end_from_outside,
)
from airflow_provider_impala_lb.impala.hs2.connection_failure import ask_anew, is_refused, is_transport_failure, refusal
from airflow_provider_impala_lb.impala.hs2.ids import StatementEnd, StatementError, print_id
from airflow_provider_impala_lb.impala.hs2.operation import Limits, Operation
from airflow_provider_impala_lb.impala.hs2.page_proof import PageProof
from airflow_provider_impala_lb.impala.hs2.reconnecting_client import ReconnectingClient, was_gone
from airflow_provider_impala_lb.impala.hs2.replies import UnreadableReply, status_error
from airflow_provider_impala_lb.impala.hs2.statement_lookup import Sendings, look_for, look_up
from airflow_provider_impala_lb.impala.sql.classification import classify
from airflow_provider_impala_lb.impala.sql.label import nonce_of
from airflow_provider_impala_lb.impala.statement.protocol import StatementRecord
from airflow_provider_impala_lb.impala.web.debug_pages import DebugPages, ProbeFailed, pages_of

log = getLogger(__name__)


@dataclass(frozen=True)
class Opened:
    """A session as the server gave it.

    :ivar login: where it is, and whose.
    :ivar connection: over which it was opened, or asked for.
    :ivar handle: HiveServer2's.
    :ivar configuration: what the server says of it.
    """

    login: Login
    connection: HS2Connection
    handle: Any
    configuration: Mapping[str, str]


class Session:
    """One session. Use :meth:`open`; then :meth:`execute` for each statement; then :meth:`close`.

    :param opened: the session.
    :param pages: of the node, with a login; default those at its configured address, or at the port that the server
        names on its own host, without one.
    :param stop: says when the work in it is to stop; default a request of its own.
    :ivar login: where it is, and whose.
    :ivar node: where it is.
    :ivar id: the session id as Impala prints it.
    :ivar user: whose it is.
    :ivar http_addr: ``host:port`` of its web pages, as it names them; None: it names none.
    :ivar web: URL of the coordinator's web pages; None: it has none.
    :ivar pages: the coordinator's web pages; None: it has none.
    :ivar cursor: impyla's cursor of the session, to fetch rows from.
    :ivar operation: the statement under way.
    :ivar pause: waits so many seconds, or raises `Cancelled`.
    :ivar stop: says when the work is to stop; shared with the other sessions of a run.
    :ivar proof: what makes the coordinator's page a proof of what became of a statement.
    :ivar lost: the session was closed to find out what became of a statement: the script needs a new one.
    """

    def __init__(self, opened: Opened, pages: DebugPages | None = None, stop: StopRequest | None = None) -> None:
        from impala._thrift_gen.TCLIService.ttypes import TProtocolVersion
        from impala.hiveserver2 import HiveServer2Cursor, HS2Session

        login, service, handle = opened.login, opened.connection.service, opened.handle
        self.node, self.user, self.id = login.node, login.user, print_id(handle.sessionId.guid)
        self.http_addr = opened.configuration.get("http_addr")
        self.pages = pages or pages_of(self.node, self.http_addr)
        self.web = self.pages.url if self.pages else None
        self.stop = stop or StopRequest()
        self.pause = self.stop.sleep
        self.login, self._handle = login, handle
        self._client = service.client = ReconnectingClient(login, opened.connection, self.stop.sleep)
        protocol = TProtocolVersion.HIVE_CLI_SERVICE_PROTOCOL_V6
        self.cursor = HiveServer2Cursor(HS2Session(service, handle, opened.configuration, protocol, retries=1))
        self.operation = Operation(self.cursor, self._client, self.stop, self.pages, self.http_addr is not None)
        self.lost = False
        self.proof = PageProof(self.pages, self.open_another)
        self._closed = self._ending = False
        self._ended: bool | None = None
        self._end_tried = threading.Event()
        self._mutex = threading.RLock()  # who ends it; a signal handler may interrupt its own thread in here

    @classmethod
    def open(
        cls,
        login: Login,
        *,
        database: str | None = None,
        pages: DebugPages | None = None,
        stop: StopRequest | None = None,
    ) -> Session:
        """Connect, log in and open a session, all within ``session.open_timeout`` seconds.

        :param login: where to, and as whom.
        :param database: instead of the configuration's; default that.
        :param pages: as of the class.
        :param stop: as of the class.
        :raises NodeRefused: nothing was run, another node may be tried; `fault` says whose fault it is.
        :raises ConfigError: a file or a library that the configuration needs is missing on this host.
        """
        from impala._thrift_gen.TCLIService.ttypes import TOpenSessionReq, TProtocolVersion

        request = TOpenSessionReq(
            client_protocol=TProtocolVersion.HIVE_CLI_SERVICE_PROTOCOL_V6,
            username=login.user,
            configuration=login.session_options(database),
        )

        def ask(connection: HS2Connection) -> Opened:
            # A session that was opened and not heard of ends by itself: nothing keeps a connection to it.
            reply = connection.call("OpenSession", request)
            problem = status_error(reply)
            if problem:
                raise refusal(f"refused a session: {problem}")
            return Opened(login, connection, reply.sessionHandle, reply.configuration or {})

        return cls(ask_anew(login, ask), pages, stop)

    @classmethod
    def attach(
        cls,
        login: Login,
        guid: bytes,
        secret: bytes,
        *,
        pages: DebugPages | None = None,
        stop: StopRequest | None = None,
    ) -> Session:
        """Go on with a session that another process has opened, over a connection of one's own.

        From now on it has a connection again, and its time does not run out.

        :param login: where it is, and whose.
        :param guid: the session's id, 16 bytes.
        :param secret: the session's secret, 16 bytes.
        :param pages: as of the class.
        :param stop: as of the class.
        :raises NodeRefused: the node cannot be reached, or does not know the session.
        :raises ConfigError: as :meth:`open`.
        """
        from impala._thrift_gen.TCLIService.ttypes import TGetInfoReq, TGetInfoType, THandleIdentifier, TSessionHandle

        handle = TSessionHandle(THandleIdentifier(guid, secret))

        def ask(connection: HS2Connection) -> Opened:
            problem = status_error(connection.call("GetInfo", TGetInfoReq(handle, TGetInfoType.CLI_SERVER_NAME)))
            if problem and "being shut down" not in problem:  # a draining one still knows its sessions
                raise refusal(problem)
            return Opened(login, connection, handle, {})

        return cls(ask_anew(login, ask), pages, stop)

    def open_another(self, seconds: float | None = None) -> Session:
        """A second session on the same node, with a stop request of its own.

        :param seconds: as of `Login.limited`; default as configured.
        :raises NodeRefused: as :meth:`open`.
        :raises ConfigError: as :meth:`open`.
        """
        return Session.open(self.login.limited(seconds), pages=self.pages)

    @property
    def handle(self) -> tuple[bytes, bytes]:
        """Its guid and its secret, for :meth:`attach`."""
        identifier = self._handle.sessionId
        return identifier.guid, identifier.secret

    @property
    def reconnect_timeout(self) -> float:
        """Seconds to try for, where something is out of reach: ``session.reconnect_timeout``."""
        return self.login.config.reconnect_timeout

    @property
    def is_open(self) -> bool:
        """Whether a statement may be sent in it."""
        return not (self.lost or self._closed)

    @property
    def query_id(self) -> str | None:
        """Of the statement that was sent last, as Impala prints it; None until the coordinator has accepted it."""
        return self.operation.query_id

    @property
    def has_rows(self) -> bool:
        """Whether the statement under way may have rows to fetch."""
        return self.operation.has_rows

    @property
    def has_ended(self) -> bool:
        """Whether the statement under way was seen to end."""
        return self.operation.has_ended

    def adopt(self, query_id: str, *, was_answered: bool = False) -> None:
        """Go on with a statement that was sent over another connection: :meth:`wait` for it.

        :param query_id: as Impala prints it.
        :param was_answered: as of `Operation.adopt`; default False.
        """
        self.operation.adopt(query_id, was_answered=was_answered)

    def execute(
        self,
        sql: str,
        *,
        on_start: Callable[[str], None] | None = None,
        options: Mapping[str, str] | None = None,
        limits: Limits | None = None,
        sendings: Sendings | None = None,
    ) -> StatementEnd:
        """Run one statement to its end. Rows of a query are left to be fetched from :attr:`cursor`.

        :param sql: the statement, with its label.
        :param on_start: called with the query id once the coordinator has accepted the statement; default nothing is.
        :param options: query options for this statement alone; default none.
        :param limits: what may end the waiting before; default nothing.
        :param sendings: how often it may be sent, with those in other sessions; default in this one alone.
        :raises StatementError: it failed, or its outcome is not known; the text says what is known.
        :raises Cancelled: by :attr:`stop`.
        """
        start = time.monotonic()
        done = self.submit(sql, options=options, sendings=sendings)
        if on_start:
            on_start(self.query_id or "")
        if done:
            return StatementEnd(self.query_id or "", None, time.monotonic() - start)
        return self.wait(start=start, limits=limits)

    def submit(self, sql: str, *, options: Mapping[str, str] | None = None, sendings: Sendings | None = None) -> bool:
        """Send a statement. A lost answer is looked into: the statement is looked up on the coordinator's web page;
        what changes nothing and is not there is sent again. :attr:`query_id` is set once it is accepted.

        :param sql: the statement, with its label.
        :param options: as :meth:`execute`.
        :param sendings: as :meth:`execute`.
        :returns: True if it was found to be done already.
        :raises StatementError: as :meth:`execute`.
        :raises Cancelled: as :meth:`execute`.
        """
        operation = self.operation
        operation.make_way()
        sendings = sendings or Sendings(self.reconnect_timeout)
        statement = classify(sql)
        if not statement.changes_nothing:
            self.proof.see_witness()
        with self._mutex:  # not between the question of `end_now` and its note
            self.stop.check()
        if not self.is_open:
            raise StatementError("the session was closed before, so it was not sent")
        while True:
            sendings.begin()
            try:
                operation.send(sql, options)
                sendings.answered()
                return False
            except Exception as error:
                operation.unsettled &= is_transport_failure(error)  # else answered in place of a handle
                self.stop.check()
                if not is_transport_failure(error):
                    raise StatementError(str(error)) from error
                failure = StatementError(f"the connection failed while it was sent: {describe(error)}")
                failure.__cause__ = cause = error
            if statement.session_only:
                # Not in this session: the lost one may still arrive, and undo a later USE or SET.
                self.close_to_prove()
                raise failure
            if statement.changes_nothing:
                # Where nobody listens the client has tried for as long as it is of use: the session is gone.
                if is_refused(cause):
                    raise failure
                if self._is_under_way(sql, failure, sendings):
                    return False
                continue
            record = StatementRecord(statement, "intended", repeated=sendings.count > 1)
            found = look_up(self, record, nonce_of(sql), self.proof.witness, failure)
            sendings.answered()
            if found is None:
                operation.unsettled = False
                raise StatementError(f"{failure}; it never reached the coordinator") from failure
            if not found.in_flight:
                operation.unsettled = False
                operation.query_id = found.id
                return True
            operation.adopt(found.id)
            return False

    def _is_under_way(self, sql: str, failure: StatementError, sendings: Sendings) -> bool:
        """Of a statement that changes nothing, whose answer was lost: True if it was found, and is to be waited for;
        False, after a pause, if it is to be sent again.

        :raises StatementError: it is not, in this session; or it has failed.
        """
        try:
            found = look_for(self, nonce_of(sql), failure)
        except ProbeFailed:
            # It may be at work, and be so beside the next one.
            pause = sendings.lost(failure)
            if sendings.new_session:
                self.close_to_prove()
                failure.unanswered = True
            self.stop.sleep(pause)
            if sendings.new_session:
                raise failure from None
            return False
        if found is not None:
            sendings.answered()
            self.operation.adopt(found.id)
            return True
        self.stop.sleep(sendings.lost(failure))
        return False

    def wait(self, *, start: float | None = None, limits: Limits | None = None) -> StatementEnd:
        """Wait for the end of the statement that was submitted.

        :param start: when it was sent, by the monotonic clock; default now.
        :param limits: as :meth:`execute`.
        :raises StatementError: as :meth:`execute`.
        :raises Cancelled: as :meth:`execute`.
        """
        start = time.monotonic() if start is None else start
        self.operation.wait(start, limits or Limits())
        self.operation.find_rows()
        if self.cursor.has_result_set:
            return StatementEnd(self.query_id or "", None, time.monotonic() - start)
        # DDL and DML: closing is what tells the number of rows, and frees the query on the coordinator.
        query_id, seconds = self.query_id or "", time.monotonic() - start
        warnings, rows = self.finish()
        return StatementEnd(query_id, rows, seconds, warnings)

    def fetch(self, handler: Callable[[Any], Any], cursor: Any) -> Any:
        """What ``handler`` makes of the last statement's rows.

        :param handler: called with the cursor.
        :param cursor: to fetch the rows from.
        :raises RowsLost: some rows are lost, the query has to be run again to have them.
        :raises StatementError: the rows could not be fetched.
        :raises Exception: what else the handler raises passes through.
        """
        from impala.error import Error
        from thrift.Thrift import TException

        try:
            return handler(cursor)
        except (Error, TException, UnreadableReply) as error:
            self.stop.check()
            raise StatementError(f"it ran, fetching its rows failed: {error}", query_id=self.query_id) from error

    def finish(self) -> tuple[str, int | None]:
        """Close the last statement if it is still open. Returns its warnings, and the rows it modified."""
        return self.operation.finish()

    def nobody_listens(self) -> bool:
        """Whether a connection is refused: the process is gone."""
        try:
            HS2Connection(self.login, CANCEL_SECONDS / 2).close()
        except Exception as error:
            return is_refused(error)
        return False

    def detach(self) -> None:
        """Leave the session, and what runs in it, to another process that has its handle."""
        self._closed, self.operation.unsettled = True, False
        self._client.disconnect()

    def close_to_prove(self) -> Closed:
        """Close the session so that a statement of it that is still on its way is refused, and the session lost. The
        one for a marker is opened before.

        :raises Cancelled: by :attr:`stop`.
        """
        from impala._thrift_gen.TCLIService.ttypes import TCloseSessionReq

        self.lost = True
        try:
            self.proof.open_marker()
        except ImpalaLBError as error:
            log.info("No session for a marker on %s: %s", self.node.address, error)
        try:
            reply = self._client.call("CloseSession", TCloseSessionReq(sessionHandle=self._handle))
        except Exception as error:
            self.stop.check()
            log.warning("Session %s on %s could not be closed: %s", self.id, self.node.address, describe(error))
            return "failed"
        return "unknown" if was_gone(reply) else closed_by(status_error(reply))

    def cancel(self, reason: str) -> None:
        """Note in :attr:`stop` that the work is cancelled, and :meth:`end_now`. Never raises.

        :param reason: the text of the `Cancelled` that the statement's caller gets.
        """
        if not self.end_now(lambda: self.stop.cancel(reason)):
            self.stop.cancel(reason)

    def end_now(self, note: Callable[[], None] = lambda: None, may: Callable[[], bool] = lambda: True) -> bool:
        """End the running statement and the session, over a second connection, within 4 s. Never raises.

        For a signal handler or another thread: the first connection may be in the middle of an answer, and belongs to
        whoever reads it (impyla's threadsafety is 1). The statement's caller then gets `Cancelled`.

        :param note: notes in :attr:`stop` why. Called once the session is known to be ended from here: its own thread,
            which hears of it by that, then leaves it alone, and :meth:`wait_ended` tells what came of it.
        :param may: whether what runs may be ended; no other statement is sent before ``note``. Default it may.
        :returns: False: it has ended, or is being ended, or may not be, and ``note`` was not called.
        """
        with self._mutex:
            if self._closed or self._ending or not may():
                return False
            self._ending = True
            note()
        try:
            self._end_elsewhere()
        finally:
            self._end_tried.set()
            self._client.interrupt()
        return True

    def wait_ended(self) -> bool:
        """After :meth:`end_now` or :meth:`close`: was the statement seen to have ended? :meth:`end_now` may still be
        under way in another thread, and is waited for; a session that was closed by its own thread has seen nothing."""
        self._end_tried.wait(CANCEL_SECONDS + 1)
        return bool(self._ended)

    @property
    def left_running(self) -> bool:
        """After :meth:`close` or :meth:`end_now`: a statement was not seen to end, and may run on or still arrive."""
        if self._ending:
            self._end_tried.wait(CANCEL_SECONDS + 1)
        return self.operation.unsettled

    def close(self) -> None:
        """Close the session. What runs in it is cancelled first. Never raises."""
        with self._mutex:
            if self._closed:
                return
            self._closed = True
        try:
            if not self._ending and not self.lost:
                if self._client.connected:
                    self._end_here()
                else:
                    self._end_elsewhere()
        finally:
            if not self._ending:
                self._end_tried.set()  # nobody else ends it now, so there is nothing to wait for
            self._client.disconnect()
            self.proof.close()

    def __enter__(self) -> Session:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def _end_here(self) -> None:
        from impala._thrift_gen.TCLIService.ttypes import TCancelOperationReq, TCloseSessionReq

        client, operation = self._client, self.operation
        client.limit(CANCEL_SECONDS / 2)
        try:
            if operation.handle is not None and not operation.has_ended:
                client.call("CancelOperation", TCancelOperationReq(operationHandle=operation.handle))
                operation.discard()
            operation.finish()
            problem = status_error(client.call("CloseSession", TCloseSessionReq(sessionHandle=self._handle)))
        except Exception as error:
            problem = describe(error)
        if problem:
            log.warning("Session %s on %s could not be closed: %s", self.id, self.node.address, problem)

    def _end_elsewhere(self) -> None:
        handle = self.operation.handle if self.operation.was_answered else None  # else as `Operation.discard`
        ending = end_from_outside(self.login, self._handle, handle)
        if ending.seen:
            self.operation.unsettled = False
        self._ended, address = not self.operation.unsettled, self.node.address
        if ending.problem is None and handle is not None:
            log.info("Query %s on %s was cancelled", self.query_id, address)
        elif ending.problem:
            text = "Session %s on %s (query %s) could not be ended: %s. The coordinator ends it by itself"
            log.warning(text, self.id, address, self.query_id, ending.problem)
