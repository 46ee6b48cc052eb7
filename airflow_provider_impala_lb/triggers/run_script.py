"""Go on with a script whose worker has let go of it: wait for its statement, send the next ones, renew its lease."""

from __future__ import annotations

import asyncio
import contextlib
import contextvars
import threading
import time
from collections.abc import AsyncIterator, Callable
from typing import TYPE_CHECKING, Any, cast

from airflow.triggers.base import BaseTrigger, TriggerEvent
from asgiref.sync import sync_to_async

from airflow_provider_impala_lb.balancer import Balancer
from airflow_provider_impala_lb.errors import ImpalaLBError, StatementFailed, Superseded
from airflow_provider_impala_lb.stores.factory import open_journals

if TYPE_CHECKING:
    from airflow_provider_impala_lb.impala.script.run import ScriptRun

# One for all scripts of a connection: each has a thread that renews its leases.
_balancers: dict[tuple[str, str], Balancer] = {}
_balancers_lock = threading.Lock()


class ScriptTrigger(BaseTrigger):
    """Runs what is left of a script. Airflow keeps these arguments encrypted in its database.

    :param conn_id: the connection; its secrets are read where the trigger runs and are no part of it.
    :param owner: whose lease and journal it is, ``dag/run/task[map]``. :param tags: for the statements' labels.
    :param script: as packed by :func:`~..impala.handover.pack_script`.
    :param handover: as by :meth:`~..impala.handover.Handover.packed`.
    :param options: as by :meth:`~..impala.script.options.RunOptions.packed`.
    :param hand_over_rows: the rows of the last statement are the worker's to fetch.
    :param until: ``time.time()`` at which the task's ``execution_timeout`` is over; None: never.
    """

    def __init__(
        self,
        conn_id: str,
        owner: str,
        tags: dict[str, str],
        script: str,
        handover: dict[str, Any],
        options: dict[str, Any],
        hand_over_rows: bool = False,
        until: float | None = None,
    ) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self.conn_id, self.owner, self.tags = conn_id, owner, tags
        self.script, self.handover, self.options, self.until = script, handover, options, until
        self.hand_over_rows = hand_over_rows
        self._run: ScriptRun | None = None

    def serialize(self) -> tuple[str, dict[str, Any]]:
        keys = ("conn_id", "owner", "tags", "script", "handover", "options", "hand_over_rows", "until")
        return f"{type(self).__module__}.{type(self).__qualname__}", {key: getattr(self, key) for key in keys}

    async def run(self) -> AsyncIterator[TriggerEvent]:
        # Connections come over the triggerer's own loop, which sync_to_async's thread can reach and others cannot.
        balancer = await sync_to_async(self._balancer)()
        run = self._run = self._script_run(balancer)
        event = await _in_a_thread(lambda: self._go_on(run))
        if event is None:
            # Another process has taken the script over: its word counts, and ours would fail the task.
            await asyncio.Event().wait()
        yield TriggerEvent(event)  # type: ignore[no-untyped-call]

    async def cleanup(self) -> None:
        """Airflow calls this at every end of :meth:`run`, after :meth:`on_kill` if it calls that. If this triggerer
        stops, or the trigger is another one's now, the script is left to whoever goes on."""
        # Not as soon as `run` is cancelled: then the script could be let go of before `on_kill` ends it.
        if self._run is not None:
            self._run.leave()

    async def on_kill(self) -> None:
        """The task was marked or cleared by a user (Airflow 3.3): what runs is cancelled on its coordinator."""
        why, run = "the task was killed", self._run
        if run is not None:
            await _in_a_thread(lambda: run.kill(why))
            return
        # It had not begun here yet. What the worker has left running is taken over all the same, to be ended.
        late = self._script_run(await sync_to_async(self._balancer)())
        late.cancel(why)
        await _in_a_thread(lambda: self._go_on(late))

    def _balancer(self) -> Balancer:
        from airflow_provider_impala_lb.hooks.impala_lb import ImpalaLBHook

        hook = ImpalaLBHook(self.conn_id)
        key = self.conn_id, str(hook.connection.get_uri())
        with _balancers_lock:
            if key not in _balancers:
                _balancers[key] = hook.balancer
            return _balancers[key]

    def _script_run(self, balancer: Balancer) -> ScriptRun:
        from airflow_provider_impala_lb.impala.script.handover import unpack_script
        from airflow_provider_impala_lb.impala.script.options import (
            ProcessOptions,
            RunIdentity,
            RunListener,
            RunOptions,
        )
        from airflow_provider_impala_lb.impala.script.plan import ScriptPlan
        from airflow_provider_impala_lb.impala.script.run import ScriptRun

        statements, texts = unpack_script(self.script)
        return ScriptRun(
            balancer.cluster,
            balancer.sessions,
            ScriptPlan(statements, texts, RunOptions.unpacked(self.options)),
            RunIdentity(owner=self.owner, tags=self.tags),
            RunListener(logger=cast("Any", self.log)),
            ProcessOptions(
                journals=open_journals(balancer.config),
                hand_over_rows=self.hand_over_rows,
                finish_at_end=False,
                command=balancer.command,
            ),
        )

    def _go_on(self, run: ScriptRun) -> dict[str, Any] | None:
        """In a thread of its own. Returns what to tell the task; None: nothing, it is somebody else's now."""
        from airflow_provider_impala_lb.impala.script.handover import Deferred, Handover

        alarm = None
        if self.until is not None:
            why = "execution_timeout: the task has run for as long as it may"
            alarm = threading.Timer(max(0.0, self.until - time.time()), run.cancel, [why])
            alarm.daemon = True
            alarm.start()
        try:
            done = run.go_on(Handover.of(self.handover))
            return {"done": summary(done), "epoch": run.epoch, "changes": run.changes_something}
        except Deferred as deferred:
            # With the script: a template that is rendered again for the worker may give another one.
            return {"go_on": deferred.handover.packed(), "script": self.script}
        except Superseded as superseded:
            with contextlib.suppress(Exception):
                self.log.warning("%s", superseded)
            return None
        except StatementFailed as failed:
            return {"failed": failed.as_dict()}
        except ImpalaLBError as error:
            return {"error": {"kind": type(error).__name__, "text": str(error)}}
        finally:
            if alarm is not None:
                alarm.cancel()


async def _in_a_thread(work: Callable[[], Any]) -> Any:
    """A thread that is nobody's pool: a script may take hours, and Python waits for a pool's threads at its exit."""
    loop = asyncio.get_running_loop()
    future: asyncio.Future[Any] = loop.create_future()

    def settle(result: Any, error: BaseException | None) -> None:
        if future.cancelled():
            return
        if error is not None:
            future.set_exception(error)
        else:
            future.set_result(result)

    def run() -> None:
        result, problem = None, None
        try:
            result = work()
        except BaseException as error:
            problem = error
        if not loop.is_closed():
            loop.call_soon_threadsafe(settle, result, problem)

    # With the context, by which Airflow knows whose log a line belongs to.
    context = contextvars.copy_context()
    threading.Thread(target=context.run, args=(run,), name="impala-lb script", daemon=True).start()
    return await future


def summary(done: Any) -> dict[str, Any]:
    """A script's end as JSON-ready values, for XCom."""
    return {
        **done.left.as_dict(),
        "host": done.node,
        "why": done.why,
        "session": done.session,
        "ended": time.time(),
        "resumed": done.resumed,
        "seconds": round(done.seconds, 3),
        "statements": len(done.statements),
        "rows": sum(statement.rows or 0 for statement in done.statements),
        "query_ids": [statement.query_id for statement in done.statements[-100:] if statement.query_id],
    }
