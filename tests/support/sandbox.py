"""What tests ask a practice cluster: rows of a statement, its web pages, what became of a statement."""

from __future__ import annotations

import json
import threading
from collections.abc import Callable
from typing import Any
from urllib.error import HTTPError
from urllib.request import urlopen

from impala._thrift_gen.TCLIService import ttypes as t
from impala.dbapi import connect
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


class Started:
    """A statement that somebody runs meanwhile: what came of it, rows or an exception."""

    def __init__(self, cursor: HiveServer2Cursor, sql: str) -> None:
        self.answers: list[Any] = []
        self._thread = threading.Thread(target=self._work, args=(cursor, sql))
        self._thread.start()

    def _work(self, cursor: HiveServer2Cursor, sql: str) -> None:
        try:
            self.answers.append(rows(cursor, sql))
        except Exception as error:
            self.answers.append(error)

    def answer(self) -> Any:
        """Its rows, or the exception, when it has ended."""
        self._thread.join(10)
        [found] = self.answers
        return found


def in_flight(node: SandboxNode, sql: str) -> list[dict[str, Any]]:
    """The statements of a text that /queries shows in flight."""
    return [query for query in page(node, "/queries")["in_flight_queries"] if query["stmt"] == sql]


def completed(node: SandboxNode, sql: str) -> list[dict[str, Any]]:
    """The statements of a text in the query log, as /queries shows it."""
    return [query for query in page(node, "/queries")["completed_queries"] if query["stmt"] == sql]


def close_session(node: SandboxNode, cursor: HiveServer2Cursor) -> threading.Thread:
    """CloseSession over another connection, in a thread: it answers when what the session knows has ended."""
    client = connect(host=node.host, port=node.port, timeout=20).service.client

    def work() -> None:
        client.CloseSession(t.TCloseSessionReq(cursor.session.handle))
        cursor._closed = True

    thread = threading.Thread(target=work)
    thread.start()
    return thread


def tables(cursor: HiveServer2Cursor) -> list[str]:
    """The tables of the current database."""
    return [name for (name,) in rows(cursor, "show tables")]


def journal(node: SandboxNode, sql: str) -> list[str]:
    """What became of the statements of a text."""
    return [entry["state"] for entry in node.journal() if entry.get("sql") == sql]
