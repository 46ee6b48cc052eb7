"""Go on with a script that a worker has handed over: wait for its statement, send the next ones, renew its lease."""

from __future__ import annotations

import asyncio
import contextlib
import contextvars
import threading
from collections.abc import AsyncIterator, Callable, Mapping
from typing import TYPE_CHECKING, Any, cast

import msgspec
from airflow.triggers.base import BaseTrigger, TriggerEvent
from asgiref.sync import sync_to_async

from airflow_provider_impala_lb import errors
from airflow_provider_impala_lb.balancer import Balancer
from airflow_provider_impala_lb.errors import ConfigError, ImpalaLBError, StatementFailed, Superseded
from airflow_provider_impala_lb.impala.journal.identity import RunIdentity
from airflow_provider_impala_lb.impala.script.handover_message import (
    FORMAT,
    Deferred,
    Handover,
    check_format,
    unpack_script,
)
from airflow_provider_impala_lb.impala.script.options import ProcessOptions, RunListener, RunOptions
from airflow_provider_impala_lb.impala.script.plan import ScriptPlan
from airflow_provider_impala_lb.stores.factory import open_journals

if TYPE_CHECKING:
    from logging import Logger

    from airflow_provider_impala_lb.impala.script.run import ScriptRun

_NEXT = "Its next attempt first ends what may still run: clear the task"
_LOOK_SECONDS = 5.0
"""Between two looks whether another process of the same attempt still has the script."""
# One for all scripts of a connection: each has a thread that renews its leases.
_balancers: dict[tuple[str, str], Balancer] = {}
_balancers_lock = threading.Lock()


class DeferredScript(msgspec.Struct, frozen=True, kw_only=True):
    """What a worker hands to a trigger. Airflow keeps it in its database, as the argument of :class:`ScriptTrigger`.

    :param owner: whose lease and journal it is, ``dag/run/task[map]``.
    :param tags: for the statements' labels.
    :param script: as packed by :func:`~..impala.script.handover_message.pack_script`, and sealed.
    :param handover: where it runs, and how far it is.
    :param options: what its author chose.
    :param hand_over_rows: the rows of the last statement are a worker's to fetch; default False.
    :param time_limit: seconds that the script may take in all, those before the hand-over too (the task's
        ``execution_timeout``); None: any time.
    :param format: of these arguments.
    """

    owner: str
    tags: dict[str, str]
    script: str
    handover: Handover
    options: RunOptions
    hand_over_rows: bool = False
    time_limit: float | None = None
    format: int = FORMAT


class ScriptTrigger(BaseTrigger):
    """Runs the rest of a script. Airflow keeps the class by its path, and these arguments: Airflow 2 encrypted, Airflow
    3 as they are (execution_api/routes/task_instances.py, ``TIDeferredStatePayload``), so nothing in them is secret.

    :param conn_id: the connection; its secrets are read where the trigger runs and are no part of it.
    :param deferred: a :class:`DeferredScript`, or one as JSON-ready values. Read when the trigger runs: any error here
        but a TypeError ends Airflow's triggerer, with the triggers of all tasks (``create_triggers`` of Airflow 3.3).
    """

    def __init__(self, conn_id: str, deferred: DeferredScript | Mapping[str, Any]) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self.conn_id = conn_id
        self.deferred = dict(deferred) if isinstance(deferred, Mapping) else deferred
        self._run: ScriptRun | None = None
        self._packed = ""

    def serialize(self) -> tuple[str, dict[str, Any]]:
        """The class's path and the arguments, as Airflow keeps them."""
        arguments = {"conn_id": self.conn_id, "deferred": msgspec.to_builtins(self.deferred)}
        return f"{type(self).__module__}.{type(self).__qualname__}", arguments

    async def run(self) -> AsyncIterator[TriggerEvent]:
        """One event, when the script has ended, a worker is to fetch its rows, or somebody has ended this attempt; none
        while another process of this attempt goes on with it. Its keys: ``format``, and ``done``, ``epoch`` and
        ``changes``; ``go_on``; ``failed``; or ``error``.
        """
        # Connections come over the triggerer's own loop, which sync_to_async's thread can reach and others cannot.
        balancer = await sync_to_async(self._balancer)()
        try:
            run = self._run = self._script_run(balancer)
        except ConfigError as error:
            unread = {"format": FORMAT, "error": {"kind": ConfigError.__name__, "text": str(error)}}
            yield TriggerEvent(unread)  # type: ignore[no-untyped-call]
            return
        event = await _in_a_thread(lambda: self._go_on(run))
        if event.get("error", {}).get("kind") == Superseded.__name__:
            # Another triggerer's event counts, and ours would fail the task. Of a later attempt Airflow drops ours.
            while run.journal is not None and await _in_a_thread(run.journal.goes_on_elsewhere):
                await asyncio.sleep(_LOOK_SECONDS)
        yield TriggerEvent({"format": FORMAT, **event})  # type: ignore[no-untyped-call]

    async def cleanup(self) -> None:
        """Hand the script over to whoever goes on: this triggerer stops, or the trigger is another one's now.

        Airflow calls this at every end of :meth:`run`, after :meth:`on_kill` if it calls that.
        """
        # Not as soon as `run` is cancelled: then the script could be handed over before `on_kill` ends it.
        if self._run is not None:
            self._run.hand_over()

    async def on_kill(self) -> None:
        """The task was marked or cleared by a user (Airflow 3.3): what runs is cancelled on its coordinator."""
        reason, run = "the task was killed", self._run
        if run is not None:
            await _in_a_thread(lambda: run.kill(reason))
            return
        # It had not begun here yet. What the worker has left running is taken over all the same, to be ended.
        late = self._script_run(await sync_to_async(self._balancer)())
        late.cancel(reason)
        await _in_a_thread(lambda: self._go_on(late))

    def _balancer(self) -> Balancer:
        from airflow_provider_impala_lb.hooks.impala_lb import ImpalaLBHook

        hook = ImpalaLBHook(self.conn_id)
        key = self.conn_id, str(hook.connection.get_uri())
        with _balancers_lock:
            if key not in _balancers:
                _balancers[key] = hook.balancer
            return _balancers[key]

    def _script(self) -> DeferredScript:
        """:raises ConfigError: these arguments are a newer version's."""
        if isinstance(self.deferred, DeferredScript):
            return self.deferred
        if isinstance(self.deferred, Mapping):
            check_format(self.deferred, f"Upgrade the triggerer. {_NEXT}")
        try:
            return msgspec.convert(self.deferred, DeferredScript)
        except msgspec.ValidationError as error:
            raise ConfigError(f"The trigger's arguments cannot be read: {error}. {_NEXT}") from None

    def _script_run(self, balancer: Balancer) -> ScriptRun:
        from airflow_provider_impala_lb.impala.script.run import ScriptRun

        deferred = self._script()
        packed = balancer.sessions.sealer.open(deferred.script)
        if packed is None:
            raise ConfigError(
                "The script that was handed over cannot be read: the connection's password, or its seal_key, has "
                f"changed since then. {_NEXT}"
            )
        self._packed = packed.decode()
        statements, texts = unpack_script(self._packed)
        return ScriptRun(
            balancer.cluster,
            balancer.sessions,
            ScriptPlan(statements, texts, deferred.options),
            RunIdentity(owner=deferred.owner, tags=deferred.tags, connection=self.conn_id),
            RunListener(logger=cast("Logger", self.log)),
            ProcessOptions(
                journals=open_journals(balancer.config),
                hand_over_rows=deferred.hand_over_rows,
                time_limit=deferred.time_limit,
                finish_at_end=False,
                command=balancer.command,
            ),
        )

    def _keep_text(self, run: ScriptRun) -> None:
        # A template that is rendered again for the worker may give another script.
        try:
            run.keep_text(self._packed)
        except ImpalaLBError as error:
            with contextlib.suppress(Exception):
                self.log.warning("The script cannot be kept for its worker, which renders it anew: %s", error)

    def _go_on(self, run: ScriptRun) -> dict[str, Any]:
        """In a thread of its own. Returns the event."""
        try:
            done = run.go_on(self._script().handover)
            return {"done": done.summary(), "epoch": run.epoch, "changes": run.plan.changes_something}
        except Deferred as deferred:
            self._keep_text(run)
            return {"go_on": deferred.handover.packed()}
        except Superseded as superseded:
            with contextlib.suppress(Exception):
                self.log.warning("%s", superseded)
            text = f"{superseded}. What it had under way may run on: the next attempt sees to that first"
            return {"error": {"kind": Superseded.__name__, "text": text}}
        except StatementFailed as failed:
            return {"failed": failed.as_dict()}
        except ImpalaLBError as error:
            return {"error": {"kind": type(error).__name__, "text": str(error)}}


def check_event(event: Mapping[str, Any]) -> None:
    """Raise what a trigger's event says, if it says that something failed.

    :param event: of the trigger; a key that is not known here is passed over.
    :raises ConfigError: it is of a newer version of this package.
    :raises StatementFailed: a statement did.
    :raises ImpalaLBError: anything else did.
    """
    check_format(
        event,
        "The script may have run to its end: upgrade this worker's host, and see what `impala-lb journal` says of it "
        "before the task is cleared",
    )
    if "failed" in event:
        raise StatementFailed.from_dict(event["failed"])
    if "error" in event:
        raise _error_of(event["error"]["kind"], event["error"]["text"])


def _error_of(kind: str, text: str) -> ImpalaLBError:
    """The error of an event, without the parts that only code would look at.

    :param kind: its class's name; one that is not known here becomes `ImpalaLBError`.
    :param text: its text.
    """
    known = getattr(errors, kind, ImpalaLBError)
    error: ImpalaLBError = known.__new__(known)
    error.args = (text,)
    return error


async def _in_a_thread(work: Callable[[], Any]) -> Any:
    """A thread that is nobody's pool: a script may take hours, and Python waits for a pool's threads at its exit."""
    loop = asyncio.get_running_loop()
    future: asyncio.Future[Any] = loop.create_future()

    def set_result(result: Any, error: BaseException | None) -> None:
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
            loop.call_soon_threadsafe(set_result, result, problem)

    # With the context, by which Airflow knows whose log a line belongs to.
    context = contextvars.copy_context()
    threading.Thread(target=context.run, args=(run,), name="impala-lb script", daemon=True).start()
    return await future
