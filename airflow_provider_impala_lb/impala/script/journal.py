"""Which statements of a script have run: written and synced around each, so that a later attempt goes on from there.

The *intent* is written before a statement is sent, its outcome after it. An intent without an outcome is a statement
that may have run: it is looked up before anything else is done (previous_attempts.py).

Each attempt, and each process that takes a deferred script over, raises the *epoch*. Whoever writes under an older one
gets `Superseded`, and stops: two processes that both believe they own a task never both submit.
"""

from __future__ import annotations

import hashlib
import shlex
import time
from collections.abc import Callable, Sequence
from logging import Logger, getLogger
from typing import TypeVar

import msgspec

from airflow_provider_impala_lb.core.ports import JournalStore
from airflow_provider_impala_lb.core.rules.supersession import two_deployments, two_runs
from airflow_provider_impala_lb.core.state.model import Attempt
from airflow_provider_impala_lb.core.timing import Deadline
from airflow_provider_impala_lb.errors import (
    ConfigError,
    ImpalaLBError,
    JournalMissing,
    StateUnavailable,
    Superseded,
)
from airflow_provider_impala_lb.impala.script.options import RunIdentity, Target

log = getLogger(__name__)

FORMAT = 1
KEPT_SECONDS = 30 * 24 * 3600.0  # after its last change, in case its task is cleared
_QUERIES = 100  # so many ids are kept, the last ones
_PAUSE = 0.5  # seconds between two writes while the store is out of reach
_END_PATIENCE = 30.0  # seconds to go on with noting the end: all is noted as done before it, so it is not worth longer

_ANSWERS = {"ran": "is taken as done", "not-run": "will be run"}
Result = TypeVar("Result")


class Intent(msgspec.Struct, omit_defaults=True):
    """A statement that is about to be sent, or was.

    :param number: from 1.
    :param nonce: of its label, by which it is found on the coordinator's page.
    :param node: where, ``host:port``.
    :param session: the id of the session it is sent in.
    :param at: when this was written, by the store's clock.
    :param query: its query id; "": not known (yet).
    :param witness: id of a query that was seen among the completed ones there before it was sent; "": none was.
    """

    number: int
    nonce: str
    node: str
    session: str
    at: float
    query: str = ""
    witness: str = ""


class Record(msgspec.Struct, omit_defaults=True):
    """What is known of a script's run: the document of a journal.

    :param format: of this document.
    :param script: a hash of its statements as they are sent.
    :param total: how many statements it has.
    :param epoch: of the process that may write.
    :param by: which attempt wrote last.
    :param ended: the whole script has ended well.
    :param at: when it was written last, by the store's clock; of one that an attempt goes on from: when that took it.
    :param done: how many statements are done.
    :param rows: modified by them, in all.
    :param queries: ids of the last 100 of them.
    :param node: where it runs, or ran last, ``host:port``.
    :param session: the id of the session there.
    :param sealed: the session's secret, encrypted with a key that is not here (deferred scripts).
    :param intent: the statement that is about to be sent, or was, and whose outcome is not known; None: there is none.
    :param answer: what the author has said of the intent: ``ran`` or ``not-run``; "": nothing.
    :param attempt: which one began last; None: not known.
    :param deployment: whose it is; "": the cluster's state has only one, or not known.
    :param target: what the script's names stand for; None: not known.
    :param disputed: attempts of two runs were seen under this name.
    """

    format: int = 0
    script: str = ""
    total: int = 0
    epoch: int = 0
    by: str = ""
    ended: bool = False
    at: float = 0.0
    done: int = 0
    rows: int = 0
    queries: list[str] = []
    node: str = ""
    session: str = ""
    sealed: str = ""
    intent: Intent | None = None
    answer: str = ""
    attempt: Attempt | None = None
    deployment: str = ""
    target: Target | None = None
    disputed: bool = False


_encoder = msgspec.json.Encoder()
_decoder = msgspec.json.Decoder(Record)


def decode(document: bytes, where: str) -> Record:
    """A journal's document.

    :param document: its bytes.
    :param where: what to call the journal in an error.
    :raises ConfigError: it was written by a newer version of this package.
    """
    record = _decoder.decode(document)
    if record.format > FORMAT:
        raise ConfigError(f"{where}: a journal of format {record.format}; this version reads up to {FORMAT}")
    return record


def digest(texts: Sequence[str]) -> str:
    """A hash of the statements of a script.

    :param texts: as they are sent.
    """
    sha = hashlib.sha256()
    for text in texts:
        sha.update(text.encode() + b"\0")
    return sha.hexdigest()[:32]


class _Seen(Exception):
    """Ends a transaction that only looks. ``by``: who has taken over, or ""."""

    def __init__(self, by: str) -> None:
        super().__init__(by)
        self.by = by


class Journal:
    """The journal of one run of a script, for one attempt.

    :param journals: where it is.
    :param identity: whose it is, and which attempt this is.
    :param texts: the script's statements, as they are sent.
    :param command: how a command for the author begins, for a shell; default ``impala-lb``.
    :param patience: seconds to go on for while the store is out of reach; default 60.
    :param pause: waits so many seconds, or raises; default `time.sleep`.
    :ivar key: the owner, ``dag/run/task[map]``.
    :ivar epoch: of this process; 0: it has not begun.
    """

    def __init__(
        self,
        journals: JournalStore,
        identity: RunIdentity,
        texts: Sequence[str],
        *,
        command: str = "impala-lb",
        patience: float = 60.0,
        pause: Callable[[float], None] = time.sleep,
    ) -> None:
        self.key, self.epoch, self._identity = identity.owner, 0, identity
        self._journals, self._script, self._total = journals, digest(texts), len(texts)
        number = identity.tags.get("try")
        self._by, self._attempt = f"attempt {number}" if number else "", identity.attempt
        self._command, self._patience, self._pause = command, patience, pause

    @property
    def where(self) -> str:
        """What to call it in a message."""
        return f"{self._journals.where} of {self.key}"

    def command(self, answer: str) -> str:
        """What to type into a shell to answer a question about this journal, see :func:`answer`.

        :param answer: ``ran``, ``not-run`` or ``start-over``.
        """
        # A key that begins with a dash would be taken for an option.
        return (
            f"{self._command} journal {shlex.join((['--'] if self.key.startswith('-') else []) + [self.key, answer])}"
        )

    def begin(self, *, resume: bool) -> tuple[Record, str]:
        """A new attempt begins.

        :param resume: go on where an earlier attempt stopped.
        :returns: the record to go on from, and a message about it for the log, or "".
        :raises JournalMissing: there was an earlier attempt, and nothing says what it did.
        :raises Superseded: a later attempt has begun before, and this one was stopped meanwhile.
        :raises ConfigError: it is of another deployment, or of another run of this name.
        """
        attempt = self._attempt

        def change(record: Record | None, now: float) -> tuple[tuple[Record, str] | ConfigError, Record]:
            message = ""
            if record is None:
                if resume and attempt is not None and attempt.number > 1:
                    raise JournalMissing(
                        f"{self.where} is missing: it was never written (were resume or deployment set after the first "
                        "attempt?), or it was lost. Which statements have run is not known, so nothing was run. If it "
                        f"may begin anew, run this and try again:\n  {self.command('start-over')}"
                    )
                record = Record()
            elif (others := self._others(record)) is not None:
                record.disputed = True
                return others, record
            elif attempt is not None and record.attempt is not None and attempt.is_before(record.attempt):
                raise self._superseded(record.by)
            elif self._is_whole(record) and resume and not self._changes(record) and self._repeats(record):
                message = (
                    f"{record.by or 'an earlier attempt'} had come to its end, which did not reach whoever asked for it"
                    ": nothing of it is done twice"
                )
                record.ended = False
            elif self._is_whole(record):
                message = f"{record.by or 'An earlier run'} had come to its end: the script begins anew"
                record = Record(epoch=record.epoch, disputed=record.disputed)
            elif not resume or (record.script and self._changes(record)):
                if resume:
                    by, parts = record.by or "the last attempt", f"{record.done} of its {record.total} statements"
                    message = f"{self._changes(record)} since {by}, which had done {parts}: it begins anew"
                record = Record(epoch=record.epoch, disputed=record.disputed)
            record.script, record.total, record.attempt = self._script, self._total, attempt
            record.deployment, record.target = self._identity.deployment, self._identity.target
            return (self._raised(record, now), message), record

        begun = self._change(change)
        if isinstance(begun, ConfigError):
            raise begun
        return begun

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

    def accepted(self, query: str) -> None:
        """The coordinator has taken the statement.

        :param query: the id it was given.
        """

        def change(record: Record, now: float) -> None:
            if record.intent is not None:
                record.intent.query = query

        self._own(change)

    def keep_secret(self, node: str, session: str, encrypted: str) -> None:
        """Keep the secret of the session in use, with the session that it opens: no intent may have been written in it.

        :param node: where, ``host:port``.
        :param session: its id.
        :param encrypted: the secret, by a key that is not here.
        """

        def change(record: Record, now: float) -> None:
            record.node, record.session, record.sealed = node, session, encrypted

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
        """The whole script has ended well."""

        def change(record: Record, now: float) -> None:
            record.ended, record.intent, record.sealed = True, None, ""

        self._own(change, patience=_END_PATIENCE)

    def sweep(self, log: Logger) -> None:
        """Remove the journals that nobody has written in for a month. Never raises.

        :param log: for what cannot be removed.
        """

        def wanted(_: str, document: bytes, now: float) -> bool:
            return now - decode(document, self._journals.where).at < KEPT_SECONDS

        try:
            swept = self._journals.sweep(wanted)
        except Exception as error:  # tidying up is not worth a script
            log.warning("Old journals could not be removed: %s", error)
            return
        for line in swept.damaged:
            log.warning("A journal cannot be read, and is left as it is: %s", line)

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
        if record is None or record.script != self._script:
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

    def _others(self, record: Record) -> ConfigError | None:
        """Why this is no record of our work; None: it is, or it has come to its end."""
        if not record.script or self._is_whole(record):
            return None
        if record.deployment != self._identity.deployment:
            return two_deployments(self.where, record.deployment, self._identity.deployment)
        mine, other = self._attempt, record.attempt
        if mine is None or other is None or mine.may_be_work_of(other, disputed=record.disputed):
            return None
        place = f"did {record.done} of its {record.total} statements"
        return two_runs(self.key, mine, other, place, f"run this and clear the task:\n  {self.command('start-over')}")

    def _superseded(self, by: str) -> Superseded:
        return Superseded(f"Another attempt of {self.key} has taken over ({by}): this one runs nothing more")

    def _raised(self, record: Record, now: float) -> Record:
        record.epoch += 1
        record.at = now  # by it the reader knows how long ago an intent was
        record.by, self.epoch = self._by, record.epoch
        return msgspec.structs.replace(record)

    def _own(self, change: Callable[[Record, float], None], patience: float | None = None) -> None:
        """:raises Superseded: somebody else has taken the script over."""

        def checked(record: Record | None, now: float) -> tuple[None, Record]:
            if record is None:
                raise JournalMissing(f"{self.where} is gone, so which statements have run is not known")
            if record.epoch != self.epoch:
                raise self._superseded(record.by)
            change(record, now)
            return None, record

        self._change(checked, patience)

    def _change(
        self, change: Callable[[Record | None, float], tuple[Result, Record]], patience: float | None = None
    ) -> Result:
        """:raises StateUnavailable: the journal is out of reach, and stays so."""

        def encoded(document: bytes | None, now: float) -> tuple[Result, bytes]:
            result, record = change(None if document is None else decode(document, self.where), now)
            record.format, record.at = FORMAT, now
            return result, _encoder.encode(record)

        deadline = Deadline(self._patience if patience is None else patience)
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
            self._pause(_PAUSE)


def finish(journals: JournalStore, key: str, epoch: int) -> None:
    """The script has ended well. If somebody has taken it over since, nothing is noted.

    :param journals: where its journal is.
    :param key: the owner, ``dag/run/task[map]``.
    :param epoch: of the process that ran it to its end.
    """

    def change(document: bytes | None, now: float) -> tuple[None, bytes | None]:
        if document is None:
            return None, None
        record = decode(document, journals.where)
        if record.epoch == epoch:
            record.ended, record.intent, record.sealed, record.at = True, None, "", now
        return None, _encoder.encode(record)

    journals.change(key, change)


def answer(journals: JournalStore, key: str, reply: str) -> str:
    """Note what the author replies to the question about a statement whose outcome is not known.

    :param journals: where the journal is.
    :param key: the owner, ``dag/run/task[map]``.
    :param reply: ``ran``, ``not-run``; or ``start-over``.
    :returns: what was noted.
    :raises JournalMissing: there is no such journal.
    :raises ConfigError: nothing was asked.
    """

    def change(document: bytes | None, now: float) -> tuple[str, bytes]:
        if reply == "start-over":
            old = decode(document, journals.where) if document is not None else Record()
            record = Record(format=FORMAT, epoch=old.epoch + 1, by="impala-lb journal", at=now, attempt=old.attempt)
            return f"{key}: its next attempt begins at statement 1", _encoder.encode(record)
        if document is None:
            raise JournalMissing(f"{journals.where}: has no journal of {key}")
        record = decode(document, journals.where)
        if record.intent is None:
            raise ConfigError(f"{key}: no statement of it is in doubt ({record.done} of {record.total} are done)")
        record.answer, record.at = reply, now
        noted = f"statement {record.intent.number} of {record.total} {_ANSWERS[reply]} by the next attempt"
        return f"{key}: {noted}", _encoder.encode(record)

    return journals.change(key, change)
