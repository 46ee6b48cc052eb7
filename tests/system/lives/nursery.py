"""Workers as the test sees them: begun, struck, and what they said."""

from __future__ import annotations

import itertools
import json
import os
import signal
import subprocess
import sys
import threading
from contextlib import suppress
from pathlib import Path
from types import TracebackType
from typing import Any

ROOT = Path(__file__).parents[3]


class Worker:
    """A process.

    :param number: of the process, in its nursery
    :param order: what it was told
    :ivar order: the same
    :ivar stopped: it is, by a SIGSTOP
    :ivar code: its exit code; None: it lives
    """

    def __init__(self, number: int, order: dict[str, Any]) -> None:
        self.number, self.order = number, order
        self.stopped = False
        self.code: int | None = None
        self._pidfd = -1
        self._begun = threading.Event()
        self.changed = threading.Condition()

    @property
    def over(self) -> bool:
        """Whether it has ended."""
        return self.code is not None

    def signal(self, number: signal.Signals) -> None:
        """Send it a signal, once it has begun. Nothing happens to one that has ended.

        :param number: of the signal
        """
        assert self._begun.wait(30), "it does not begin"
        with self.changed:
            if self._pidfd >= 0:
                with suppress(ProcessLookupError):
                    signal.pidfd_send_signal(self._pidfd, number)

    def hear(self, line: dict[str, Any]) -> None:
        """What its nursery says of it."""
        if "pid" in line:
            with suppress(ProcessLookupError):
                self._pidfd = os.pidfd_open(line["pid"])
            self._begun.set()
            return
        with self.changed:
            self.stopped = line.get("stopped", False)
            self.code = line.get("ended", self.code)
            if self.over and self._pidfd >= 0:
                os.close(self._pidfd)
                self._pidfd = -1
            self.changed.notify_all()

    def wait(self, seconds: float, *, stop_too: bool = False) -> bool:
        """Wait until it has ended.

        :param seconds: at most
        :param stop_too: or until it is stopped
        :returns: False: it has not
        """
        with self.changed:
            return self.changed.wait_for(lambda: self.over or (stop_too and self.stopped), seconds)

    def said(self, key: str) -> list[Any]:
        """What it reported under this key, in order."""
        try:
            lines = Path(self.order["report"]).read_text().splitlines()
        except FileNotFoundError:
            return []
        return [line[key] for line in map(json.loads, lines) if key in line]

    @property
    def end(self) -> dict[str, Any] | None:
        """How it ended, by its own word; None: it said none."""
        ends = self.said("end")
        return ends[-1] if ends else None


class Nursery:
    """Begins workers. A context manager; none lives on after it.

    :param directory: for what they say
    """

    def __init__(self, directory: Path) -> None:
        self._directory = directory
        self._numbers = itertools.count(1)
        self._workers: dict[int, Worker] = {}
        self._lock = threading.Lock()

    def __enter__(self) -> Nursery:
        self._directory.mkdir(parents=True, exist_ok=True)
        self._process = subprocess.Popen(
            [sys.executable, "-m", "tests.system.lives.worker"],
            cwd=ROOT,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
        )
        self._thread = threading.Thread(target=self._listen, name="nursery", daemon=True)
        self._thread.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        assert self._process.stdin is not None and self._process.stdout is not None
        self._process.stdin.close()
        try:
            self._process.wait(20)
        finally:
            self._process.kill()
            self._process.wait()
            self._thread.join(10)
            self._process.stdout.close()

    def begin(self, **order: Any) -> Worker:
        """A new worker.

        :param order: as of `worker.run`, but for the files
        """
        with self._lock:
            number = next(self._numbers)
            stem = self._directory / f"{order['name']}.{number}"
            order |= {"id": number, "report": f"{stem}.report", "log": f"{stem}.log"}
            worker = self._workers[number] = Worker(number, order)
            assert self._process.stdin is not None
            self._process.stdin.write((json.dumps(order) + "\n").encode())
            self._process.stdin.flush()
        return worker

    def _listen(self) -> None:
        assert self._process.stdout is not None
        for line in self._process.stdout:
            said = json.loads(line)
            self._workers[said["id"]].hear(said)
        for worker in list(self._workers.values()):
            if not worker.over:  # its nursery is gone, and all with it
                worker.hear({"ended": -9})
