"""Did the statement run, and what may be done now? Every failure is classified here, by one table.

By its text, since Impala sends no error codes over HiveServer2. A message may quote anything: the statement, or a value
that could not be cast. So a rule that lets something be done counts where the message begins only, behind the names of
exceptions and what newer versions put around it ("Query <id> failed:\\n..."); one that leaves the outcome unknown does
anywhere. What no rule knows is unknown, unless the statement only reads.
"""

from __future__ import annotations

import re
from typing import Literal, NamedTuple

from airflow_provider_impala_lb.errors import Outcome
from airflow_provider_impala_lb.impala.sql.classification import Classification

Verdict = Literal["refused", "session", "wait", "not started", "done", "unknown", "user error"]
"""``refused``: not started, and this coordinator takes nothing new, another one may. ``session``: not started, or it
changed nothing, and the session is of no use any more: a new one may run it. ``wait``: not started, and another
coordinator would say the same; later it may go. The others as in :data:`errors.Outcome`."""


class Rule(NamedTuple):
    """One row of the table.

    :ivar text: a pattern, looked for where the message begins, or anywhere if it can only make the outcome unknown.
    :ivar instead: what it means where it came in place of a statement's handle.
    :ivar later: what it means once there was one.
    :ivar source: where the text comes from; in apache/impala unless it says otherwise.
    :ivar advice: what to do about it, for the error; "" where the outcome says enough.
    :ivar gone: the session may be gone with it.
    :ivar second_step: of a CREATE TABLE AS SELECT it may also come once the table is there.
    :ivar may_land: a call to the catalog service may go on behind it.
    :ivar after_change: the catalog service may say so once it has made a change, as it loads what it has changed.
    """

    text: str
    instead: Verdict
    later: Verdict
    source: str
    advice: str = ""
    gone: bool = False
    second_step: bool = False
    may_land: bool = False
    after_change: bool = False


_ELSEWHERE = "Another coordinator may take it"
_LATER = "All coordinators would say so for now: let it be tried again in a while"
_LIMIT = "It is a limit of the user, the pool or the script: a retry alone meets it again"
_IDLE = (
    "Does a proxy or firewall on the way end idle connections while it is planned? Raise its timeout then, or name the "
    "nodes' web pages (nodes: web), where the statement can be found and waited for"
)
_CATALOG = (
    "The catalog service is out of reach or failing over, and may have been at work on it: let it be looked at later"
)
_LOADED = "The catalog service loads what it has changed: the change may have been made before that failed"
_HALF = "The table may have been created without its rows: look, and drop it before the script runs again"
_FIRST = "It was sent before, and that first sending may have done it after all: look"
_METADATA = "If the object is new, its metadata have not arrived on this coordinator yet; a retry tells"

_SPARK_SAYS = (
    r"\Aorg\.apache\.hive\.service\.cli\.HiveSQLException: Error running query: \[[\w.]+\] org\.apache\.spark\.sql\."
)

RULES = (
    # First: it quotes the statement, which may hold any text.
    Rule(r"\A(Query \S+ failed:\s*)?ParseException", "user error", "unknown", "the frontend"),
    # Spark accepts a statement before it reads it. These are sure all the same: a statement is parsed as a whole before
    # any of it is run, and an error of the analyzer, which comes next, names the place in the text.
    Rule(_SPARK_SAYS + r"catalyst\.parser\.ParseException:", "user error", "user error", "Spark, ParseDriver.scala"),
    Rule(
        r"(?m)" + _SPARK_SAYS + r"AnalysisException: (?:(?!Caused by:).)*; line \d+ pos \d+;?$",
        "not started",
        "not started",
        "Spark, CheckAnalysis.scala",
    ),
    Rule(
        r"Couldn't retrieve the catalog topic (update|version) for the SYNC_DDL operation.*"
        r"operation has been successfully executed",
        "done",
        "done",
        "CatalogServiceCatalog.java, SYNC_DDL: executed, 'but its effects may have not been broadcast'",
        second_step=True,
    ),
    # The node refuses new work.
    Rule(r"Server is being shut down", "refused", "unknown", "impala-hs2-server.cc, CheckNotShuttingDown", _ELSEWHERE),
    Rule(
        r"Number of sessions for user .* exceeds coordinator limit",
        "refused",
        "unknown",
        "impala-hs2-server.cc, max_hs2_sessions_per_user",
        _ELSEWHERE,
    ),
    # Admission comes after ExecuteStatement has answered: these are sure whenever they come.
    Rule(
        r"Rejected query from pool .*: queue full",
        "wait",
        "wait",
        "admission-controller.cc [107]",
        _LATER,
        second_step=True,
    ),
    Rule(
        r"Rejected query from pool",
        "not started",
        "not started",
        "admission-controller.cc [107]",
        _LIMIT,
        second_step=True,
    ),
    Rule(
        r"Admission for query exceeded timeout",
        "wait",
        "wait",
        "admission-controller.cc [108]",
        _LATER,
        second_step=True,
    ),
    Rule(
        r"Cannot schedule query: no registered backends", "wait", "wait", "scheduler.cc [93]", _LATER, second_step=True
    ),
    # The session. In place of a handle they mean that nothing was started. Once a statement has one they prove
    # nothing: its session may have been closed or reaped while it ran.
    Rule(
        r"(the connection failed while it was sent|its rows were lost)"
        r".*; it was sent (once|\d+ times) in \d+ s \([^()]*\)$",
        "not started",
        "not started",
        "ours: hs2/statement_lookup.py, Sendings",
        _IDLE,
    ),
    Rule(
        r"the (session was closed|connection had failed) before.*so it was not sent$",
        "session",
        "unknown",
        "ours: hs2/session.py, reconnecting_client.py",
        gone=True,
    ),
    Rule(
        r"the connection failed while it was sent.*; it never reached the coordinator$",
        "session",
        "session",
        "ours: hs2/statement_lookup.py",
        gone=True,
    ),
    Rule(
        r"Invalid session id|Invalid SessionHandle",
        "session",
        "unknown",
        "impala-server.cc, GetSessionState: restarted, or the session was dropped; Spark, Hive: SessionManager.java",
        gone=True,
    ),
    Rule(
        r"Client session expired due to more than",
        "session",
        "unknown",
        "impala-server.cc, idle_session_timeout",
        gone=True,
    ),
    Rule(
        r"Session (is|has been) closed",
        "session",
        "unknown",
        "impala-server.cc, GetSessionState, RegisterQuery",
        gone=True,
    ),
    Rule(
        r"Session closed",
        "unknown",
        "unknown",
        "impala-server.cc, SetQueryInflight: it had started",
        gone=True,
    ),
    Rule(
        r"Session expired due to inactivity",
        "unknown",
        "unknown",
        "generate_error_codes.py [126]",
        gone=True,
    ),
    Rule(
        r"Invalid or unknown query handle|Invalid query handle|Query id \S+ not found|Invalid OperationHandle",
        "unknown",
        "unknown",
        "impala-server.cc [150]: restarted, or it has forgotten it; Spark, Hive: OperationManager.java",
        gone=True,
    ),
    Rule(r"The user authorized on the connection", "user error", "unknown", "impala-server.cc, WithSession [136]"),
    # Limits and other people.
    Rule(
        r"expired due to client inactivity",
        "unknown",
        "unknown",
        "generate_error_codes.py [127], QUERY_TIMEOUT_S",
    ),
    Rule(
        r"expired due to execution time limit|terminated due to CPU limit|scan bytes limit|rows produced limit",
        "unknown",
        "unknown",
        "generate_error_codes.py [128] to [131], [151]",
        _LIMIT,
    ),
    Rule(r"\Apublish_timeout: ", "done", "done", "ours: hs2/operation.py, by the statement's timeline"),
    Rule(r"[Cc]ancelled", "unknown", "unknown", "client-request-state.cc; Impala's debug web interface"),
    # The cluster below the coordinator. A DML statement may have been past the point of no return.
    Rule(r"Memory limit exceeded|Failed to get minimum memory reservation", "unknown", "unknown", "[7], [106]", _LIMIT),
    Rule(
        r"Failed due to unreachable impalad|unresponsive backend|rpc failed|Disk I/O error|local disk IO fatal error",
        "unknown",
        "unknown",
        "generate_error_codes.py [110], [125], [133], [152]: an executor failed",
    ),
    # The answer to the last of up to 10 tries (DoRpcWithRetry, client-cache.h): an earlier one may have been sent, and
    # may be worked on. What is planned first makes no such call before it has a handle.
    Rule(
        r"Couldn't open transport for|RPC client failed to connect: |Request for Catalog service is rejected"
        r"|in standby mode|RPC recv timed out: |RPC Error: Client for ",
        "wait",
        "unknown",
        "the catalog service is down or failing over [30], [31], [58], [165]; thrift-client.cc",
        _CATALOG,
        second_step=True,
        may_land=True,
    ),
    Rule(
        r"InconsistentMetadataFetchException|LocalCatalogException",
        "wait",
        "unknown",
        "CatalogdMetaProvider.java, local_catalog_max_fetch_retries",
        _LATER,
    ),
    Rule(
        r"Failed to load metadata for table",
        "wait",
        "unknown",
        "TableLoadingException of HdfsTable.java, load; CatalogOpExecutor.java, alterTable: after the change, too",
        _LATER,
        after_change=True,
    ),
    # A wrong name, or metadata of another coordinator that have not arrived here yet.
    Rule(
        r"Could not resolve (table reference|path|column/field reference)|(Table|Database) does not exist",
        "not started",
        "unknown",
        "Analyzer.java",
        _METADATA,
    ),
    Rule(
        r"appears stale. Try running|could be due to stale metadata|Failed to open HDFS file",
        "unknown",
        "unknown",
        "generate_error_codes.py [59], [60]; hdfs-monitored-ops.cc: files that were replaced elsewhere",
        "REFRESH of the table mends it",
    ),
    # The user's own.
    Rule(r"Syntax error in line|AnalysisException", "user error", "unknown", "the frontend"),
    Rule(
        r"AuthorizationException|User( \S+)? (does not have privileges|is not authorized)",
        "user error",
        "unknown",
        "the frontend",
    ),
    Rule(
        r"Statement length of \d+ bytes exceeds the maximum", "user error", "unknown", "generate_error_codes.py [143]"
    ),
    Rule(r"Invalid query option", "user error", "unknown", "query-options.cc"),
    # The connection, in our words; reconnecting_client.py and statement_lookup.py have done what could be done.
    Rule(
        r"connection failed while it (was sent|ran)",
        "unknown",
        "unknown",
        "ours: hs2/session.py, operation.py",
        gone=True,
    ),
)
_PLANNED_FIRST = ("insert", "upsert", "update", "delete", "merge")
"""They change nothing before the client has a handle. All others may do all of their work before
(ENABLE_ASYNC_DDL_EXECUTION=0, and Impala before 4.1)."""
_OWN_EFFECT = {
    "create": re.compile("already exists"),
    "drop": re.compile("does not exist"),
    "alter": re.compile("already exists|does not exist|Could not resolve"),
}
_BEGIN = (
    r"\A\s*(?:Query \S+ failed:\s*)?"
    r"(?:(?:[A-Za-z_$][\w.$]*(?:Exception|Error): |RPC client failed to connect: )\s*)*"
)
"""What may stand before the text of an error. None of it is data."""


def _pattern(rule: Rule) -> re.Pattern[str]:
    anywhere = rule.text.startswith((r"\A", "(?m)")) or rule.instead == rule.later == "unknown"
    return re.compile(rule.text if anywhere else f"{_BEGIN}(?:{rule.text})", re.DOTALL)


_PATTERNS = [(_pattern(rule), rule) for rule in RULES]


_IDLE_TOO_LONG = re.compile(rf"{_BEGIN}Query \S+ expired due to client inactivity")
_HANDLE_GONE = re.compile(
    f"{_BEGIN}(?:Invalid or unknown query handle|Invalid query handle|Invalid session id|Session is closed)"
)


class ClassifiedFailure(NamedTuple):
    """What a failure means.

    :ivar verdict: what may be done now.
    :ivar outcome: whether the statement ran.
    :ivar advice: what to do about it, or "".
    :ivar may_land: with the outcome ``unknown``: a call to the catalog service may go on, so it may still change
        something.
    """

    verdict: Verdict
    outcome: Outcome
    advice: str = ""
    may_land: bool = False


def classify_failure(message: str, statement: Classification, *, accepted: bool) -> ClassifiedFailure:
    """What the failure of a statement means.

    CREATE TABLE AS SELECT is two steps: Impala creates the table, and then has its query admitted and run as any other
    (``client-request-state.cc``, ``ExecDdlRequestImpl``; with ENABLE_ASYNC_DDL_EXECUTION=0, or before Impala 4.1, all
    of that before the client has a handle). So what tells of the second step leaves the first one done.

    :param message: the error's.
    :param statement: which one failed.
    :param accepted: it had a query id: the coordinator had taken it when it failed.
    """
    rule = next((rule for pattern, rule in _PATTERNS if pattern.search(message)), None)
    verdict: Verdict = "unknown" if rule is None else rule.later if accepted else rule.instead
    may_land, after_change = (rule.may_land, rule.after_change) if rule is not None else (False, False)
    if (may_land or after_change) and not statement.changes_nothing and statement.verb not in _PLANNED_FIRST:
        verdict = "unknown"
    if statement.kind == "ctas" and rule is not None and rule.second_step:
        return ClassifiedFailure("unknown", "unknown", _HALF, may_land)
    if verdict == "unknown" and statement.changes_nothing:
        verdict = "session" if rule and rule.gone else "not started"  # it may run again
    outcome: Outcome = "not started" if verdict in ("refused", "session", "wait") else verdict  # type: ignore[assignment]
    if after_change and outcome == "unknown":
        return ClassifiedFailure(verdict, outcome, _LOADED)
    return ClassifiedFailure(verdict, outcome, rule.advice if rule else "", may_land)


def classify_again(message: str, statement: Classification, *, accepted: bool) -> ClassifiedFailure:
    """As :func:`classify_failure`, for a statement that was sent before and seems not to have run.

    A call to the catalog service goes on after its coordinator has given up on it, or is gone. So CREATE that finds its
    own object, or DROP and RENAME that do not find it any more, may see what the first sending has done.

    :param message: as :func:`classify_failure`.
    :param statement: as :func:`classify_failure`.
    :param accepted: as :func:`classify_failure`.
    """
    found = classify_failure(message, statement, accepted=accepted)
    own = _OWN_EFFECT.get(statement.verb)
    if own is not None and found.outcome in ("not started", "user error") and own.search(message):
        return ClassifiedFailure("unknown", "unknown", _FIRST)
    return found


def handle_gone(message: str) -> bool:
    """Whether the coordinator does not know the statement's handle: it has ended, and somebody has closed it.

    :param message: the error's.
    """
    return _HANDLE_GONE.search(message) is not None


def idle_too_long(message: str) -> bool:
    """Whether the coordinator has given the statement's rows up, since nobody fetched them (``QUERY_TIMEOUT_S``): a
    client that asks for its state only is none (``ClientRequestState::Wait``, ``MarkInactive``).

    :param message: the error's.
    """
    return _IDLE_TOO_LONG.search(message) is not None
