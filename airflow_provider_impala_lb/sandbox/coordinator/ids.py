"""Handles: a guid and a secret, and the form in which Impala prints an id."""

from __future__ import annotations

import hmac
import os
import struct


def new_session_guid() -> bytes:
    """16 random bytes."""
    return os.urandom(16)


def new_query_guid() -> bytes:
    """12 random bytes. Printed, a query's id ends in 00000000: the lower half of its second number is kept for fragment
    instances.
    """
    return os.urandom(8) + b"\0\0\0\0" + os.urandom(4)


def new_secret() -> bytes:
    """16 random bytes."""
    return os.urandom(16)


def printed(guid: bytes) -> str:
    """As Impala prints an id: two little-endian 64-bit numbers in hexadecimal.

    :param guid: 16 bytes.
    """
    return "{:016x}:{:016x}".format(*struct.unpack("<QQ", guid))


def same(secret: bytes, other: bytes) -> bool:
    """Are two secrets the same? Takes as long whether they are or not.

    :param secret: the right one.
    :param other: the one that was given.
    """
    return hmac.compare_digest(secret, other)
