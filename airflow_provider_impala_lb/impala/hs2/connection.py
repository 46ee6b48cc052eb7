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
import socket
from contextlib import suppress
from logging import getLogger
from typing import Any

from airflow_provider_impala_lb.core.config.model import Node, SessionConfig
from airflow_provider_impala_lb.impala.hs2.connection_failure import UnreadableReply, describe
from airflow_provider_impala_lb.impala.hs2.replies import check_answer

log = getLogger(__name__)

_KEEPALIVE_IDLE = 60
_READERS = frozenset(
    ("impala", "impala_thrift_gen", "thrift", "thrift_sasl", "puresasl", "socket", "ssl", "codecs", "encodings")
)


class HS2Connection:
    """A connection that is logged in. ``client`` is impyla's generated HiveServer2 client; ``service`` its holder."""

    def __init__(self, node: Node, session: SessionConfig, password: str | None, timeout: float) -> None:
        """Connect and log in, within ``timeout`` seconds each. Raises whatever thrift and the socket raise."""
        from impala import dbapi

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
            user=user_of(session) if uses_password else None,
            password=(password or "") if uses_password else None,
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

        :raises UnreadableReply: there was a reply, and it cannot be made sense of.
        What thrift and the socket raise: the request or its reply was lost, or the server does not know the call.
        What else comes is wrong with the request, and nothing was sent; or a signal's handler has raised it.
        """
        getattr(self.client, f"send_{name}")(request)
        try:
            answer = getattr(self.client, f"recv_{name}")()
            check_answer(name, answer)
        except Exception as error:
            if not _is_unreadable(error):
                raise
            raise UnreadableReply(f"the reply to {name} cannot be read: {describe(error)}") from error
        return answer

    def limit(self, seconds: float) -> None:
        """From now on no read or write waits longer than this."""
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


def user_of(session: SessionConfig) -> str:
    """Whom the session belongs to. Never left to impyla, which on NOSASL takes the operating system's user
    whatever the login says (impyla#188)."""
    return session.user or getpass.getuser()


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
    return module.partition(".")[0] in _READERS or module in (__name__, check_answer.__module__)


def _innermost(client: Any) -> Any:
    """thrift's socket below the buffering or SASL transport, for its time limit."""
    transport = client._iprot.trans
    while not hasattr(transport, "setTimeout"):
        transport = getattr(transport, "_TBufferedTransport__trans", None) or transport._trans
    return transport


class _Quiet(logging.Filter):
    """impyla and thrift log tracebacks of calls that fail; the caller here says it in one line, with what follows."""

    def filter(self, record: logging.LogRecord) -> bool:
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
