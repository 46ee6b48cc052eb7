"""A script's statements, in order, on one node; where a session is lost, the next one goes on where it stopped."""

from __future__ import annotations

import time
from collections.abc import Callable
from contextlib import suppress
from typing import Any

from airflow_provider_impala_lb.core.cluster.pick import Pick
from airflow_provider_impala_lb.core.stop_request import Cancelled, HandedOver, StopRequest
from airflow_provider_impala_lb.core.timing import Backoff, Deadline
from airflow_provider_impala_lb.errors import ConfigError, StatementFailed, StateUnavailable, StillRunning, Superseded
from airflow_provider_impala_lb.impala.hs2.connection_failure import Fault, NodeRefused, refusal
from airflow_provider_impala_lb.impala.hs2.cursor import Cursor
from airflow_provider_impala_lb.impala.hs2.ids import StatementEnd, StatementError
from airflow_provider_impala_lb.impala.hs2.operation import Limits
from airflow_provider_impala_lb.impala.hs2.reconnecting_client import RowsLost
from airflow_provider_impala_lb.impala.hs2.session import Session
from airflow_provider_impala_lb.impala.hs2.session_factory import SessionFactory
from airflow_provider_impala_lb.impala.hs2.statement_lookup import Sendings
from airflow_provider_impala_lb.impala.script.handover import Deferral, ResumedSession, StatementNotes
from airflow_provider_impala_lb.impala.script.metadata_sync import publish
from airflow_provider_impala_lb.impala.script.output import OutputDone, write
from airflow_provider_impala_lb.impala.script.record import ScriptRecord
from airflow_provider_impala_lb.impala.sql.classification import excerpt
from airflow_provider_impala_lb.impala.sql.effects import SessionData, WrittenTables, still_set
from airflow_provider_impala_lb.impala.sql.label import Label
from airflow_provider_impala_lb.impala.statement.failure_rules import (
    ClassifiedFailure,
    classify_again,
    classify_failure,
    handle_gone,
    idle_too_long,
)

NEW_SESSIONS = 3  # so many times one statement may lose its session, and go on in a new one
_WAIT_FIRST, _WAIT_LONGEST = 1.0, 30.0  # seconds before a statement that has to wait is sent again


class Execution:
    """One run of a script on the node of ``pick``, from the first statement that is not done.

    :param sessions: opens the sessions.
    :param pick: the node, with its lease.
    :param record: what is run, and what is done of it.
    :param stop: of the run.
    :param deferral: whether another process is to go on.
    :param prepare: called with the open session before each statement; what it raises ends the run.
    :ivar session: the open one, or None.
    :ivar last: the same, also once it is closed.
    """

    def __init__(
        self,
        sessions: SessionFactory,
        pick: Pick,
        record: ScriptRecord,
        stop: StopRequest,
        deferral: Deferral,
        prepare: Callable[[Session], None],
    ) -> None:
        self._sessions, self._pick, self._record, self._stop, self._deferral = sessions, pick, record, stop, deferral
        self._plan, self._listener, self._journal, self._prepare = record.plan, record.listener, record.journal, prepare
        self._log, self._notes = record.listener.logger, StatementNotes(record.journal, deferral)
        self._elsewhere = record.plan.options.resume or record.plan.options.restartable
        self._sent_before = record.sent_before
        self._under_way, self._submitted = False, 0.0
        self._publishing = record.plan.options.publish is not None
        self._sendings = 0, Sendings(0.0)  # of which statement
        self._has_run: Callable[[], bool] | None = None
        self._inherited = self._shared = False  # another process had the session before, or may go on in it
        self.session: Session | None = None
        self.last: Session | None = None
        data, options = SessionData(pick.database, pick.options), record.plan.options
        # What the session key brings along comes after the connection's, and before what the script's author wants.
        self._database = options.database or data.database
        self._options = {**data.options, **(options.query_options or {})}
        config = sessions.config.session
        sync = str({**config.query_options, **self._options}.get("SYNC_DDL", "")).lower() in ("1", "true")
        record.begin_on(pick.node, data, WrittenTables(self._database or config.database, sync_ddl=sync))

    @property
    def number(self) -> int:
        """The statement that is next, from 1."""
        return self._record.number

    @property
    def between(self) -> bool:
        """Whether no statement is under way."""
        return not self._under_way

    @property
    def left_running(self) -> bool:
        """Whether a statement that may change something was sent and not seen to end; it may not be answered yet."""
        reads = self.number <= len(self._plan) and self._plan.classified[self.number - 1].changes_nothing
        return self.last is not None and self.last.left_running and not reads

    def resume(self, resumed: ResumedSession) -> None:
        """Before :meth:`run`: go on in a session of another process.

        :param resumed: the session, and the statement under way there.
        """
        self.session = self.last = resumed.session
        self._record.done.session = resumed.session.id
        if resumed.query_id:
            resumed.session.adopt(resumed.query_id, was_answered=resumed.was_answered)
            self._sendings = self.number, Sendings(resumed.session.reconnect_timeout, new_session=True)
            self._sendings[1].begin()
            self._under_way, self._submitted = True, resumed.sent_at
        self._inherited, self._has_run = resumed.inherited, resumed.has_run
        self._shared = True

    def end_now(self, note: Callable[[], None] = lambda: None, may: Callable[[], bool] = lambda: True) -> bool:
        """From another thread: end what runs, within 4 s. Never raises.

        :param note: as of `Session.end_now`.
        :param may: as of `Session.end_now`.
        :returns: False: no session was there to be ended, or may be, and ``note`` was not called.
        """
        session = self.session
        return session is not None and session.end_now(note, may)

    def move(self, reason: str, *, anew: bool) -> None:
        """From another thread: stop here, to go elsewhere; :meth:`run` raises :class:`Cancelled`. Never raises.

        :param reason: of the request to move.
        :param anew: the script begins anew there. Else a statement that must not run twice comes to its end first.
        """
        stop, record = self._stop, self._record
        if not self.end_now(lambda: stop.move(reason, interrupt=True), lambda: anew or record.safe_to_repeat):
            # Not interrupted: nobody ends the session of a statement that is sent meanwhile, nor sees it end.
            stop.move(reason, interrupt=False)

    def run(self) -> None:
        """Run what is left of the script.

        :raises HandedOver: the session stays open, with what runs in it: see :attr:`session`.
        :raises NodeRefused: the node takes no work, and nothing but SET and USE was done.
        :raises StatementFailed: which statement, whether it ran, what is done.
        :raises Cancelled: the run was cancelled, or is to move, before a statement was sent.
        :raises Superseded: a later attempt has taken over.
        """
        start, lost, keep = time.monotonic(), 0, False
        if self.session is None:
            self._open()
        try:
            while self.number <= len(self._plan):
                number = self.number
                try:
                    if not self._under_way:
                        self._stop.check_moved()
                        self._deferral.check()
                        if self._inherited:
                            self.close()
                            self._open()
                        self._publish_rest()
                    self.statement(number)
                except HandedOver:
                    keep = True
                    raise
                except Superseded:
                    # The session, and what runs in it, are somebody else's now: to close it would end that. Unless it
                    # was opened after they had taken over: nothing was sent in it, and nobody else knows it.
                    keep = self._shared
                    if keep and self.session is not None:
                        self.session.detach()
                    raise
                except (StateUnavailable, StillRunning, ConfigError) as error:
                    if self.between and self._record.nothing_done:
                        raise
                    raise self.cut_off(error) from error
                except _SessionGone as gone:
                    if not gone.unanswered:  # that is bounded by the statement's own budget
                        lost = lost + 1 if self.number == number else 0
                    if lost >= NEW_SESSIONS:
                        raise gone.failure from gone.__cause__
                    self._log.warning("%s: going on in a new session on %s", gone.failure.reason, self._pick.node)
                    self._reopen(gone.failure)
            self._publish_rest()
        finally:
            self._record.done.seconds += time.monotonic() - start
            if not keep:
                self.close()

    def cut_off(self, error: StateUnavailable | StillRunning | ConfigError) -> StatementFailed:
        """End the session; what to raise where it cannot be noted any more what the script does, since it has done
        something: else it would be run again from its beginning.

        :param error: of the journal, of the balancer's state, or of what an earlier attempt has left.
        """
        query_id = self.session.query_id if self._under_way and self.session is not None else None
        failed = self._record.failed(str(error), query_id, "unknown" if self._under_way else "not started")
        self.close()
        return failed

    def _publish_rest(self) -> None:
        """Once all changes are made: what other coordinators may not have heard of yet."""
        if not self._publishing or self.number <= self._plan.last_effect:
            return
        self._publishing = False
        session, options = self.session, self._plan.options
        names = [name for name in self._record.unpublished or [] if "." in name]
        if session is None or not session.is_open or not names:
            return
        # Handed over where the script goes on; at its end the results are here.
        on_poll = self._deferral.check if self.number <= len(self._plan) else None
        limits = Limits(options.statement_timeout, options.publish, on_poll)
        tags = self._record.identity.tags
        self._record.note_published(publish(session, names, limits, check=self._stop.check, log=self._log, tags=tags))

    def close(self) -> None:
        """End the session, and what runs in it. Never raises."""
        session, self.session = self.session, None
        if session is not None:
            session.close()
            if self._record.memory is not None and not self.left_running:
                self._record.memory.session_ended(session.id)

    def _open(self) -> None:
        pick, again = self._pick, self.last is not None
        session = self._sessions.open(pick.node, database=self._database, options=self._options, stop=self._stop)
        self.session = self.last = session
        self._record.done.session = session.id
        self._under_way = self._inherited = self._shared = False
        try:
            self._stop.check_cancelled()
            pick.note(session=session.id, web=session.http_addr)
            if self._record.memory is not None:
                sealed, web = self._sessions.sealer.seal(session.handle[1]), session.web or ""
                if not self._record.memory.keep_session(pick.node, session.id, sealed, again=again, web=web):
                    self._record.memory = None
            web = f", {session.web}/sessions" if session.web else ""
            self._log.info("Session %s on %s as %s%s", session.id, pick.node, session.user, web)
            self._prepare(session)
            self.replay(session)
            if self._listener.on_session:
                self._report_session(session)
        except BaseException:
            self.close()
            raise

    def _report_session(self, session: Session) -> None:
        assert self._listener.on_session is not None
        try:
            self._listener.on_session(self._pick, session)
        except Exception:
            number, total = self.number, len(self._plan)
            done = f"{number - 1} of {total} statements are done" if number > 1 else "nothing was run"
            with suppress(Exception):
                self._log.error("Reporting the session on %s (on_session) has failed: %s", self._pick.node, done)
            raise

    def _reopen(self, failure: StatementFailed) -> None:
        """A new session on the same node, which knows what the old one had been set by USE and SET."""
        self.close()
        try:
            self._open()
        except NodeRefused as error:
            if self._elsewhere or self._record.nothing_done:
                raise
            raise self._record.failed(
                f"{failure.reason}; and no new session can be opened: {error}", None, failure.outcome, failure.advice
            ) from error
        except (StateUnavailable, StillRunning) as error:
            reason = f"{failure.reason}; and what other attempts do cannot be known: {error}"
            raise self._record.failed(reason, None, failure.outcome, failure.advice) from error

    def replay(self, session: Session) -> None:
        """Send once more what still counts of the USE and SET that are done.

        :param session: a new one.
        :raises NodeRefused: one of them failed. If it was answered, any other node would say the same.
        """
        for number in still_set(each.effects for each in self._plan.classified[: self.number - 1]):
            label = Label.new(number, len(self._plan), self._record.identity.tags, self._record.identity.owner)
            try:
                session.execute(f"{label} {self._plan.texts[number - 1]}")
            except StatementError as error:
                said, sql = str(error).strip(), excerpt(self._plan.statements[number - 1].sql)
                verdict = classify_failure(said, self._plan.classified[number - 1], accepted=False).verdict
                reason = f"statement {number} ({sql}) could not be repeated in a new session, mend that first: {said}"
                fault: Fault = "node" if verdict in ("refused", "session") else "client"
                raise NodeRefused(reason, refusal(said).cause, fault) from error

    def statement(self, number: int) -> None:
        """Run the next statement to its end, or wait for the end of the one that is under way.

        :param number: of the statement, from 1.
        :raises _SessionGone: it was not run, and a new session may run it.
        """
        session, sql = self.session, self._plan.texts[number - 1]
        assert session is not None
        backoff, deadline = Backoff(_WAIT_FIRST, _WAIT_LONGEST), Deadline(session.reconnect_timeout)
        if self._sendings[0] != number:
            self._sendings = number, Sendings(session.reconnect_timeout, new_session=True)
        while True:
            try:
                self._once(session, number, sql)
                return
            except StatementError as error:
                classify = classify_again if number == self._sent_before else classify_failure
                failure = classify(str(error), self._plan.classified[number - 1], accepted=error.query_id is not None)
                if failure.verdict == "wait" or "never reached the coordinator" in str(error):
                    self._sent_before = number
                if failure.outcome == "done":
                    ended = StatementEnd(error.query_id or "", None, 0.0, str(error))
                    self._record.note_done(ended, synced=self._is_synced(number), fetched=False)
                    if str(error).startswith("publish_timeout: "):
                        self._publishing = False  # a coordinator hangs: all others would wait as long for nothing
                    return
                if failure.verdict != "wait" or deadline.passed(backoff.pause):
                    self._fail(error, failure)
                self._sendings[1].refused()
                self._log.warning("[%d/%d] has to wait, and is sent again: %s", number, len(self._plan), error)
            except Cancelled as error:
                query_id, outcome = (session.query_id, None) if self._sendings[1].count else (None, "not started")
                if outcome:
                    self._record.note_not_run()
                raise self._record.failed(f"cancelled: {error}", query_id, outcome) from error
            try:
                session.stop.sleep(backoff.next())
            except Cancelled as error:
                raise self._record.failed(f"cancelled: {error}", None, "not started") from error

    def _once(self, session: Session, number: int, sql: str) -> None:
        times, reads_only = 0, self._plan.classified[number - 1].reads_only
        while True:
            times += 1
            ended = self._to_its_end(session, number, sql)
            # The row of DDL is not worth a statement that is done and that nobody can tell so if it waits for too long.
            if self._deferral.rows and number == len(self._plan) and session.has_rows and reads_only:
                raise HandedOver
            self._under_way = False
            try:
                self._fetch(session, number, ended)
                ended.warnings = ended.warnings or session.finish()[0]
            except StatementError as error:
                if reads_only:
                    raise
                self._done_without_rows(ended, str(error))
                return
            except RowsLost as lost:
                if times < NEW_SESSIONS and reads_only:
                    self._log.warning("[%d/%d] %s: the query is run again", number, len(self._plan), lost)
                    continue
                if reads_only:
                    raise StatementError(f"fetching its rows failed: {lost}", query_id=ended.query_id) from lost
                self._done_without_rows(ended, f"its {lost}")
                return
            self._record.note_done(ended, synced=self._is_synced(number))
            return

    def _fetch(self, session: Session, number: int, ended: StatementEnd) -> None:
        """Give the statement's rows to the output or to the handler, whichever is to have them."""
        done, handler = self._record.done, self._listener.handler
        try:
            cursor = Cursor(session, self._pick, self._record.identity.owner, self._record.identity.tags)
            cursor.query_id = ended.query_id
            if number == self._plan.output_number:
                done.output = session.fetch(self._write, cursor)
            elif handler:
                if self._plan.options.last_result_only and done.results:
                    done.results[-1] = None  # before the next rows come
                result = session.fetch(handler, cursor)
                done.results.append(result)
                done.descriptions.append(cursor.description)
        except (StatementError, StatementFailed, RowsLost, Cancelled):
            raise
        except Exception as error:  # of the author's handler
            self._record.note_unfetched(ended, error)
            raise

    def _done_without_rows(self, ended: StatementEnd, warning: str) -> None:
        """DDL is done, and its row says no more than that: it is not worth doing it again."""
        ended.warnings = warning
        self._record.note_done(ended, synced=self._is_synced(self.number), fetched=False)

    def _write(self, cursor: Any) -> OutputDone:
        output = self._plan.options.output
        assert output is not None
        try:
            written = write(cursor, output)
        except (OSError, ValueError, ConfigError) as error:
            # All that the connection raises is another kind: this is the file's, and no fault of the node.
            may_repeat = self._elsewhere or self._record.nothing_changed
            failure = self._record.failed(
                f"it ran, and its rows could not be written to {output}, where nothing was left: {error}",
                cursor.query_id,
                "not started",
                "A retry runs it again"
                if may_repeat
                else "Only the file is missing: a retry would begin at statement 1, and change again what was changed "
                "before it. resume=True goes on at this query",
            )
            failure.retry = may_repeat and not isinstance(error, ConfigError)
            self._record.note_not_run()
            raise failure from error
        with suppress(Exception):  # a line is not worth a script
            self._log.info("%d rows are in %s (%d bytes)", written.rows, written.path, written.bytes)
        return written

    def _to_its_end(self, session: Session, number: int, sql: str) -> StatementEnd:
        """Send the statement and wait for its end; or wait for that of the one that is under way."""
        options = self._plan.options
        synced = self._is_synced(number)
        limits = Limits(
            options.statement_timeout, options.publish if synced else None, lambda: self._notes.polled(session)
        )
        if self._under_way and session.query_id:
            return self._wait_for_resumed(session, limits)
        self._has_run = None  # it spoke of the statement that was under way
        label = Label.new(number, len(self._plan), self._record.identity.tags, self._record.identity.owner)
        if session.operation.left_open and self._record.memory is not None:
            session.operation.left_open = not self._record.memory.left_open(session.id)
        changes = not self._plan.classified[number - 1].changes_nothing
        if changes and self._record.memory is None:
            self._pick.note(session=session.id)  # no later attempt knows this session to close it: has one begun?
        self._prepare(session)
        if self._journal is not None:
            if changes:
                session.proof.see_witness()
            self._journal.intend(number, label.nonce, self._pick.node, session.id, session.proof.witness)
        self._shared = True
        query_options, sendings = {"SYNC_DDL": "1"} if synced else None, self._sendings[1]
        try:
            return session.execute(
                f"{label} {sql}", on_start=self.accepted, options=query_options, limits=limits, sendings=sendings
            )
        except StatementError:
            self._under_way = False
            raise

    def _is_synced(self, number: int) -> bool:
        return self._publishing and number in self._plan.synced

    def _wait_for_resumed(self, session: Session, limits: Limits) -> StatementEnd:
        """Wait for the end of a statement that was sent before: by another process, or before the hand-over failed."""
        self._under_way = False
        try:
            return session.wait(start=self._submitted, limits=limits)
        except (HandedOver, Cancelled):
            self._under_way = True
            raise
        except StatementError as error:
            gone = handle_gone(str(error))
            if (gone or idle_too_long(str(error))) and self._rows_are_needed():
                # Only a fetch keeps a query that has finished, and between two processes nobody fetches.
                raise _SessionGone(self._record.failed(str(error), error.query_id, "not started")) from error
            if self._has_run is None or not gone:
                raise
            # The other process has waited for it, too, and has closed it.
            self._log.info("Query %s is looked up: %s", session.query_id, error)
            if self._has_run():
                return StatementEnd(session.query_id or "", None, 0.0)
            raise _SessionGone(self._record.failed(str(error), error.query_id, "not started")) from error

    def _rows_are_needed(self) -> bool:
        """Whether the next statement only reads, for somebody here, or where the script is handed over to."""
        number, listener = self.number, self._listener
        wanted = listener.handler is not None or number == self._plan.output_number
        wanted |= self._deferral.rows and number == len(self._plan)
        return wanted and self._plan.classified[number - 1].reads_only

    def accepted(self, query_id: str) -> None:
        """The coordinator has taken the statement.

        :param query_id: its id.
        """
        self._pick.accepted()
        if self.session is not None and self.session.operation.was_answered:  # else KILL QUERY of it proves no end
            self._pick.note(query=query_id)
        self._under_way, self._submitted = True, time.monotonic()
        self._notes.accepted(query_id, changes=not self._plan.classified[self.number - 1].changes_nothing)

    def _fail(self, error: StatementError, failure: ClassifiedFailure) -> None:
        """Raise what follows from a statement's failure."""
        if self._journal is not None and error.query_id is not None:
            self._journal.check_mine()  # else it may have failed by what our successor does with it
        if failure.outcome in ("not started", "user error"):
            self._record.note_not_run()
        if failure.verdict == "refused" and (self._elsewhere or self._record.nothing_done):
            raise refusal(str(error)) from error
        failed = self._record.failed(str(error), error.query_id, failure.outcome, failure.advice)
        if failure.verdict == "session":
            raise _SessionGone(failed, unanswered=error.unanswered) from error
        if failure.outcome != "user error":
            self._pick.failed()
        raise failed from error


class _SessionGone(Exception):
    """:ivar failure: the error to raise if no new session goes on.
    :ivar unanswered: a statement was sent, and the session closed for its answer was lost.
    """

    def __init__(self, failure: StatementFailed, *, unanswered: bool = False) -> None:
        super().__init__(failure.reason)
        self.failure, self.unanswered = failure, unanswered
