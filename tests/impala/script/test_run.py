"""Whole scripts on real coordinators (of the sandbox): one node, one session, and what a failure says."""

import logging
import os
import re

import pytest

from airflow_provider_impala_lb import Balancer
from airflow_provider_impala_lb.errors import ScriptError, StatementFailed
from airflow_provider_impala_lb.sandbox import Sandbox
from tests.support.scripts import changed, events_on, rows_of, run, statements_on


def test_a_script_is_one_session_on_one_node():
    script = """
        SET MEM_LIMIT=1g;
        CREATE DATABASE d;
        USE d;
        CREATE TABLE t (a INT, b STRING);
        INSERT INTO t VALUES (1, 'x;y');
        INSERT INTO t VALUES (2, 'z'), (3, NULL);
        INSERT INTO t SELECT a + 3, b FROM t;
        SELECT a, b FROM t ORDER BY a;
    """
    with Sandbox(nodes=3, lag=2) as cluster:
        balancer = Balancer.from_config(cluster.config)
        done = run(balancer, script, handler=rows_of)
        used = [node for node in cluster.nodes if node.journal()]
        assert [node.address for node in used] == [done.node]
        assert events_on(used[0]) == ["open", "close"]
        assert len(statements_on(used[0])) == 8
        assert len({entry["session"] for entry in used[0].journal()}) == 1
        assert balancer.status()["leases"] == []
    assert [statement.rows for statement in done.statements] == [None, None, None, None, 1, 2, 3, None]
    assert [statement.line for statement in done.statements] == list(range(2, 10))
    assert done.results[-1] == [(1, "x;y"), (2, "z"), (3, None), (4, "x;y"), (5, "z"), (6, None)]
    assert all(re.fullmatch(r"[0-9a-f]{16}:[0-9a-f]{8}00000000", entry.query_id) for entry in done.statements)


def test_each_statement_leads_with_its_label(cluster, balancer):
    tags = {"dag": "d*/; drop table x", "task": "t\n2", "run": "r" * 300}
    done = run(balancer, "SELECT 1; SELECT 2", tags=tags)
    node = next(node for node in cluster.nodes if node.address == done.node)
    first, second = statements_on(node)[-2:]
    label = re.match(r"/\* lb:[0-9a-f]{16} 1/2 dag=d/; drop table x task=t2 run=r+ \*/ SELECT 1$", first)
    assert label, first
    assert first.index("*/") + 2 <= 200
    assert first.split()[1] != second.split()[1]


def test_the_session_has_the_user_and_the_options():
    session = {"user": "etl", "query_options": {"mem_limit": "3g"}, "reconnect_timeout": 77}
    with Sandbox(nodes=1, lag=0, users=None) as cluster:
        balancer = changed(cluster, session=session)
        done = run(balancer, "SET ALL; SELECT effective_user()", query_options={"MT_DOP": 3}, handler=rows_of)
    options = {row[0].upper(): row[1] for row in done.results[0]}
    assert (options["MEM_LIMIT"], options["MT_DOP"], options["QUERY_TIMEOUT_S"]) == ("3g", "3", "77")
    assert done.results[1] == [("etl",)]


def test_a_failing_statement_says_which_where_and_what_is_done(cluster, balancer):
    script = "DROP TABLE IF EXISTS f1;\nCREATE TABLE f1 (a INT);\nINSERT INTO f1 VALUES (1), (2);\n\nSELEC 1;\nSELECT 2"
    with pytest.raises(StatementFailed) as caught:
        run(balancer, script)
    error = caught.value
    assert (error.number, error.total, error.line, error.outcome) == (4, 5, 5, "user error")
    assert error.node in str(error)
    assert "Statement 4 of 5 (line 5" in str(error)
    assert "statements 1 to 3 are done, 1 after it not sent" in str(error)
    assert re.search(r"done: 3 \(line 3, query [0-9a-f:]+, 2 rows\)", str(error))
    assert "ParseException" in str(error)
    assert "It was: SELEC 1\n" in str(error)
    assert balancer.status()["leases"] == []


def test_a_statement_that_fails_while_it_runs_has_its_query_id(cluster, balancer):
    script = "DROP TABLE IF EXISTS f2; CREATE TABLE f2 (a INT); INSERT INTO f2 SELECT cast(raise_error('boom') AS INT)"
    with pytest.raises(StatementFailed) as caught:
        run(balancer, script.replace("raise_error('boom')", "sleep(50) / 0"))
    assert caught.value.number == 3


def test_parameters_are_bound_before_anything_runs(cluster, balancer):
    before = [len(node.journal()) for node in cluster.nodes]
    with pytest.raises(ScriptError, match=r"line 2.*no parameter 'missing'"):
        run(balancer, "SELECT %(a)s;\nSELECT %(missing)s", parameters={"a": 1})
    assert [len(node.journal()) for node in cluster.nodes] == before
    done = run(balancer, "SELECT %(a)s", parameters={"a": "it's; 1"}, handler=rows_of)
    assert done.results == [[("it's; 1",)]]


EXECUTED = (
    "Couldn't retrieve the catalog topic update for the SYNC_DDL operation after 5 attempts.The operation has been "
    "successfully executed but its effects"
)


def test_no_threads_or_sockets_stay(balancer):
    def held():
        run(balancer, "SELECT 1")
        return len(os.listdir("/proc/self/fd"))

    counts = [held(), held()]
    while counts[-1] < counts[-2]:  # what an earlier test has left goes
        counts.append(held())
    assert [held() for _ in range(5)] == [counts[-1]] * 5


def test_warnings_are_shown_with_rows_fetched_or_not(balancer, log):
    script = "SELECT /* +FASTER */ 1; SELECT -- +STRAIGHT_JOIN\n2; INSERT INTO warned /* +noshuffle,LUCKY */ SELECT 3"
    run(balancer, "DROP TABLE IF EXISTS warned; SET SYNC_DDL=1; CREATE TABLE warned (a INT)")
    for handler in (None, rows_of):
        log.clear()
        run(balancer, script, handler=handler)
        warnings = [record.getMessage() for record in log.records if record.levelno == logging.WARNING]
        assert warnings == ["[1/3] PLAN hint not recognized: FASTER", "[3/3] INSERT hint not recognized: LUCKY"]


def test_a_short_reconnect_timeout_is_not_none_at_all(cluster):
    done = run(changed(cluster, session={"reconnect_timeout": 0.4}), "SET ALL", handler=rows_of)
    assert {row[0].upper(): row[1] for row in done.results[0]}["QUERY_TIMEOUT_S"] == "1"


def test_a_statement_that_is_done_with_a_warning_keeps_its_place_among_the_results(balancer, monkeypatch):
    """The error is put in by hand: the practice cluster always gets its SYNC_DDL through."""
    from airflow_provider_impala_lb.impala.hs2.ids import StatementError
    from airflow_provider_impala_lb.impala.hs2.session import Session

    execute = Session.execute

    def executed_but_not_broadcast(session, sql, **options):
        ended = execute(session, sql, **options)
        if "INVALIDATE" in sql:
            raise StatementError(f"{EXECUTED} may have not been broadcast", query_id=ended.query_id)
        return ended

    monkeypatch.setattr(Session, "execute", executed_but_not_broadcast)
    done = run(balancer, "SELECT 1; INVALIDATE METADATA", handler=rows_of)
    assert done.results == [[(1,)], None]
    assert [statement.number for statement in done.statements] == [1, 2]
