"""The coordinator is started anew under the same address, gone, or stopped for a while, in every phase of a script."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from concurrent.futures import Future
from contextlib import ExitStack
from typing import Any, Literal, NamedTuple

import pytest

from airflow_provider_impala_lb.sandbox import Sandbox, SandboxNode
from tests.support.sizes import cases
from tests.system.phases.lab import NUMBERS, Lab, add_numbers
from tests.system.phases.process import Process

LIMITS = {"open_timeout": 2, "rpc_timeout": 2, "reconnect_timeout": 7}
STOPPED_SECONDS = 3.0
"""Longer than a call may take, and shorter than a script waits for its coordinator."""
TRIES = 5

PHASES = (
    "leased",
    "session open",
    "not sent",
    "sent",
    "running",
    "ended",
    "not written",
    "fetching",
    "between",
    "last done",
)
TRIGGER_PHASES = ("not there", "polls", "ended", "not written", "before the intent", "4 not sent", "4 runs")
SENT = ("sent", "running", "polls", "4 runs", "not there")
"""Here a statement is at work: what becomes of it dies with its coordinator."""
INTENDED = ("not sent", *SENT, "ended", "not written", "4 not sent")
"""Here the journal holds an intent without an outcome."""


class Case(NamedTuple):
    phase: str
    coordinator: Literal["restarted", "gone", "stopped"]
    kind: Literal["plain", "resume", "trigger"]
    process: Literal["lives", "killed"]

    def __str__(self) -> str:
        return f"{self.coordinator} {self.phase}, {self.kind} {self.process}".replace(" ", "_")

    @property
    def end(self) -> str:
        """``itself``: the very process goes on to the script's end. ``later``: the next attempts come to it. ``asks``:
        a statement is in doubt, and a journal's next attempt asks."""
        stopped = self.coordinator == "stopped"
        if self.process == "killed":
            return "asks" if self.phase in INTENDED and not stopped and self.kind != "plain" else "later"
        if self.phase in SENT and not stopped:
            return "later" if self.kind == "plain" else "asks"
        if self.coordinator == "gone" and self.kind == "plain" and self.phase in ("not written", "ended", "between"):
            return "later"  # what was done is done there: it is not for this try to go elsewhere
        return "itself"


CASES = [
    Case(phase, coordinator, kind, "lives")
    for coordinator in ("restarted", "stopped")
    for kind in ("plain", "resume")
    for phase in PHASES
]
CASES += [
    Case(phase, "gone", kind, "lives")
    for kind in ("plain", "resume")
    for phase in ("leased", "session open", "running", "not written", "between", "last done")
]
CASES += [
    Case(phase, coordinator, "trigger", process)
    for coordinator in ("restarted", "stopped")
    for process in ("lives", "killed")
    for phase in TRIGGER_PHASES
]
CASES += [
    Case(phase, coordinator, "resume", "killed")
    for coordinator in ("restarted", "stopped")
    for phase in ("session open", "not sent", "running", "not written", "between", "last done")
]
QUICK = {"restarted_running,_resume_lives", "gone_running,_plain_lives"}


@pytest.fixture(scope="module")
def clusters(workers: None) -> Iterator[list[Sandbox]]:
    """One for each case that runs at a time."""
    with ExitStack() as stack:
        found = [stack.enter_context(Sandbox(nodes=2, lag=0, users=None)) for _ in range(3)]
        for cluster in found:
            add_numbers(cluster)
        yield found


def check(case: Case, lab: Lab) -> list[str]:
    lab.limit(**LIMITS)
    try:
        return _check(case, lab)
    finally:
        for node in lab.cluster.nodes:
            node.resume()
            if not node.running:
                node.start()


def _check(case: Case, lab: Lab) -> list[str]:
    resume = case.kind != "plain"
    first = _first(case, lab)
    first.wait_stopped()
    leased = lab.balancer.status()["leases"][0]["node"]
    node = next(node for node in lab.cluster.nodes if node.address == leased)
    if case.process == "killed":
        first.kill()
    over = _strike(case, node)
    ends: list[dict[str, Any]] = []
    if case.process == "lives":
        first.go_on()
        ends.append(first.end())
    if case.kind == "trigger":
        keys = lab.keys
        if case.process == "killed":
            ends.append(lab.start("triggerer", keys=keys).end())
        event = ends[-1].get("event", {})
        ends.append(lab.worker(1, resume=True, deferrable=True, event=event, **lab.sql).end())
    itself = bool(ends) and "done" in ends[-1]
    attempt = 1
    while not ends or not ("done" in ends[-1] or _asks(ends[-1])):
        attempt += 1
        if attempt > TRIES:
            return [f"no end after {TRIES} tries: {ends}"]
        ends.append(lab.worker(attempt, resume=resume, **lab.sql).end())
    over.join()
    if not node.running:
        node.start()
    faults = []
    found = "itself" if itself else "later" if "done" in ends[-1] else "asks"
    if found != case.end and not (case.end == "later" and itself):
        faults.append(f"it ended {found!r}, not {case.end!r}: {ends}")
    for each in range(1, attempt + 1) if not resume else [0]:
        ran = lab.finished(each)
        wanted = dict.fromkeys(NUMBERS, 1) if "done" in ends[-1] and each in (0, attempt) else None
        if max(ran.values(), default=0) > 1 or (wanted is not None and ran != wanted):
            faults.append(f"ran: {dict(ran)}")
    for each in range(1, attempt) if not resume else []:
        faults += lab.beside(ends[-1]["began"], each)
    # One that a coordinator has opened for a client who had given it up while it was stopped ends by itself.
    return faults + lab.faults_at_the_end(sessions=case.coordinator != "stopped")


def _first(case: Case, lab: Lab) -> Process:
    if case.kind != "trigger":
        return lab.worker(1, resume=case.kind == "resume", stop_at=case.phase)
    # Its statement is to run still when the trigger polls it.
    sql = lab.script(slow=2.0 if case.phase == "polls" else 0.6)
    lab.sql = {"sql": sql}
    let_go = lab.worker(1, resume=True, deferrable=True, let_go_at=2, **lab.sql).end()
    lab.keys = let_go["deferred"]
    return lab.start("triggerer", keys=lab.keys, stop_at=case.phase)


def _asks(end: dict[str, Any]) -> bool:
    """Whether it is a question that only the author can answer: Airflow tries again where a later look may tell."""
    text = str(end.get("text", ""))
    return " journal d/r/t " in text and "The next attempt looks again" not in text


def _strike(case: Case, node: SandboxNode) -> threading.Timer:
    """What becomes of the coordinator; the timer ends when that is over."""
    if case.coordinator == "stopped":
        node.pause()
    else:
        node.kill()
    if case.coordinator == "restarted":
        node.start()
    over = threading.Timer(STOPPED_SECONDS if case.coordinator == "stopped" else 0.0, node.resume)
    over.start()
    return over


@pytest.mark.parametrize("case", cases(CASES, QUICK))
def test_what_becomes_of_the_script(case: Case, found: dict[Case, Future[list[str]]]) -> None:
    faults = found[case].result()
    assert not faults, "\n".join(faults)
