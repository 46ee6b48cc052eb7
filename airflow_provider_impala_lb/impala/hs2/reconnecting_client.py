"""The connection of a session, laid anew when it breaks: the session on the coordinator outlives it.

Impala keeps a session for 15 minutes after its last connection has gone (``--disconnected_session_timeout``,
IMPALA-1653), and takes its handles over any connection of the same user. So a call that may be made twice is made again
over a new one, until ``session.reconnect_timeout``. After any failure the old connection is thrown away, never used
again: a late reply would be read as the one to the next call (impyla and thrift check no sequence ids).
"""

from __future__ import annotations

import time
from collections.abc import Callable
from logging import getLogger
from types import SimpleNamespace
from typing import Any

import msgspec

from airflow_provider_impala_lb.core.config.model import Node, SessionConfig
from airflow_provider_impala_lb.errors import ConfigError, ImpalaLBError
from airflow_provider_impala_lb.impala.hs2.connection import HS2Connection
from airflow_provider_impala_lb.impala.hs2.connection_failure import (
    NodeRefused,
    describe,
    is_refused,
    is_transport_failure,
    is_unknown_method,
    is_unreadable,
    status_error,
)
from airflow_provider_impala_lb.impala.hs2.open_failure import sort_open_failure
from airflow_provider_impala_lb.impala.hs2.replies import rows_in

log = getLogger(__name__)

POLL_SECONDS = 30.0
"""A call that only looks is given up after this long, or ``session.rpc_timeout`` if that is less: a silent connection
is noticed so much sooner than by a call that may have to plan a statement."""
REFUSED_SECONDS = 10.0
"""Where nobody listens, the process is gone, and the session with it. This long it may be a device on the way."""
UNREADABLE_REPLIES = 3
"""So many replies to one call that cannot be read, each on a connection of its own, are not chance: it is given up."""
_FIRST_PAUSE, _LONGEST_PAUSE = 0.05, 2.0
LOGIN_TRIES, LOGIN_PAUSE = 3, 10.0
"""A login that this node has taken before may be refused while its directory server is away; tried more often, it would
lock the account of somebody whose password has changed."""

_LOOKING = frozenset(
    ("GetOperationStatus", "GetLog", "GetResultSetMetadata", "GetExecSummary", "GetRuntimeProfile", "GetInfo")
)
_ENDING = frozenset(("CancelOperation", "CloseOperation", "CloseImpalaOperation", "CloseSession"))
_NOT_KNOWN = ("Invalid or unknown query handle", "Invalid query handle", "Invalid session id", "Session is closed")


class RowsLost(ImpalaLBError):
    """Rows were handed out whose answer never arrived: the query has to be run again to have them."""


class NotSent(Exception):
    """There was no connection any more over which to send the statement."""


class ReconnectingClient:
    """What impyla takes for its thrift client.

    :param pause: waits so many seconds; what it raises ends the trying (the script was told to stop).
    """

    def __init__(
        self,
        node: Node,
        config: SessionConfig,
        password: str | None,
        wire: HS2Connection,
        pause: Callable[[float], None],
    ) -> None:
        self._node, self._config, self._password = node, config, password
        self._wire: HS2Connection | None = wire
        self._pause = pause
        self._fetched: tuple[bytes, int] = (b"", 0)
        self._logins_refused = 0
        # impyla opens a transport that is closed before each call, on its own and without a word. This one never is.
        self._iprot = SimpleNamespace(trans=SimpleNamespace(isOpen=lambda: True, close=lambda: None))

    @property
    def up(self) -> bool:
        """False after a failure, until the next call lays it anew."""
        return self._wire is not None

    def __getattr__(self, name: str) -> Callable[[Any], Any]:
        if name.startswith("_"):
            raise AttributeError(name)
        return lambda request: self.call(name, request)

    def call(self, name: str, request: Any) -> Any:
        """One call of HiveServer2, made again over a new connection if that can do no harm.

        :raises RowsLost: FetchResults was answered, and the answer was lost.
        :raises NotSent: ExecuteStatement was not sent: the connection was gone before, and no other could be had.
        :raises ConfigError: on a new connection the login was refused.
        :raises UnreadableReply: there was one, again and again, that cannot be read.
        Else what thrift raises, when the time is up.
        """
        repeatable = name in _LOOKING or name in _ENDING or name == "FetchResults"
        first: BaseException | None = None
        broken_at = pause = 0.0
        unreadable = 0
        while True:
            sent = False
            try:
                if self._wire is None:
                    self._wire = self._lay()
                elif name == "ExecuteStatement" and not self._wire.is_open():
                    # The coordinator, or something on the way, has hung up meanwhile: nothing was sent, as yet.
                    self.hang_up()
                    self._wire = self._lay()
                sent = True
                answer = self._ask(self._wire, name, request)
            except BaseException as error:
                if is_unknown_method(error, name):
                    raise
                self.hang_up()
                if not isinstance(error, Exception) or not is_transport_failure(error) or (sent and not repeatable):
                    raise
                now = time.monotonic()
                self._pause(0.0)  # raises if the script was told to stop, which also ends the connection
                if first is None:
                    first, broken_at, pause = error, now, _FIRST_PAUSE
                    log.warning(
                        "The connection to %s broke (%s, while %s): it is tried anew for up to %g s; what runs there "
                        "goes on meanwhile",
                        self._node.address,
                        describe(error),
                        name,
                        self._config.reconnect_timeout,
                    )
                unreadable += is_unreadable(error)
                if unreadable >= UNREADABLE_REPLIES:
                    raise
                limit = min(REFUSED_SECONDS, self._config.reconnect_timeout)
                limit = limit if is_refused(error) else self._config.reconnect_timeout
                if now + pause - broken_at >= limit:
                    if name == "ExecuteStatement":
                        raise NotSent(
                            f"the connection had failed before ({describe(error)}), so it was not sent"
                        ) from error
                    raise _as_thrifts(error) from error
                self._pause(pause)
                pause = min(pause * 2, _LONGEST_PAUSE)
                continue
            if first is not None:
                log.info("The connection to %s is back after %.1f s", self._node.address, time.monotonic() - broken_at)
                self._mend(name, answer)
            if name == "FetchResults":
                self._count(request, answer, first)
            return answer

    def hang_up(self) -> None:
        """Throw the connection away. The session stays."""
        wire, self._wire = self._wire, None
        if wire is not None:
            wire.close()

    def interrupt(self) -> None:
        """For another thread: whoever waits for an answer gets an error instead."""
        wire = self._wire
        if wire is not None:
            wire.interrupt()

    def limit(self, seconds: float) -> None:
        """No call from now on waits longer, nor is made a second time."""
        self._config = _hurried(self._config, seconds)

    def _lay(self) -> HS2Connection:
        config, start = self._config, time.monotonic()
        try:
            wire = HS2Connection(self._node, config, self._password, config.open_timeout)
        except Exception as error:
            refused = sort_open_failure(error, self._node, config, time.monotonic() - start)
            if isinstance(refused, NodeRefused) and refused.fault == "login":
                self._logins_refused += 1
                if self._logins_refused >= LOGIN_TRIES or config.reconnect_timeout < LOGIN_PAUSE:
                    raise ConfigError(f"{self._node.address}: {refused}") from error
                self._pause(LOGIN_PAUSE)
            raise
        self._logins_refused = 0
        return wire

    def _ask(self, wire: HS2Connection, name: str, request: Any) -> Any:
        seconds = self._config.rpc_timeout
        wire.limit(min(seconds, POLL_SECONDS) if name in _LOOKING else seconds)
        return wire.call(name, request)

    @staticmethod
    def _mend(name: str, answer: Any) -> None:
        """A second close finds what the first has closed: that is no error."""
        from impala._thrift_gen.TCLIService.ttypes import TStatusCode

        if name in _ENDING and any(text in (status_error(answer) or "") for text in _NOT_KNOWN):
            answer.status.statusCode, answer.status.errorMessage = TStatusCode.SUCCESS_STATUS, None

    def _count(self, request: Any, answer: Any, first: BaseException | None) -> None:
        """Impala says at which row an answer begins (FetchInternal, ``startRowOffset``): so a lost one shows. Looked at
        each time: a call that was given up and made again may arrive after that, and take rows for nobody."""
        if status_error(answer) or answer.results is None or request.fetchType:
            return
        operation = request.operationHandle.operationId.guid
        guid, had = self._fetched
        had = had if guid == operation else 0
        if (answer.results.startRowOffset or 0) != had:
            how = f" ({describe(first)})" if first else ""
            raise RowsLost(f"rows {had + 1} to {answer.results.startRowOffset} were sent, and never arrived{how}")
        self._fetched = operation, had + rows_in(answer.results)


def _as_thrifts(error: Exception) -> Exception:
    """A socket's own error as thrift's: whoever fetches rows may have errors of a file, too, which are not ours."""
    from thrift.transport.TTransport import TTransportException

    return TTransportException(message=describe(error), inner=error) if isinstance(error, OSError) else error


def _hurried(config: SessionConfig, seconds: float) -> SessionConfig:
    return msgspec.structs.replace(config, open_timeout=seconds, rpc_timeout=seconds, reconnect_timeout=0.0)
