"""What became of a statement that an earlier try sent, or was about to send.

It is looked for on its coordinator's web page by its label, and waited for if it still runs: ending it would leave its
outcome open. What is not there was not run, if the session it would have run in is closed, and the page can be trusted
to have kept it (lookup.py).
"""

from __future__ import annotations

import time
from collections.abc import Callable
from logging import Logger
from typing import TYPE_CHECKING

from airflow_provider_impala_lb.errors import ConfigError
from airflow_provider_impala_lb.impala.hs2.connection_failure import NodeRefused, is_refused
from airflow_provider_impala_lb.impala.hs2.failure_rules import classify_failure
from airflow_provider_impala_lb.impala.hs2.operation import next_poll
from airflow_provider_impala_lb.impala.hs2.statement_lookup import absence_doubt
from airflow_provider_impala_lb.impala.script.journal import Intent
from airflow_provider_impala_lb.impala.sql.statement import Classification
from airflow_provider_impala_lb.impala.web.debug_pages import DebugPages, ProbeFailed, Query

if TYPE_CHECKING:
    from airflow_provider_impala_lb.impala.hs2.session import Session
    from airflow_provider_impala_lb.impala.hs2.session_factory import SessionFactory

_LOOKS = (0.0, 0.2, 0.5)
_LONGEST_POLL = 10.0


class InDoubt(Exception):
    """Whether the statement ran is not known. :ivar may_clear_up: a later look may tell."""

    def __init__(self, why: str, *, may_clear_up: bool = False) -> None:
        super().__init__(why)
        self.may_clear_up = may_clear_up


def ran(
    sessions: SessionFactory,
    intent: Intent,
    statement: Classification,
    age: float,
    *,
    pause: Callable[[float], None],
    log: Logger,
) -> bool:
    """Whether the statement of ``intent`` ran to its end. On return nothing of it runs, or can still begin.

    :param age: seconds since the intent was written. :param pause: waits so many seconds, or raises.
    :raises Doubt: that cannot be found out.
    """
    sent_at = time.monotonic() - age
    try:
        address = sessions.config.canonical(intent.node)
    except ConfigError:
        raise InDoubt(f"{intent.node} is not a node of this configuration any more") from None
    try:
        session = sessions.open(address)
    except NodeRefused as error:
        gone = error.__cause__ is not None and is_refused(error.__cause__)
        text = "its coordinator is gone, and with it all that it knew" if gone else f"its coordinator says: {error}"
        raise InDoubt(text, may_clear_up=not gone) from error
    with session:
        pages = session.pages
        if pages is None:
            raise InDoubt("its coordinator has no web page to look at (nodes: web)")
        try:
            return _ran(session, pages, intent, statement, sent_at, pause, log)
        except ProbeFailed as error:
            raise InDoubt(f"its coordinator's page does not tell: {error}", may_clear_up=True) from error


def _ran(
    session: Session,
    pages: DebugPages,
    intent: Intent,
    statement: Classification,
    sent_at: float,
    pause: Callable[[float], None],
    log: Logger,
) -> bool:
    found = None
    for seconds in _LOOKS:
        if seconds:
            pause(seconds)
        found = pages.queries().labelled(intent.nonce)
        if found is not None:
            break
    if found is None:
        pages.close_session(intent.session)
        if intent.session in pages.sessions():
            raise InDoubt("its session could not be closed, so it may still begin", may_clear_up=True)
        page = pages.queries()
        found = page.labelled(intent.nonce)
        if found is None:
            doubt = absence_doubt(session, pages, page, sent_at)
            if doubt:
                raise InDoubt(doubt)
            log.info(
                "Statement %d never reached %s: its label is not on %s/queries", intent.number, intent.node, pages.url
            )
            return False
    status = _end_of(pages, found, intent, pause, log)
    if status == "OK":
        return True
    outcome = classify_failure(status, statement, accepted=True).outcome
    if outcome == "done":
        return True
    if outcome == "not started" or classify_failure(status, statement, accepted=False).outcome == "user error":
        return False
    raise InDoubt(f"query {found.id} ended in: {status or 'an unknown way'}")


def _end_of(pages: DebugPages, query: Query, intent: Intent, pause: Callable[[float], None], log: Logger) -> str:
    """Wait for its end: ``OK``, or the error's text."""
    start, said = time.monotonic(), False
    while query.in_flight and query.state not in ("FINISHED", "EXCEPTION", "ERROR"):
        if not said:
            log.info(
                "Statement %d, which an earlier try sent, still runs on %s as query %s: waiting for its end, %s",
                intent.number,
                intent.node,
                query.id,
                f"{pages.url}/query_plan?query_id={query.id}",
            )
            said = True
        pause(min(max(next_poll(time.monotonic() - start), 0.1), _LONGEST_POLL))
        query = pages.queries().labelled(intent.nonce) or query
    return pages.status(query.id)
