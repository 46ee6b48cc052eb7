"""Run a whole script on one coordinator, in one session, on a node that takes it."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping, Sequence
from logging import Logger, getLogger
from typing import TYPE_CHECKING, Any, Literal

from airflow_provider_impala_lb.core.picker import Pick
from airflow_provider_impala_lb.errors import NoNodeAvailable, StatementFailed
from airflow_provider_impala_lb.impala.connection import bind
from airflow_provider_impala_lb.impala.errors import Cancelled
from airflow_provider_impala_lb.impala.execution import Execution, Script, ScriptDone, StatementDone
from airflow_provider_impala_lb.impala.script import Statement
from airflow_provider_impala_lb.impala.session import Session
from airflow_provider_impala_lb.impala.settle import settle
from airflow_provider_impala_lb.impala.transport import NodeRefused

if TYPE_CHECKING:
    from airflow_provider_impala_lb.balancer import Balancer

OnUnavailable = Literal["move", "wait", "fail"]

MOVE_SECONDS = 10.0
"""A sticky script moves no sooner than this after its upstream's end. Metadata reach the other coordinators within
about 2 to 6 s (two statestore rounds at the catalog, one to the coordinator); earlier, rows are silently missing."""
_RETRY_SECONDS = 2.0


class _Moved(Exception):
    """The node is overloaded, what ran there was seen to end, and the script begins anew elsewhere.

    :ivar done: so many statements were done. :ivar touched: they, or the one that was interrupted, may have changed
        something that other coordinators have yet to hear of.
    """

    def __init__(self, why: str, done: int, touched: bool) -> None:
        super().__init__(why)
        self.done, self.touched = done, touched


class ScriptRun:
    """One run of one script. :meth:`cancel` may be called from a signal handler or another thread.

    :param owner: who runs it, for the lease.
    :param tags: for the label of each statement, e.g. ``{"dag": ..., "task": ...}``.
    :param prefer: the sticky host, ``host:port``. :param on_unavailable: what to do if it cannot take the script:
        ``"move"`` to another node, no sooner than 10 s after ``upstream_end`` (``time.time()``; unknown: from now);
        ``"wait"`` for it up to ``session.reconnect_timeout``; or ``"fail"``.
    :param restartable: it is safe to run the script again from statement 1. When its node is overloaded, the running
        statement is cancelled, seen to end, and the script begins anew on another node, unless it has run for more
        than 5 minutes. Else it finishes where it is.
    :param settles: ``owner`` has one run at a time: first end what an earlier one has left running, and see it ended.
    :param wait: seconds to wait while all nodes are busy or full; default ``max_wait`` of the configuration.
    :param ticket: with ``asks_again``: the name of the place in the line, and when the caller comes back, see
        :meth:`Balancer.acquire`: then :meth:`run` raises :class:`MustWait` instead of waiting.
    :param statement_timeout: seconds after which a statement is cancelled, and the script fails.
    :param handler: called with the cursor after each statement, as in common-sql.
    :param on_session: called once the session is open and before the first statement, and again after a move.
    :param on_statement: called when a statement has ended well.
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
        upstream_end: float | None = None,
        restartable: bool = False,
        settles: bool = False,
        wait: float | None = None,
        ticket: str | None = None,
        asks_again: float | None = None,
        database: str | None = None,
        query_options: Mapping[str, Any] | None = None,
        parameters: Any = None,
        statement_timeout: float | None = None,
        handler: Callable[[Any], Any] | None = None,
        on_session: Callable[[Pick, Session], None] | None = None,
        on_statement: Callable[[StatementDone], None] | None = None,
        logger: Logger | None = None,
    ) -> None:
        self._balancer = balancer
        self._log = logger or getLogger(__name__)
        self._script = Script(
            statements,
            # Bound before anything is sent: a parameter that is missing in statement 9 must not leave 8 behind.
            [bind(statement.sql, parameters, line=statement.line) for statement in statements],
            tags=tags or {},
            database=database,
            options=query_options,
            handler=handler,
            on_session=on_session,
            on_statement=on_statement,
            statement_timeout=statement_timeout,
            logger=self._log,
        )
        self._owner = owner
        self._session_key = session_key
        self._prefer = balancer.known(prefer) if prefer else None
        self._on_unavailable = on_unavailable
        self._upstream_end = upstream_end
        self._restartable = restartable
        self._settles = settles and bool(owner)
        self._line: dict[str, Any] = {"wait": wait, "ticket": ticket, "asks_again": asks_again}
        self._moving: str | None = None
        self._so_far = "nothing was run"
        self._execution: Execution | None = None
        self._cancelled: str | None = None

    def cancel(self, why: str) -> None:
        """Stop the run: what runs on the coordinator is cancelled within 4 s, and :meth:`run` raises. Never raises."""
        self._cancelled = why
        execution = self._execution
        if execution is not None:
            execution.cancel(why)

    def run(self) -> ScriptDone:
        """Run the script to its end.

        :raises NoNodeAvailable: no node took it; the error says why for each, and what was run before a move, if any.
        :raises StillRunning: what an earlier try left running could not be seen to end; nothing was run.
        :raises Superseded: a later try has taken over; nothing was run.
        :raises StatementFailed: which statement, where, whether it ran, and what is done.
        :raises ConfigError: the login was refused.
        """
        if self._settles:
            orphans = self._balancer.take_over(self._owner)
            if orphans:
                settle(self._balancer, self._owner, orphans, self._sleep, self._log)
        left_out: dict[str, str] = {}
        prefer, wait_until = self._prefer, time.monotonic() + self._balancer.config.session.reconnect_timeout
        while True:
            self._check_cancelled()
            moved: _Moved | None = None
            with self._acquire(prefer, left_out) as pick:
                if prefer is None or pick.node == prefer:
                    node = pick.node
                    try:
                        return self._run_on(pick)
                    except NodeRefused as error:
                        why = str(error)
                        pick.refused(error.cause, why)
                    except _Moved as error:
                        moved, why = error, str(error)
                else:  # the balancer knows already that it takes no new work
                    node, why = prefer, pick.left_out.get(prefer, "it takes no new work")
            if moved:
                self._so_far = (
                    f"before that it was interrupted on {node}, where {moved.done} of its {len(self._script)} "
                    "statements were done and the next one was seen to end"
                )
                self._log.warning("%s: what ran there has ended, the script begins anew elsewhere", why)
                if moved.touched:
                    self._upstream_end = None  # what it did is as new as can be
                    self._wait_to_move(node)
                prefer, left_out[node] = None, why
                continue
            self._log.warning("%s cannot take the script, nothing of it was run there: %s", node, why)
            if node == prefer:
                if self._on_unavailable == "fail":
                    raise NoNodeAvailable(
                        "The host to stick to cannot take the script, and on_unavailable is 'fail'; nothing was run",
                        {node: why},
                    )
                if self._on_unavailable == "wait":
                    self._wait_for(node, why, wait_until)
                    continue
                self._wait_to_move(node)
                prefer = None
            left_out[node] = why

    def _acquire(self, prefer: str | None, left_out: Mapping[str, str]) -> Pick:
        self._moving = None
        try:
            pick = self._balancer.acquire(
                self._owner,
                session_key=self._session_key,
                prefer=prefer,
                exclude=left_out,
                on_move=self._told_to_move if self._restartable else None,
                on_overload=self._told_of_overload,
                on_lost=self._told_of_successor,
                while_waiting=self._check_cancelled,
                **self._line,
            )
        except NoNodeAvailable as error:
            self._check_cancelled()
            raise NoNodeAvailable(f"{error.summary}; {self._so_far}", error.reasons) from None
        self._log.info("Picked %s (%s)", pick.node, pick.why)
        return pick

    def _run_on(self, pick: Pick) -> ScriptDone:
        done = ScriptDone(pick.node, pick.why, "", [], 0.0)
        execution = Execution(self._balancer, self._script, pick, done)
        self._execution = execution
        try:
            self._check_cancelled()
            if self._moving:
                raise _Moved(self._moving, 0, touched=False)
            execution.run()
            return done
        except (StatementFailed, Cancelled) as error:
            session = execution.last
            interrupted = isinstance(error, Cancelled) or isinstance(error.__cause__, Cancelled)
            ended = session is None or (interrupted and session.wait_ended())
            if self._moving and self._cancelled is None and interrupted and ended:
                raise _Moved(self._moving, len(done.statements), execution.touched()) from None
            if isinstance(error, Cancelled):
                self._check_cancelled()
            raise
        finally:
            self._execution = None
            if self._session_key:
                data = execution.data
                self._balancer.sessions.remember(self._session_key, pick.node, data.database, data.options)

    def _told_to_move(self, why: str) -> None:
        """By the thread that renews the lease. The script's own thread then hears of it from its session."""
        self._moving = why
        execution = self._execution
        if execution is not None:
            execution.cancel(f"to move: {why}")

    def _told_of_successor(self) -> None:
        self.cancel("another try of this task has taken over, and ended what ran here")

    def _told_of_overload(self, why: str) -> None:
        self._log.warning("The node is overloaded, and the script finishes there all the same (%s)", why)

    def _wait_to_move(self, node: str) -> None:
        """Until the other coordinators have had time to learn what the upstream did on this one."""
        end = self._upstream_end if self._upstream_end is not None else time.time()
        wait = min(max(end + MOVE_SECONDS - time.time(), 0.0), MOVE_SECONDS)
        self._log.warning(
            "Moving away from %s, the host to stick to. Waiting %.1f s first, until %g s after the upstream's end: "
            "before that, other coordinators may not see all that it wrote, and rows would silently be missing",
            node,
            wait,
            MOVE_SECONDS,
        )
        self._sleep(wait)

    def _wait_for(self, node: str, why: str, wait_until: float) -> None:
        if time.monotonic() >= wait_until:
            raise NoNodeAvailable(
                "The host to stick to did not take the script within "
                f"{self._balancer.config.session.reconnect_timeout:g} s (session.reconnect_timeout); nothing was run",
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
