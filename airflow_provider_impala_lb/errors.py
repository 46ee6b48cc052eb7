"""Every error this package raises on purpose. Each says what happened, to what, and what to do now."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, Literal

Outcome = Literal["not started", "done", "unknown", "user error"]
"""Did the statement run? What a caller may do next depends on nothing else."""


class ImpalaLBError(Exception):
    """Root of the errors of this package. They survive pickling, as between the processes of a pool."""

    def __reduce__(self) -> tuple[Any, ...]:
        # Not by calling the class again, as exceptions do: some take more than their message.
        return _rebuild, (type(self), self.args, self.__dict__)


def _rebuild(kind: type[ImpalaLBError], arguments: tuple[Any, ...], attributes: dict[str, Any]) -> ImpalaLBError:
    error = kind.__new__(kind)
    error.args = arguments
    error.__dict__.update(attributes)
    return error


class ConfigError(ImpalaLBError):
    """The configuration, or a login it holds, is wrong: the same call fails again until somebody changes it."""


class ScriptError(ImpalaLBError):
    """A script that cannot be split or sent. Nothing of it was run.

    :param line: line in the script, from 1; ``column`` counts characters in that line, from 1.
    """

    def __init__(self, message: str, *, line: int, column: int = 1, name: str | None = None) -> None:
        super().__init__(f"{name or 'script'}, line {line}, column {column}: {message}")
        self.line = line
        self.column = column


class NoNodeAvailable(ImpalaLBError):
    """No coordinator could take the work; nothing of it was run.

    :param reasons: node (``host:port``) -> why it was left out.
    """

    def __init__(self, message: str, reasons: Mapping[str, str] | None = None) -> None:
        self.summary = message
        self.reasons = dict(reasons or {})
        listed = "".join(f"\n  {node}: {why}" for node, why in self.reasons.items())
        super().__init__(message + listed)


class MustWait(ImpalaLBError):
    """Every node is busy or full, and the caller wants to come back instead of waiting. Its place in the line is kept.

    :param position: in the line, from 1. :param waited: seconds so far, of ``wait``.
    :param reasons: node (``host:port``) -> why it takes nothing.
    """

    def __init__(self, position: int, waited: float, wait: float, reasons: Mapping[str, str]) -> None:
        self.position, self.waited, self.wait = position, waited, wait
        self.reasons = dict(reasons)
        super().__init__(
            f"All nodes are busy or full: number {position} in the line, waited {waited:.0f} of {wait:g} s"
            + "".join(f"\n  {node}: {why}" for node, why in self.reasons.items())
        )


class StateUnavailable(ImpalaLBError):
    """The shared state cannot be reached, or its lock was not free within the deadline."""


class Superseded(ImpalaLBError):
    """A later try of the same work has taken over, and this one runs nothing more."""


class JournalMissing(ImpalaLBError):
    """There is nothing that says which statements of a script have run. Nothing more of it was run."""


class StillRunning(ImpalaLBError):
    """What an earlier try left running could not be seen to end. Nothing was run by this one; the text says what to do.

    :param remaining: session id -> where it is, and why it could not be ended.
    """

    def __init__(self, owner: str, remaining: Mapping[str, str]) -> None:
        self.remaining = dict(remaining)
        super().__init__(
            f"An earlier try of {owner} may still be running, so nothing was run: its INSERTs would run beside ours"
            + "".join(f"\n  session {session} on {why}" for session, why in self.remaining.items())
            + "\nEnd it there, or let the task be tried again later: the coordinator ends what has lost its client"
        )


class JournalDamaged(ImpalaLBError):
    """A script's journal is there and cannot be read, or is known to be an older copy. Which statements ran is unknown:
    never to be treated as if there were none."""


class StatementFailed(ImpalaLBError):
    """Statement ``number`` of ``total`` failed. The statements before it are done, those after it were not sent.

    :param outcome: ``"not started"`` (or it only read: safe to run again anywhere), ``"done"`` (must not be run again),
        ``"unknown"`` (look before running it again) or ``"user error"`` (no retry can mend it).
    :param sql: how the statement begins, to recognise it by.
    :param done: one line for each statement that is done, in order.
    :param advice: what to do about it, if that is known.
    :param retry: False: no retry can tell more, a person has to look.
    """

    def __init__(
        self,
        reason: str,
        *,
        number: int,
        total: int,
        line: int,
        node: str,
        query_id: str | None,
        outcome: Outcome,
        sql: str = "",
        done: Sequence[str] = (),
        advice: str = "",
        retry: bool = True,
    ) -> None:
        self.number, self.total, self.line = number, total, line
        self.node, self.query_id, self.outcome = node, query_id, outcome
        self.reason, self.advice, self.retry = reason, advice, retry
        self.sql = sql
        self.done = tuple(done)
        did_it_run = {
            "not started": "It changed nothing, and is safe to run again",
            "done": "It is done, and must not be run again",
            "unknown": "Whether it ran is NOT known: look before it is run again",
            "user error": "It was refused as it stands: it must be changed",
        }[outcome]
        before = f"statements 1 to {number - 1} are done" if number > 2 else "statement 1 is done"
        after = f"{total - number} after it not sent" if total > number else "it was the last"
        super().__init__(
            f"Statement {number} of {total} (line {line}, query {query_id or 'none'}) failed on {node}: {reason}\n"
            + (f"It was: {sql}\n" if sql else "")
            + f"{did_it_run}; {before if number > 1 else 'none was run before it'}, {after}."
            + (f" {advice}." if advice else "")
            + "".join(f"\n  done: {entry}" for entry in self.done)
        )

    def as_dict(self) -> dict[str, Any]:
        """What it was made of, as JSON-ready values: ``StatementFailed(**error.as_dict())`` says the same."""
        keys = ("reason", "number", "total", "line", "node", "query_id", "outcome", "sql", "advice", "retry")
        return {**{key: getattr(self, key) for key in keys}, "done": list(self.done)}
