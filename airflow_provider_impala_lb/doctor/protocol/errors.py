"""The texts of errors: does the table of `failure_rules` know those of this cluster? Impala sends no error codes."""

from __future__ import annotations

from collections.abc import Callable, Iterator

import msgspec

from airflow_provider_impala_lb.doctor.finding import Finding
from airflow_provider_impala_lb.doctor.protocol.node import TrialNode, one_line
from airflow_provider_impala_lb.impala.hs2.ids import StatementError
from airflow_provider_impala_lb.impala.hs2.session import Session
from airflow_provider_impala_lb.impala.sql.classification import classify
from airflow_provider_impala_lb.impala.statement.failure_rules import classify_failure, handle_gone

_SAFE = ("not started", "user error")
_LONG = 2000
_REMEDY = (
    "a statement that fails with this text is taken for one that may have run: report it, with the version of Impala"
)


class _Case(msgspec.Struct, frozen=True):
    """One error that is provoked.

    :ivar name: what it is.
    :ivar text: how the coordinator says it; None: it said none.
    :ivar is_known: the table reads it as it is meant.
    """

    name: str
    text: str | None
    is_known: bool


def try_errors(node: TrialNode) -> Iterator[Finding]:
    """Provoke errors, and look what the table makes of them.

    :param node: the coordinator.
    """
    session = node.open()
    table = node.new_table()
    node.execute(session, f"CREATE TABLE {table} (n INT, slept BOOLEAN)")
    cases = [*_refused(node, session, table), _unknown_handle(node), _cancelled(node), _closed(node, table)]
    for case in (case for case in cases if case.text is None):
        yield node.not_proved("error texts", f"{case.name}: no error came")
    for case in (case for case in cases if case.text is not None and not case.is_known):
        yield node.not_proved("error texts", f"{case.name}: not known: {case.text!r}", _REMEDY)
    known = [case.name for case in cases if case.is_known]
    if known:
        yield node.proved("error texts", f"{len(known)} of {len(cases)} are read as they are meant: {', '.join(known)}")


def _refused(node: TrialNode, session: Session, table: str) -> Iterator[_Case]:
    """Each of these changes something, so that the table has to know its error: what only reads may run again."""
    missing = f"{table[:-1]}_no`"
    insert = f"INSERT INTO {table} VALUES (1, true)"  # noqa: S608 (own name)
    tries: list[tuple[str, str, dict[str, str]]] = [
        ("syntax error", f"INSRT INTO {table} VALUES (1, true)", {}),
        ("analysis", f"INSERT INTO {table} VALUES (1)", {}),  # noqa: S608 (own name)
        ("table not found", f"INSERT INTO {missing} VALUES (1, true)", {}),  # noqa: S608 (own name)
        ("CREATE of what is there", f"CREATE TABLE {table} (n INT)", {}),
        ("DROP of what is not there", f"DROP TABLE {missing}", {}),
        ("unknown query option", insert, {"IMPALA_LB_NO_SUCH_OPTION": "1"}),
        ("statement too long", f"{insert} /* {'.' * _LONG} */", {"MAX_STATEMENT_LENGTH_BYTES": "1024"}),
    ]
    for name, sql, options in tries:
        error = node.error_of(session, sql, options=options)
        yield _case(name, sql, error, lambda outcome, verdict: outcome in _SAFE)


def _case(name: str, sql: str, error: StatementError | None, is_meant: Callable[[str, str], bool]) -> _Case:
    if error is None:
        return _Case(name, None, False)
    found = classify_failure(str(error), classify(sql), accepted=error.query_id is not None)
    return _Case(name, one_line(error), is_meant(found.outcome, found.verdict))


def _closed(node: TrialNode, table: str) -> _Case:
    """A statement in a session that was closed meanwhile over another connection."""
    session = node.open()
    node.attach(session).close()
    sql = f"INSERT INTO {table} VALUES (1, true)"  # noqa: S608 (own name)
    error = node.error_of(session, sql)
    session.detach()
    return _case("invalid session id", sql, error, lambda outcome, verdict: verdict == "session")


def _unknown_handle(node: TrialNode) -> _Case:
    session = node.open()
    session.adopt("0123456789abcdef:0123456700000000")
    try:
        session.operation.status()
    except StatementError as error:
        return _Case("invalid query handle", one_line(error), handle_gone(str(error)))
    finally:
        session.operation.discard()
    return _Case("invalid query handle", None, False)


def _cancelled(node: TrialNode) -> _Case:
    """Cancelled by its own client. What was cancelled may have run, so its outcome has to stay unknown."""
    session = node.open()
    session.submit(f"{node.label('cancel')} SELECT sleep(3000)")
    session.operation.cancel()
    try:
        session.wait()
    except StatementError as error:
        found = classify_failure(str(error), classify("INSERT INTO t VALUES (1)"), accepted=True)
        known = found.outcome == "unknown" and "ancelled" in str(error)
        return _Case("cancelled", one_line(error), known)
    return _Case("cancelled", None, False)
