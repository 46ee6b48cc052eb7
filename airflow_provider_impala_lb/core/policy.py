"""How one of the candidates is chosen. Pure: the same candidates and state give the same node.

Why least_loaded is the default, and what it was measured against: docs/design.md.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from airflow_provider_impala_lb.core.config import Config, Node, Policy
from airflow_provider_impala_lb.core.state import State


def load_of(state: State) -> dict[str, int]:
    """Scripts on each node now: leases, and picks without a lease that are younger than 30 s."""
    load = {address: sum(count for _, count in node.recent) for address, node in state.nodes.items()}
    for lease in state.leases.values():
        load[lease.node] = load.get(lease.node, 0) + 1
    return load


def in_turn(config: Config, candidates: Sequence[Node], last: str) -> list[Node]:
    """The candidates in round-robin order: those after the node picked last, then those before it.

    The turn is kept as the last node's name, not as a number: with a number the neighbour of a node that is out
    would inherit its share (npgsql#4181), and hosts whose lists differ would mean different nodes by it.
    """
    order = {address: index for index, address in enumerate(config.addresses)}
    after = order.get(last, -1)
    return sorted(candidates, key=lambda node: (order[node.address] - after - 1) % len(order))


def choose(policy: Policy, config: Config, candidates: Sequence[Node], state: State) -> tuple[Node, Mapping[str, str]]:
    """Choose among ``candidates`` (not empty). Returns the node, and for each candidate what spoke for it.

    * ``round_robin``: over any n*k consecutive picks with an unchanged set of n candidates each gets k.
    * ``least_loaded``: the smallest ``(load + 1) / weight``; ties go in round-robin order.
    """
    turn = in_turn(config, candidates, state.last)
    if policy == "round_robin":
        return turn[0], {node.address: f"turn {place}" for place, node in enumerate(turn, 1)}
    load = load_of(state)
    scores = {node.address: (load.get(node.address, 0) + 1) / node.weight for node in turn}
    best = min(turn, key=lambda node: scores[node.address])
    return best, {address: f"score {score:g}" for address, score in scores.items()}
