"""The state as version 0.1.0's first format kept it: one JSON object. Read once, by the transaction that follows it."""

from __future__ import annotations

import msgspec

from airflow_provider_impala_lb.core.state.model import Avoid, Head, HostNote, Lease, NodeState, SessionRecord
from airflow_provider_impala_lb.core.state.state import State


class State1(msgspec.Struct):
    """Format 1."""

    cluster: str = ""
    last: str = ""
    nodes: dict[str, NodeState] = {}
    leases: dict[str, Lease] = {}
    sessions: dict[str, SessionRecord] = {}
    hosts: dict[str, HostNote] = {}
    avoid: dict[str, Avoid] = {}


def upgraded(record: bytes) -> State:
    """:raises msgspec.DecodeError: not such a state."""
    old = msgspec.json.decode(record, type=State1)
    state = State(Head(cluster=old.cluster, last=old.last, nodes=old.nodes, hosts=old.hosts))
    for lease in old.leases.values():
        state.lease(lease)
    for key, session in old.sessions.items():
        state.sessions.add(key, session, session.expires)
    for owner, avoid in old.avoid.items():
        state.avoid.add(owner, avoid, avoid.expires)
    return state
