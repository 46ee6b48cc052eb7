"""Do two hosts see one lock directory, and does a lock there hold between them?

The doctors of both hosts run at the same time: one listens, the other calls. They connect over TCP, compare their
clocks, and try the lock (lock_trial.py) on one new file in the lock directory, each by its own mount. What goes over
the connection: two_hosts_protocol.py.

On either host that is a process of its own, since on a broken mount a call may hang where no signal reaches it:
``python -m airflow_provider_impala_lb.doctor.two_hosts TASK``, a JSON `Task`. It prints a JSON `TwoHostResult`, and
ends when its standard input does. First here what the doctor does, then what that process does.
"""

from __future__ import annotations

import os
import re
import secrets
import signal
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path

import msgspec

from airflow_provider_impala_lb.core.config.address import format_address, parse_address
from airflow_provider_impala_lb.core.state.model import LEASE_SECONDS
from airflow_provider_impala_lb.core.state.state import State
from airflow_provider_impala_lb.core.timing import Deadline
from airflow_provider_impala_lb.doctor.finding import Finding
from airflow_provider_impala_lb.doctor.lock_directory import judge_trial, make_in_mode
from airflow_provider_impala_lb.doctor.lock_trial import follow, lead
from airflow_provider_impala_lb.doctor.two_hosts_protocol import (
    GREETING,
    Host,
    LineChannel,
    PeerFinished,
    Task,
    TwoHostResult,
    describe_failure,
    find_mismatch,
    greeting_of,
)
from airflow_provider_impala_lb.errors import ConfigError, ImpalaLBError
from airflow_provider_impala_lb.stores.file.store import FileStore

LISTEN_SECONDS = 60.0
CALL_SECONDS = 15.0
TOGETHER_LIMIT = 60.0
"""Seconds for all that comes after the two have connected; it takes about 5."""
GREETING_SECONDS = 5.0
"""A connection that sends nothing for this long is not the other doctor; the next one is waited for."""
_SIGHT_SECONDS = 3.0
"""How long the caller looks for the listener's file: a cache of names may not show it at once."""
_CLOCK_ROUNDS = 5
_FILE_NAME = r"\.impala-lb-doctor\.[0-9a-f]{16}"


def parse_listen(text: str) -> tuple[str, int]:
    """``[ADDRESS:]PORT`` as (address, port); without an address only this host can come.

    :param text: of the option.
    :raises ConfigError: it is something else.
    """
    return _host_port(f"127.0.0.1:{text}" if re.fullmatch(r"\d+", text) else text, f"--listen {text}: [ADDRESS:]PORT")


def parse_peer(text: str) -> str | tuple[str, int]:
    """A directory as it is (one that exists, or has a ``/``), ``HOST:PORT`` as a pair.

    :param text: of the option.
    :raises ConfigError: it is something else.
    """
    if "/" in text or Path(text).is_dir():
        return text
    return _host_port(text, f"--peer {text}: a directory that is there, or HOST:PORT")


def _host_port(text: str, wrong: str) -> tuple[str, int]:
    try:
        host, port = parse_address(text, default_port=-1)
    except ValueError:
        port = -1
    if not 0 <= port < 65536:
        raise ConfigError(f"{wrong} is expected")
    return host, port


def check_other_host(
    lock_file: str,
    cluster: str,
    address: tuple[str, int],
    *,
    listen: bool,
    wait: float | None = None,
    command: str = "impala-lb",
) -> Iterator[Finding]:
    """Try the lock together with the doctor of another host, over TCP; in another process, which may hang.

    :param lock_file: path of the lock file on this host.
    :param cluster: the configuration's name.
    :param address: where to listen, or where the other host listens.
    :param listen: whether to listen.
    :param wait: seconds for the other to come, or to be there; default 60, or 15.
    :param command: how the command for the other host begins, for a shell; default impala-lb.
    """
    wait = wait if wait is not None else LISTEN_SECONDS if listen else CALL_SECONDS
    name = f".impala-lb-doctor.{secrets.token_hex(8)}" if listen else ""
    task = Task(
        lock_file=lock_file, cluster=cluster, host=address[0], port=address[1], wait=wait, name=name, command=command
    )
    alive = os.pipe()
    child = subprocess.Popen(  # noqa: S603  our own command
        [sys.executable, "-m", "airflow_provider_impala_lb.doctor.two_hosts", msgspec.json.encode(task).decode()],
        stdin=alive[0],
        stdout=subprocess.PIPE,
        text=True,
    )
    os.close(alive[0])
    try:
        output, _ = child.communicate(timeout=wait + TOGETHER_LIMIT)
    except subprocess.TimeoutExpired:
        yield Finding(
            "other host",
            "failed",
            f"no result within {wait + TOGETHER_LIMIT:g} s",
            "a call hangs in this host's mount: look at it, and at the file server's lock manager",
        )
        return
    finally:
        child.kill()  # not waited for: where locks hang, so does the end of who waits for one
        os.close(alive[1])
        if name:
            with suppress(OSError):
                os.unlink(Path(lock_file).parent / name)
    if child.returncode:
        yield Finding("other host", "failed", "the check ended early")
        return
    yield from judge(msgspec.json.decode(output, type=TwoHostResult), listen)


def judge(result: TwoHostResult, listen: bool) -> Iterator[Finding]:
    """What a result means: the same on both hosts, but for whose clock is ahead.

    :param result: of the check.
    :param listen: whether this host listened.
    """
    if result.listener is None or result.caller is None:
        yield Finding("other host", "failed", _plain(result.failed), _plain(result.remedy))
        return
    listener, caller = (_plain(f"{each.host}:{each.directory}") for each in (result.listener, result.caller))
    if result.same:
        yield Finding("lock directory, two hosts", "ok", f"{listener} and {caller} are one")
    elif not result.failed:
        yield Finding(
            "lock directory, two hosts",
            "failed",
            f"{listener} and {caller} are not the same directory: a file made in the first is not seen in the second",
            "mount the same share on both hosts, and name it by the same lock_file",
        )
        return
    if result.uncertainty:
        yield _judge_clocks(result, listen)
    if result.failed or result.trial is None:
        yield Finding("locking, two hosts", "failed", _plain(result.failed), _plain(result.remedy))
    else:
        yield judge_trial("locking, two hosts", result.trial)


def _judge_clocks(result: TwoHostResult, listen: bool) -> Finding:
    assert result.listener is not None and result.caller is not None
    ahead, other = (result.ahead, result.caller) if listen else (-result.ahead, result.listener)
    message = (
        f"this host is {ahead:+.3f} s beside {_plain(other.host)}, give or take {max(result.uncertainty, 0.001):.3f} s"
    )
    # On NFS picks go by the server's clock; elsewhere by the host's.
    if abs(ahead) - result.uncertainty > LEASE_SECONDS / 4:
        return Finding("clock, two hosts", "warning", message, "set the clocks by NTP")
    return Finding("clock, two hosts", "ok", message)


def _plain(text: str) -> str:
    """What another host sent, fit for a terminal."""
    return "".join(letter if letter.isprintable() else "?" for letter in text)[:1000]


def listen(task: Task) -> TwoHostResult:
    """Wait for the caller, lead the trial, and send it the result.

    :param task: of this host.
    :raises StateUnavailable: the new file cannot be made.
    :raises ConfigError: likewise.
    """
    path = str(Path(task.lock_file).parent / task.name)
    token = secrets.token_hex(16)

    def mark(state: State, now: float) -> None:
        state.head.cluster = token

    try:
        make_in_mode(path, FileStore(task.lock_file).mode)  # on either mount
        FileStore(path).transact(mark)  # before anybody comes: a directory that is not fit is no reason to wait
        connection = _caller(task)
        if isinstance(connection, TwoHostResult):
            return connection
        with connection:
            channel = LineChannel(connection)
            result = TwoHostResult()
            try:
                _lead(channel, task, path, token, result)
            except PeerFinished as finished:
                result.failed = finished.result.failed
            except (ImpalaLBError, OSError, EOFError, ValueError, msgspec.DecodeError) as error:
                result.failed = f"{os.uname().nodename}: {describe_failure(error)}"[:1000]
            with suppress(OSError):
                channel.send_result(result)
            return result
    finally:
        with suppress(OSError):
            os.unlink(path)


def _caller(task: Task) -> socket.socket | TwoHostResult:
    """The connection of the other doctor; of whoever else comes, none."""
    deadline = Deadline(task.wait)
    try:
        family = socket.getaddrinfo(task.host, task.port, type=socket.SOCK_STREAM)[0][0]
        server = socket.create_server((task.host, task.port), family=family)
    except OSError as error:
        address = format_address(task.host, task.port)
        return TwoHostResult(
            failed=f"cannot listen on {address}: {error.strerror or error}", remedy="give an address of this host"
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
        while (remaining := deadline.remaining) > 0:
            server.settimeout(remaining)
            try:
                connection, _ = server.accept()
            except OSError:
                continue  # nobody in time, or one who was gone at once
            try:
                channel = LineChannel(connection)
                greeting = channel.receive(min(GREETING_SECONDS, remaining))
                if greeting.split(" ")[0] == GREETING:
                    channel.send(greeting_of(task))
                    wrong = find_mismatch(task, greeting)
                    if wrong:
                        connection.close()
                    return wrong or connection
            except (OSError, EOFError):
                pass
            connection.close()
    return TwoHostResult(
        failed=f"nobody came to {address} within {task.wait:g} s",
        remedy=f"run on the other host: {task.command} doctor --peer {address}; only an address that it can reach will "
        "do",
    )


def _lead(channel: LineChannel, task: Task, path: str, token: str, result: TwoHostResult) -> None:
    result.caller = msgspec.json.decode(channel.receive(), type=Host)
    result.listener = Host(os.uname().nodename, str(Path(path).parent))
    channel.send(msgspec.json.encode(Host(result.listener.host, result.listener.directory, task.name)).decode())
    seen = channel.receive()
    if seen.startswith("{"):
        raise PeerFinished(msgspec.json.decode(seen, type=TwoHostResult))
    result.same = seen == token
    if not result.same:
        return
    result.ahead, result.uncertainty = _compare_clocks(channel)
    result.trial = lead(path, channel.tell, channel.hear)


def _compare_clocks(channel: LineChannel) -> tuple[float, float]:
    """This clock minus the other's, and by how much that may be off: of the quickest of some rounds, as NTP does."""
    best = (0.0, float("inf"))
    for _ in range(_CLOCK_ROUNDS):
        asked, start = time.time(), time.monotonic()
        channel.send("clock")
        theirs = float(channel.receive())
        half = (time.monotonic() - start) / 2
        best = min(best, (asked + half - theirs, half), key=lambda pair: pair[1])
    return best


def call(task: Task) -> TwoHostResult:
    """Go to the listener, follow in the trial, and return the listener's result.

    :param task: of this host.
    """
    connection = _connect(task)
    if isinstance(connection, TwoHostResult):
        return connection
    with connection:
        channel = LineChannel(connection)
        try:
            channel.send(greeting_of(task))
            greeting = channel.receive()
            if greeting.split(" ")[0] != GREETING:
                return TwoHostResult(
                    failed=f"what answers at {format_address(task.host, task.port)} is not impala-lb doctor --listen"
                )
            if wrong := find_mismatch(task, greeting):
                return wrong
            try:
                _follow(channel, str(Path(task.lock_file).parent))
            except ImpalaLBError as error:
                channel.send_result(TwoHostResult(failed=f"{os.uname().nodename}: {error}"[:1000]))
            while True:
                channel.hear()
        except PeerFinished as finished:
            return finished.result
        except (OSError, EOFError, ValueError, msgspec.DecodeError) as error:
            return TwoHostResult(failed=describe_failure(error), remedy="see what the other host says")


def _connect(task: Task) -> socket.socket | TwoHostResult:
    deadline = Deadline(task.wait)
    while True:
        try:
            return socket.create_connection((task.host, task.port), timeout=max(0.1, deadline.remaining))
        except OSError as error:
            # The other doctor looks at its own host first, so it may be late.
            if isinstance(error, ConnectionRefusedError) and not deadline.passed(0.2):
                time.sleep(0.2)
                continue
            return TwoHostResult(
                failed=f"cannot reach {format_address(task.host, task.port)}: {error.strerror or error}",
                remedy=f"run on the other host: {task.command} doctor --listen ADDRESS:PORT, an address that this "
                "host can reach",
            )


def _follow(channel: LineChannel, directory: str) -> None:
    channel.send(msgspec.json.encode(Host(os.uname().nodename, directory)).decode())
    name = msgspec.json.decode(channel.receive(), type=Host).file
    if not re.fullmatch(_FILE_NAME, name):
        raise ValueError(f"it named the file {name!r}")
    path = str(Path(directory) / name)
    deadline = Deadline(_SIGHT_SECONDS)
    while not (token := FileStore(path).read()[0].head.cluster) and not deadline.passed():
        time.sleep(0.2)
    channel.send(token)
    if not token:
        return
    try:
        follow(path, channel.tell, channel.hear)
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
    """Print the result of the check.

    :param argument: a JSON `Task`.
    """
    task = msgspec.json.decode(argument, type=Task)
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C reaches the parent too, and this process ends with it
    threading.Thread(target=_end_with_parent, args=(task,), daemon=True).start()
    try:
        result = listen(task) if task.name else call(task)
    except ImpalaLBError as error:
        result = TwoHostResult(failed=str(error))
    sys.stdout.write(msgspec.json.encode(result).decode() + "\n")


if __name__ == "__main__":
    main(sys.argv[1])
