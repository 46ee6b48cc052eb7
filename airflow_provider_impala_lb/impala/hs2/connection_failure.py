"""What a connection that fails means: to one that is in use, and to a session that is being opened.

A call that fails in use: was the request or its reply lost, is the process gone, can it be asked again?

Why a session could not be opened, and whose fault that is: the node's, or this client's. What only this host lacks (a
name in its DNS, a route, file descriptors, a CA file, a client library) must not count against the node: each host that
shares the state would leave it out for it.

How a login is refused, by source: Impala closes the connection without a word (apache/impala, be/src/transport/
TSaslTransport.cpp, doSaslNegotiation rethrows, and the acceptor drops the connection); HiveServer2 and Spark answer
``Bad status: 3``. To a client with another ``auth_mechanism``, or without TLS, it looks alike.
"""

from __future__ import annotations

import errno
import socket
import ssl
import time
from collections.abc import Callable
from contextlib import suppress
from logging import getLogger
from typing import Literal, TypeVar

from airflow_provider_impala_lb.core.config.model import Node
from airflow_provider_impala_lb.core.state.model import Cause
from airflow_provider_impala_lb.errors import ConfigError, ImpalaLBError
from airflow_provider_impala_lb.impala.hs2.connection import HS2Connection, Login, describe
from airflow_provider_impala_lb.impala.hs2.replies import UnreadableReply

log = getLogger(__name__)

T = TypeVar("T")

Fault = Literal["node", "client", "login", "certificate", "unclear"]
"""Whose fault it is that a node did not take the work: `classify_open_failure` tells, `Refusals` draws the conclusions.

* ``node``: it is down, silent, full or going. All workers may be told.
* ``client``: this host's, its configuration's or the script's: a name that it cannot resolve, a route or a file that it
  lacks, a database that is dropped. That says nothing about the node, so nobody else is told.
* ``login``, ``certificate``, ``unclear``: the two do not agree on the login, the certificate, or something else. If
  another node agrees with this client, it was the first node's fault; if it refuses for the same reason, this client's.
"""

_RESOURCES = {errno.EMFILE, errno.ENFILE, errno.ENOMEM, errno.ENOBUFS}
_HERE = _RESOURCES | {
    errno.EADDRNOTAVAIL,  # no local port is free
    errno.EAFNOSUPPORT,
    errno.ENETUNREACH,
    errno.ENETDOWN,
    errno.EACCES,  # a firewall on this host, connect(2)
    errno.EPERM,
}
"""What connect(2) and socket(2) say of this host alone."""
_IDLE_SECONDS = 0.5
_LOGIN_SECONDS = 3.0
"""Whoever hangs up on a login later than this may as well be full (``--accepted_client_cnxn_timeout``)."""


class NodeRefused(ImpalaLBError):
    """This coordinator cannot take the work, and nothing of it was run: another one may be tried.

    :param reason: a sentence without a full stop.
    :param cause: what the other workers should make of it, if the fault is the node's: overload is not failure; default
        "failure".
    :param fault: whose fault it is; default "node".
    :ivar cause: as given.
    :ivar fault: as given.
    """

    def __init__(self, reason: str, cause: Cause = "failure", fault: Fault = "node") -> None:
        super().__init__(reason)
        self.cause: Cause = cause
        self.fault: Fault = fault


def is_transport_failure(error: BaseException) -> bool:
    """Whether the request or its reply was lost on the way: the connection must be thrown away.

    thrift raises TTransportException and OSError, and TApplicationException where the server could not make sense of
    the request, or has no reply to it.

    :param error: of a call.
    """
    from thrift.Thrift import TApplicationException
    from thrift.transport.TTransport import TTransportException

    return isinstance(error, (TTransportException, TApplicationException, UnreadableReply, OSError))


def is_unreadable(error: BaseException) -> bool:
    """Whether there was a reply, and it was of no use: the next one to the same request may be no better.

    :param error: of a call.
    """
    from thrift.Thrift import TApplicationException

    return isinstance(error, (UnreadableReply, TApplicationException))


def is_timeout(error: BaseException) -> bool:
    """Whether the other side took the request, and no answer came in time.

    :param error: of a call.
    """
    from thrift.transport.TTransport import TTransportException

    return isinstance(error, TTransportException) and error.type == TTransportException.TIMED_OUT


def is_refused(error: BaseException) -> bool:
    """Whether nobody listens there: the coordinator's process is gone, and with it all that it knew.

    :param error: of an attempt to connect.
    """
    return isinstance(getattr(error, "inner", None) or error, ConnectionRefusedError)


def is_unknown_method(error: BaseException, name: str) -> bool:
    """Whether it is a whole answer: the server does not have this call. Spark and Hive lack Impala's own.

    :param error: of a call.
    :param name: of that call.
    """
    from thrift.Thrift import TApplicationException

    return (
        isinstance(error, TApplicationException)
        and error.type == TApplicationException.UNKNOWN_METHOD
        and name in str(error)
    )


def refusal(message: str) -> NodeRefused:
    """What a coordinator answered in place of a session, or of the first statement.

    :param message: its text.
    :returns: the error to raise.
    """
    if "Server is being shut down" in message:
        return NodeRefused(message, "shutdown")
    if "exceeds coordinator limit" in message:
        return NodeRefused(message, "overload")
    if "not authorized to delegate" in message:  # impala-server.cc, AuthorizeProxyUser
        return NodeRefused(message, fault="login")
    return NodeRefused(message, fault="unclear")


def ask_anew(login: Login, ask: Callable[[HS2Connection], T]) -> T:
    """Connect, log in and ask for something, all within ``session.open_timeout`` seconds. Where the reply cannot be
    read, this is done once more.

    :param login: where to, and as whom.
    :param ask: asks over the connection that it gets, which stays open if it returns.
    :returns: what ``ask`` returns.
    :raises NodeRefused: by ``ask``; or there was no connection, or no reply.
    :raises ConfigError: a file or a library that the configuration needs is missing on this host.
    """
    start = time.monotonic()

    def attempt() -> T:
        connection = HS2Connection(login, login.config.open_timeout)
        try:
            connection.limit(login.config.open_timeout - (time.monotonic() - start))
            return ask(connection)
        except BaseException:  # a task's time limit may come here too
            connection.close()
            raise

    try:
        try:
            return attempt()
        except UnreadableReply as error:
            log.warning("%s, and is asked again over another connection: %s", login.node.address, error)
            return attempt()
    except NodeRefused:
        raise
    except Exception as error:
        raise classify_open_failure(error, login, time.monotonic() - start) from error


def classify_open_failure(error: Exception, login: Login, elapsed: float) -> NodeRefused | ConfigError:
    """A failure to connect, log in or open a session, as the error to raise.

    :param error: as it came.
    :param login: where to, and as whom.
    :param elapsed: seconds since it was begun to connect.
    :returns: ConfigError, if only this host's configuration can mend it, without a doubt; else `NodeRefused`.
    """
    inner = getattr(error, "inner", None) or error
    wrong = _wrong_here(error, login)
    if wrong is not None:
        return ConfigError(f"{wrong} (on this host, {socket.gethostname()}; nothing was sent)")
    own = _own_trouble(inner, login.node)
    if own is not None:
        return NodeRefused(f"{own}. That is a matter of this host, so it is not held against the node", fault="client")
    return _refused(error, inner, login, elapsed)


def _wrong_here(error: Exception, login: Login) -> str | None:
    """What is wrong with the configuration's files or libraries; None: they are not why."""
    from thrift.transport.TTransport import TTransportException

    config = login.config
    if isinstance(error, ImportError):
        return f"session.auth_mechanism {config.auth_mechanism}: its client library is missing: {error}"
    if isinstance(error, TTransportException) and "Could not start SASL" in str(error):
        # Before the first message. Without `kerberos` pure-sasl knows no GSSAPI (puresasl/client.py, choose_mechanism).
        return (
            f"session.auth_mechanism {config.auth_mechanism}: cannot be used here: {error}. GSSAPI needs the Python "
            "package kerberos"
        )
    if config.use_ssl and config.ca_cert and isinstance(error, OSError):
        try:
            ssl.create_default_context(cafile=config.ca_cert)
        except OSError as problem:  # of which ssl.SSLError is one: no certificate in it
            if isinstance(problem, ssl.SSLError):
                return f"session.ca_cert: {config.ca_cert}: holds no certificate in PEM form"
            if problem.errno not in _RESOURCES:
                return f"session.ca_cert: {config.ca_cert}: {problem.strerror}"
    return None


def _own_trouble(inner: BaseException, node: Node) -> str | None:
    """What this host cannot do; None: it is not that."""
    if isinstance(inner, socket.gaierror):
        return f"the name {node.host} cannot be resolved here ({inner.strerror or inner})"
    if isinstance(inner, OSError) and not isinstance(inner, ssl.SSLError):
        if inner.errno in _HERE:
            return f"it cannot be reached from here: {inner.strerror}"
        if inner.errno == errno.EHOSTUNREACH and not _has_route(node):
            return f"it cannot be reached from here: {inner.strerror}"
        return None
    kerberos = type(inner).__module__.partition(".")[0] in ("kerberos", "winkerberos", "gssapi")  # no ticket, say
    not_a_name = isinstance(inner, UnicodeError) and not isinstance(inner, UnicodeDecodeError)  # the codec idna
    if kerberos or not_a_name or isinstance(inner, MemoryError):
        return f"{type(inner).__name__}: {' '.join(str(inner).split())}"
    return None


def _has_route(node: Node) -> bool:
    """Whether this host knows a way to the node: EHOSTUNREACH may also be a router's word, or the silence of a machine
    that is off. To connect a UDP socket looks into the routing table, and sends nothing."""
    try:
        for family, _, _, _, address in socket.getaddrinfo(node.host, node.port, type=socket.SOCK_DGRAM):
            with socket.socket(family, socket.SOCK_DGRAM) as probe:
                probe.connect(address)
    except OSError:
        return False
    return True


def _refused(error: Exception, inner: BaseException, login: Login, elapsed: float) -> NodeRefused:
    from thrift.transport.TTransport import TTransportException

    node, config = login.node, login.config
    text = " ".join(str(error).split()) or type(error).__name__
    who = f"user {login.user!r}, auth_mechanism {config.auth_mechanism}"
    seconds = f"{config.open_timeout:g} s"
    if isinstance(error, UnreadableReply):
        return _unreadable(error, who)
    if isinstance(inner, ConnectionRefusedError):
        return NodeRefused("connection refused: it is down, or still starting")
    if isinstance(inner, ssl.SSLCertVerificationError):
        by = config.ca_cert or "the system's certificate authorities"
        return NodeRefused(
            f"its TLS certificate was not accepted: {inner.verify_message} (checked for {node.host} by {by})",
            fault="certificate",
        )
    if isinstance(inner, ssl.SSLError):
        return NodeRefused(f"TLS failed: {inner} (does it speak TLS?)", fault="unclear")
    if isinstance(inner, TimeoutError) and "handshake" in str(inner):
        return NodeRefused(f"no answer to the TLS handshake within {seconds} (does it speak TLS?)", fault="unclear")
    if isinstance(error, TTransportException):
        if error.type == TTransportException.TIMED_OUT:
            # Nobody can tell these two apart from here: the milder one. A server without SASL or TLS waits, too: for
            # the rest of what it takes our first bytes for.
            fault = "node" if config.auth_mechanism == "NOSASL" and not config.use_ssl else "unclear"
            return NodeRefused(
                f"accepted the connection and stayed silent for {seconds}: it is full, or stopped",
                "overload",
                fault,  # type: ignore[arg-type]
            )
        if error.type == TTransportException.NOT_OPEN and isinstance(inner, TimeoutError):
            return NodeRefused(f"no answer to the connection within {seconds}")
        if text.startswith(("Bad status", "Bad SASL result")):
            return NodeRefused(f"the login was refused ({who}): {text}", fault="login")
        if error.type == TTransportException.END_OF_FILE or isinstance(inner, ConnectionError):
            if not _stays_open(node):
                return NodeRefused("closes every connection: it is down, or still starting")
            reason = f"closed the connection before a session was open ({who}; does it speak another auth_mechanism"
            if config.auth_mechanism == "NOSASL" or elapsed > _LOGIN_SECONDS:
                return NodeRefused(f"{reason}?)", fault="unclear")
            return NodeRefused(f"{reason}, or is the password wrong?)", fault="login")
        if error.type == TTransportException.NOT_OPEN and inner is not error:
            return NodeRefused(f"cannot be reached: {inner}")
    return NodeRefused(text, fault="unclear")


def _unreadable(error: UnreadableReply, who: str) -> NodeRefused:
    from thrift.protocol.TProtocol import TProtocolException

    cause = error.__cause__
    if isinstance(cause, TProtocolException) and cause.type == TProtocolException.BAD_VERSION:
        return NodeRefused(f"answered in another protocol ({who}; does it want PLAIN, LDAP or TLS?)", fault="login")
    return NodeRefused(f"its answer cannot be read ({describe(error)})", fault="unclear")


def _stays_open(node: Node) -> bool:
    """Whether a connection on which nothing is sent stays open for half a second: then a server is there, and it was
    what we sent that it did not like. A proxy without a server behind it hangs up at once."""
    with suppress(OSError), socket.create_connection((node.host, node.port), timeout=_IDLE_SECONDS) as probe:
        try:
            return bool(probe.recv(1))
        except TimeoutError:
            return True
    return False
