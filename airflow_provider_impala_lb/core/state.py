"""What all workers share: how often each node was picked, and who runs something on it now. JSON, never pickle.

Placement state is soft: lost or unreadable, the balancer starts empty and the next picks and leases heal it.
"""

from __future__ import annotations

from typing import Literal

import msgspec

FORMAT = 1
"""Version of this record. A newer one is refused by name (`decode`), never guessed at."""

LEASE_SECONDS = 120.0
"""A lease lives this long past its last renewal."""
RENEW_SECONDS = LEASE_SECONDS / 4
"""Pause between two renewals: three may fail before a live lease ends."""
UNLEASED_SECONDS = 30.0
"""A pick without a lease weighs on its node this long; else every shell script would go to the same idle node."""
SESSION_SECONDS = 24 * 3600.0
"""A session key is forgotten this long after its last use."""
AVOID_SECONDS = 3600.0
"""A task's failure is remembered this long, for its retry."""
_BUCKET_SECONDS = 5.0
"""Unleased picks are counted in buckets of this width, so that a burst of them does not make the state grow."""

Cause = Literal["failure", "overload", "shutdown"]
"""Why a node did not take work. Overload is not failure."""


class Holder(msgspec.Struct, frozen=True):
    """The process that holds a lease. A pid alone is reused; with the boot, pid namespace and start time it is not."""

    boot: str
    namespace: str
    pid: int
    start: int


class Lease(msgspec.Struct, omit_defaults=True):
    """A running script's claim on a node.

    :param expires: by the store's clock, seconds since the epoch.
    :param session: HS2 session id, ``query`` the id of the statement running last: what a later try has to end if
        this one dies. Never the session's secret.
    """

    id: str
    node: str
    owner: str
    expires: float
    taken: float
    host: str
    holder: Holder | None = None
    session: str | None = None
    query: str | None = None


class Out(msgspec.Struct, omit_defaults=True):
    """Why a node is left out. ``until`` by the store's clock; ``trial`` the token of the pick that tries it."""

    cause: Cause
    why: str
    until: float
    trial: str = ""
    trial_until: float = 0.0


class NodeState(msgspec.Struct, omit_defaults=True):
    """``picks`` counts every pick handed out; ``recent`` the picks without a lease, as [bucket's end, count];
    ``drained`` is an operator's word; ``failures`` and ``quiet_since``: see core/health.py."""

    picks: int = 0
    recent: list[tuple[float, int]] = []
    drained: bool = False
    failures: int = 0
    quiet_since: float = 0.0
    out: Out | None = None


class SessionRecord(msgspec.Struct):
    """A session key stays on ``node`` until ``expires``."""

    node: str
    expires: float


class Avoid(msgspec.Struct):
    """The node that failed a task last; its retry goes elsewhere if it can, until ``expires``."""

    node: str
    expires: float


class HostNote(msgspec.Struct):
    """What a host last said: a digest of its node list (lists that differ are worth a warning), and when."""

    nodes: str
    seen: float


class State(msgspec.Struct, omit_defaults=True):
    """``last`` is the node picked last, the point from which round robin goes on."""

    format: int = 0  # set by `encode`: a default equal to FORMAT would be left out, and read back as the reader's own
    cluster: str = ""
    last: str = ""
    nodes: dict[str, NodeState] = {}
    leases: dict[str, Lease] = {}
    sessions: dict[str, SessionRecord] = {}
    hosts: dict[str, HostNote] = {}
    avoid: dict[str, Avoid] = {}

    def node(self, address: str) -> NodeState:
        """The record of this node, made when it is first asked for."""
        found = self.nodes.get(address)
        if found is None:
            found = self.nodes[address] = NodeState()
        return found


class NewerState(Exception):
    """The record was written by a newer version of this package."""


_encoder = msgspec.json.Encoder()
_decoder = msgspec.json.Decoder(State)


def encode(state: State) -> bytes:
    """The state as JSON, marked with this version's format."""
    state.format = FORMAT
    return _encoder.encode(state)


def decode(record: bytes) -> State:
    """:raises NewerState: written by a newer version. :raises msgspec.DecodeError: not a state."""
    state = _decoder.decode(record)
    if state.format > FORMAT:
        raise NewerState(f"format {state.format}, this version reads up to {FORMAT}")
    return state


def count_unleased(node: NodeState, now: float) -> None:
    """Note one pick without a lease."""
    end = (now + UNLEASED_SECONDS) // _BUCKET_SECONDS * _BUCKET_SECONDS + _BUCKET_SECONDS
    if node.recent and node.recent[-1][0] >= end:
        last, count = node.recent[-1]
        node.recent[-1] = (last, count + 1)
    else:
        node.recent.append((end, 1))


def reap(state: State, now: float, dead: frozenset[str]) -> list[Lease]:
    """End the leases that expired or whose holder is ``dead``, and all else that is past its time."""
    ended = [lease for lease in state.leases.values() if lease.expires <= now or lease.id in dead]
    for lease in ended:
        del state.leases[lease.id]
    for node in state.nodes.values():
        if node.recent and node.recent[0][0] <= now:
            node.recent = [(end, count) for end, count in node.recent if end > now]
    if any(record.expires <= now for record in state.sessions.values()):
        state.sessions = {key: record for key, record in state.sessions.items() if record.expires > now}
    if any(entry.expires <= now for entry in state.avoid.values()):
        state.avoid = {owner: entry for owner, entry in state.avoid.items() if entry.expires > now}
    return ended
