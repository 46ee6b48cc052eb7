"""One life: attempt after attempt, as Airflow begins them, until the script is done or nobody can say how to go on."""

from __future__ import annotations

import signal
import time
from dataclasses import dataclass, field
from typing import Any

from tests.system.lives import author
from tests.system.lives.nursery import Nursery, Worker
from tests.system.lives.stage import Sent, Stage
from tests.system.lives.story import Story
from tests.system.lives.tables import Tables

HANGS_AFTER = 90.0
"""Seconds for one process. It may wait for a page to be fresh for 10 s and for a session to end for 20 s, each
more than once, on a machine that does a dozen lives at a time."""
MOST = 12
"""So many attempts one life may take: all that goes wrong is over by the fourth, but for a coordinator that starts."""
AGAIN = {"killed": 0.0, "stopped": 0.0, "deferred": 0.0, "Superseded": 0.0} | dict.fromkeys(
    ("StillRunning", "NoNodeAvailable", "StateUnavailable", "StateContended"), 0.5
)
"""Seconds before the next attempt, where the last one has ended so. (A process that is stopped may hold a lock.)"""
PATIENT = 3
"""Up to this attempt a question that may clear up by itself is left to the next one."""
GONE_ON = 3
"""So often a trigger that is gone is begun anew, before Airflow is taken to retry the task."""


class Hangs(Exception):
    """A process did not end in its time."""


@dataclass
class Word:
    """What one process said at its end.

    :ivar attempt: of which
    :ivar role: worker, trigger or fetch
    :ivar end: its own word, or the kinds ``killed`` and ``stopped``
    :ivar statements: it reported as done, in order
    :ivar ghost: it was stopped, and went on beside its successor
    :ivar tables: what was there then; None: others may have been at work
    """

    attempt: int
    role: str
    end: dict[str, Any]
    statements: list[int]
    ghost: bool = False
    tables: Tables | None = None

    @property
    def kind(self) -> str:
        """How it ended."""
        return str(self.end["kind"])


@dataclass
class Lived:
    """A life that is over.

    :ivar story: what was to happen
    :ivar words: of its processes, ghosts last
    :ivar outcome: how the life ended
    :ivar questions: the reasons of those that were asked
    :ivar other: what the other deployment's process said; None: there was none
    :ivar tables: in the end
    :ivar sent: over the relay
    :ivar told: what happened, for people
    :ivar happened: what went wrong, for the tally
    :ivar faults: what was found wrong while it went on
    :ivar seconds: it took
    """

    story: Story
    words: list[Word] = field(default_factory=list)
    outcome: str = ""
    questions: list[str] = field(default_factory=list)
    other: dict[str, Any] | None = None
    tables: Tables = field(default_factory=dict)
    sent: list[Sent] = field(default_factory=list)
    told: list[str] = field(default_factory=list)
    happened: list[str] = field(default_factory=list)
    faults: list[str] = field(default_factory=list)
    seconds: float = 0.0


class Life:
    """Lives one.

    :param stage: where
    :param nursery: begins the processes
    """

    def __init__(self, stage: Stage, nursery: Nursery) -> None:
        self._stage, self._nursery, self._story = stage, nursery, stage.story
        self._lived = Lived(stage.story)
        self._ghosts: list[tuple[Worker, int]] = []
        self._other: Worker | None = None
        self._began = time.time()
        stage.other = self._begin_other

    def live(self) -> Lived:
        """All of it."""
        lived, start = self._lived, time.monotonic()
        try:
            for number in range(1, MOST + 1):
                if self._is_over(self._attempt(number)):
                    break
            else:
                lived.outcome = "never"
                lived.faults.append(f"it is not over after {MOST} attempts")
            self._end_ghosts()
            if self._other is not None:
                lived.other = self._watch(self._other)
            self._stage.be_quiet()
            lived.tables = self._stage.tables()
        except (Hangs, author.NoTruth) as error:
            lived.outcome = lived.outcome or "hangs"
            lived.faults.append(f"{type(error).__name__}: {error}")
            for worker, _ in self._ghosts:
                worker.signal(signal.SIGKILL)
        lived.seconds = time.monotonic() - start
        return lived

    # -- one attempt

    def _attempt(self, number: int) -> Word:
        """All processes of one attempt; the last word of it."""
        stage, story = self._stage, self._story
        stage.attempt_begins(number)
        ghosts = list(self._ghosts)
        for ghost, _ in ghosts:
            strike = stage.asleep[ghost.number]
            if strike.asleep is not None:
                stage.after(strike.asleep, lambda ghost=ghost: ghost.signal(signal.SIGCONT))
        word = self._process(number, "worker")
        handover, gone = None, 0
        while word.kind == "deferred" or (handover is not None and word.role == "trigger" and gone <= GONE_ON):
            if word.kind == "deferred" and word.role == "trigger" and word.end["ready"]:
                time.sleep(story.rows_later)
                word = self._process(number, "fetch", word.end["handover"])
                break
            if word.role == "worker":
                handover = word.end["handover"]
            elif word.kind == "done":
                author.end_journal(stage, word.end["epoch"])
                break
            elif word.kind in ("killed", "stopped", "deferred"):
                gone += 1  # another triggerer goes on, with what the worker has left
                if gone > GONE_ON:
                    break
            else:
                break
            word = self._process(number, "trigger", handover)
        for ghost, _ in ghosts:
            ghost.signal(signal.SIGCONT)
        return word

    def _process(self, number: int, role: str, handover: dict[str, Any] | None = None) -> Word:
        story, stage = self._story, self._stage
        strike = stage.next_sending_strike()
        worker = self._nursery.begin(
            name=story.name,
            owner=f"dag/{story.name}/task",
            config=stage.life_config,
            script=story.script,
            role=role,
            attempt=number,
            run=1000.0,
            generation="first",
            handover=handover,
            resume=story.resume,
            journal=story.resume or story.defer_after is not None,
            defer_after=story.defer_after,
            rows=story.wants_rows,
            options={"QUERY_TIMEOUT_S": "1"} if story.query_timeout else None,
            strike={"what": strike.what, "sending": strike.sending} if strike else None,
        )
        stage.tell(f"attempt {number}: {role} begins, process {worker.number}")
        if strike:
            stage.asleep[worker.number] = strike
        stage.newest = worker
        end = self._watch(worker)
        stage.tell(f"attempt {number}: {role}: {end['kind']} {end.get('text', '')}")
        word = Word(number, role, end, worker.said("statement"))
        if strike and worker.said("strike"):
            stage.happened.append(f"{strike.what} at a sending")
        if word.kind == "stopped":
            self._ghosts.append((worker, number))
        elif not self._ghosts and word.kind not in ("killed", "deferred"):
            word.tables = stage.tables()
        self._lived.words.append(word)
        return word

    def _watch(self, worker: Worker) -> dict[str, Any]:
        """Until it has ended, or is stopped."""
        if not worker.wait(HANGS_AFTER, stop_too=True):
            worker.signal(signal.SIGUSR2)  # it writes into its log where it is
            time.sleep(0.5)
            worker.signal(signal.SIGKILL)
            raise Hangs(f"process {worker.number} is not over after {HANGS_AFTER:g} s, see {worker.order['log']}")
        if worker.end is not None:
            return worker.end
        if worker.stopped:
            return {"kind": "stopped"}
        if worker.code == -signal.SIGKILL:
            return {"kind": "killed"}
        return {"kind": "crashed", "text": f"exit code {worker.code}"}

    # -- between two attempts

    def _is_over(self, word: Word) -> bool:
        lived, end = self._lived, word.end
        if word.kind == "done":
            lived.outcome = "done"
        elif word.kind in AGAIN:
            time.sleep(AGAIN[word.kind])
        elif word.kind == "JournalMissing":
            self._ask("the journal is missing", 0)
        elif word.kind == "StatementFailed":
            self._after_failure(word, end)
        elif (
            word.kind == "ConfigError"
            and self._story.deployments == "two runs"
            and "two runs have this name" in end["text"]
        ):
            lived.outcome = "two runs"  # the other one began while nothing of ours ran: neither takes over
        else:
            lived.outcome = word.kind
            lived.faults.append(f"attempt {word.attempt}: {word.role} ended in {end}")
        return bool(lived.outcome)

    def _after_failure(self, word: Word, end: dict[str, Any]) -> None:
        lived, unknown = self._lived, end["outcome"] == "unknown"
        if end["outcome"] == "user error":
            lived.outcome = "user error"
        elif not self._story.resume and (unknown or end["outcome"] == "done"):
            lived.outcome = "not retried"  # see `forbid_retry` of the operator
            lived.questions.append("without resume: " + author.reason(end["reason"]))
        elif not end["retry"] and not unknown:
            lived.outcome = "no retry"
        elif unknown and "whether it ran is not known: " in end["reason"]:
            if end["retry"] and word.attempt < PATIENT:
                self._stage.happened.append("looked again")
                time.sleep(0.2)
            else:
                self._ask(end["reason"].partition("whether it ran is not known: ")[2], end["number"], end["text"])

    def _ask(self, why: str, number: int, text: str = "") -> None:
        """The author looks, once nothing of the script is alive, and types the command of the text."""
        lived, stage = self._lived, self._stage
        for ghost, _ in self._ghosts:
            stage.tell(f"the author kills process {ghost.number}")
            ghost.signal(signal.SIGKILL)
        stage.be_quiet()
        reply = "start-over"
        if number:
            ran = author.truth(stage, number, stage.tables())
            reply = author.command(text, "ran" if ran else "not-run")
        said = author.reply(stage, reply)
        stage.tell(f"asked: {why}; answered: {said}")
        lived.questions.append(author.reason(why))

    def _end_ghosts(self) -> None:
        for ghost, number in self._ghosts:
            ghost.signal(signal.SIGCONT)
            if not ghost.wait(HANGS_AFTER):
                ghost.signal(signal.SIGUSR2)
                time.sleep(0.5)
                ghost.signal(signal.SIGKILL)
                raise Hangs(f"process {ghost.number}, stopped and gone on, is not over: see {ghost.order['log']}")
            end = ghost.end or {"kind": "killed"}
            self._stage.tell(f"attempt {number}: the ghost: {end['kind']} {end.get('text', '')}")
            self._lived.words.append(Word(number, ghost.order["role"], end, ghost.said("statement"), ghost=True))

    def _begin_other(self) -> None:
        """An Airflow that has a DAG of the same name runs a script of its own."""
        story, stage = self._story, self._stage
        keys = story.deployments == "two keys"
        stage.tell("the other deployment begins")
        self._other = self._nursery.begin(
            name=f"{story.name}x",
            owner=f"dag/{story.name}/task",
            config={**stage.config, **({"deployment": "staging"} if keys else {})},
            script=f"INSERT INTO {story.name}x_rows SELECT 1, 'x'; INSERT INTO {story.name}x_rows SELECT 2, 'x'",
            role="worker",
            attempt=1,
            run=2000.0,
            generation="second",
            resume=False,
            journal=False,
            rows=False,
        )
