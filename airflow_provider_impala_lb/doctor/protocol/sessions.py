"""What ends a session or a statement of somebody who is gone: by its handle, on the page, by KILL QUERY."""

from __future__ import annotations

import time
from collections.abc import Iterator

from airflow_provider_impala_lb.core.timing import Deadline
from airflow_provider_impala_lb.doctor.finding import Finding
from airflow_provider_impala_lb.doctor.protocol.node import STATEMENT_SECONDS, TrialNode, one_line
from airflow_provider_impala_lb.impala.hs2.connection_failure import NodeRefused
from airflow_provider_impala_lb.impala.hs2.ids import StatementError
from airflow_provider_impala_lb.impala.hs2.operation import Limits
from airflow_provider_impala_lb.impala.hs2.session import Session

_DISCONNECTED_SECONDS = 2.0
"""So long a session is left without a connection; its own time limit is 900 s, and is read from the flags."""
_SLEEP = "SELECT sleep(6000)"
_LIMITS = Limits(timeout=STATEMENT_SECONDS)
_KILL_SINCE = (4, 5)
_NOT_OWN = "the pages are not known to be this coordinator's"


def try_sessions(node: TrialNode) -> Iterator[Finding]:
    """Does a session outlive its connection, and what closes it?

    :param node: the coordinator.
    """
    yield _outlives(node)
    yield _closed_by_secret(node)
    yield _closed_by_page(node)


def _outlives(node: TrialNode) -> Finding:
    name, session = "session without a connection", node.open()
    node.leave(session)
    node.stop.sleep(_DISCONNECTED_SECONDS)
    try:
        error = node.error_of(node.attach(session), "SET")
    except NodeRefused as refused:
        return node.not_proved(name, f"it was gone after {_DISCONNECTED_SECONDS:g} s: {one_line(refused)}")
    if error is not None:
        return node.not_proved(name, f"it is of no use after {_DISCONNECTED_SECONDS:g} s: {one_line(error)}")
    return node.proved(name, f"it was used over another one {_DISCONNECTED_SECONDS:g} s later")


def _closed_by_secret(node: TrialNode) -> Finding:
    name, session = "CloseSession by handle and secret", node.open()
    node.attach(session).close()
    error = node.error_of(session, "SET")
    session.detach()
    if error is None:
        text = "a session that was closed over another connection still takes statements"
        return Finding(
            f"{name} on {node.address}", "failed", f"not proved: {text}", "does a proxy before it answer in its place?"
        )
    node.proofs.closes_by_secret = True
    return node.proved(name, f"closed over another connection, it takes nothing any more: {one_line(error)}")


def _closed_by_page(node: TrialNode) -> Finding:
    name, session = "/close_session", node.open()
    if not node.proofs.pages or session.pages is None:
        return node.not_tried(name, _NOT_OWN)
    known = session.pages.close_session(session.id)
    if known and session.id in session.pages.sessions():
        return node.not_proved(name, "the page says that it closed a session, and still shows it")
    error = node.error_of(session, "SET")
    if known and error is not None:
        session.detach()
        node.proofs.closes_by_page = True
        return node.proved(name, f"the session takes nothing any more: {one_line(error)}")
    return node.not_proved(name, "a session is not closed by the page", "does the login for the pages allow it?")


def try_kills(node: TrialNode) -> Iterator[Finding]:
    """End an own query by the page, and by KILL QUERY.

    :param node: the coordinator.
    """
    yield _cancelled_by_page(node)
    yield _killed(node)


def _cancelled_by_page(node: TrialNode) -> Finding:
    """Only once its handle was answered: before, up to 4.3, it would stay there for ever (QueryDriver::Finalize)."""
    name, session = "/cancel_query", node.open()
    if not node.proofs.pages or session.pages is None:
        return node.not_tried(name, _NOT_OWN)
    session.submit(f"{node.label('page')} {_SLEEP}")
    if (problem := session.pages.cancel_query(session.query_id or "")) != "":
        return node.not_proved(name, problem, "does the login for the pages allow it?")
    return _ended_early(node, name, session)


def _killed(node: TrialNode) -> Finding:
    name, session = "KILL QUERY", node.open()
    if (0, 0) < node.proofs.version < _KILL_SINCE:
        return Finding(f"{name} on {node.address}", "ok", "not tried: Impala has it since 4.5")
    session.submit(f"{node.label('kill')} {_SLEEP}")
    problem = node.error_of(node.open(), f"KILL QUERY '{session.query_id}'")
    if problem is not None:
        return node.not_proved(name, one_line(problem), "a session is closed instead")
    finding = _ended_early(node, name, session)
    node.proofs.kills = finding.verdict == "ok"
    return finding


def _ended_early(node: TrialNode, name: str, session: Session) -> Finding:
    """It is waited for, and has to fail before its sleep is over."""
    start, most = time.monotonic(), Deadline(5.0)
    try:
        session.wait(limits=_LIMITS)
    except StatementError as error:
        text = f"{one_line(error)}, after {time.monotonic() - start:.1f} s"
        return node.not_proved(name, text) if most.passed() else node.proved(name, f"an own query ends in: {text}")
    return node.not_proved(name, "the query ran to its end")
