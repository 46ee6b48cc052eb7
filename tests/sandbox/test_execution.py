"""Admission, CREATE TABLE AS SELECT in two steps, child queries, SYNC_DDL, queries that the server runs once more."""

from __future__ import annotations

import time
from collections.abc import Iterator
from typing import Any

import pytest
from impala._thrift_gen.TCLIService import ttypes as t
from impala.error import HiveServer2Error, OperationalError

from airflow_provider_impala_lb.sandbox import Sandbox, SandboxNode
from tests.support.sandbox import Open, page, rows
from tests.support.servers import eventually

pytestmark = pytest.mark.usefixtures("collected")


@pytest.fixture(scope="module")
def small() -> Iterator[SandboxNode]:
    """A coordinator that runs one statement at a time, lets one wait, for 1 s."""
    flags = {"default_pool_max_requests": 1, "default_pool_max_queued": 1, "queue_wait_timeout_ms": 1000}
    with Sandbox(nodes=1, lag=0, users=None, flags=flags) as cluster:
        yield cluster.nodes[0]


def named(node: SandboxNode, text: str) -> list[dict[str, Any]]:
    listed = page(node, "/queries")
    return [query for query in listed["in_flight_queries"] + listed["completed_queries"] if text in query["stmt"]]


def test_the_queue(small: SandboxNode, open_cursor: Open) -> None:
    running, waiting, refused = (open_cursor(small) for _ in range(3))
    running.execute_async("select sleep(60000)")
    eventually(lambda: running.status() == "RUNNING_STATE")
    waiting.execute_async("select sleep(1), 'waits'")
    eventually(lambda: named(small, "'waits'")[0]["last_event"] == "Submit for admission")
    assert waiting.status() == "PENDING_STATE" and named(small, "'waits'")[0]["state"] == "COMPILED"
    reason = "number of running queries 1 is at or over limit 1."
    assert waiting.get_log() == f"Admission result : Queued\nLatest admission queue reason : {reason}\n"
    with pytest.raises(OperationalError, match=r"Rejected query from pool default-pool: queue full, limit=1, num_queu"):
        rows(refused, "select sleep(1), 'is refused'")
    assert rows(open_cursor(small), "select 1") == [(1,)]  # a trivial query passes
    metrics = page(small, "/jsonmetrics")
    assert metrics["admission-controller.local-num-queued.default-pool"] == 1
    assert metrics["admission-controller.local-num-admitted-running.default-pool"] == 1
    with pytest.raises(
        OperationalError, match=r"Admission for query exceeded timeout 1000ms in pool default-pool\. Qu"
    ):
        waiting._wait_to_finish()
    waiting.execute_async("select sleep(1), 'waits again'")
    running.close_operation()
    waiting._wait_to_finish()


def test_cancelled_in_the_queue(small: SandboxNode, open_cursor: Open) -> None:
    running, waiting = open_cursor(small), open_cursor(small)
    running.execute_async("select sleep(60000)")
    eventually(lambda: running.status() == "RUNNING_STATE")
    waiting.execute_async("select sleep(1), 'is cancelled'")
    waiting.cancel_operation(reset_state=False)
    assert waiting.status() == "ERROR_STATE"
    eventually(lambda: page(small, "/jsonmetrics")["admission-controller.local-num-queued.default-pool"] == 0)


def test_a_table_without_rows_stays_of_a_refused_ctas(small: SandboxNode, open_cursor: Open) -> None:
    """The table is made first, then the INSERT part is admitted (ClientRequestState::ExecDdlRequestImpl)."""
    running, cursor = open_cursor(small), open_cursor(small)
    running.execute_async("select sleep(60000)")
    eventually(lambda: running.status() == "RUNNING_STATE")
    with pytest.raises(OperationalError, match="exceeded timeout"):
        rows(cursor, "create table refused_ctas as select 1 a")
    running.close_operation()
    assert rows(cursor, "select count(*) from refused_ctas") == [(0,)]
    assert rows(cursor, "create table if not exists refused_ctas as select 1 a") == [("Inserted 0 row(s)",)]
    assert rows(cursor, "select count(*) from refused_ctas") == [(0,)]


def test_between_the_steps_of_ctas(plain: Sandbox, open_cursor: Open) -> None:
    node, cursor = plain.nodes[0], open_cursor(plain.nodes[0])
    with node.hold("ctas", sql="two_steps") as held:
        cursor.execute_async("create table two_steps as select 1 a")
        held.wait()
        assert rows(open_cursor(node), "select count(*) from two_steps") == [(0,)]
        cursor.cancel_operation(reset_state=False)
        eventually(lambda: cursor.status() == "ERROR_STATE")
    assert rows(open_cursor(node), "select count(*) from two_steps") == [(0,)]


def test_compute_stats_has_children(plain: Sandbox, open_cursor: Open) -> None:
    node, cursor = plain.nodes[0], open_cursor(plain.nodes[0])
    rows(cursor, "create table with_stats as select 1 a, 'b' b union all select 2, 'b'")
    with node.hold("execution", sql="COUNT(*) FROM `default`.`with_stats`") as held:
        cursor.execute_async("compute stats with_stats")
        [child] = held.wait()
        parent, query = named(node, "compute stats with_stats")[0], named(node, "COUNT(*) FROM `default`.`with_stats`")
        assert query[0]["query_id"] == child != parent["query_id"] and query[0]["stmt_type"] == "QUERY"
    cursor._wait_to_finish()
    assert cursor.fetchall() == [("Updated 1 partition(s) and 2 column(s).",)]
    assert len(eventually(lambda: [q for q in named(node, "NDV(") if "`default`.`with_stats`" in q["stmt"]])) == 1
    assert rows(cursor, "show table stats with_stats")[0][0] == 2


def test_a_cancel_of_compute_stats_ends_its_children(plain: Sandbox, open_cursor: Open) -> None:
    node, cursor = plain.nodes[0], open_cursor(plain.nodes[0])
    rows(cursor, "create table without_stats as select 1 a")
    with node.hold("execution", sql="`without_stats`") as held:
        cursor.execute_async("compute stats without_stats")
        held.wait()
        cursor.cancel_operation(reset_state=False)
        eventually(lambda: cursor.status() == "ERROR_STATE")
        [child] = eventually(lambda: [q for q in named(node, "COUNT(*) FROM `default`.`without") if q["end_time"]])
    assert child["state"] == "EXCEPTION"
    assert rows(cursor, "show table stats without_stats")[0][0] == -1


@pytest.mark.parametrize(
    ("sql", "waits"),
    [
        ("drop table if exists no_such_table", False),
        ("create table if not exists sync_ddl (a int)", True),  # what is there gets a new version (createTable)
        ("create table if not exists sync_ddl as select 1", False),  # and here nobody waits (ExecDdlRequestImpl)
        ("insert into sync_ddl select 1 from sync_ddl where a > 5", False),
        ("insert into sync_ddl values (1)", True),
        ("refresh sync_ddl", True),
    ],
)
def test_sync_ddl_waits_for_what_was_changed(pair: Sandbox, open_cursor: Open, sql: str, waits: bool) -> None:
    cursor = open_cursor(pair.nodes[0])
    rows(cursor, "create table if not exists sync_ddl (a int)")
    rows(cursor, "set sync_ddl=1")
    with pair.nodes[0].hold("sync_ddl", sql=sql) as held:
        cursor.execute_async(sql)
        if waits:
            held.wait()
            assert cursor.status() == "RUNNING_STATE"
        else:
            eventually(lambda: cursor.status() == "FINISHED_STATE")
    eventually(lambda: cursor.status() == "FINISHED_STATE")


def test_a_query_is_run_once_more(plain: Sandbox, open_cursor: Open) -> None:
    node, cursor = plain.nodes[0], open_cursor(plain.nodes[0], configuration={"RETRY_FAILED_QUERIES": "1"})
    sql = "select sleep(300), 'once more'"
    with node.fail("execution", sql="once more", times=1):
        cursor.execute_async(sql)
        cursor._wait_to_finish()
    first, second = sorted(named(node, "once more"), key=lambda query: query["start_time"])
    assert (first["state"], second["state"]) == ("RETRIED", "FINISHED") and first["query_id"] != second["query_id"]
    log = cursor.get_log()
    assert f"Query has been retried using query id: {second['query_id']}\n" in log
    assert "Original query failed:\nFailed due to unreachable impalad(s): 127.0.0.1:27001\n" in log
    assert cursor.fetchall() == [(True, "once more")]


@pytest.mark.parametrize("sql", ["select sleep(300), 'no retry'", "insert into not_retried values (1)"])
def test_what_is_not_run_once_more(plain: Sandbox, open_cursor: Open, sql: str) -> None:
    option = {} if "select" in sql else {"RETRY_FAILED_QUERIES": "1"}
    node, cursor = plain.nodes[0], open_cursor(plain.nodes[0], configuration=option)
    rows(cursor, "create table if not exists not_retried (a int)")
    with node.fail("execution", sql=sql, times=1), pytest.raises(OperationalError, match="unreachable impalad"):
        rows(cursor, sql)


def test_the_answer_of_the_catalog_service_is_lost(plain: Sandbox, open_cursor: Open) -> None:
    node, cursor = plain.nodes[0], open_cursor(plain.nodes[0])
    with node.fail("catalog_answer", sql="lost_answer"), pytest.raises(OperationalError, match="RPC recv timed out"):
        rows(cursor, "create table lost_answer (a int)")
    assert ("lost_answer",) in rows(cursor, "show tables")


def test_rows_produced_limit(plain: Sandbox, open_cursor: Open) -> None:
    cursor = open_cursor(plain.nodes[0], configuration={"NUM_ROWS_PRODUCED_LIMIT": "1"})
    with pytest.raises(HiveServer2Error, match="terminated due to rows produced limit of 1. Unset or increase"):
        rows(cursor, "select 1 union all select 2")
    cursor._last_operation_active = False


def test_a_fetch_answers_while_it_runs(plain: Sandbox, open_cursor: Open) -> None:
    cursor = open_cursor(plain.nodes[0], configuration={"FETCH_ROWS_TIMEOUT_MS": "200"})
    cursor.execute_async("select sleep(60000)")
    request = t.TFetchResultsReq(cursor._last_operation.handle, t.TFetchOrientation.FETCH_NEXT, 10)
    began = time.monotonic()
    answer = cursor.session.client.FetchResults(request)
    assert answer.status.statusCode == t.TStatusCode.STILL_EXECUTING_STATUS and answer.hasMoreRows
    assert 0.2 <= time.monotonic() - began < 5


def test_pages_of_others_and_old_ones(pair: Sandbox, open_cursor: Open) -> None:
    first, second = pair.nodes
    with first.stale_queries_page():
        rows(open_cursor(first), "select 'not on the copy'")
        assert not named(first, "not on the copy")
    assert named(first, "not on the copy")
    with second.queries_page_of(first):
        assert named(second, "not on the copy")
    with first.fail("queries_page"), pytest.raises(OSError, match="500"):
        page(first, "/queries")


def test_switches_refuse_what_they_cannot_do(plain: Sandbox) -> None:
    with pytest.raises(ValueError, match=r"'plannin' is no point. Known: planning, inflight, "):
        plain.nodes[0].hold("plannin")
    with pytest.raises(ValueError, match="0 or more"):
        plain.nodes[0].delay("planning", -1)
    with pytest.raises(ValueError, match="Nothing fails at 'leaving'"):
        plain.nodes[0].fail("leaving")
    with plain.nodes[0].hold("planning") as held, pytest.raises(TimeoutError, match="0 of 1 statements"):
        held.wait(0.05)
