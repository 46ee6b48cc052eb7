"""Handles: a guid and a secret, and the form in which Impala prints an id."""

from __future__ import annotations

import hmac
import os
import struct


def new_session_guid() -> bytes:
    return os.urandom(16)


def new_query_guid() -> bytes:
    """Printed, a query's id ends in 00000000: the lower half of its second number is kept for fragment instances."""
    return os.urandom(8) + b"\0\0\0\0" + os.urandom(4)


def new_secret() -> bytes:
    return os.urandom(16)


def printed(guid: bytes) -> str:
    """Two little-endian 64-bit numbers in hexadecimal."""
    return "{:016x}:{:016x}".format(*struct.unpack("<QQ", guid))


def same(secret: bytes, other: bytes) -> bool:
    return hmac.compare_digest(secret, other)
