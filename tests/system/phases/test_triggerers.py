"""A triggerer is killed, or stopped and taken for lost, in every phase of a script that it has taken over; then comes
another triggerer with the same arguments, or the next attempt of the task."""

from __future__ import annotations

from concurrent.futures import Future
from typing import NamedTuple

import pytest

from tests.support.sizes import cases
from tests.system.phases.lab import NUMBERS, Lab

PHASES = (
    "not there",
    "taken",
    "attached",
    "polls",
    "ended",
    "not written",
    "before the intent",
    "4 not sent",
    "4 sent",
    "4 runs",
    "last done",
    "lease not ended",
    "not told",
)

HAS_DONE_ALL = ("last done", "lease not ended", "not told")


class Case(NamedTuple):
    phase: str
    how: str
    then: str
    """``trigger``: another triggerer; ``plain`` or ``resume``: the next attempt of such a task."""

    def __str__(self) -> str:
        return f"{self.how} {self.phase}, then {self.then}".replace(" ", "_")


CASES = [
    Case(phase, how, then) for phase in PHASES for how in ("kill", "stop") for then in ("trigger", "plain", "resume")
]
QUICK = {"kill_polls,_then_trigger", "stop_4_runs,_then_resume"}


def check(case: Case, lab: Lab) -> list[str]:
    """The cluster is alive: so each of these ends well, with every INSERT exactly once."""
    resume = case.then == "resume"
    let_go = lab.worker(1, resume=resume, deferrable=True, let_go_at=2).end()
    if "deferred" not in let_go:
        return [f"the worker did not let go: {let_go}"]
    order = {"keys": let_go["deferred"]}
    first = lab.start("triggerer", stop_at=case.phase, **order)
    first.wait_stopped()
    if case.how == "kill":
        first.kill()
    faults, attempt = [], 0 if resume else 1
    if case.then == "trigger":
        told = lab.start("triggerer", **order).end()
        if "done" not in told.get("event", {}):
            return [f"the second triggerer says: {told}"]
        end = lab.worker(1, resume=False, deferrable=True, event=told["event"]).end()
    else:
        attempt = 0 if resume else 2
        end = lab.worker(2, resume=resume, deferrable=True, let_go_at=99).end()  # it keeps its worker
    if "done" not in end:
        faults.append(f"the task ended in: {end}")
    elif end["done"]["statements"] != 4:
        faults.append(f"the task says: {end}")
    if case.how == "stop":
        first.go_on()
        late = first.end()
        # Its word is nobody's failure: what it had done before it was stopped; or that another has taken over, and its
        # attempt is over, which Airflow drops, since the task does not wait for this trigger any more.
        told = late.get("event", {})
        over = told.get("error", {}).get("kind") == "Superseded"
        if "silent" not in late and not over and not (case.phase in HAS_DONE_ALL and "done" in told):
            faults.append(f"the first triggerer said afterwards: {late}")
    ran = lab.finished(attempt)
    if ran != dict.fromkeys(NUMBERS, 1):
        faults.append(f"ran: {dict(ran)}")
    if case.then == "plain" and "began" in end:
        faults += lab.beside(end["began"])
    record = lab.record()
    if case.then != "plain" and not (record and record.ended):
        faults.append(f"the journal says: {record}")
    return faults + lab.faults_at_the_end()


@pytest.mark.parametrize("case", cases(CASES, QUICK))
def test_what_follows(case: Case, found: dict[Case, Future[list[str]]]) -> None:
    faults = found[case].result()
    assert not faults, "\n".join(faults)
