"""The first step of every pick: end what is past its time."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from airflow_provider_impala_lb.core.rules import queue
from airflow_provider_impala_lb.core.rules.clock_agreement import latest_clock, note_unknown_hosts
from airflow_provider_impala_lb.core.rules.ejection import forget_old
from airflow_provider_impala_lb.core.rules.retention import bound_records
from airflow_provider_impala_lb.core.rules.supersession import note_leftover
from airflow_provider_impala_lb.core.state.model import Lease
from airflow_provider_impala_lb.core.state.record_log import RecordLog
from airflow_provider_impala_lb.core.state.state import State

_LOOK_AGAIN_SECONDS = 600.0


def end_expired(
    state: State,
    now: float,
    dead: frozenset[str] = frozenset(),
    has_lapsed: Callable[[str, float], bool] | None = None,
) -> list[Lease]:
    """End the leases that expired or whose process is dead, and all else that is past its time.

    :param state: changed.
    :param now: the store's clock, seconds since the epoch.
    :param dead: ids of leases and tickets whose process is known to be gone; default none.
    :param has_lapsed: whether what a host dated to end at some moment has ended; None (default): it is one clock.
    :returns: the leases that were ended.
    """
    died = [lease for lease in (state.end_lease(lease_id) for lease_id in dead) if lease]
    ended = list(died)
    head = state.head
    if has_lapsed is not None:
        ended += _end_without_common_clock(state, now, has_lapsed)
    elif state.leases.is_due(now) and head.has_lapsed(state.leases.extent.due, now):
        ended += state.keep_leases(lambda lease: not head.has_lapsed(lease.expires, now))
    for lease in ended:
        # Without an owner nobody would come to end it. Without a session there is nothing to end; but a process that
        # has let it expire may only have been stopped, and is to find out that another attempt has begun.
        if lease.owner and (lease.session or (lease.holder is not None and lease not in died)):
            note_leftover(state, now, lease)
    for node in state.nodes.values():
        if node.recent and node.recent[0][0] <= now:
            node.recent = [(end, count) for end, count in node.recent if end > now]
        if node.suspicions or node.ejection is not None:
            forget_old(node, now, one_clock=has_lapsed is None)
    if head.waiting or len(state.tickets):
        queue.end_lapsed(state, now, dead, has_lapsed)
    expiring: tuple[RecordLog[Any], ...] = (state.leftovers, state.sessions, state.avoid)
    for records in expiring:
        if records.is_due(now):
            records.keep(lambda record: record.expires if record.expires > now else None)
            # Where some end all the time, not all are to be decoded by each pick.
            records.extent.due = max(records.extent.due, now + _LOOK_AGAIN_SECONDS)
    bound_records(state, now)
    return ended


def _end_without_common_clock(state: State, now: float, has_lapsed: Callable[[str, float], bool]) -> list[Lease]:
    if not state.leases.is_due(latest_clock(state, now)):
        return []
    if any(lease.host not in state.hosts for lease in state.leases.values()):
        note_unknown_hosts(state, list(state.leases.values()))
    return state.keep_leases(lambda lease: not has_lapsed(lease.host, lease.expires))
