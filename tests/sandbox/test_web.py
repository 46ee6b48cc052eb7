"""The debug web pages have Impala's shape and true numbers."""

from __future__ import annotations

from typing import Any
from urllib.request import urlopen

import pytest
from impala.error import HiveServer2Error

from airflow_provider_impala_lb.sandbox import Sandbox
from tests.support.sandbox import Open, page, rows, status_of
from tests.support.servers import eventually

pytestmark = pytest.mark.usefixtures("collected")


def test_numbers_are_true(plain: Sandbox, open_cursor: Open) -> None:
    node = plain.nodes[0]
    before = page(node, "/jsonmetrics")
    cursor = open_cursor(node, user="counted")
    cursor.execute_async("select sleep(60000)")
    during = page(node, "/jsonmetrics")
    thrift = "impala.thrift-server.hiveserver2-frontend.connections-in-use"
    for key in (
        "impala-server.num-open-hiveserver2-sessions",
        "impala-server.num-queries-registered",
        "impala-server.backend-num-queries-executing",
        "impala-server.num-queries",
        thrift,
    ):
        assert during[key] == before[key] + 1, key
    assert during["__common__"]["process-name"] == "impalad"
    assert during["memory.rss"] > 10_000_000
    cursor.cancel_operation()
    cursor.close_operation()
    key = "impala-server.num-queries-registered"
    eventually(lambda: page(node, "/jsonmetrics")[key] == before[key])


def test_queries_and_cancel(plain: Sandbox, open_cursor: Open) -> None:
    node = plain.nodes[0]
    cursor = open_cursor(node)
    sql = f"/* {'x' * 300} */ select sleep(60000)"
    cursor.execute_async(sql)
    listed = page(node, "/queries")
    [row] = [each for each in listed["in_flight_queries"] if each["stmt"].startswith("/* xxx")]
    assert listed["num_executing_queries"] >= 1
    assert (
        row["stmt"] == sql[:250] + "..."
        and row["stmt_type"] == "QUERY"
        and row["state"] == "RUNNING"
        and row["executing"]
    )
    query_id = row["query_id"]
    with urlopen(f"{node.web}/inflight_query_ids") as answer:
        assert query_id in answer.read().decode().split()
    assert page(node, f"/cancel_query?query_id={query_id}")["contents"] == "Query cancellation successful"
    with pytest.raises(HiveServer2Error, match="Cancelled from Impala's debug web interface"):
        cursor.status()
    with pytest.raises(HiveServer2Error):  # it is closed, too
        cursor.close_operation()

    def closed(sql: str) -> list[dict[str, Any]]:
        return [each for each in page(node, "/queries")["completed_queries"] if each["stmt"].startswith(sql)]

    [row] = eventually(lambda: closed("/* xxx"))
    assert row["state"] == "EXCEPTION" and row["end_time"]
    with urlopen(f"{node.web}/query_plan?query_id={query_id}") as answer:
        assert answer.headers["Content-Type"] == "text/html"
        assert f"Query (id={query_id})" in answer.read().decode()
    assert "error" in page(node, "/query_plan?query_id=1:2")
    with pytest.raises(HiveServer2Error):
        cursor.execute("select refused from nosuch")
    assert eventually(lambda: closed("select refused from nosuch"))


def test_sessions_and_close(plain: Sandbox, open_cursor: Open) -> None:
    node = plain.nodes[0]
    cursor = open_cursor(node, user="webuser")
    rows(cursor, "select 1")
    listed = page(node, "/sessions")
    [session] = [each for each in listed["sessions"] if each["user"] == "webuser"]
    assert session["type"] == "HIVESERVER2" and session["total_queries"] == 1 and session["expired"] is False
    assert listed["num_sessions"] == len(listed["sessions"]) and listed["num_connections"] == len(listed["connections"])
    assert any(session["session_id"] in each["session_ids"] for each in listed["connections"])
    page(node, f"/close_session?session_id={session['session_id']}")
    with pytest.raises(HiveServer2Error, match="Invalid session id|Session is closed"):
        cursor.session.execute("select 1")


def test_backends_flags_and_the_rest(pair: Sandbox) -> None:
    node = pair.nodes[0]
    listed = page(node, "/backends")
    assert [each["address"] for each in listed["backends"]] == [each.address for each in pair.nodes]
    assert [each["webserver_url"] for each in listed["backends"]] == [each.web for each in pair.nodes]
    assert listed["num_active_backends"] == 2
    flags = {flag["name"]: flag["current"] for flag in page(node, "/varz")["flags"]}
    assert flags["hs2_port"] == str(node.port) and flags["fe_service_threads"] == "64"
    assert page(node, "/")["is_quiescing"] is False and "shutdown_status" not in page(node, "/")
    assert status_of(node, "/healthz") == 200
    assert status_of(node, "/shutdown") == 404
