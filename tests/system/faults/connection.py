"""One connection through the relay: a thread that passes messages, and lets a fault happen to one."""

from __future__ import annotations

import collections
import select
import socket
import struct
import threading
from contextlib import suppress
from typing import TYPE_CHECKING

from tests.system.faults.messages import Messages

if TYPE_CHECKING:
    from tests.system.faults.relay import Fault, Relay

SECONDS = 10.0


class _Over(Exception):
    """The connection is finished, by a fault: ``how``."""

    def __init__(self, how: str) -> None:
        super().__init__(how)
        self.how = how


class Connection(threading.Thread):
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
            self._relay.let_go()

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
