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

    :param message: what is wrong there.
    :param line: line in the script, from 1.
    :param column: characters in that line, from 1; default 1.
    :param name: what to call the script; None (default): ``script``.
    :ivar line: as given.
    :ivar column: as given.
    """

    def __init__(self, message: str, *, line: int, column: int = 1, name: str | None = None) -> None:
        super().__init__(f"{name or 'script'}, line {line}, column {column}: {message}")
        self.line = line
        self.column = column


class NoNodeAvailable(ImpalaLBError):
    """No coordinator could take the work; nothing of it was run.

    :param message: what was wanted, and how many nodes are drained, down, busy and full.
    :param reasons: node (``host:port``) -> why it was left out; default none.
    :ivar summary: the message without the reasons.
    :ivar reasons: as given.
    """

    def __init__(self, message: str, reasons: Mapping[str, str] | None = None) -> None:
        self.summary = message
        self.reasons = dict(reasons or {})
        super().__init__(message + _listed(self.reasons))


class MustWait(ImpalaLBError):
    """Every node is busy or full, and the caller wants to come back instead of waiting. Its place in the queue is kept.

    :param position: in the queue, from 1.
    :param waited: seconds so far.
    :param wait: seconds to wait at most.
    :param reasons: node (``host:port``) -> why it takes nothing.
    :ivar position: as given.
    :ivar waited: as given.
    :ivar wait: as given.
    :ivar reasons: as given.
    """

    def __init__(self, position: int, waited: float, wait: float, reasons: Mapping[str, str]) -> None:
        self.position, self.waited, self.wait = position, waited, wait
        self.reasons = dict(reasons)
        super().__init__(
            f"No node is free: number {position} in the queue, waited {waited:.0f} of {wait:g} s"
            + _listed(self.reasons)
        )


class StateUnavailable(ImpalaLBError):
    """The shared state cannot be reached, or its lock was not free within the deadline."""


class StateContended(StateUnavailable):
    """The shared state is there, but others kept its lock for longer than the deadline. It can be read all the same."""


class Superseded(ImpalaLBError):
    """A later attempt at the same work has taken over, and this one runs nothing more."""


class JournalMissing(ImpalaLBError):
    """There is nothing that says which statements of a script have run. Nothing more of it was run."""


class JournalDamaged(ImpalaLBError):
    """A script's journal is there and cannot be read, or is known to be an older copy. Which statements ran is unknown:
    never to be treated as if there were none."""


class StillRunning(ImpalaLBError):
    """What an earlier attempt left running could not be seen to end. Nothing is run beside it; the text says what to
    do.

    :param owner: whose work it is, e.g. ``dag/run/task``.
    :param remaining: session id -> where it is, and why it could not be ended.
    :param unrecorded: why no record is kept, in which a user's word that it has ended could be noted; default "": one
        is.
    :ivar remaining: as given.
    """

    def __init__(self, owner: str, remaining: Mapping[str, str], unrecorded: str = "") -> None:
        self.remaining = dict(remaining)
        remedy = "If you know that it has ended: impala-lb leftovers"
        if unrecorded:
            remedy = f"No record is kept in which impala-lb leftovers could note that it has ended: {unrecorded}"
        super().__init__(
            f"An earlier attempt of {owner} may still be running, and nothing is run beside it"
            + "".join(f"\n  session {session} on {reason}" for session, reason in self.remaining.items())
            + f"\nEnd it there, or let the task be tried again later. {remedy}"
        )


class StatementFailed(ImpalaLBError):
    """A statement failed. The statements before it are done, those after it were not sent.

    :param reason: what the coordinator answered, or what happened instead.
    :param number: of the statement, from 1.
    :param total: how many statements the script has.
    :param line: where the statement begins in the script, from 1.
    :param node: ``host:port`` where it was sent.
    :param query_id: Impala's, or None if there is none.
    :param outcome: ``"not started"`` (or it only read: safe to run again anywhere), ``"done"`` (must not be run again),
        ``"unknown"`` (look before running it again) or ``"user error"`` (no retry can mend it).
    :param sql: how the statement begins, to recognise it by; default "".
    :param done: one line for each statement that is done, in order; default none.
    :param advice: what to do about it; "" (default): not known.
    :param retry: False: no retry can tell more, a person has to look; default True.
    :ivar reason: as given.
    :ivar number: as given.
    :ivar total: as given.
    :ivar line: as given.
    :ivar node: as given.
    :ivar query_id: as given.
    :ivar outcome: as given.
    :ivar sql: as given.
    :ivar done: as given.
    :ivar advice: as given.
    :ivar retry: as given.
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
        """What it was made of, as JSON-ready values: :meth:`from_dict` says the same of it."""
        return {**{key: getattr(self, key) for key in _FIELDS}, "done": list(self.done)}

    @classmethod
    def from_dict(cls, values: Mapping[str, Any]) -> StatementFailed:
        """The inverse of :meth:`as_dict`.

        :param values: what that returned; a key that is not known here is passed over: a later version may say more.
        """
        return cls(**{key: value for key, value in values.items() if key in {*_FIELDS, "done"}})


_FIELDS = ("reason", "number", "total", "line", "node", "query_id", "outcome", "sql", "advice", "retry")


def _listed(reasons: Mapping[str, str]) -> str:
    return "".join(f"\n  {node}: {reason}" for node, reason in reasons.items())
