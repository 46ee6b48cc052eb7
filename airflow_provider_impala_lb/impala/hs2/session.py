"""One HiveServer2 session on one coordinator: opened, used for statements in order, closed."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Mapping
from logging import getLogger
from typing import Any

from airflow_provider_impala_lb.core.config.model import Node, SessionConfig
from airflow_provider_impala_lb.core.stop_request import StopRequest
from airflow_provider_impala_lb.impala.hs2.connection import HS2Connection, user_of
from airflow_provider_impala_lb.impala.hs2.connection_failure import UnreadableReply, describe, is_refused, status_error
from airflow_provider_impala_lb.impala.hs2.ending import CANCEL_SECONDS, end_elsewhere, end_here
from airflow_provider_impala_lb.impala.hs2.ids import StatementEnd, StatementError, print_id
from airflow_provider_impala_lb.impala.hs2.opening import attach, open_session
from airflow_provider_impala_lb.impala.hs2.operation import Limits, Operation
from airflow_provider_impala_lb.impala.hs2.reconnecting_client import ReconnectingClient
from airflow_provider_impala_lb.impala.hs2.sending import submit
from airflow_provider_impala_lb.impala.hs2.statement_lookup import Sendings
from airflow_provider_impala_lb.impala.hs2.waiting import wait_for_end
from airflow_provider_impala_lb.impala.web.debug_pages import DebugPages

log = getLogger(__name__)

_HANGUP_SECONDS = 0.2


class Session:
    """One session on ``node``. Use :meth:`open`; then :meth:`execute` for each statement; then :meth:`close`.

    :ivar id: the session id as Impala prints it.
    :ivar web: the coordinator's web address as it says itself (``http_addr``), else the configured one.
    :ivar cursor: impyla's cursor of the session, to fetch rows from.
    :ivar operation: the statement under way.
    :ivar stop: says when the work is to stop; shared with the other sessions of a run.
    :ivar lost: the session was closed to find out what became of a statement: the script needs a new one.
    """

    def __init__(
        self,
        node: Node,
        config: SessionConfig,
        password: str | None,
        wire: HS2Connection,
        handle: Any,
        configuration: Mapping[str, str] | None = None,
        pages: DebugPages | None = None,
        stop: StopRequest | None = None,
    ):
        from impala._thrift_gen.TCLIService.ttypes import TProtocolVersion
        from impala.hiveserver2 import HiveServer2Cursor, HS2Session

        self.node = node
        self.id = print_id(handle.sessionId.guid)
        self.user = user_of(config)
        address = (configuration or {}).get("http_addr")
        self.web = node.web or (address if not address or "://" in address else f"http://{address}")
        # A login is for the configured address only, not for whatever a server says of itself.
        self.pages = pages or (DebugPages(self.web, None, None) if self.web else None)
        self._config, self._password = config, password
        self._handle = handle
        self.stop = stop or StopRequest()
        self._line = ReconnectingClient(node, config, password, wire, self.stop.sleep)
        wire.service.client = self._line
        protocol = TProtocolVersion.HIVE_CLI_SERVICE_PROTOCOL_V6
        self.cursor = HiveServer2Cursor(HS2Session(wire.service, handle, configuration or {}, protocol, retries=1))
        self.operation = Operation(
            self.cursor, self._line, handle.sessionId.secret, self.stop.check, self.pages, address is not None
        )
        self.lost = False
        self._closed = self._ending = False
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
        pages: DebugPages | None = None,
        stop: StopRequest | None = None,
    ) -> Session:
        """Connect, log in and open a session, all within ``config.open_timeout`` seconds.

        :param database: instead of the configuration's. :param pages: of the node, with a login.
        :raises NodeRefused: nothing was run, another node may be tried; `fault` says whose fault it is.
        :raises ConfigError: a file or a library that the configuration needs is missing on this host.
        """
        wire, handle, configuration = open_session(node, config, password, database)
        return cls(node, config, password, wire, handle, configuration, pages, stop)

    @classmethod
    def attach(
        cls,
        node: Node,
        config: SessionConfig,
        guid: bytes,
        secret: bytes,
        *,
        password: str | None = None,
        pages: DebugPages | None = None,
        stop: StopRequest | None = None,
    ) -> Session:
        """Go on with a session that another process has opened, over a connection of one's own.

        :raises NodeRefused: the node cannot be reached, or does not know the session. :raises ConfigError: as above.
        """
        wire, handle, configuration = attach(node, config, password, guid, secret)
        return cls(node, config, password, wire, handle, configuration, pages, stop)

    @property
    def handle(self) -> tuple[bytes, bytes]:
        """Its guid and its secret, for :meth:`attach`."""
        identifier = self._handle.sessionId
        return identifier.guid, identifier.secret

    def adopt(self, query_id: str) -> None:
        """Go on with a statement that was sent over another connection: :meth:`wait` for it."""
        self.operation.adopt(query_id)

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

    def outlives_connections(self) -> bool:
        """Whether a session of this server is there after its connection has gone. On Impala since 3.3 (IMPALA-1653);
        Spark and Hive end it. Tried with one that is opened for it."""
        from airflow_provider_impala_lb.errors import ImpalaLBError

        try:
            other = self.open_another()
            guid, secret = other.handle
            other.detach()
            time.sleep(_HANGUP_SECONDS)  # the server has to notice
            with Session.attach(self.node, self._config, guid, secret, password=self._password) as again:
                again.execute("SELECT 1")  # Spark answers GetInfo for a session that is gone
        except (ImpalaLBError, StatementError) as error:
            log.info("%s does not keep a session without a connection: %s", self.node.address, error)
            return False
        return True

    def detach(self) -> None:
        """Leave the session, and what runs in it, to somebody else who has its handle."""
        self._closed = True
        self.cursor._closed = True
        self._line.hang_up()

    def nobody_listens(self) -> bool:
        """Whether a connection is refused: the process is gone."""
        try:
            HS2Connection(self.node, self._config, self._password, CANCEL_SECONDS / 2).close()
        except Exception as error:
            return is_refused(error)
        return False

    @property
    def reconnect_timeout(self) -> float:
        """Seconds to try for, where something is out of reach: ``session.reconnect_timeout``."""
        return self._config.reconnect_timeout

    def open_another(self) -> Session:
        """A second session on the same node. Errors as :meth:`open`."""
        return Session.open(self.node, self._config, password=self._password, pages=self.pages)

    @property
    def is_open(self) -> bool:
        """Whether a statement may be sent in it."""
        return not (self.lost or self._closed)

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

        :param on_start: called with the query id once the coordinator has accepted the statement.
        :param options: query options for this statement alone. :param limits: what may end the waiting before.
        :param sendings: how often it may be sent, with those in other sessions; None: in this one alone.
        :raises LetGo: by the limits; the statement goes on, and somebody else waits for it.
        :raises StatementError: it failed, or its outcome is not known; the text says what is known.
        :raises Cancelled: :meth:`cancel` was called meanwhile.
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

        :returns: True if it was found to be done already. Errors as :meth:`execute`.
        """
        return submit(self, sql, options, sendings)

    def wait(self, *, start: float | None = None, limits: Limits | None = None) -> StatementEnd:
        """Wait for the end of the statement that was submitted. Parameters and errors as :meth:`execute`.

        :param start: when it was sent, by the monotonic clock.
        """
        start = time.monotonic() if start is None else start
        wait_for_end(self, start, limits or Limits())
        self.operation.find_rows()
        if self.cursor.has_result_set:
            return StatementEnd(self.query_id or "", None, time.monotonic() - start)
        # DDL and DML: closing is what tells the number of rows, and frees the query on the coordinator.
        query_id, seconds = self.query_id or "", time.monotonic() - start
        warnings, rows = self.finish()
        return StatementEnd(query_id, rows, seconds, warnings)

    def fetch(self, handler: Callable[[Any], Any], cursor: Any) -> Any:
        """What ``handler`` makes of the last statement's rows.

        :raises RowsLost: some rows are lost, the query has to be run again to have them.
        :raises StatementError: the rows could not be fetched. What else the handler raises passes through.
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

    def cancel(self, reason: str) -> None:
        """Note in :attr:`stop` that the work is cancelled, then :meth:`end_now`. Never raises.

        :param reason: the text of the `Cancelled` that the statement's caller gets.
        """
        self.stop.cancel(reason)
        self.end_now()

    def end_now(self) -> None:
        """End the running statement and the session, over a second connection, within 4 s. Never raises.

        For a signal handler or another thread, which has noted in :attr:`stop` why: the first connection may be in the
        middle of an answer, and belongs to whoever reads it (impyla's threadsafety is 1). The statement's caller then
        gets `Cancelled`.
        """
        if self._closed or self._ending:
            return
        self._ending = True
        try:
            self._end_elsewhere()
        finally:
            self._end_tried.set()
            self._line.interrupt()

    def wait_ended(self) -> bool:
        """After :meth:`cancel`, maybe still under way in another thread: was the statement seen to have ended?"""
        self._end_tried.wait(CANCEL_SECONDS + 1)
        return bool(self._ended)

    def close_to_prove(self) -> bool:
        """Close the session so that a statement of it that is still on its way is refused, and the session lost.
        Returns whether the coordinator has confirmed it."""
        from impala._thrift_gen.TCLIService.ttypes import TCloseSessionReq

        self.lost = True
        try:
            answer = self._line.CloseSession(TCloseSessionReq(sessionHandle=self._handle))
        except Exception as error:
            self.stop.check()
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
            if not self._ending and not self.lost:
                if self._line.up:
                    problem = end_here(self._line, self._handle, self.operation)
                    if problem:
                        log.warning("Session %s on %s could not be closed: %s", self.id, self.node.address, problem)
                else:
                    self._end_elsewhere()
        finally:
            self._line.hang_up()

    def __enter__(self) -> Session:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def _end_elsewhere(self) -> None:
        ending = end_elsewhere(self.node, self._config, self._password, self._handle, self.operation.handle)
        self._ended = ending.seen
        if ending.problem is None and self.operation.handle is not None:
            log.info("Query %s on %s was cancelled", self.query_id, self.node.address)
        elif ending.problem:
            log.warning(
                "Session %s on %s (query %s) could not be ended: %s. The coordinator ends it by itself",
                self.id,
                self.node.address,
                self.query_id,
                ending.problem,
            )
