"""Run a whole script on one coordinator, in one session, on a node that takes it."""

from __future__ import annotations

import random
import time
from collections.abc import Callable, Mapping
from contextlib import suppress
from typing import TYPE_CHECKING

from airflow_provider_impala_lb.core.cluster.cluster import Cluster
from airflow_provider_impala_lb.core.cluster.lease_options import LeaseListener, LeaseOptions, QueueOptions
from airflow_provider_impala_lb.core.cluster.pick import Pick
from airflow_provider_impala_lb.core.cluster.picker import new_id
from airflow_provider_impala_lb.core.stop_request import Cancelled, HandedOver
from airflow_provider_impala_lb.errors import (
    ConfigError,
    ImpalaLBError,
    NoNodeAvailable,
    StatementFailed,
    StateUnavailable,
    Superseded,
)
from airflow_provider_impala_lb.impala.hs2.connection_failure import NodeRefused, refusal
from airflow_provider_impala_lb.impala.hs2.ids import StatementError
from airflow_provider_impala_lb.impala.hs2.refusals import Refusals
from airflow_provider_impala_lb.impala.hs2.session import Session
from airflow_provider_impala_lb.impala.script.custody import Custody
from airflow_provider_impala_lb.impala.script.execution import Execution
from airflow_provider_impala_lb.impala.script.handover import Handover, new_key
from airflow_provider_impala_lb.impala.script.journal import Journal
from airflow_provider_impala_lb.impala.script.metadata_sync import MOVE_SECONDS, cross
from airflow_provider_impala_lb.impala.script.options import ProcessOptions, RunIdentity, RunListener
from airflow_provider_impala_lb.impala.script.plan import ScriptDone, ScriptPlan
from airflow_provider_impala_lb.impala.script.progress import Moved, Progress
from airflow_provider_impala_lb.impala.script.resume import left_by, settle_intent, take_over
from airflow_provider_impala_lb.impala.script.settle import settle
from airflow_provider_impala_lb.impala.script.upstream import Upstream

if TYPE_CHECKING:
    from airflow_provider_impala_lb.impala.hs2.session_factory import SessionFactory

_RETRY_SECONDS = 2.0
_SWEEP_SHARE = 0.01
"""Of the scripts that end; each removes the journals that are older than a month."""


class ScriptRun:
    """One run of one script. :meth:`cancel` may be called from a signal handler or another thread.

    :param cluster: picks the node.
    :param sessions: opens the session there.
    :param plan: what is to be run, and how.
    :param identity: who runs it.
    :param listener: whom to tell how it goes.
    :param process: what this process does of it.
    :raises ConfigError: ``prefer`` is not a node of the configuration, or ``resume`` has no owner or no journals.
    """

    def __init__(
        self,
        cluster: Cluster,
        sessions: SessionFactory,
        plan: ScriptPlan,
        identity: RunIdentity,
        listener: RunListener,
        process: ProcessOptions,
    ) -> None:
        options = plan.options
        self._cluster, self._sessions = cluster, sessions
        self._script, self._identity, self._listener, self._process = plan, identity, listener, process
        self._log = listener.logger
        self._owner, self._session_key = identity.owner, options.session_key
        self._prefer = cluster.config.canonical(options.prefer) if options.prefer else None
        before = [options.upstream or Upstream(host=self._prefer)] if self._prefer else []
        self._progress = Progress(plan, listener, before)
        self._refusals = Refusals(cluster.config)
        self._restartable, self._resume = options.restartable, options.resume
        self._journal: Journal | None = None
        if process.journals is not None and identity.owner:
            attempt = identity.tags.get("try")
            self._journal = Journal(
                process.journals,
                identity.owner,
                plan.texts,
                by=f"try {attempt}" if attempt else "",
                attempt=identity.attempt,
                command=process.command,
                patience=cluster.config.session.reconnect_timeout,
                pause=self._sleep,
            )
        elif options.resume:
            raise ConfigError(
                "resume: needs an owner, and a place that all hosts share for the journal: a lock_file or a store"
            )
        self._custody = Custody(identity.owner, process.hand_over_after)
        self._sent_before = 0
        self._claim = ""  # the id of the first lease, until it is taken
        self._moving: str | None = None
        self._handler_error: Exception | None = None
        self._execution: Execution | None = None
        self._cancelled: str | None = None

    def cancel(self, why: str) -> None:
        """Stop the run: what runs on the coordinator is cancelled within 4 s, and :meth:`run` raises. Never raises."""
        self._cancelled = why
        self._custody.keep()
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
                self._custody.lose()
                return
        self.cancel(why)

    @property
    def epoch(self) -> int:
        """In the journal, of this process; 0 without one."""
        return self._journal.epoch if self._journal is not None else 0

    @property
    def node(self) -> str:
        """Where it runs, or ran last: ``host:port``; "" before that."""
        return self._progress.done.node

    @property
    def changes_something(self) -> bool:
        """Whether the script has a statement that may change something."""
        return self._script.changes_something

    def leave(self) -> None:
        """From another thread: let go of the script as soon as may be, for another process to :meth:`go_on`."""
        self._custody.leave()

    def run(self) -> ScriptDone:
        """Run the script to its end.

        :raises Deferred: with ``let_go_after``, or after :meth:`leave`: it goes on on its coordinator.
        :raises NoNodeAvailable: no node took it; the error says why for each, and what was run before, if any.
        :raises StillRunning: what an earlier try left running could not be seen to end; nothing was run.
        :raises Superseded: a later try has taken over; nothing more was run.
        :raises JournalMissing, JournalDamaged: which statements have run is not known.
        :raises StatementFailed: which statement, where, whether it ran, and what is done.
        :raises ConfigError: two coordinators refused the login, or the only one did.
        """
        if self._process.hand_over_after is not None and self._journal is not None:
            self._custody.key = new_key()
        try:
            prefer = self._begin() or self._prefer
            return self._run_somewhere(prefer, {})
        except Exception as error:
            return self._done_before(error)
        finally:
            if self._claim:
                self._cluster.fencing.withdraw(self._claim)

    def go_on(self, handover: Handover) -> ScriptDone:
        """Run what is left of a script that another process has let go of. Errors as :meth:`run`."""
        assert self._journal is not None
        try:
            return self._go_on(handover)
        except Exception as error:
            if isinstance(error, (StatementFailed, NoNodeAvailable)) and self._cancelled is None:
                self._journal.check_mine()  # our failure would be the task's, and our successor runs it
            return self._done_before(error)

    def _done_before(self, error: Exception) -> ScriptDone:
        """The whole script, if it was done before this error: then that undoes nothing. Else the error is raised."""
        done = self._progress.done
        is_done = bool(done.statements) and len(done.statements) == len(self._script)
        if not is_done or error is self._handler_error or isinstance(error, Superseded):
            raise error
        with suppress(Exception):
            self._log.warning("After the end of the script: %s: %s", type(error).__name__, error)
        return done

    def _go_on(self, handover: Handover) -> ScriptDone:
        assert self._journal is not None
        self._custody.key = handover.key
        record, clean = self._journal.take(handover.epoch)
        self._progress.done.seconds = handover.seconds
        try:
            with self._cluster.picker.adopt(handover.lease, LeaseListener(on_fenced=self._custody.lose)) as pick:
                try:
                    if not clean:
                        self._log.warning(
                            "%s: another process had gone on with it, and is gone or stopped", self._owner
                        )
                    begin = take_over(
                        self._sessions,
                        self._journal,
                        self._script,
                        handover,
                        record,
                        clean=clean,
                        pause=self._sleep,
                        log=self._log,
                    )
                    self._progress.go_on_after(record.done, record)
                    if record.done:
                        self._progress.before.append(left_by(self._sessions, self._script, record.done, handover.node))
                    return self._run_on(pick, begin)
                except NodeRefused as error:
                    if not (self._resume or self._restartable or self._progress.nothing_done):
                        raise self._progress.cannot_go_on(pick.node, str(error)) from error
                    self._progress.refused(pick.node, str(error))
                    self._leave_node()
                    left_out = {pick.node: str(error)}
                except Moved as error:
                    self._progress.interrupted(pick.node, error)
                    self._leave_node()
                    left_out = {pick.node: str(error)}
        except ConfigError as error:
            raise ConfigError(f"{error}; {self._progress.so_far}") from error
        return self._run_somewhere(None, left_out)

    def _run_somewhere(self, prefer: str | None, left_out: dict[str, str]) -> ScriptDone:
        on_unavailable = self._script.options.on_unavailable if prefer == self._prefer else "move"
        wait_until = time.monotonic() + self._cluster.config.session.reconnect_timeout
        while True:
            self._check_cancelled()
            with self._acquire(prefer, left_out) as pick:
                if prefer is None or pick.node == prefer:
                    node = pick.node
                    try:
                        return self._run_on(pick)
                    except NodeRefused as error:
                        why = str(error)
                        sticks = node == prefer and on_unavailable != "move"
                        self._refusals.add(pick, error, self._ask if sticks else None)
                        self._progress.refused(node, why)
                        self._leave_node()
                    except Moved as error:
                        self._progress.interrupted(node, error)
                        self._leave_node()
                        prefer, left_out[node] = None, str(error)
                        continue
                else:  # the balancer knows already that it takes no new work
                    node, why = prefer, pick.left_out.get(prefer, "it takes no new work")
                    self._progress.refused(node, why)
            if node == prefer:
                if on_unavailable == "fail":
                    raise NoNodeAvailable(
                        "The host to stick to cannot take the script, and on_unavailable is 'fail'; "
                        f"{self._progress.so_far}",
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
        if self._identity.one_at_a_time and self._owner:
            claim = new_id()
            orphans = self._cluster.fencing.fence_earlier(self._owner, claim, self._identity.attempt)
            self._claim = claim
        record = None
        if self._journal is not None:
            may_lose = self._journal.durability()
            if may_lose:
                self._log.warning("%s", may_lose)
            record, said = self._journal.begin(resume=self._resume)
            if said:
                self._log.warning("%s: %s", self._owner, said)
            if record.intent is not None:
                self._sent_before = record.intent.number  # of no meaning if it turns out to be done
                record.done = settle_intent(
                    self._sessions, self._journal, record, self._script, pause=self._sleep, log=self._log
                )
        if orphans:
            settle(self._cluster, self._sessions, self._owner, orphans, self._sleep, self._log)
        if record is None or not record.done:
            return None
        done = self._script.first_to_run(record.done, wants_rows=self._listener.handler is not None)
        self._progress.go_on_after(done, record)
        self._progress.done.resumed = done
        self._log.info(
            "Going on at statement %d of %d: the ones before are done (%s)", done + 1, len(self._script), record.node
        )
        if not record.node or record.node not in self._cluster.config.order:
            return None
        self._progress.before.append(left_by(self._sessions, self._script, done, record.node))
        return record.node

    def _acquire(self, prefer: str | None, left_out: Mapping[str, str]) -> Pick:
        self._moving = None
        try:
            pick = self._cluster.picker.acquire(
                self._owner,
                self._session_key,
                prefer,
                left_out,
                LeaseOptions(
                    queue=QueueOptions(self._script.options.max_wait, self._process.ticket, self._process.asks_again),
                    listener=LeaseListener(
                        on_move=self._told_to_move if self._restartable or self._resume else None,
                        on_overload=self._told_of_overload,
                        on_fenced=self._custody.lose,
                    ),
                    while_waiting=self._check_cancelled,
                    announced_id=self._claim,
                    attempt=self._identity.attempt,
                ),
            )
            self._claim = ""
        except NoNodeAvailable as error:
            self._check_cancelled()
            raise NoNodeAvailable(f"{error.summary}; {self._progress.so_far}", error.reasons) from None
        with suppress(Exception):  # else the lease would be lost with this line
            self._log.info("Picked %s (%s)", pick.node, pick.why)
        return pick

    def _run_on(self, pick: Pick, begin: Callable[[Execution], None] | None = None) -> ScriptDone:
        """:param begin: puts it where it goes on."""
        done = self._progress.done
        done.node, done.why = pick.node, pick.why
        execution = Execution(
            self._sessions,
            self._script,
            self._identity,
            self._listener,
            pick,
            done,
            journal=self._journal,
            elsewhere=self._resume or self._restartable,
            prepare=self._cross,
            let_go=self._custody.is_over,
            key=self._custody.key,
            keep_last=self._process.hand_over_rows,
            sent_before=self._sent_before,
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
                raise Moved(self._moving, len(done.statements))
            self._run_or_hand_over(pick, execution)
            if self._process.finish_at_end:
                self.finish()
            # The next script may build on what was there before this one, too. All that had ended when this one began:
            # no clock of another host is asked.
            if self._custody.seconds < MOVE_SECONDS:
                done.left = done.left.after(self._progress.before)
            return done
        except Superseded:
            pick.forget()
            raise
        except (StatementFailed, Cancelled) as error:
            session = execution.last
            interrupted = isinstance(error, Cancelled) or isinstance(error.__cause__, Cancelled)
            ended = session is None or execution.between or (interrupted and session.wait_ended())
            if self._moving and self._cancelled is None and interrupted and ended:
                raise Moved(self._moving, len(done.statements), execution.touched()) from None
            if isinstance(error, Cancelled):
                self._check_cancelled()
            raise
        finally:
            self._handler_error, self._execution = execution.handler_error, None
            self._progress.left(pick.node)
            if self._session_key:
                data = execution.data
                self._cluster.session_keys.remember(self._session_key, pick.node, data.database, data.options)

    def _leave_node(self) -> None:
        """What comes next comes on another node: the rest of the script, or all of it once more."""
        if not self._resume:
            self._progress.begin_anew()
            if self._journal is not None:
                self._journal.restart()

    def _run_or_hand_over(self, pick: Pick, execution: Execution) -> None:
        until = time.monotonic() + self._cluster.config.session.reconnect_timeout
        while True:
            try:
                execution.run()
                return
            except HandedOver:
                try:
                    deferred = self._custody.hand_over(execution, pick, self._log, self.epoch)
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
        """Note in the journal that the script has come to its end, and what it gave has been taken. A journal that
        cannot be written is one warning: all statements are in it as done."""
        if self._journal is None:
            return
        try:
            self._journal.finish()
        except ImpalaLBError as error:
            with suppress(Exception):
                self._log.warning(
                    "%s has come to its end, which could not be noted in its journal: %s", self._owner, error
                )
            return
        if random.random() < _SWEEP_SHARE:
            self._journal.sweep(self._log)

    def _ask(self, node: str) -> None:
        """Whether this node takes a session."""
        self._sessions.open(node).close()

    def _cross(self, session: Session) -> None:
        """Let the node hear of all that this script builds on, before it runs there."""
        self._refusals.accepted(session.node.address)
        for upstream in self._progress.before:
            if upstream.host and upstream.host != session.node.address:
                try:
                    cross(
                        session,
                        upstream,
                        check=self._check_cancelled,
                        sleep=self._sleep,
                        log=self._log,
                        tags=self._identity.tags,
                    )
                except StatementError as error:
                    raise refusal(str(error)) from error

    def _told_to_move(self, why: str) -> None:
        """By the thread that renews the lease. The script's own thread then hears of it from its session."""
        self._moving = why
        execution = self._execution
        if execution is not None:
            execution.move(why, anew=not self._resume)

    def _told_of_overload(self, why: str) -> None:
        self._log.warning("The node is overloaded, and the script finishes there all the same (%s)", why)

    def _wait_for(self, node: str, why: str, wait_until: float) -> None:
        if time.monotonic() >= wait_until:
            raise NoNodeAvailable(
                "The host to stick to did not take the script within "
                f"{self._cluster.config.session.reconnect_timeout:g} s (session.reconnect_timeout); "
                f"{self._progress.so_far}",
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
            raise NoNodeAvailable(f"cancelled before the script began ({self._cancelled}); {self._progress.so_far}")
