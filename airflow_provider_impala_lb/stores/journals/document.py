"""A journal's document as it is kept: with a checksum, and with its key, since it is found by a hash of that.

::

    impala-lb journal 1 <hash of what follows the line> <length of the key>
    <key><document>
"""

from __future__ import annotations

import hashlib
import re

from airflow_provider_impala_lb.errors import ConfigError, JournalDamaged

MAX_BYTES = 512 << 10
"""The longest document."""
_HEAD = re.compile(rb"impala-lb journal 1 ([0-9a-f]{32}) ([0-9]{1,8})\n")
_NEWER = re.compile(rb"impala-lb journal ([2-9]|[1-9][0-9]+) ")


def name_of(key: str) -> str:
    """32 hex digits that stand for a key: no key can name another place, or be too long for a file name.

    :param key: any text.
    """
    return _digest(_encode(key))


def wrap(where: str, key: str, document: bytes) -> bytes:
    """The envelope in which a document is kept; never empty.

    :param where: what to call the place in the error.
    :param key: any text.
    :param document: at most `MAX_BYTES`.
    :raises ConfigError: it is larger.
    """
    if len(document) > MAX_BYTES:
        raise ConfigError(
            f"{where}: the journal of {key!r} would have {len(document) >> 10} KiB, more than the "
            f"{MAX_BYTES >> 10} KiB there is room for"
        )
    encoded = _encode(key)
    body = encoded + document
    return b"impala-lb journal 1 %s %d\n" % (_digest(body).encode(), len(encoded)) + body


def unwrap(where: str, name: str, envelope: bytes) -> tuple[str, bytes]:
    """The key and the document in an envelope.

    :param where: what to call the place in the errors.
    :param name: under which it was found, as `name_of`.
    :param envelope: as `wrap` made it.
    :raises JournalDamaged: the checksum is wrong, or it belongs elsewhere.
    :raises ConfigError: it was written by a newer version.
    """
    head = _HEAD.match(envelope)
    if head is None:
        if _NEWER.match(envelope):
            raise ConfigError(f"{where}: was written by a newer version of this package; upgrade this")
        raise damaged(where, "it does not begin as a journal does")
    body = envelope[head.end() :]
    if _digest(body) != head[1].decode():
        raise damaged(where, "its checksum is wrong")
    length = int(head[2])
    if _digest(body[:length]) != name:
        raise damaged(where, f"it belongs to another key, {body[:length]!r}")
    return body[:length].decode("utf-8", "surrogatepass"), body[length:]


def damaged(where: str, reason: str) -> JournalDamaged:
    """The error for a journal that is there and cannot be read.

    :param where: what to call it.
    :param reason: what is wrong with it.
    """
    return JournalDamaged(
        f"{where}: this journal cannot be trusted: {reason}. So it is unknown which statements ran: "
        "look what they left, then remove it"
    )


def _encode(key: str) -> bytes:
    return key.encode("utf-8", "surrogatepass")


def _digest(content: bytes) -> str:
    return hashlib.blake2b(content, digest_size=16).hexdigest()
