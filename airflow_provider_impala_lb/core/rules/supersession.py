"""What an earlier attempt at the same work may have left running, and how it learns that another has taken over.

A lease that lapses (its process was killed, its host lost) leaves a record behind: node, session and query, for the
next attempt to end. An attempt that begins fences the leases that live, too: a process that was only stopped, and goes
on later, finds its lease fenced, and stops before it runs anything more. One that was stopped before it had a lease
finds that a later attempt has begun, also when that one is over.

Two Airflows that share the state may have work of one name. Neither takes over from the other (`find_rival`).
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from datetime import datetime, timezone

import msgspec

from airflow_provider_impala_lb.core.state.model import LEFTOVER_SECONDS, Attempt, Lease, LeftoverSession
from airflow_provider_impala_lb.core.state.state import State
from airflow_provider_impala_lb.errors import ConfigError, Superseded

_REMEDY = (
    "give each a deployment of its own (the key deployment of the configuration or of the connection's extra) once "
    "nothing of it runs: what ran without one is not looked for any more"
)


class Rival(msgspec.Struct, frozen=True):
    """What runs, or may run, under an owner and is of another run than the one that begins.

    :param id: of its lease.
    :param attempt: which attempt it is.
    :param place: where it runs, in words.
    """

    id: str
    attempt: Attempt
    place: str


def note_leftover(state: State, now: float, lease: Lease, *, fenced: bool = False) -> LeftoverSession:
    """Note what a lease that has ended leaves behind.

    :param state: changed.
    :param now: the store's clock, seconds since the epoch.
    :param lease: the one that has ended.
    :param fenced: a later attempt has taken over; default False.
    """
    leftover = LeftoverSession(
        owner=lease.owner,
        node=lease.node,
        session=lease.session or "",
        query=lease.query or "",
        at=now,
        expires=now + LEFTOVER_SECONDS,
        fenced=fenced,
        ended=not lease.session,
        attempt=lease.attempt,
        other_sessions=lease.other_sessions,
    )
    state.leftovers.put(lease.id, leftover, leftover.expires)
    return leftover


def announce(state: State, now: float, owner: str, lease_id: str, attempt: Attempt | None = None) -> None:
    """Note that an attempt has begun, and will take a lease of this id: it may have to wait for that, or be stopped.

    :param state: changed.
    :param now: the store's clock, seconds since the epoch.
    :param owner: whose work it is.
    :param lease_id: the lease's id, to be.
    :param attempt: which attempt; None (default): not known.
    """
    _note_nothing_left(state, now, owner, lease_id, attempt)


def check_announced(state: State, owner: str, lease_id: str) -> None:
    """Whether an announced attempt may go on. An announcement that is not there any more proves nothing.

    :param state: looked at.
    :param owner: whose work it is, for the error.
    :param lease_id: as announced.
    :raises Superseded: another attempt has begun since.
    """
    if is_fenced(state, lease_id):
        raise superseded(owner, "this one runs nothing")


def is_fenced(state: State, lease_id: str) -> bool:
    """Whether a later attempt has taken over from the one that has, or had, this lease.

    :param state: looked at.
    :param lease_id: the lease's id.
    """
    leftover = state.leftovers.get(lease_id)
    return leftover is not None and leftover.fenced


def is_overtaken(state: State, lease: Lease) -> bool:
    """Whether a later attempt has taken over from the one that has this lease; also one that never saw it, since the
    state was out of reach when it was taken.

    :param state: looked at.
    :param lease: of an attempt.
    """
    if is_fenced(state, lease.id):
        return True
    newest, attempt = state.leftovers.get(_newest(lease.owner)), lease.attempt
    if newest is None or newest.attempt is None or attempt is None or not attempt.is_before(newest.attempt):
        return False
    return attempt.may_be_work_of(newest.attempt, disputed=_is_disputed(state, lease.owner))


def superseded(owner: str, consequence: str = "this one runs nothing more") -> Superseded:
    """The error of an attempt that was fenced.

    :param owner: whose work it is.
    :param consequence: what follows from it.
    """
    return Superseded(f"Another attempt of {owner} has taken over: {consequence}")


def begin_attempt(state: State, now: float, owner: str, attempt: Attempt) -> None:
    """Note that this attempt has begun.

    :param state: changed.
    :param now: the store's clock, seconds since the epoch.
    :param owner: whose work it is.
    :param attempt: which one.
    :raises Superseded: a later one has begun before.
    """
    check_attempt(state, owner, attempt)
    if attempt.number > 1:  # nothing is before a first one
        _note_nothing_left(state, now, owner, _newest(owner), attempt)


def check_attempt(state: State, owner: str, attempt: Attempt) -> None:
    """Whether this is still the latest attempt.

    :param state: looked at.
    :param owner: whose work it is.
    :param attempt: which one.
    :raises Superseded: a later one has begun, whatever has become of it.
    :raises ConfigError: and that is not of the same run.
    """
    newest = state.leftovers.get(_newest(owner))
    if newest is not None and newest.attempt is not None and attempt.is_before(newest.attempt):
        if not attempt.may_be_work_of(newest.attempt, disputed=_is_disputed(state, owner)):
            raise two_runs(owner, attempt, newest.attempt, "has begun since", "clear the task")
        raise Superseded(
            f"Another attempt of {owner} has taken over (attempt {newest.attempt.number}): this one, attempt "
            f"{attempt.number}, runs nothing more"
        )


def find_rival(state: State, now: float, owner: str, attempt: Attempt) -> Rival | None:
    """What another run under this owner has running, or waiting, or may have left. The state remembers that there was
    one: whose work is whose cannot be told by counting any more.

    :param state: changed.
    :param now: the store's clock, seconds since the epoch.
    :param owner: whose work it is.
    :param attempt: that begins.
    """
    disputed = _is_disputed(state, owner)

    def is_rival(other: Attempt | None) -> bool:
        return other is not None and not attempt.may_be_work_of(other, disputed=disputed)

    rivals = []
    if state.leases.may_hold(owner):
        rivals += [
            Rival(lease.id, lease.attempt, f"runs on {lease.node} (session {lease.session or 'not open yet'})")
            for lease in state.leases.values()
            if lease.owner == owner and lease.attempt and is_rival(lease.attempt)
        ]
    if state.leftovers.may_hold(owner):
        for lease_id, left in state.leftovers.items():
            if left.owner == owner and left.attempt and is_rival(left.attempt) and lease_id != _newest(owner):
                if not left.node and not left.fenced:
                    rivals.append(Rival(lease_id, left.attempt, "waits for a node"))
                elif left.node and not left.ended:
                    rivals.append(Rival(lease_id, left.attempt, f"may run on {left.node} (session {left.session})"))
    if rivals:
        _note_nothing_left(state, now, owner, _disputed(owner))
    return rivals[0] if rivals else None


def two_runs(owner: str, mine: Attempt, other: Attempt, place: str, remedy: str) -> ConfigError:
    """The error of an attempt that finds another run under its owner.

    :param owner: whose work it is.
    :param mine: the attempt.
    :param other: an attempt of the other run.
    :param place: what is known of that, in words.
    :param remedy: what to do where both are one Airflow's.
    """
    return ConfigError(
        f"{owner}: two runs have this name. This one began {_moment(mine.run)}; attempt {other.number} of one that "
        f"began {_moment(other.run)} {place}. This one runs nothing beside it, and stops nothing of it. If another "
        f"Airflow shares this cluster's state: {_REMEDY}. If this Airflow's run was deleted and made again: {remedy}"
    )


def rivalry(owner: str, mine: Attempt, rival: Rival) -> ConfigError:
    """The error of an attempt that finds another run at work under its owner.

    :param owner: whose work it is.
    :param mine: the attempt.
    :param rival: the other.
    """
    remedy = f"see that this has ended, then impala-lb release {rival.id}"
    return two_runs(owner, mine, rival.attempt, rival.place, remedy)


def two_deployments(where: str, theirs: str, ours: str) -> ConfigError:
    """The error of an attempt that finds what another deployment has kept under its owner.

    :param where: what it has found, in words.
    :param theirs: the other deployment; "": none.
    :param ours: this one; "": none.
    """
    return ConfigError(
        f"{where} was written by {theirs or 'an Airflow without a deployment'}, and this is {ours or 'one without'}; "
        f"nothing was run. Give the script another name, or {_REMEDY}"
    )


def fence_earlier(
    state: State, now: float, owner: str, is_mine: Callable[[Lease | LeftoverSession], bool]
) -> dict[str, LeftoverSession]:
    """End the leases of this owner but for one's own, for good, and fence what earlier ones left.

    :param state: changed.
    :param now: the store's clock, seconds since the epoch.
    :param owner: whose work it is.
    :param is_mine: whether a lease, or what one has left, is to stay.
    :returns: what is still to be ended on the coordinators, by lease id.
    """
    found: dict[str, LeftoverSession] = {}
    if state.leases.may_hold(owner):
        for lease in [lease for lease in state.leases.values() if lease.owner == owner and not is_mine(lease)]:
            state.end_lease(lease.id)
            found[lease.id] = note_leftover(state, now, lease, fenced=True)
    if state.leftovers.may_hold(owner):
        for lease_id, leftover in list(state.leftovers.items()):
            if leftover.owner == owner and lease_id not in found and not is_mine(leftover):
                leftover.fenced = True
                state.leftovers.put(lease_id, leftover, leftover.expires)
                found[lease_id] = leftover
    return {lease_id: leftover for lease_id, leftover in found.items() if not leftover.ended}


def fence_late(state: State, now: float, lease: Lease) -> dict[str, LeftoverSession] | Rival:
    """As `fence_earlier`, for an attempt that may have begun while the state was out of reach: once its lease is there.
    Only what names an earlier attempt is fenced.

    :param state: changed.
    :param now: the store's clock, seconds since the epoch.
    :param lease: of the attempt; no later one is known (`is_overtaken`).
    :returns: as `fence_earlier`; nothing where it is not known which attempt this is. Or another run that has work of
        this name there: then nothing is fenced.
    """
    attempt = lease.attempt
    if attempt is None or attempt.number < 2:
        return {}
    rival = find_rival(state, now, lease.owner, attempt)
    if rival is not None:
        return rival
    newest = state.leftovers.get(_newest(lease.owner))
    if newest is None or newest.attempt is None or newest.attempt.is_before(attempt):
        begin_attempt(state, now, lease.owner, attempt)
    return fence_earlier(
        state, now, lease.owner, lambda each: each.attempt is None or not each.attempt.is_before(attempt)
    )


def note_ended(state: State, lease_ids: Iterable[str]) -> None:
    """Note that nothing of these runs any more. The records stay: a process that goes on later must still find them.

    :param state: changed.
    :param lease_ids: of what `fence_earlier` returned.
    """
    for lease_id in lease_ids:
        leftover = state.leftovers.get(lease_id)
        if leftover is not None:
            leftover.ended = True
            state.leftovers.put(lease_id, leftover, leftover.expires)


def _note_nothing_left(state: State, now: float, owner: str, key: str, attempt: Attempt | None = None) -> None:
    """A record that is no lease's: nothing was left running, and it can be fenced."""
    expires = now + LEFTOVER_SECONDS
    record = LeftoverSession(
        owner=owner, node="", session="", query="", at=now, expires=expires, ended=True, attempt=attempt
    )
    state.leftovers.put(key, record, expires)


def _newest(owner: str) -> str:
    return f"newest attempt of {owner}"


def _disputed(owner: str) -> str:
    return f"two runs of {owner}"


def _is_disputed(state: State, owner: str) -> bool:
    return state.leftovers.get(_disputed(owner)) is not None


def _moment(seconds: float) -> str:
    return datetime.fromtimestamp(seconds, timezone.utc).isoformat(sep=" ", timespec="milliseconds")
