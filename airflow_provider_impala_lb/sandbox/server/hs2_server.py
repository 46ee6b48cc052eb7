"""The HS2 port: accepts connections, serves as many at once as ``fe_service_threads`` allows, notices when they end."""

from __future__ import annotations

import socket
import threading
import time
import uuid
from collections.abc import Mapping
from typing import Any

from impala._thrift_gen.ImpalaService import ImpalaHiveServer2Service as service  # noqa: TID253 (node's process only)
from impala._thrift_gen.ImpalaService.ImpalaHiveServer2Service import Processor  # noqa: TID253
from impala._thrift_gen.TCLIService import TCLIService as hive  # noqa: TID253
from thrift.protocol.TBinaryProtocol import TBinaryProtocolAcceleratedFactory
from thrift.Thrift import TApplicationException, TMessageType, TType
from thrift.transport.TSocket import TSocket
from thrift.transport.TTransport import TBufferedTransport, TFramedTransport, TMemoryBuffer, TTransportException

from airflow_provider_impala_lb.sandbox.coordinator.coordinator import Coordinator
from airflow_provider_impala_lb.sandbox.coordinator.session import Connection
from airflow_provider_impala_lb.sandbox.server import sasl
from airflow_provider_impala_lb.sandbox.server.hs2_handler import RESPONSES, Handler, failure


class HS2Server:
    """Accepts connections and serves them, each in a thread of its own.

    :param coordinator: answers the calls.
    :param listener: a socket that listens.
    :param users: login -> password, for SASL PLAIN; None: NOSASL, where the client names its user.
    """

    def __init__(self, coordinator: Coordinator, listener: socket.socket, users: Mapping[str, str] | None) -> None:
        self._coordinator, self._listener, self._users = coordinator, listener, users
        self._slots = threading.BoundedSemaphore(coordinator.flags.fe_service_threads)
        self._protocols = TBinaryProtocolAcceleratedFactory()

    def start(self) -> None:
        """Serve in the background, until the process ends."""
        threading.Thread(target=self._accept, name="hs2-accept", daemon=True).start()

    def _accept(self) -> None:
        while True:
            try:
                connection, address = self._listener.accept()
            except OSError:  # gone before it was taken, or no descriptor left: the next one may do
                time.sleep(0.05)
                continue
            connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
            shown = f"{address[0]}:{address[1]}"
            if self._slots.acquire(blocking=False):
                self._spawn(self._serve, connection, shown)
            else:
                # As Impala: the client is connected, and gets no answer until another connection ends.
                self._coordinator.setup_queue.append(shown)
                self._spawn(self._wait_for_slot, connection, shown)

    def _spawn(self, work: Any, connection: socket.socket, shown: str) -> None:
        threading.Thread(target=work, args=(connection, shown), name=f"hs2-{shown}", daemon=True).start()

    def _wait_for_slot(self, connection: socket.socket, shown: str) -> None:
        free = self._slots.acquire(timeout=self._coordinator.flags.accepted_client_cnxn_timeout / 1000)
        self._coordinator.setup_queue.remove(shown)
        if free:
            self._serve(connection, shown)
        else:
            self._coordinator.counters.setup_timeouts += 1
            connection.close()

    def _serve(self, connection: socket.socket, shown: str) -> None:
        """One connection from its first byte to its last; it has a slot, and gives it back."""
        try:
            raw = TSocket()
            raw.setHandle(connection)
            transport: Any = TBufferedTransport(raw, 1 << 16)
            user = ""
            if self._users is not None:
                user = sasl.authenticate(raw, self._users)
                transport = TFramedTransport(raw)
            self._answer(transport, Connection(uuid.uuid4().hex, shown, user))
        except (TTransportException, OSError):
            pass  # the client has gone, or was refused
        finally:
            connection.close()
            self._slots.release()

    def _answer(self, transport: Any, connection: Connection) -> None:
        protocol = self._protocols.getProtocol(transport)
        processor = Processor(Handler(self._coordinator, connection))
        self._coordinator.connected(connection)
        try:
            while True:
                self._answer_one(processor, protocol)
                transport.flush()
        except (TTransportException, OSError, EOFError):
            pass
        finally:
            self._coordinator.disconnected(connection)

    def _answer_one(self, processor: Any, protocol: Any) -> None:
        """One call. Its answer is written to memory first: one that cannot be written becomes an error, whole, where
        half an answer would break the connection."""
        answer = TMemoryBuffer()
        name, _, number = protocol.readMessageBegin()
        out = self._protocols.getProtocol(answer)
        method = processor._processMap.get(name)
        if method is None:
            protocol.skip(TType.STRUCT)
            protocol.readMessageEnd()
            unknown = TApplicationException(TApplicationException.UNKNOWN_METHOD, f"Invalid method name: '{name}'")
            _write(out, name, TMessageType.EXCEPTION, number, unknown)
        else:
            try:
                method(processor, number, protocol, out)
            except (TTransportException, OSError, EOFError):
                raise
            except Exception as error:
                answer = TMemoryBuffer()
                out = self._protocols.getProtocol(answer)
                response = RESPONSES[name](status=failure(error))
                results = service if hasattr(service, f"{name}_result") else hive
                result = getattr(results, f"{name}_result")(success=response)
                _write(out, name, TMessageType.REPLY, number, result)
        protocol.trans.write(answer.getvalue())


def _write(out: Any, name: str, kind: int, number: int, content: Any) -> None:
    out.writeMessageBegin(name, kind, number)
    content.write(out)
    out.writeMessageEnd()
