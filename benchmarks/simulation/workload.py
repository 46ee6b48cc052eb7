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
    slots = sum(scenario.slots)
    rate = utilisation * slots / MEAN_SECONDS
    work = _running_already(scenario, round(utilisation * slots), rng)
    there = len(work)
    starts = rate * (1 - scenario.foreign) / (CHAIN if scenario.chains else 1)
    made = 0
    for ready, together in _times(rng, starts, scenario.bursts):
        for _ in range(together):
            leaks = rng.random() < scenario.leaked
            size, chain = _size(rng), f"chain {len(work)}" if scenario.chains else None
            work.append(Script(len(work), ready, size, chain=chain, then=_dependents(scenario, rng), leaks=leaks))
            made += 1 + len(work[-1].then)
        if made >= sessions:
            break
    end = work[-1].ready
    if scenario.foreign:
        now = 0.0
        while (now := now + rng.expovariate(rate * scenario.foreign)) < end:
            work.append(Script(len(work), now, _size(rng), foreign=rng.randrange(FOREIGN_NODES)))
    # Sizes spread so widely that the mean of 30,000 is off by 2 %, and near saturation that is much. So the time is
    # stretched until the utilisation is the one that was asked for.
    seconds = sum(script.size + sum(script.then) for script in work[there:])
    stretch = seconds / (slots * utilisation * end)
    for script in work:
        script.ready *= stretch
    return sorted(work, key=lambda script: script.ready)


def _running_already(scenario: Scenario, count: int, rng: random.Random) -> list[Script]:
    """What a cluster in use has under way when we begin to look, with what is left of it. An empty one would take half
    an hour to fill, since most of the work is in a few long scripts.

    One that is met in the middle is longer than others in proportion to its length: a lognormal whose mu is greater by
    sigma squared; and any moment of it is as likely (renewal theory).
    """
    work = []
    for place in range(count):
        left = max(SHORTEST, rng.lognormvariate(_MU + SIGMA**2, SIGMA) * rng.random())
        if rng.random() < scenario.foreign:
            work.append(Script(place, 0.0, left, foreign=rng.randrange(FOREIGN_NODES)))
        else:
            chain = f"chain {place}" if scenario.chains else None
            work.append(Script(place, 0.0, left, chain=chain, then=_dependents(scenario, rng)))
    return work


def _dependents(scenario: Scenario, rng: random.Random) -> tuple[float, ...]:
    """Sizes of the scripts that come after one in its chain. Geometric: it does not matter how many came before."""
    sizes = []
    while scenario.chains and rng.random() > 1 / CHAIN:
        sizes.append(_size(rng))
    return tuple(sizes)


def _size(rng: random.Random) -> float:
    return max(SHORTEST, rng.lognormvariate(_MU, SIGMA))


def _times(rng: random.Random, rate: float, bursts: float) -> Iterator[tuple[float, int]]:
    """Poisson moments, and how many come at each: one, or a burst. ``rate`` counts scripts, or chains."""
    single, burst = rate * (1 - bursts), rate * bursts / BURST
    now = 0.0
    while True:
        now += rng.expovariate(single + burst)
        yield now, BURST if rng.random() < burst / (single + burst) else 1
