"""What a connection that fails means: to a session that is being opened, and to one that is in use."""

from __future__ import annotations

import re
import ssl
from typing import Any

from airflow_provider_impala_lb.core.state import Cause
from airflow_provider_impala_lb.errors import ConfigError, ImpalaLBError


class NodeRefused(ImpalaLBError):
    """This coordinator cannot take the work, and nothing of it was run: another one may be tried.

    :ivar cause: what the other workers should make of it: overload is not failure.
    """

    def __init__(self, why: str, cause: Cause = "failure") -> None:
        super().__init__(why)
        self.cause: Cause = cause


class UnreadableReply(Exception):
    """A reply arrived and makes no sense: cut short, damaged, of another call, or not of this protocol.

    The server may have done what it was asked to. Raised by :class:`.Wire` alone, for whatever goes wrong while a reply
    is read (impyla's users met struct.error, EOFError, OverflowError, UnicodeDecodeError, TypeError and KeyError), so
    that an error of anything else is never taken for one.
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


def sort_open_failure(error: Exception, *, seconds: float, login: str) -> Exception:
    """A failure to connect, log in or open a session, as :class:`NodeRefused` or, for a bad login, ConfigError.

    :param seconds: the open timeout, for the text; ``login`` says who tried and how.
    """
    text = str(error) or type(error).__name__
    # thrift_sasl: "Bad status: 3 (b'Error validating the login')"
    if re.search(r"Bad status: \d|Error validating the login|SASL|delegate to", text, re.IGNORECASE):
        return ConfigError(f"the login was refused ({login}): {text}")
    why, cause = _why(error, text, seconds, login)
    return NodeRefused(why, cause)


def refusal(message: str) -> NodeRefused:
    """What a coordinator answered in place of a session, or of the first statement."""
    if "Server is being shut down" in message:
        return NodeRefused(message, "shutdown")
    return NodeRefused(message, "overload" if "exceeds coordinator limit" in message else "failure")


def _why(error: Exception, text: str, seconds: float, login: str) -> tuple[str, Cause]:
    from thrift.transport.TTransport import TTransportException

    inner = getattr(error, "inner", None)
    if isinstance(error, UnreadableReply):
        from thrift.protocol.TProtocol import TProtocolException

        cause = error.__cause__
        if isinstance(cause, TProtocolException) and cause.type == TProtocolException.BAD_VERSION:
            return f"answered in another protocol ({login}; does it want PLAIN or LDAP?)", "failure"
        return f"its answer cannot be read ({describe(error)})", "failure"
    if isinstance(inner, ConnectionRefusedError):
        return "connection refused: it is down, or still starting", "failure"
    if isinstance(error, ssl.SSLError) or isinstance(inner, ssl.SSLError):
        return f"TLS failed: {inner or error}", "failure"
    if isinstance(error, TTransportException):
        if error.type == TTransportException.NOT_OPEN and isinstance(inner, TimeoutError):
            return f"no answer to the connection within {seconds:g} s", "failure"
        if error.type == TTransportException.TIMED_OUT:
            # Nobody can tell these two apart from here: the milder one.
            return f"accepted the connection and stayed silent for {seconds:g} s: it is full, or stopped", "overload"
        if error.type == TTransportException.NOT_OPEN and inner is not None:
            return f"cannot be reached: {inner}", "failure"
        if error.type == TTransportException.END_OF_FILE or isinstance(inner, ConnectionError):
            return (
                f"closed the connection before a session was open ({login}; does it speak another auth_mechanism?)",
                "failure",
            )
    return " ".join(text.split()), "failure"
