"""One connection to one coordinator, by impyla, with time limits that hold.

What impyla 0.24 does that has to be known here (its source, and measured):

* ``timeout`` is one value for TCP connect and for every read; ``retries`` multiplies it, so it is 1 here.
* An RPC on a closed socket opens it anew, silently; replies carry no sequence id that anybody checks. So after any
  transport failure the connection is thrown away, never used again.
* With ``use_ssl`` alone the server's certificate is not verified.
* thrift since 0.23 reads no string longer than 16,384,000 bytes unless told so (``string_length_limit``; its reader in
  C looks it up for each reply). Impala's own limit for a value is 2 GB (docs/topics/impala_string.xml).
* A reply of which a required field is missing is read without a word.
"""

from __future__ import annotations

import getpass
import logging
import math
import socket
from contextlib import suppress
from dataclasses import dataclass, field
from logging import getLogger
from typing import Any, Literal, NamedTuple

from msgspec.structs import replace

from airflow_provider_impala_lb.core.config.model import Node, SessionConfig
from airflow_provider_impala_lb.core.timing import Deadline
from airflow_provider_impala_lb.impala.hs2.ids import guid_of, is_id
from airflow_provider_impala_lb.impala.hs2.replies import UnreadableReply, check_reply, status_error

log = getLogger(__name__)

CANCEL_SECONDS = 4.0
"""To cancel and close from a second connection, in all: Airflow kills a task 5 s after it asked it to end."""
_KEEPALIVE_IDLE = 60
"""Seconds."""
_READERS = frozenset(
    ("impala", "impala_thrift_gen", "thrift", "thrift_sasl", "puresasl", "socket", "ssl", "codecs", "encodings")
)


@dataclass(frozen=True)
class Login:
    """What it takes to be connected to one coordinator, and logged in there.

    :ivar node: the coordinator.
    :ivar config: its ``auth_mechanism``, ``use_ssl``, time limits, and whatever else a session needs.
    :ivar password: for ``auth_mechanism`` PLAIN and LDAP; default None.
    """

    node: Node
    config: SessionConfig
    password: str | None = field(default=None, repr=False)

    @property
    def user(self) -> str:
        """Whom a session belongs to: ``session.user``, else the operating system's user.

        Never left to impyla, which on NOSASL takes the operating system's user whatever the login says (impyla#188).
        """
        return self.config.user or getpass.getuser()

    def limited(self, seconds: float | None) -> Login:
        """The same for a session that is not worth waiting for.

        :param seconds: each call takes at most, and a broken connection is tried anew for; None: as configured.
        """
        if seconds is None:
            return self
        config = replace(self.config, open_timeout=seconds, rpc_timeout=seconds, reconnect_timeout=seconds)
        return Login(self.node, config, self.password)

    def session_options(self, database: str | None) -> dict[str, str]:
        """OpenSession's configuration: the query options, and the database without a statement of its own.

        :param database: instead of the configuration's; None: that.
        """
        options = {"QUERY_TIMEOUT_S": str(math.ceil(self.config.reconnect_timeout))}  # 0 would be: never
        for key, value in self.config.query_options.items():
            options[key.upper()] = str(value).lower() if isinstance(value, bool) else str(value)
        database = database or self.config.database
        if database:
            options["use:database"] = database
        return options


class HS2Connection:
    """A connection that is logged in.

    :param login: where to, and as whom.
    :param timeout: seconds to connect, and as many for each read of the login; later for each read or write, see
        :meth:`limit`.
    :raises Exception: whatever thrift and the socket raise.
    :ivar connection: impyla's.
    :ivar service: impyla's holder of the client.
    :ivar client: impyla's generated HiveServer2 client.
    """

    def __init__(self, login: Login, timeout: float) -> None:
        from impala import dbapi

        node, session = login.node, login.config
        ssl_options = {}
        if session.use_ssl:
            ssl_options = {"use_ssl": True, "ca_cert": session.ca_cert}
            if session.verify_cert and not session.ca_cert:
                ssl_options["verify_cert"] = True
        uses_password = session.auth_mechanism in ("PLAIN", "LDAP")
        self.connection = dbapi.connect(
            host=node.host,
            port=node.port,
            timeout=timeout,
            auth_mechanism=session.auth_mechanism,
            user=login.user if uses_password else None,
            password=(login.password or "") if uses_password else None,
            kerberos_service_name=session.kerberos_service_name,
            krb_host=session.krb_host,
            retries=1,
            **ssl_options,
        )
        self.service = self.connection.service
        self.client = self.service.client
        protocol = self.client._iprot
        # What does not begin as a message of this protocol does is refused at once, whatever length it seems to have:
        # without that, a server that wants SASL would seem to announce megabytes.
        protocol.strictRead, protocol.string_length_limit = True, None
        self._socket, self._limit = _innermost(self.client), timeout
        # A firewall drops idle connections after some minutes: a statement of three hours is polled, a slow one to
        # plan is not. Impala itself sends probes only since 2025, every 600 s (IMPALA-14031).
        handle = getattr(self._socket, "handle", None)
        if handle is not None:
            handle.setsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE, 1)
            if hasattr(socket, "TCP_KEEPIDLE"):
                handle.setsockopt(socket.IPPROTO_TCP, socket.TCP_KEEPIDLE, _KEEPALIVE_IDLE)

    def call(self, name: str, request: Any) -> Any:
        """One call of HiveServer2, once.

        :param name: e.g. "OpenSession".
        :param request: that call's.
        :returns: its reply.
        :raises UnreadableReply: there was a reply, and it cannot be made sense of.
        :raises TException: the request or its reply was lost, or the server does not know the call.
        :raises OSError: the request or its reply was lost.
        :raises Exception: what else comes is wrong with the request, and nothing was sent; or a signal's handler has
            raised it.
        """
        getattr(self.client, f"send_{name}")(request)
        try:
            reply = getattr(self.client, f"recv_{name}")()
            check_reply(name, reply)
        except Exception as error:
            if not _is_unreadable(error):
                raise
            raise UnreadableReply(f"the reply to {name} cannot be read: {describe(error)}") from error
        return reply

    def limit(self, seconds: float) -> None:
        """From now on no read or write waits longer than this.

        :param seconds: 0.01 at least.
        """
        if seconds != self._limit:
            self._limit = seconds
            self._socket.setTimeout(max(seconds, 0.01) * 1000)

    def is_open(self) -> bool:
        """False if the other side is known to have hung up: a look at the socket, nothing is sent."""
        return bool(self._socket.isOpen())

    def interrupt(self) -> None:
        """For another thread: end the connection under whoever reads from it."""
        handle = getattr(self._socket, "handle", None)
        if handle is not None:
            with suppress(OSError):  # it has ended
                handle.shutdown(socket.SHUT_RDWR)

    def close(self) -> None:
        """Close the socket; the session on it lives on until it is closed, or the server gives it up."""
        self.connection.close()


def describe(error: BaseException) -> str:
    """A connection's error in few words; thrift's own often say "unexpected exception" and no more.

    :param error: as it came.
    """
    inner = getattr(error, "inner", None)
    text = " ".join(str(error).split()) or type(error).__name__
    return f"{text} ({inner})" if inner and str(inner) not in text else text


def _is_unreadable(error: Exception) -> bool:
    """Whether there was a reply, and the code that reads it has raised this. Not where the connection has ended, the
    server says that it does not know the call, or a signal's handler has raised it in the middle."""
    from thrift.Thrift import TApplicationException
    from thrift.transport.TTransport import TTransportException

    if isinstance(error, (TTransportException, OSError)):
        return False
    if isinstance(error, TApplicationException):
        return bool(error.type == TApplicationException.MISSING_RESULT)  # thrift's own: there was no answer in it
    traceback = error.__traceback__
    while traceback is not None and traceback.tb_next is not None:
        traceback = traceback.tb_next
    module = str(traceback.tb_frame.f_globals.get("__name__")) if traceback is not None else ""
    return module.partition(".")[0] in _READERS or module in (__name__, check_reply.__module__)


def _innermost(client: Any) -> Any:
    """thrift's socket below the buffering or SASL transport, for its time limit."""
    transport = client._iprot.trans
    while not hasattr(transport, "setTimeout"):
        transport = getattr(transport, "_TBufferedTransport__trans", None) or transport._trans
    return transport


Closed = Literal["closed", "unknown", "failed"]
"""What closing a session came to: the coordinator has closed it; does not know it; or it could not be asked."""


class Ending(NamedTuple):
    """What came of an attempt to end a session.

    :ivar problem: why it could not be ended, or None.
    :ivar seen: whether its statement was seen to end: CloseOperation has answered with success.
    :ivar closed: what closing the session came to.
    """

    problem: str | None
    seen: bool
    closed: Closed


def end_from_outside(login: Login, session: Any, operation: Any) -> Ending:
    """Cancel and close over a new connection: handles are good on any, with the same user (HiveServer2). Never raises.

    :param login: where to, and as whom.
    :param session: its handle.
    :param operation: the handle of the statement that runs, or None.
    """
    from impala._thrift_gen.TCLIService.ttypes import TCloseSessionReq

    deadline = Deadline(CANCEL_SECONDS)
    seen, problem = False, None
    if operation is not None:
        # First: it is what tells that the statement has ended, and a session that is closed does not know its handle.
        seen, problem = _close_operation(login, operation, deadline.remaining * 3 / 4)
    try:
        connection = HS2Connection(login, min(CANCEL_SECONDS / 2, deadline.remaining))
        try:
            connection.limit(deadline.remaining)
            refusal = status_error(connection.call("CloseSession", TCloseSessionReq(sessionHandle=session)))
        finally:
            connection.close()
    except Exception as error:
        return Ending(describe(error), seen, "failed")
    return Ending(refusal or problem, seen, closed_by(refusal))


def closed_by(refusal: str | None) -> Closed:
    """What CloseSession came to.

    :param refusal: the coordinator's answer, if it was no success.
    """
    if refusal is None:
        return "closed"
    return "unknown" if "Invalid session id" in refusal else "failed"


def _close_operation(login: Login, operation: Any, seconds: float) -> tuple[bool, str | None]:
    """Cancel a statement, and close it.

    :returns: whether that was answered with success, which it is once the statement's threads have ended
        (ClientRequestState::Finalize); and else why it was not.
    """
    from impala._thrift_gen.TCLIService.ttypes import TCancelOperationReq, TCloseOperationReq

    deadline = Deadline(seconds)
    try:
        connection = HS2Connection(login, min(CANCEL_SECONDS / 2, seconds))
        try:
            connection.limit(deadline.remaining)
            connection.call("CancelOperation", TCancelOperationReq(operationHandle=operation))
            connection.limit(deadline.remaining)
            problem = status_error(connection.call("CloseOperation", TCloseOperationReq(operationHandle=operation)))
        finally:
            connection.close()
    except Exception as error:
        problem = describe(error)
    return problem is None, problem


class EndedSession(NamedTuple):
    """What came of ending the session of another process.

    :ivar closed: what closing it came to.
    :ivar over: its statement was seen to end: CloseOperation has answered with success. It was the only one: a session
        runs one at a time, and this one takes no more.
    """

    closed: Closed
    over: bool


def end_another(login: Login, session_id: str, secret: bytes, query_id: str = "") -> EndedSession:
    """End the session of another process, and a statement of it, within 4 s. Never raises.

    :param login: where it is, and whose.
    :param session_id: as Impala prints it.
    :param secret: of the session, 16 bytes.
    :param query_id: of a statement that may run in it; default none is known.
    """
    from impala._thrift_gen.TCLIService.ttypes import (
        THandleIdentifier,
        TOperationHandle,
        TOperationType,
        TSessionHandle,
    )

    operation = None
    if is_id(query_id):  # its handle's secret is its session's (impala-hs2-server.cc, SecretArg::Operation)
        operation = TOperationHandle(
            THandleIdentifier(guid_of(query_id), secret), TOperationType.EXECUTE_STATEMENT, True
        )
    ending = end_from_outside(login, TSessionHandle(THandleIdentifier(guid_of(session_id), secret)), operation)
    if ending.closed == "failed":
        log.info("Session %s on %s could not be closed: %s", session_id, login.node.address, ending.problem)
    return EndedSession(ending.closed, ending.seen and ending.closed == "closed")


class _Quiet(logging.Filter):
    """impyla and thrift log tracebacks of calls that fail; the caller here says it in one line, with what follows."""

    def filter(self, record: logging.LogRecord) -> bool:
        if record.levelno <= logging.DEBUG:  # of whole requests: with secrets of sessions, and values of parameters
            return False
        return not str(record.msg).startswith(
            (
                "RPC failed",
                "Failed to open transport",
                "Could not connect to",
                "failed to resolve sockaddr",
                "failed to initialize SSL",
            )
        )


for _name in ("impala.hiveserver2", "thrift.transport.TSocket", "thrift.transport.TSSLSocket"):
    getLogger(_name).addFilter(_Quiet())
