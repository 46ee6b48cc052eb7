"""A script's statements, in order, on one node; where a session is lost, the next one goes on where it stopped."""

from __future__ import annotations

import time
from collections.abc import Callable
from contextlib import suppress
from typing import TYPE_CHECKING, Any

from airflow_provider_impala_lb.core.cluster.pick import Pick
from airflow_provider_impala_lb.core.stop_request import Cancelled, HandedOver
from airflow_provider_impala_lb.errors import ConfigError, StatementFailed, StateUnavailable, Superseded
from airflow_provider_impala_lb.impala.hs2.connection_failure import NodeRefused, refusal
from airflow_provider_impala_lb.impala.hs2.cursor import Cursor
from airflow_provider_impala_lb.impala.hs2.failure_rules import (
    ClassifiedFailure,
    classify_again,
    classify_failure,
    handle_gone,
)
from airflow_provider_impala_lb.impala.hs2.ids import StatementEnd, StatementError
from airflow_provider_impala_lb.impala.hs2.operation import Limits
from airflow_provider_impala_lb.impala.hs2.reconnecting_client import RowsLost
from airflow_provider_impala_lb.impala.hs2.session import Session
from airflow_provider_impala_lb.impala.hs2.statement_lookup import Sendings
from airflow_provider_impala_lb.impala.script.handover import seal
from airflow_provider_impala_lb.impala.script.options import RunIdentity, RunListener
from airflow_provider_impala_lb.impala.script.output import OutputDone, write
from airflow_provider_impala_lb.impala.script.plan import ScriptDone, ScriptPlan
from airflow_provider_impala_lb.impala.script.tally import Tally
from airflow_provider_impala_lb.impala.script.upstream import Upstream
from airflow_provider_impala_lb.impala.sql.effects import SessionData, WrittenTables
from airflow_provider_impala_lb.impala.sql.label import make_label, nonce_of

if TYPE_CHECKING:
    from airflow_provider_impala_lb.impala.hs2.session_factory import SessionFactory
    from airflow_provider_impala_lb.impala.script.journal import Journal

NEW_SESSIONS = 3
"""So many times one statement may lose its session, and go on in a new one."""
_WAIT_FIRST, _WAIT_LONGEST = 1.0, 30.0


class Execution:
    """One run of ``script`` on the node of ``pick``, from the first statement that is not in ``done``.

    :param elsewhere: what is left may go on on another node if this one takes no more.
    :param prepare: called with the first session before its first statement.
    :param let_go: asked often; True: somebody else is to go on, and :meth:`run` raises :class:`HandedOver`.
    :param key: seals the session's secret for the journal; "": it is not kept there.
    :param sent_before: this statement was sent before, by an earlier process, and seems not to have run; 0: none.
    :param keep_last: the rows of the last statement are somebody else's to fetch: `HandedOver`, once it has ended.
    :ivar session: the open one, or None; ``last``: also once it is closed.
    :ivar done: what has been done; also of a run that fails.
    :ivar data: what the sessions have set for themselves.
    """

    def __init__(
        self,
        sessions: SessionFactory,
        script: ScriptPlan,
        identity: RunIdentity,
        listener: RunListener,
        pick: Pick,
        done: ScriptDone,
        *,
        journal: Journal | None = None,
        elsewhere: bool = False,
        prepare: Callable[[Session], None] | None = None,
        let_go: Callable[[], bool] | None = None,
        key: str = "",
        keep_last: bool = False,
        sent_before: int = 0,
    ) -> None:
        self._sessions, self._script, self._pick = sessions, script, pick
        self._journal, self._elsewhere, self._prepare = journal, elsewhere, prepare
        self._let_go, self._key, self._keep_last = let_go, key, keep_last
        self._sent_before = sent_before
        self._under_way = False
        self._submitted = 0.0
        self._sendings: tuple[int, Sendings] | None = None  # of which statement
        self._inherited = False
        self._has_run: Callable[[], bool] | None = None
        self._shared = False  # another process may go on in the session
        self._identity, self._listener, self._log = identity, listener, listener.logger
        self.session: Session | None = None
        self.last: Session | None = None
        self.done = done
        self.data = SessionData(pick.database, pick.options)
        # What the session key brings along comes after the connection's, and before what the script's author wants.
        self._database = script.options.database or self.data.database
        self._options = {**self.data.options, **(script.options.query_options or {})}
        self._cancelled: str | None = None
        self._move: str | None = None
        config = sessions.config.session
        sync = str({**config.query_options, **self._options}.get("SYNC_DDL", "")).lower() in ("1", "true")
        written = WrittenTables(self._database or config.database, sync_ddl=sync)
        self._tally = Tally(script, listener, done, pick.node, journal, self.data, written)

    @property
    def number(self) -> int:
        """The statement that is next, from 1."""
        return self._tally.number

    def cancel(self, why: str) -> None:
        """For another thread: end what runs; :meth:`run` then raises."""
        self._cancelled = why
        session = self.session
        if session is not None:
            session.cancel(why)

    def go_on_in(
        self,
        session: Session,
        *,
        query: str = "",
        sent: float = 0.0,
        inherited: bool = False,
        has_run: Callable[[], bool] | None = None,
    ) -> None:
        """Before :meth:`run`: go on in this session, with this statement under way.

        :param sent: when that was sent, by the monotonic clock.
        :param inherited: another process may still believe that the session is its own: nothing is sent in it.
        :param has_run: whether the statement under way has run, for when its handle is not known any more.
        """
        self.session = self.last = session
        self.done.session = session.id
        if query:
            session.adopt(query)
            self._under_way, self._submitted = True, sent
        self._inherited, self._prepare, self._shared, self._has_run = inherited, None, True, has_run

    @property
    def submitted(self) -> float | None:
        """When the statement under way was sent, by the monotonic clock; None if there is none."""
        return self._submitted if self._under_way else None

    def run(self) -> None:
        """Run what is left of the script.

        :raises LetGo: the session stays open, with what runs in it: see :attr:`session`.
        :raises NodeRefused: the node takes no work, and nothing but SET and USE was done.
        :raises StatementFailed: which statement, whether it ran, what is done.
        :raises Cancelled: :meth:`cancel` was called before a statement was sent.
        """
        start, lost, keep = time.monotonic(), 0, False
        if self.session is None:
            self._open()
        try:
            while self.number <= len(self._script):
                number = self.number
                try:
                    if not self._under_way:
                        if self._move:
                            raise Cancelled(self._move)
                        self._check_hand_over()
                        if self._inherited:
                            self.close()
                            self._open()
                    self._statement(number)
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
                except _SessionGone as gone:
                    if not gone.unanswered:  # that is bounded by the statement's own budget
                        lost = lost + 1 if self.number == number else 0
                    if lost >= NEW_SESSIONS:
                        raise gone.failure from gone.__cause__
                    self._log.warning("%s: going on in a new session on %s", gone.failure.reason, self._pick.node)
                    self._reopen(gone.failure)
        finally:
            self.done.seconds += time.monotonic() - start
            if not keep:
                self.close()

    def _open(self) -> None:
        pick = self._pick
        session = self._sessions.open(pick.node, database=self._database, options=self._options)
        self.session = self.last = session
        self.done.session = session.id
        self._under_way = self._inherited = self._shared = False
        try:
            if self._cancelled:
                raise Cancelled(self._cancelled)
            pick.note(session=session.id)
            self._log.info(
                "Session %s on %s as %s%s",
                session.id,
                pick.node,
                session.user,
                f", {session.web}/sessions" if session.web else "",
            )
            if self._prepare is not None:
                self._prepare(session)
                self._prepare = None
            self._replay(session)
            if self._journal is not None and self._key:
                self._journal.seal(seal(session.handle[1], self._key))
            if self._listener.on_session:
                self._tell_of_session(session)
        except BaseException:
            self.close()
            raise

    def _tell_of_session(self, session: Session) -> None:
        assert self._listener.on_session is not None
        try:
            self._listener.on_session(self._pick, session)
        except Exception:
            number, total = self.number, len(self._script)
            done = f"{number - 1} of {total} statements are done" if number > 1 else "nothing was run"
            with suppress(Exception):
                self._log.error("What is told of the session on %s (on_session) has failed: %s", self._pick.node, done)
            raise

    def _reopen(self, failure: StatementFailed) -> None:
        """A new session on the same node, which knows what the old one had been told by USE and SET."""
        self.close()
        try:
            self._open()
        except NodeRefused as error:
            if self._elsewhere or self._tally.nothing_done():
                raise
            raise self._tally.failed(
                f"{failure.reason}; and no new session can be opened: {error}", None, failure.outcome, failure.advice
            ) from error

    def _replay(self, session: Session) -> None:
        for number, text in enumerate(self._script.texts[: self.number - 1], 1):
            if self._script.classified[number - 1].session_only:
                try:
                    session.execute(f"{self._label(number)} {text}")
                except StatementError as error:
                    raise NodeRefused(
                        f"statement {number} of an earlier session could not be repeated: {error}"
                    ) from error

    def close(self) -> None:
        """End the session, and what runs in it."""
        session, self.session = self.session, None
        if session is not None:
            session.close()

    def _label(self, number: int) -> str:
        return make_label(number, len(self._script), self._identity.tags)

    def _statement(self, number: int) -> None:
        """:raises _SessionGone: it was not run, and a new session may run it."""
        session, sql = self.session, self._script.texts[number - 1]
        assert session is not None
        pause, until = _WAIT_FIRST, time.monotonic() + session.reconnect_timeout
        if self._sendings is None or self._sendings[0] != number:
            self._sendings = number, Sendings(session.reconnect_timeout, new_session=True)
        while True:
            try:
                self._once(session, number, sql)
                return
            except StatementError as error:
                classified = classify_again if number == self._sent_before else classify_failure
                found = classified(str(error), self._script.classified[number - 1], accepted=error.query_id is not None)
                if found.verdict == "wait" or "never reached the coordinator" in str(error):
                    self._sent_before = number
                if found.outcome == "done":
                    self._tally.note_done(StatementEnd(error.query_id or "", None, 0.0, str(error)), fetched=False)
                    return
                if found.verdict != "wait" or time.monotonic() + pause >= until:
                    self._give_up(number, session, error, found)
                self._sendings[1].refused()
                self._log.warning("[%d/%d] has to wait, and is tried again: %s", number, len(self._script), error)
            except Cancelled as error:
                raise self._tally.failed(f"cancelled: {error}", session.query_id) from error
            try:
                session.stop.sleep(pause)
            except Cancelled as error:
                raise self._tally.failed(f"cancelled: {error}", None, "not started") from error
            pause = min(pause * 2, _WAIT_LONGEST)

    def _once(self, session: Session, number: int, sql: str) -> None:
        handler, tries = self._listener.handler, 0
        reads_only = self._script.classified[number - 1].reads_only
        while True:
            tries += 1
            ended = self._to_its_end(session, number, sql)
            if self._keep_last and number == len(self._script) and session.has_rows:
                raise HandedOver
            self._under_way = False
            try:
                cursor = Cursor(session, self._pick)
                cursor.query_id = ended.query_id
                try:
                    if number == self._script.output_number:
                        self.done.output = session.fetch(self._write, cursor)
                    elif handler:
                        if self._script.options.last_result_only and self.done.results:
                            self.done.results[-1] = None  # before the next rows come
                        result = session.fetch(handler, cursor)
                        self.done.results.append(result)
                        self.done.descriptions.append(cursor.description)
                except (StatementError, StatementFailed, RowsLost, Cancelled):
                    raise
                except Exception as error:  # of the author's handler
                    self._tally.note_unfetched(ended, error)
                    raise
                ended.warnings = ended.warnings or session.finish()[0]
            except StatementError as error:
                if reads_only:
                    raise
                self._done_without_rows(ended, str(error))
                return
            except RowsLost as lost:
                if tries < NEW_SESSIONS and reads_only:
                    self._log.warning("[%d/%d] %s: the query is run again", number, len(self._script), lost)
                    continue
                if reads_only:
                    raise StatementError(f"fetching its rows failed: {lost}", query_id=ended.query_id) from lost
                self._done_without_rows(ended, f"its {lost}")
                return
            self._tally.note_done(ended)
            return

    def _done_without_rows(self, ended: StatementEnd, why: str) -> None:
        """DDL is done, and its row says no more than that: it is not worth doing it again."""
        ended.warnings = why
        self._tally.note_done(ended, fetched=False)

    def _write(self, cursor: Any) -> OutputDone:
        output = self._script.options.output
        assert output is not None
        try:
            written = write(cursor, output)
        except (OSError, ValueError, ConfigError) as error:
            # All that the connection raises is another kind: this is the file's, and no fault of the node.
            may_repeat = self._elsewhere or self._tally.nothing_changed()
            failure = self._tally.failed(
                f"it ran, and its rows could not be written to {output}, where nothing was left: {error}",
                cursor.query_id,
                "not started",
                "A retry runs it again"
                if may_repeat
                else "Only the file is missing: a retry would begin at statement 1, and change again what was changed "
                "before it. resume=True goes on at this query",
            )
            failure.retry = may_repeat and not isinstance(error, ConfigError)
            self._note_not_run()
            raise failure from error
        with suppress(Exception):  # a line is not worth a script
            self._log.info("%d rows are in %s (%d bytes)", written.rows, written.path, written.bytes)
        return written

    def _to_its_end(self, session: Session, number: int, sql: str) -> StatementEnd:
        """Send the statement and wait for its end; or wait for that of the one that is under way."""
        publish = self._script.options.publish if number == self._script.last_change else None
        limits = Limits(self._script.options.statement_timeout, publish, self._check_hand_over)
        if self._under_way and session.query_id:
            self._under_way = False
            try:
                return session.wait(start=self._submitted, limits=limits)
            except (HandedOver, Cancelled):
                self._under_way = True
                raise
            except StatementError as error:
                if self._has_run is None or not handle_gone(str(error)):
                    raise
                # The other process has waited for it, too, and has closed it.
                self._log.info("Query %s is looked up: %s", session.query_id, error)
                if self._has_run():
                    return StatementEnd(session.query_id, None, 0.0)
                raise _SessionGone(self._tally.failed(str(error), error.query_id, "not started")) from error
        self._has_run = None  # it spoke of the statement that was under way
        label = self._label(number)
        if self._journal is not None:
            self._journal.intend(number, nonce_of(label) or "", self._pick.node, session.id)
        self._shared = True
        options = {"SYNC_DDL": "1"} if publish is not None else None
        sendings = self._sendings[1] if self._sendings is not None else None
        try:
            return session.execute(
                f"{label} {sql}", on_start=self._accepted, options=options, limits=limits, sendings=sendings
            )
        except StatementError:
            self._under_way = False
            raise

    def _accepted(self, query_id: str) -> None:
        self._pick.accepted()
        self._pick.note(query=query_id)
        self._under_way, self._submitted = True, time.monotonic()
        if self._journal is not None and self._key:  # whoever goes on may have to find it without its label
            self._journal.accepted(query_id)

    def _give_up(self, number: int, session: Session, error: StatementError, found: ClassifiedFailure) -> None:
        """Raise what follows from it."""
        if self._journal is not None and error.query_id is not None:
            self._journal.check_mine()  # else it may have failed by what our successor does with it
        if found.outcome in ("not started", "user error"):
            self._note_not_run()
        if found.verdict == "refused" and (self._elsewhere or self._tally.nothing_done()):
            raise refusal(str(error)) from error
        failure = self._tally.failed(str(error), error.query_id, found.outcome, found.advice)
        if found.verdict == "session":
            raise _SessionGone(failure, unanswered=error.unanswered) from error
        if found.outcome != "user error":
            self._pick.failed()
        raise failure from error

    def _note_not_run(self) -> None:
        """The next statement changed nothing, and may be sent again."""
        if self._journal is not None:
            with suppress(StateUnavailable):  # then the next try looks it up
                self._journal.not_run(self.number)

    def _check_hand_over(self) -> None:
        """:raises HandedOver: somebody else is to go on."""
        if self._let_go is not None and self._let_go():
            raise HandedOver

    def move(self, why: str, *, anew: bool) -> None:
        """From another thread: stop here, to go elsewhere; :meth:`run` raises :class:`Cancelled`.

        :param anew: the script begins anew there. Else a statement that must not run twice comes to its end first.
        """
        self._move = f"to move: {why}"
        session = self.session
        if session is not None and (anew or self._tally.safe_to_repeat()):
            session.cancel(self._move)

    @property
    def handler_error(self) -> Exception | None:
        """What was raised by the handler."""
        return self._tally.handler_error

    @property
    def between(self) -> bool:
        """Whether no statement is under way."""
        return not self._under_way

    def touched(self) -> Upstream:
        """What was done, or interrupted, may have changed all this."""
        return self._tally.touched(under_way=self._under_way)


class _SessionGone(Exception):
    """:ivar failure: what to say if no new session goes on.
    :ivar unanswered: a statement was sent, and the session closed for its answer was lost.
    """

    def __init__(self, failure: StatementFailed, *, unanswered: bool = False) -> None:
        super().__init__(failure.reason)
        self.failure, self.unanswered = failure, unanswered
