"""A worker or a triggerer as a process of its own, forked from one that has imported Airflow, as Airflow's are.

A worker runs the operator's ``execute`` (or ``execute_complete``, with an event), a triggerer the trigger.
"""

from __future__ import annotations

import asyncio
import ctypes
import json
import multiprocessing
import os
import signal
import threading
import time
import traceback
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import datetime, timezone
from multiprocessing.process import BaseProcess
from pathlib import Path
from types import SimpleNamespace
from typing import Any

from tests.support.servers import eventually
from tests.system.phases.points import stop, stop_at

_FORKS = multiprocessing.get_context("forkserver")
_STARTING = threading.Lock()
_PR_SET_PDEATHSIG = 1


class Process:
    """One that runs, or has ended.

    :param order: ``role`` (``worker`` or ``triggerer``), ``connection`` (JSON), ``stop_at`` (a point, or nothing);
        for a worker ``sql``, ``try``, ``options`` of the operator, ``event``, ``let_go_at`` (a statement under way);
        for a triggerer ``keys``
    :param path: where it writes how it ended; its log is beside it
    """

    def __init__(self, order: dict[str, Any], path: Path) -> None:
        self._path, self._log = path, path.with_suffix(".log")
        self.name = f"{order['role']} {order.get('try', '')} {order.get('stop_at', '')}"
        self._process: BaseProcess = _FORKS.Process(target=main, args=(order, str(path)), daemon=True)
        with _STARTING:
            self._process.start()

    @property
    def pid(self) -> int:
        assert self._process.pid is not None
        return self._process.pid

    @property
    def stopped(self) -> bool:
        try:
            return Path(f"/proc/{self.pid}/stat").read_text().rpartition(")")[2].split()[0] == "T"
        except OSError:
            return False

    def wait_stopped(self, seconds: float = 60.0) -> None:
        """Wait until it is stopped at its point.

        :param seconds: how long
        :raises AssertionError: it has not come there
        """
        eventually(lambda: self.stopped or not self._process.is_alive(), seconds)
        assert self.stopped, f"{self.name} never came there: {self.output()}"

    def kill(self) -> None:
        os.kill(self.pid, signal.SIGKILL)
        self._process.join()

    def go_on(self) -> None:
        os.kill(self.pid, signal.SIGCONT)

    def end(self, seconds: float = 60.0) -> dict[str, Any]:
        """How it ended.

        :param seconds: how long to wait for it
        :raises AssertionError: it does not end
        """
        self._process.join(seconds)
        assert not self._process.is_alive(), f"{self.name} hangs: {self.output()}"
        assert self._path.exists(), f"{self.name} has died: {self.output()}"
        found: dict[str, Any] = json.loads(self._path.read_text())
        return found

    def output(self) -> str:
        """The end of its log."""
        log = self._log.read_text(errors="replace")[-6000:] if self._log.exists() else ""
        return f"{self._path.read_text() if self._path.exists() else 'no end'}\n{log}"

    def dispose(self) -> None:
        if self._process.is_alive():
            self.kill()
        self._process.join()


@contextmanager
def forks() -> Iterator[None]:
    """The process that workers are forked from; it imports Airflow once."""
    _FORKS.set_forkserver_preload([__name__, "tests.system.phases.airflow_loaded"])
    yield


def main(order: dict[str, Any], path: str) -> None:
    ctypes.CDLL(None).prctl(_PR_SET_PDEATHSIG, signal.SIGKILL)  # none outlives the test, even a stopped one
    log = os.open(Path(path).with_suffix(".log"), os.O_WRONLY | os.O_CREAT | os.O_APPEND)
    os.dup2(log, 1)
    os.dup2(log, 2)
    os.environ["AIRFLOW_CONN_PHASES"] = order["connection"]
    if order.get("stop_at"):
        stop_at(order["stop_at"])
    end = _worker(order) if order["role"] == "worker" else asyncio.run(_triggerer(order))
    part = Path(path).with_suffix(".part")
    part.write_text(json.dumps(end))
    part.rename(path)


class _TaskInstance:
    dag_id, task_id, run_id, map_index, max_tries = "d", "t", "r", -1, 9

    def __init__(self, number: int) -> None:
        self.try_number, self.pushed = number, {}
        self.start_date = datetime.now(timezone.utc)

    def xcom_push(self, key: str, value: Any) -> None:
        self.pushed[key] = value
        if key == "impala_host":  # the session is open, and nothing was sent
            self.pushed.setdefault("began", time.time())

    def xcom_pull(self, **_: Any) -> None:
        return None


def _worker(order: dict[str, Any]) -> dict[str, Any]:
    from airflow.providers.common.compat.sdk import DAG, TaskDeferred

    from airflow_provider_impala_lb.core.stop_request import HandedOver
    from airflow_provider_impala_lb.errors import StatementFailed
    from airflow_provider_impala_lb.impala.script.execution import Execution
    from airflow_provider_impala_lb.impala.script.handover import Deferral
    from airflow_provider_impala_lb.operators import impala_lb

    number = order.get("let_go_at")
    if number:
        impala_lb.HAND_OVER_SECONDS = 3600.0
        check, begin, executions = Deferral.check, Execution.__init__, []

        def noted(execution: Execution, *args: Any, **options: Any) -> None:
            executions.append(execution)
            begin(execution, *args, **options)

        def at_the_statement(deferral: Deferral) -> None:
            check(deferral)
            if executions[-1].number == number and not executions[-1].between:
                raise HandedOver

        Execution.__init__ = noted  # type: ignore[method-assign]
        Deferral.check = at_the_statement  # type: ignore[method-assign]

    def handler(cursor: Any) -> Any:
        if cursor.description is None:
            return None
        some = cursor.fetchmany(100)
        if order.pop("stop_at", "") == "fetching":  # once: the query may be run again
            stop()
        return len(some) + len(cursor.fetchall())

    with DAG("d", start_date=datetime(2026, 1, 1), schedule=None):
        options = {"conn_id": "phases", "handler": handler, "do_xcom_push": True, **order.get("options", {})}
        task = impala_lb.ImpalaLBOperator(task_id="t", sql=order["sql"], **options)
    ours = _TaskInstance(order["try"])
    context: Any = {"ti": ours, "dag_run": SimpleNamespace(start_date=datetime(2026, 1, 1))}
    try:
        if "event" in order:
            task.execute_complete(context, order["event"])
        else:
            task.execute(context)
        return {"done": ours.pushed["impala_run"], **ours.pushed}
    except TaskDeferred as deferred:
        return {"deferred": deferred.trigger.serialize()[1], **ours.pushed}
    except Exception as error:
        traceback.print_exc()
        causes: list[BaseException | None] = [error, error.__cause__]
        failed = next((each for each in causes if isinstance(each, StatementFailed)), None)
        kind = type(error.__cause__ or error) if type(error).__name__ == "AirflowFailException" else type(error)
        return {"error": kind.__name__, "text": str(error), "outcome": failed and failed.outcome, **ours.pushed}


async def _triggerer(order: dict[str, Any]) -> dict[str, Any]:
    from airflow_provider_impala_lb.triggers.run_script import ScriptTrigger

    silent, loop = asyncio.Event(), asyncio.get_running_loop()

    class Telling(ScriptTrigger):
        def _go_on(self, run: Any) -> Any:
            event = super()._go_on(run)
            if order.get("stop_at") == "not told":
                stop()
            if event is None:
                loop.call_soon_threadsafe(silent.set)
            return event

    async def event() -> Any:
        return (await anext(aiter(Telling(**order["keys"]).run()))).payload

    told, over = asyncio.create_task(event()), asyncio.create_task(silent.wait())
    await asyncio.wait([told, over], return_when=asyncio.FIRST_COMPLETED)
    if not told.done():
        await asyncio.sleep(0.1)
    over.cancel()
    if told.done():
        return {"event": told.result()}
    told.cancel()
    return {"silent": True}
