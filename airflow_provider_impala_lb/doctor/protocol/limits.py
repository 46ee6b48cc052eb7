"""Time limits, and what a statement that is being planned does when its session is closed."""

from __future__ import annotations

import threading
import time
from collections.abc import Iterator

from airflow_provider_impala_lb.doctor.finding import Finding
from airflow_provider_impala_lb.doctor.protocol.node import STATEMENT_SECONDS, TrialNode, one_line
from airflow_provider_impala_lb.impala.hs2.ids import StatementError
from airflow_provider_impala_lb.impala.hs2.operation import Limits
from airflow_provider_impala_lb.impala.hs2.session import Session
from airflow_provider_impala_lb.impala.statement.failure_rules import handle_gone, idle_too_long
from airflow_provider_impala_lb.impala.web.debug_pages import DebugPages, Query

_LIMITS = Limits(timeout=STATEMENT_SECONDS)
_IDLE_SECONDS = 6.0
"""For a query with QUERY_TIMEOUT_S=1 to be given up once it has its rows: it is looked at once a second or so."""


def try_limits(node: TrialNode) -> Iterator[Finding]:
    """EXEC_TIME_LIMIT_S and QUERY_TIMEOUT_S, each of one second.

    :param node: the coordinator.
    """
    yield _execution(node)
    yield from _inactivity(node)


def _execution(node: TrialNode) -> Finding:
    name, session = "EXEC_TIME_LIMIT_S", node.open()
    start = time.monotonic()
    session.submit(f"{node.label('limit')} SELECT sleep(6000)", options={"EXEC_TIME_LIMIT_S": "1"})
    since = (
        "" if node.proofs.version >= (4, 6) else " (by source it counts the time in a queue, too, up to 4.5, and DDL)"
    )
    try:
        session.wait(limits=_LIMITS)
    except StatementError as error:
        text = (
            f"a query of 6 s with a limit of 1 s ended after {time.monotonic() - start:.1f} s{since}: {one_line(error)}"
        )
        return node.proved(name, text) if "execution time limit" in str(error) else node.not_proved(name, text)
    return node.not_proved(name, "a query of 6 s with a limit of 1 s was not ended")


def _inactivity(node: TrialNode) -> Iterator[Finding]:
    """It counts once a query has its rows, and not while it runs: whoever is killed leaves a running one behind
    (``ClientRequestState::MarkInactive``)."""
    name, session = "QUERY_TIMEOUT_S", node.open()
    session.submit(f"{node.label('limit')} SELECT sleep(3000)", options={"QUERY_TIMEOUT_S": "1"})
    node.stop.sleep(2.3)
    try:
        session.operation.status()
    except StatementError as error:
        yield node.not_proved(name, f"it ended a query that was running: {one_line(error)}")
        return
    node.stop.sleep(0.7)
    ended: list[str] = []

    def has_ended() -> bool:
        try:
            reply = session.operation.status()
        except StatementError as error:
            ended.append(str(error))
        else:
            if reply.errorMessage:
                ended.append(str(reply.errorMessage))
        return bool(ended)

    if not node.until(has_ended, _IDLE_SECONDS):
        yield node.not_proved(name, f"a query whose rows nobody fetches was still there {_IDLE_SECONDS:g} s later")
    elif not (idle_too_long(ended[0]) or handle_gone(ended[0])):
        yield node.not_proved(name, f"a query whose rows nobody fetches ended in: {one_line(ended[0])}")
    else:
        text = "a running query is not ended, one whose rows nobody fetches is"
        yield node.proved(name, f"of 1 s: {text}: {one_line(ended[0])}")


_PLAN = f"EXPLAIN SELECT 1 AS n {'UNION ALL SELECT 1 ' * 2000}"
"""It changes nothing, and takes a while to be planned."""
_MEET_SECONDS = 3.0
"""For it to be seen on the page."""


def try_planning(node: TrialNode) -> Iterator[Finding]:
    """Close the session of a statement that is being planned.

    :param node: the coordinator.
    """
    name, session = "closing while planning", node.open()
    pages = session.pages
    if not node.proofs.pages or pages is None:
        yield node.not_tried(name, "without its pages nobody sees a statement that is planned")
        return
    label = node.label("planning")
    sending = _Sending(session, f"{label} {_PLAN}")
    sending.start()
    try:
        yield _close_under(node, name, sending, pages, label.nonce)
    finally:
        if not sending.is_over:  # its connection is in use
            session.end_now()


def _close_under(node: TrialNode, name: str, sending: _Sending, pages: DebugPages, nonce: str) -> Finding:
    node.until(lambda: sending.is_over or _found(pages, nonce) is not None, _MEET_SECONDS)
    if sending.is_over:
        return _not_met(node, name, sending)
    node.attach(sending.session).close()
    hidden = 0

    def is_over() -> bool:
        nonlocal hidden
        found, over = _found(pages, nonce), sending.is_over
        hidden += found is None and not over
        return over and not (found is not None and found.in_flight)

    closed_at = time.monotonic()
    over = node.until(is_over, STATEMENT_SECONDS)
    if over:
        sending.session.detach()
    if not over:
        return node.not_proved(name, f"{STATEMENT_SECONDS:g} s after its session was closed it is still there")
    if hidden:
        node.proofs.hides = True
        text = f"not proved: {hidden} copies of the page did not show it while it was planned"
        remedy = "a lost statement may be sent twice here: report it, with the version of Impala"
        return Finding(f"{name} on {node.address}", "failed", text, remedy)
    if not sending.error:
        return _not_met(node, name, sending)  # it was planned while its session was closed
    text = f"it is on the page until its end, {time.monotonic() - closed_at:.1f} s after its session was closed"
    return node.proved(name, f"{text}: {one_line(sending.error)}")


def _not_met(node: TrialNode, name: str, sending: _Sending) -> Finding:
    return node.not_tried(
        name,
        f"a long statement was planned within {sending.seconds:.1f} s, too soon to be met. By Impala's source (3.4 to "
        "5.0) it is on the page from before it is planned (ImpalaServer::RegisterQuery), and goes on when its session "
        "is closed",
    )


def _found(pages: DebugPages, nonce: str) -> Query | None:
    return pages.queries().labelled(nonce)


class _Sending(threading.Thread):
    """Sends a statement, which is answered once it is planned.

    :param session: in which it is sent.
    :param sql: with its label.
    :ivar session: as given.
    :ivar error: how it failed; "": it did not, as yet.
    :ivar is_over: it was answered.
    """

    def __init__(self, session: Session, sql: str) -> None:
        super().__init__(name="impala-lb doctor", daemon=True)
        self.error, self.is_over = "", False
        self.session, self._sql = session, sql
        self._started_at = self._over_at = time.monotonic()

    @property
    def seconds(self) -> float:
        """How long it took."""
        return self._over_at - self._started_at

    def run(self) -> None:
        """Send it."""
        try:
            self.session.submit(self._sql)
        except Exception as error:
            self.error = str(error)
        self._over_at, self.is_over = time.monotonic(), True
