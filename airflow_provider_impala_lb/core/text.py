"""Text from elsewhere, made fit to be shown: what a statement, a node or a user wrote, in a log or on a terminal.

It is in `core` since rooms on both sides of it need it: `impala/sql` for excerpts of statements, `cli` for its tables.
"""

from __future__ import annotations

from typing import Any


def plain(value: Any) -> str:
    """As text that a terminal shows and does not obey.

    :param value: anything; its ``str``.
    :returns: control characters, and those that turn the direction of the text, as ``\\x1b``; line breaks stay.
    """
    return "".join(
        sign if sign.isprintable() or sign == "\n" else sign.encode("unicode_escape").decode() for sign in str(value)
    )
