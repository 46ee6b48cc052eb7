"""A network between a client and a coordinator that breaks where a test wants it to: at this call, in this way.

`Relay` listens and holds what is to go wrong; each connection through it is a thread (`_Connection`), which passes
messages (`tests.support.thrift_messages`) and lets a fault happen to one.
"""

from __future__ import annotations

import collections
import random
import select
import socket
import struct
import threading
import time
from collections.abc import Callable, Iterable
from contextlib import suppress
from dataclasses import dataclass
from typing import Literal

from tests.support.thrift_messages import Messages

Where = Literal["before", "request_half", "after", "within"]
How = Literal["cut", "reset", "blackhole", "delay", "alter"]
NEAR = 10.0
"""Seconds for what happens on this machine at once, unless it is broken."""
SECONDS = 10.0
"""Each socket's timeout."""
_ports: set[int] = set()
"""Of all relays of this process that are not stopped."""


@dataclass(frozen=True)
class Call:
    """One RPC as it reached the relay.

    :ivar rpc: its name
    :ivar nth: which call of this name it is, from 1, over all connections
    :ivar statement: how many ExecuteStatement calls there were so far, this one included
    :ivar connection: number of the connection it came on, from 1
    :ivar request: the message's bytes
    """

    rpc: str
    nth: int
    statement: int
    connection: int
    request: bytes


@dataclass(frozen=True)
class Fault:
    """What goes wrong, at a call.

    :ivar rpc: the call's name; ``"*"``: any
    :ivar nth: which call of that name, from 1
    :ivar where: ``"before"``: the request does not reach the server. ``"request_half"``: half of its bytes do.
        ``"after"``: it reached the server in full, and may be at work there; the reply is not passed on.
        ``"within"``: half of the reply's bytes are passed on
    :ivar how: ``"cut"``: both sides see the connection end (FIN). ``"reset"``: so, but by RST. ``"blackhole"``: both
        connections stay open, and nothing is passed on them any more. ``"delay"``: what is held back at ``where`` is
        passed later, also if the client has hung up meanwhile: so may what is in a socket's buffer.
        ``"alter"``: the client gets what ``alter`` makes of the server's reply, or, with ``"before"``, of its own
        request, which the server then never sees
    :ivar seconds: how long ``"delay"`` holds back
    :ivar times: at how many calls, one after the other
    :ivar down: for so many seconds after it new connections are refused
    :ivar alter: see ``how``
    """

    rpc: str
    nth: int = 1
    where: Where = "after"
    how: How = "cut"
    seconds: float = 0.0
    times: int = 1
    down: float = 0.0
    alter: Callable[[bytes], bytes] = bytes


Decide = Callable[[Call], Fault | None]


class Relay:
    """A TCP proxy for HiveServer2 without SASL. A context manager; no thread is left at its end.

    :param target_host: of the coordinator
    :param target_port: likewise
    :param listen_host: where clients connect to it
    :param listen_port: likewise; 0: a free one
    :param faults: rules, each used up after ``times``; or a callable that is asked for each call
    :param idle: a connection over which nothing has passed for so many seconds is cut, as proxies and firewalls do;
        None: never
    :ivar port: where it listens
    :ivar calls: all that it has seen
    :ivar fired: the faults that happened, each with the call it happened to
    :ivar upstreams: ``host:port`` of its own ends of the connections to the server
    """

    def __init__(
        self,
        target_host: str,
        target_port: int,
        listen_host: str = "127.0.0.1",
        listen_port: int = 0,
        *,
        faults: Iterable[Fault] | Decide = (),
        idle: float | None = None,
    ) -> None:
        self.target = (target_host, target_port)
        self.idle = idle
        self.calls: list[Call] = []
        self.fired: list[tuple[Call, Fault]] = []
        self.upstreams: set[str] = set()
        self.failures: list[BaseException] = []
        self._decide = faults if callable(faults) else _by_rules(list(faults))
        self._counts: collections.Counter[str] = collections.Counter()
        self._changed = threading.Condition()
        self._held = 0
        self._refuse_until, self._silent = 0.0, False
        self._mute: list[socket.socket] = []
        self._connections: list[_Connection] = []
        self._listener, self.port = _listen(listen_host, listen_port)
        self._listen_host = listen_host
        # Whoever polls this end wakes up when the relay stops; "poke" wakes the accepting thread only.
        self._stop_end, self.stop_signal = socket.socketpair()
        self._poke, self._poked = socket.socketpair()
        self._accepting: socket.socket | None = self._listener
        self._thread = threading.Thread(target=self._accept, name=f"relay-{self.port}", daemon=True)
        self._thread.start()

    def __enter__(self) -> Relay:
        return self

    def __exit__(self, *_: object) -> None:
        self.stop()

    def names(self) -> list[str]:
        """The RPCs seen, in order."""
        return [call.rpc for call in self.calls]

    def down(self, seconds: float = float("inf"), *, silent: bool = False) -> None:
        """From now on new connections are refused, or with ``silent`` accepted and never served, until :meth:`up` or
        the seconds are over (``silent`` ones stay so). Connections that there are go on."""
        with self._changed:
            self._silent = silent
            self._refuse_until = 0.0 if silent else time.monotonic() + seconds
        self._poke.send(b"x")
        if not silent:
            self._wait(lambda: self._accepting is None or time.monotonic() >= self._refuse_until)

    def up(self) -> None:
        """New connections are served again."""
        with self._changed:
            self._silent, self._refuse_until = False, 0.0
            self._changed.notify_all()
        self._poke.send(b"x")
        self._wait(lambda: self._accepting is not None)

    def settle(self) -> None:
        """Wait until no message is held back by a ``delay``."""
        self._wait(lambda: self._held == 0)

    def stop(self) -> None:
        """Close everything, and wait for the threads.

        :raises AssertionError: a thread failed, or does not end
        """
        self._stop_end.close()
        with self._changed:
            self._refuse_until = 0.0
            self._changed.notify_all()
        self._thread.join(NEAR)
        for thread in [self._thread, *self._connections]:
            thread.join(NEAR)
            assert not thread.is_alive(), f"{thread.name} does not end"
        for end in (self.stop_signal, self._poke, self._poked, *self._mute):
            end.close()
        _ports.discard(self.port)
        assert not self.failures, self.failures

    # -- for the connections' threads

    def note(self, rpc: str, connection: int, request: bytes) -> tuple[Call, Fault | None]:
        """A request is here; what is to happen to it."""
        with self._changed:
            self._counts[rpc] += 1
            call = Call(rpc, self._counts[rpc], self._counts["ExecuteStatement"], connection, request)
            self.calls.append(call)
        fault = self._decide(call)
        if fault:
            self.fired.append((call, fault))
        return call, fault

    def hold(self, seconds: float) -> None:
        """Return after so many seconds, or when the relay stops."""
        with self._changed:
            self._held += 1
        poll = select.poll()
        poll.register(self.stop_signal, select.POLLIN)
        poll.poll(seconds * 1000)

    def forget_held(self) -> None:
        """After `hold`: what was held has been passed."""
        with self._changed:
            self._held -= 1
            self._changed.notify_all()

    # -- accepting

    def _accept(self) -> None:
        try:
            while not _readable(self.stop_signal):
                if time.monotonic() < self._refuse_until:
                    self._refuse()
                    continue
                self._accept_one()
        except BaseException as error:
            self.failures.append(error)
        finally:
            if self._accepting is not None:
                self._accepting.close()

    def _refuse(self) -> None:
        assert self._accepting is not None
        self._accepting.close()
        with self._changed:
            self._accepting = None
            self._changed.notify_all()
            while (remaining := self._refuse_until - time.monotonic()) > 0:
                self._changed.wait(min(remaining, threading.TIMEOUT_MAX))
        listener, _ = _listen(self._listen_host, self.port)
        with self._changed:
            self._accepting = listener
            self._changed.notify_all()

    def _accept_one(self) -> None:
        assert self._accepting is not None
        poll = select.poll()
        for each in (self._accepting, self.stop_signal, self._poked):
            poll.register(each, select.POLLIN)
        ready = {descriptor for descriptor, _ in poll.poll()}
        if self._poked.fileno() in ready:
            self._poked.recv(64)
        elif self._accepting.fileno() in ready:
            client, _ = self._accepting.accept()
            if self._silent:
                self._mute.append(client)
                return
            connection = _Connection(self, client, len(self._connections) + 1)
            self._connections.append(connection)
            connection.start()

    def _wait(self, condition: Callable[[], bool]) -> None:
        with self._changed:
            assert self._changed.wait_for(condition, NEAR), "the relay does not follow"


class _Over(Exception):
    """The connection is finished, by a fault: ``how``."""

    def __init__(self, how: str) -> None:
        super().__init__(how)
        self.how = how


class _Connection(threading.Thread):
    """One thread for both directions: a socket that another thread reads is not closed by close(), so no RST would be
    sent; and HiveServer2's clients send a request only after the reply to the one before."""

    def __init__(self, relay: Relay, client: socket.socket, number: int) -> None:
        super().__init__(name=f"relay-{relay.port}-{number}", daemon=True)
        self._relay, self._client, self._number = relay, client, number
        self._requests, self._replies = Messages(), Messages()
        self._waiting: collections.deque[Fault | None] = collections.deque()

    def run(self) -> None:
        try:
            self._server = socket.create_connection(self._relay.target, SECONDS)
        except OSError:
            self._client.close()
            return
        self._relay.upstreams.add("{}:{}".format(*self._server.getsockname()))
        for end in (self._client, self._server):
            end.settimeout(SECONDS)
            end.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        try:
            self._pass()
        except _Over as over:
            self._end(over.how)
        except ConnectionError:  # a side has gone, so does the other: a coordinator that was killed resets
            self._end("reset")
        except BaseException as error:
            self._relay.failures.append(error)
        finally:
            self._client.close()
            self._server.close()

    def _pass(self) -> None:
        idle = self._relay.idle
        poll = select.poll()
        for each in (self._client, self._server, self._relay.stop_signal):
            poll.register(each, select.POLLIN)
        while True:
            ready = {descriptor for descriptor, _ in poll.poll(None if idle is None else idle * 1000)}
            if not ready:
                raise _Over("cut")
            if self._relay.stop_signal.fileno() in ready:
                return
            if self._client.fileno() in ready:
                data = self._client.recv(1 << 16)
                if not data:  # it has hung up: the server hears that after all that was sent before
                    self._server.sendall(self._requests.rest)
                    self._server.shutdown(socket.SHUT_WR)
                    poll.unregister(self._client)
                for rpc, message in self._requests.feed(data):
                    self._request(rpc, message)
            if self._server.fileno() in ready:
                data = self._server.recv(1 << 16)
                if not data:
                    return
                for _, message in self._replies.feed(data):
                    self._reply(message)

    def _request(self, rpc: str, message: bytes) -> None:
        _, fault = self._relay.note(rpc, self._number, message)
        if fault is not None and fault.how == "alter" and fault.where == "before":
            self._client.sendall(fault.alter(message))
            return
        self._waiting.append(fault)
        if fault is None:
            self._server.sendall(message)
            return
        if fault.down:
            self._relay.down(fault.down)
        if fault.where in ("before", "request_half"):
            self._break(fault, self._server, message, half=fault.where == "request_half")
            return
        self._server.sendall(message)
        if fault.where == "after" and fault.how not in ("delay", "alter"):
            raise _Over(fault.how)

    def _reply(self, message: bytes) -> None:
        fault = self._waiting.popleft()
        if fault is not None and fault.how == "alter":
            self._client.sendall(fault.alter(message))
        elif fault is not None and fault.where in ("after", "within"):
            self._break(fault, self._client, message, half=fault.where == "within")
        else:
            self._client.sendall(message)

    def _break(self, fault: Fault, to: socket.socket, message: bytes, *, half: bool) -> None:
        passed = len(message) // 2 if half else 0
        to.sendall(message[:passed])
        if fault.how != "delay":
            raise _Over(fault.how)
        self._relay.hold(fault.seconds)
        try:
            to.sendall(message[passed:])
        finally:
            self._relay.forget_held()

    def _end(self, how: str) -> None:
        if how == "blackhole":
            self._wait_for_stop()
        elif how == "reset":
            for end in (self._client, self._server):
                with suppress(OSError):
                    end.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
                end.close()
        else:
            self._client.close()
            with suppress(OSError):
                # The server may still have to write its reply: closed at once, that would be answered by RST.
                self._server.shutdown(socket.SHUT_WR)
                self._drop_replies()

    def _wait_for_stop(self) -> None:
        poll = select.poll()
        poll.register(self._relay.stop_signal, select.POLLIN)
        poll.poll()

    def _drop_replies(self) -> None:
        poll = select.poll()
        for each in (self._server, self._relay.stop_signal):
            poll.register(each, select.POLLIN)
        while True:
            ready = {descriptor for descriptor, _ in poll.poll()}
            if self._relay.stop_signal.fileno() in ready or not self._server.recv(1 << 16):
                return


def _by_rules(faults: list[Fault]) -> Decide:
    used: collections.Counter[int] = collections.Counter()
    seen = 0
    lock = threading.Lock()

    def decide(call: Call) -> Fault | None:
        nonlocal seen
        with lock:
            seen += 1
            for place, fault in enumerate(faults):
                nth = seen if fault.rpc == "*" else call.nth
                if fault.rpc in ("*", call.rpc) and nth >= fault.nth and used[place] < fault.times:
                    used[place] += 1
                    return fault
        return None

    return decide


def _listen(host: str, port: int) -> tuple[socket.socket, int]:
    """A listening socket, and its port.

    :param port: 0: a free one, which stays free while the relay is down: below the range that the kernel takes for
        clients, that of the sandbox (whose nodes may be down too), and not another relay's
    """
    for candidate in [port] if port else random.sample(sorted(set(range(12000, 20000)) - _ports), 200):
        listener = socket.socket(socket.AF_INET, socket.SOCK_STREAM)
        listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            listener.bind((host, candidate))
            listener.listen(64)
        except OSError:
            listener.close()
            if port:
                raise
            continue
        _ports.add(candidate)
        return listener, candidate
    raise OSError("no free port")


def _readable(end: socket.socket) -> bool:
    return bool(select.select([end], [], [], 0)[0])
