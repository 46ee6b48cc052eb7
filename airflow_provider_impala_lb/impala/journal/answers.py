"""What is noted in a journal from outside a run, or asked: that its result was taken, the script that was handed over,
an author's word on a statement."""

from __future__ import annotations

from airflow_provider_impala_lb.core.ports import JournalStore
from airflow_provider_impala_lb.errors import ConfigError, JournalMissing
from airflow_provider_impala_lb.impala.journal.document import Intent, KeptSession, Record, decode, encode

_ANSWERS = {"ran": "is taken as done", "not-run": "will be run"}


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
            record.end()
        return None, encode(record, now)

    journals.change(key, change)


def text_of(journals: JournalStore, key: str) -> str:
    """The script that was handed over, sealed; "": it is not there.

    :param journals: where its journal is.
    :param key: the owner, ``dag/run/task[map]``.
    :raises StateUnavailable: it cannot be asked for.
    """

    def look(document: bytes | None, now: float) -> tuple[str, bytes | None]:
        return "" if document is None else decode(document, journals.where).text, document

    return journals.change(key, look)  # not `read`, which may be some seconds old


def answer(journals: JournalStore, key: str, reply: str, statement: str = "") -> str:
    """Note what the author replies to the question about a statement whose outcome is not known.

    :param journals: where the journal is.
    :param key: the owner, ``dag/run/task[map]``.
    :param reply: ``ran``, ``not-run``; or ``start-over``.
    :param statement: which one was asked about, as of `Intent.name`; default none, for ``start-over``.
    :returns: what was noted.
    :raises JournalMissing: there is no such journal.
    :raises ConfigError: that was not asked, or is known meanwhile.
    """

    def change(document: bytes | None, now: float) -> tuple[str, bytes]:
        if reply == "start-over":
            if statement:
                raise ConfigError(f"{key}: start-over is about the whole script, not about statement {statement}")
            # What is lost with a journal may still run.
            old = decode(document, journals.where) if document is not None else Record(unseen=True)
            record = old.anew()
            record.epoch, record.by, record.attempt = old.epoch + 1, "impala-lb journal", old.attempt
            return f"{key}: its next attempt begins at statement 1", encode(record, now)
        if document is None:
            raise JournalMissing(f"{journals.where}: has no journal of {key}")
        record = decode(document, journals.where)
        if record.intent is None:
            raise ConfigError(f"{key}: no statement of it is in doubt ({record.done} of {record.total} are done)")
        if statement != record.intent.name:
            raise ConfigError(_other(key, reply, statement, record, record.intent))
        record.answer = reply
        noted = f"statement {record.intent.number} of {record.total} {_ANSWERS[reply]} by the next attempt"
        return f"{key}: {noted}", encode(record, now)

    return journals.change(key, change)


def _other(key: str, reply: str, statement: str, record: Record, intent: Intent) -> str:
    last = record.by or "an attempt without a number"
    now = f"in doubt now is statement {intent.number} of {record.total}, on {intent.node}; {last} began last"
    if not statement:
        return f"{key}: say which statement, as the error that asked prints it: {reply} NUMBER:ID ({now})"
    return (
        f"{key}: statement {statement} is not in doubt (any more), so nothing is noted: {now}. Once that has ended, "
        "run the task again: it finds out what became of the statement, or asks"
    )


def kept_of(journals: JournalStore) -> list[tuple[str, KeptSession | None]]:
    """The sessions that are kept for their attempts, running ones too, each with its owner. None: of attempts of this
    owner nothing is kept, and what they may have left was not seen to have ended.

    :param journals: where the journals are.
    :raises StateUnavailable: they cannot be read.
    """
    found: list[tuple[str, KeptSession | None]] = []
    for key in sorted(journals.keys()):
        document = journals.read(key)
        if document is not None:
            record = decode(document, journals.where)
            found += [(key, kept) for kept in record.sessions]
            found += [(key, None)] if record.unseen else []
    return found


def forget_session(journals: JournalStore, key: str, session: str) -> None:
    """Note that a session, and what ran in it, was seen ended.

    :param journals: where its owner's journal is.
    :param key: the owner, ``dag/run/task[map]``.
    :param session: its id, as Impala prints it; "": whatever attempts have left of which nothing is kept.
    :raises StateUnavailable: it could not be noted.
    """

    def change(document: bytes | None, now: float) -> tuple[None, bytes | None]:
        if document is None:
            return None, None
        record = decode(document, journals.where)
        record.forget(session)
        record.unseen &= session != ""
        return None, encode(record, now)

    journals.change(key, change)
