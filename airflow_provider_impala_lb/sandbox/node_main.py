"""A coordinator's process: ``python -m airflow_provider_impala_lb.sandbox.node_main '{"name": ..., ...}'``.

When it serves, it prints one JSON line with its ports. It ends with the process that holds the other end of its
standard input.
"""

from __future__ import annotations

import ctypes
import json
import os
import random
import select
import signal
import socket
import sys
import threading
import time
from pathlib import Path

from airflow_provider_impala_lb.sandbox.common.activity_log import ActivityLog
from airflow_provider_impala_lb.sandbox.common.confinement import TEMPORARY, Confinement
from airflow_provider_impala_lb.sandbox.common.flags import Flags
from airflow_provider_impala_lb.sandbox.common.metadata_lag import CoordinatorCatalog
from airflow_provider_impala_lb.sandbox.common.node_settings import NodeSettings
from airflow_provider_impala_lb.sandbox.common.registry import RegisteredNode, register
from airflow_provider_impala_lb.sandbox.common.web_access import WebAccess
from airflow_provider_impala_lb.sandbox.server.coordinator import Coordinator
from airflow_provider_impala_lb.sandbox.server.hs2_server import HS2Server
from airflow_provider_impala_lb.sandbox.server.operation import Services
from airflow_provider_impala_lb.sandbox.sql.engine import Engine
from airflow_provider_impala_lb.sandbox.web.pages import start_web

_HOST = "127.0.0.1"
_PR_SET_PDEATHSIG = 1


def main(arguments: list[str]) -> None:
    """Run a coordinator until its parent ends, or a graceful shutdown is over. Does not return.

    :param arguments: one: the JSON of a :class:`airflow_provider_impala_lb.sandbox.common.node_settings.NodeSettings`.
    """
    os.umask(0o077)  # its files are only for the user who started it
    settings = NodeSettings.of_json(arguments[0])
    _die_with(settings.parent)
    directory = Path(settings.directory)
    users = json.loads(Path(settings.users).read_text()) if settings.users else None
    listener = _listen(settings.port)
    temporary = directory / TEMPORARY / settings.name
    temporary.mkdir(parents=True, exist_ok=True)
    log = ActivityLog(settings.activity_file)
    confinement = Confinement(directory, [Path(path) for path in settings.allow])
    engine = Engine(temporary, confinement.roots)
    services = Services(Flags.of(settings.flags), CoordinatorCatalog(directory), engine, confinement, log)
    coordinator = Coordinator(directory, services, settings.load_file)
    coordinator.address = f"{_HOST}:{listener.getsockname()[1]}"
    access = WebAccess.read(Path(settings.web))
    coordinator.web_key = access.key
    web_port = _start_web(coordinator, settings.web_port, access)
    coordinator.web_address = f"{_HOST}:{web_port}"
    metrics_port = _start_web(coordinator, settings.metrics_port, access, True) if access.metrics_port else 0
    signal.signal(signal.SIGRTMIN, lambda *_: threading.Thread(target=coordinator.begin_shutdown).start())
    signal.signal(signal.SIGTERM, lambda *_: coordinator.over.set())
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C reaches the whole foreground group; the parent decides
    HS2Server(coordinator, listener, users).start()
    web = access.url(_HOST, web_port)
    register(
        directory,
        settings.name,
        RegisteredNode(coordinator.address, web, os.getpid(), time.time()),
    )
    ports = {"port": listener.getsockname()[1], "web_port": web_port, "metrics_port": metrics_port}
    print(json.dumps(ports), flush=True)
    _stay(coordinator)


def _die_with(parent: int) -> None:
    """A killed parent must leave no coordinator, also not one that is stopped or whose pipe was inherited elsewhere."""
    ctypes.CDLL(None).prctl(_PR_SET_PDEATHSIG, signal.SIGKILL)
    if os.getppid() != parent:
        raise SystemExit("The parent process is gone.")


def _listen(port: int) -> socket.socket:
    """:param port: 0: a free one below the range the kernel takes for clients, so that it stays free after a kill."""
    for candidate in [port] if port else random.sample(range(20000, 32000), 200):
        listener = socket.socket(socket.AF_INET, socket.SOCK_STREAM)
        listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            listener.bind((_HOST, candidate))
            listener.listen(512)
        except OSError:
            listener.close()
            if port:
                raise
            continue
        return listener
    raise OSError("No free port found on 127.0.0.1 between 20000 and 32000.")


def _start_web(coordinator: Coordinator, port: int, access: WebAccess, metrics_only: bool = False) -> int:
    for candidate in [port] if port else random.sample(range(20000, 32000), 200):
        try:
            return start_web(coordinator, (_HOST, candidate), access, metrics_only)
        except OSError:
            if port:
                raise
    raise OSError("No free port found on 127.0.0.1 between 20000 and 32000.")


def _stay(coordinator: Coordinator) -> None:
    """Until the parent closes its end of our standard input, or a graceful shutdown is over."""

    def watch() -> None:
        while True:
            readable, _, _ = select.select([sys.stdin], [], [])
            if readable and not os.read(sys.stdin.fileno(), 4096):
                coordinator.over.set()
                return

    threading.Thread(target=watch, name="parent", daemon=True).start()
    # The kernel may hand a signal to any thread; Python's handler runs when this one next wakes up.
    while not coordinator.over.wait(0.2):
        pass
    # Threads that wait for clients, and DuckDB's destructors, would only hold the exit up.
    os._exit(0)


if __name__ == "__main__":
    main(sys.argv[1:])
