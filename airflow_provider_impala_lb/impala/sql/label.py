"""The comment that leads each statement, by which admins (and later tries) find it on a coordinator's web page."""

from __future__ import annotations

import re
import secrets
from collections.abc import Mapping

MAX_CHARS = 200
"""Impala's pages cut statements at 250 characters (``--query_stmt_size``): the label must fit with room to spare."""

_NONCE = re.compile(r"/\* (lb:[0-9a-f]{16}) ")


def make_label(number: int, total: int, tags: Mapping[str, str]) -> str:
    """``/* lb:<16 hex digits> n/m dag=... task=... */``. The digits are new for every submission and stand first.

    At most 200 characters; ``*/`` and control characters in the tags are removed, so that no name can end the comment.
    """
    head = f"/* lb:{secrets.token_hex(8)} {number}/{total}"
    text = head + "".join(f" {_clean(key)}={_clean(value)}" for key, value in tags.items() if value)
    return text[: MAX_CHARS - 3].rstrip("* ") + " */"


def nonce_of(sql: str) -> str | None:
    """The part of a statement's label that is its own: ``lb:<16 hex digits>``."""
    found = _NONCE.match(sql)
    return found[1] if found else None


def _clean(value: str) -> str:
    # Control characters first: one between "*" and "/" would leave a "*/" behind. "*" alone suffices to keep that out,
    # also one that the cut at the end would leave.
    text = re.sub(r"[\x00-\x1f\x7f-\x9f\u2028\u2029]", "", str(value))
    return re.sub(r"\*(?=[/*]|$)", "", text)
