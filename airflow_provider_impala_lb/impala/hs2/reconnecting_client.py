"""The thrift client of a session, which connects anew when its connection breaks: the session outlives it.

Impala keeps a session for 15 minutes after its last connection has gone (``--disconnected_session_timeout``,
IMPALA-1653), and takes its handles over any connection of the same user. So a call that may be made twice is made again
over a new one, until ``session.reconnect_timeout``. After any failure the old connection is thrown away, never used
again: a late reply would be read as the one to the next call (impyla and thrift check no sequence ids).
"""

from __future__ import annotations

import dataclasses
import time
from collections.abc import Callable
from logging import getLogger
from types import SimpleNamespace
from typing import Any

import msgspec

from airflow_provider_impala_lb.core.timing import Backoff
from airflow_provider_impala_lb.errors import ConfigError, ImpalaLBError
from airflow_provider_impala_lb.impala.hs2.connection import HS2Connection, Login, describe
from airflow_provider_impala_lb.impala.hs2.connection_failure import (
    NodeRefused,
    classify_open_failure,
    is_refused,
    is_transport_failure,
    is_unknown_method,
    is_unreadable,
)
from airflow_provider_impala_lb.impala.hs2.replies import rows_in, status_error

log = getLogger(__name__)

POLL_SECONDS = 30.0
"""A call that only looks is given up after this long, or ``session.rpc_timeout`` if that is less: a silent connection
is noticed so much sooner than by a call that may have to plan a statement."""
REFUSED_SECONDS = 10.0
"""Where nobody listens, the process is gone, and the session with it. This long it may be a device on the way."""
UNREADABLE_REPLIES = 3
"""So many replies to one call that cannot be read, each on a connection of its own, are not chance: it is given up."""
_FIRST_PAUSE, _LONGEST_PAUSE = 0.05, 2.0
LOGIN_ATTEMPTS, LOGIN_PAUSE = 3, 10.0
"""A login that this node has taken before may be refused while its directory server is away; tried more often, it would
lock the account of somebody whose password has changed."""

_LOOKING = frozenset(
    ("GetOperationStatus", "GetLog", "GetResultSetMetadata", "GetExecSummary", "GetRuntimeProfile", "GetInfo")
)
_ENDING = frozenset(("CancelOperation", "CloseOperation", "CloseImpalaOperation", "CloseSession"))
_NOT_KNOWN = ("Invalid or unknown query handle", "Invalid query handle", "Invalid session id", "Session is closed")


class RowsLost(ImpalaLBError):
    """Rows were handed out whose reply never arrived: the query has to be run again to have them."""


class NotSent(Exception):
    """There was no connection any more over which to send the statement.

    :param cause: why no other could be had.
    """

    def __init__(self, cause: Exception) -> None:
        super().__init__(f"the connection had failed before ({describe(cause)}), so it was not sent")


class ReconnectingClient:
    """What impyla takes for its thrift client. Calls are methods of the name that they have in HiveServer2.

    :param login: of the connection.
    :param connection: the first one.
    :param sleep: waits so many seconds; what it raises ends the attempts (the script was told to stop).
    """

    def __init__(self, login: Login, connection: HS2Connection, sleep: Callable[[float], None]) -> None:
        self._login = login
        self._connection: HS2Connection | None = connection
        self._sleep = sleep
        self._fetched: tuple[bytes, int] = (b"", 0)
        self._logins_refused = 0
        # impyla opens a transport that is closed before each call, on its own and without a word. This one never is.
        self._iprot = SimpleNamespace(trans=SimpleNamespace(isOpen=lambda: True, close=lambda: None))

    @property
    def address(self) -> str:
        """The coordinator's, ``host:port``."""
        return self._login.node.address

    @property
    def connected(self) -> bool:
        """False after a failure, until the next call connects anew."""
        return self._connection is not None

    def __getattr__(self, name: str) -> Callable[[Any], Any]:
        if name.startswith("_"):
            raise AttributeError(name)
        return lambda request: self.call(name, request)

    def call(self, name: str, request: Any) -> Any:
        """One call of HiveServer2, made again over a new connection if that can do no harm.

        :param name: e.g. "OpenSession".
        :param request: that call's.
        :returns: its reply.
        :raises RowsLost: FetchResults was answered, and the reply was lost.
        :raises NotSent: ExecuteStatement was not sent: the connection was gone before, and no other could be had.
        :raises ConfigError: on a new connection the login was refused; of ExecuteStatement that is `NotSent`, too.
        :raises UnreadableReply: there was one, again and again, that cannot be read.
        :raises TException: the time is up.
        """
        repeatable = name in _LOOKING or name in _ENDING or name == "FetchResults"
        first: BaseException | None = None
        broken_at, unreadable = 0.0, 0
        backoff: Backoff | None = None
        while True:
            sent = False
            try:
                if self._connection is None:
                    self._connection = self._connect()
                elif name == "ExecuteStatement" and not self._connection.is_open():
                    # The coordinator, or something on the way, has hung up meanwhile: nothing was sent, as yet.
                    self.disconnect()
                    self._connection = self._connect()
                sent = True
                reply = self._ask(self._connection, name, request)
            except BaseException as error:
                if is_unknown_method(error, name):
                    raise
                self.disconnect()
                if isinstance(error, ConfigError) and name == "ExecuteStatement" and not sent:
                    raise NotSent(error) from error
                if not isinstance(error, Exception) or not is_transport_failure(error) or (sent and not repeatable):
                    raise
                now, reconnect_timeout = time.monotonic(), self._login.config.reconnect_timeout
                self._sleep(0.0)  # raises if the script was told to stop, which also ends the connection
                if first is None or backoff is None:
                    first, broken_at, backoff = error, now, Backoff(_FIRST_PAUSE, _LONGEST_PAUSE)
                    log.warning(
                        "The connection to %s broke (%s, while %s): it is tried anew for up to %g s; what runs there "
                        "goes on meanwhile",
                        self.address,
                        describe(error),
                        name,
                        reconnect_timeout,
                    )
                unreadable += is_unreadable(error)
                if unreadable >= UNREADABLE_REPLIES:
                    raise
                limit = min(REFUSED_SECONDS, reconnect_timeout) if is_refused(error) else reconnect_timeout
                if now + backoff.pause - broken_at >= limit:
                    if name == "ExecuteStatement":
                        raise NotSent(error) from error
                    raise _as_thrifts(error) from error
                self._sleep(backoff.next())
                continue
            if first is not None:
                log.info("The connection to %s is back after %.1f s", self.address, time.monotonic() - broken_at)
                self._ignore_already_closed(name, reply)
            if name == "FetchResults":
                self._count_rows(request, reply, first)
            return reply

    def disconnect(self) -> None:
        """Throw the connection away. The session stays."""
        connection, self._connection = self._connection, None
        if connection is not None:
            connection.close()

    def interrupt(self) -> None:
        """For another thread: whoever waits for a reply gets an error instead."""
        connection = self._connection
        if connection is not None:
            connection.interrupt()

    def limit(self, seconds: float) -> None:
        """No call from now on waits longer, nor is made a second time.

        :param seconds: also for a new connection.
        """
        config = msgspec.structs.replace(
            self._login.config, open_timeout=seconds, rpc_timeout=seconds, reconnect_timeout=0.0
        )
        self._login = dataclasses.replace(self._login, config=config)

    def _connect(self) -> HS2Connection:
        config, start = self._login.config, time.monotonic()
        try:
            connection = HS2Connection(self._login, config.open_timeout)
        except Exception as error:
            refused = classify_open_failure(error, self._login, time.monotonic() - start)
            if isinstance(refused, NodeRefused) and refused.fault == "login":
                self._logins_refused += 1
                if self._logins_refused >= LOGIN_ATTEMPTS or config.reconnect_timeout < LOGIN_PAUSE:
                    raise ConfigError(f"{self.address}: {refused}") from error
                self._sleep(LOGIN_PAUSE)
            raise
        self._logins_refused = 0
        return connection

    def _ask(self, connection: HS2Connection, name: str, request: Any) -> Any:
        seconds = self._login.config.rpc_timeout
        connection.limit(min(seconds, POLL_SECONDS) if name in _LOOKING else seconds)
        return connection.call(name, request)

    @staticmethod
    def _ignore_already_closed(name: str, reply: Any) -> None:
        """A second close finds what the first has closed, or is closing: that is no error, and no proof of an end
        (:func:`was_gone`)."""
        from impala._thrift_gen.TCLIService.ttypes import TStatusCode

        if name in _ENDING and any(text in (status_error(reply) or "") for text in _NOT_KNOWN):
            reply.status.statusCode, reply.status.errorMessage = TStatusCode.SUCCESS_STATUS, None
            reply.was_gone = True

    def _count_rows(self, request: Any, reply: Any, first: BaseException | None) -> None:
        """Impala says at which row a reply begins (FetchInternal, ``startRowOffset``): so a lost one shows. Looked at
        each time: a call that was given up and made again may arrive after that, and take rows for nobody.

        :raises RowsLost: there is a gap.
        """
        if status_error(reply) or reply.results is None or request.fetchType:
            return
        operation = request.operationHandle.operationId.guid
        guid, rows = self._fetched
        rows = rows if guid == operation else 0
        if (reply.results.startRowOffset or 0) != rows:
            cause = f" ({describe(first)})" if first else ""
            raise RowsLost(f"rows {rows + 1} to {reply.results.startRowOffset} were sent, and never arrived{cause}")
        self._fetched = operation, rows + rows_in(reply.results)


def was_gone(reply: Any) -> bool:
    """Whether a close was made again, and the server did not know any more what to close: it may still be ending it
    (``QueryDriver::Finalize`` hides a statement when its end begins).

    :param reply: of `ReconnectingClient.call`.
    """
    return bool(getattr(reply, "was_gone", False))


def _as_thrifts(error: Exception) -> Exception:
    """A socket's own error as thrift's: whoever fetches rows may have errors of a file, too, which are not ours."""
    from thrift.transport.TTransport import TTransportException

    return TTransportException(message=describe(error), inner=error) if isinstance(error, OSError) else error
