"""Wait for the end of a statement: polled, told of in the log, cancelled when its time is up."""

from __future__ import annotations

import time
from contextlib import suppress
from logging import getLogger
from typing import TYPE_CHECKING, Any, NoReturn

from airflow_provider_impala_lb.impala.hs2.ids import StatementError, progress_in, without_stack
from airflow_provider_impala_lb.impala.hs2.operation import Limits, next_poll

if TYPE_CHECKING:
    from airflow_provider_impala_lb.impala.hs2.session import Session

log = getLogger(__name__)

SLOW_SECONDS = 2.0
"""A statement that runs longer gets a line in the log with its id and web page, then progress lines."""
_CANCEL_SECONDS = 10.0
"""So long after its time was up a statement is still looked at: it may have come to its end just then."""


def wait_for_end(session: Session, start: float, limits: Limits) -> None:
    """Return when the session's statement has ended well.

    Only FINISHED is success: Spark and Hive answer a cancelled statement with CANCELED, which impyla's own loop takes
    for success.

    :param start: when it was sent, by the monotonic clock.
    :raises Cancelled: the session was.
    :raises StatementError: it failed, was cancelled, or cannot be asked for.
    """
    from impala._thrift_gen.TCLIService.ttypes import TOperationState

    next_progress = SLOW_SECONDS
    late, late_at, scanned_at = "", 0.0, 0.0
    while True:
        response = session.operation.status()
        state = TOperationState._VALUES_TO_NAMES.get(response.operationState, str(response.operationState))
        if state not in ("INITIALIZED_STATE", "PENDING_STATE", "RUNNING_STATE"):
            break
        session.stop.check()
        if limits.on_poll is not None:
            limits.on_poll()
        waited = time.monotonic() - start
        if late and waited - late_at >= _CANCEL_SECONDS:
            _fail(session, late)
        if not late:
            if limits.publish_timeout is not None and waited >= limits.publish_timeout:
                scanned_at = scanned_at or (waited if _is_scanned(session) else 0.0)
            late = _late(limits, waited, scanned_at)
            if late:
                late_at = waited
                session.operation.cancel()
        if waited >= next_progress:
            _say_progress(session, waited)
            next_progress = waited * 2
        pause = next_poll(waited - late_at)
        time.sleep(pause if limits.timeout is None or late else min(pause, max(0.001, limits.timeout - waited)))
    session.stop.check()
    session.operation.ended(response)
    if state != "FINISHED_STATE":
        _fail(session, late or without_stack(response.errorMessage or f"it ended in {state}"))


def _late(limits: Limits, waited: float, scanned_at: float) -> str:
    """Why its time is up, or ""."""
    if limits.timeout is not None and waited >= limits.timeout:
        return f"statement_timeout: it was cancelled after {limits.timeout:g} s"
    if limits.publish_timeout is not None and scanned_at and waited - scanned_at >= limits.publish_timeout:
        return (
            f"publish_timeout: it was cancelled, since {limits.publish_timeout:g} s after its work was done the other "
            "coordinators had not all heard of it"
        )
    return ""


def _fail(session: Session, why: str) -> NoReturn:
    session.operation.discard()
    raise StatementError(why, query_id=session.query_id)


def _is_scanned(session: Session) -> bool:
    """Whether its progress is at its end; DDL has none."""
    try:
        found = progress_in(session.operation.log_text())
    except Exception:  # a broken connection shows at the next poll
        return False
    return not found or " 100%" in found[-1]


def _say_progress(session: Session, waited: float) -> None:
    """One line about a slow statement, with Impala's own words for how much of the scan is done."""
    with suppress(Exception):  # a line is not worth a statement; a broken connection shows at the next poll
        found: list[Any] = progress_in(session.operation.log_text())
        page = f", {session.web}/query_plan?query_id={session.query_id}" if session.web else ""
        state = f": {found[-1]}" if found else ""
        log.info("Query %s has run on %s for %.0f s%s%s", session.query_id, session.node.address, waited, state, page)
