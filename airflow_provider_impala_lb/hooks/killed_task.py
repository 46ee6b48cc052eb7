"""What a hook runs ends with the task it runs in.

common-sql's operators, and functions that use a hook, have an ``on_kill`` that does nothing. Airflow calls it on
SIGTERM (``_on_term`` of Airflow 3's task_runner.py, ``signal_handler`` of 2.11's taskinstance.py); Airflow 3 lets the
task go on then, until it is killed for good. So the running task's own ``on_kill`` is replaced, on the copy of the
operator that Airflow made for this execution.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, Protocol
from weakref import WeakSet

from airflow_provider_impala_lb.hooks.resolve_stick_to import running_task

REASON = "the task was killed"


class Cancellable(Protocol):
    """Work that another thread, or a signal handler, can end."""

    def cancel(self, reason: str) -> None:
        """End what runs. Never raises.

        :param reason: for whoever waits for it.
        """
        ...


def end_when_killed(work: Cancellable) -> None:
    """Have this cancelled when the task that runs in this process is killed; at once, if it was before. Outside of a
    task nothing happens.

    :param work: may have ended by then.
    """
    context = running_task()
    task = getattr(context["ti"], "task", None) if context and "ti" in context else None
    if task is None:
        return
    handler = vars(task).get("on_kill")
    # A copy of an operator has a copy of this, too, which would be for the other one.
    if not isinstance(handler, _OnKill) or handler.task is not task:
        handler = _OnKill(task, handler if callable(handler) and not isinstance(handler, _OnKill) else None)
        vars(task)["on_kill"] = handler
    handler.add(work)


class _OnKill:
    """Stands in for an operator's ``on_kill``.

    :param task: the operator.
    :param own: what stood in its place before; None: its class's own.
    """

    def __init__(self, task: Any, own: Callable[[], None] | None) -> None:
        self.task = task
        self._own = own
        self._works: WeakSet[Cancellable] = WeakSet()
        self._killed = False

    def add(self, work: Cancellable) -> None:
        """:param work: to be cancelled; at once, if the task was killed."""
        self._works.add(work)
        if self._killed:
            work.cancel(REASON)

    def __call__(self) -> None:
        self._killed = True
        try:
            for work in list(self._works):
                work.cancel(REASON)
        finally:
            if self._own is not None:
                self._own()
            else:
                type(self.task).on_kill(self.task)
