"""Run a whole script on one coordinator, in one session, on a node that takes it."""

from __future__ import annotations

import random
import time
from collections.abc import Callable, Mapping, Sequence
from logging import Logger, getLogger
from typing import TYPE_CHECKING, Any, Literal

from airflow_provider_impala_lb.core.journals import Journals
from airflow_provider_impala_lb.core.picker import Pick, new_id
from airflow_provider_impala_lb.errors import (
    ConfigError,
    NoNodeAvailable,
    StatementFailed,
    StateUnavailable,
    Superseded,
)
from airflow_provider_impala_lb.impala.barrier import MOVE_SECONDS, Upstream, cross
from airflow_provider_impala_lb.impala.connection import bind
from airflow_provider_impala_lb.impala.errors import Cancelled
from airflow_provider_impala_lb.impala.execution import Execution
from airflow_provider_impala_lb.impala.handover import Deferred, Handover, LetGo, new_key
from airflow_provider_impala_lb.impala.journal import Journal, Record
from airflow_provider_impala_lb.impala.resume import left_by, settle_intent, statements_before, take_over
from airflow_provider_impala_lb.impala.script import Statement
from airflow_provider_impala_lb.impala.session import Session
from airflow_provider_impala_lb.impala.settle import settle
from airflow_provider_impala_lb.impala.sql import excerpt, session_only
from airflow_provider_impala_lb.impala.statement import StatementError
from airflow_provider_impala_lb.impala.transport import NodeRefused, refusal
from airflow_provider_impala_lb.impala.work import Script, ScriptDone, StatementDone

if TYPE_CHECKING:
    from airflow_provider_impala_lb.balancer import Balancer

OnUnavailable = Literal["move", "wait", "fail"]

_RETRY_SECONDS = 2.0
_SWEEP_SHARE = 0.01
"""Of the scripts that end; each removes the journals that are older than a month."""


class _Moved(Exception):
    """The node is overloaded, what ran there was seen to end, and the script begins anew elsewhere, or goes on there.

    :ivar done: so many statements were done. :ivar left: what they, or the one that was interrupted, may have changed.
    """

    def __init__(self, why: str, done: int, left: Upstream | None = None) -> None:
        super().__init__(why)
        self.done, self.left = done, left


class ScriptRun:
    """One run of one script. :meth:`cancel` may be called from a signal handler or another thread.

    :param owner: who runs it, for the lease and the journal.
    :param tags: for the label of each statement, e.g. ``{"dag": ..., "task": ...}``.
    :param prefer: the sticky host, ``host:port``. :param on_unavailable: what to do if it cannot take the script:
        ``"move"`` to another node, once that knows what the upstream wrote; ``"wait"`` for it up to
        ``session.reconnect_timeout``; or ``"fail"``.
    :param upstream: what ran on ``prefer`` before, and changed; None: not known.
    :param restartable: it is safe to run the script again from statement 1. When its node is overloaded, the running
        statement is cancelled, seen to end, and the script begins anew on another node, unless it has run for more
        than 5 minutes. Else it finishes where it is.
    :param settles: ``owner`` has one run at a time: first end what an earlier one has left running, and see it ended.
    :param journals: where it is written which statements have run; None: nowhere. :param resume: with it: go on where
        an earlier run of ``owner`` stopped, and on another node where this one takes no more.
    :param first: there was no earlier run; False: there was one, and its journal must be there. None: not known.
    :param publish: run the script's last change with SYNC_DDL, so that every coordinator has seen it at its end: for
        so many seconds, once its work is done. None: do not.
    :param wait: seconds to wait while all nodes are busy or full; default ``max_wait`` of the configuration.
    :param ticket: with ``asks_again``: the name of the place in the line, and when the caller comes back, see
        :meth:`Balancer.acquire`: then :meth:`run` raises :class:`MustWait` instead of waiting.
    :param statement_timeout: seconds after which a statement is cancelled, and the script fails.
    :param handler: called with the cursor after each statement, as in common-sql.
    :param output: a file (.csv, .csv.gz, .parquet) for the rows of the script's last query, instead of ``handler``;
        streamed, and there under its name only once it is whole.
    :param on_session: called once the session is open and before the first statement, and again after a move.
    :param on_statement: called when a statement has ended well.
    :param texts: what is sent for each statement; None: with ``parameters`` bound.
    :param let_go_after: with ``journals``: after so many seconds :meth:`run` raises :class:`~.handover.Deferred`, and
        another process goes on by :meth:`go_on`. :param keep_last: it does so at the end, to fetch the last rows.
    :param finishes: the journal says at once that the script has ended; else when :meth:`finish` is called.
    """

    def __init__(
        self,
        balancer: Balancer,
        statements: Sequence[Statement],
        *,
        owner: str = "",
        tags: Mapping[str, str] | None = None,
        session_key: str | None = None,
        prefer: str | None = None,
        on_unavailable: OnUnavailable = "move",
        upstream: Upstream | None = None,
        restartable: bool = False,
        settles: bool = False,
        journals: Journals | None = None,
        resume: bool = False,
        first: bool | None = None,
        publish: float | None = None,
        wait: float | None = None,
        ticket: str | None = None,
        asks_again: float | None = None,
        database: str | None = None,
        query_options: Mapping[str, Any] | None = None,
        parameters: Any = None,
        statement_timeout: float | None = None,
        handler: Callable[[Any], Any] | None = None,
        output: str | None = None,
        on_session: Callable[[Pick, Session], None] | None = None,
        on_statement: Callable[[StatementDone], None] | None = None,
        texts: Sequence[str] | None = None,
        let_go_after: float | None = None,
        keep_last: bool = False,
        finishes: bool = True,
        logger: Logger | None = None,
    ) -> None:
        self._balancer = balancer
        self._log = logger or getLogger(__name__)
        self._script = Script(
            statements,
            # Bound before anything is sent: a parameter that is missing in statement 9 must not leave 8 behind.
            texts or [bind(statement.sql, parameters, line=statement.line) for statement in statements],
            tags=tags or {},
            database=database,
            options=query_options,
            handler=handler,
            on_session=on_session,
            on_statement=on_statement,
            statement_timeout=statement_timeout,
            publish=publish,
            output=output,
            logger=self._log,
        )
        self._owner = owner
        self._session_key = session_key
        self._prefer = balancer.known(prefer) if prefer else None
        self._on_unavailable = on_unavailable
        self._before = [upstream or Upstream(host=self._prefer)] if self._prefer else []
        """What whoever runs this script on another node must have heard of first."""
        self._restartable, self._resume = restartable, resume
        self._settles = settles and bool(owner)
        self._journal: Journal | None = None
        if journals is not None and owner:
            self._journal = Journal(
                journals,
                owner,
                self._script.texts,
                by=f"try {tags['try']}" if tags and tags.get("try") else "",
                patience=balancer.config.session.reconnect_timeout,
                pause=self._sleep,
            )
        elif resume:
            raise ConfigError(
                "resume: needs an owner, and a place that all hosts share for the journal: a lock_file or a store"
            )
        self._first = first
        self._let_go_after, self._keep_last, self._finishes = let_go_after, keep_last, finishes
        self._started, self._leave, self._key = time.monotonic(), False, ""
        self._superseded = False
        self._claim = ""  # the id of the first lease, until it is taken
        self._line: dict[str, Any] = {"wait": wait, "ticket": ticket, "asks_again": asks_again}
        self._moving: str | None = None
        self._so_far = "nothing was run"
        self._done = ScriptDone("", "", "", [], 0.0)
        self._execution: Execution | None = None
        self._cancelled: str | None = None

    def cancel(self, why: str) -> None:
        """Stop the run: what runs on the coordinator is cancelled within 4 s, and :meth:`run` raises. Never raises."""
        self._cancelled = why
        execution = self._execution
        if execution is not None:
            execution.cancel(why)

    def kill(self, why: str) -> None:
        """As :meth:`cancel`, for a user's word on the task, which may come late: unless another process has taken the
        script over. What runs is its own then. Asks the journal, so it may take longer."""
        if self._journal is not None and self._journal.epoch:
            try:
                self._journal.check_mine()
            except Superseded as superseded:
                self._log.warning("%s", superseded)
                self._superseded = True
                return
        self.cancel(why)

    @property
    def epoch(self) -> int:
        """In the journal, of this process; 0 without one."""
        return self._journal.epoch if self._journal is not None else 0

    def leave(self) -> None:
        """From another thread: let go of the script as soon as may be, for another process to :meth:`go_on`."""
        self._leave = True

    def run(self) -> ScriptDone:
        """Run the script to its end.

        :raises Deferred: with ``let_go_after``, or after :meth:`leave`: it goes on on its coordinator.

        :raises NoNodeAvailable: no node took it; the error says why for each, and what was run before, if any.
        :raises StillRunning: what an earlier try left running could not be seen to end; nothing was run.
        :raises Superseded: a later try has taken over; nothing more was run.
        :raises JournalMissing, JournalDamaged: which statements have run is not known.
        :raises StatementFailed: which statement, where, whether it ran, and what is done.
        :raises ConfigError: the login was refused.
        """
        if self._let_go_after is not None:
            self._key = new_key()
        try:
            prefer = self._begin() or self._prefer
            return self._run_somewhere(prefer, {})
        finally:
            if self._claim:
                self._balancer.give_back(self._claim)

    def go_on(self, handover: Handover) -> ScriptDone:
        """Run what is left of a script that another process has let go of. Errors as :meth:`run`."""
        assert self._journal is not None
        try:
            return self._go_on(handover)
        except (StatementFailed, NoNodeAvailable):
            if self._cancelled is None:
                self._journal.check_mine()  # our failure would be the task's, and our successor runs it
            raise

    def _go_on(self, handover: Handover) -> ScriptDone:
        assert self._journal is not None
        self._key = handover.key
        record, clean = self._journal.take(handover.epoch)
        self._done.seconds = handover.seconds
        try:
            with self._balancer.adopt(handover.lease, on_lost=self._told_of_successor) as pick:
                try:
                    if not clean:
                        self._log.warning(
                            "%s: another process had gone on with it, and is gone or stopped", self._owner
                        )
                    begin = take_over(
                        self._balancer,
                        self._journal,
                        self._script,
                        handover,
                        record,
                        clean=clean,
                        pause=self._sleep,
                        log=self._log,
                    )
                    self._note_done_before(record.done, record)
                    if record.done:
                        self._before.append(left_by(self._balancer, self._script, record.done, handover.node))
                    return self._run_on(pick, begin)
                except NodeRefused as error:
                    if not (self._resume or self._restartable or self._done_nothing()):
                        raise self._cannot_go_on(pick.node, str(error)) from error
                    self._say_refused(pick.node, str(error))
                    if self._begins_anew:
                        self._begin_anew()
                    left_out = {pick.node: str(error)}
                except _Moved as error:
                    self._note_moved(pick.node, error)
                    left_out = {pick.node: str(error)}
        except ConfigError as error:
            raise ConfigError(f"{error}; {self._so_far}") from error
        return self._run_somewhere(None, left_out)

    def _run_somewhere(self, prefer: str | None, left_out: dict[str, str]) -> ScriptDone:
        on_unavailable = self._on_unavailable if prefer == self._prefer else "move"
        wait_until = time.monotonic() + self._balancer.config.session.reconnect_timeout
        while True:
            self._check_cancelled()
            with self._acquire(prefer, left_out) as pick:
                if prefer is None or pick.node == prefer:
                    node = pick.node
                    try:
                        return self._run_on(pick)
                    except NodeRefused as error:
                        why = str(error)
                        pick.refused(error.cause, why)
                        self._say_refused(node, why)
                        if self._begins_anew:
                            self._begin_anew()
                    except _Moved as error:
                        self._note_moved(node, error)
                        prefer, left_out[node] = None, str(error)
                        continue
                else:  # the balancer knows already that it takes no new work
                    node, why = prefer, pick.left_out.get(prefer, "it takes no new work")
                    self._say_refused(node, why)
            if node == prefer:
                if on_unavailable == "fail":
                    raise NoNodeAvailable(
                        f"The host to stick to cannot take the script, and on_unavailable is 'fail'; {self._so_far}",
                        {node: why},
                    )
                if on_unavailable == "wait":
                    self._wait_for(node, why, wait_until)
                    continue
                prefer = None
            left_out[node] = why

    def _begin(self) -> str | None:
        """Settle what an earlier try left, and find where to go on. Returns the node that it had come to, if any."""
        orphans = {}
        if self._settles:
            claim = new_id()
            orphans = self._balancer.take_over(self._owner, claim)
            self._claim = claim
        record = None
        if self._journal is not None:
            first = self._first if self._first is not None else True
            may_lose = self._journal.durability()
            if may_lose:
                self._log.warning("%s", may_lose)
            record, said = self._journal.begin(resume=self._resume, first=first)
            if said:
                self._log.warning("%s: %s", self._owner, said)
            if record.intent is not None:
                record.done = settle_intent(
                    self._balancer, self._journal, record, self._script, pause=self._sleep, log=self._log
                )
        if orphans:
            settle(self._balancer, self._owner, orphans, self._sleep, self._log)
        if record is None or not record.done:
            return None
        done = self._script.first_to_run(record.done)
        self._note_done_before(done, record)
        self._done.resumed = done
        self._log.info(
            "Going on at statement %d of %d: the ones before are done (%s)", done + 1, len(self._script), record.node
        )
        if not record.node or record.node not in self._balancer.config.order:
            return None
        self._before.append(left_by(self._balancer, self._script, done, record.node))
        return record.node

    def _note_done_before(self, done: int, record: Record) -> None:
        """Another process has done so many statements."""
        if not done:
            return
        self._done.statements = statements_before(self._script, record, done)
        if self._script.handler:
            self._done.results, self._done.descriptions = [None] * done, [None] * done
        self._so_far = f"{done} of {len(self._script)} statements were done before"

    def _done_nothing(self) -> bool:
        return all(session_only(text) for text in self._script.texts[: len(self._done.statements)])

    def _cannot_go_on(self, node: str, why: str) -> StatementFailed:
        number = len(self._done.statements) + 1
        statement = self._script.statements[number - 1]
        return StatementFailed(
            f"its session is gone, and no new one can be had: {why}",
            number=number,
            total=len(self._script),
            line=statement.line,
            node=node,
            query_id=None,
            outcome="not started",
            sql=excerpt(statement.sql),
        )

    def _let_go(self) -> bool:
        if self._superseded:
            raise Superseded(f"Another try of {self._owner} has taken over: this one runs nothing more")
        if self._journal is None or not self._key or self._cancelled is not None:
            return False
        late = self._let_go_after is not None and time.monotonic() - self._started >= self._let_go_after
        return self._leave or late

    def _handed_over(self, pick: Pick, execution: Execution) -> Deferred | None:
        """Leave the session to whoever goes on. None: it would not be there any more."""
        session = execution.session
        if session is None:  # between two nodes
            return None
        if self._let_go_after is not None and not session.outlives_connections():
            self._log.warning(
                "%s ends a session with its connection, so nobody else could go on with the script: it runs here",
                pick.node,
            )
            self._let_go_after = None
            return None
        try:
            lease = pick.hand_over()
        except Superseded:
            session.detach()
            raise
        assert lease is not None and self._journal is not None
        guid, secret = session.handle
        under_way = execution.submitted
        handover = Handover(
            node=pick.node,
            why=self._done.why,
            guid=guid.hex(),
            secret=secret.hex(),
            epoch=self._journal.epoch,
            lease=lease,
            key=self._key,
            query=(session.query_id or "") if under_way is not None else "",
            submitted=time.time() - (time.monotonic() - under_way) if under_way is not None else 0.0,
            seconds=self._done.seconds,
        )
        session.detach()
        return Deferred(handover, finished=session.has_ended)

    def _acquire(self, prefer: str | None, left_out: Mapping[str, str]) -> Pick:
        self._moving = None
        try:
            pick = self._balancer.acquire(
                self._owner,
                session_key=self._session_key,
                prefer=prefer,
                exclude=left_out,
                on_move=self._told_to_move if self._restartable or self._resume else None,
                on_overload=self._told_of_overload,
                on_lost=self._told_of_successor,
                while_waiting=self._check_cancelled,
                lease_id=self._claim,
                **self._line,
            )
            self._claim = ""
        except NoNodeAvailable as error:
            self._check_cancelled()
            raise NoNodeAvailable(f"{error.summary}; {self._so_far}", error.reasons) from None
        self._log.info("Picked %s (%s)", pick.node, pick.why)
        return pick

    def _run_on(self, pick: Pick, begin: Callable[[Execution], None] | None = None) -> ScriptDone:
        """:param begin: puts it where it goes on."""
        done = self._done
        done.node, done.why = pick.node, pick.why
        execution = Execution(
            self._balancer,
            self._script,
            pick,
            done,
            journal=self._journal,
            elsewhere=self._resume or self._restartable,
            prepare=self._cross,
            let_go=self._let_go,
            key=self._key,
            keep_last=self._keep_last,
        )
        if begin is not None:
            begin(execution)
        self._execution = execution
        try:
            if self._cancelled is not None:
                execution.cancel(self._cancelled)  # what runs in a session that was taken over
                execution.close()
            self._check_cancelled()
            if self._moving:
                raise _Moved(self._moving, len(done.statements))
            self._run_or_hand_over(pick, execution)
            if self._finishes:
                self.finish()
            # The next script may build on what was there before this one, too. All that had ended when this one began:
            # no clock of another host is asked.
            if time.monotonic() - self._started < MOVE_SECONDS:
                done.left = done.left.after(self._before)
            return done
        except Superseded:
            pick.forget()
            raise
        except (StatementFailed, Cancelled) as error:
            session = execution.last
            interrupted = isinstance(error, Cancelled) or isinstance(error.__cause__, Cancelled)
            ended = session is None or execution.between or (interrupted and session.wait_ended())
            if self._moving and self._cancelled is None and interrupted and ended:
                raise _Moved(self._moving, len(done.statements), execution.touched()) from None
            if isinstance(error, Cancelled):
                self._check_cancelled()
            raise
        finally:
            self._execution = None
            if done.left.host == pick.node:  # something was run here
                self._before = [each for each in self._before if each.host != pick.node] + [done.left]
            if self._resume and done.statements:
                self._so_far = f"{len(done.statements)} of {len(self._script)} statements are done"
            if self._session_key:
                data = execution.data
                self._balancer.sessions.remember(self._session_key, pick.node, data.database, data.options)

    @property
    def _begins_anew(self) -> bool:
        """Where it leaves a node it begins anew on the next one, rather than go on there."""
        return not self._resume

    def _begin_anew(self) -> None:
        self._done = ScriptDone("", "", "", [], self._done.seconds)
        if self._journal is not None:
            self._journal.restart()

    def _run_or_hand_over(self, pick: Pick, execution: Execution) -> None:
        until = time.monotonic() + self._balancer.config.session.reconnect_timeout
        while True:
            try:
                execution.run()
                return
            except LetGo:
                try:
                    deferred = self._handed_over(pick, execution)
                except StateUnavailable as error:
                    # Nobody could find the lease: let it go on here.
                    if time.monotonic() >= until:
                        execution.close()
                        raise
                    self._log.warning("The script cannot be handed over now: %s", error)
                    self._sleep(1.0)
                    continue
                if deferred is not None:
                    raise deferred from None

    def finish(self) -> None:
        """Note in the journal that the script has come to its end, and what it gave has been taken."""
        if self._journal is not None:
            self._journal.finish()
            if random.random() < _SWEEP_SHARE:
                self._journal.sweep(self._log)

    def _cross(self, session: Session) -> None:
        """Let the node hear of all that this script builds on, before it runs there."""
        for upstream in self._before:
            if upstream.host and upstream.host != session.node.address:
                try:
                    cross(
                        session,
                        upstream,
                        check=self._check_cancelled,
                        sleep=self._sleep,
                        log=self._log,
                        tags=self._script.tags,
                    )
                except StatementError as error:
                    raise refusal(str(error)) from error

    def _say_refused(self, node: str, why: str) -> None:
        done = len(self._done.statements) if self._resume else 0
        if done:
            self._log.warning("%s takes no more of the script after %d statements of it: %s", node, done, why)
        else:
            self._log.warning("%s cannot take the script, nothing of it was run there: %s", node, why)

    def _note_moved(self, node: str, moved: _Moved) -> None:
        """What ran on ``node`` was interrupted, and has ended."""
        self._so_far = (
            f"before that it was interrupted on {node}, where {moved.done} of its {len(self._script)} "
            "statements were done and the next one was seen to end"
        )
        goes_on = "begins anew" if self._begins_anew else "goes on"
        self._log.warning("%s: what ran there has ended, the script %s elsewhere", moved, goes_on)
        if moved.left is not None:
            self._before = [each for each in self._before if each.host != node] + [moved.left]
        if self._begins_anew:
            self._begin_anew()

    def _told_to_move(self, why: str) -> None:
        """By the thread that renews the lease. The script's own thread then hears of it from its session."""
        self._moving = why
        execution = self._execution
        if execution is not None:
            execution.move(why, anew=self._begins_anew)

    def _told_of_successor(self) -> None:
        """The script's own thread hears of it at its next poll. What runs is the successor's to wait for, or to end."""
        self._superseded = True

    def _told_of_overload(self, why: str) -> None:
        self._log.warning("The node is overloaded, and the script finishes there all the same (%s)", why)

    def _wait_for(self, node: str, why: str, wait_until: float) -> None:
        if time.monotonic() >= wait_until:
            raise NoNodeAvailable(
                "The host to stick to did not take the script within "
                f"{self._balancer.config.session.reconnect_timeout:g} s (session.reconnect_timeout); {self._so_far}",
                {node: why},
            )
        self._sleep(_RETRY_SECONDS)

    def _sleep(self, seconds: float) -> None:
        end = time.monotonic() + seconds
        while (left := end - time.monotonic()) > 0:
            self._check_cancelled()
            time.sleep(min(left, 0.2))

    def _check_cancelled(self) -> None:
        if self._cancelled is not None:
            raise NoNodeAvailable(f"cancelled before the script began ({self._cancelled}); {self._so_far}")
