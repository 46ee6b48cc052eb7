"""How long what nobody needs is kept, and how much of anything: the state stays small for ever.

What has a time of its own ends by that (`expiry`). Here is what ends with something else, a node that left the
configuration, and what there may be too much of: then the oldest go, or the newcomer is refused.
"""

from __future__ import annotations

from airflow_provider_impala_lb.core.config.model import Config
from airflow_provider_impala_lb.core.state.model import NodeState, SessionRecord
from airflow_provider_impala_lb.core.state.state import State
from airflow_provider_impala_lb.errors import NoNodeAvailable

NODE_SECONDS = 24 * 3600.0
"""A node that is not in the configuration, and that nobody has used for so long, is forgotten."""
DRAINED_SECONDS = 30 * NODE_SECONDS
"""The same for one that an operator has drained: his word is to hold when it comes back."""
REPORT_SECONDS = 24 * 3600.0
"""What a node reported last is forgotten after so long."""
MOST_BYTES = 4 << 20
"""Of session keys, of failures to avoid, and of what attempts have left: about 30,000 keys, 12,000 attempts."""
MOST_KEPT_BYTES = 3 << 20
"""So much is left when there was more: it is not to be cut down at each pick."""
MOST_WAITING_BYTES = 8 << 20
"""Of tickets, and of leases: about 30,000. More are refused; a lock file has room for twice as many."""
MOST_KEY_CHARACTERS = 1024
"""Of a session key."""
MOST_DATA_BYTES = 4096
"""Of the data of one session key."""


def forget_nodes(config: Config, state: State, now: float) -> None:
    """Nodes that left the configuration, once nothing runs there and no host uses them.

    :param config: this host's; another's may have other nodes.
    :param state: changed.
    :param now: the store's clock, seconds since the epoch.
    """
    gone = []
    for address, node in state.nodes.items():
        if config.node(address) is not None:
            if node.drained and node.used + NODE_SECONDS <= now:
                node.used = int(now)
        elif not node.leases and _last_use(node) + (DRAINED_SECONDS if node.drained else NODE_SECONDS) <= now:
            gone.append(address)
    for address in gone:
        del state.nodes[address]
        state.last_reports.drop(address)
        if not state.head.behind.get(address, 1):
            del state.head.behind[address]


def bound_records(state: State, now: float) -> None:
    """Cut down what has become too much: of that the oldest go, and of what attempts have left first those that were
    seen to end.

    :param state: changed.
    :param now: the store's clock, seconds since the epoch.
    """
    if state.last_reports.is_due(now):
        state.last_reports.keep(lambda report: _in_future(report.at + REPORT_SECONDS, now))
    for records in (state.sessions, state.avoid):
        if records.size > MOST_BYTES:
            records.drop_oldest(MOST_KEPT_BYTES)
    leftovers = state.leftovers
    if leftovers.size > MOST_BYTES:
        ended = sorted(left.at for left in leftovers.values() if left.ended)
        middle = ended[len(ended) // 2] if ended else 0.0
        leftovers.keep(lambda left: None if left.ended and left.at <= middle else left.expires)
        leftovers.drop_oldest(MOST_BYTES)


def check_room(state: State, *, ticket: bool = False) -> None:
    """Whether there is room for one more lease, or ticket.

    :param state: looked at.
    :param ticket: a ticket is to be drawn; default False: a lease.
    :raises NoNodeAvailable: there is none.
    """
    if ticket and state.tickets.size >= MOST_WAITING_BYTES:
        waiting = len(state.head.waiting) + len(state.tickets)
        raise NoNodeAvailable(
            f"The queue is full: {waiting:,} wait, and the shared state has no room for more: this one has no place"
        )
    if not ticket and state.leases.size >= MOST_WAITING_BYTES:
        raise NoNodeAvailable(
            f"{len(state.leases):,} scripts run, and the shared state has no room for more: this one has no node",
            {},
        )


def bound_data(record: SessionRecord) -> int:
    """Forget a session key's data if they are too large.

    :param record: changed.
    :returns: how many bytes they had; 0: they were kept.
    """
    size = sum(len(name.encode()) + len(value.encode()) for name, value in record.options.items())
    size += len((record.database or "").encode())
    if size <= MOST_DATA_BYTES:
        return 0
    record.database, record.options = None, {}
    return size


def _last_use(node: NodeState) -> float:
    ejected = node.ejection.until if node.ejection is not None else 0.0
    reported = node.summary.at if node.summary is not None else 0.0
    return max(node.used, ejected, reported)


def _in_future(ends: float, now: float) -> float | None:
    return ends if ends > now else None
