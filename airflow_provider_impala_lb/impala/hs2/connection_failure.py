"""What a connection that fails means: to a session that is being opened, and to one that is in use."""

from __future__ import annotations

from typing import Any, Literal

from airflow_provider_impala_lb.core.state.model import Cause
from airflow_provider_impala_lb.errors import ImpalaLBError

Fault = Literal["node", "client", "login", "certificate", "unclear"]
"""Whose fault it is that a node did not take the work (open_failure.py sorts it; refusals.py draws the conclusions).

* ``node``: it is down, silent, full or going. All workers may be told.
* ``client``: this host's, or its configuration's: a name that it cannot resolve, a route or a file that it lacks. That
  says nothing about the node, so nobody else is told.
* ``login``, ``certificate``, ``unclear``: the two do not agree on the login, the certificate, or something else. If
  another node agrees with this client, it was the first node's fault; if it refuses for the same reason, this client's.
"""


class NodeRefused(ImpalaLBError):
    """This coordinator cannot take the work, and nothing of it was run: another one may be tried.

    :ivar cause: what the other workers should make of it, if the fault is the node's: overload is not failure.
    :ivar fault: whose fault it is.
    """

    def __init__(self, why: str, cause: Cause = "failure", fault: Fault = "node") -> None:
        super().__init__(why)
        self.cause: Cause = cause
        self.fault: Fault = fault


class UnreadableReply(Exception):
    """A reply arrived and makes no sense: cut short, damaged, of another call, or not of this protocol.

    The server may have done what it was asked to. Raised by `HS2Connection` alone, for whatever goes wrong while a
    reply is read (impyla's users met struct.error, EOFError, OverflowError, UnicodeDecodeError, TypeError and
    KeyError), so that an error of anything else is never taken for one.
    """


def is_transport_failure(error: BaseException) -> bool:
    """Whether the request or its reply was lost on the way: the connection must be thrown away.

    thrift raises TTransportException and OSError, and TApplicationException where the server could not make sense of
    the request, or has no reply to it.
    """
    from thrift.Thrift import TApplicationException
    from thrift.transport.TTransport import TTransportException

    return isinstance(error, (TTransportException, TApplicationException, UnreadableReply, OSError))


def is_unreadable(error: BaseException) -> bool:
    """Whether there was a reply, and it was of no use: the next one to the same request may be no better."""
    from thrift.Thrift import TApplicationException

    return isinstance(error, (UnreadableReply, TApplicationException))


def is_timeout(error: BaseException) -> bool:
    """Whether the other side took the request, and no answer came in time."""
    from thrift.transport.TTransport import TTransportException

    return isinstance(error, TTransportException) and error.type == TTransportException.TIMED_OUT


def is_refused(error: BaseException) -> bool:
    """Nobody listens there: the coordinator's process is gone, and with it all that it knew."""
    return isinstance(getattr(error, "inner", None) or error, ConnectionRefusedError)


def is_unknown_method(error: BaseException, name: str) -> bool:
    """A whole answer: the server does not have this call. Spark and Hive lack Impala's own."""
    from thrift.Thrift import TApplicationException

    return (
        isinstance(error, TApplicationException)
        and error.type == TApplicationException.UNKNOWN_METHOD
        and name in str(error)
    )


def describe(error: BaseException) -> str:
    """A transport's error in few words; thrift's own often say "unexpected exception" and no more."""
    inner = getattr(error, "inner", None)
    text = " ".join(str(error).split()) or type(error).__name__
    return f"{text} ({inner})" if inner and str(inner) not in text else text


def status_error(response: Any) -> str | None:
    """The error text of a HiveServer2 answer, or None if it is a success."""
    from impala._thrift_gen.TCLIService.ttypes import TStatusCode

    status = response.status
    if status.statusCode in (
        TStatusCode.SUCCESS_STATUS,
        TStatusCode.SUCCESS_WITH_INFO_STATUS,
        TStatusCode.STILL_EXECUTING_STATUS,
    ):
        return None
    return status.errorMessage or "an error without a text"


def refusal(message: str) -> NodeRefused:
    """What a coordinator answered in place of a session, or of the first statement."""
    if "Server is being shut down" in message:
        return NodeRefused(message, "shutdown")
    if "exceeds coordinator limit" in message:
        return NodeRefused(message, "overload")
    if "not authorized to delegate" in message:  # impala-server.cc, AuthorizeProxyUser
        return NodeRefused(message, fault="login")
    return NodeRefused(message, fault="unclear")
