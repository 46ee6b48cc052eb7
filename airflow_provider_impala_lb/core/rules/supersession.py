"""What an earlier try of the same work may have left running, and how it learns that another has taken over.

A lease that lapses (its process was killed, its host lost) leaves an orphan behind: node, session and query, for the
next try to end. A try that begins takes over the leases that live, too: a process that was only stopped, and goes on
later, finds its lease taken, and stops before it runs anything more. One that was stopped before it had a lease finds
that a later try has begun, also when that one is over.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable

import msgspec

from airflow_provider_impala_lb.core.state.model import LEFTOVER_SECONDS, Attempt, Lease, LeftoverSession
from airflow_provider_impala_lb.core.state.state import State
from airflow_provider_impala_lb.errors import Superseded

_encode = msgspec.json.Encoder().encode


def orphan(state: State, now: float, lease: Lease, *, fenced: bool = False) -> LeftoverSession:
    """Note what a lease that has ended leaves behind."""
    left = LeftoverSession(
        owner=lease.owner,
        node=lease.node,
        session=lease.session or "",
        query=lease.query or "",
        at=now,
        expires=now + LEFTOVER_SECONDS,
        fenced=fenced,
        ended=not lease.session,
    )
    state.leftovers.put(lease.id, left, left.expires)
    return left


def claim(state: State, now: float, owner: str, lease_id: str) -> None:
    """Note that a try has begun, and will take a lease of this id: it may have to wait for that, or be stopped."""
    left = LeftoverSession(
        owner=owner, node="", session="", query="", at=now, expires=now + LEFTOVER_SECONDS, fenced=False, ended=True
    )
    state.leftovers.put(lease_id, left, left.expires)


def check_claim(state: State, owner: str, lease_id: str) -> None:
    """:raises Superseded: another try has begun since. A claim that is not there any more proves nothing."""
    left = state.leftovers.get(lease_id)
    if left is not None and left.fenced:
        raise Superseded(f"Another try of {owner} has taken over: this one runs nothing")


def begin(state: State, now: float, owner: str, attempt: Attempt) -> None:
    """Note that this try has begun. :raises Superseded: a later one has."""
    check_attempt(state, owner, attempt)
    if attempt.number > 1:  # nothing is before a first one
        expires = now + LEFTOVER_SECONDS
        newest = LeftoverSession(
            owner=owner, node="", session="", query="", at=now, expires=expires, ended=True, attempt=attempt
        )
        state.leftovers.put(_newest(owner), newest, expires)


def check_attempt(state: State, owner: str, attempt: Attempt) -> None:
    """:raises Superseded: a later try has begun, whatever has become of it."""
    newest = state.leftovers.get(_newest(owner))
    if newest is not None and newest.attempt is not None and attempt.is_before(newest.attempt):
        raise Superseded(
            f"Another try of {owner} has taken over (try {newest.attempt.number}): this one, try {attempt.number}, "
            "runs nothing more"
        )


def _newest(owner: str) -> str:
    return f"newest try of {owner}"


def take_over(state: State, now: float, owner: str, mine: Callable[[Lease], bool]) -> dict[str, LeftoverSession]:
    """End the leases of this owner but for ``mine``, for good. Returns what is to be settled, by lease id."""
    name = _encode(owner)  # as it stands in a record: a look at the bytes costs next to nothing, decoding all would
    found: dict[str, LeftoverSession] = {}
    if state.leases.extent.count and name in state.leases.text:
        for lease in [lease for lease in state.leases.values() if lease.owner == owner and not mine(lease)]:
            state.end_lease(lease.id)
            found[lease.id] = orphan(state, now, lease, fenced=True)
    if state.leftovers.extent.count and name in state.leftovers.text:
        for lease_id, left in list(state.leftovers.items()):
            if left.owner == owner and lease_id not in found:
                left.fenced = True
                state.leftovers.put(lease_id, left, left.expires)
                found[lease_id] = left
    return {lease_id: left for lease_id, left in found.items() if not left.ended}


def settled(state: State, lease_ids: Iterable[str]) -> None:
    """What these left running has ended. The records stay: a process that goes on later must still find them."""
    for lease_id in lease_ids:
        left = state.leftovers.get(lease_id)
        if left is not None:
            left.ended = True
            state.leftovers.put(lease_id, left, left.expires)
