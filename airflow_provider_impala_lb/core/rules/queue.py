"""Who waits for a node, and whose turn it is: ``max_leases`` is hard, and those who came first go first.

A ticket stands in the state, so that the queue is one for all hosts. Its owner asks again and again; whoever is behind
somebody who could use a slot leaves it to him. Tickets lapse, so that one whose owner has died does not block the rest.
"""

from __future__ import annotations

from collections.abc import Sequence

from airflow_provider_impala_lb.core.config.model import Config, Node
from airflow_provider_impala_lb.core.state.model import Ticket
from airflow_provider_impala_lb.core.state.state import State

FIRST_PAUSE, LONGEST_PAUSE = 0.2, 5.0
"""Seconds between two questions of the first in the queue, and of those far behind."""
_GRACE = 5.0


def pause(position: int) -> float:
    """Seconds until one who waits here asks again: ``min(0.2 * position, 5)``.

    Not all at once: a slow NAS does some tens of transactions a second.

    :param position: in the queue, from 1.
    """
    return min(FIRST_PAUSE * position, LONGEST_PAUSE)


def enqueue(state: State, now: float, ticket: Ticket) -> int:
    """Take a place at the end of the queue, or keep one's own.

    The ticket lives three times as long as its owner pauses (``ticket.asks_again``, or as `pause` says), and 5 s more.

    :param state: changed.
    :param now: the store's clock, seconds since the epoch.
    :param ticket: changed: ``since`` and ``until`` are set.
    :returns: the position, from 1.
    """
    waiting = state.head.waiting
    for index, other in enumerate(waiting):
        if other.id == ticket.id:
            ticket.since = other.since
            waiting[index] = ticket
            break
    else:
        index = len(waiting)
        ticket.since = now
        waiting.append(ticket)
    ticket.until = now + 3 * (ticket.asks_again or pause(index + 1)) + _GRACE
    return index + 1


def dequeue(state: State, ticket_id: str) -> None:
    """Take a ticket out of the queue, if it is there.

    :param state: changed.
    :param ticket_id: its id.
    """
    state.head.waiting = [ticket for ticket in state.head.waiting if ticket.id != ticket_id]


def nodes_with_capacity(config: Config, state: State, nodes: Sequence[Node], ticket_id: str = "") -> list[Node]:
    """Those of some nodes that can take one more lease once all who are before this ticket have got theirs.

    :param config: the limits.
    :param state: the leases, and the queue.
    :param nodes: which nodes to look at.
    :param ticket_id: one's own; "" (default) for who has none, and so comes last.
    """
    capacity = {node.address: _capacity(config, state, node) for node in nodes}
    in_all = float("inf")
    if config.max_leases is not None:
        in_all = config.max_leases - sum(record.leases for record in state.nodes.values())
    for ticket in state.head.waiting:
        if ticket.id == ticket_id:
            break
        usable = [address for address in capacity if _can_use(ticket, address)]
        best = max(usable, key=lambda address: capacity[address], default=None)
        if best is not None and capacity[best] > 0 and in_all > 0:
            capacity[best] -= 1
            in_all -= 1
    return [node for node in nodes if capacity[node.address] > 0] if in_all > 0 else []


def fullness(config: Config, state: State, node: Node) -> str:
    """Why a node cannot take one more lease, in words.

    :param config: the limits.
    :param state: the leases.
    :param node: one that `nodes_with_capacity` left out.
    """
    limit, record = config.lease_limit(node), state.nodes.get(node.address)
    leases = record.leases if record else 0
    if limit is not None and leases >= limit:
        return f"full: {leases} of {limit} leases"
    total = sum(each.leases for each in state.nodes.values())
    if config.max_leases is not None and total >= config.max_leases:
        return f"the cluster is full: {total} of {config.max_leases} leases"
    return "its room is kept for those who came before"


def _capacity(config: Config, state: State, node: Node) -> float:
    limit, record = config.lease_limit(node), state.nodes.get(node.address)
    return float("inf") if limit is None else limit - (record.leases if record else 0)


def _can_use(ticket: Ticket, address: str) -> bool:
    return address == ticket.only if ticket.only else address not in ticket.exclude
