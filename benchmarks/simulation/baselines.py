"""What the policies are measured against: they take the place of ``choose`` in the real ``place()``, so that
admission, session keys and leases are the same for all."""

from __future__ import annotations

import random
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from unittest.mock import patch

from airflow_provider_impala_lb.core.config.model import Config, Node
from airflow_provider_impala_lb.core.rules import placement
from airflow_provider_impala_lb.core.rules.policy import Scores, in_turn
from airflow_provider_impala_lb.core.state.state import State

from .server import Server

BASELINES = ("random", "oracle")


@contextmanager
def baseline(name: str, servers: dict[str, Server], slots: float) -> Iterator[None]:
    """``random`` or ``oracle`` instead of a policy; any other name changes nothing.

    :param name: of a policy or a baseline
    :param servers: the nodes as they truly are, by address
    :param slots: of a node with weight 1
    """
    chooser = {"random": _random, "oracle": _oracle(servers, slots)}.get(name)
    if chooser is None:
        yield
        return
    with patch.object(placement, "choose", chooser):
        yield


def _random(
    policy: str, config: Config, candidates: Sequence[Node], state: State, now: float, rng: random.Random
) -> tuple[Node, Scores]:
    """What a round robin in each process amounts to: an Airflow task is a new process, and begins anywhere."""
    return rng.choice(candidates), dict


def _oracle(servers: dict[str, Server], slots: float) -> Callable[..., tuple[Node, Scores]]:
    """The least ``(scripts + 1) / size`` by what truly runs there this instant, whatever reports and weights say."""

    def choose(
        policy: str, config: Config, candidates: Sequence[Node], state: State, now: float, rng: random.Random
    ) -> tuple[Node, Scores]:
        # Ties as least_loaded breaks them: what differs then is what is known, and nothing else.
        def score(node: Node) -> float:
            server = servers[node.address]
            return (server.count + 1) * slots / server.slots

        return min(in_turn(config, candidates, state.head.last), key=score), dict

    return choose
