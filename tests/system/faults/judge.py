"""What a run reported, held against what the coordinators' journals and the data show."""

from __future__ import annotations

import collections
import re
import sys
import threading
import time
import traceback
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from airflow_provider_impala_lb import Balancer
from airflow_provider_impala_lb.errors import NoNodeAvailable, StatementFailed
from airflow_provider_impala_lb.impala.script.record import ScriptDone
from airflow_provider_impala_lb.impala.sql.splitter import split
from airflow_provider_impala_lb.sandbox import SandboxNode
from tests.support.scripts import script_run

_LABEL = re.compile(r"/\* lb:[0-9a-f]{16} (?:own:[0-9a-f]{16} )?(\d+)/\d+ dag=(\w+)")


@dataclass(frozen=True)
class Step:
    """One statement of a script.

    :ivar sql: its text
    :ivar changes: DML or DDL: it must not run twice. What only reads, REFRESH, SET and USE may
    :ivar rows: what the handler must make of it; None: no result set
    :ivar modified: rows that DML writes; None: it is none
    """

    sql: str
    changes: bool = False
    rows: list[tuple[Any, ...]] | None = None
    modified: int | None = None


class Hangs(Exception):
    """The run did not end in its time; the text is where it was."""


@dataclass
class Ran:
    """A run that is over, or hangs.

    :ivar name: its owner's
    :ivar steps: its statements
    :ivar ended: its result, or what it raised
    :ivar reported: the numbers of the statements that it reported as done, as it went on
    :ivar seconds: how long it took
    """

    name: str
    steps: Sequence[Step]
    ended: ScriptDone | BaseException | None = None
    reported: list[int] = field(default_factory=list)
    seconds: float = 0.0

    def __str__(self) -> str:
        how = self.ended
        if isinstance(how, StatementFailed):
            return f"statement {how.number} {how.outcome!r}: {' '.join(how.reason.split())}"
        if isinstance(how, ScriptDone):
            return f"ended well on {how.node}"
        return f"{type(how).__name__}: {' '.join(str(how).split())}"


def attempt(balancer: Balancer, name: str, steps: Sequence[Step], limit: float) -> Ran:
    """Run the script in a thread that is watched.

    :param balancer: which runs it
    :param name: the script's owner
    :param steps: its statements
    :param limit: after so many seconds it counts as hanging
    """
    ran = Ran(name, steps)

    def work() -> None:
        try:
            ran.ended = script_run(
                balancer,
                split(";\n".join(step.sql for step in steps)),
                owner=name,
                tags={"dag": name},
                handler=rows_in_batches,
                on_statement=lambda done: ran.reported.append(done.number),
                max_wait=1,
            ).run()
        except BaseException as error:
            ran.ended = error

    start = time.monotonic()
    thread = threading.Thread(target=work, name=f"run-{name}", daemon=True)
    thread.start()
    thread.join(limit)
    ran.seconds = time.monotonic() - start
    if ran.ended is None:
        frames = traceback.format_stack(sys._current_frames()[thread.ident])  # type: ignore[index]
        ran.ended = Hangs(f"not over after {limit:g} s:\n" + "".join(frames[-6:]))
    return ran


def rows_in_batches(cursor: Any) -> list[tuple[Any, ...]] | None:
    if cursor.description is None:
        return None
    cursor.arraysize = 40
    return list(cursor.fetchall())


class Evidence:
    """How often each statement ended well, by script and number, as the journals of all coordinators have it.

    :param nodes: the coordinators
    :param rows: how often the row that a statement writes is there, by script and number, for those that write one.
        A coordinator that is killed may have written the row, and not the journal.
    """

    def __init__(self, nodes: Sequence[SandboxNode], rows: Mapping[tuple[str, int], int] | None = None) -> None:
        self.finished: collections.Counter[tuple[str, int]] = collections.Counter()
        self.rows = rows or {}
        for node in nodes:
            for entry in node.journal():
                if entry.get("state") == "FINISHED" and (label := _LABEL.match(entry["sql"])):
                    self.finished[label[2], int(label[1])] += 1

    def times(self, name: str, number: int) -> int:
        """How often it ran."""
        return max(self.finished[name, number], self.rows.get((name, number), 0))


def faults_of(ran: Ran, evidence: Evidence) -> list[str]:
    """Where what the run reported is not what happened; empty if all is well.

    :param ran: the run
    :param evidence: what happened
    """
    found = [
        f"statement {number} ran {times} times"
        for number, step in enumerate(ran.steps, 1)
        if step.changes and (times := evidence.times(ran.name, number)) > 1
    ]
    ended, total = ran.ended, len(ran.steps)
    if isinstance(ended, ScriptDone):
        found += [*_all_ran(ran, evidence, total), *_reports_all(ran, ended)]
    elif isinstance(ended, StatementFailed):
        found += [*_all_ran(ran, evidence, ended.number - 1), *_none_ran(ran, evidence, ended.number)]
        step, times = ran.steps[ended.number - 1], evidence.times(ran.name, ended.number)
        if step.changes and (
            (times and ended.outcome in ("not started", "user error")) or (not times and ended.outcome == "done")
        ):
            found.append(f"statement {ended.number} is reported as {ended.outcome!r}, and ran {times} times")
        if not _reported_are(ran, list(range(1, ended.number))):
            found.append(f"on_statement reported {ran.reported}")
    elif isinstance(ended, NoNodeAvailable):
        found += _none_ran(ran, evidence, 0)
    else:
        found.append(f"the run raised {ran}")
    return found


def _reported_are(ran: Ran, numbers: list[int]) -> bool:
    """In this order; before that, of SET and USE on nodes that were left for another, where the script began anew."""
    begin = len(ran.reported) - len(numbers)
    again = [ran.steps[number - 1].sql for number in ran.reported[: max(begin, 0)]]
    return ran.reported[max(begin, 0) :] == numbers and all(sql.startswith(("SET", "USE")) for sql in again)


def _all_ran(ran: Ran, evidence: Evidence, until: int) -> list[str]:
    return [f"statement {number} did not run" for number in range(1, until + 1) if not evidence.times(ran.name, number)]


def _none_ran(ran: Ran, evidence: Evidence, behind: int) -> list[str]:
    """SET and USE may have run before a node was left for another."""
    return [
        f"statement {number} ran, which is reported as not sent"
        for number in range(behind + 1, len(ran.steps) + 1)
        if evidence.times(ran.name, number) and not ran.steps[number - 1].sql.startswith(("SET", "USE"))
    ]


def _reports_all(ran: Ran, done: ScriptDone) -> list[str]:
    numbers = list(range(1, len(ran.steps) + 1))
    found = []
    if [statement.number for statement in done.statements] != numbers or not _reported_are(ran, numbers):
        found.append(
            f"it reports {[s.number for s in done.statements]} as done, and on_statement reported {ran.reported}"
        )
    for number, (step, rows) in enumerate(zip(ran.steps, done.results, strict=True), 1):
        # The row of DDL says no more than that it is done: a lost one is not worth doing it again.
        if rows != step.rows and not (rows is None and step.changes):
            found.append(f"statement {number} gave {rows}, and not {step.rows}")
    for statement, step in zip(done.statements, ran.steps, strict=True):
        if statement.rows not in (step.modified, None):
            found.append(f"statement {statement.number} modified {step.modified} rows, not {statement.rows}")
    return found
