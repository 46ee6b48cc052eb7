"""How one of the candidates is chosen. Pure: the same candidates, state and random numbers give the same node.

Why least_loaded is the default, and what it was measured against: docs/policies.md.
"""

from __future__ import annotations

import random
from collections.abc import Callable, Sequence

from airflow_provider_impala_lb.core.config.model import Config, Node, Policy
from airflow_provider_impala_lb.core.rules.headroom import fresh
from airflow_provider_impala_lb.core.state.model import NodeState
from airflow_provider_impala_lb.core.state.state import State

Scores = Callable[[], dict[str, str]]
"""What spoke for each candidate, by ``host:port``: made only if somebody asks."""
_UNKNOWN = NodeState()


def load_of(node: NodeState, now: float, ttl: float) -> float:
    """Scripts on a node now: ``max(0, report + leases_now - leases_when_sampled)``, and the picks without a lease that
    no report has covered yet. Without a fresh report: the leases and those picks.

    Leases that leaked stand in both numbers, so they cancel out; work of others is in the report.

    :param ttl: seconds a report is good for; 0: there are none.
    """
    here = node.leases
    for _, count in node.recent:
        here += count
    if ttl:
        brief = fresh(node, now, ttl)
        if brief is not None and brief.queries >= 0:
            return max(0.0, brief.queries + here - brief.leases)
    return here


def in_turn(config: Config, candidates: Sequence[Node], last: str) -> Sequence[Node]:
    """The candidates in round-robin order: those after the node picked last, then those before it.

    The turn is kept as the last node's name, not as a number: with a number the neighbour of a node that is out
    would inherit its share (npgsql#4181), and hosts whose lists differ would mean different nodes by it.

    :param candidates: in the configuration's order.
    """
    order = config.order
    after = order.get(last, -1)
    for place, node in enumerate(candidates):
        if order[node.address] > after:
            return [*candidates[place:], *candidates[:place]] if place else candidates
    return candidates


def choose(
    policy: Policy, config: Config, candidates: Sequence[Node], state: State, now: float, rng: random.Random
) -> tuple[Node, Scores]:
    """Choose among ``candidates`` (not empty, in the configuration's order).

    * ``round_robin``: over any n*k consecutive picks with an unchanged set of n candidates each gets k.
    * ``least_loaded``: the smallest ``(load + 1) / weight``; ties go in round-robin order.
    * ``weighted_random``: at random by ``W = P * weight / sum``, so that what is picked between two reports does not
      all go to one node. A node without a report counts as the mean of the others; without any all have P = 1.
    * ``power_of_two``: of two drawn at random the one with the smaller ``(load + 1) / weight``.
    """
    if policy == "round_robin":
        turn = in_turn(config, candidates, state.head.last)
        return turn[0], lambda: {node.address: f"turn {place}" for place, node in enumerate(turn, 1)}
    nodes, ttl = state.nodes, config.report_seconds
    if policy == "weighted_random":
        return _by_lot(candidates, nodes, now, ttl, rng)
    drawn = len(candidates)
    if policy == "power_of_two" and drawn > 2:
        candidates = sorted(rng.sample(candidates, 2), key=lambda node: config.order[node.address])
    turn = in_turn(config, candidates, state.head.last)
    scores = [(load_of(nodes.get(node.address, _UNKNOWN), now, ttl) + 1) / node.weight for node in turn]
    best = turn[scores.index(min(scores))]
    return best, lambda: {node.address: f"score {score:g}" for node, score in zip(turn, scores, strict=True)}


def _by_lot(
    candidates: Sequence[Node], nodes: dict[str, NodeState], now: float, ttl: float, rng: random.Random
) -> tuple[Node, Scores]:
    briefs = [fresh(nodes[node.address], now, ttl) if node.address in nodes else None for node in candidates]
    known = [brief.headroom for brief in briefs if brief and brief.headroom >= 0]
    mean = sum(known) / len(known) if known else 1.0
    shares = [
        (brief.headroom if brief and brief.headroom >= 0 else mean) * node.weight
        for node, brief in zip(candidates, briefs, strict=True)
    ]
    total = sum(shares) or 1.0
    best = rng.choices(candidates, shares if sum(shares) else None)[0]
    return best, lambda: {
        node.address: f"chance {share / total:.3f}" for node, share in zip(candidates, shares, strict=True)
    }


def most_headroom(candidates: Sequence[Node], state: State, now: float, ttl: float) -> Node:
    """Of nodes that are all busy: those with no share under its floor first, then the one with the largest P, then the
    one with the least on it."""

    def rank(node: Node) -> tuple[bool, float, float]:
        record = state.nodes.get(node.address, _UNKNOWN)
        brief = fresh(record, now, ttl)
        return (
            bool(brief and brief.low),
            -brief.headroom if brief else 0.0,
            (load_of(record, now, ttl) + 1) / node.weight,
        )

    return min(candidates, key=rank)
