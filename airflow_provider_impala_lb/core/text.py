"""Text from elsewhere, made fit to be shown: what a statement, a node or a user wrote, in a log or on a terminal.

It is in `core` since rooms on both sides of it need it: `impala/sql` for excerpts of statements, `cli` for its tables.
"""

from __future__ import annotations

import re
from typing import Any

_SECRET_NAME = re.compile(r"pass(w|phrase)|pwd|secret|token|credential|seal_key|store|mirror|ldap_|jwt", re.IGNORECASE)
_SECRET_TEXT = re.compile(rf"@|({_SECRET_NAME.pattern})\w*['\"]?\s*[=:]", re.IGNORECASE)
_PLAIN_NAME = re.compile(r"[A-Za-z][A-Za-z_]{0,39}")


def plain(value: Any) -> str:
    """As text that a terminal shows and does not obey.

    :param value: anything; its ``str``.
    :returns: control characters, and those that turn the direction of the text, as ``\\x1b``; line breaks stay.
    """
    return "".join(
        sign if sign.isprintable() or sign == "\n" else sign.encode("unicode_escape").decode() for sign in str(value)
    )


def shown(value: Any, key: str = "") -> str:
    """A value of a configuration, for an error: it may be a password, or hold one, by a mistake in any place.

    :param value: what somebody wrote.
    :param key: where; default "".
    :returns: its ``repr``; or that it is not shown: of a secret's key, and what has a login or ``password=`` in it, as
        a URL may. A password alone, in a place for something else, is not known.
    """
    text = repr(value)
    return "(value not shown)" if _SECRET_NAME.search(key) or _SECRET_TEXT.search(text) else text


def shown_name(name: Any) -> str:
    """A key, for an error: where a colon or a blank is missing, it is a whole line.

    :param name: what somebody wrote.
    :returns: itself, or that it is not shown: anything but letters and underscores.
    """
    return name if isinstance(name, str) and _PLAIN_NAME.fullmatch(name) else "(key not shown)"
