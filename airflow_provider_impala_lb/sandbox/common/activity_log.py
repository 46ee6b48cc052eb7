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
    """Appends lines; each is one write to a file opened with O_APPEND, so lines never mix."""

    def __init__(self, path: Path) -> None:
        self._descriptor = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_APPEND | os.O_CLOEXEC, 0o644)

    def statement(self, session: str, user: str, sql: str, state: str, query_id: str) -> None:
        """:param state: ``FINISHED``, ``ERROR`` or ``CANCELLED``."""
        self._append({"session": session, "user": user, "sql": sql, "state": state, "query_id": query_id})

    def event(self, session: str, user: str, event: str) -> None:
        """:param event: ``open`` or ``close``."""
        self._append({"session": session, "user": user, "event": event})

    def _append(self, entry: dict[str, Any]) -> None:
        line = json.dumps({"t": time.time(), **entry}, ensure_ascii=False) + "\n"
        os.write(self._descriptor, line.encode())


def read_activity_log(path: Path) -> list[dict[str, Any]]:
    """Every complete line of a log, in order. A line cut by a kill is left out."""
    try:
        text = path.read_text()
    except FileNotFoundError:
        return []
    return [json.loads(line) for line in text.split("\n")[:-1] if line]
