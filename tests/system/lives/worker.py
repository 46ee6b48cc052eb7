"""The processes that run scripts: ``python -m tests.system.lives.worker`` has imported all, and forks one for an order.

An order is a line of JSON on standard input; standard output has a line for each that begins, stops, goes on or ends.
What a worker has to say goes to the file that its order names. The first process ends, and all of its workers with it,
when its standard input does.
"""

from __future__ import annotations

import faulthandler
import json
import logging
import os
import select
import signal
import sys
import threading
import time
from typing import Any

import httpx  # noqa: F401 (before the first fork, as all of these)
import msgspec
from cryptography import fernet  # noqa: F401

from airflow_provider_impala_lb.balancer import Balancer
from airflow_provider_impala_lb.core.state.model import Attempt
from airflow_provider_impala_lb.errors import StatementFailed
from airflow_provider_impala_lb.impala.hs2.operation import Operation
from airflow_provider_impala_lb.impala.script.handover_message import Deferred, Handover
from airflow_provider_impala_lb.impala.sql.splitter import split
from airflow_provider_impala_lb.stores.factory import open_journals
from tests.support.scripts import script_run


def _say(descriptor: int, **what: Any) -> None:
    os.write(descriptor, (json.dumps(what) + "\n").encode())


def _strike_at(descriptor: int, order: dict[str, Any]) -> None:
    """Before the so-manieth sending the process stops or kills itself."""
    sent, send = [], Operation.send

    def striking(operation: Operation, *arguments: Any) -> None:
        sent.append(1)
        if len(sent) == order["sending"]:
            number = signal.SIGKILL if order["what"] == "kill" else signal.SIGSTOP
            _say(descriptor, strike=order["what"])
            signal.pthread_kill(threading.get_ident(), number)  # by os.kill this thread may run on
        send(operation, *arguments)

    Operation.send = striking  # type: ignore[method-assign]


def run(order: dict[str, Any]) -> None:
    """One attempt, or one process of it.

    :param order: ``report`` and ``log``: files; ``config``, ``owner``, ``script``, ``name``; ``attempt``: its number;
        ``run``, ``generation``: of the attempt; ``role``: ``worker``, ``trigger`` or ``fetch``; ``handover``;
        ``resume``; ``journal``; ``defer_after``; ``rows``; ``options``; ``strike``
    """
    descriptor = os.open(order["report"], os.O_WRONLY | os.O_CREAT | os.O_APPEND)
    logging.basicConfig(filename=order["log"], level=logging.INFO, format="%(asctime)s %(message)s", force=True)
    faulthandler.register(signal.SIGUSR2, open(order["log"] + ".where", "w"), all_threads=True)
    if order.get("strike"):
        _strike_at(descriptor, order["strike"])
    role, number = order["role"], order["attempt"]
    balancer = Balancer.from_config(order["config"])
    options: dict[str, Any] = {"resume": order["resume"], "finish_at_end": False, "logger": logging.getLogger("life")}
    options["query_options"] = order.get("options")
    if order["journal"]:
        options["journals"] = open_journals(balancer.config)
    if role != "trigger":
        options |= {"attempt": Attempt(number, time.time(), order["generation"], run=order["run"])}
        options |= {"one_at_a_time": True, "handler": _rows if order["rows"] else None}
    else:
        options["hand_over_rows"] = order["rows"]
    if role == "worker":
        options["hand_over_after"] = order.get("defer_after")
        options["max_wait"] = 5
    script = script_run(
        balancer,
        split(order["script"]),
        owner=order["owner"],
        tags={"dag": order["name"], "try": str(number)},
        on_statement=lambda done: _say(descriptor, statement=done.number),
        **options,
    )
    signal.signal(signal.SIGTERM, lambda *_: script.cancel("the task was killed"))
    signal.signal(signal.SIGUSR1, lambda *_: script.hand_over())
    try:
        done = script.run() if role == "worker" else script.go_on(Handover.unpacked(order["handover"]))
        if role != "trigger":
            script.finish()
        end = {"kind": "done", "statements": [each.number for each in done.statements], "results": done.results}
        _say(descriptor, end=end | {"epoch": script.epoch, "resumed": done.resumed, "node": done.node})
    except Deferred as deferred:
        _say(descriptor, end={"kind": "deferred", "handover": deferred.handover.packed(), "ready": deferred.finished})
    except StatementFailed as failed:
        _say(descriptor, end={"kind": "StatementFailed", "text": str(failed), **failed.as_dict()})
    except BaseException as error:
        logging.exception("it raised")
        _say(descriptor, end={"kind": type(error).__name__, "text": str(error)})


def _rows(cursor: Any) -> Any:
    return None if cursor.description is None else msgspec.to_builtins(cursor.fetchall())


class _Nursery:
    def __init__(self) -> None:
        self._children: dict[int, int] = {}
        self._rest = b""
        reading, writing = os.pipe()
        os.set_blocking(reading, False)
        os.set_blocking(writing, False)
        signal.set_wakeup_fd(writing)
        signal.signal(signal.SIGCHLD, lambda *_: None)
        self._woken = reading

    def serve(self) -> None:
        while True:
            ready, _, _ = select.select([0, self._woken], [], [])
            if self._woken in ready:
                os.read(self._woken, 4096)
                self._look()
            if 0 in ready:
                data = os.read(0, 1 << 20)
                if not data:
                    break
                *lines, self._rest = (self._rest + data).split(b"\n")
                for line in lines:
                    self._begin(json.loads(line))
        for pid in self._children:
            os.kill(pid, signal.SIGKILL)

    def _begin(self, order: dict[str, Any]) -> None:
        pid = os.fork()
        if pid == 0:
            code = 1
            try:
                signal.set_wakeup_fd(-1)
                signal.signal(signal.SIGCHLD, signal.SIG_DFL)
                nothing = os.open(os.devnull, os.O_RDWR)
                os.dup2(nothing, 0)
                os.dup2(nothing, 1)
                run(order)
                code = 0
            finally:
                os._exit(code)
        self._children[pid] = order["id"]
        _say(1, id=order["id"], pid=pid)

    def _look(self) -> None:
        while self._children:
            try:
                pid, status = os.waitpid(-1, os.WNOHANG | os.WUNTRACED | os.WCONTINUED)
            except ChildProcessError:
                return
            if not pid:
                return
            if os.WIFSTOPPED(status) or os.WIFCONTINUED(status):
                _say(1, id=self._children[pid], stopped=os.WIFSTOPPED(status))
            else:
                _say(1, id=self._children.pop(pid), ended=os.waitstatus_to_exitcode(status))


if __name__ == "__main__":
    sys.setswitchinterval(0.001)
    _Nursery().serve()
