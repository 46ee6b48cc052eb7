"""What a coordinator did (`SandboxNode.journal()`): a file for each coordinator, in it a JSON line for each statement
that ended, and for each session opened or closed.
"""

from __future__ import annotations

import json
import os
import time
from pathlib import Path
from typing import Any


class ActivityLog:
    """Appends lines; each is one write to a file opened with O_APPEND, so lines never mix.

    :param path: the file, made if it is not there.
    """

    def __init__(self, path: Path) -> None:
        self._descriptor = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_APPEND | os.O_CLOEXEC, 0o644)

    def statement(self, session: str, user: str, sql: str, state: str, query_id: str) -> None:
        """A statement ended.

        :param session: its id, as printed.
        :param user: the session's.
        :param sql: as received.
        :param state: ``FINISHED``, ``ERROR`` or ``CANCELLED``.
        :param query_id: as printed.
        """
        self._append({"session": session, "user": user, "sql": sql, "state": state, "query_id": query_id})

    def event(self, session: str, user: str, event: str) -> None:
        """A session was opened or closed.

        :param session: its id, as printed.
        :param user: the session's.
        :param event: ``open`` or ``close``.
        """
        self._append({"session": session, "user": user, "event": event})

    def _append(self, entry: dict[str, Any]) -> None:
        line = json.dumps({"t": time.time(), **entry}, ensure_ascii=False) + "\n"
        os.write(self._descriptor, line.encode())


def read_activity_log(path: Path) -> list[dict[str, Any]]:
    """Every complete line of a log, in order. A line cut by a kill is left out.

    :param path: the file; one that is not there has no lines.
    """
    try:
        text = path.read_text()
    except FileNotFoundError:
        return []
    return [json.loads(line) for line in text.split("\n")[:-1] if line]
