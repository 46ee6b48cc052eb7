"""Run a whole script on one coordinator, in one session, on a node that takes it, and on the next where it moves."""

from __future__ import annotations

import time
from collections.abc import Mapping
from contextlib import suppress

from airflow_provider_impala_lb.core.cluster.cluster import Cluster
from airflow_provider_impala_lb.core.cluster.lease_options import LeaseListener, LeaseOptions, QueueOptions
from airflow_provider_impala_lb.core.cluster.pick import Pick
from airflow_provider_impala_lb.core.stop_request import Cancelled, HandedOver, StopRequest
from airflow_provider_impala_lb.core.timing import Deadline
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
from airflow_provider_impala_lb.impala.hs2.session_factory import SessionFactory
from airflow_provider_impala_lb.impala.journal.document import Record
from airflow_provider_impala_lb.impala.journal.identity import RunIdentity
from airflow_provider_impala_lb.impala.journal.journal import Journal, Patience
from airflow_provider_impala_lb.impala.journal.sweeping import sweep
from airflow_provider_impala_lb.impala.previous.previous_attempts import PreviousAttempts, done_before
from airflow_provider_impala_lb.impala.script.execution import Execution
from airflow_provider_impala_lb.impala.script.handover import Deferral, ResumedSession, TimeLimit
from airflow_provider_impala_lb.impala.script.handover_message import Handover
from airflow_provider_impala_lb.impala.script.metadata_sync import MOVE_SECONDS, make_visible
from airflow_provider_impala_lb.impala.script.options import ProcessOptions, RunListener
from airflow_provider_impala_lb.impala.script.plan import ScriptPlan
from airflow_provider_impala_lb.impala.script.record import Moved, ScriptDone, ScriptRecord, left_by
from airflow_provider_impala_lb.impala.script.upstream import Upstream

_RETRY_SECONDS = 2.0  # between two attempts at a sticky host that takes no session (``on_unavailable="wait"``)
_HAND_OVER_PAUSE = 1.0  # between two attempts to hand over while the shared state is out of reach
_LOOK_SECONDS = 0.2
_SESSION_PATIENCE = 5.0  # for noting a session: without it the next attempt has to look on the coordinators' pages


class ScriptRun:
    """One run of one script.

    :meth:`cancel`, :meth:`kill` and :meth:`hand_over` may be called from another thread, :meth:`cancel` also from a
    signal handler.

    :param cluster: picks the node.
    :param sessions: opens the session there.
    :param plan: what is to be run, and how.
    :param identity: who runs it.
    :param listener: whom to tell how it goes.
    :param process: what this process does of it.
    :raises ConfigError: ``prefer`` is not a node of the configuration, or ``resume`` has no owner or no journals.
    :ivar plan: as given.
    :ivar journal: where it is kept what this attempt begins; None: nowhere.
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
        identity = identity.completed(cluster.config, options.database)
        self._cluster, self._sessions, self.plan = cluster, sessions, plan
        self._identity, self._listener, self._process = identity, listener, process
        self._log = listener.logger
        self._prefer = cluster.config.canonical(options.prefer) if options.prefer else None
        self.journal: Journal | None = None
        if process.journals is not None and identity.owner:
            patience = cluster.config.session.reconnect_timeout
            self.journal = Journal(
                process.journals,
                identity,
                plan.texts,
                outcomes=process.outcomes,
                command=process.command,
                patience=Patience(patience if process.outcomes else min(patience, _SESSION_PATIENCE), self._pause),
            )
        if options.resume and (self.journal is None or not process.outcomes):
            raise ConfigError(
                "resume: needs an owner, and a place that all hosts share for the journal: a lock_file or a store"
            )
        before = [options.upstream or Upstream(host=self._prefer)] if self._prefer else []
        self._record = ScriptRecord(plan, identity, listener, self.journal, before)
        self._stop = StopRequest()
        self._deferral = Deferral(self._stop, process, self._log)
        self._time_limit = TimeLimit(process.time_limit, self.cancel)
        self._refusals = Refusals(cluster.config)
        script = list(zip(plan.statements, plan.classified, strict=True))
        self._previous = PreviousAttempts(cluster, sessions, identity, script, self._pause, self._log)
        self._ticket = cluster.config.owner_of(process.ticket) if process.ticket else None
        self._announced_id = ""  # of the first lease, until it is taken
        self._execution: Execution | None = None
        self._is_prepared = False  # the node of this moment

    def cancel(self, reason: str) -> None:
        """Stop the run: what runs on the coordinator is cancelled within 4 s, and :meth:`run` raises. Never raises.

        :param reason: for the error's text; the first one counts.
        """
        execution = self._execution
        if execution is None or not execution.end_now(lambda: self._stop.cancel(reason)):
            self._stop.cancel(reason)
            execution = self._execution
            if execution is not None:
                execution.end_now()  # a session that was opened in between

    def kill(self, reason: str) -> None:
        """As :meth:`cancel`, for a user's word on the task, which may come late: unless another process has taken the
        script over. What runs is its own then. Asks the journal, so it may take longer.

        :param reason: for the error's text.
        """
        if self.journal is not None and self.journal.epoch:
            try:
                self.journal.check_mine()
            except Superseded as superseded:
                self._log.warning("%s", superseded)
                self._stop.fence(str(superseded))
                return
        self.cancel(reason)

    def hand_over(self) -> None:
        """Leave the script to another process as soon as may be, for that to :meth:`go_on`."""
        self._stop.hand_over()

    # What it is, and how far

    @property
    def epoch(self) -> int:
        """In the journal, of this process; 0 without one."""
        return self.journal.epoch if self.journal is not None else 0

    def keep_text(self, packed: str) -> None:
        """Keep the script, sealed, for the worker that takes its rows: with an event it could be read by anybody.

        :param packed: by `pack_script`.
        :raises StateUnavailable: the journal cannot be written.
        :raises ConfigError: it has no room for it.
        """
        assert self.journal is not None
        self.journal.keep_text(self._sessions.sealer.seal(packed.encode()))

    @property
    def node(self) -> str:
        """Where it runs, or ran last: ``host:port``; "" before that."""
        return self._record.done.node

    def run(self) -> ScriptDone:
        """Run the script to its end.

        :raises Deferred: with ``hand_over_after``, or after :meth:`hand_over`: it goes on on its coordinator.
        :raises NoNodeAvailable: no node took it; the error says why for each, and what was run before, if any.
        :raises StillRunning: what an earlier attempt left running could not be seen to end; nothing was run.
        :raises Superseded: a later attempt has taken over; nothing more was run.
        :raises JournalMissing: which statements have run is not known.
        :raises JournalDamaged: which statements have run is not known.
        :raises StatementFailed: which statement, where, whether it ran, and what is done.
        :raises ConfigError: two coordinators refused the login, or the only one did.
        """
        self._deferral.allowed = self._process.hand_over_after is not None and self._record.journal is not None
        try:
            prefer = self._begin() or self._prefer
            return self._run_somewhere(prefer, {})
        except Exception as error:
            return self._done_before(error)
        finally:
            if self._announced_id:
                self._cluster.fencing.withdraw(self._announced_id)

    def go_on(self, handover: Handover) -> ScriptDone:
        """Run what remains of a script that another process has handed over. Errors as :meth:`run`.

        :param handover: of that process.
        """
        assert self.journal is not None
        self._time_limit.begin(handover.seconds)  # more is known once the store's clock is
        try:
            return self._go_on(self.journal, handover)
        except Exception as error:
            if isinstance(error, (StatementFailed, NoNodeAvailable)) and self._stop.cancelled is None:
                self.journal.check_mine()  # our failure would be the task's, and our successor runs it
            return self._done_before(error)
        finally:
            self._time_limit.end()

    def finish(self) -> None:
        """Note in the journal that what the script gave has been taken. Never raises: it has all statements as done."""
        if self.journal is None:
            return
        try:
            self.journal.finish()
        except ImpalaLBError as error:
            text = "%s has come to its end, which could not be noted in its journal: %s"
            with suppress(Exception):
                self._log.warning(text, self._identity.owner, error)
            return
        sweep(self._process.journals, self._log)

    def _done_before(self, error: Exception) -> ScriptDone:
        """The whole script, if it was done before this error: then that undoes nothing. Else the error is raised."""
        if self._record.memory is not None and self._process.asks_again is None:  # else it comes back, as this attempt
            self._record.memory.none_open()
        if not self._record.is_whole or error is self._record.handler_error or isinstance(error, Superseded):
            raise error
        with suppress(Exception):
            self._log.warning("After the end of the script: %s: %s", type(error).__name__, error)
        return self._record.done

    def _begin(self) -> str | None:
        """See to what an earlier attempt left, and where to go on. Returns the node that it had come to, if any."""
        alone, begun = bool(self._identity.one_at_a_time and self._identity.owner), None
        if alone:
            self._announced_id = self._previous.fence()
        if self.journal is not None:
            begun = self._previous.begin(self.journal, resume=self.plan.options.resume)
            if begun is None:
                self.journal = self._record.memory = None
            elif begun.record.intent is not None:
                self._record.sent_before = begun.record.intent.number  # of no meaning if it turns out to be done
        if alone:
            self._previous.end(self.journal, begun)
        if (record := done_before(begun)) is None:
            return None
        wants_rows = self._listener.handler is not None or self.plan.output_number == len(self.plan)
        done = self.plan.first_to_run(record.done, wants_rows=wants_rows)
        self._record.continue_after(done, record)
        self._record.done.resumed = done
        self._log.info(
            "Going on at statement %d of %d: the ones before are done (%s)", done + 1, len(self.plan), record.node
        )
        if not record.node or record.node not in self._cluster.config.order:
            return None
        self._record.before.append(left_by(self.plan, done, record.node, self._sessions.config.session.database))
        return record.node

    def _go_on(self, journal: Journal, handover: Handover) -> ScriptDone:
        self._deferral.allowed = True
        record, clean = journal.take(handover.epoch)
        self._record.done.seconds = handover.seconds_until(record.at)
        self._time_limit.begin(self._record.done.seconds)
        if clean and handover.unpublished is not None:
            self._record.published_before = record.done, handover.unpublished
        try:
            listener = LeaseListener(on_fenced=self._on_fenced, on_left=self._previous.late.found)
            with self._cluster.picker.adopt(handover.lease, listener) as pick:
                try:
                    if not clean:
                        self._log.warning(
                            "%s: another process had gone on with it, and is gone or stopped", self._identity.owner
                        )
                    try:
                        resumed = self._deferral.resume_session(
                            self._sessions, journal, self._previous.in_doubt, handover, record, clean=clean
                        )
                    except NodeRefused:
                        self._continue(record, handover.node)  # what is done is done, wherever the rest may go
                        raise
                    if resumed is None:
                        self._previous.close(journal, record)
                    self._continue(record, handover.node, under_way=resumed is not None and bool(resumed.query_id))
                    return self._run_on(pick, resumed, why=handover.why)
                except NodeRefused as error:
                    options = self.plan.options
                    if not (options.resume or options.restartable or self._record.nothing_done):
                        raise self._record.cannot_go_on(pick.node, str(error)) from error
                    self._record.refused(pick.node, str(error))
                    self._record.leave_node()
                    left_out = {pick.node: str(error)}
                except Moved as error:
                    self._record.interrupted(pick.node, error)
                    self._record.leave_node()
                    left_out = {pick.node: str(error)}
        except ConfigError as error:
            raise self._record.out_of_reach(record, str(error)) from error
        return self._run_somewhere(None, left_out)

    def _continue(self, record: Record, node: str, *, under_way: bool = False) -> None:
        """Go on after what the processes before have done.

        :param record: what the journal says.
        :param node: where they have handed over.
        :param under_way: the statement after that is: its rows are the ones that are wanted, and no earlier ones.
        """
        wants_rows = self._listener.handler is not None or self._process.hand_over_rows
        wants_rows = wants_rows or self.plan.output_number == len(self.plan)
        done = record.done if under_way else self.plan.first_to_run(record.done, wants_rows=wants_rows)
        self._record.continue_after(done, record)
        if done:
            self._record.before.append(left_by(self.plan, done, node, self._sessions.config.session.database))

    def _run_somewhere(self, prefer: str | None, left_out: dict[str, str]) -> ScriptDone:
        on_unavailable = self.plan.options.on_unavailable if prefer == self._prefer else "move"
        deadline = Deadline(self._cluster.config.session.reconnect_timeout)
        while True:
            self._check_cancelled()
            with self._acquire(prefer, left_out) as pick:
                if prefer is None or pick.node == prefer:
                    node = pick.node
                    try:
                        return self._run_on(pick)
                    except NodeRefused as error:
                        reason = str(error)
                        sticks = node == prefer and on_unavailable != "move"
                        self._refusals.add(
                            pick, error, (lambda node: self._sessions.open(node).close()) if sticks else None
                        )
                        self._record.refused(node, reason)
                        self._record.leave_node()
                    except Moved as error:
                        self._record.interrupted(node, error)
                        self._record.leave_node()
                        prefer, left_out[node] = None, str(error)
                        continue
                else:  # the balancer knows already that it takes no new work
                    node, reason = prefer, pick.left_out.get(prefer, "it takes no new work")
                    self._record.refused(node, reason)
            if node == prefer:
                if on_unavailable == "fail":
                    raise NoNodeAvailable(
                        "The host to stick to cannot take the script, and on_unavailable is 'fail'; "
                        f"{self._record.so_far}",
                        {node: reason},
                    )
                if on_unavailable == "wait":
                    self._wait_for(node, reason, deadline)
                    continue
                prefer = None
            left_out[node] = reason

    def _acquire(self, prefer: str | None, left_out: Mapping[str, str]) -> Pick:
        options = self.plan.options
        self._stop.moved()
        try:
            pick = self._cluster.picker.acquire(
                self._identity.owner,
                options.session_key,
                prefer,
                left_out,
                LeaseOptions(
                    queue=QueueOptions(options.max_wait, self._ticket, self._process.asks_again),
                    listener=LeaseListener(
                        on_move=self._on_move if options.restartable or options.resume else None,
                        on_overload=self._on_overload,
                        on_fenced=self._on_fenced,
                        on_left=self._previous.late.found,
                    ),
                    while_waiting=self._check_cancelled,
                    announced_id=self._announced_id,
                    attempt=self._identity.attempt,
                ),
            )
            self._announced_id = ""
        except NoNodeAvailable as error:
            self._check_cancelled()
            raise NoNodeAvailable(f"{error.summary}; {self._record.so_far}", error.reasons) from None
        with suppress(Exception):  # else the lease would be lost with this line
            self._log.info("Picked %s (%s)", pick.node, pick.why)
        return pick

    def _run_on(self, pick: Pick, resumed: ResumedSession | None = None, why: str = "") -> ScriptDone:
        """Run what remains on this node.

        :param resumed: the session there to go on in; None: a new one.
        :param why: what spoke for this node; "": as the pick says.
        """
        done = self._record.done
        done.why = why or pick.why
        execution = Execution(self._sessions, pick, self._record, self._stop, self._deferral, self._prepare)
        self._is_prepared = resumed is not None
        if resumed is not None:
            execution.resume(resumed)
        self._execution = execution
        try:
            if self._stop.cancelled is not None:
                execution.end_now()  # what runs in a session that was taken over
                execution.close()
            self._check_cancelled()
            if self._stop.move_reason:
                raise Moved(self._stop.move_reason, len(done.statements))
            self._run_or_hand_over(pick, execution)
            if self._process.finish_at_end:
                self.finish()
            # The next script may build on what was there before this one, too. All that had ended when this one began:
            # no clock of another host is asked.
            if self._deferral.seconds < MOVE_SECONDS:
                done.left = done.left.after(self._record.before)
            return done
        except Superseded:
            pick.forget()
            if execution.session is not None:  # as Execution.run does: it is somebody else's now
                execution.session.detach()
            raise
        except (StatementFailed, Cancelled) as error:
            moving = self._stop.move_reason if self._stop.cancelled is None else None
            interrupted = isinstance(error, Cancelled) or isinstance(error.__cause__, Cancelled)
            if moving and interrupted and not execution.left_running and self._record.may_repeat(error):
                touched = self._record.touched(under_way=not execution.between)
                raise Moved(moving, len(done.statements), touched) from None
            if isinstance(error, Cancelled):
                self._check_cancelled()
            raise
        finally:
            self._execution = None
            if execution.left_running:
                self._log.warning("What ran on %s was not seen to end: the next attempt sees to it first", pick.node)
                pick.release(left_running=True)
            self._record.left_node(pick.node)
            if key := self.plan.options.session_key:
                data = self._record.data
                self._cluster.session_keys.remember(key, pick.node, data.database, data.options)

    def _run_or_hand_over(self, pick: Pick, execution: Execution) -> None:
        deadline = Deadline(self._cluster.config.session.reconnect_timeout)
        while True:
            try:
                execution.run()
                self._previous.end_last(pick)
                return
            except HandedOver:
                try:
                    deferred = self._deferral.hand_over(
                        execution.session,
                        pick,
                        self._record.done,
                        self.epoch,
                        self._record.unpublished,
                        under_way=not execution.between,
                    )
                except StateUnavailable as error:
                    # Nobody could find the lease: let it go on here.
                    if deadline.passed():
                        raise execution.cut_off(error) from error
                    self._log.warning("The script cannot be handed over now: %s", error)
                    self._pause(_HAND_OVER_PAUSE)
                    continue
                if deferred is not None:
                    raise deferred from None

    def _prepare(self, session: Session) -> None:
        """End what was found only now of earlier attempts; and let the node hear of all that this script builds on."""
        self._previous.end_late(self._stop.sleep)
        self._stop.check_fenced()
        if self._is_prepared:
            return
        self._refusals.accepted(session.node.address)
        check, tags = self._check_cancelled, self._identity.tags
        for upstream in self._record.before:
            if upstream.host and upstream.host != session.node.address:
                try:
                    make_visible(session, upstream, check=check, sleep=self._pause, log=self._log, tags=tags)
                except StatementError as error:
                    raise refusal(str(error)) from error
        self._is_prepared = True

    def _wait_for(self, node: str, reason: str, deadline: Deadline) -> None:
        if deadline.passed():
            raise NoNodeAvailable(
                "The host to stick to did not take the script within "
                f"{self._cluster.config.session.reconnect_timeout:g} s (session.reconnect_timeout); "
                f"{self._record.so_far}",
                {node: reason},
            )
        self._pause(_RETRY_SECONDS)

    def _pause(self, seconds: float) -> None:
        deadline = Deadline(seconds)
        while remaining := deadline.remaining:
            self._check_cancelled()
            time.sleep(min(remaining, _LOOK_SECONDS))

    def _check_cancelled(self) -> None:
        reason = self._stop.cancelled
        if reason is not None:
            raise NoNodeAvailable(f"cancelled before the script began ({reason}); {self._record.so_far}")

    def _on_move(self, reason: str) -> None:
        """The script's own thread hears of it from its session."""
        execution = self._execution
        if execution is not None:
            execution.move(reason, anew=not self.plan.options.resume)
        else:
            self._stop.move(reason, interrupt=False)

    def _on_overload(self, reason: str) -> None:
        self._log.warning("The node is overloaded, and the script finishes there all the same (%s)", reason)

    def _on_fenced(self) -> None:
        self._stop.fence(f"Another attempt of {self._identity.owner} has taken over: this one runs nothing more")
