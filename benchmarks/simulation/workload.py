"""The scripts of a run: the same ones for every policy, so that what differs is the policy."""

from __future__ import annotations

import math
import random
from collections.abc import Iterator

from .scenario import BURST, CHAIN, FOREIGN_NODES, MEAN_SECONDS, SHORTEST, SIGMA, Scenario
from .server import Script

_MU = math.log(MEAN_SECONDS) - SIGMA**2 / 2


def make_work(scenario: Scenario, utilisation: float, sessions: int, seed: int) -> list[Script]:
    """``sessions`` scripts of ours and the foreign ones between them, by the time they are ready; of a chain only the
    first. New objects at each call, since a run changes them."""
    rng = random.Random(f"work {seed}")
    rate = utilisation * sum(scenario.slots) / MEAN_SECONDS
    work = _running_already(scenario, utilisation, rng)
    starts = rate * (1 - scenario.foreign) / (CHAIN if scenario.chains else 1)
    times = _times(rng, starts, scenario.bursts)
    made, ready = 0, 0.0
    while made < sessions:
        ready, together = next(times)
        for _ in range(together):
            sizes = [_size(rng)]
            while scenario.chains and rng.random() > 1 / CHAIN:
                sizes.append(_size(rng))
            chain = f"chain {made}" if scenario.chains else None
            leaks = rng.random() < scenario.leaked
            work.append(Script(len(work), ready, sizes[0], chain=chain, then=tuple(sizes[1:]), leaks=leaks))
            made += len(sizes)
    end = ready
    if scenario.foreign:
        rng, now = random.Random(f"foreign {seed}"), 0.0
        while (now := now + rng.expovariate(rate * scenario.foreign)) < end:
            work.append(Script(len(work), now, _size(rng), foreign=rng.randrange(FOREIGN_NODES)))
    return sorted(work, key=lambda script: script.ready)


def _running_already(scenario: Scenario, utilisation: float, rng: random.Random) -> list[Script]:
    """What a cluster in use has under way when we begin to look, with what is left of it. An empty one would take half
    an hour to fill, since most of the work is in a few long scripts.

    One that is met in the middle is longer than others in proportion to its length: a lognormal whose mu is greater by
    sigma squared; and any moment of it is as likely (renewal theory).
    """
    work = []
    for place in range(round(utilisation * sum(scenario.slots))):
        left = max(SHORTEST, rng.lognormvariate(_MU + SIGMA**2, SIGMA) * rng.random())
        foreign = rng.randrange(FOREIGN_NODES) if rng.random() < scenario.foreign else None
        work.append(Script(place, 0.0, left, foreign=foreign))
    return work


def _size(rng: random.Random) -> float:
    return max(SHORTEST, rng.lognormvariate(_MU, SIGMA))


def _times(rng: random.Random, rate: float, bursts: float) -> Iterator[tuple[float, int]]:
    """Poisson moments, and how many come at each: one, or a burst. ``rate`` counts scripts, or chains."""
    single, burst = rate * (1 - bursts), rate * bursts / BURST
    now = 0.0
    while True:
        now += rng.expovariate(single + burst)
        yield now, BURST if rng.random() < burst / (single + burst) else 1
