"""A statement from its registration to the query log, held where something can happen to it: as Impala's source has it
(be/src/service: impala-server.cc, client-request-state.cc, query-driver.cc)."""

from __future__ import annotations

from collections.abc import Iterator

import pytest
from impala.error import HiveServer2Error, OperationalError

from airflow_provider_impala_lb.sandbox import Sandbox, SandboxNode
from tests.support.sandbox import (
    Open,
    Started,
    close_session,
    completed,
    in_flight,
    journal,
    page,
    rows,
    tables,
)
from tests.support.servers import eventually

pytestmark = pytest.mark.usefixtures("collected")


@pytest.fixture(scope="module")
def node() -> Iterator[SandboxNode]:
    with Sandbox(nodes=1, lag=0, users=None) as cluster:
        yield cluster.nodes[0]


def session_ids(node: SandboxNode) -> list[str]:
    return [session["session_id"] for session in page(node, "/sessions")["sessions"]]


def test_it_shows_while_it_is_planned(node: SandboxNode, open_cursor: Open) -> None:
    with node.hold("planning", sql="41 + 1") as held:
        started = Started(open_cursor(node), "select 41 + 1")
        [query_id] = held.wait()
        [query] = in_flight(node, "select 41 + 1")
        assert (query["state"], query["stmt_type"], query["query_id"]) == ("CREATED", "UNKNOWN", query_id)
    assert started.answer() == [(42,)]


@pytest.mark.parametrize("point", ["planning", "inflight", "catalog"])
def test_closing_its_session_does_not_end_one_it_does_not_know(
    node: SandboxNode, open_cursor: Open, point: str
) -> None:
    """CloseSessionInternal ends ``inflight_queries``; SetQueryInflight comes last, and then says "Session closed"."""
    sql, cursor = f"create table closed_{point} (a int)", open_cursor(node)
    option = "set enable_async_ddl_execution=0" if point == "catalog" else "set enable_async_ddl_execution=1"
    rows(cursor, option)
    with node.hold(point, sql=sql) as held:
        started = Started(cursor, sql)
        held.wait()
        close_session(node, cursor).join(5)
        assert session_ids(node) == [] and in_flight(node, sql)
        assert not started.answers
    assert str(started.answer()).endswith("failed:\nSession closed\n")
    assert f"closed_{point}" in tables(open_cursor(node))  # it was done all the same
    assert journal(node, sql) == ["FINISHED"]
    [record] = eventually(lambda: completed(node, sql))
    assert record["state"] == "EXCEPTION"


def test_closing_its_session_waits_for_a_catalog_call(node: SandboxNode, open_cursor: Open) -> None:
    """Of a statement that the session knows: hidden from its clients at once, not cancelled, and done."""
    cursor, sql = open_cursor(node), "create table waited_for (a int)"
    with node.hold("catalog", sql=sql) as held:
        cursor.execute_async(sql)
        held.wait()
        closing = close_session(node, cursor)
        with pytest.raises(HiveServer2Error, match="Invalid or unknown query handle|not found"):
            eventually(lambda: cursor.status() == "never")
        eventually(lambda: [query["state"] for query in in_flight(node, sql)] == ["EXCEPTION"])
        closing.join(0.5)
        assert closing.is_alive()
    closing.join(5)
    assert "waited_for" in tables(open_cursor(node))
    [record] = eventually(lambda: completed(node, sql))
    assert record["state"] == "EXCEPTION"  # and yet it was done
    assert journal(node, sql) == ["FINISHED"]


def test_closing_its_session_ends_what_runs(node: SandboxNode, open_cursor: Open) -> None:
    cursor, sql = open_cursor(node), "insert into ended_insert select sleep(60000) is null"
    rows(cursor, "create table ended_insert (a boolean)")
    cursor.execute_async(sql)
    close_session(node, cursor).join(5)
    assert eventually(lambda: completed(node, sql))[0]["state"] == "EXCEPTION"
    assert journal(node, sql) == ["CANCELLED"]
    assert rows(open_cursor(node), "select count(*) from ended_insert") == [(0,)]


def test_finalising_is_not_stopped(node: SandboxNode, open_cursor: Open) -> None:
    """Its rows are written: the client is told that it was cancelled, and it takes effect."""
    cursor, sql = open_cursor(node), "insert into finalised values (1)"
    rows(cursor, "create table finalised (a int)")
    with node.hold("finalising", sql=sql) as held:
        cursor.execute_async(sql)
        held.wait()
        page(node, "/")  # the coordinator goes on
        close = close_session(node, cursor)
        eventually(lambda: in_flight(node, sql)[0]["state"] == "EXCEPTION")
    close.join(5)
    assert rows(open_cursor(node), "select * from finalised") == [(1,)]
    assert journal(node, sql) == ["FINISHED"]


def test_cancel_of_ddl_changes_nothing(node: SandboxNode, open_cursor: Open) -> None:
    """CancelOperation has no cause, and the catalog call is not cancelled: it is FINISHED."""
    cursor, sql = open_cursor(node), "create table uncancelled (a int)"
    with node.hold("catalog", sql=sql) as held:
        cursor.execute_async(sql)
        held.wait()
        cursor.cancel_operation(reset_state=False)
        assert cursor.status() == "RUNNING_STATE"
    eventually(lambda: cursor.status() == "FINISHED_STATE")
    assert "uncancelled" in tables(open_cursor(node))


@pytest.mark.parametrize("how", ["cancel_query", "kill"])
def test_planning_is_stopped(node: SandboxNode, open_cursor: Open, how: str) -> None:
    cursor, sql = open_cursor(node), f"create table stopped_{how} (a int)"
    with node.hold("planning", sql=sql) as held:
        started = Started(cursor, sql)
        [query_id] = held.wait()
        if how == "kill":
            rows(open_cursor(node), f"kill query '{query_id}'")
        else:
            page(node, f"/cancel_query?query_id={query_id}")
        assert "UserCancelledException: Query cancelled by user request" in str(started.answer())
    assert journal(node, sql) == ["CANCELLED"]
    assert f"stopped_{how}" not in tables(open_cursor(node))


def test_kill_archives_ddl_whose_catalog_call_goes_on(node: SandboxNode, open_cursor: Open) -> None:
    """Nobody waits for it yet (WaitAsync), so its record comes before its end: a record is no proof after a KILL."""
    cursor, sql = open_cursor(node), "create table killed_ddl (a int)"
    rows(cursor, "set enable_async_ddl_execution=0")
    with node.hold("catalog", sql=sql) as held:
        started = Started(cursor, sql)
        [query_id] = held.wait()
        rows(open_cursor(node), f"kill query '{query_id}'")
        [record] = eventually(lambda: completed(node, sql))
        assert record["state"] == "EXCEPTION" and not in_flight(node, sql) and not started.answers
    assert "Cancelled" in str(started.answer())
    assert "killed_ddl" in tables(open_cursor(node))


def test_hidden_before_it_is_archived(node: SandboxNode, open_cursor: Open) -> None:
    """In the log first, then out of the list in flight: a copy of the page never misses it."""
    cursor, sql = open_cursor(node), "select 'hidden'"
    with node.hold("leaving", sql=sql) as leaving:
        with node.hold("archiving", sql=sql) as archiving:
            rows(cursor, sql)
            operation = cursor._last_operation
            cursor.close_operation()
            archiving.wait()
            assert in_flight(node, sql) and not completed(node, sql)
        leaving.wait()
        assert in_flight(node, sql) and not completed(node, sql)  # in both; shown once
        with pytest.raises(HiveServer2Error, match="unknown query handle"):
            operation.get_status()
    eventually(lambda: completed(node, sql) and not in_flight(node, sql))


def test_the_log_is_in_order_of_archiving(node: SandboxNode, open_cursor: Open) -> None:
    first, second = open_cursor(node), open_cursor(node)
    with node.hold("archiving", sql="closed first") as held:
        rows(first, "select 'closed first'")
        first.close_operation()
        held.wait()
        rows(second, "select 'closed second'")
        second.close_operation()
        eventually(lambda: completed(node, "select 'closed second'"))
    eventually(lambda: completed(node, "select 'closed first'"))
    found = [query["stmt"] for query in page(node, "/queries")["completed_queries"] if "'closed" in query["stmt"]]
    assert found == ["select 'closed first'", "select 'closed second'"]  # the newest first


def test_a_record_can_be_lost(node: SandboxNode, open_cursor: Open) -> None:
    """One whose profile cannot be compressed is not kept (ArchiveQuery)."""
    cursor, sql = open_cursor(node), "select 'lost record'"
    with node.fail("archiving", sql=sql):
        rows(cursor, sql)
        cursor.close_operation()
        eventually(lambda: not in_flight(node, sql))
    assert not completed(node, sql)


@pytest.mark.parametrize(
    "flags", [{"query_log_size": 3}, pytest.param({"query_log_size_in_bytes": 9000}, marks=pytest.mark.slow)]
)
def test_the_log_forgets_the_oldest(open_cursor: Open, flags: dict[str, float]) -> None:
    with Sandbox(nodes=1, lag=0, users=None, flags=flags) as cluster:
        [node] = cluster.nodes
        cursor = open_cursor(node)
        for number in range(6):
            rows(cursor, f"select {number}")
            cursor.close_operation()
            eventually(lambda sql=f"select {number}": completed(node, sql))
        kept = [query["stmt"] for query in page(node, "/queries")["completed_queries"]]
        assert kept == [f"select {number}" for number in (5, 4, 3)][: len(kept)] and 1 < len(kept) < 4


def test_end_times(node: SandboxNode, open_cursor: Open) -> None:
    """DML ends at its end, and is closed later; a query ends with its last row."""
    cursor = open_cursor(node)
    rows(cursor, "create table end_times (a int)")
    cursor.execute_async("insert into end_times values (1)")
    eventually(lambda: cursor.status() == "FINISHED_STATE")
    [dml] = in_flight(node, "insert into end_times values (1)")
    assert dml["end_time"] and dml["waiting"]
    other = open_cursor(node)
    other.execute("select * from end_times union all select 2")
    other._last_operation.fetch(max_rows=1)
    [query] = in_flight(node, "select * from end_times union all select 2")
    assert not query["end_time"] and query["executing"]


def test_a_failed_fetch_unregisters(node: SandboxNode, open_cursor: Open) -> None:
    cursor = open_cursor(node)
    cursor.execute("select 1 union all select 2")
    cursor.cancel_operation(reset_state=False)
    assert cursor.status() == "FINISHED_STATE"  # its rows are there, and it will give none
    with pytest.raises(HiveServer2Error, match="Cancelled"):
        cursor.fetchall()
    with pytest.raises(HiveServer2Error, match="unknown query handle"):
        cursor.status()
    cursor._last_operation_active = False


def test_a_select_is_finished_at_its_first_rows(node: SandboxNode, open_cursor: Open) -> None:
    cursor = open_cursor(node)
    rows(cursor, "create table many stored as parquet as select 1 a")
    while rows(cursor, "select count(*) from many")[0][0] < 200_000:
        rows(cursor, "insert into many select * from many union all select * from many")
    cursor.execute_async("select a, sleep(if(a = 1, 0, 0)) from many")
    eventually(lambda: cursor.status() == "FINISHED_STATE")
    [query] = in_flight(node, "select a, sleep(if(a = 1, 0, 0)) from many")
    assert query["state"] == "FINISHED" and query["executing"] and not query["waiting"]


def test_one_that_cannot_be_planned_has_ended(node: SandboxNode, open_cursor: Open) -> None:
    with pytest.raises(HiveServer2Error, match="AnalysisException"):
        rows(open_cursor(node), "select nosuch from nowhere")
    assert eventually(lambda: completed(node, "select nosuch from nowhere"))
    assert not in_flight(node, "select nosuch from nowhere")


def test_execution_time_limit_is_told_at_once(node: SandboxNode, open_cursor: Open) -> None:
    cursor = open_cursor(node, configuration={"EXEC_TIME_LIMIT_S": "1"})
    rows(cursor, "create table limited (a int)")
    sql = "insert into limited values (1)"
    with node.hold("finalising", sql=sql) as held:
        cursor.execute_async(sql)
        held.wait()
        eventually(lambda: cursor.status() == "ERROR_STATE")
        with pytest.raises(OperationalError, match="expired due to execution time limit of 1s000ms"):
            cursor._wait_to_finish()
    eventually(lambda: rows(open_cursor(node), "select * from limited") == [(1,)])  # its threads ended later


@pytest.mark.slow
def test_ddl_has_no_execution_time_limit(node: SandboxNode, open_cursor: Open) -> None:
    cursor = open_cursor(node, configuration={"EXEC_TIME_LIMIT_S": "1"})
    with node.delay("catalog", 1.8, sql="unlimited"):
        rows(cursor, "create table unlimited (a int)")
