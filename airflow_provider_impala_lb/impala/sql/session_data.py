"""What a session has set for itself by USE and SET, read off the statements that ended well.

Impala tells no client what a session has set, so the statements do. It is what goes along when a session key moves.
"""

from __future__ import annotations

import re
from collections.abc import Mapping

from airflow_provider_impala_lb.impala.sql.statement import bare

_USE = re.compile(r"use\s+(?:`([^`]+)`|(\w+))", re.IGNORECASE)
_SET = re.compile(r"set\s+(\w+)\s*=\s*(?:\"([^\"]*)\"|'([^']*)'|([^\s'\"]+))", re.IGNORECASE)
_UNSET_ALL = re.compile(r"unset\s+all\b", re.IGNORECASE)


class SessionData:
    """:ivar database: the one in use, None for the connection's. :ivar options: what was set, by name in capitals."""

    def __init__(self, database: str | None = None, options: Mapping[str, str] | None = None) -> None:
        self.database = database
        self.options = dict(options or {})

    def note(self, sql: str) -> None:
        """A statement ended well. Anything but USE and SET is passed over."""
        text = bare(sql)
        if found := _USE.match(text):
            self.database = found[1] or found[2]
        elif found := _SET.match(text):
            value = next(group for group in found.groups()[1:] if group is not None)
            if value:
                self.options[found[1].upper()] = value
            else:  # the empty string stands for the default
                self.options.pop(found[1].upper(), None)
        elif _UNSET_ALL.match(text):
            self.options.clear()
