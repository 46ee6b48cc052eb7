"""One coordinator as the process that started it sees it: its addresses, its journal, and what can be done to it."""

from __future__ import annotations

import json
import select
import shutil
import signal
import tempfile
import time
from dataclasses import replace
from pathlib import Path
from typing import IO, Any

from airflow_provider_impala_lb.errors import ImpalaLBError
from airflow_provider_impala_lb.sandbox.common.activity_log import read_activity_log
from airflow_provider_impala_lb.sandbox.common.node_settings import NodeSettings
from airflow_provider_impala_lb.sandbox.common.switches import Setting, Switch
from airflow_provider_impala_lb.sandbox.common.web_access import WebAccess, open_page
from airflow_provider_impala_lb.sandbox.node_starter import NodeProcess, NodeStarter
from airflow_provider_impala_lb.sandbox.web.simulated_load import SimulatedLoad

_START_LIMIT = 60.0
_starter = NodeStarter()


class SandboxNode:
    """A coordinator. `Sandbox` makes it.

    :param settings: what its process is started with.
    :param access: how its web pages are reached.
    :ivar name: such as ``node1``.
    :ivar host: always ``127.0.0.1``.
    :ivar port: of HiveServer2; 0 before the first start.
    :ivar web_port: of the web pages; 0 before the first start.
    :ivar metrics_port: of the metrics alone; 0: it has none.
    """

    def __init__(self, settings: NodeSettings, access: WebAccess) -> None:
        self.name = settings.name
        self.host, self.port, self.web_port, self.metrics_port = "127.0.0.1", 0, 0, 0
        self._settings, self._access = settings, access
        settings.load_file.unlink(missing_ok=True)
        shutil.rmtree(settings.switches_directory, ignore_errors=True)
        self._process: NodeProcess | None = None
        self._errors: IO[bytes] | None = None

    def __repr__(self) -> str:
        return f"<SandboxNode {self.name} {self.address}>"

    @property
    def address(self) -> str:
        """``host:port`` of HiveServer2."""
        return f"{self.host}:{self.port}"

    @property
    def web(self) -> str:
        """URL of its debug web pages."""
        return self._access.url(self.host, self.web_port)

    @property
    def metrics(self) -> str | None:
        """URL of its metrics port; None: it has none."""
        return f"http://{self.host}:{self.metrics_port}" if self.metrics_port else None

    @property
    def pid(self) -> int:
        """Id of the process that runs, or ran last."""
        assert self._process is not None, "not started"
        return self._process.pid

    @property
    def running(self) -> bool:
        """Does its process live?"""
        return self._process is not None and self._process.running

    @property
    def journal_file(self) -> Path:
        """The file that :meth:`journal` reads."""
        return self._settings.activity_file

    def journal(self) -> list[dict[str, Any]]:
        """What this coordinator did, in order, over all its starts.

        A statement that ended has ``t`` (seconds since 1970), ``session``, ``user``, ``sql`` (as received), ``state``
        (``FINISHED``, ``ERROR`` or ``CANCELLED``: what became of it, whatever its client was told) and ``query_id``. A
        session opened or closed has ``event`` (``open`` or ``close``) instead of the last three.
        """
        return read_activity_log(self.journal_file)

    def start(self) -> None:
        """Start the process, on the same ports as before if it ran before, and wait until it serves."""
        self.spawn()
        self.wait_ready()

    def spawn(self) -> None:
        """Start the process without waiting for it."""
        if self.running:
            return
        self._dispose()
        settings = replace(self._settings, port=self.port, web_port=self.web_port, metrics_port=self.metrics_port)
        self._errors = tempfile.TemporaryFile()  # noqa: SIM115 (lives as long as the process)
        self._process = _starter.start(settings, self._errors)

    def wait_ready(self, timeout: float = _START_LIMIT) -> None:
        """Wait until the process serves.

        :param timeout: seconds; default 60.
        :raises ImpalaLBError: it ended instead, or took too long; the end of its standard error is in the message.
        """
        assert self._process is not None, "not started"
        if not self._process.stdout.closed:
            poll = select.poll()  # select() takes no descriptor above 1023
            poll.register(self._process.stdout, select.POLLIN)
            ready = poll.poll(timeout * 1000)
            line = self._process.stdout.readline() if ready else b""
            if not line:
                self._process.signal(signal.SIGKILL)
                self._process.wait()
                raise ImpalaLBError(f"The sandbox's {self.name} did not start:\n{self._error_output()}")
            ports = json.loads(line)
            self.port, self.web_port, self.metrics_port = ports["port"], ports["web_port"], ports["metrics_port"]
            self._process.stdout.close()
        end = time.monotonic() + timeout
        while True:
            try:
                with self._page("/healthz", max(0.1, end - time.monotonic())):
                    return
            except OSError as error:
                if not self.running or time.monotonic() >= end:
                    raise ImpalaLBError(
                        f"The sandbox's {self.name} does not answer:\n{self._error_output()}"
                    ) from error
                time.sleep(0.02)

    def _error_output(self) -> str:
        if self._errors is None:
            return ""
        self._errors.seek(0)
        return self._errors.read().decode(errors="replace")[-4000:]

    def kill(self) -> None:
        """SIGKILL: connections break, sessions are lost, nothing is closed."""
        self._signal(signal.SIGKILL)
        if self._process is not None:
            self._process.wait()

    def pause(self) -> None:
        """SIGSTOP: from the return of this it accepts connections (the kernel does), and answers nothing."""
        self._signal(signal.SIGSTOP)
        if self._process is not None:  # on a busy machine its threads may go on for a moment
            self._process.wait_stopped()

    def resume(self) -> None:
        """SIGCONT: it goes on after :meth:`pause`."""
        self._signal(signal.SIGCONT)

    def drain(self) -> None:
        """Begin a graceful shutdown, as ``:shutdown()`` does: once this returns, it refuses sessions and statements.

        :raises ImpalaLBError: its pages did not report it within 10 s (it is paused, perhaps).
        """
        self._signal(signal.SIGRTMIN)
        end = time.monotonic() + 10
        while self.running:
            try:
                with self._page("/?json", 10) as page:
                    if json.load(page)["is_quiescing"]:
                        return
            except OSError as error:
                if self.running and time.monotonic() >= end:
                    raise ImpalaLBError(f"The sandbox's {self.name} does not begin its shutdown.") from error
            if time.monotonic() >= end:
                raise ImpalaLBError(f"The sandbox's {self.name} does not begin its shutdown.")
            time.sleep(0.01)

    def set_load(
        self,
        memory: float | None = None,
        *,
        heap: float | None = None,
        connections: int = 0,
        queries: int = 0,
        sessions: int = 0,
        queued: int = 0,
    ) -> None:
        """From the next request on its metrics report this load; without arguments, the real one again.

        :param memory: part of its memory limit in use, 0 to 1; None (default): what is.
        :param heap: part of its JVM's heap in use, 0 to 1; None (default): what is.
        :param connections: HiveServer2 connections beside the real ones, of 64 (the flag ``fe_service_threads``);
            default 0.
        :param queries: registered queries beside the real ones; default 0.
        :param sessions: open sessions beside the real ones; default 0.
        :param queued: queries that wait in the pool ``default-pool``, of 200 that may; default 0.
        :raises ValueError: a value below 0, or a part above 1.
        """
        SimulatedLoad(memory, heap, connections, queries, sessions, queued).write(self._settings.load_file)

    def hold(self, point: str, *, sql: str = "", times: int = 0) -> Switch:
        """From now on statements that come to a point stay there, until the switch is released::

            with cluster.nodes[0].hold("catalog", sql="truncate") as held:
                ...             # in another thread: run the script
                held.wait()     # until a TRUNCATE is there

        :param point: one of :data:`airflow_provider_impala_lb.sandbox.common.switches.POINTS`.
        :param sql: only statements that contain this text; default empty: all.
        :param times: only the first so many; default 0: all.
        :returns: the switch, a context manager.
        :raises ValueError: an unknown point.
        """
        return self._switch(Setting(point, "hold", sql, times))

    def delay(self, point: str, seconds: float, *, sql: str = "", times: int = 0) -> Switch:
        """From now on statements stay so long at a point.

        :param point: as :meth:`hold`.
        :param seconds: how long.
        :param sql: as :meth:`hold`; default empty.
        :param times: as :meth:`hold`; default 0.
        :returns: the switch, a context manager.
        :raises ValueError: an unknown point, or seconds below 0.
        """
        return self._switch(Setting(point, "delay", sql, times, seconds))

    def fail(self, point: str, text: str = "", *, sql: str = "", times: int = 0) -> Switch:
        """From now on statements fail at a point; at ``archiving`` their record is lost; ``queries_page`` is an HTTP
        500.

        :param point: as :meth:`hold`.
        :param text: the error; default empty: what Impala says there.
        :param sql: as :meth:`hold`; default empty.
        :param times: as :meth:`hold`; default 0.
        :returns: the switch, a context manager.
        :raises ValueError: an unknown point.
        """
        return self._switch(Setting(point, "fail", sql, times, text=text))

    def stale_queries_page(self) -> Switch:
        """From now on ``/queries`` is what it is now, as a proxy may serve it.

        :returns: the switch, a context manager.
        """
        with self._page("/queries?json", 10) as page:
            return self._switch(Setting("queries_page", "copy", text=page.read().decode()))

    def queries_page_of(self, other: SandboxNode) -> Switch:
        """From now on ``/queries`` is another coordinator's, as behind a load balancer.

        :param other: whose it is.
        :returns: the switch, a context manager.
        """
        return self._switch(Setting("queries_page", "of", text=other.web))

    def _switch(self, setting: Setting) -> Switch:
        return Switch(self._settings.switches_directory, setting)

    def _page(self, path: str, timeout: float) -> Any:
        return open_page(self.web + path, self._access.key, timeout)

    def _signal(self, number: int) -> None:
        if self._process is not None:
            self._process.signal(number)

    def stop(self) -> None:
        """End the process, also one that is paused. Does nothing to one that has ended."""
        if self._process is not None:
            self._dispose()

    def _dispose(self) -> None:
        if self._process is not None:
            self._process.close()
        if self._errors is not None:
            self._errors.close()
            self._errors = None
