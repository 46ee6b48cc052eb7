"""What the nodes report, and what follows from it: headroom P, and a level that T and H cut it into.

    P = sum of w_i * share_i / sum of w_i     over the shares that every node with a fresh report gives

``share_i`` is what is free of a resource, 0 to 1, and ``w_i`` its weight (``load.weights``). A node is *ready* while
P > T (``load.busy``) and each share is at its floor or above; *busy* at P <= T or with a share below its floor: no new
work, and session keys on it may be placed again; *overloaded* at P <= H (``load.overloaded``): its session keys are
let go, and scripts that can be moved are. T - H is the reserve for what arrives between two reports. A node's level
follows its reports when two in a row agree, so that one odd second moves nothing.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping
from typing import NamedTuple

from airflow_provider_impala_lb.core.config.model import Config, LoadConfig, Node
from airflow_provider_impala_lb.core.state.load_report import LastReport, ProbeResult
from airflow_provider_impala_lb.core.state.model import Level, LoadSummary, NodeState, SessionRecord
from airflow_provider_impala_lb.core.state.state import State

_ORDER: tuple[Level, ...] = ("ready", "busy", "overloaded")
_REPORT_SECONDS = 3600.0
LONGEST_PAUSE = 600.0
"""With ``load: auto``: a node that never answers is asked once in so many seconds."""
MOVE_WITHIN = 300.0
"""A script that has run for longer (seconds) is not begun anew elsewhere: in a cluster that is nearly full, the work
thrown away overloads more nodes, whose scripts are moved then (docs/policies.md: without this limit 7 % slower at 95 %
load)."""


class LevelChange(NamedTuple):
    """A node whose level follows its reports.

    :ivar node: ``host:port``.
    :ivar before: its level until now.
    :ivar after: its level from now on.
    """

    node: str
    before: Level
    after: Level


class ProbeBaseline:
    """What the state was when the nodes were about to be asked: the leases that their answers will include.

    :param state: looked at now.
    :param now: the store's clock, seconds since the epoch.
    :ivar at: as given.
    :ivar leases: by ``host:port``.
    """

    def __init__(self, state: State, now: float) -> None:
        self.at = now
        self.leases = {address: node.leases for address, node in state.nodes.items()}


def fresh(node: NodeState, now: float, ttl: float) -> LoadSummary | None:
    """The node's last report, or None if that is too old. One from the future counts as new: a host's clock may be
    wrong.

    :param node: whose.
    :param now: the store's clock, seconds since the epoch.
    :param ttl: seconds that a report is good for.
    """
    summary = node.summary
    return summary if summary is not None and now - summary.at <= ttl else None


def headroom(shares: Mapping[str, float], weights: Mapping[str, float], common: set[str]) -> float | None:
    """P of one node, or None if none of its shares has a weight.

    :param shares: its free shares, by name.
    :param weights: of the shares, by name.
    :param common: the names that count: those of the shares that every node gives.
    """
    weighed = [(weights.get(name, 0.0), shares[name]) for name in common if name in shares]
    total = sum(weight for weight, _ in weighed)
    return sum(weight * share for weight, share in weighed) / total if total else None


def under_floor(shares: Mapping[str, float], load: LoadConfig) -> str:
    """The name of the share that is furthest below its floor, or "". Shares without a weight do not count.

    :param shares: free shares, by name.
    :param load: floors and weights.
    """
    short = {
        name: share - load.floor_of(name)
        for name, share in shares.items()
        if load.weight_of(name) > 0 and share < load.floor_of(name)
    }
    return min(short, key=lambda name: short[name]) if short else ""


def level_of(p: float | None, short_share: str, load: LoadConfig) -> Level:
    """What one report means by itself.

    :param p: the headroom; None: not known.
    :param short_share: a share that is under its floor, or "".
    :param load: T and H.
    """
    if p is not None and p <= load.overloaded:
        return "overloaded"
    return "busy" if short_share or (p is not None and p <= load.busy) else "ready"


def next_level(before: LoadSummary | None, reported: Level) -> Level:
    """A node's level after this report: it moves only as far as this one and the one before it agree.

    :param before: the report before, if it is fresh.
    :param reported: what this report means by itself.
    """
    if before is None:
        return "ready"
    now, last, level = (_ORDER.index(each) for each in (reported, before.reported_level, before.level))
    worse, better = min(now, last), max(now, last)
    return _ORDER[max(level, worse) if worse > level else min(level, better)]


def note_reports(
    config: Config,
    state: State,
    now: float,
    asked: ProbeBaseline,
    answers: Mapping[str, ProbeResult | str],
) -> list[LevelChange]:
    """Keep what the nodes answered.

    :param config: with ``load``.
    :param state: changed.
    :param now: the store's clock, seconds since the epoch.
    :param asked: what the state was when they were asked.
    :param answers: by ``host:port``; a text says why one did not answer.
    """
    load = config.load
    assert load is not None, "reports are noted only with `load` in the configuration"
    for address, answer in answers.items():
        _keep(state, now, asked, address, answer, load.refresh)
    common = _common_shares(config, state, now)
    changes = []
    for address, answer in answers.items():
        if isinstance(answer, str):
            continue
        sample, node = answer.sample, state.node(address)
        previous = fresh(node, now, config.report_seconds)
        p = headroom(sample.shares, load.weights, common)
        short_share = under_floor(sample.shares, load)
        reported = level_of(p, short_share, load)
        node.summary = LoadSummary(
            at=asked.at,
            queries=-1.0 if sample.queries is None else sample.queries,
            leases=asked.leases.get(address, 0),
            headroom=-1.0 if p is None else round(p, 4),
            level=next_level(previous, reported),
            reported_level=reported,
            short_share=short_share,
            quiescing=sample.quiescing,
        )
        if sample.queries is not None:
            node.forget_unleased(asked.at)  # what they started is in the report
        before: Level = previous.level if previous else "ready"
        if before != node.summary.level:
            changes.append(LevelChange(address, before, node.summary.level))
    return changes


def _keep(
    state: State, now: float, asked: ProbeBaseline, address: str, answer: ProbeResult | str, refresh: float
) -> None:
    if isinstance(answer, str):
        report = state.last_reports.get(address) or LastReport(at=asked.at)
        report.failed, node = answer[:200], state.node(address)
        node.unanswered += 1
        node.asked_again = asked.at + min(LONGEST_PAUSE, refresh * 2 ** min(node.unanswered, 16))
    else:
        sample = answer.sample
        report = LastReport(asked.at, sample.shares, sample.queries, sample.sessions, sample.queued)
        report.missing, report.counters = answer.missing, answer.counters
    state.last_reports.put(address, report, now + _REPORT_SECONDS)


def _common_shares(config: Config, state: State, now: float) -> set[str]:
    """The names of the shares that every node with a fresh report gives."""
    names = [
        set(report.shares)
        for address, report in state.last_reports.items()
        if now - report.at <= config.report_seconds and report.shares and config.node(address)
    ]
    return set.intersection(*names) if names else set()


def shed_load(config: Config, state: State, now: float, answered: Collection[str]) -> None:
    """What follows at H for nodes that have just reported: their session keys are dropped, and one script that can be
    moved is asked to, the youngest.

    At most one for each node and report, none that has run for more than `MOVE_WITHIN` seconds, and none while no node
    is above T and has room for it, or others wait for one.

    :param config: with ``load``.
    :param state: changed.
    :param now: the store's clock, seconds since the epoch.
    :param answered: the nodes (``host:port``) that have just reported.
    """
    ttl = config.report_seconds
    over = {
        address
        for address in answered
        if (node := state.nodes.get(address)) and (found := fresh(node, now, ttl)) and found.level == "overloaded"
    }
    if not over:
        return
    for address in over:
        state.sessions.change_all(address, lambda record, address=address: _let_go(record, address))  # type: ignore[misc]
    if any(not ticket.only for ticket in state.head.waiting):
        return  # it would be the last of those who wait
    if not any(_takes_work(config, node, state.nodes.get(node.address), now) for node in config.nodes):
        return
    for lease in sorted(state.leases.values(), key=lambda lease: -lease.taken):  # the one that loses least
        if lease.node in over and lease.movable and not lease.move and now - lease.taken <= MOVE_WITHIN:
            over.discard(lease.node)
            summary = state.nodes[lease.node].summary
            assert summary is not None
            lease.move = f"{lease.node} is overloaded (headroom {summary.headroom:.2f})"
            state.leases.put(lease.id, lease, lease.expires)


def _let_go(record: SessionRecord, address: str) -> float | None:
    if record.node != address or record.unplaced_reason:
        return None
    record.unplaced_reason = "overloaded"
    return record.expires


def _takes_work(config: Config, node: Node, record: NodeState | None, now: float) -> bool:
    if record is None:
        return True
    limit = config.lease_limit(node)
    if record.drained or record.ejection is not None or (limit is not None and record.leases >= limit):
        return False
    summary = fresh(record, now, config.report_seconds)
    return summary is None or (summary.level == "ready" and not summary.quiescing)
