"""The hosts that share a state: do their node lists agree, and do their clocks?

Where the file server stamps times, or Redis tells its own, every host uses that one clock. On a file system that stamps
with the client's time (GlusterFS) there is none, so a host may be wrong by any amount. Then what a host dated is held
against its own clock: as it stood with that host's last word, and by so much later as the others have seen it silent
since. A wrong clock may delay an end, and never ends a live lease.

    watched_now = max over all hosts of `watched`, or `watched` of this host + the time since its last word, if more
    silent      = what `watched_now` grew by since that host's last word

Each host adds the time between two words of its own, by its own clock, as far as no other one has added it: so the sum
never grows by more than the time that passes. It is added to the silence of those alone who spoke before the first of
the two. One that adds says so in one number, whoever else there is: a note is as large with 10,000 hosts as with one.
"""

from __future__ import annotations

from airflow_provider_impala_lb.core.state.model import RENEW_SECONDS, SILENCE_SECONDS, HostNote, Lease
from airflow_provider_impala_lb.core.state.state import State

NOTE_SECONDS = 600.0
"""A host that noted nothing for so long, and has dated nothing that is still there, is forgotten."""
MOST_NOTES = 100
"""So many hosts that have dated nothing are noted at most; those that were silent for longest are forgotten."""
AGREE_SECONDS = RENEW_SECONDS
"""Clocks that differ by less agree: a lease is renewed that often."""
_FORGET_EVERY = 16
STEP_SECONDS = RENEW_SECONDS
"""No more than this is added at once: more is a clock that was set, a machine that was stopped, or a state that was out
of reach for all. A lease lives for four times as long without its renewal."""


def note_host(state: State, now: float, host: str, digest: str | None, *, one_clock: bool) -> bool:
    """Note that a host is here.

    With one clock: after a time in which no host was, nothing lapses for a while (`Head.spared`).

    :param state: changed.
    :param now: the store's clock, seconds since the epoch.
    :param host: its name.
    :param digest: of its node list; None: as before.
    :param one_clock: ``now`` is the same clock on every host.
    :returns: whether another host's node list differs.
    """
    hosts = state.hosts
    if one_clock:
        if hosts and now - max(note.seen for note in hosts.values()) > SILENCE_SECONDS:
            # Live leases have expired meanwhile: their holders have to renew them before anybody takes their places.
            state.head.spared_before, state.head.spared = state.head.spared, now + SILENCE_SECONDS
        state.head.spared = min(state.head.spared, now + SILENCE_SECONDS)  # the clock may have been set back since
    else:
        _watch(hosts, now, host)
    mine = hosts.get(host)
    if mine is None:
        mine = hosts[host] = HostNote(nodes=digest or "", seen=now)
    mine.seen = now
    if digest is not None:
        mine.nodes = digest
    if len(hosts) == 1:
        return False
    _forget_hosts(state, now, host, one_clock=one_clock)
    return any(note.nodes != mine.nodes and note.nodes for note in hosts.values()) if mine.nodes else False


def has_lapsed(state: State, now: float, me: str, other: str, ends: float) -> bool:
    """Whether what a host dated has come to its end, by that host's own clock. For hosts without a common clock.

    :param state: looked at.
    :param now: this host's clock, seconds since the epoch.
    :param me: this host's name.
    :param other: that host's name.
    :param ends: as that host dated it.
    """
    note = state.hosts.get(other)
    if note is None:  # of a ticket: a lease's host is noted, see `note_unknown_hosts`
        return ends <= now
    theirs = now if other == me else note.seen + note.silent
    return ends <= theirs and (theirs >= note.spared or ends <= note.spared_before)


def latest_clock(state: State, now: float) -> float:
    """The clock that is furthest ahead: what may have lapsed by any host's is to be looked at.

    :param state: looked at.
    :param now: this host's clock, seconds since the epoch.
    """
    return max(now, *(note.seen + note.silent for note in state.hosts.values()), now)


def note_unknown_hosts(state: State, leases: list[Lease]) -> None:
    """Begin to watch hosts of leases that are noted nowhere: as if their last word had been when they took the first of
    these, which is the safe side.

    :param state: changed.
    :param leases: all of them.
    """
    unknown: dict[str, float] = {}
    for lease in leases:
        if lease.host not in state.hosts:
            unknown[lease.host] = min(lease.taken, unknown.get(lease.host, lease.taken))
    turn = max((note.turn for note in state.hosts.values()), default=0)
    watched = max((note.watched for note in state.hosts.values()), default=0.0)
    for host, taken in unknown.items():
        state.hosts[host] = HostNote(nodes="", seen=taken, turn=turn, watched=watched)


def clocks_differ(state: State, me: str, now: float) -> dict[str, float]:
    """Hosts whose clock is ahead of this one's by more than `AGREE_SECONDS`, for sure.

    One that seems to be behind may only have said nothing for long; asked there, this one is ahead.

    :param state: looked at.
    :param me: this host's name.
    :param now: this host's clock, seconds since the epoch.
    :returns: by host, seconds ahead of this one, at least.
    """
    found = {name: note.seen + note.silent - now for name, note in state.hosts.items() if name != me}
    return {name: ahead for name, ahead in found.items() if ahead > AGREE_SECONDS}


def _watch(hosts: dict[str, HostNote], now: float, host: str) -> None:
    """Add what this host can vouch for, and note its word."""
    before = max((note.watched for note in hosts.values()), default=0.0)
    turn = 1 + max((note.turn for note in hosts.values()), default=0)
    mine = hosts.get(host)
    if mine is None:
        hosts[host] = HostNote(nodes="", seen=now, turn=turn, watched=before)
        return
    if now - mine.seen > SILENCE_SECONDS:
        mine.spared_before, mine.spared = mine.spared, now + SILENCE_SECONDS
    mine.spared = min(mine.spared, now + SILENCE_SECONDS)
    watched = max(before, mine.watched + min(max(0.0, now - mine.seen), STEP_SECONDS))
    if watched > before:
        for note in hosts.values():
            if note.turn < mine.turn:
                note.silent = round(note.silent + watched - before, 3)
    mine.turn, mine.watched, mine.silent = turn, round(watched, 3), 0.0


def _forget_hosts(state: State, now: float, me: str, *, one_clock: bool) -> None:
    """Hosts that are silent for long, and those beyond `MOST_NOTES`. Without a common clock a host whose leases or
    tickets are there is kept, since they end by its note; and it is done at every `_FORGET_EVERY` words, since it reads
    the leases."""
    hosts = state.hosts
    if not one_clock and hosts[me].turn % _FORGET_EVERY:
        return

    def silence(name: str) -> float:
        return now - hosts[name].seen if one_clock else hosts[name].silent

    gone = [name for name in hosts if name != me and silence(name) >= NOTE_SECONDS]
    if len(hosts) - len(gone) > MOST_NOTES:
        left = [name for name in hosts if name != me and silence(name) < NOTE_SECONDS]
        left.sort(key=lambda name: hosts[name].seen if one_clock else hosts[name].turn)
        gone += left[: len(hosts) - len(gone) - MOST_NOTES]
    if gone and not one_clock:
        dated = {lease.host for lease in state.leases.values()} | {ticket.host for ticket in state.head.waiting}
        gone = [name for name in gone if name not in dated]
    for name in gone:
        del hosts[name]
