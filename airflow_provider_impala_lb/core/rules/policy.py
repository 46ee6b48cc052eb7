"""How one of the candidates is chosen. Pure: the same candidates, state and random numbers give the same node.

Why least_loaded is the default, and what it was measured against: docs/policies.md. A new policy is a function in
`POLICIES`, under its name in `config.model.PolicyName`.
"""

from __future__ import annotations

import random
from collections.abc import Callable, Sequence

from airflow_provider_impala_lb.core.config.model import Config, Node, PolicyName
from airflow_provider_impala_lb.core.rules.discovery import share_of
from airflow_provider_impala_lb.core.rules.headroom import fresh
from airflow_provider_impala_lb.core.state.model import NodeState
from airflow_provider_impala_lb.core.state.state import State

Scores = Callable[[], dict[str, str]]
"""What spoke for each candidate, by ``host:port``: made only if somebody asks."""
Policy = Callable[[Config, Sequence[Node], State, float, random.Random], tuple[Node, Scores]]
"""Chooses among candidates (not empty, in the configuration's order). Parameters as of `choose`."""
_UNKNOWN = NodeState()


def choose(
    policy: PolicyName, config: Config, candidates: Sequence[Node], state: State, now: float, rng: random.Random
) -> tuple[Node, Scores]:
    """Choose by the policy of this name.

    :param policy: its name, a key of `POLICIES`.
    :param config: the nodes' order and weights.
    :param candidates: not empty, in the configuration's order.
    :param state: what runs on them, and what they reported.
    :param now: the store's clock, seconds since the epoch.
    :param rng: for the policies that draw by lot.
    :returns: the node, and what spoke for each candidate.
    """
    return POLICIES[policy](config, candidates, state, now, rng)


def load_of(node: NodeState, now: float, ttl: float) -> float:
    """Scripts on a node now: ``max(0, report + leases_now - leases_when_sampled)``, and the picks without a lease that
    no report has covered yet. Without a fresh report: the leases and those picks.

    Leases that leaked stand in both numbers, so they cancel out; work of others is in the report.

    :param node: which.
    :param now: the store's clock, seconds since the epoch.
    :param ttl: seconds a report is good for; 0: there are none.
    """
    here = node.leases
    for _, count in node.recent:
        here += count
    if ttl and node.summary is not None:
        summary = fresh(node, now, ttl)
        if summary is not None and summary.queries >= 0:
            return max(0.0, summary.queries + here - summary.leases)
    return here


def weight_of(config: Config, node: Node, now: float) -> float:
    """A node's weight; of one that has joined lately a part of it, see `discovery.share_of`.

    :param config: where nodes are found.
    :param node: which.
    :param now: the store's clock, seconds since the epoch.
    """
    return node.weight * share_of(config, node, now) if node.joined else node.weight


def in_turn(config: Config, candidates: Sequence[Node], last: str) -> Sequence[Node]:
    """The candidates in round-robin order: those after the node picked last, then those before it.

    The turn is kept as the last node's name, not as a number: with a number the neighbour of a node that is out
    would inherit its share (npgsql#4181), and hosts whose lists differ would mean different nodes by it.

    :param config: the nodes' order.
    :param candidates: in the configuration's order.
    :param last: ``host:port`` of the node picked last; "": none was.
    """
    order = config.order
    after = order.get(last, -1)
    for index, node in enumerate(candidates):
        if order[node.address] > after:
            return [*candidates[index:], *candidates[:index]] if index else candidates
    return candidates


def most_headroom(candidates: Sequence[Node], state: State, now: float, ttl: float) -> Node:
    """Of nodes that are all busy: those with no share under its floor first, then the one with the largest P, then the
    one with the least on it.

    :param candidates: not empty.
    :param state: what they reported.
    :param now: the store's clock, seconds since the epoch.
    :param ttl: seconds a report is good for.
    """

    def rank(node: Node) -> tuple[bool, float, float]:
        record = state.nodes.get(node.address, _UNKNOWN)
        summary = fresh(record, now, ttl)
        return (
            bool(summary and summary.short_share),
            -summary.headroom if summary else 0.0,
            (load_of(record, now, ttl) + 1) / node.weight,
        )

    return min(candidates, key=rank)


def _round_robin(
    config: Config, candidates: Sequence[Node], state: State, now: float, rng: random.Random
) -> tuple[Node, Scores]:
    """Over any n*k consecutive picks with an unchanged set of n candidates each gets k."""
    turn = in_turn(config, candidates, state.head.last)
    return turn[0], lambda: {node.address: f"turn {index}" for index, node in enumerate(turn, 1)}


def _least_loaded(
    config: Config, candidates: Sequence[Node], state: State, now: float, rng: random.Random
) -> tuple[Node, Scores]:
    """The smallest ``(load + 1) / weight``; ties go in round-robin order."""
    nodes, ttl = state.nodes, config.report_seconds
    turn = in_turn(config, candidates, state.head.last)
    get, scores = nodes.get, []
    for node in turn:  # by each pick, for each node
        record = get(node.address, _UNKNOWN)
        load = load_of(record, now, ttl) if record.recent or record.summary is not None else record.leases
        scores.append((load + 1) / (weight_of(config, node, now) if node.joined else node.weight))
    best = turn[scores.index(min(scores))]
    return best, lambda: {node.address: f"score {score:g}" for node, score in zip(turn, scores, strict=True)}


def _power_of_two(
    config: Config, candidates: Sequence[Node], state: State, now: float, rng: random.Random
) -> tuple[Node, Scores]:
    """Of two drawn at random the one with the smaller ``(load + 1) / weight``."""
    if len(candidates) > 2:
        candidates = sorted(rng.sample(candidates, 2), key=lambda node: config.order[node.address])
    return _least_loaded(config, candidates, state, now, rng)


def _weighted_random(
    config: Config, candidates: Sequence[Node], state: State, now: float, rng: random.Random
) -> tuple[Node, Scores]:
    """At random by ``W = P * weight / sum``, so that what is picked between two reports does not all go to one node.

    A node without a report counts as the mean of the others; without any all have P = 1.
    """
    nodes, ttl = state.nodes, config.report_seconds
    summaries = [fresh(nodes[node.address], now, ttl) if node.address in nodes else None for node in candidates]
    known = [summary.headroom for summary in summaries if summary and summary.headroom >= 0]
    mean = sum(known) / len(known) if known else 1.0
    shares = [
        (summary.headroom if summary and summary.headroom >= 0 else mean) * weight_of(config, node, now)
        for node, summary in zip(candidates, summaries, strict=True)
    ]
    total = sum(shares) or 1.0
    best = rng.choices(candidates, shares if sum(shares) else None)[0]
    return best, lambda: {
        node.address: f"chance {share / total:.3f}" for node, share in zip(candidates, shares, strict=True)
    }


def spread(
    config: Config, candidates: Sequence[Node], state: State, now: float, rng: random.Random
) -> tuple[Node, Scores]:
    """At random by ``weight / (load + 1)``: for those who cannot know of each other. By ``least_loaded`` all of them
    would go to the same node (Mitzenmacher, How Useful Is Old Information).

    :param config: the nodes' weights.
    :param candidates: not empty, in the configuration's order.
    :param state: what runs on them, as last known.
    :param now: seconds since the epoch.
    :param rng: draws.
    :returns: the node, and what spoke for each candidate.
    """
    nodes, ttl = state.nodes, config.report_seconds
    shares = [
        weight_of(config, node, now) / (load_of(nodes.get(node.address, _UNKNOWN), now, ttl) + 1) for node in candidates
    ]
    total = sum(shares)
    best = rng.choices(candidates, shares)[0]
    return best, lambda: {
        node.address: f"chance {share / total:.3f}" for node, share in zip(candidates, shares, strict=True)
    }


POLICIES: dict[PolicyName, Policy] = {
    "least_loaded": _least_loaded,
    "round_robin": _round_robin,
    "weighted_random": _weighted_random,
    "power_of_two": _power_of_two,
}
"""Every policy by its name in the configuration."""
