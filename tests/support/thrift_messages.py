"""Thrift messages in a stream of bytes: unframed, strict TBinaryProtocol, as HiveServer2 with NOSASL speaks it."""

from __future__ import annotations

from thrift.protocol.TBinaryProtocol import TBinaryProtocol
from thrift.Thrift import TType
from thrift.transport.TTransport import TMemoryBuffer


class _Reader(TBinaryProtocol):  # type: ignore[misc]
    def readString(self) -> bytes:
        # skip() would decode what is binary on purpose: the guids and secrets of handles.
        return bytes(self.readBinary())


class Messages:
    """Cuts a stream into messages. Nothing in it says how long a message is, so each has to be read to its end.

    :ivar rest: the bytes that are no whole message yet
    """

    def __init__(self) -> None:
        self.rest = b""

    def feed(self, data: bytes) -> list[tuple[str, bytes]]:
        """``(name of the RPC, the message's bytes)`` of each message that is whole now; ``rest`` keeps what is not.

        :param data: the next bytes of the stream
        :raises TProtocolException: this is no such stream
        """
        self.rest += data
        found = []
        while message := self._first():
            found.append(message)
            self.rest = self.rest[len(message[1]) :]
        return found

    def _first(self) -> tuple[str, bytes] | None:
        if not self.rest:
            return None
        buffer = TMemoryBuffer(self.rest)
        protocol = _Reader(buffer, strictRead=True)
        try:
            name, _, _ = protocol.readMessageBegin()
            protocol.skip(TType.STRUCT)
            protocol.readMessageEnd()
        except EOFError:
            return None
        return name.decode(), self.rest[: buffer._buffer.tell()]
