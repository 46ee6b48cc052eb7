"""What is wrong with a life: twice, lost, out of order, a false word."""

from __future__ import annotations

import collections
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from airflow_provider_impala_lb.sandbox import SandboxNode
from tests.system.lives.life import Lived, Word
from tests.system.lives.stage import LABEL
from tests.system.lives.tables import Tables, after


@dataclass(frozen=True)
class Ended:
    """A statement that ended well, by the coordinators' journals.

    :ivar at: when, seconds since 1970
    :ivar attempt: which one had sent it
    :ivar number: of the statement
    """

    at: float
    attempt: int
    number: int


def ended_by_name(nodes: Sequence[SandboxNode]) -> dict[str, list[Ended]]:
    """What ended well, by name of the script, in the order of the ends.

    :param nodes: whose journals are read
    """
    found: dict[str, list[Ended]] = collections.defaultdict(list)
    for node in nodes:
        for entry in node.journal():
            if entry.get("state") == "FINISHED" and (label := LABEL.match(entry["sql"])):
                found[label[2]].append(Ended(entry["t"], int(label[3]), int(label[1])))
    return {name: sorted(each, key=lambda ended: ended.at) for name, each in found.items()}


def faults_of(lived: Lived, by_name: dict[str, list[Ended]]) -> list[str]:
    """What is wrong; empty if all is well.

    :param lived: the life
    :param by_name: of :func:`ended_by_name`
    """
    ended = by_name.get(lived.story.name, [])
    found = [*lived.faults, *_twice(lived, ended), *_order(lived, ended), *_other(lived, by_name)]
    for word in lived.words:
        found += [f"attempt {word.attempt}, {word.role}: {fault}" for fault in _words(lived, word, ended)]
    if lived.outcome not in ("hangs", "raised"):
        found += _in_the_end(lived, ended)
    return found


def _twice(lived: Lived, ended: list[Ended]) -> Iterator[str]:
    """With a journal once in the life, else once in each attempt."""
    counted = collections.Counter((0 if lived.story.resume else each.attempt, each.number) for each in ended)
    for (attempt, number), times in sorted(counted.items()):
        statement = lived.story.statements[number - 1]
        if statement.changes and not statement.safe and times > 1:
            yield f"TWICE: statement {number} ran {times} times" + (f" in attempt {attempt}" if attempt else "")
    for table, rows in lived.tables.items():
        for row, times in rows.items():
            ran = sum(each.number == row[0] for each in ended)
            if times > 1 and (lived.story.resume or times > ran):
                yield f"TWICE: row {row} is {times} times in {table}"


def _order(lived: Lived, ended: list[Ended]) -> Iterator[str]:
    """Nothing lands after a later statement, or another attempt's, was sent."""
    changes = {each.number for each in lived.story.statements if each.changes}
    mine = [each for each in lived.sent if each.name == lived.story.name and each.number in changes]
    for one in (each for each in ended if each.number in changes):
        for sent in mine:
            same = lived.story.resume or sent.attempt == one.attempt
            if sent.at < one.at and same and sent.number > one.number and sent.attempt >= one.attempt:
                yield (
                    f"ORDER: statement {one.number} of attempt {one.attempt} landed {one.at - sent.at:.3f} s after "
                    f"statement {sent.number} of attempt {sent.attempt} was sent"
                )
                break
            if sent.at < one.at and sent.attempt > one.attempt:
                yield (
                    f"ORDER: statement {one.number} of attempt {one.attempt} landed {one.at - sent.at:.3f} s after "
                    f"attempt {sent.attempt} had sent statement {sent.number}"
                )
                break
    last: dict[int, int] = {}
    for one in ended:
        key = 0 if lived.story.resume else one.attempt
        if one.number in changes:
            if one.number < last.get(key, 0):
                yield f"ORDER: statement {one.number} of attempt {one.attempt} ended after statement {last[key]}"
            last[key] = max(one.number, last.get(key, 0))


def _words(lived: Lived, word: Word, ended: list[Ended]) -> Iterator[str]:
    """What a process said, against what happened."""
    story, end = lived.story, word.end
    steps = [b - a for a, b in zip(word.statements, word.statements[1:], strict=False)]
    if any(step != 1 for step in steps) and not _began_anew(lived, word):
        yield f"WORD: it reported statements {word.statements}"
    journals_whole = "node kill" not in lived.happened and not any(slow.action == "fail" for slow in story.slow)
    upto = [each for each in ended if each.attempt <= word.attempt]
    ran = {each.number for each in (upto if story.resume else upto if word.ghost else ended) if each.number}
    if journals_whole:
        for number in word.statements:
            if story.statements[number - 1].changes and number not in ran:
                yield f"WORD: statement {number} is reported as done, and never ran"
    if word.kind == "done":
        if end["statements"] != list(range(1, story.total + 1)):
            yield f"WORD: it is done, with statements {end['statements']}"
        if (
            word.tables is not None
            and story.resume
            and word.tables != after(story.before, story.statements, story.total)
        ):
            yield f"WORD: it is done, and there is {_shown(word.tables)}"
        last = story.statements[-1]
        if word.role != "trigger" and story.wants_rows and story.resume and last.rows is not None:
            results = end["results"]
            if not results or [tuple(row) for row in results[-1] or []] != list(last.rows):
                yield f"WORD: its rows are {results[-1:]}, and not {last.rows}"
    elif word.kind == "StatementFailed":
        yield from _failure(lived, word, upto)
    by_it = [each for each in upto if each.attempt == word.attempt and story.statements[each.number - 1].changes]
    if by_it and "nothing was run" in end.get("text", "") and word.attempt == 1 and not word.ghost:
        yield f"WORD: 'nothing was run': {end['text']}"


def _began_anew(lived: Lived, word: Word) -> bool:
    """SET and USE run again in a new place, and are reported again; nothing else does."""
    begin = max((place for place, number in enumerate(word.statements) if number == word.statements[0]), default=0)
    again = word.statements[:begin]
    steps = [b - a for a, b in zip(word.statements[begin:], word.statements[begin + 1 :], strict=False)]
    return all(step == 1 for step in steps) and not any(lived.story.statements[n - 1].changes for n in again)


def _failure(lived: Lived, word: Word, upto: list[Ended]) -> Iterator[str]:
    story, end = lived.story, word.end
    number, outcome = end["number"], end["outcome"]
    statement = story.statements[number - 1]
    own = [each for each in upto if story.resume or each.attempt == word.attempt]
    times = sum(each.number == number for each in own if each.attempt == word.attempt or not word.ghost)
    if statement.changes and times and outcome in ("not started", "user error"):
        yield f"WORD: statement {number} is said to be {outcome!r}, and ran {times} times"
    if outcome == "user error" and story.resume:
        yield f"WORD: the author is said to be wrong: {end['text']}"
    if not word.ghost:
        for each in own:
            if each.number > number and story.statements[each.number - 1].changes:
                yield f"WORD: statement {each.number} ran, which is said not to be sent"
    if word.tables is None or not story.resume:
        return
    possible = {"not started": [number - 1], "user error": [number - 1], "done": [number]}
    states = [after(story.before, story.statements, done) for done in possible.get(outcome, [number - 1, number])]
    if statement.kind == "ctas" and outcome == "unknown":
        states.append({**states[0], statement.table: collections.Counter()})
    if word.tables not in states:
        yield f"WORD: statement {number} is said to be {outcome!r}, and there is {_shown(word.tables)}"


def _in_the_end(lived: Lived, ended: list[Ended]) -> Iterator[str]:
    story = lived.story
    tables = {name: rows for name, rows in lived.tables.items() if not name.endswith("x_rows")}
    if story.resume:
        expected = after(story.before, story.statements, story.total)
        if lived.outcome == "done" and tables != expected:
            yield f"LOST OR TWICE: it is done, and there is {_shown(tables)}, and not {_shown(expected)}"
        return
    if lived.outcome == "done" and "node kill" not in lived.happened:
        last = max(word.attempt for word in lived.words if word.kind == "done")
        ran = {each.number for each in ended if each.attempt == last}
        for statement in story.statements:
            if statement.changes and statement.number not in ran:
                yield f"LOST: statement {statement.number} of attempt {last}, which is done, did not run"


def _other(lived: Lived, by_name: dict[str, list[Ended]]) -> Iterator[str]:
    if lived.other is None:
        return
    kind = lived.other["kind"]
    ran = collections.Counter(each.number for each in by_name.get(f"{lived.story.name}x", []))
    if max(ran.values(), default=0) > 1:
        yield f"TWICE: the other deployment's statements ran {dict(ran)} times"
    if kind == "done" and ran != {1: 1, 2: 1}:
        yield f"LOST: the other deployment is done, and its statements ran {dict(ran)} times"
    if kind == "ConfigError" and (ran or lived.story.deployments == "two keys"):
        yield f"WORD: the other deployment ran {dict(ran)}: {lived.other['text']}"
    if kind not in ("done", "ConfigError", "StatementFailed", "NoNodeAvailable"):
        yield f"WORD: the other deployment: {lived.other}"


def _shown(tables: Tables) -> str:
    return str({name: dict(rows) for name, rows in sorted(tables.items())})
