"""A coordinator's process, once it has been forked.

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
from collections.abc import Callable
from pathlib import Path
from typing import TypeVar

from airflow_provider_impala_lb.sandbox.common.activity_log import ActivityLog
from airflow_provider_impala_lb.sandbox.common.confinement import TEMPORARY, Confinement
from airflow_provider_impala_lb.sandbox.common.flags import Flags
from airflow_provider_impala_lb.sandbox.common.metadata_lag import CoordinatorCatalog
from airflow_provider_impala_lb.sandbox.common.node_settings import NodeSettings
from airflow_provider_impala_lb.sandbox.common.switches import Switches
from airflow_provider_impala_lb.sandbox.common.versions import Behaviour
from airflow_provider_impala_lb.sandbox.common.web_access import WebAccess
from airflow_provider_impala_lb.sandbox.coordinator.admission import AdmissionController
from airflow_provider_impala_lb.sandbox.coordinator.coordinator import Coordinator
from airflow_provider_impala_lb.sandbox.coordinator.operation import Services
from airflow_provider_impala_lb.sandbox.coordinator.registry import RegisteredNode, register
from airflow_provider_impala_lb.sandbox.server.hs2_server import HS2Server
from airflow_provider_impala_lb.sandbox.sql.catalog_calls import CatalogCalls
from airflow_provider_impala_lb.sandbox.sql.engine import Engine
from airflow_provider_impala_lb.sandbox.web.pages import start_web

_HOST = "127.0.0.1"
_PORTS = range(20000, 32000)
_PR_SET_PDEATHSIG = 1
_Bound = TypeVar("_Bound")


def main(settings: NodeSettings) -> None:
    """Run a coordinator until its parent ends, or a graceful shutdown is over. Does not return.

    :param settings: its own.
    """
    os.umask(0o077)  # its files are only for the user who started it
    die_with(settings.parent)
    directory = Path(settings.directory)
    users = json.loads(Path(settings.users).read_text()) if settings.users else None
    listener = _bound(settings.port, _listen)
    temporary = directory / TEMPORARY / settings.name
    temporary.mkdir(parents=True, exist_ok=True)
    log = ActivityLog(settings.activity_file)
    confinement = Confinement(directory, [Path(path) for path in settings.allow])
    engine = Engine(temporary, confinement.roots)
    flags = Flags.of(settings.flags)
    services = Services(
        flags,
        CoordinatorCatalog(directory),
        engine,
        confinement,
        log,
        Switches(settings.switches_directory),
        Behaviour(settings.version),
        AdmissionController(flags),
        CatalogCalls(directory, settings.switches_directory),
    )
    coordinator = Coordinator(directory, services, settings.load_file)
    coordinator.admins = frozenset(settings.admins)
    coordinator.address = f"{_HOST}:{listener.getsockname()[1]}"
    access = WebAccess.read(Path(settings.web))
    coordinator.web_key = access.key
    web_port = _bound(settings.web_port, lambda port: start_web(coordinator, (_HOST, port), access))
    coordinator.web_address = f"{_HOST}:{web_port}"
    metrics_port = 0
    if access.metrics_port:
        metrics_port = _bound(settings.metrics_port, lambda port: start_web(coordinator, (_HOST, port), access, True))
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


def die_with(parent: int) -> None:
    """A killed parent must leave no coordinator, also not one that is stopped or whose pipe was inherited elsewhere.

    :param parent: id of the process to end with.
    :raises SystemExit: that is gone.
    """
    ctypes.CDLL(None).prctl(_PR_SET_PDEATHSIG, signal.SIGKILL)
    if os.getppid() != parent:
        raise SystemExit("The parent process is gone.")


def _bound(port: int, bind: Callable[[int], _Bound]) -> _Bound:
    """What ``bind`` makes of a port that is free.

    :param port: 0: a free one below the range the kernel takes for clients, so that it stays free after a kill.
    :raises OSError: the port is taken, or no free one was found.
    """
    if port:
        return bind(port)
    for candidate in random.sample(_PORTS, 200):
        try:
            return bind(candidate)
        except OSError:
            continue
    raise OSError(f"No free port found on {_HOST} between {_PORTS.start} and {_PORTS.stop}.")


def _listen(port: int) -> socket.socket:
    listener = socket.socket(socket.AF_INET, socket.SOCK_STREAM)
    listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    try:
        listener.bind((_HOST, port))
        listener.listen(512)
    except OSError:
        listener.close()
        raise
    return listener


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
