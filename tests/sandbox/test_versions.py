"""``Sandbox(version=)``: what a client of an older Impala finds otherwise, each by the source of the release."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Iterator
from typing import Any

import pytest
from impala._thrift_gen.TCLIService import ttypes as t
from impala.error import HiveServer2Error

from airflow_provider_impala_lb.sandbox import Sandbox, SandboxNode
from tests.support.sandbox import Open, Started, close_session, completed, in_flight, journal, page, rows, tables
from tests.support.servers import eventually

pytestmark = pytest.mark.usefixtures("collected")
VERSIONS = ("3.4", "4.0", "4.1", "4.4", "4.5", "HEAD")
NodeOf = Callable[[str], SandboxNode]


@pytest.fixture(scope="module")
def node_of() -> Iterator[NodeOf]:
    started: dict[str, Sandbox] = {}

    def node(version: str) -> SandboxNode:
        if version not in started:
            started[version] = Sandbox(nodes=1, lag=0, users=None, version=version)
            started[version].start()
        return started[version].nodes[0]

    yield node
    for cluster in started.values():
        cluster.stop()


def test_an_unknown_version() -> None:
    with pytest.raises(ValueError, match=r"version='4.9': one of 3.4, 4.0, 4.1, 4.4, 4.5, HEAD"):
        Sandbox(version="4.9")


@pytest.mark.parametrize("version", VERSIONS)
def test_texts(node_of: NodeOf, open_cursor: Open, version: str) -> None:
    node, cursor = node_of(version), open_cursor(node_of(version))
    number = {"HEAD": "5.0.0"}.get(version, f"{version}.0")
    assert f"version {number}-" in page(node, "/")["version"] == rows(cursor, "select version()")[0][0]
    operation = cursor._last_operation
    cursor.close_operation()
    with pytest.raises(HiveServer2Error) as raised:
        operation.get_status()
    named = version in ("4.5", "HEAD")
    assert str(raised.value).startswith("Query " if named else "Invalid ")
    assert ("Invalid query handle: " if version == "3.4" else "Invalid or unknown query handle: ") in str(raised.value)
    with pytest.raises(HiveServer2Error, match=r"^Query [0-9a-f:]{33} failed:\nAna" if named else "^AnalysisException"):
        rows(cursor, "select * from nosuch")


@pytest.mark.parametrize("version", VERSIONS)
def test_the_page(node_of: NodeOf, open_cursor: Open, version: str) -> None:
    node, cursor = node_of(version), open_cursor(node_of(version))
    sql = f"/* {'x' * 300} */ select 'page'"
    rows(cursor, sql)
    cursor.close_operation()
    shown = sql if version == "3.4" else f"{sql[:250]}..."
    [record] = eventually(lambda: completed(node, shown))
    listed = page(node, "/queries")
    assert listed["completed_log_size"] == {"3.4": 25, "4.0": 100, "4.1": 100}.get(version, 200)
    assert ("completed_log_size_in_bytes" in listed) is (version in ("4.4", "4.5", "HEAD"))
    assert record["waiting"] is (version in ("3.4", "4.0", "4.1"))


@pytest.mark.parametrize("version", VERSIONS)
def test_a_copy_of_the_page_may_miss_a_statement_of_3_4_only(node_of: NodeOf, open_cursor: Open, version: str) -> None:
    """It leaves the list before its record is made (ImpalaServer::UnregisterQuery)."""
    node, cursor, sql = node_of(version), open_cursor(node_of(version)), f"select 'on its way of {version}'"
    with node.hold("archiving", sql=sql) as held:
        closing = threading.Thread(target=lambda: (rows(cursor, sql), cursor.close_operation()))
        closing.start()
        held.wait()
        assert not completed(node, sql)
        assert bool(in_flight(node, sql)) is (version != "3.4")
    closing.join(5)
    assert eventually(lambda: completed(node, sql))


@pytest.mark.parametrize("version", VERSIONS)
def test_ddl_and_its_session(node_of: NodeOf, open_cursor: Open, version: str) -> None:
    """Before 4.1 DDL runs within ExecuteStatement: its session does not know it, and CloseSession does not wait."""
    node, cursor, sql = node_of(version), open_cursor(node_of(version)), "create table ddl_of_session (a int)"
    with node.hold("catalog", sql=sql) as held:
        started = Started(cursor, sql)
        held.wait()
        if version in ("3.4", "4.0"):
            closing = close_session(node, cursor)
            closing.join(5)
            assert not closing.is_alive() and not started.answers
        else:
            eventually(lambda: [one for one in page(node, "/sessions")["sessions"] if one["inflight_queries"]])
            closing = close_session(node, cursor)
            closing.join(0.3)
            assert closing.is_alive()
    closing.join(5)
    answer = str(started.answer())
    assert ("Session closed" in answer) is (version in ("3.4", "4.0"))
    assert "ddl_of_session" in tables(open_cursor(node)) and journal(node, sql) == ["FINISHED"]


@pytest.mark.parametrize("version", VERSIONS)
def test_cancel_of_one_that_is_planned(node_of: NodeOf, open_cursor: Open, version: str) -> None:
    node, sql = node_of(version), "create table planned (a int)"
    with node.hold("planning", sql=sql) as held:
        started = Started(open_cursor(node), sql)
        [query_id] = held.wait()
        answer = page(node, f"/cancel_query?query_id={query_id}")
        assert (answer.get("error") == "Query not yet running") is (version != "HEAD")
    answer = started.answer()
    assert ("planned" in tables(open_cursor(node))) is (version != "HEAD")
    if version in ("4.0", "4.1"):  # hidden for ever, and in flight for ever
        assert "Invalid or unknown query handle" in str(answer)
        assert in_flight(node, sql)
    elif version == "HEAD":
        assert "UserCancelledException" in str(answer)
    else:
        assert answer == [("Table has been created.",)]


@pytest.mark.parametrize("version", VERSIONS)
def test_close_of_one_that_its_session_does_not_know_yet(node_of: NodeOf, open_cursor: Open, version: str) -> None:
    """By a handle that was made of its id. Where it is not refused its thread is not waited for: the record is there,
    and what the catalog service does goes on."""
    node, sql = node_of(version), "create table closed_early (a int)"
    cursor = open_cursor(node, configuration={"ENABLE_ASYNC_DDL_EXECUTION": "0"})
    with node.hold("catalog", sql=sql) as held:
        started = Started(cursor, sql)
        [query_id] = held.wait()
        high, _, low = query_id.partition(":")
        guid = int(high, 16).to_bytes(8, "little") + int(low, 16).to_bytes(8, "little")
        name = t.THandleIdentifier(guid, cursor.session.handle.sessionId.secret)
        request = t.TCloseOperationReq(t.TOperationHandle(name, t.TOperationType.EXECUTE_STATEMENT, True))
        reply = open_cursor(node).session.client.CloseOperation(request)
        assert ("Query not yet running" in (reply.status.errorMessage or "")) is (version != "HEAD")
        if version == "HEAD":
            eventually(lambda: not in_flight(node, sql))
        else:
            assert in_flight(node, sql)
        assert "closed_early" not in tables(open_cursor(node))
    started.answer()
    eventually(lambda: "closed_early" in tables(open_cursor(node)))


@pytest.mark.parametrize("version", VERSIONS)
def test_kill_query(node_of: NodeOf, open_cursor: Open, version: str) -> None:
    node = node_of(version)
    running, other = open_cursor(node), open_cursor(node)
    running.execute_async("select sleep(60000), 'killed'")
    [query] = in_flight(node, "select sleep(60000), 'killed'")
    kill = f"kill query '{query['query_id']}'"
    if version not in ("4.5", "HEAD"):
        with pytest.raises(HiveServer2Error, match="ParseException"):
            rows(other, kill)
        return
    rows(other, kill)
    with pytest.raises(HiveServer2Error, match="Cancelled" if version == "HEAD" else "unknown query handle"):
        running.status()


@pytest.mark.parametrize("version", VERSIONS)
def test_query_timeout(node_of: NodeOf, open_cursor: Open, version: str) -> None:
    node = node_of(version)
    cursor = open_cursor(node, configuration={"QUERY_TIMEOUT_S": "1"})
    cursor.execute("select 1 union all select 2")
    cursor._last_operation.fetch(max_rows=1)
    if version in ("3.4", "4.0", "4.1"):
        eventually(lambda: cursor.status() == "ERROR_STATE")
        request = t.TGetOperationStatusReq(cursor._last_operation.handle)
        assert "expired due to client inactivity" in cursor.session.client.GetOperationStatus(request).errorMessage
        return
    text = "expired due to client inactivity" if version == "HEAD" else "unknown query handle"
    with pytest.raises(HiveServer2Error, match=text):
        eventually(lambda: cursor.status() == "never", 5)


@pytest.mark.parametrize("version", [*VERSIONS[:-1], pytest.param("HEAD", marks=pytest.mark.slow)])
def test_execution_time_limit_of_ddl(node_of: NodeOf, open_cursor: Open, version: str) -> None:
    """Up to 4.5 it counts for DDL, too: in error at once, while the catalog call goes on."""
    node, sql = node_of(version), "create table limited (a int)"
    cursor = open_cursor(node, configuration={"EXEC_TIME_LIMIT_S": "1"})
    with node.hold("catalog", sql=sql) as held:
        started = Started(cursor, sql)
        held.wait()
        time.sleep(1.6)
    answer: Any = started.answer()
    assert ("execution time limit of 1s000ms" in str(answer)) is (version in ("4.1", "4.4", "4.5"))
    assert eventually(lambda: "limited" in tables(open_cursor(node)))
