"""A script goes from one process to another: this one hands its session over, the other one goes on in it.

What travels is `Handover` (handover_message.py). The session stays open on its coordinator meanwhile, with what runs in
it.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Callable
from logging import Logger, getLogger

import msgspec

from airflow_provider_impala_lb.core.cluster.pick import Pick
from airflow_provider_impala_lb.core.state.model import HAND_OVER_SECONDS
from airflow_provider_impala_lb.core.stop_request import HandedOver, StopRequest
from airflow_provider_impala_lb.errors import ConfigError, ImpalaLBError, Superseded
from airflow_provider_impala_lb.impala.hs2.connection_failure import NodeRefused
from airflow_provider_impala_lb.impala.hs2.ids import StatementError, guid_of
from airflow_provider_impala_lb.impala.hs2.session import Session
from airflow_provider_impala_lb.impala.hs2.session_factory import SessionFactory
from airflow_provider_impala_lb.impala.journal.document import Record
from airflow_provider_impala_lb.impala.journal.journal import Journal
from airflow_provider_impala_lb.impala.previous.statement_in_doubt import StatementInDoubt
from airflow_provider_impala_lb.impala.script.handover_message import Deferred, Handover
from airflow_provider_impala_lb.impala.script.options import ProcessOptions
from airflow_provider_impala_lb.impala.script.record import ScriptDone

log = getLogger(__name__)

_HANGUP_SECONDS = 0.2


class ResumedSession(msgspec.Struct, frozen=True):
    """A session that another process has opened, to go on in.

    :ivar session: connected, by this process.
    :ivar query_id: of the statement under way; "": there is none.
    :ivar was_answered: as of `Operation.adopt`.
    :ivar sent_at: when that was sent, by the monotonic clock.
    :ivar inherited: another process may still believe that the session is its own: nothing is sent in it.
    :ivar has_run: whether the statement under way has run, for when its handle is not known any more; None: nothing is
        known of it.
    """

    session: Session
    query_id: str
    was_answered: bool
    sent_at: float
    inherited: bool
    has_run: Callable[[], bool] | None


class TimeLimit:
    """Cancels a script that has taken too long, all its processes together.

    :param seconds: how long it may take; None: for ever.
    :param cancel: called with the reason, in a thread of its own.
    """

    def __init__(self, seconds: float | None, cancel: Callable[[str], None]) -> None:
        self._seconds, self._cancel = seconds, cancel
        self._timer: threading.Timer | None = None

    def begin(self, elapsed: float) -> None:
        """Watch it from now on; again, if more is known of its time.

        :param elapsed: the script's time until now, in seconds.
        """
        self.end()
        if self._seconds is not None:
            reason = "execution_timeout: the task has run for as long as it may"
            self._timer = threading.Timer(max(0.0, self._seconds - elapsed), self._cancel, [reason])
            self._timer.daemon = True
            self._timer.start()

    def end(self) -> None:
        """Watch it no longer."""
        if self._timer is not None:
            self._timer.cancel()


class Deferral:
    """Whether and when this process hands the script over. :meth:`check` may be called from any thread.

    :param stop: of the run; asks for it, or forbids it.
    :param process: after how many seconds, and whether with the last statement's rows.
    :param log: for people.
    :ivar allowed: somebody could go on with the script.
    :ivar rows: the last statement's rows are another process's to fetch.
    """

    def __init__(self, stop: StopRequest, process: ProcessOptions, log: Logger) -> None:
        self.allowed = False
        self.rows = process.hand_over_rows
        self._stop, self._after, self._log = stop, process.hand_over_after, log
        self._started = time.monotonic()

    @property
    def seconds(self) -> float:
        """Since the script has been this process's."""
        return time.monotonic() - self._started

    def check(self) -> None:
        """Asked often while a statement is under way, and between two.

        :raises HandedOver: another process is to go on.
        :raises Superseded: a later attempt has taken over.
        """
        self._stop.check_fenced()
        if not self.allowed or self._stop.cancelled is not None:
            return
        if self._stop.wants_hand_over or (self._after is not None and self.seconds >= self._after):
            raise HandedOver

    def hand_over(
        self,
        session: Session | None,
        pick: Pick,
        done: ScriptDone,
        epoch: int,
        unpublished: list[str] | None,
        *,
        under_way: bool,
    ) -> Deferred | None:
        """Leave the session to whoever goes on.

        :param session: the one in use; None: the script is between two nodes.
        :param pick: with the lease, which goes along.
        :param done: what is done.
        :param epoch: of this process in the journal.
        :param unpublished: what other coordinators may not have heard of; None: not known.
        :param under_way: whether a statement is.
        :returns: what to raise; None: the session would not be there any more, and the script stays here.
        :raises StateUnavailable: nobody could find the lease.
        :raises Superseded: a later attempt has taken over.
        """
        if session is None:
            return None
        began = time.monotonic()
        if self._after is not None and not _outlives_connections(session):
            self._log.warning(
                "%s ends a session with its connection, so nobody else could go on with the script: it runs here",
                pick.node,
            )
            self._after = None
            return None
        if self._stop.cancelled is not None:  # meanwhile, and its session is ended
            return None
        try:
            lease = pick.hand_over()
        except Superseded:
            session.detach()
            raise
        assert lease is not None
        handover = Handover(
            node=pick.node,
            why=done.why,
            session=session.id,
            epoch=epoch,
            lease=lease,
            query=(session.query_id or "") if under_way else "",
            at=lease.expires - HAND_OVER_SECONDS,
            seconds=done.seconds + time.monotonic() - began,
            unpublished=unpublished,
        )
        session.detach()
        return Deferred(handover, finished=session.has_ended)

    def resume_session(
        self,
        sessions: SessionFactory,
        journal: Journal,
        doubtful: StatementInDoubt,
        handover: Handover,
        record: Record,
        *,
        clean: bool,
    ) -> ResumedSession | None:
        """How to go on in the session that another process has left.

        What is found out about a statement in doubt goes into ``record``.

        :param sessions: attaches to it.
        :param journal: of the script.
        :param doubtful: finds out what became of a statement in doubt.
        :param handover: of the process that has handed over.
        :param record: what the journal says.
        :param clean: it was handed to us as it is. Else another process may still use the session, or try to.
        :returns: None: a new session is needed, and nothing is under way.
        :raises NodeRefused: nothing can be found out at its node.
        :raises StatementFailed: a statement is in doubt.
        """
        intent, read_at, node = record.intent, time.monotonic(), record.node or handover.node
        kept = record.kept(record.session)
        secret = sessions.sealer.open(kept.sealed) if kept is not None else None
        query = intent.query if intent else ""

        def done() -> int:
            return doubtful.resolve_intent(journal, record)

        if kept is not None and secret is None:
            self._log.warning("The secret of session %s cannot be read: its key has changed", kept.session)
        if secret is not None and (clean or query):
            try:
                named = kept.web if kept is not None else ""
                session = sessions.attach(node, guid_of(record.session), secret, stop=self._stop, named=named)
            except NodeRefused as error:
                if clean and not query:
                    raise
                self._log.warning("Its session cannot be used any more: %s", error)
            except ConfigError as error:
                self._log.warning("Its session is out of reach: %s", error)
            else:
                sent_at = read_at - max(0.0, record.at - intent.at) if intent is not None else read_at
                has_run = (lambda: done() >= intent.number) if intent is not None else None
                was_answered = intent is not None and intent.was_asked
                return ResumedSession(session, query, was_answered, sent_at, not clean, has_run)
        if intent is not None:
            record.done = done()
        return None


class StatementNotes:
    """What the journal gets to know of the statement under way, for whoever goes on with the script.

    Its handle alone proves nothing: on the newest versions it is answered of a statement, too, that somebody has
    killed, and that was archived, before there was a thread to wait for (``ExecuteStatementCommon`` in
    impala-hs2-server.cc; ``ClientRequestState::Finalize``). So it is asked for once before it counts.

    :param journal: of the script; None: there is none.
    :param deferral: whether and when the script is handed over.
    """

    def __init__(self, journal: Journal | None, deferral: Deferral) -> None:
        self._journal, self._deferral = journal, deferral
        self._wanted = False

    def accepted(self, query_id: str, *, changes: bool) -> None:
        """The coordinator has taken a statement.

        :param query_id: its id.
        :param changes: it may change something.
        """
        self._wanted = changes
        if self._journal is not None and self._deferral.allowed:
            self._journal.accepted(query_id)

    def polled(self, session: Session) -> None:
        """The statement was asked for, and is under way. Hands the script over where it is time.

        :param session: its session.
        :raises HandedOver: to somebody who goes on with it.
        """
        if self._wanted and self._journal is not None and session.query_id:
            self._wanted = False
            self._journal.accepted(session.query_id, was_asked=session.operation.was_answered)
        self._deferral.check()


def _outlives_connections(session: Session) -> bool:
    """Whether a session of this server is there after its connection has gone. On Impala since 3.3 (IMPALA-1653); Spark
    and Hive end it. Tried with one that is opened for it."""
    try:
        other = session.open_another()
        guid, secret = other.handle
        other.detach()
        time.sleep(_HANGUP_SECONDS)  # the server has to notice
        with Session.attach(session.login, guid, secret) as again:
            again.execute("SELECT 1")  # Spark answers GetInfo for a session that is gone
    except (ImpalaLBError, StatementError) as error:
        log.info("%s does not keep a session without a connection: %s", session.node.address, error)
        return False
    return True
