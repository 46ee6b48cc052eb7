"""Did the statement run? Every failure is sorted here, by its text: Impala sends no error codes over HiveServer2.

Texts are matched anywhere in the message, since newer versions wrap them ("Query <id> failed:\\n...").
"""

from __future__ import annotations

import re
import ssl
from typing import Any

from airflow_provider_impala_lb.core.state import Cause
from airflow_provider_impala_lb.errors import ConfigError, ImpalaLBError, Outcome


class NodeRefused(ImpalaLBError):
    """This coordinator cannot take the work, and nothing of it was run: another one may be tried.

    :ivar cause: what the other workers should make of it: overload is not failure.
    """

    def __init__(self, why: str, cause: Cause = "failure") -> None:
        super().__init__(why)
        self.cause: Cause = cause


class Cancelled(Exception):
    """The script was told to stop."""


# The node refuses new work; apache/impala, be/src/service/impala-hs2-server.cc and generate_error_codes.py.
_NODE_REFUSES = re.compile(
    r"Server is being shut down"  # [120], CheckNotShuttingDown: OpenSession and ExecuteStatement alike
    r"|Number of sessions for user .* exceeds coordinator limit"
)

# CatalogServiceCatalog.java: "has been successfully executed but its effects may have not been broadcast"
_DONE = re.compile(r"operation has been successfully executed")
# Admission comes after ExecuteStatement has answered: these are sure whenever they come (admission-controller.cc).
_NOT_ADMITTED = re.compile(
    r"Rejected query from pool|Admission for query exceeded timeout|Cannot schedule query: no registered backends"
)
# In place of a handle these mean that nothing was started. Once a statement has one they prove nothing: its session may
# have been closed or reaped while it ran.
_NOT_STARTED = re.compile(
    _NODE_REFUSES.pattern + r"|so it was not sent$"  # ours, impala/session.py
    r"|Invalid session id"  # unknown here: the node was restarted, or dropped it
    r"|Client session expired due to more than"
    r"|Session is closed|Session has been closed, ignoring query"
    # A wrong name, or metadata of another coordinator that has not arrived here yet: a retry tells.
    r"|Could not resolve (table reference|path|column/field reference)"
    r"|(Table|Database) does not exist"
    r"|InconsistentMetadataFetchException|LocalCatalogException|Failed to load metadata for table"
)
_USER_ERROR = re.compile(
    r"ParseException|AnalysisException|AuthorizationException|Syntax error in line"
    r"|does not have privileges|is not authorized|exceeds the maximum statement length"
    r"|Invalid query option"
)
# Spark accepts a statement before it reads it. These are sure all the same: a statement is parsed as a whole before any
# of it is run, and an error of the analyzer, which comes next, names the place in the text.
_SPARK_SAYS = (
    r"\Aorg\.apache\.hive\.service\.cli\.HiveSQLException: Error running query: \[[\w.]+\] org\.apache\.spark\.sql\."
)
_SPARK_PARSER = re.compile(_SPARK_SAYS + r"catalyst\.parser\.ParseException:")
_SPARK_ANALYZER = re.compile(
    _SPARK_SAYS + r"AnalysisException: (?:(?!Caused by:).)*; line \d+ pos \d+;?$", re.DOTALL | re.M
)

_READS = re.compile(r"(select|values|show|describe|explain|with)\b", re.IGNORECASE)
_SESSION_ONLY = re.compile(r"(set|unset|use)\b", re.IGNORECASE)
_REPEATABLE = re.compile(r"(refresh|invalidate\s+metadata|compute\s+(incremental\s+)?stats)\b", re.IGNORECASE)
_LEADING = re.compile(r"(?:\s+|--[^\r\n]*|/\*.*?\*/|\()*", re.DOTALL)


def bare(sql: str) -> str:
    """The statement from its first word on, without the blanks, comments and parentheses before it."""
    return sql[_LEADING.match(sql).end() :]  # type: ignore[union-attr]  # it matches the empty string


def excerpt(sql: str, chars: int = 80) -> str:
    """How a statement begins, on one line, to recognise it by in a log."""
    text = " ".join(bare(sql)[: 4 * chars].split())
    return text if len(text) <= chars else text[: chars - 3] + "..."


def session_only(sql: str) -> bool:
    """SET and USE: they change the session and nothing else, so a script may begin anew after them."""
    return bool(_SESSION_ONLY.match(bare(sql)))


def changes_nothing(sql: str) -> bool:
    """True for statements that may run twice without harm: queries, SET, USE, REFRESH and the like."""
    text = bare(sql)
    if _READS.match(text):
        # WITH may lead an INSERT; a name such as "inserted" in a query only makes the answer more careful.
        return not re.search(r"\b(insert|upsert|update|delete|merge)\b", text, re.IGNORECASE)
    return bool(_SESSION_ONLY.match(text) or _REPEATABLE.match(text))


def outcome_of(message: str, sql: str, *, accepted: bool) -> Outcome:
    """Sort the failure of a statement. What no rule knows is unknown, unless the statement only reads.

    :param accepted: it had a query id: the coordinator had taken it when it failed.
    """
    if _DONE.search(message):
        return "done"
    if _SPARK_PARSER.match(message):
        return "user error"
    if _NOT_ADMITTED.search(message) or _SPARK_ANALYZER.match(message):
        return "not started"
    if not accepted:
        if _NOT_STARTED.search(message):
            return "not started"
        if _USER_ERROR.search(message):
            return "user error"
    return "not started" if changes_nothing(sql) else "unknown"


def node_refuses(message: str) -> bool:
    """True if the coordinator takes no new work: a statement answered so was not started."""
    return bool(_NODE_REFUSES.search(message))


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
        if error.type == TTransportException.SIZE_LIMIT:
            return f"answered in another protocol ({login}; does it want PLAIN or LDAP?)", "failure"
    return " ".join(text.split()), "failure"


def is_transport_failure(error: BaseException) -> bool:
    """The connection is no longer in step with the server, and must be thrown away.

    After a lost reply impyla reads the next one as if it were it (thrift's sequence ids are never checked), which
    shows as KeyError, TypeError or TApplicationException.
    """
    from thrift.Thrift import TException

    return isinstance(error, (TException, OSError, KeyError, TypeError, AttributeError))


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
