"""What tests ask a practice cluster: rows of a statement, its web pages."""

from __future__ import annotations

import json
from collections.abc import Callable
from typing import Any
from urllib.error import HTTPError
from urllib.request import urlopen

from impala.hiveserver2 import HiveServer2Cursor

from airflow_provider_impala_lb.sandbox import SandboxNode

Open = Callable[..., HiveServer2Cursor]
"""The fixture ``open_cursor``: ``open_cursor(node, user="ann", **connect)`` is a cursor on a connection of its own."""


def rows(cursor: HiveServer2Cursor, sql: str) -> list[tuple[Any, ...]]:
    """Run a statement; its rows, none where there is no result set."""
    cursor.execute(sql)
    return cursor.fetchall() if cursor.has_result_set else []


def page(node: SandboxNode, path: str) -> dict[str, Any]:
    """A web page of a node as JSON."""
    mark = "&" if "?" in path else "?"
    with urlopen(f"{node.web}{path}{mark}json", timeout=10) as answer:
        return dict(json.load(answer))


def status_of(node: SandboxNode, path: str) -> int:
    """The HTTP status of a web page of a node."""
    try:
        with urlopen(f"{node.web}{path}", timeout=10) as answer:
            return int(answer.status)
    except HTTPError as error:
        return error.code
