"""Who may be picked: before any policy is asked."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping
from typing import Literal, NamedTuple

import msgspec

from airflow_provider_impala_lb.core.config.model import Config, Node
from airflow_provider_impala_lb.core.rules.ejection import fails, left_out
from airflow_provider_impala_lb.core.rules.headroom import fresh
from airflow_provider_impala_lb.core.state.state import State
from airflow_provider_impala_lb.errors import NoNodeAvailable

Kind = Literal["tried", "drained", "stopping", "down", "busy", "full", "failed this task"]
_COUNTED: dict[Kind, str] = {
    "drained": "drained",
    "stopping": "shutting down",
    "down": "down",
    "busy": "busy",
    "full": "full",
    "tried": "tried in vain",
}


class LeftOut(NamedTuple):
    """Why a node is not a candidate.

    :ivar kind: one word to count by.
    :ivar reason: the words for people.
    """

    kind: Kind
    reason: str


class Admitted(msgspec.Struct):
    """Who may take new work.

    :param candidates: nodes that may.
    :param busy: those at or under T: not while there is hope for another one. With ``load: auto`` they are candidates
        if nobody else is.
    :param resting: those that are out: tried only if there is nobody else.
    :param left_out: why each node is no candidate, by ``host:port``.
    :param doubt: more than half of the nodes fail for this host, so each of them is tried often.
    """

    candidates: list[Node]
    busy: list[Node]
    resting: list[Node]
    left_out: dict[str, LeftOut]
    doubt: bool = False


class Caller(NamedTuple):
    """Who asks for a node.

    :ivar host: where.
    :ivar reports: it will say what became of its work, and so may try a node that was out.
    """

    host: str = ""
    reports: bool = True


def admit(
    config: Config,
    state: State,
    now: float,
    excluded: Mapping[str, str],
    avoid: str = "",
    caller: Caller = Caller(),  # noqa: B008 (immutable)
) -> Admitted:
    """Sort the nodes by what keeps them from new work.

    :param config: the nodes.
    :param state: what is known of them.
    :param now: the store's clock, seconds since the epoch.
    :param excluded: nodes the caller has tried or does not want, with its reasons.
    :param avoid: a node to leave out if there is another one: the last to fail this task; default "": none.
    :param caller: who asks; default nobody in particular, who will say what becomes of his work.
    """
    reasons = {address: LeftOut("tried", reason) for address, reason in excluded.items()}
    candidates: list[Node] = []
    busy: list[Node] = []
    resting: list[Node] = []
    get, ttl, host = state.nodes.get, config.report_seconds, caller.host
    doubt: bool | None = None
    for node, address in zip(config.nodes, config.addresses, strict=True):
        record = get(address)
        if reasons and address in reasons:
            continue
        doubted = record is not None and (record.ejection is not None or host in record.suspicions)
        if doubted and doubt is None:  # only now: most picks find nothing that fails
            doubt = _most_fail(config, state, now, host)
        if record is None or not (doubted or record.summary is not None or record.drained):
            candidates.append(node)
        elif record.drained:
            reasons[address] = LeftOut("drained", "drained by an operator")
        elif doubted and (reason := left_out(record, now, host, reports=caller.reports, doubt=bool(doubt))) is not None:
            reasons[address] = LeftOut("down", reason)
            resting.append(node)
        elif ttl and record.summary is not None and (summary := fresh(record, now, ttl)) is not None:
            if summary.quiescing:
                reasons[address] = LeftOut("stopping", "shutting down, it says itself")
            elif summary.level == "ready":
                candidates.append(node)
            else:
                short = f", {summary.short_share} under its floor" if summary.short_share else ""
                reasons[address] = LeftOut("busy", f"{summary.level}: headroom {summary.headroom:.2f}{short}")
                busy.append(node)
        else:
            candidates.append(node)
    if config.load_is_auto and not candidates:  # nobody has said from where on a script had better wait
        candidates, busy = busy, []
        for node in candidates:
            del reasons[node.address]
    if avoid and any(node.address == avoid for node in candidates):
        others = [node for node in candidates if node.address != avoid]
        if not others and config.load_is_auto:  # a busy one is another one
            others, busy = busy, []
            for node in others:
                del reasons[node.address]
        if others:
            candidates = others
            reasons[avoid] = LeftOut("failed this task", "failed this task last time")
    elif config.load_is_auto and candidates and avoid and any(node.address == avoid for node in busy):
        busy = [node for node in busy if node.address != avoid]  # they are for when the ready ones are full
        reasons[avoid] = LeftOut("failed this task", "failed this task last time")
    return Admitted(candidates, busy, resting, reasons, bool(doubt))


def _most_fail(config: Config, state: State, now: float, host: str) -> bool:
    """Whether more than half of the nodes that nobody has drained fail for this host."""
    get = state.nodes.get
    records = [record for record in map(get, config.addresses) if record is not None]
    failing = sum(
        fails(record, now, host)
        for record in records
        if (record.ejection is not None or host in record.suspicions) and not record.drained
    )
    return failing > 0 and 2 * failing > len(config.nodes) - sum(record.drained for record in records)


def none_available(config: Config, left: Mapping[str, LeftOut]) -> NoNodeAvailable:
    """The error that says how many nodes are drained, down, busy and full, and why each.

    :param config: the nodes.
    :param left: why each node that is no candidate is none, by ``host:port``.
    """
    kinds = Counter(entry.kind for entry in left.values())
    counts = ", ".join(f"{kinds[kind]} {words}" for kind, words in _COUNTED.items() if kinds[kind])
    return NoNodeAvailable(
        f"No coordinator of {config.name} may take the work: {len(config.nodes)} nodes, {counts or 'none free'}",
        {address: left[address].reason for address in config.addresses if address in left},
    )
