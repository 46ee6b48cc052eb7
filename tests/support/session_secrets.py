"""What must stay secret, and where it is: the secrets of all sessions as the network carries them, and a search for
them in files and rows, in each form that they may be written in."""

from __future__ import annotations

import base64
import contextlib
import re
import socket
import sqlite3
import threading
import zlib
from collections.abc import Iterable, Iterator
from pathlib import Path

from impala._thrift_gen.TCLIService import TCLIService
from thrift.protocol.TBinaryProtocol import TBinaryProtocol
from thrift.transport.TTransport import TMemoryBuffer

_REPLY = b"\x80\x01\x00\x02\x00\x00\x00\x0bOpenSession"
"""How a reply to OpenSession begins; SASL's PLAIN only puts a length before it."""


class Listener:
    """A TCP proxy that reads along. A context manager.

    :param host: of the coordinator
    :param port: likewise
    :param secrets: where the secret of each session goes that is opened over it
    :ivar port: where it listens
    """

    def __init__(self, host: str, port: int, secrets: set[bytes]) -> None:
        self._target, self._secrets = (host, port), secrets
        self._server = socket.create_server(("127.0.0.1", 0))
        self.port = int(self._server.getsockname()[1])

    def __enter__(self) -> Listener:
        threading.Thread(target=self._accept, daemon=True).start()
        return self

    def __exit__(self, *_: object) -> None:
        self._server.close()

    def _accept(self) -> None:
        with contextlib.suppress(OSError):
            while True:
                client, _ = self._server.accept()
                server = socket.create_connection(self._target)
                threading.Thread(target=self._pass_on, args=(client, server, False), daemon=True).start()
                threading.Thread(target=self._pass_on, args=(server, client, True), daemon=True).start()

    def _pass_on(self, source: socket.socket, target: socket.socket, reads: bool) -> None:
        seen = b""
        with contextlib.suppress(OSError), source, target:
            while data := source.recv(1 << 16):
                if reads and len(seen) < 1 << 20:  # a session is opened first
                    seen += data
                    self._secrets |= set(secrets_in(seen))
                target.sendall(data)


def secrets_in(stream: bytes) -> Iterator[bytes]:
    """Of each session whose opening a server's bytes tell.

    :param stream: its bytes, perhaps cut short
    """
    for found in re.finditer(re.escape(_REPLY), stream):
        protocol = TBinaryProtocol(TMemoryBuffer(stream[found.start() :]))
        with contextlib.suppress(EOFError):
            protocol.readMessageBegin()
            result = TCLIService.OpenSession_result()
            result.read(protocol)
            if result.success.sessionHandle is not None:
                yield bytes(result.success.sessionHandle.sessionId.secret)


def forms(secret: bytes) -> list[bytes]:
    """How a secret may be written.

    :param secret: its bytes
    """
    halves = secret[:8][::-1].hex(), secret[8:][::-1].hex()  # as Impala prints ids
    texts = [secret.hex(), ":".join(halves), repr(secret)[2:-1]]
    texts += [base64.b64encode(secret).decode().rstrip("="), base64.urlsafe_b64encode(secret).decode().rstrip("=")]
    return [secret, secret.hex().upper().encode(), *(text.encode() for text in texts)]


def openings(data: bytes) -> Iterator[bytes]:
    """The data, and what is packed in it as base64, compressed or not.

    :param data: of a file or a row
    """
    yield data
    for found in re.findall(rb"[A-Za-z0-9+/_-]{40,}={0,2}", data):
        with contextlib.suppress(ValueError):
            packed = base64.b64decode(found.translate(bytes.maketrans(b"-_", b"+/")) + b"=" * (-len(found) % 4))
            yield packed
            with contextlib.suppress(zlib.error):
                yield zlib.decompress(packed)


def find(wanted: dict[str, list[bytes]], places: Iterable[tuple[str, bytes]]) -> set[str]:
    """Where something of this is, each with its name and the place.

    :param wanted: name -> the forms that it may have
    :param places: name -> data
    """
    return {
        f"{name}: {place}"
        for place, data in places
        for opened in openings(data)
        for name, each in wanted.items()
        if any(form in opened for form in each)
    }


def files(*directories: Path) -> Iterator[tuple[str, bytes]]:
    """All files in these.

    :param directories: however deep
    """
    for directory in directories:
        for path in sorted(directory.rglob("*")):
            if path.is_file():
                with contextlib.suppress(OSError):
                    yield str(path.relative_to(directory)), path.read_bytes()


def rows(database: Path) -> Iterator[tuple[str, bytes]]:
    """All rows of all tables of an SQLite database.

    :param database: the file
    """
    with contextlib.closing(sqlite3.connect(f"file:{database}?mode=ro", uri=True, timeout=60)) as connection:
        tables = [name for (name,) in connection.execute("SELECT name FROM sqlite_master WHERE type = 'table'")]
        for table in tables:
            for row in connection.execute(f'SELECT * FROM "{table}"'):
                columns = (each if isinstance(each, bytes) else str(each).encode() for each in row)
                yield f"table {table}", b"\n".join(columns)
