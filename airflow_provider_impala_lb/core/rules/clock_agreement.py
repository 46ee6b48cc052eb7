"""The hosts that share a state: do their node lists agree, and do their clocks?

Where the file server stamps times, or Redis tells its own, every host uses that one clock. On a file system that stamps
with the client's time (GlusterFS) there is none, so a host may be wrong by any amount. Then a lease has expired only if
its host's clock agrees with this one's, or if that host has noted nothing at all for as long as a lease lives, by this
host's own clock: a wrong clock may delay an end, and never ends a live lease.
"""

from __future__ import annotations

from airflow_provider_impala_lb.core.state.model import LEASE_SECONDS, SILENCE_SECONDS, HostNote
from airflow_provider_impala_lb.core.state.state import State

NOTE_SECONDS = 600.0
"""A host that noted nothing for so long is forgotten."""
AGREE_SECONDS = LEASE_SECONDS / 4
"""Clocks that differ by less agree: a lease is renewed that often."""


def note_host(state: State, now: float, host: str, digest: str | None, *, one_clock: bool) -> bool:
    """Note that a host is here. After a time in which no host was, nothing lapses for a while (`Head.spared`).

    :param state: changed.
    :param now: the store's clock, seconds since the epoch.
    :param host: its name.
    :param digest: of its node list; None: as before.
    :param one_clock: ``now`` is the same clock on every host.
    :returns: whether another host's node list differs.
    """
    hosts = state.hosts
    mine = hosts.get(host)
    if (mine is None or now - mine.seen > SILENCE_SECONDS) and _was_silent(hosts, mine, now, one_clock=one_clock):
        # Live leases have expired meanwhile: their holders have to renew them before anybody takes their places.
        state.head.spared_before, state.head.spared = state.head.spared, now + SILENCE_SECONDS
        if mine is not None:
            mine.clocks = {name: (theirs, now) for name, (theirs, _) in mine.clocks.items()}
    if mine is None:
        mine = hosts[host] = HostNote(nodes=digest or "", seen=now)
    mine.seen = now
    if digest is not None:
        mine.nodes = digest
    if len(hosts) == 1:
        return False
    if one_clock:
        gone = [name for name, note in hosts.items() if now - note.seen >= NOTE_SECONDS]
    else:
        gone = _watch_clocks(hosts, mine, host, now)
    for name in gone:
        del hosts[name]
    return any(note.nodes != mine.nodes and note.nodes for note in hosts.values()) if mine.nodes else False


def _was_silent(hosts: dict[str, HostNote], mine: HostNote | None, now: float, *, one_clock: bool) -> bool:
    """Whether nobody has noted anything for long; without a common clock a host can say that of itself only."""
    seen = [note.seen for note in (hosts.values() if one_clock else [mine] if mine is not None else [])]
    return bool(seen) and now - max(seen) > SILENCE_SECONDS


def _watch_clocks(hosts: dict[str, HostNote], mine: HostNote, me: str, now: float) -> list[str]:
    """Keep what the others' clocks showed when this host first saw it. Returns those that are silent for long."""
    for name, note in hosts.items():
        if name != me and mine.clocks.get(name, (None,))[0] != note.seen:
            mine.clocks[name] = (note.seen, now)
    mine.clocks = {name: entry for name, entry in mine.clocks.items() if name in hosts}
    return [name for name, (_, first_seen) in mine.clocks.items() if now - first_seen >= NOTE_SECONDS]


def may_expire(state: State, now: float, me: str, other: str) -> bool:
    """Whether what another host dated may be held against this host's clock. For hosts without a common clock.

    :param state: looked at.
    :param now: this host's clock, seconds since the epoch.
    :param me: this host's name.
    :param other: that host's name.
    """
    if other == me:
        return True
    mine = state.hosts.get(me)
    entry = mine.clocks.get(other) if mine else None
    if entry is None:
        return False  # seen by nobody here yet: `note_host` begins to watch it with its next note
    theirs, first_seen = entry
    return abs(theirs - first_seen) <= AGREE_SECONDS or now - first_seen >= LEASE_SECONDS


def clocks_differ(state: State, me: str) -> dict[str, float]:
    """Hosts whose clock, as this one last saw it, is off by more than `AGREE_SECONDS`.

    :param state: looked at.
    :param me: this host's name.
    :returns: by host, seconds ahead of this one.
    """
    clocks = state.hosts[me].clocks if me in state.hosts else {}
    return {
        name: theirs - first_seen
        for name, (theirs, first_seen) in clocks.items()
        if abs(theirs - first_seen) > AGREE_SECONDS
    }
