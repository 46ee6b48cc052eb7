"""The first step of every pick: end what is past its time."""

from __future__ import annotations

from collections.abc import Callable

from airflow_provider_impala_lb.core.rules.supersession import orphan
from airflow_provider_impala_lb.core.state.model import Lease
from airflow_provider_impala_lb.core.state.state import State


def reap(
    state: State,
    now: float,
    dead: frozenset[str] = frozenset(),
    may_expire: Callable[[str], bool] | None = None,
) -> list[Lease]:
    """End the leases that expired or whose holder is ``dead``, and all else that is past its time.

    :param dead: ids of leases and tickets whose process is known to be gone.
    :param may_expire: whether this host's clock may end what that host dated; None: it is one clock.
    """
    died = [lease for lease in (state.end_lease(lease_id) for lease_id in dead) if lease]
    ended = list(died)
    leases = state.leases
    if leases.extent.count and leases.extent.due <= now:
        ended += state.keep_leases(
            lambda lease: lease.expires > now or (may_expire is not None and not may_expire(lease.host))
        )
    for lease in ended:
        # Without an owner nobody would come to settle it. Without a session there is nothing to settle; but a process
        # that has let it expire may only have been stopped, and is to find out that another try has begun.
        if lease.owner and (lease.session or (lease.holder is not None and lease not in died)):
            orphan(state, now, lease)
    if state.leftovers.extent.count and state.leftovers.extent.due <= now:
        state.leftovers.keep(lambda _, record: record.expires if record.expires > now else None)
    for node in state.nodes.values():
        if node.recent and node.recent[0][0] <= now:
            node.recent = [(end, count) for end, count in node.recent if end > now]
    if state.head.waiting:
        state.head.waiting = [
            ticket
            for ticket in state.head.waiting
            if ticket.id not in dead
            and (ticket.until > now or (may_expire is not None and not may_expire(ticket.host)))
        ]
    if state.sessions.extent.count and state.sessions.extent.due <= now:
        state.sessions.keep(lambda _, record: record.expires if record.expires > now else None)
    if state.avoid.extent.count and state.avoid.extent.due <= now:
        state.avoid.keep(lambda _, record: record.expires if record.expires > now else None)
    return ended
