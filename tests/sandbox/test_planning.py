"""A statement that takes long to plan: it is on the web pages from its beginning, and ends with its session."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from typing import Any

import pytest
from impala.error import HiveServer2Error
from impala.hiveserver2 import HiveServer2Cursor

from airflow_provider_impala_lb.sandbox import Sandbox, SandboxNode
from tests.support.sandbox import Open, page, rows
from tests.support.servers import eventually

pytestmark = pytest.mark.usefixtures("collected")


@pytest.fixture(scope="module")
def slow() -> Iterator[SandboxNode]:
    with Sandbox(nodes=1, lag=0, flags={"stress_metadata_loading_pause_injection_ms": 700}, users=None) as cluster:
        yield cluster.nodes[0]


def started(cursor: HiveServer2Cursor, sql: str) -> tuple[threading.Thread, list[Any]]:
    ended: list[Any] = []

    def work() -> None:
        try:
            ended.append(rows(cursor, sql))
        except Exception as error:
            ended.append(error)

    thread = threading.Thread(target=work)
    thread.start()
    return thread, ended


def in_flight(node: SandboxNode, sql: str) -> list[dict[str, Any]]:
    return [query for query in page(node, "/queries")["in_flight_queries"] if query["stmt"] == sql]


def test_it_shows_while_it_is_planned(slow: SandboxNode, open_cursor: Open) -> None:
    thread, ended = started(open_cursor(slow), "select 41 + 1")
    [query] = eventually(lambda: in_flight(slow, "select 41 + 1"))
    assert (query["state"], query["stmt_type"]) == ("CREATED", "N/A")
    thread.join(5)
    assert ended == [[(42,)]]


@pytest.mark.parametrize("how", ["cancel_query", "close_session"])
def test_it_ends_with_its_session_and_runs_nothing(slow: SandboxNode, open_cursor: Open, how: str) -> None:
    cursor, sql = open_cursor(slow), f"create table planned_{how} (a int)"
    thread, ended = started(cursor, sql)
    [query] = eventually(lambda: in_flight(slow, sql))
    guid = cursor.session.handle.sessionId.guid
    session = f"{guid[:8][::-1].hex()}:{guid[8:][::-1].hex()}"
    argument = f"query_id={query['query_id']}" if how == "cancel_query" else f"session_id={session}"
    page(slow, f"/{how}?{argument}")
    thread.join(5)
    assert isinstance(ended[0], HiveServer2Error)
    assert ("debug web interface") in str(ended[0])
    assert not in_flight(slow, sql)
    [entry] = [entry for entry in slow.journal() if entry.get("sql") == sql]
    assert entry["state"] == "CANCELLED"
    assert rows(open_cursor(slow), f"show tables like 'planned_{how}'") == []


def test_one_that_cannot_be_planned_has_ended(slow: SandboxNode, open_cursor: Open) -> None:
    with pytest.raises(HiveServer2Error, match="AnalysisException"):
        rows(open_cursor(slow), "select nosuch from nowhere")
    assert not in_flight(slow, "select nosuch from nowhere")
    assert page(slow, "/queries")["completed_queries"][0]["stmt"] == "select nosuch from nowhere"
