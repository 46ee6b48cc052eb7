"""Two hosts that meet over TCP and take turns on one new file in the lock directory, each by its own mount.

Run as a program by the doctor on either host, since on a broken mount a call may hang where no signal reaches it:
``python -m airflow_provider_impala_lb.doctor.two_hosts TASK``, a JSON `Task`. It prints a JSON `TwoHostResult`, and
ends when its standard input does. What goes over the connection: two_hosts_protocol.py.
"""

from __future__ import annotations

import os
import re
import secrets
import signal
import socket
import sys
import threading
import time
from contextlib import suppress
from pathlib import Path

import msgspec

from airflow_provider_impala_lb.core.config.address import format_address
from airflow_provider_impala_lb.core.state.state import State
from airflow_provider_impala_lb.doctor.lock_trial import follow, lead
from airflow_provider_impala_lb.doctor.two_hosts_protocol import (
    GREETING,
    LineChannel,
    PeerFinished,
    Side,
    Task,
    TwoHostResult,
    differs,
    hello,
    words,
)
from airflow_provider_impala_lb.errors import ImpalaLBError
from airflow_provider_impala_lb.stores.file import xattr_versions as cas
from airflow_provider_impala_lb.stores.file.store import FileStore

HELLO_SECONDS = 5.0
"""A connection that says nothing for this long is not the other doctor; the next one is waited for."""
_SIGHT = 3.0
"""How long the caller looks for the listener's file: a cache of names may not show it at once."""
_CLOCK_ROUNDS = 5
_FILE_NAME = r"\.impala-lb-doctor\.[0-9a-f]{16}"


def listen(task: Task) -> TwoHostResult:
    """Wait for the caller, lead, and send it what was found."""
    path = str(Path(task.lock_file).parent / task.name)
    token = secrets.token_hex(16)

    def mark(state: State, now: float) -> None:
        state.head.cluster = token

    try:
        if FileStore(task.lock_file).mode == "cas":  # the new file is tried in the lock file's mode, on either mount
            cas.make(path)
        FileStore(path).transact(mark)  # before anybody comes: a directory that is not fit is no reason to wait
        connection = _caller(task)
        if isinstance(connection, TwoHostResult):
            return connection
        with connection:
            wire = LineChannel(connection)
            found = TwoHostResult()
            try:
                _lead(wire, task, path, token, found)
            except PeerFinished as ended:
                found.failed = ended.found.failed
            except (ImpalaLBError, OSError, EOFError, ValueError, msgspec.DecodeError) as error:
                found.failed = f"{os.uname().nodename}: {words(error)}"[:1000]
            with suppress(OSError):
                wire.send(msgspec.json.encode(found).decode())
            return found
    finally:
        with suppress(OSError):
            os.unlink(path)


def _caller(task: Task) -> socket.socket | TwoHostResult:
    """The connection of the other doctor; of whoever else comes, none."""
    end = time.monotonic() + task.wait
    try:
        family = socket.getaddrinfo(task.host, task.port, type=socket.SOCK_STREAM)[0][0]
        server = socket.create_server((task.host, task.port), family=family)
    except OSError as error:
        address = format_address(task.host, task.port)
        return TwoHostResult(
            failed=f"cannot listen on {address}: {error.strerror or error}", do="give an address of this host"
        )
    with server:
        address = format_address(*server.getsockname()[:2])
        print(
            f"impala-lb: waiting {task.wait:g} s at {address} for the other host; "
            f"run there: {task.command} doctor --peer {address}"
            + (" (only this host can reach this address)" if address.startswith(("127.", "[::1]")) else ""),
            file=sys.stderr,
            flush=True,
        )
        while (left := end - time.monotonic()) > 0:
            server.settimeout(left)
            try:
                connection, _ = server.accept()
            except OSError:
                continue  # nobody in time, or one who was gone at once
            try:
                wire = LineChannel(connection)
                greeting = wire.receive(min(HELLO_SECONDS, left))
                if greeting.split(" ")[0] == GREETING:
                    wire.send(hello(task))
                    wrong = differs(task, greeting)
                    if wrong:
                        connection.close()
                    return wrong or connection
            except (OSError, EOFError):
                pass
            connection.close()
    return TwoHostResult(
        failed=f"nobody came to {address} within {task.wait:g} s",
        do=f"run on the other host: {task.command} doctor --peer {address}; only an address that it can reach will do",
    )


def _lead(wire: LineChannel, task: Task, path: str, token: str, found: TwoHostResult) -> None:
    found.caller = msgspec.json.decode(wire.receive(), type=Side)
    found.listener = Side(os.uname().nodename, str(Path(path).parent))
    wire.send(msgspec.json.encode(Side(found.listener.host, found.listener.directory, task.name)).decode())
    seen = wire.receive()
    if seen.startswith("{"):
        raise PeerFinished(msgspec.json.decode(seen, type=TwoHostResult))
    found.same = seen == token
    if not found.same:
        return
    found.ahead, found.give = _compare_clocks(wire)
    found.turns = lead(path, wire.tell, wire.hear)


def _compare_clocks(wire: LineChannel) -> tuple[float, float]:
    """This clock minus the other's, and by how much that may be off: of the quickest of some rounds, as NTP does."""
    best = (0.0, float("inf"))
    for _ in range(_CLOCK_ROUNDS):
        asked, start = time.time(), time.monotonic()
        wire.send("clock")
        theirs = float(wire.receive())
        half = (time.monotonic() - start) / 2
        best = min(best, (asked + half - theirs, half), key=lambda pair: pair[1])
    return best


def call(task: Task) -> TwoHostResult:
    """Go to the listener, follow, and hear what was found."""
    connection = _connect(task)
    if isinstance(connection, TwoHostResult):
        return connection
    with connection:
        wire = LineChannel(connection)
        try:
            wire.send(hello(task))
            greeting = wire.receive()
            if greeting.split(" ")[0] != GREETING:
                return TwoHostResult(
                    failed=f"what answers at {format_address(task.host, task.port)} is not impala-lb doctor --listen"
                )
            if wrong := differs(task, greeting):
                return wrong
            try:
                _follow(wire, str(Path(task.lock_file).parent))
            except ImpalaLBError as error:
                wire.send(msgspec.json.encode(TwoHostResult(failed=f"{os.uname().nodename}: {error}"[:1000])).decode())
            while True:
                wire.hear()
        except PeerFinished as ended:
            return ended.found
        except (OSError, EOFError, ValueError, msgspec.DecodeError) as error:
            return TwoHostResult(failed=words(error), do="see what the other host says")


def _connect(task: Task) -> socket.socket | TwoHostResult:
    end = time.monotonic() + task.wait
    while True:
        try:
            return socket.create_connection((task.host, task.port), timeout=max(0.1, end - time.monotonic()))
        except OSError as error:
            # The other doctor looks at its own host first, so it may be late.
            if isinstance(error, ConnectionRefusedError) and time.monotonic() < end - 0.2:
                time.sleep(0.2)
                continue
            return TwoHostResult(
                failed=f"cannot reach {format_address(task.host, task.port)}: {error.strerror or error}",
                do=f"run on the other host: {task.command} doctor --listen ADDRESS:PORT, an address that this host can "
                "reach",
            )


def _follow(wire: LineChannel, directory: str) -> None:
    wire.send(msgspec.json.encode(Side(os.uname().nodename, directory)).decode())
    name = msgspec.json.decode(wire.receive(), type=Side).file
    if not re.fullmatch(_FILE_NAME, name):
        raise ValueError(f"it named the file {name!r}")
    path = str(Path(directory) / name)
    end = time.monotonic() + _SIGHT
    while not (token := FileStore(path).read()[0].head.cluster) and time.monotonic() < end:
        time.sleep(0.2)
    wire.send(token)
    if not token:
        return
    try:
        follow(path, wire.tell, wire.hear)
    except BaseException:
        with suppress(OSError):
            os.unlink(path)  # the listener may have gone, and a late turn of this side made the file anew
        raise


def _end_with_parent(task: Task) -> None:
    os.read(0, 1)  # not sys.stdin, whose lock the interpreter would want at its end
    if task.name:
        with suppress(OSError):
            os.unlink(Path(task.lock_file).parent / task.name)
    os._exit(1)


def main(argument: str) -> None:
    task = msgspec.json.decode(argument, type=Task)
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C reaches the parent too, and this process ends with it
    threading.Thread(target=_end_with_parent, args=(task,), daemon=True).start()
    try:
        found = listen(task) if task.name else call(task)
    except ImpalaLBError as error:
        found = TwoHostResult(failed=str(error))
    sys.stdout.write(msgspec.json.encode(found).decode() + "\n")


if __name__ == "__main__":
    main(sys.argv[1])
