"""Every world that the model can come to, breadth first, with the shortest way to each."""

from __future__ import annotations

from collections import defaultdict, deque
from collections.abc import Iterator
from typing import NamedTuple

from tests.support.protocol_model import LAST_WORDS, Model, World


class Explored(NamedTuple):
    """What was found.

    ``problem``: the first invariant that breaks; "": none does. ``path``: how. ``steps``: how many there are.
    ``reached``: all worlds, each with the step to it and the world before.
    """

    problem: str
    path: list[str]
    steps: int
    reached: dict[World, tuple[str, World | None]]


def explore(model: Model) -> Explored:
    """Look at all of it, or until an invariant breaks.

    :param model: with the rule.
    """
    first = model.first()
    reached: dict[World, tuple[str, World | None]] = {first: ("", None)}
    queue, steps = deque([first]), 0
    while queue:
        world = queue.popleft()
        for name, step in model.steps(world):
            steps += 1
            problem = model.problem(world, step)
            if problem is not None:
                return Explored(problem, [*_path(reached, world), name], steps, reached)
            after = model.reduced(step)
            if after not in reached:
                reached[after] = (name, world)
                queue.append(after)
    return Explored("", [], steps, reached)


def stuck(model: Model, explored: Explored) -> list[str] | None:
    """How a process comes to where it never ends, though the statement is over, whatever it still sees; None: nowhere.

    :param model: with the rule.
    :param explored: of it.
    """
    leads_on: dict[World, list[World]] = defaultdict(list)
    ends = deque(world for world in explored.reached if world.runner.at in LAST_WORDS)
    settled = ("archived", "refused", "dead", "zombie")
    waiting = [w for w in explored.reached if w.statement in settled and not w.call and w.runner.at not in LAST_WORDS]
    for world in waiting:
        for _, step in model.process(world):
            leads_on[model.reduced(step)].append(world)
    can_end: set[World] = set()
    while ends:
        for world in leads_on.get(ends.popleft(), ()):
            if world not in can_end:
                can_end.add(world)
                ends.append(world)
    return next((_path(explored.reached, world) for world in waiting if world not in can_end), None)


def needless_questions(model: Model, explored: Explored) -> Iterator[list[str]]:
    """The ways to a question whose answer follows from what is known: no two worlds that look the same to whoever asks
    differ in whether the statement has done its work, or may still do it.

    :param model: with the rule.
    :param explored: of it.
    """
    truths, ways = defaultdict(set), {}
    for world in explored.reached:
        if world.runner.at != "" or model.action(world) != "ask":
            continue
        seen = model.record(world), model.evidence(world)
        truths[seen].add((world.work, not _is_over(world)))
        ways.setdefault(seen, world)
    for seen, found in truths.items():
        if len(found) == 1:
            yield _path(explored.reached, ways[seen])


def _is_over(world: World) -> bool:
    """Nothing of the statement can land any more."""
    return world.statement in ("finalised", "archived", "refused", "dead") and not world.call


def _path(reached: dict[World, tuple[str, World | None]], world: World) -> list[str]:
    path = []
    at: World | None = world
    while at is not None:
        name, at = reached[at]
        path.append(name)
    return path[-2::-1]
