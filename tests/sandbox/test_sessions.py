"""Sessions, handles, cancelling, timeouts, shutdown: Impala's rules and Impala's texts."""

from __future__ import annotations

import contextlib
import re
import threading
import time
from typing import Any

import pytest
from impala._thrift_gen.TCLIService import ttypes as t
from impala.dbapi import connect
from impala.error import HiveServer2Error, OperationalError
from impala.hiveserver2 import HiveServer2Cursor, HS2Session, Operation
from thrift.transport.TTransport import TTransportException

from airflow_provider_impala_lb.sandbox import Sandbox, SandboxNode
from tests.support.sandbox import Open, page, rows, status_of
from tests.support.servers import eventually

pytestmark = pytest.mark.usefixtures("collected")


def reach(node: SandboxNode) -> Any:
    return connect(host=node.host, port=node.port, timeout=10)


def session_on(connection: Any, cursor: HiveServer2Cursor, secret: bytes | None = None) -> HS2Session:
    """The cursor's session over another connection."""
    known = cursor.session.handle.sessionId
    handle = t.TSessionHandle(t.THandleIdentifier(known.guid, secret or known.secret))
    return HS2Session(connection.service, handle, {}, 5, retries=1)


class Adopted(HiveServer2Cursor):
    """A cursor on a session that it must not close when it is collected."""

    def __del__(self) -> None:
        pass


def adopt(connection: Any, cursor: HiveServer2Cursor, secret: bytes | None = None) -> Adopted:
    return Adopted(session_on(connection, cursor, secret))


def operation_on(connection: Any, cursor: HiveServer2Cursor) -> Operation:
    """The cursor's operation over another connection."""
    return Operation(session_on(connection, cursor), cursor._last_operation.handle)


def wait_for_no_connection(node: SandboxNode, session: HS2Session) -> None:
    deadline = time.monotonic() + 5
    while time.monotonic() < deadline:
        guid = session.handle.sessionId.guid
        session_id = f"{guid[:8][::-1].hex()}:{guid[8:][::-1].hex()}"
        [row] = [each for each in page(node, "/sessions")["sessions"] if each["session_id"] == session_id]
        if not row["connection_ids"]:
            return
        time.sleep(0.02)
    raise AssertionError("the coordinator did not notice the end of the connection")


def test_session_outlives_its_connection(plain: Sandbox, open_cursor: Open) -> None:
    node = plain.nodes[0]
    cursor = open_cursor(node)
    rows(cursor, "set mem_limit=3g")
    rows(cursor, "create database if not exists kept")
    rows(cursor, "use kept")
    cursor.session.client._iprot.trans.close()
    wait_for_no_connection(node, cursor.session)
    other = adopt(reach(node), cursor)
    assert rows(other, "select current_database()") == [("kept",)]
    assert ("MEM_LIMIT", "3g", "REGULAR") in rows(other, "set")


def test_session_is_reaped_after_its_time(open_cursor: Open) -> None:
    with Sandbox(nodes=1, flags={"disconnected_session_timeout": 0.5}, users=None) as cluster:
        node = cluster.nodes[0]
        first = reach(node)
        cursor = first.cursor(user="ann")
        cursor.execute_async("select sleep(60000)")
        first.close()
        assert page(node, "/sessions")["num_sessions"] == 1
        deadline = time.monotonic() + 5
        while page(node, "/sessions")["num_sessions"] and time.monotonic() < deadline:
            time.sleep(0.05)
        assert page(node, "/sessions")["num_sessions"] == 0
        # The session is forgotten before what ran in it has ended.
        eventually(lambda: page(node, "/jsonmetrics")["impala-server.num-queries-registered"] == 0)
        other = adopt(reach(node), cursor)
        with pytest.raises(HiveServer2Error, match=r"^Invalid session id: [0-9a-f]{16}:[0-9a-f]{16}"):
            other.execute("select 1")
        assert [entry.get("event") or entry["state"] for entry in node.journal()] == ["open", "CANCELLED", "close"]


def sleepers(node: SandboxNode) -> list[str]:
    return [query["stmt"] for query in page(node, "/queries")["in_flight_queries"]]


@pytest.mark.parametrize("timeout", [0, -1])
def test_sessions_of_impala_3_2_end_with_their_connection(open_cursor: Open, timeout: float) -> None:
    with Sandbox(nodes=1, flags={"disconnected_session_timeout": timeout}, users=None) as cluster:
        [node] = cluster.nodes
        cursor, other = open_cursor(node), open_cursor(node)
        cursor.execute_async("select sleep(60000)")
        second = reach(node)
        adopted = adopt(second, cursor)
        rows(adopted, "select 1")  # the session has two connections now
        cursor.session.client._iprot.trans.close()
        assert rows(adopted, "select 2") == [(2,)]
        assert any("sleep" in text for text in sleepers(node))
        second.close()
        deadline = time.monotonic() + 5
        while len(page(node, "/sessions")["sessions"]) > 1 or sleepers(node):
            assert time.monotonic() < deadline, "the session is still there"
            time.sleep(0.02)
        third = reach(node)
        with pytest.raises(HiveServer2Error, match="Invalid session id"):
            adopt(third, cursor).execute("select 1")
        third.close()
        assert rows(other, "select 3") == [(3,)]  # others are left alone
        while len(events := [(entry["event"], entry["session"]) for entry in node.journal() if "event" in entry]) < 3:
            assert time.monotonic() < deadline + 5, events  # written just after the page shows it
            time.sleep(0.02)
        assert [event for event, _ in events] == ["open", "open", "close"]
        assert events[2][1] == events[0][1]
        cursor._closed = True


def test_wrong_secrets(plain: Sandbox, open_cursor: Open) -> None:
    cursor = open_cursor(plain.nodes[0])
    other = adopt(reach(plain.nodes[0]), cursor, secret=b"x" * 16)
    with pytest.raises(HiveServer2Error, match="^Invalid session id: "):
        other.execute("select 1")
    cursor.execute("select 1")
    cursor._last_operation.handle.operationId.secret = b"x" * 16
    with pytest.raises(
        HiveServer2Error, match=r"\nInvalid or unknown query handle: [0-9a-f]{16}:[0-9a-f]{8}00000000\.\n$"
    ):
        cursor._last_operation.get_status()


def test_closed_session_and_query(plain: Sandbox, open_cursor: Open) -> None:
    cursor = open_cursor(plain.nodes[0])
    cursor.execute("select 1")
    operation = operation_on(reach(plain.nodes[0]), cursor)
    cursor.close_operation()
    with pytest.raises(HiveServer2Error, match="Invalid or unknown query handle"):
        operation.get_status()
    assert "Query State: FINISHED" in operation.get_profile()


def test_cancel_from_another_connection(plain: Sandbox, open_cursor: Open) -> None:
    cursor = open_cursor(plain.nodes[0])
    cursor.execute_async("select sleep(60000)")
    assert cursor.status() == "RUNNING_STATE"
    operation_on(reach(plain.nodes[0]), cursor).cancel()
    assert cursor.status() == "ERROR_STATE"
    with pytest.raises(OperationalError, match=r"^Query [0-9a-f:]{33} failed:\nCancelled\n$"):
        cursor._wait_to_finish()
    eventually(lambda: "event" not in plain.nodes[0].journal()[-1])
    assert plain.nodes[0].journal()[-1]["state"] == "CANCELLED"
    assert rows(cursor, "select 1") == [(1,)]


@pytest.mark.parametrize(
    "work",
    ["select count(*) from {0} a, {0} b, {0} c, {0} d", "insert into {0} select a.x from {0} a, {0} b, {0} c, {0} d"],
)
def test_cancel_stops_real_work(plain: Sandbox, open_cursor: Open, work: str) -> None:
    cursor = open_cursor(plain.nodes[0])
    rows(cursor, "create table if not exists busy stored as parquet as select 1 x")
    while rows(cursor, "select count(*) from busy")[0][0] < 4096:
        rows(cursor, "insert into busy select * from busy")
    before = rows(cursor, "select count(*) from busy")
    cursor.execute_async(work.format("busy"))
    time.sleep(0.3)
    assert cursor.status() == "RUNNING_STATE"
    began = time.monotonic()
    cursor.cancel_operation(reset_state=False)
    assert cursor.status() == "ERROR_STATE" and time.monotonic() - began < 3
    assert rows(cursor, "select count(*) from busy") == before


def test_statements_of_a_session_run_side_by_side(plain: Sandbox, open_cursor: Open) -> None:
    cursor = open_cursor(plain.nodes[0])
    cursor.execute_async("select sleep(3000)")
    other = adopt(reach(plain.nodes[0]), cursor)
    began = time.monotonic()
    assert rows(other, "select 1") == [(1,)]
    assert time.monotonic() - began < 1


def test_query_timeout_ends_nothing_that_runs(plain: Sandbox, open_cursor: Open) -> None:
    """From its start to its first rows, or its end, a statement is active, whatever its client does."""
    cursor = open_cursor(plain.nodes[0], configuration={"query_timeout_s": "1"})
    cursor.execute_async("select sleep(2500)")
    time.sleep(2)
    assert cursor.status() == "RUNNING_STATE"
    cursor._wait_to_finish()
    assert cursor.fetchall() == [(True,)]


def test_query_timeout_counts_fetches_only(plain: Sandbox, open_cursor: Open) -> None:
    cursor = open_cursor(plain.nodes[0], configuration={"query_timeout_s": "1"})
    cursor.execute("select 1 union all select 2")
    cursor._last_operation.fetch(max_rows=1)
    began = time.monotonic()
    text = r"Query [0-9a-f:]{33} expired due to client inactivity \(timeout is 1s000ms\)"
    with pytest.raises(HiveServer2Error, match=text):
        while time.monotonic() - began < 5:
            cursor.status()  # who asks does not keep it alive
            time.sleep(0.1)
    assert time.monotonic() - began > 0.9
    assert page(plain.nodes[0], "/jsonmetrics")["impala-server.num-queries-expired"] >= 1


def test_exec_time_limit(plain: Sandbox, open_cursor: Open) -> None:
    cursor = open_cursor(plain.nodes[0], configuration={"EXEC_TIME_LIMIT_S": "1"})
    with pytest.raises(OperationalError, match="expired due to execution time limit of 1s"):
        rows(cursor, "select sleep(60000)")


def test_idle_session_expires(plain: Sandbox, open_cursor: Open) -> None:
    cursor = open_cursor(plain.nodes[0], configuration={"IDLE_SESSION_TIMEOUT": "1"})
    rows(cursor, "select 1")
    time.sleep(1.6)
    text = r"^Client session expired due to more than 1s of inactivity \(last activity was at: \d{4}-.*\)"
    with pytest.raises(HiveServer2Error, match=text):
        cursor.execute("select 1")


def test_the_statement_of_an_expired_session(plain: Sandbox, open_cursor: Open) -> None:
    cursor = open_cursor(plain.nodes[0], configuration={"IDLE_SESSION_TIMEOUT": "1"})
    cursor.execute_async("select sleep(60000)")
    time.sleep(2)
    with pytest.raises(HiveServer2Error, match="Session expired due to inactivity"):
        cursor.status()


def test_closing_a_session_ends_its_queries(plain: Sandbox, open_cursor: Open) -> None:
    node = plain.nodes[0]
    cursor = open_cursor(node)
    cursor.execute_async("select sleep(60000) as closing")
    session_on(reach(node), cursor).close()
    with pytest.raises(HiveServer2Error, match="Invalid or unknown query handle"):
        cursor.status()
    [entry] = [entry for entry in node.journal() if entry.get("sql") == "select sleep(60000) as closing"]
    assert entry["state"] == "CANCELLED"


def test_connection_limit_is_silence() -> None:
    with Sandbox(nodes=1, flags={"fe_service_threads": 2}, users=None) as cluster:
        node = cluster.nodes[0]
        first, second = reach(node), reach(node)
        held = [first.cursor(), second.cursor()]
        third = connect(host=node.host, port=node.port, timeout=1, retries=1)
        with pytest.raises(TTransportException, match="read timeout"):
            third.cursor(user="third")
        metrics = page(node, "/jsonmetrics")
        thrift = "impala.thrift-server.hiveserver2-frontend"
        assert metrics[f"{thrift}.connections-in-use"] == 2
        assert metrics[f"{thrift}.connection-setup-queue-size"] == 1
        answer: list[Any] = []
        waiting = threading.Thread(target=lambda: answer.append(rows(reach(node).cursor(), "select 1")))
        third.close()
        waiting.start()
        time.sleep(0.2)
        assert answer == []
        held.pop().close()
        second.close()
        waiting.join(5)
        assert answer == [[(1,)]]
        first.close()
        del held[:]


def test_sessions_per_user() -> None:
    with Sandbox(nodes=1, flags={"max_hs2_sessions_per_user": 1}, users=None) as cluster:
        connection = reach(cluster.nodes[0])
        held = connection.cursor(user="ann")
        with pytest.raises(HiveServer2Error, match="^Number of sessions for user ann exceeds coordinator limit 1"):
            connection.cursor(user="ann")
        connection.cursor(user="bob").close()
        held.close()
        connection.cursor(user="ann").close()
        connection.close()


SHUTDOWN = (
    r"^Server is being shut down: shutdown grace period left: .+, deadline left: .+, queries registered on "
    r"coordinator: 1, queries executing: \d+, fragment instances: \d+"
)


@pytest.mark.parametrize("how", ["signal", "sql"])
def test_shutdown(how: str) -> None:
    flags = {"shutdown_grace_period_s": 0.5, "shutdown_deadline_s": 30}
    with Sandbox(nodes=1, flags=flags, users=None) as cluster:
        node = cluster.nodes[0]
        connection = reach(node)
        cursor = connection.cursor(user="ann")
        cursor.execute_async("select sleep(700)")
        if how == "signal":
            node.drain()
        else:
            other = reach(node).cursor(user="admin")
            assert "grace period left" in rows(other, ":shutdown()")[0][0]
            other.close()
            eventually(lambda: page(node, "/queries")["num_in_flight_queries"] == 1)  # the others are archived
        for call in (
            lambda: connection.cursor(user="bob"),
            lambda: cursor.session.execute(b"select 1"),
            cursor.session.get_databases,
        ):
            with pytest.raises(HiveServer2Error, match=SHUTDOWN):
                call()
        assert status_of(node, "/healthz") == 200
        root = page(node, "/")
        assert root["is_quiescing"] is True and root["shutdown_status"].startswith("shutdown grace period left: ")
        assert page(node, "/backends")["num_quiescing_backends"] == 1
        cursor._wait_to_finish()
        assert node.running
        assert cursor.fetchall() == [(True,)]
        with contextlib.suppress(Exception):  # with the last row its last query is closed: it may be gone by now
            cursor.close()
            connection.close()
        deadline = time.monotonic() + 5
        while node.running and time.monotonic() < deadline:
            time.sleep(0.05)
        assert not node.running


def test_open_session_says_where_it_is(plain: Sandbox, open_cursor: Open) -> None:
    node = plain.nodes[0]
    configuration = {"use:database": "DEFAULT", "mem_limit": "2g", "nosuch": "ignored"}
    cursor = open_cursor(node, configuration=configuration)
    answered = cursor.session.config
    assert answered["http_addr"] == node.web.removeprefix("http://")
    assert answered["MEM_LIMIT"] == "2g" and "nosuch" not in {name.lower() for name in answered}


def test_log_profile_summary(plain: Sandbox, open_cursor: Open) -> None:
    cursor = open_cursor(plain.nodes[0])
    cursor.execute_async("select sleep(1000)")
    query = r"Query [0-9a-f]{16}:[0-9a-f]{8}00000000"
    assert re.fullmatch(rf"{query}: \d+% Complete \([0-2] out of 3\)\n", cursor.get_log())
    assert cursor.get_summary().progress.num_completed_scan_ranges < 3
    cursor._wait_to_finish()
    assert re.fullmatch(rf"{query} 100% Complete \(3 out of 3\)\n", cursor.get_log())
    cursor.fetchall()
    profile = cursor.get_profile()
    assert "Sql Statement: select sleep(1000)" in profile and "User: ann" in profile
    summary = cursor.get_summary()
    assert summary.progress.num_completed_scan_ranges == summary.progress.total_scan_ranges == 3


def id_of(node: SandboxNode, text: str) -> str:
    [found] = [each for each in page(node, "/queries")["in_flight_queries"] if text in each["stmt"]]
    return str(found["query_id"])


def test_kill_query_reaches_the_other_coordinator(pair: Sandbox, open_cursor: Open) -> None:
    here, there = (open_cursor(node) for node in pair.nodes)
    here.execute_async("select sleep(60000), 'to be killed'")
    query_id = id_of(pair.nodes[0], "to be killed")
    with pytest.raises(HiveServer2Error, match="User 'bob' is not authorized to kill the query"):
        rows(open_cursor(pair.nodes[1], user="bob"), f"kill query '{query_id}'")
    assert here.status() == "RUNNING_STATE"
    assert rows(there, f"kill query '{query_id}'") == [(f"Query {query_id} is killed.",)]
    with pytest.raises(HiveServer2Error, match="Cancelled"):  # it is unregistered, too
        here.status()
    with pytest.raises(HiveServer2Error, match="Could not find query on any coordinator"):
        rows(there, "kill query '1:2'")


def test_an_admin_kills_everybodys(open_cursor: Open) -> None:
    with Sandbox(nodes=2, users=None, admins=["root"]) as cluster:
        cursor = open_cursor(cluster.nodes[0])
        cursor.execute_async("select sleep(60000), 'of another'")
        rows(open_cursor(cluster.nodes[1], user="root"), f"kill query '{id_of(cluster.nodes[0], 'of another')}'")
        with pytest.raises(HiveServer2Error, match="Cancelled"):
            cursor.status()
