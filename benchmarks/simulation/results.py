"""All runs of a table, and what is read off them."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from statistics import fmean
from typing import NamedTuple

from .run import Outcome, Run
from .scenario import Scenario

POLICIES = ("oracle", "least_loaded", "power_of_two", "weighted_random", "round_robin", "random")
UTILISATIONS = (0.85, 0.95)
LINE = 0.05
"""least_loaded is to be at most this much above the oracle."""
_NEED_NO_REPORTS = ("oracle", "round_robin", "random")


class Cell(NamedTuple):
    """A policy in a scenario. Each property is the mean over the outcomes.

    :ivar outcomes: one for each seed
    """

    outcomes: tuple[Outcome, ...]

    @property
    def mean(self) -> float:
        return fmean(outcome.mean for outcome in self.outcomes)

    @property
    def p99(self) -> float:
        return fmean(outcome.p99 for outcome in self.outcomes)

    @property
    def moved(self) -> float:
        return fmean(outcome.moved for outcome in self.outcomes)

    @property
    def waited(self) -> float:
        return fmean(outcome.waited for outcome in self.outcomes)

    @property
    def spread(self) -> float:
        """Half the range of the mean over the seeds, as a share of it."""
        means = [outcome.mean for outcome in self.outcomes]
        return (max(means) - min(means)) / 2 / self.mean


class Results:
    """Runs every policy in every scenario, and keeps what came of it.

    :param scenarios: the rows of the table
    :param sessions: scripts, or chains of them, of each run
    :param seeds: runs of each cell, with seeds from 1 on
    :param say: is called with what is under way
    :ivar cells: by scenario's name, utilisation and policy
    """

    def __init__(self, scenarios: Sequence[Scenario], sessions: int, seeds: int, say: Callable[[str], None]) -> None:
        self.scenarios, self.sessions, self.seeds = scenarios, sessions, seeds
        self.cells: dict[tuple[str, float, str], Cell] = {}
        plain: dict[tuple[float, str], Cell] = {}
        for scenario in scenarios:
            for utilisation in UTILISATIONS:
                say(f"{scenario.title}, utilisation {utilisation:g}")
                for policy in POLICIES:
                    blind = scenario.plain and policy in _NEED_NO_REPORTS
                    cell = plain.get((utilisation, policy)) if blind else None
                    if cell is None:
                        # For who does not look at reports rare ones do, and cost less.
                        used = scenario._replace(period=30.0, missed=0.0) if blind else scenario
                        runs = (Run(used, policy, utilisation, sessions, seed) for seed in range(1, seeds + 1))
                        cell = Cell(tuple(run.outcome() for run in runs))
                        if blind:
                            plain[utilisation, policy] = cell
                    self.cells[scenario.name, utilisation, policy] = cell

    def cell(self, scenario: Scenario, utilisation: float, policy: str) -> Cell:
        return self.cells[scenario.name, utilisation, policy]

    def ratios(self, scenario: Scenario, utilisation: float) -> list[float]:
        """least_loaded's mean over the oracle's for each seed: of the same scripts, so most of the noise cancels."""
        ours, theirs = (self.cell(scenario, utilisation, name).outcomes for name in ("least_loaded", "oracle"))
        return [our.mean / their.mean for our, their in zip(ours, theirs, strict=True)]

    def ratio(self, scenario: Scenario, utilisation: float) -> float:
        return self.cell(scenario, utilisation, "least_loaded").mean / self.cell(scenario, utilisation, "oracle").mean

    def missing_the_line(self) -> list[tuple[Scenario, float]]:
        """Where least_loaded is more than 5 % above the oracle though it knows the nodes' sizes."""
        return [
            (scenario, utilisation)
            for scenario in self.scenarios
            for utilisation in UTILISATIONS
            if scenario.held_to_line and self.ratio(scenario, utilisation) > 1 + LINE
        ]
