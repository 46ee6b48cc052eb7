"""What is simulated: the cluster, its work, and what goes wrong."""

from __future__ import annotations

from typing import NamedTuple

from airflow_provider_impala_lb.core.config.model import Config
from airflow_provider_impala_lb.core.config.parse import parse

NODES = 30
SLOTS = 8
MEAN_SECONDS, SIGMA, SHORTEST = 60.0, 1.5, 1.0
FOREIGN_NODES = 6
BURST = 100
CHAIN = 3.0
"""Scripts in a chain, on average (geometric)."""
GAP_SECONDS = 2.0
"""From a script's end to the start of the one that depends on it: about what a scheduler takes."""
LEAKED_SECONDS = 3600.0
LEAST_SHARE = 0.02


class Scenario(NamedTuple):
    """A cluster, its work and what goes wrong; each part is off unless it is given.

    :ivar name: short, for the code
    :ivar title: for the table
    :ivar period: seconds between two rounds of reports, so their age is 0 to ``period``; 0: a new one before each pick.
    :ivar foreign: share of the work that other clients run on the first 6 nodes: in the reports, not in the leases.
    :ivar bursts: share of the work that comes 100 scripts at one instant.
    :ivar leaked: share of the leases that live on for an hour after their script.
    :ivar small: every third node has half the slots
    :ivar known: the configuration's weights say so
    :ivar chains: scripts come in chains that stay on their node by session key
    :ivar thresholds: T and H are on
    :ivar movable: every script may be moved at H
    :ivar missed: share of the scripts that a report does not see, as they are between two statements just then
    """

    name: str
    title: str
    period: float = 30.0
    foreign: float = 0.0
    bursts: float = 0.0
    leaked: float = 0.0
    small: bool = False
    known: bool = True
    chains: bool = False
    thresholds: bool = False
    movable: bool = True
    missed: float = 0.0

    @property
    def plain(self) -> bool:
        """Whether it differs from other such scenarios only in its reports."""
        return self._replace(name="", title="", period=0.0, missed=0.0) == Scenario("", "", period=0.0)

    @property
    def held_to_line(self) -> bool:
        """Whether least_loaded is to be as good as the oracle: it knows the nodes' sizes, and reports are whole."""
        return self.known and not self.missed

    @property
    def slots(self) -> list[int]:
        return [SLOTS // 2 if self.small and place % 3 == 2 else SLOTS for place in range(NODES)]

    def config(self, policy: str) -> Config:
        """As a user would write it. Without thresholds T and H lie below every share that is reported."""
        weights = [slots / SLOTS if self.known else 1.0 for slots in self.slots]
        load = {"refresh": self.period or 30.0}
        if not self.thresholds:
            load |= {"floor": 0.0, "busy": LEAST_SHARE / 2, "overloaded": 0.0}
        nodes = [{"host": f"n{place}", "weight": weight} for place, weight in enumerate(weights)]
        return parse({"nodes": nodes, "policy": policy, "load": load, "lock_file": "/not/used"})

    def shares(self, count: int, slots: int) -> dict[str, float]:
        """Free shares with this many scripts on a node.

        With thresholds, like a host that is worn out somewhat above its full-speed slots: a CPU share that is gone at
        1.5 scripts per slot, memory for 2 per slot. So T is reached at 11 scripts on 8 slots and H at 13. Else the
        free slots, at least 2 %, as weighted_random needs.
        """
        if self.thresholds:
            return {"cpu": max(0.0, 1 - count / (1.5 * slots)), "memory": max(0.0, 1 - count / (2 * slots))}
        return {"cpu": max(LEAST_SHARE, 1 - count / slots)}


SCENARIOS = (
    Scenario("age 0", "plain, reports of age 0", period=0.0),
    Scenario("age 5", "plain, reports every 5 s", period=5.0),
    Scenario("age 30", "plain, reports every 30 s"),
    Scenario("foreign", "foreign load on 6 nodes", foreign=0.15),
    Scenario("bursts", "cron bursts of 100", bursts=0.5),
    Scenario("leaked", "2 % leaked leases", leaked=0.02),
    Scenario("unequal", "a third of half size", small=True),
    Scenario("unknown", "the same, weights unknown", small=True, known=False),
    Scenario("missed", "reports miss one script in five", missed=0.2),
    Scenario("sticky", "chains that stick", chains=True),
    Scenario("T and H", "chains, T and H", chains=True, thresholds=True),
    Scenario("T, H, foreign", "chains, T, H, foreign load", chains=True, thresholds=True, foreign=0.15),
    Scenario("10 s", "the same, reports every 10 s", 10.0, chains=True, thresholds=True, foreign=0.15),
    Scenario("unmoved", "the same, nothing is moved", chains=True, thresholds=True, foreign=0.15, movable=False),
)
