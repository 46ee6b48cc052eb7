"""Starts the coordinators' processes, and sees them end."""

from __future__ import annotations

import json
import os
import select
import signal
import socket
import subprocess
import sys
import tempfile
import threading
import time
from concurrent.futures import Future
from contextlib import suppress
from pathlib import Path
from typing import IO

from airflow_provider_impala_lb.errors import ImpalaLBError
from airflow_provider_impala_lb.sandbox.common.node_settings import NodeSettings


class NodeProcess:
    """A coordinator's process. It is not this one's child, so it is known by a pidfd.

    :param pid: its id.
    :param pidfd: becomes readable when it ends; closed with this.
    :param stdin: the other end of its standard input: it ends when that is closed.
    :param stdout: the other end of its standard output.
    :ivar pid: as given.
    :ivar stdout: as given.
    """

    def __init__(self, pid: int, pidfd: int, stdin: int, stdout: int) -> None:
        self.pid, self._pidfd, self._stdin = pid, pidfd, stdin
        self.stdout = os.fdopen(stdout, "rb")
        self._ended = False

    @property
    def running(self) -> bool:
        """Whether it has not ended."""
        return not self._ended and not self._has_ended(0.0)

    def signal(self, number: int) -> None:
        """Send a signal; nothing to one that has ended.

        :param number: of the signal.
        """
        if self.running:
            with suppress(ProcessLookupError):
                signal.pidfd_send_signal(self._pidfd, number)

    def wait(self) -> None:
        """Return once it has ended, and is in no list of processes any more."""
        while not self._ended and not self._has_ended(60.0):
            pass
        for _ in range(1000):  # another one may get its id
            if self._ended or not Path(f"/proc/{self.pid}").exists():
                break
            time.sleep(0.001)
        self._ended = True

    def wait_stopped(self) -> None:
        """Return once SIGSTOP has stopped all its threads, or it has ended."""
        while self.running and self._state() != "T":
            time.sleep(0.001)

    def close(self) -> None:
        """Kill it, wait for its end, and close what leads to it."""
        self.signal(signal.SIGKILL)
        self.wait()
        if self._pidfd >= 0:
            os.close(self._pidfd)
            os.close(self._stdin)
            self._pidfd = -1
        self.stdout.close()

    def _has_ended(self, seconds: float) -> bool:
        poll = select.poll()  # select() takes no descriptor above 1023
        poll.register(self._pidfd, select.POLLIN)
        return bool(poll.poll(seconds * 1000))

    def _state(self) -> str:
        try:
            return Path(f"/proc/{self.pid}/stat").read_text().rpartition(")")[2].split()[0]
        except OSError:  # it has ended
            return ""


class NodeStarter:
    """Starts coordinators by a template (:mod:`airflow_provider_impala_lb.sandbox.node_template`). That is started with
    the first one, and ends with this process, however that ends."""

    def __init__(self) -> None:
        self.forget_parent()
        os.register_at_fork(after_in_child=self.forget_parent)

    def forget_parent(self) -> None:
        """This process is a child: it starts a template of its own."""
        self._mutex = threading.Lock()
        self._template: _Template | None = None

    def start(self, settings: NodeSettings, errors: IO[bytes]) -> NodeProcess:
        """Start a coordinator.

        :param settings: its own.
        :param errors: where its standard error goes.
        :raises ImpalaLBError: it ended at once.
        :raises OSError: the template cannot be started.
        """
        with self._mutex:
            template = self._template
            if template is None or template.process.poll() is not None:
                template = self._template = _Template()
            try:
                return template.start(settings, errors)
            except OSError:
                template = self._template = _Template()
                return template.start(settings, errors)


class _Template:
    def __init__(self) -> None:
        self._channel, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        self._errors = tempfile.TemporaryFile()  # noqa: SIM115 (lives as long as the process)
        command = [sys.executable, "-m", "airflow_provider_impala_lb.sandbox.node_template", str(os.getpid())]
        started: Future[subprocess.Popen[bytes]] = Future()

        def run() -> None:
            # The kernel kills the process when the THREAD that started it ends (PR_SET_PDEATHSIG): so this one stays.
            try:
                process = subprocess.Popen(  # noqa: S603
                    command, stdin=theirs.fileno(), stdout=subprocess.DEVNULL, stderr=self._errors
                )
            except OSError as error:
                started.set_exception(error)
                return
            started.set_result(process)
            process.wait()

        threading.Thread(target=run, name="sandbox-template", daemon=True).start()
        self.process = started.result()
        theirs.close()

    def start(self, settings: NodeSettings, errors: IO[bytes]) -> NodeProcess:
        """:raises OSError: the template has ended.
        :raises ImpalaLBError: it could not be started, or the coordinator has ended.
        """
        (their_in, our_in), (our_out, their_out) = os.pipe(), os.pipe()
        answer, pidfds = b"", list[int]()
        try:
            socket.send_fds(self._channel, [settings.json().encode()], [their_in, their_out, errors.fileno()])
            answer, pidfds, _, _ = socket.recv_fds(self._channel, 100, 1)
        finally:
            os.close(their_in)
            os.close(their_out)
            if not pidfds:
                os.close(our_in)
                os.close(our_out)
        if not pidfds:
            text = ""
            for file in (self._errors, errors):
                file.seek(0)
                text += file.read().decode(errors="replace")[-4000:]
            raise ImpalaLBError(f"The sandbox's {settings.name} cannot be started:\n{text}")
        return NodeProcess(json.loads(answer), pidfds[0], our_in, our_out)
