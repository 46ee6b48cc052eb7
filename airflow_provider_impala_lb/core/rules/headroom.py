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
from typing import TYPE_CHECKING

from airflow_provider_impala_lb.core.state.model import LastReport, Level, LoadSummary, NodeState, forget_unleased
from airflow_provider_impala_lb.core.state.state import State

if TYPE_CHECKING:
    from airflow_provider_impala_lb.core.config.model import Config, LoadConfig
    from airflow_provider_impala_lb.core.state.load_report import ProbeResult

_ORDER: tuple[Level, ...] = ("ready", "busy", "overloaded")
_TOLD_SECONDS = 3600.0
MOVE_WITHIN = 300.0
"""A script that has run for longer is not begun anew elsewhere: in a cluster that is nearly full, the work thrown away
overloads more nodes, whose scripts are moved then (docs/policies.md: without this limit 7 % slower at 95 % load)."""


def fresh(node: NodeState, now: float, ttl: float) -> LoadSummary | None:
    """The node's last report if it is not older than ``ttl`` seconds. One from the future counts as new: a host's clock
    may be wrong."""
    brief = node.summary
    return brief if brief is not None and now - brief.at <= ttl else None


def headroom(shares: Mapping[str, float], weights: Mapping[str, float], common: set[str]) -> float | None:
    """P of one node over the ``common`` shares, or None if none of them has a weight."""
    weighed = [(weights.get(name, 0.0), shares[name]) for name in common if name in shares]
    total = sum(weight for weight, _ in weighed)
    return sum(weight * share for weight, share in weighed) / total if total else None


def under_floor(shares: Mapping[str, float], load: LoadConfig) -> str:
    """The name of the share that is furthest below its floor, or "". Shares without a weight do not count."""
    short = {
        name: share - load.floor_of(name)
        for name, share in shares.items()
        if load.weight_of(name) > 0 and share < load.floor_of(name)
    }
    return min(short, key=lambda name: short[name]) if short else ""


def level_of(p: float | None, low: str, load: LoadConfig) -> Level:
    """What one report means by itself."""
    if p is not None and p <= load.overloaded:
        return "overloaded"
    return "busy" if low or (p is not None and p <= load.busy) else "ready"


def next_level(before: LoadSummary | None, seen: Level) -> Level:
    """A node's level after this report: it moves only as far as this one and the one before it agree."""
    if before is None:
        return "ready"
    now, last, level = (_ORDER.index(each) for each in (seen, before.seen, before.level))
    worse, better = min(now, last), max(now, last)
    return _ORDER[max(level, worse) if worse > level else min(level, better)]


class ProbeBaseline:
    """What the state said when the nodes were about to be asked: the leases that their answers will include.

    :ivar at: the store's clock then.
    """

    def __init__(self, state: State, now: float) -> None:
        self.at = now
        self.leases = {address: node.leases for address, node in state.nodes.items()}


def note_reports(
    config: Config,
    state: State,
    now: float,
    asked: ProbeBaseline,
    answers: Mapping[str, ProbeResult | str],
) -> list[tuple[str, Level, Level]]:
    """Keep what the nodes answered (a text says why one did not). Returns each change of level: node, before, after."""
    load = config.load
    assert load is not None, "reports are noted only with `load` in the configuration"
    for address, said in answers.items():
        before = state.last_reports.get(address)
        if isinstance(said, str):
            told = before or LastReport(at=asked.at)
            told.failed = said[:200]
        else:
            sample = said.sample
            told = LastReport(asked.at, sample.shares, sample.queries, sample.sessions, sample.queued)
            told.missing, told.counters = said.missing, said.counters
        state.last_reports.put(address, told, now + _TOLD_SECONDS)
    ttl = config.report_seconds
    known = {
        address: told
        for address, told in state.last_reports.items()
        if now - told.at <= ttl and told.shares and config.node(address)
    }
    common = set.intersection(*(set(told.shares) for told in known.values())) if known else set()
    changes = []
    for address, said in answers.items():
        if isinstance(said, str):
            continue
        sample, node = said.sample, state.node(address)
        previous = fresh(node, now, ttl)
        p = headroom(sample.shares, load.weights, common)
        low = under_floor(sample.shares, load)
        seen = level_of(p, low, load)
        level = next_level(previous, seen)
        node.summary = LoadSummary(
            at=asked.at,
            queries=-1.0 if sample.queries is None else sample.queries,
            leases=asked.leases.get(address, 0),
            headroom=-1.0 if p is None else round(p, 4),
            level=level,
            seen=seen,
            low=low,
            quiescing=sample.quiescing,
        )
        if sample.queries is not None:
            forget_unleased(node, asked.at)  # what they started is in the report
        was: Level = previous.level if previous else "ready"
        if was != level:
            changes.append((address, was, level))
    return changes


def shed_load(config: Config, state: State, now: float, answered: Collection[str]) -> None:
    """What follows at H for nodes that have just reported: their session keys are dropped, and one script that can be
    moved is told to, the youngest: at most one for each node and report, none that has run for more than `MOVE_WITHIN`
    seconds, and none while no node is above T."""
    ttl = config.report_seconds
    over = {
        address
        for address in answered
        if (node := state.nodes.get(address)) and (brief := fresh(node, now, ttl)) and brief.level == "overloaded"
    }
    if not over:
        return
    for key, record in list(state.sessions.items()):
        if record.node in over and not record.broken:
            record.broken = "overloaded"
            state.sessions.put(key, record, record.expires)
    if not any(_takes_work(state.nodes.get(address), now, ttl) for address in config.addresses):
        return
    for _, lease in sorted(state.leases.items(), key=lambda entry: -entry[1].taken):  # the one that loses least
        if lease.node in over and lease.movable and not lease.move and now - lease.taken <= MOVE_WITHIN:
            over.discard(lease.node)
            brief = state.nodes[lease.node].summary
            assert brief is not None
            lease.move = f"{lease.node} is overloaded (headroom {brief.headroom:.2f})"
            state.leases.put(lease.id, lease, lease.expires)


def _takes_work(node: NodeState | None, now: float, ttl: float) -> bool:
    if node is None:
        return True
    brief = fresh(node, now, ttl)
    return (
        not node.drained
        and node.ejection is None
        and (brief is None or (brief.level == "ready" and not brief.quiescing))
    )
