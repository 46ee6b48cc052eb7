"""End what an earlier try of the same task left running, and see that it has ended, before this one runs anything.

Otherwise its INSERTs would run beside their living twins: a killed worker's statement goes on until the coordinator
notices that nobody asks for it (``QUERY_TIMEOUT_S``), a stopped worker may go on at any time.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping
from logging import Logger
from typing import TYPE_CHECKING

from airflow_provider_impala_lb.core.state.model import LEASE_SECONDS, LeftoverSession
from airflow_provider_impala_lb.errors import ConfigError, StillRunning
from airflow_provider_impala_lb.impala.hs2.connection_failure import NodeRefused, is_refused
from airflow_provider_impala_lb.impala.hs2.ids import StatementError, is_id
from airflow_provider_impala_lb.impala.web.debug_pages import DebugPages, ProbeFailed

if TYPE_CHECKING:
    from airflow_provider_impala_lb.core.cluster.cluster import Cluster
    from airflow_provider_impala_lb.impala.hs2.session import Session
    from airflow_provider_impala_lb.impala.hs2.session_factory import SessionFactory

SECONDS = 20.0
"""For one session to be seen ended, once its coordinator was told."""


def settle(
    cluster: Cluster,
    sessions: SessionFactory,
    owner: str,
    orphans: Mapping[str, LeftoverSession],
    pause: Callable[[float], None],
    log: Logger,
) -> None:
    """End each of these sessions.

    :param pause: waits so many seconds, or raises.
    :raises StillRunning: one could not be seen to end.
    """
    left = {}
    for lease_id, orphan in orphans.items():
        problem = _end(sessions, orphan, pause)
        if problem is None:
            log.info("Session %s of an earlier try on %s has ended", orphan.session, orphan.node)
        elif _over_by_itself(cluster, orphan):
            log.warning(
                "Session %s of an earlier try on %s cannot be looked at (%s); it had no client for longer than "
                "session.reconnect_timeout, after which the coordinator ends what runs in it",
                orphan.session,
                orphan.node,
                problem,
            )
        else:
            left[orphan.session] = f"{orphan.node}, query {orphan.query or 'unknown'}: {problem}"
            continue
        cluster.fencing.note_ended([lease_id])
    if left:
        raise StillRunning(owner, left)


def _over_by_itself(cluster: Cluster, orphan: LeftoverSession) -> bool:
    """Nobody has renewed its lease for so long that ``QUERY_TIMEOUT_S`` must have ended its query."""
    now = cluster.store.read()[1]
    return now - orphan.at > cluster.config.session.reconnect_timeout + LEASE_SECONDS


def _end(sessions: SessionFactory, orphan: LeftoverSession, pause: Callable[[float], None]) -> str | None:
    """Why it could not be seen to end, or None."""
    try:
        address = sessions.config.canonical(orphan.node)
    except ConfigError:
        return "it is not a node of this configuration any more"
    try:
        session = sessions.open(address)
    except NodeRefused as error:
        if error.__cause__ is not None and is_refused(error.__cause__):
            return None  # nobody listens: the process is gone, and with it all that it ran
        pages = sessions.pages(address)
        if pages is None:
            return str(error)
        return _by_pages(pages, orphan, pause)
    except ConfigError as error:
        return str(error)
    with session:
        if session.pages is not None:
            problem = _by_pages(session.pages, orphan, pause)
            if problem is None or not orphan.query:
                return problem
        elif not orphan.query:
            return "its coordinator has no web page to end it by (nodes: web), and its query is not known"
        return _by_kill(session, orphan)


def _by_pages(pages: DebugPages, orphan: LeftoverSession, pause: Callable[[float], None]) -> str | None:
    """Close the session on the coordinator's web page; it also cancels what runs in it."""
    until = time.monotonic() + SECONDS
    try:
        while True:
            if orphan.session in pages.sessions():
                pages.close_session(orphan.session)
            # A session that is off the page may still be waiting for its statements to end.
            if orphan.session not in pages.sessions() and orphan.query not in pages.running():
                return None
            if time.monotonic() >= until:
                return f"{pages.url}/sessions still shows it after {SECONDS:g} s"
            pause(0.2)
    except ProbeFailed as error:
        return str(error)


def _by_kill(session: Session, orphan: LeftoverSession) -> str | None:
    """KILL QUERY (Impala 4.5 and later) ends the query, and with its failure the script; the session stays.

    Only a query that was there to be killed proves something: a lease names its query some seconds late, so one that
    is not found may have been followed by another.
    """
    if not is_id(orphan.query):  # it comes from the shared state, and goes into SQL
        return f"{orphan.query!r} is not a query id"
    try:
        session.execute(f"KILL QUERY '{orphan.query}'")
        return None
    except StatementError as error:
        return f"KILL QUERY: {error}"
