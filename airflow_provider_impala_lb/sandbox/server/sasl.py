"""SASL PLAIN as HiveServer2 speaks it over a socket: five-byte headers until the login is over, then frames."""

from __future__ import annotations

import struct
from collections.abc import Mapping
from hmac import compare_digest
from typing import Any

from thrift.transport.TTransport import TTransportException

START, OK, BAD, COMPLETE = 1, 2, 3, 5
_LONGEST = 1 << 20


def authenticate(transport: Any, users: Mapping[str, str]) -> str:
    """Let the client log in.

    :param transport: read by ``readAll(n)``.
    :param users: login -> password.
    :returns: the login.
    :raises TTransportException: no such login or another password; the client has the refusal already.
    """
    kind, mechanism = _receive(transport)
    if kind != START or mechanism != b"PLAIN":
        raise _refuse(transport, b"Unsupported mechanism type " + mechanism)
    kind, answer = _receive(transport)
    parts = answer.split(b"\0")
    if kind not in (OK, COMPLETE) or len(parts) != 3:
        raise _refuse(transport, b"Malformed PLAIN response")
    login, password = parts[1].decode(), parts[2]
    expected = users.get(login)
    if expected is None or not compare_digest(expected.encode(), password):
        raise _refuse(transport, b"Error validating the login")
    _send(transport, COMPLETE, b"")
    return login


def _receive(transport: Any) -> tuple[int, bytes]:
    kind, length = struct.unpack(">BI", transport.readAll(5))
    if length > _LONGEST:
        raise TTransportException(TTransportException.SIZE_LIMIT, "SASL message too long")
    return kind, transport.readAll(length)


def _send(transport: Any, kind: int, body: bytes) -> None:
    transport.write(struct.pack(">BI", kind, len(body)) + body)
    transport.flush()


def _refuse(transport: Any, reason: bytes) -> TTransportException:
    _send(transport, BAD, reason)
    return TTransportException(TTransportException.NOT_OPEN, reason.decode())
