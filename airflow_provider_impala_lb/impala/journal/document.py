"""The document of a journal: what is kept of a script's run."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence

import msgspec

from airflow_provider_impala_lb.core.state.model import Attempt
from airflow_provider_impala_lb.errors import ConfigError, JournalDamaged
from airflow_provider_impala_lb.impala.journal.identity import Target

FORMAT = 1
"""Version of the document. A newer one is refused by name (`decode`), never guessed at. docs/design.md, "Two versions",
says what is a new one, and what is to be done then."""
MAX_STATEMENTS = 50_000
"""Of a script that is resumed: their digests take 390 KiB of the 512 that a document may have (`JournalStore`)."""
_DIGEST_BYTES = 6
_ROOM = 448 << 10  # bytes for what is kept of the script; the rest is for all that is noted while it runs


class Intent(msgspec.Struct, omit_defaults=True):
    """A statement that is about to be sent, or was.

    :param number: from 1.
    :param nonce: of its label, by which it is found on the coordinator's page.
    :param node: where, ``host:port``.
    :param session: the id of the session it is sent in.
    :param at: when this was written, by the store's clock.
    :param query: its query id; "": not known (yet).
    :param witness: id of a query that was seen among the completed ones there before it was sent; "": none was.
    :param was_asked: its handle was the coordinator's answer, and was good after that: whoever ends it from then on
        waits for its threads.
    """

    number: int
    nonce: str
    node: str
    session: str
    at: float
    query: str = ""
    witness: str = ""
    was_asked: bool = False

    @property
    def name(self) -> str:
        """By what an answer names it: its number, and enough of its nonce that it is no other sending of it."""
        return f"{self.number}:{self.nonce.removeprefix('lb:')[:8]}"


class KeptSession(msgspec.Struct, frozen=True):
    """A session that an attempt has opened, and that is not known to have ended with all that ran in it.

    :param node: where, ``host:port``.
    :param session: its id, as Impala prints it.
    :param sealed: its secret, sealed (see `Sealer`).
    :param at: when it was opened, by the store's clock.
    :param known: what was sent in it is known: before each statement its intent was written, and no intent was dropped
        unsettled since. Then nothing is under way in it but by an intent.
    :param left_open: a statement of it was left open, so the query id that is known need not be the last one's.
    :param web: URL of its coordinator's pages; "": not known.
    """

    node: str
    session: str
    sealed: str
    at: float
    known: bool = False
    left_open: bool = False
    web: str = ""


class Record(msgspec.Struct, omit_defaults=True):
    """What is known of a script's run: the document of a journal.

    :param format: of this document.
    :param script: a hash of its statements as they are sent.
    :param total: how many statements it has.
    :param digests: a short hash of each of them, as `digests` gives them; empty: not known.
    :param epoch: of the process that may write.
    :param by: which attempt wrote last.
    :param ended: the whole script has ended well.
    :param at: when it was written last, by the store's clock; of one that an attempt goes on from: when that took it.
    :param done: how many statements are done.
    :param rows: modified by them, in all.
    :param queries: ids of the last 100 of them.
    :param node: where it runs, or ran last, ``host:port``.
    :param session: the id of the session there.
    :param sessions: that may still be open, or have something running in them, of this attempt and earlier ones.
    :param outcomes: whether it is kept here which statements have run; else only the sessions are.
    :param text: the script as it was handed over, sealed, until its next process has taken it.
    :param intent: the statement that is about to be sent, or was, and whose outcome is not known; None: there is none.
    :param answer: what the author has said of the intent: ``ran`` or ``not-run``; "": nothing.
    :param attempt: which one began last; None: not known.
    :param deployment: whose it is; "": the cluster's state has only one, or not known.
    :param target: what the script's names stand for; None: not known.
    :param disputed: attempts of two runs were seen under this name.
    :param unseen: attempts of which nothing is kept may have left something: it was not looked for yet, or not seen to
        end.
    :param opening: the last attempt keeps only sessions, and none of it is kept now: it may have opened one all the
        same.
    """

    format: int = 0
    script: str = ""
    total: int = 0
    digests: bytes = b""
    epoch: int = 0
    by: str = ""
    ended: bool = False
    at: float = 0.0
    done: int = 0
    rows: int = 0
    queries: list[str] = []
    node: str = ""
    session: str = ""
    sessions: list[KeptSession] = []
    outcomes: bool = True
    text: str = ""
    intent: Intent | None = None
    answer: str = ""
    attempt: Attempt | None = None
    deployment: str = ""
    target: Target | None = None
    disputed: bool = False
    unseen: bool = False
    opening: bool = False

    def anew(self) -> Record:
        """Of a script that begins at statement 1: what may be left of it all the same."""
        dropped = self.intent.session if self.intent is not None else None
        sessions = [
            msgspec.structs.replace(each, known=False) if each.session == dropped else each for each in self.sessions
        ]
        unseen = self.unseen or self.opening
        return Record(epoch=self.epoch, attempt=self.attempt, disputed=self.disputed, unseen=unseen, sessions=sessions)

    def begin(self, attempt: Attempt | None, *, outcomes: bool) -> None:
        """An attempt begins; what is known of the one before stays.

        :param attempt: which one; None: not known.
        :param outcomes: as of the class.
        """
        if attempt is not None and self.attempt is not None:
            self.unseen |= attempt.number > self.attempt.number + 1  # one between them was noted nowhere
        self.unseen |= self.opening
        self.outcomes, self.opening, self.text, self.attempt = outcomes, not outcomes, "", attempt

    def keep(self, kept: KeptSession) -> None:
        """A session was opened.

        :param kept: of this attempt.
        """
        self.node, self.session, self.opening = kept.node, kept.session, False
        if self.kept(kept.session) is None:
            self.sessions = [*self.sessions, kept]

    def leave_open(self, session: str) -> None:
        """A statement of a session was left open.

        :param session: its id, as Impala prints it.
        """
        self.sessions = [
            msgspec.structs.replace(each, left_open=True) if each.session == session else each for each in self.sessions
        ]

    def forget(self, session: str) -> None:
        """A session, and what ran in it, was seen ended.

        :param session: its id, as Impala prints it.
        """
        self.sessions = [each for each in self.sessions if each.session != session]

    def kept(self, session: str) -> KeptSession | None:
        """The session of this id; None: it has ended, or was never kept.

        :param session: its id, as Impala prints it.
        """
        return next((each for each in self.sessions if each.session == session), None)

    def accept(self, query: str, *, was_asked: bool) -> None:
        """The coordinator has taken the statement that is intended.

        :param query: the id it was given.
        :param was_asked: as of `Intent`.
        """
        if self.intent is not None:
            self.intent.query, self.intent.was_asked = query, was_asked

    @property
    def so_far(self) -> str:
        """Who wrote last, and how far it was."""
        return f"{self.by or 'the last attempt'}, which had done {self.done} of its {self.total} statements"

    def end(self) -> None:
        """The whole script has ended well."""
        self.ended, self.intent, self.text = True, None, ""


class Begun(msgspec.Struct, frozen=True):
    """What an attempt that begins finds.

    :ivar record: to go on from.
    :ivar message: about it, for the log; "": there is nothing to be said.
    """

    record: Record
    message: str


_encoder = msgspec.json.Encoder()
_decoder = msgspec.json.Decoder(Record)


class _Format(msgspec.Struct):
    format: int = 0


_format = msgspec.json.Decoder(_Format)


def decode(document: bytes, where: str) -> Record:
    """A journal's document.

    :param document: its bytes.
    :param where: what to call the journal in an error.
    :raises ConfigError: it was written by a newer version of this package.
    :raises JournalDamaged: it is whole, and says what no version writes.
    """
    record, problem = None, ""
    try:
        record = _decoder.decode(document)
        version = record.format
    except msgspec.DecodeError as error:
        # What it cannot be read as may be what a newer version means by it.
        version, problem = _format_of(document), str(error)
    if version > FORMAT:
        raise ConfigError(
            f"{where}: was written by a newer version of this package (a journal of format {version}, this version "
            f"reads up to {FORMAT}), and is left as it is. Upgrade this host"
        )
    if record is None:
        raise JournalDamaged(
            f"{where}: this journal cannot be read ({problem}), so it is unknown which statements ran: look what they "
            "left, then remove it"
        )
    return record


def encode(record: Record, now: float) -> bytes:
    """The document to be written.

    :param record: what it says; ``format`` and ``at`` are set.
    :param now: the store's clock, in seconds since the epoch.
    """
    record.format, record.at = FORMAT, now
    return _encoder.encode(record)


def _format_of(document: bytes) -> int:
    try:
        return _format.decode(document).format
    except msgspec.DecodeError:
        return 0


def digests(texts: Sequence[str]) -> bytes:
    """A short hash of each statement: for what is the same in two scripts, not against anybody's intent.

    :param texts: as they are sent.
    :returns: one behind the other; nothing, if there are more than `MAX_STATEMENTS`.
    """
    if len(texts) > MAX_STATEMENTS:
        return b""
    return b"".join(hashlib.sha256(text.encode()).digest()[:_DIGEST_BYTES] for text in texts)


def digest_of(hashes: bytes, number: int) -> bytes:
    """The short hash of one statement; empty: not known.

    :param hashes: as of :func:`digests`.
    :param number: of the statement, from 1.
    """
    return hashes[(number - 1) * _DIGEST_BYTES : number * _DIGEST_BYTES]


def check_room(statements: int) -> None:
    """Whether a script can be resumed, before anything of it is sent.

    :param statements: how many it has.
    :raises ConfigError: they are too many.
    """
    if statements > MAX_STATEMENTS:
        raise ConfigError(
            f"resume: the script has {statements} statements, and a journal has room for {MAX_STATEMENTS}, so nothing "
            "was sent: split the script into several tasks, or run it without resume"
        )


def check_text(record: Record, sealed: str) -> None:
    """Whether there is room for a script's text beside all that is noted while it runs.

    :param record: of the script.
    :param sealed: its text.
    :raises ConfigError: there is none.
    """
    if len(record.digests) * 4 // 3 + len(sealed) > _ROOM:
        raise ConfigError(
            f"a journal has no room for the text of {record.total} statements ({len(sealed) >> 10} KiB, sealed)"
        )


def digest(texts: Sequence[str]) -> str:
    """A hash of the statements of a script.

    :param texts: as they are sent.
    """
    sha = hashlib.sha256()
    for text in texts:
        sha.update(text.encode() + b"\0")
    return sha.hexdigest()[:32]
