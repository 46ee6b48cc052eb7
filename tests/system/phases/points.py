"""Moments in a script's life at which its process stops itself (SIGSTOP), to be killed there or to go on later."""

from __future__ import annotations

import signal
import threading
from collections.abc import Callable
from typing import Any

from airflow_provider_impala_lb.core.cluster.lease_keeper import LeaseKeeper
from airflow_provider_impala_lb.core.cluster.pick import Pick
from airflow_provider_impala_lb.core.cluster.picker import Picker
from airflow_provider_impala_lb.impala.hs2.operation import Operation
from airflow_provider_impala_lb.impala.hs2.session_factory import SessionFactory
from airflow_provider_impala_lb.impala.journal.journal import Journal
from airflow_provider_impala_lb.impala.script.execution import Execution
from airflow_provider_impala_lb.impala.script.handover import Deferral
from airflow_provider_impala_lb.impala.script.record import ScriptRecord
from airflow_provider_impala_lb.impala.script.run import ScriptRun

Condition = Callable[..., bool]


def stop() -> None:
    # To this very thread: with `os.kill` another one may take the signal, and this one goes on for a while.
    signal.pthread_kill(threading.get_ident(), signal.SIGSTOP)


def _always(*_: Any) -> bool:
    return True


def _statement(number: int) -> Condition:
    """The call is about this statement: its number is an argument, or it is in its label."""
    return lambda _, first, *__: first == number or (isinstance(first, str) and f" {number}/" in first[:60])


def _at(number: int) -> Condition:
    return lambda of_script, *_: of_script.number == number


def _polled(number: int) -> Condition:
    """This statement was polled, by its text; one that was sent by another process has none here."""

    def polled(operation: Operation, *_: Any) -> bool:
        text = operation.sql
        return not text or f" {number}/" in text[:60]

    return polled


# class, method, whether before or after it, and which of its calls
POINTS: dict[str, tuple[type, str, str, Condition]] = {
    "before anything": (ScriptRun, "run", "before", _always),
    "before its lease": (Picker, "acquire", "before", _always),
    "leased": (SessionFactory, "open", "before", _always),
    "session not noted": (SessionFactory, "open", "after", _always),
    "session open": (Execution, "replay", "before", _always),
    "not sent": (Operation, "send", "before", _statement(2)),
    "sent": (Operation, "send", "after", _statement(2)),
    "running": (Execution, "accepted", "after", _at(2)),
    "ended": (Operation, "ended", "after", _polled(2)),
    "not written": (ScriptRecord, "note_done", "before", _at(2)),
    "between": (Execution, "statement", "before", _statement(4)),
    "last done": (Execution, "close", "before", _always),
    "session closed": (ScriptRun, "finish", "before", _always),
    "letting go": (Pick, "hand_over", "before", _always),
    "let go": (Deferral, "hand_over", "after", _always),
    "not there": (Journal, "take", "before", _always),
    "taken": (Journal, "take", "after", _always),
    "attached": (SessionFactory, "attach", "after", _always),
    "polls": (Deferral, "check", "before", _always),
    "before the intent": (Journal, "intend", "before", _statement(4)),
    "4 not sent": (Operation, "send", "before", _statement(4)),
    "4 sent": (Operation, "send", "after", _statement(4)),
    "4 runs": (Execution, "accepted", "after", _at(4)),
    "lease not ended": (LeaseKeeper, "drop", "before", _always),
}


def stop_at(name: str) -> None:
    """This process stops there, once. ``fetching`` is the handler's to do, and ``not told`` the trigger's."""
    if name not in POINTS:
        assert name in ("fetching", "not told"), name
        return
    kind, method, when, condition = POINTS[name]
    call, armed = getattr(kind, method), [True]

    def stopping(self: Any, *args: Any, **options: Any) -> Any:
        here = armed and condition(self, *args)
        if here:
            armed.clear()
            if when == "before":
                stop()
        result = call(self, *args, **options)
        if here and when == "after":
            stop()
        return result

    setattr(kind, method, stopping)
