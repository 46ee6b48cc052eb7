"""What two doctors say to each other over TCP: lines of text.

::

    caller                                         listener
    impala-lb-doctor 1 <cluster> <lock file>  ->
                                              <-   the same, of its own: either side sees what differs
    {its host and directory}                  ->
                                              <-   {its host, directory, and the new file's name}
    "the token read in it", or ""             ->
                                              <-   clock                              five times
    its clock                                 ->
                                              <-   whose turn it is: see stores/turns.py
    1 or 0                                    ->
                                              <-   {Found}, at any time the last word

No secret crosses, and nothing is done for the caller but what is listed here: it names no file.
"""

from __future__ import annotations

import os
import socket
import time
from urllib.parse import quote, unquote

import msgspec

from airflow_provider_impala_lb.doctor.lock_trial import Turns

VERSION = "1"
GREETING = "impala-lb-doctor"
SILENCE = 30.0
"""Longer than a turn may take: a lock has a deadline of 5 s."""
LINE_BYTES = 16384


class Task(msgspec.Struct):
    """:param name: the new file's, for the listener. :param wait: seconds for the other to come, or to be there.
    :param command: how a command for the other host begins, for a shell."""

    lock_file: str
    cluster: str
    host: str
    port: int
    wait: float
    name: str = ""
    command: str = "impala-lb"


class Side(msgspec.Struct, omit_defaults=True):
    host: str
    directory: str
    file: str = ""


class TwoHostResult(msgspec.Struct, omit_defaults=True):
    """What came of it; both sides end with the same one if they met.

    :param failed: why there is no result, and ``do`` what to do about it.
    :param same: the caller sees the file that the listener made.
    :param ahead: the listener's clock minus the caller's, in seconds; off by ``give`` at most.
    """

    failed: str = ""
    do: str = ""
    listener: Side | None = None
    caller: Side | None = None
    same: bool = False
    ahead: float = 0.0
    give: float = 0.0
    turns: Turns | None = None


class PeerFinished(Exception):
    """The other side has said its last word."""

    def __init__(self, found: TwoHostResult) -> None:
        super().__init__()
        self.found = found


class LineChannel:
    """Lines over a connection, of bounded length, each awaited for a bounded time."""

    def __init__(self, connection: socket.socket) -> None:
        connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        self._connection = connection
        self._read = b""

    def send(self, line: str) -> None:
        self._connection.settimeout(SILENCE)
        self._connection.sendall(line.encode() + b"\n")

    def receive(self, seconds: float = SILENCE) -> str:
        """:raises TimeoutError: no whole line came. :raises EOFError: the other has gone, or sent what is no line."""
        end = time.monotonic() + seconds
        while b"\n" not in self._read:
            if len(self._read) > LINE_BYTES:
                raise EOFError
            left = end - time.monotonic()
            if left <= 0:
                raise TimeoutError
            self._connection.settimeout(left)
            read = self._connection.recv(LINE_BYTES)
            if not read:
                raise EOFError
            self._read += read
        line, _, self._read = self._read.partition(b"\n")
        return line.decode(errors="replace")

    def tell(self, number: int) -> None:
        self.send(str(int(number)))

    def hear(self) -> int:
        """A number. The listener's questions for the time are answered on the way. :raises Ended: its last word."""
        while True:
            line = self.receive()
            if line == "clock":
                self.send(repr(time.time()))
            elif line.startswith("{"):
                raise PeerFinished(msgspec.json.decode(line, type=TwoHostResult))
            else:
                return int(line)


def hello(task: Task) -> str:
    """The first line of either side."""
    return f"{GREETING} {VERSION} {quote(task.cluster, safe='')} {quote(os.path.basename(task.lock_file), safe='')}"


def differs(task: Task, greeting: str) -> TwoHostResult | None:
    """Why this side and the one that greeted so cannot meet, if they cannot."""
    mine, theirs = (line.split(" ") for line in (hello(task), greeting))
    if theirs[1:2] != mine[1:2]:
        return TwoHostResult(
            failed=f"the other host has version {theirs[1] if theirs[1:] else '?'} of this check, this one {VERSION}",
            do="install the same version of this package on both",
        )
    for at, what in ((2, "cluster"), (3, "lock file")):
        if theirs[at : at + 1] != mine[at : at + 1]:
            other = unquote(theirs[at]) if theirs[at:] else "?"
            return TwoHostResult(
                failed=f"the other host is of another {what}: {other}, not {unquote(mine[at])}",
                do="give both hosts the same configuration",
            )
    return None


def words(error: BaseException) -> str:
    """What it means that a meeting ended with this error."""
    if isinstance(error, TimeoutError):
        return f"the other host was silent for {SILENCE:g} s: a lock or a write hangs there"
    if isinstance(error, (EOFError, ConnectionError)):
        return "the other host has gone in the middle"
    if isinstance(error, (ValueError, msgspec.DecodeError)):
        return f"the other host sent what is not understood: {error}"
    return str(error)
