"""Which statements of a script have run: written and synced around each, so that a later attempt goes on from there.

The *intent* is written before a statement is sent, its outcome after it. An intent without an outcome is a statement
that may have run: it is looked up before anything else is done (previous_attempts.py).

Each attempt, and each process that takes a deferred script over, raises the *epoch*. Whoever writes under an older one
gets `Superseded`, and stops: two processes that both believe they own a task never both submit.
"""

from __future__ import annotations

import shlex
import time
from collections.abc import Callable, Sequence
from logging import DEBUG, WARNING, getLogger
from typing import TypeVar

import msgspec

from airflow_provider_impala_lb.core.ports import JournalStore
from airflow_provider_impala_lb.core.rules.supersession import two_deployments, two_runs
from airflow_provider_impala_lb.core.timing import Deadline
from airflow_provider_impala_lb.errors import (
    ConfigError,
    ImpalaLBError,
    JournalMissing,
    StateUnavailable,
    Superseded,
)
from airflow_provider_impala_lb.impala.journal.document import (
    Begun,
    Intent,
    KeptSession,
    Record,
    check_room,
    check_text,
    decode,
    digest,
    digest_of,
    digests,
    encode,
)
from airflow_provider_impala_lb.impala.journal.identity import RunIdentity

log = getLogger(__name__)

_QUERIES = 100  # so many ids are kept, the last ones
_PAUSE = 0.5  # seconds between two writes while the store is out of reach
_END_PATIENCE = 30.0  # seconds to go on with noting the end: all is noted as done before it, so it is not worth longer

Result = TypeVar("Result")


class _Seen(Exception):
    """Ends a transaction that only looks. ``by``: who has taken over, or ""."""

    def __init__(self, by: str) -> None:
        super().__init__(by)
        self.by = by


class Patience(msgspec.Struct, frozen=True):
    """How long to go on for while the store is out of reach.

    :ivar seconds: in all; default 60.
    :ivar pause: waits so many seconds, or raises; default `time.sleep`.
    """

    seconds: float = 60.0
    pause: Callable[[float], None] = time.sleep


class Journal:
    """The journal of one run of a script, for one attempt.

    :param journals: where it is.
    :param identity: whose it is, and which attempt this is.
    :param texts: the script's statements, as they are sent.
    :param outcomes: keep which statements have run; False: only which sessions may still be open. Default True.
    :param command: how a command for the author begins, for a shell; default ``impala-lb``.
    :param patience: how long to go on for while the store is out of reach; default `Patience`.
    :ivar key: the owner, ``dag/run/task[map]``.
    :ivar epoch: of this process; 0: it has not begun.
    :ivar outcomes: as given.
    """

    def __init__(
        self,
        journals: JournalStore,
        identity: RunIdentity,
        texts: Sequence[str],
        *,
        outcomes: bool = True,
        command: str = "impala-lb",
        patience: Patience | None = None,
    ) -> None:
        self.key, self.epoch, self._identity = identity.owner, 0, identity
        self._journals, self._script, self._total = journals, digest(texts), len(texts)
        self._digests = digests(texts) if outcomes else b""
        number = identity.tags.get("try")
        self._by, self._attempt = f"attempt {number}" if number else "", identity.attempt
        self.outcomes = outcomes
        self._command, self._patience = command, patience or Patience()

    @property
    def where(self) -> str:
        """What to call it in a message."""
        return f"{self._journals.where} of {self.key}"

    def durability(self) -> str | None:
        """Why what is kept here may be lost, in words; None: it is not.

        :raises StateUnavailable: that cannot be asked.
        """
        return self._journals.durability()

    def command(self, *answer: str) -> str:
        """What to type into a shell to answer a question about this journal, see :func:`answer`.

        :param answer: ``ran`` or ``not-run``, and of which statement; or ``start-over``.
        """
        # A key that begins with a dash would be taken for an option.
        return (
            f"{self._command} journal {shlex.join((['--'] if self.key.startswith('-') else []) + [self.key, *answer])}"
        )

    def begin(self, *, resume: bool) -> Begun:
        """A new attempt begins.

        :param resume: go on where an earlier attempt stopped.
        :raises JournalMissing: there was an earlier attempt, and nothing says what it did.
        :raises Superseded: a later attempt has begun before, and this one was stopped meanwhile.
        :raises ConfigError: it is of another deployment, or of another run of this name; or the script is too long.
        """
        if resume:
            check_room(self._total)
        attempt = self._attempt

        def elsewhere(record: Record) -> str:
            return self._identity.target.changes(record.target)

        def change(record: Record | None, now: float) -> tuple[Begun | ConfigError, Record]:
            message = ""
            if record is None or (resume and not record.outcomes):
                if resume and attempt is not None and attempt.number > 1:
                    raise JournalMissing(
                        f"{self.where} is missing: it was never written (were resume or deployment set after the first "
                        "attempt?), or it was lost. Which statements have run is not known, so nothing was run. If it "
                        f"may begin anew, run this and try again:\n  {self.command('start-over')}"
                    )
                record = record.anew() if record is not None else Record(unseen=bool(attempt and attempt.number > 1))
            elif (others := self._others(record)) is not None:
                record.disputed = True
                return others, record
            elif attempt is not None and record.attempt is not None and attempt.is_before(record.attempt):
                raise self._superseded(record.by)
            elif self._is_whole(record) and resume and not elsewhere(record) and self._repeats(record):
                message = (
                    f"{record.by or 'an earlier attempt'} had come to its end, which did not reach whoever asked for it"
                    ": nothing of it is done twice"
                )
                record.ended = False
            elif self._is_whole(record):
                message = f"{record.by or 'An earlier run'} had come to its end: the script begins anew"
                record = record.anew()
            elif not resume:
                record = record.anew()
            elif record.script and (changes := elsewhere(record)):
                message = f"{changes} since {record.so_far}: it begins anew"
                record = record.anew()
            if record.intent is None:
                message = self._renew(record) or message
            record.begin(attempt, outcomes=self.outcomes)
            record.deployment, record.target = self._identity.deployment, self._identity.target
            before = record.by
            begun = self._raised(record, now)
            begun.by = before  # who has left what is found here
            return Begun(begun, message), record

        begun = self._change(change)
        if isinstance(begun, ConfigError):
            raise begun
        return begun

    def renew(self) -> tuple[int, str]:
        """After a statement in doubt was settled: the script as it is now counts. Of one that has changed, what is done
        stays done up to the first statement that is another one.

        :returns: how many statements are done, and a message about it for the log, or "".
        """
        found = 0, ""

        def change(record: Record, now: float) -> None:
            nonlocal found
            found = record.done, ""
            message = self._renew(record)
            found = record.done, message

        self._own(change)
        return found

    def has_same(self, record: Record, number: int) -> bool:
        """Whether a statement of the script is the same as when the record was written.

        :param record: of an earlier attempt.
        :param number: of the statement, from 1.
        """
        return record.script == self._script or self._has_digest(record, number)

    def take(self, epoch: int) -> tuple[Record, bool]:
        """Go on with a script that another process has handed over.

        :param epoch: of that process.
        :returns: its record, and whether it was handed to us as it is: nobody else has taken it since.
        :raises JournalMissing: it is gone.
        :raises Superseded: another attempt has taken over.
        :raises ConfigError: the connection says something else than when the script began.
        """

        def change(record: Record | None, now: float) -> tuple[tuple[Record, bool], Record]:
            if record is None:
                raise JournalMissing(f"{self.where} is gone, so which statements have run is not known")
            if record.script != self._script and record.epoch == epoch and not record.ended:
                raise ConfigError(
                    "the script is another one than when it was handed over, and that cannot be read (has the "
                    f"connection's password or seal_key changed?): {record.so_far}, and nothing more of it is sent"
                )
            if record.ended or record.script != self._script:
                raise Superseded(f"{self.where}: another attempt has taken over, and ended it or begun anew")
            if self._by and record.by not in ("", self._by):  # whoever hands it over is of the same attempt
                raise self._superseded(record.by)
            if self._changes(record):
                raise ConfigError(f"{self._changes(record)} while it ran without a worker: nothing more of it is sent")
            clean = record.epoch == epoch
            return (self._raised(record, now), clean), record

        return self._change(change)

    def intend(self, number: int, nonce: str, node: str, session: str, witness: str = "") -> None:
        """A statement is about to be sent. It must not be before this returns.

        :param number: from 1.
        :param nonce: of its label.
        :param node: where, ``host:port``.
        :param session: the id of the session it is sent in.
        :param witness: as of `Intent`.
        """

        def change(record: Record, now: float) -> None:
            record.intent, record.answer = Intent(number, nonce, node, session, now, witness=witness), ""
            record.node, record.session = node, session

        self._own(change)

    def seen(self) -> None:
        """What attempts of which nothing is kept have left was looked for, and has ended. Never raises."""
        self._try_to_note(lambda record, _: setattr(record, "unseen", False), "nothing is left of earlier attempts")

    def accepted(self, query: str, *, was_asked: bool = False) -> None:
        """The coordinator has taken the statement.

        :param query: the id it was given.
        :param was_asked: as of `Intent`; default False.
        """
        self._own(lambda record, _: record.accept(query, was_asked=was_asked))

    def keep_session(self, node: str, session: str, sealed: str, *, again: bool = False, web: str = "") -> bool:
        """A session was opened. Nothing must be sent in it before this returns. Where only sessions are kept, a store
        out of reach is one warning for the first one: the next attempt looks on the coordinators' pages.

        :param node: where, ``host:port``.
        :param session: its id, as Impala prints it.
        :param sealed: its secret, sealed.
        :param again: this process had one before that is gone: a later attempt may have ended it.
        :param web: as of `KeptSession`.
        :returns: whether that is noted.
        """
        try:
            self._own(
                lambda record, now: record.keep(KeptSession(node, session, sealed, now, known=self.outcomes, web=web))
            )
            return True
        except StateUnavailable as error:
            if self.outcomes or again:
                raise
            log.warning("That session %s was opened is not noted in %s: %s", session, self.where, error)
            return False

    def none_open(self) -> None:
        """The attempt has failed, and opens no session any more. Never raises: else the next one looks for what there
        may be."""
        if not self.outcomes:
            self._try_to_note(lambda record, _: setattr(record, "opening", False), "no session is opened any more")

    def left_open(self, session: str) -> bool:
        """A statement of a session was left open, and others follow. Never raises.

        :param session: its id, as Impala prints it.
        :returns: whether that is noted.
        """
        return self._try_to_note(lambda record, _: record.leave_open(session), f"a statement of {session} is left open")

    def session_ended(self, session: str) -> None:
        """Nothing runs in a session any more. Never raises: what is not noted is looked at by the next attempt.

        :param session: its id, as Impala prints it.
        """

        def change(record: Record, now: float) -> None:
            record.opening |= not record.outcomes and session == record.session  # this attempt may open another one
            record.forget(session)

        self._try_to_note(change, f"session {session} has ended")

    def keep_text(self, sealed: str) -> None:
        """Keep the script for the process that goes on with it.

        :param sealed: as packed for a hand-over, sealed.
        :raises ConfigError: there is no room for it.
        """

        def change(record: Record, now: float) -> None:
            check_text(record, sealed)
            record.text = sealed

        self._own(change)

    def done(self, number: int, query: str, rows: int | None) -> None:
        """A statement has ended well.

        :param number: from 1.
        :param query: its id.
        :param rows: modified by it; None: none, or not known.
        """

        def change(record: Record, now: float) -> None:
            if record.done < number:
                record.rows += rows or 0
                record.queries = [*record.queries, query][-_QUERIES:]
            record.done, record.intent, record.answer = number, None, ""

        self._own(change)

    def not_run(self, number: int) -> None:
        """A statement is known not to have run.

        :param number: from 1.
        """

        def change(record: Record, now: float) -> None:
            if record.intent is not None and record.intent.number == number:
                record.intent, record.answer = None, ""

        self._own(change, patience=0.0)

    def restart(self) -> None:
        """What was done is to be done again."""

        def change(record: Record, now: float) -> None:
            record.done, record.rows, record.queries, record.intent, record.answer = 0, 0, [], None, ""

        self._own(change)

    def finish(self) -> None:
        """The whole script has ended well. Where only its sessions are kept, and all have ended, nothing stays."""

        def change(record: Record, now: float) -> bool:
            record.end()
            return record.outcomes or bool(record.sessions)

        self._own(change, patience=_END_PATIENCE)

    def check_mine(self) -> None:
        """:raises Superseded: somebody else has taken the script over. Where that cannot be known now, nothing."""

        def look(document: bytes | None, now: float) -> tuple[None, bytes | None]:
            record = None if document is None else decode(document, self.where)
            raise _Seen("" if record is None or record.epoch == self.epoch else record.by or "unknown")

        try:
            self._journals.change(self.key, look)  # not `read`, which may be some seconds old
        except _Seen as seen:
            if seen.by:
                raise self._superseded(seen.by) from None
        except ImpalaLBError as error:
            log.warning("Whether another attempt of %s has taken over cannot be known now: %s", self.key, error)

    def goes_on_elsewhere(self) -> bool:
        """After `Superseded`: whether another process of this very attempt goes on with the script. Where that cannot
        be known now: True."""
        try:
            document = self._journals.read(self.key)
            record = None if document is None else decode(document, self.where)
        except ImpalaLBError as error:
            log.warning("Who has taken %s over cannot be known now: %s", self.key, error)
            return True
        if record is None or record.ended or record.script != self._script:
            return False
        return record.by == self._by and record.epoch > self.epoch

    def _is_whole(self, record: Record) -> bool:
        """Whether the script of the record had come to its end. If its last statement is done and that could not be
        noted, only an attempt that knows which one it is can tell a retry of it from the work being asked for anew."""
        if record.ended:
            return True
        known = self._attempt is not None and record.attempt is not None
        return known and record.intent is None and 0 < record.total <= record.done

    def _repeats(self, record: Record) -> bool:
        attempt = self._attempt
        return attempt is not None and record.attempt is not None and attempt.repeats(record.attempt)

    def _changes(self, record: Record) -> str:
        """What is not the same any more, in words; "" if all is."""
        changes = self._identity.target.changes(record.target)
        return "the script has changed" if record.script != self._script else changes

    def _renew(self, record: Record) -> str:
        """Of a record without an intent. Returns a message, or ""."""
        message = ""
        if record.script and record.script != self._script:
            same = 0
            while self._has_digest(record, same + 1):
                same += 1
            goes_on = f"it goes on after statement {min(same, record.done)}, up to which it is the same"
            message = f"the script has changed since {record.so_far}: {goes_on if same else 'it begins anew'}"
            if same < record.done:
                record.done, record.rows, record.queries = same, 0, record.queries[: -(record.done - same)]
        record.script, record.total, record.digests = self._script, self._total, self._digests
        return message

    def _has_digest(self, record: Record, number: int) -> bool:
        return digest_of(record.digests, number) == digest_of(self._digests, number) != b""

    def _others(self, record: Record) -> ConfigError | None:
        """Why this is no record of our work; None: it is, or it has come to its end."""
        if not record.script or self._is_whole(record):
            return None
        if record.deployment != self._identity.deployment:
            return two_deployments(self.where, record.deployment, self._identity.deployment)
        mine, other = self._attempt, record.attempt
        if mine is None or other is None or mine.may_be_work_of(other, disputed=record.disputed):
            return None
        place = f"did {record.done} of its {record.total} statements" if record.outcomes else "was not seen to end"
        return two_runs(self.key, mine, other, place, f"run this and clear the task:\n  {self.command('start-over')}")

    def _superseded(self, by: str) -> Superseded:
        return Superseded(f"Another attempt of {self.key} has taken over ({by}): this one runs nothing more")

    def _raised(self, record: Record, now: float) -> Record:
        record.epoch += 1
        record.at = now  # by it the reader knows how long ago an intent was
        record.by, self.epoch = self._by, record.epoch
        return msgspec.structs.replace(record)

    def _try_to_note(self, change: Callable[[Record, float], None], what: str) -> bool:
        try:
            self._own(change, patience=0.0)
            return True
        except ImpalaLBError as error:
            level = DEBUG if isinstance(error, Superseded) else WARNING
            log.log(level, "That %s is not noted in %s: %s", what, self.where, error)
            return False

    def _own(self, change: Callable[[Record, float], bool | None], patience: float | None = None) -> None:
        """``change`` returns False to remove the journal.

        :raises Superseded: somebody else has taken the script over.
        """

        def checked(record: Record | None, now: float) -> tuple[None, Record | None]:
            if record is None:
                raise JournalMissing(f"{self.where} is gone, so which statements have run is not known")
            if record.epoch != self.epoch:
                raise self._superseded(record.by)
            return None, None if change(record, now) is False else record

        self._change(checked, patience)

    def _change(
        self, change: Callable[[Record | None, float], tuple[Result, Record | None]], patience: float | None = None
    ) -> Result:
        """:raises StateUnavailable: the journal is out of reach, and stays so."""

        def encoded(document: bytes | None, now: float) -> tuple[Result, bytes | None]:
            result, record = change(None if document is None else decode(document, self.where), now)
            return result, None if record is None else encode(record, now)

        deadline = Deadline(self._patience.seconds if patience is None else patience)
        warn = log.warning
        while True:
            try:
                return self._journals.change(self.key, encoded)
            except StateUnavailable as error:
                # What it may have noted all the same it notes once more: each change can be made twice.
                if deadline.passed(_PAUSE):
                    raise
                warn("The journal cannot be used; tried anew for up to %.0f s: %s", deadline.remaining, error)
                warn = log.debug  # once is enough
            self._patience.pause(_PAUSE)
