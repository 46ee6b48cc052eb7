"""What all workers share: how often each node was picked, and who runs something on it now. JSON, never pickle.

Placement state is soft: lost or unreadable, the balancer starts empty and the next picks, reports and leases heal it.

The *head* is small and decoded by every transaction: numbers for each node, hosts, the first of the queue. The
*records* (leases, session keys, owners' last failures, what the nodes reported, leftover sessions, the rest of the
queue) lie behind it and are decoded when one is asked for.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import msgspec

from airflow_provider_impala_lb.core.state.load_report import LastReport
from airflow_provider_impala_lb.core.state.model import (
    Avoid,
    Head,
    HostNote,
    Lease,
    LeftoverSession,
    NodeState,
    SessionRecord,
    Ticket,
)
from airflow_provider_impala_lb.core.state.record_log import Extent, Reader, RecordLog, nothing

FORMAT = 4
"""Version of the encoded state. A newer one is refused by name (`decode`), an older one given up: never guessed at.
docs/design.md, "Two versions", says what is a new one, and what is to be done then."""

_leases = msgspec.json.Decoder(Lease)
_sessions = msgspec.json.Decoder(SessionRecord)
_avoid = msgspec.json.Decoder(Avoid)
_last_reports = msgspec.json.Decoder(LastReport)
_leftovers = msgspec.json.Decoder(LeftoverSession)
_tickets = msgspec.json.Decoder(Ticket)
KINDS = 6
"""Of records, by their numbers: see `State.records`."""
_head = msgspec.json.Decoder(Head)


class _Format(msgspec.Struct):
    format: int = 0


_format = msgspec.json.Decoder(_Format)
_encoder = msgspec.json.Encoder()


class State:
    """The head, and the records behind it.

    :param head: default an empty one.
    :param read: gives the bytes of a kind of records when they are needed; default there are none.
    :ivar head: what every transaction reads.
    :ivar leases: by their ids. Add and end them by the methods here, which keep the nodes' numbers right.
    :ivar sessions: by session key.
    :ivar avoid: by owner.
    :ivar last_reports: by ``host:port``.
    :ivar leftovers: by the id of the lease that left them.
    :ivar tickets: those of the queue that are not among its first (`Head.waiting`), by their ids; see `rules.queue`.
    """

    __slots__ = ("avoid", "head", "last_reports", "leases", "leftovers", "sessions", "tickets")

    def __init__(self, head: Head | None = None, read: Reader | None = None) -> None:
        self.head = head = head or Head()
        extents = head.extents
        if len(extents) < KINDS:
            extents += [Extent() for _ in range(KINDS - len(extents))]
        read = read or nothing
        self.leases: RecordLog[Lease] = RecordLog(_leases, 0, extents[0], read)
        self.sessions: RecordLog[SessionRecord] = RecordLog(_sessions, 1, extents[1], read)
        self.avoid: RecordLog[Avoid] = RecordLog(_avoid, 2, extents[2], read)
        self.last_reports: RecordLog[LastReport] = RecordLog(_last_reports, 3, extents[3], read)
        self.leftovers: RecordLog[LeftoverSession] = RecordLog(_leftovers, 4, extents[4], read)
        self.tickets: RecordLog[Ticket] = RecordLog(_tickets, 5, extents[5], read)

    @property
    def nodes(self) -> dict[str, NodeState]:
        """Of the head."""
        return self.head.nodes

    @property
    def hosts(self) -> dict[str, HostNote]:
        """Of the head."""
        return self.head.hosts

    @property
    def records(self) -> tuple[RecordLog[Any], ...]:
        """Every kind, in the order of its number."""
        return self.leases, self.sessions, self.avoid, self.last_reports, self.leftovers, self.tickets

    def close(self) -> None:
        """Records that were not asked for until now cannot be read any more, and count as none."""
        for records in self.records:
            records.close()

    def node(self, address: str) -> NodeState:
        """The record of this node, made when it is first asked for.

        :param address: ``host:port``.
        """
        found = self.nodes.get(address)
        if found is None:
            found = self.nodes[address] = NodeState()
        return found

    def lease(self, lease: Lease) -> None:
        """Note this lease.

        :param lease: must not be there yet.
        """
        self.leases.add(lease.id, lease, lease.expires)
        self.node(lease.node).leases += 1

    def end_lease(self, lease_id: str) -> Lease | None:
        """Take this lease out and return it; None if it is not there.

        :param lease_id: its id.
        """
        lease = self.leases.drop(lease_id)
        if lease is not None:
            node = self.node(lease.node)
            node.leases = max(0, node.leases - 1)
        return lease

    def forget_lease(self, lease: Lease) -> None:
        """Count one lease less on its node, in a copy of the state whose leases may not be readable any more.

        :param lease: one that was there.
        """
        self.leases.drop(lease.id)
        node = self.node(lease.node)
        node.leases = max(0, node.leases - 1)

    def keep_leases(self, wanted: Callable[[Lease], bool]) -> list[Lease]:
        """Keep some leases; returns the others. Counts all anew, which mends a damaged number.

        :param wanted: whether to keep this one.
        """
        gone = self.leases.keep(lambda lease: lease.expires if wanted(lease) else None)
        counts: dict[str, int] = {}
        for lease in self.leases.values():
            counts[lease.node] = counts.get(lease.node, 0) + 1
        for address, node in self.nodes.items():
            node.leases = counts.get(address, 0)
        return gone


def begin(state: State, now: float, before: float) -> None:
    """Date a state that is new, and notice whether it stands in the place of one that was lost.

    :param state: changed.
    :param now: the store's clock, seconds since the epoch.
    :param before: `Head.born` of the state that this process used last; 0: it has used none.
    """
    head = state.head
    if not head.born:
        head.born = now
        # The tickets of a state that was lost come back with their numbers: no newcomer may come before them. Nobody
        # draws a thousand a second for long.
        head.drawn = max(head.drawn, int(now * 1000))
    if before and head.born != before:
        head.lost = True


class NewerState(Exception):
    """The record was written by a newer version of this package."""


def encode_head(state: State) -> bytes:
    """The head as JSON, marked with this version's format.

    :param state: whose.
    """
    state.head.format = FORMAT
    return _encoder.encode(state.head)


def encode(state: State) -> bytes:
    """The whole state in one piece, for stores that keep the records with the head.

    :param state: which.
    :returns: the head, then each kind's lines behind a NUL, which no JSON holds.
    """
    parts = []
    for records in state.records:
        parts.append(records.text)
        records.extent.length = len(parts[-1])
    return b"\0".join((encode_head(state), *parts))


def decode(record: bytes, read: Reader | None = None) -> State:
    """The inverse of :func:`encode`, or of :func:`encode_head`.

    :param record: what was encoded.
    :param read: gives the records, where ``record`` is the head alone; None: all is in it.
    :raises NewerState: written by a newer version.
    :raises msgspec.DecodeError: not a state, or one of an older format: no release ever wrote one.
    """
    texts: list[bytes] = []
    if read is None:
        record, *texts = record.split(b"\0")
    try:
        head = _head.decode(record)
    except msgspec.DecodeError:
        # What it cannot be read as may be what a newer version means by it.
        _require_known(_format.decode(record).format)
        raise
    _require_known(head.format)
    if head.format < FORMAT:
        raise msgspec.DecodeError(f"format {head.format}, this version reads {FORMAT}")
    return State(head, read or (lambda kind, extent: texts[kind] if kind < len(texts) else b""))


def _require_known(version: int) -> None:
    """:raises NewerState: it is a newer version's."""
    if version > FORMAT:
        raise NewerState(f"format {version}, this version reads up to {FORMAT}")
