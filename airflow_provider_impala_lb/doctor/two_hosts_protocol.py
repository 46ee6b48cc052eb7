"""What the doctors of two hosts send each other over TCP: lines of text.

::

    caller                                         listener
    impala-lb-doctor 2 <cluster> <lock file>  ->
                                              <-   the same, of its own: either host sees what differs
    {its host and directory}                  ->
                                              <-   {its host, directory, and the new file's name}
    "the token read in it", or ""             ->
                                              <-   clock                              five times
    its clock                                 ->
                                              <-   a turn's number: see lock_trial.py
    1 or 0                                    ->
                                              <-   {TwoHostResult}, at any time the last line

No secret crosses, and nothing is done for the caller but what is listed here: it names no file.
"""

from __future__ import annotations

import os
import socket
import time
from urllib.parse import quote, unquote

import msgspec

from airflow_provider_impala_lb.core.timing import Deadline
from airflow_provider_impala_lb.doctor.lock_trial import TrialResult

VERSION = "2"
GREETING = "impala-lb-doctor"
SILENCE = 30.0
"""Seconds to wait for a line: longer than a turn may take: a lock has a deadline of 5 s."""
LINE_BYTES = 16384


class Task(msgspec.Struct):
    """What the check of two hosts is to do, in a process of its own.

    :ivar lock_file: path of the lock file on this host.
    :ivar cluster: the configuration's name.
    :ivar host: where to listen, or where the other host listens.
    :ivar port: likewise.
    :ivar wait: seconds for the other host to come, or to be there.
    :ivar name: the new file's, for the listener; "": call.
    :ivar command: how a command for the other host begins, for a shell.
    """

    lock_file: str
    cluster: str
    host: str
    port: int
    wait: float
    name: str = ""
    command: str = "impala-lb"


class Host(msgspec.Struct, omit_defaults=True):
    """One of the two.

    :ivar host: its name.
    :ivar directory: of its lock file.
    :ivar file: the new file's name, of the listener.
    """

    host: str
    directory: str
    file: str = ""


class TwoHostResult(msgspec.Struct, omit_defaults=True):
    """What came of it; both hosts end with the same one if they reached each other.

    :ivar failed: why there is no result; "" if there is one.
    :ivar remedy: what to do about it.
    :ivar listener: who listened; None: they did not come so far.
    :ivar caller: who called; None: likewise.
    :ivar same: whether the caller sees the file that the listener made.
    :ivar ahead: the listener's clock minus the caller's, in seconds.
    :ivar uncertainty: by how much that may be off, in seconds; 0: not compared.
    :ivar trial: of the lock; None: not made.
    """

    failed: str = ""
    remedy: str = ""
    listener: Host | None = None
    caller: Host | None = None
    same: bool = False
    ahead: float = 0.0
    uncertainty: float = 0.0
    trial: TrialResult | None = None


class PeerFinished(Exception):
    """The other host has sent its result, the last line.

    :param result: as it was sent.
    :ivar result: likewise.
    """

    def __init__(self, result: TwoHostResult) -> None:
        super().__init__()
        self.result = result


class LineChannel:
    """Lines over a connection, of bounded length, each awaited for a bounded time.

    :param connection: to the other host.
    """

    def __init__(self, connection: socket.socket) -> None:
        connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        self._connection = connection
        self._read = b""

    def send(self, line: str) -> None:
        """Send a line.

        :param line: without its end.
        :raises OSError: the other has gone, or takes nothing.
        """
        self._connection.settimeout(SILENCE)
        self._connection.sendall(line.encode() + b"\n")

    def receive(self, seconds: float = SILENCE) -> str:
        """Wait for a line, and return it without its end.

        :param seconds: to wait at most; default `SILENCE`.
        :raises TimeoutError: no whole line came.
        :raises EOFError: the other has gone, or sent what is no line.
        """
        deadline = Deadline(seconds)
        while b"\n" not in self._read:
            if len(self._read) > LINE_BYTES:
                raise EOFError
            if deadline.passed():
                raise TimeoutError
            self._connection.settimeout(max(0.001, deadline.remaining))
            read = self._connection.recv(LINE_BYTES)
            if not read:
                raise EOFError
            self._read += read
        line, _, self._read = self._read.partition(b"\n")
        return line.decode(errors="replace")

    def send_result(self, result: TwoHostResult) -> None:
        """Send the last line.

        :param result: the result.
        :raises OSError: as :meth:`send`.
        """
        self.send(msgspec.json.encode(result).decode())

    def tell(self, number: int) -> None:
        """Send a number, for `lock_trial`.

        :param number: any.
        :raises OSError: as :meth:`send`.
        """
        self.send(str(int(number)))

    def hear(self) -> int:
        """Wait for a number, for `lock_trial`. The listener's questions for the time are answered meanwhile.

        :raises PeerFinished: the other sent its result instead.
        :raises OSError: as :meth:`receive`.
        :raises EOFError: as :meth:`receive`.
        :raises ValueError: something else came.
        """
        while True:
            line = self.receive()
            if line == "clock":
                self.send(repr(time.time()))
            elif line.startswith("{"):
                raise PeerFinished(msgspec.json.decode(line, type=TwoHostResult))
            else:
                return int(line)


def greeting_of(task: Task) -> str:
    """The first line that this host sends.

    :param task: of this host.
    """
    return f"{GREETING} {VERSION} {quote(task.cluster, safe='')} {quote(os.path.basename(task.lock_file), safe='')}"


def find_mismatch(task: Task, greeting: str) -> TwoHostResult | None:
    """Why this host and the one that greeted so cannot be checked together; None if they can.

    :param task: of this host.
    :param greeting: the other's.
    """
    mine, theirs = (line.split(" ") for line in (greeting_of(task), greeting))
    if theirs[1:2] != mine[1:2]:
        return TwoHostResult(
            failed=f"the other host has version {theirs[1] if theirs[1:] else '?'} of this check, this one {VERSION}",
            remedy="install the same version of this package on both",
        )
    for at, what in ((2, "cluster"), (3, "lock file")):
        if theirs[at : at + 1] != mine[at : at + 1]:
            other = unquote(theirs[at]) if theirs[at:] else "?"
            return TwoHostResult(
                failed=f"the other host is of another {what}: {other}, not {unquote(mine[at])}",
                remedy="give both hosts the same configuration",
            )
    return None


def describe_failure(error: BaseException) -> str:
    """What it means that the check ended with an error.

    :param error: the error.
    """
    if isinstance(error, TimeoutError):
        return f"the other host was silent for {SILENCE:g} s: a lock or a write hangs there"
    if isinstance(error, (EOFError, ConnectionError)):
        return "the other host has gone in the middle"
    if isinstance(error, (ValueError, msgspec.DecodeError)):
        return f"the other host sent what is not understood: {error}"
    return str(error)
