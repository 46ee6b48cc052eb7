"""The comment that leads each statement, by which admins (and later attempts) find it on a coordinator's web page."""

from __future__ import annotations

import hashlib
import re
import secrets
from collections.abc import Mapping

import msgspec

MAX_CHARS = 200
"""Impala's pages cut statements at 250 characters (``--query_stmt_size``): the label must fit with room to spare."""

_LABEL = re.compile(r"/\* (lb:[0-9a-f]{16})\b(?: (own:[0-9a-f]{16})\b)?")
"""How a text with a label begins. Its end is not looked for: a page may cut it off."""


class Label(msgspec.Struct, frozen=True):
    """The label of one sending of one statement; its ``str`` is the comment.

    The comment is ``/* lb:<16 hex digits> own:<16 hex digits> n/m dag=... task=... */``, at most 200 characters. The
    nonce stands first, so that no cut takes it away; ``*/`` and control characters in the tags are removed, so that
    no name can end the comment.

    :ivar nonce: ``lb:<16 hex digits>``; see :meth:`new`.
    :ivar number: of the statement in its script, from 1.
    :ivar total: how many statements the script has.
    :ivar tags: who sends it, e.g. ``{"dag": ..., "task": ...}``; empty values are left out.
    :ivar own: whose work it is, see :func:`own_of`; "": nobody's in particular.
    """

    nonce: str
    number: int
    total: int
    tags: Mapping[str, str]
    own: str = ""

    @classmethod
    def new(cls, number: int, total: int, tags: Mapping[str, str], owner: str = "") -> Label:
        """A label with a nonce that no other sending has.

        :param number: of the statement in its script, from 1.
        :param total: how many statements the script has.
        :param tags: who sends it.
        :param owner: whose work it is, e.g. ``dag/run/task``; default nobody's in particular.
        """
        return cls(f"lb:{secrets.token_hex(8)}", number, total, tags, own_of(owner))

    def __str__(self) -> str:
        head = f"/* {self.nonce}{self.own and ' '}{self.own} {self.number}/{self.total}"
        text = head + "".join(f" {_clean(key)}={_clean(value)}" for key, value in self.tags.items() if value)
        return text[: MAX_CHARS - 3].rstrip("* ") + " */"


def own_of(owner: str) -> str:
    """By what the label of a statement tells whose work it is: ``own:<16 hex digits>``, a hash.

    :param owner: e.g. ``dag/run/task``; "": nobody's in particular, and so is the answer.
    """
    return f"own:{hashlib.sha256(owner.encode()).hexdigest()[:16]}" if owner else ""


def nonce_of(sql: str) -> str | None:
    """The nonce of the label that a text begins with.

    :param sql: a statement as it was sent, or as a page shows it.
    :returns: ``lb:<16 hex digits>``; None: it has no label.
    """
    found = _LABEL.match(sql)
    return found[1] if found else None


def own_in(sql: str) -> str | None:
    """Whose work it is by the label that a text begins with. Anybody's statement may quote one further on: pages show
    a statement from its first character (impala-http-handler.cc, ``QueryStateToJson``).

    :param sql: a statement as it was sent, or as a page shows it.
    :returns: as :func:`own_of` makes it; None: it has no label, or one that is nobody's in particular.
    """
    found = _LABEL.match(sql)
    return found[2] if found else None


def tag_in(sql: str, key: str) -> str | None:
    """The value of a tag in the label that a text begins with.

    :param sql: a statement as it was sent, or as a page shows it.
    :param key: of the tag.
    :returns: up to its first blank; None: it is not there, or may be cut off.
    """
    label = sql.partition(" */")[0]
    found = re.search(rf" {re.escape(key)}=(\S+) ", f"{label} ") if nonce_of(sql) and label != sql else None
    return found[1] if found else None


def _clean(value: str) -> str:
    # Control characters first: one between "*" and "/" would leave a "*/" behind. "*" alone suffices to keep that out,
    # also one that the cut at the end would leave.
    text = re.sub(r"[\x00-\x1f\x7f-\x9f\u2028\u2029]", "", str(value))
    return re.sub(r"\*(?=[/*]|$)", "", text)
