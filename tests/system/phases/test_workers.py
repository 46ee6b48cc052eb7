"""A worker is killed, or stopped and taken for lost, in every phase of its script; then comes the next attempt."""

from __future__ import annotations

from concurrent.futures import Future
from typing import NamedTuple

import pytest

from tests.support.sizes import cases
from tests.system.phases.lab import NUMBERS, Lab

PHASES = (
    "before anything",
    "before its lease",
    "leased",
    "session not noted",
    "session open",
    "not sent",
    "sent",
    "running",
    "ended",
    "not written",
    "fetching",
    "between",
    "last done",
    "session closed",
)
HANDING_OVER = ("letting go", "let go")


class Case(NamedTuple):
    phase: str
    how: str
    resume: bool
    deferrable: bool = False

    def __str__(self) -> str:
        kind = ("resume" if self.resume else "plain") + (" deferrable" if self.deferrable else "")
        return f"{self.how} {self.phase}, {kind}".replace(" ", "_")


CASES = [Case(phase, how, resume) for phase in PHASES for how in ("kill", "stop") for resume in (False, True)]
CASES += [
    Case(phase, how, resume, deferrable=True)
    for phase in ("not sent", "running", "not written", *HANDING_OVER)
    for how in ("kill", "stop")
    for resume in (False, True)
]
# Stopped for so long that its lease has lapsed: another host cannot see that it lives.
CASES += [
    Case(phase, "lapse", resume)
    for phase in ("leased", "session not noted", "not sent", "running")
    for resume in (False, True)
]


QUICK = {"kill_sent,_plain", "kill_running,_resume", "kill_not_written,_resume", "stop_running,_plain"}


def check(case: Case, lab: Lab) -> list[str]:
    """Whether the cluster is alive: so each of these ends well, with every INSERT exactly once."""
    kind = {"resume": case.resume, "deferrable": case.deferrable}
    let_go_at = {"let_go_at": 2 if case.phase in HANDING_OVER else 99} if case.deferrable else {}
    first = lab.worker(1, stop_at=case.phase, **kind, **let_go_at)
    first.wait_stopped()
    if case.how == "kill":
        first.kill()
    if case.how == "lapse":
        lab.let_lapse()
    number = 2
    if case.phase == "before anything" and case.resume:
        # Nothing was written of a try that never began, and that is not "nothing done".
        end = lab.worker(number, resume=True).end()
        if end.get("error") != "JournalMissing":
            return [f"the next attempt ended in: {end}"]
        lab.answer("start-over")
        number = 3
    end = lab.worker(number, resume=case.resume).end()
    if "done" not in end:
        return [f"the next attempt ended in: {end}"]
    if case.how != "kill":
        first.go_on()
        late = first.end()
        if "done" in late and case.phase not in ("last done", "session closed"):
            return [f"the first attempt said afterwards: {late}"]
    attempt = 0 if case.resume else 2
    ran, faults = lab.finished(attempt), []
    if ran != dict.fromkeys(NUMBERS, 1):
        faults.append(f"ran: {dict(ran)}")
    if not case.resume:
        faults += lab.beside(end["began"])
    # A session that nobody could note ends by itself, 15 minutes after its connection.
    leaks = case.phase == "session not noted" and case.how == "kill"
    return faults + lab.faults_at_the_end(sessions=not leaks)


@pytest.mark.parametrize("case", cases(CASES, QUICK))
def test_the_next_try_after(case: Case, found: dict[Case, Future[list[str]]]) -> None:
    faults = found[case].result()
    assert not faults, "\n".join(faults)
