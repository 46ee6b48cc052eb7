"""Whole scripts on real coordinators (of the sandbox): one node, one session, and what a failure says."""

import logging
import os
import re

import pytest

from airflow_provider_impala_lb import Balancer
from airflow_provider_impala_lb.errors import ScriptError, StatementFailed
from airflow_provider_impala_lb.impala.hs2.failure_rules import classify_failure, outcome_of
from airflow_provider_impala_lb.impala.sql.statement import classify
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


def test_sync_ddl_that_was_executed_but_not_broadcast_counts_as_done():
    text = (
        "ImpalaRuntimeException: Couldn't retrieve the catalog topic update for the SYNC_DDL operation after 5 "
        "attempts.The operation has been successfully executed but its effects may have not been broadcast to all the "
        "coordinators."
    )
    assert outcome_of(text, classify("INSERT INTO t SELECT 1"), accepted=True) == "done"
    assert outcome_of(text, classify("CREATE TABLE t (a INT)"), accepted=True) == "done"
    # That is its first step: the table is there, and no row of it.
    assert outcome_of(text, classify("CREATE TABLE t AS SELECT 1"), accepted=True) == "unknown"


@pytest.mark.parametrize(
    "text",
    [
        "Rejected query from pool P: queue full, limit=1, num_queued=1",
        "Rejected query from pool P: request memory needed 4.00 GB is greater than pool max mem resources 1.00 GB",
        "Admission for query exceeded timeout 60000ms in pool P. Queued reason: x",
        "Cannot schedule query: no registered backends available.",
        "Couldn't open transport for catalogd:26000 (connect() failed: Connection refused)",
    ],
)
@pytest.mark.parametrize("accepted", [True, False])
def test_the_second_step_of_create_table_as_leaves_the_table_of_the_first(text, accepted):
    for sql in ("CREATE TABLE t AS SELECT 1", "CREATE TABLE IF NOT EXISTS t STORED AS ORC AS VALUES (1)"):
        found = classify_failure(text, classify(sql), accepted=accepted)
        assert (found.verdict, found.outcome) == ("unknown", "unknown")
        assert "without its rows" in found.advice
    assert classify_failure(text, classify("INSERT INTO t SELECT 1"), accepted=False).outcome == "not started"
    assert (
        classify_failure(text, classify("EXPLAIN CREATE TABLE t AS SELECT 1"), accepted=False).outcome == "not started"
    )


EXECUTED = (
    "Couldn't retrieve the catalog topic update for the SYNC_DDL operation after 5 attempts.The operation has been "
    "successfully executed but its effects"
)


@pytest.mark.parametrize(
    "told",
    [
        "operation has been successfully executed",
        EXECUTED,
        "Rejected query from pool p",
        "Rejected query from pool p: queue full",
        "Admission for query exceeded timeout",
        "Server is being shut down",
        "Invalid session id",
        "so it was not sent",
        "the connection failed while it was sent; it never reached the coordinator",
        "AnalysisException: Could not resolve table reference",
    ],
)
def test_what_a_message_quotes_is_no_word_of_the_servers(told):
    """A value, a name or the statement itself may hold any text, with quotes around it or without."""
    sql = "INSERT INTO t SELECT cast(a AS DATE) FROM m"
    for text in (
        f'UDF ERROR: String to Date parse failed. Invalid string val: "{told}"',
        f"Query a:b failed:\nUDF ERROR: String to Date parse failed. Invalid string val: {told}",
    ):
        assert outcome_of(text, classify(sql), accepted=True) == "unknown"
        assert outcome_of(text, classify("SELECT 1"), accepted=True) == "not started"
    refused = f"AnalysisException: Incompatible types in predicate: id = '{told}'"
    assert classify_failure(refused, classify(sql), accepted=False).verdict == "user error"


@pytest.mark.parametrize(
    ("text", "sql", "refused", "accepted"),
    [  # the outcome in place of a query id, and after one was given
        ("Query 1:2 failed:\nServer is being shut down: shutdown grace", "INSERT", "not started", "unknown"),
        ("Invalid session id: a:b", "INSERT INTO t SELECT 1", "not started", "unknown"),
        ("Session is closed", "DROP TABLE t", "not started", "unknown"),
        ("Invalid or unknown query handle: a:b.", "INSERT INTO t SELECT 1", "unknown", "unknown"),
        ("AnalysisException: Could not resolve table reference: 'd.t'", "INSERT", "not started", "unknown"),
        ("AnalysisException: Column 'x' is ambiguous", "SELECT x FROM t", "user error", "not started"),
        ("ParseException: Syntax error in line 1", "SELEC", "user error", "unknown"),
        ("Rejected query from pool P: queue full", "INSERT INTO t SELECT 1", "not started", "not started"),
        ("Memory limit exceeded", "INSERT INTO t SELECT 1", "unknown", "unknown"),
        ("Memory limit exceeded", "/* c */ (SELECT 1)", "not started", "not started"),
        ("Memory limit exceeded", "WITH a AS (SELECT 1) INSERT INTO t SELECT * FROM a", "unknown", "unknown"),
        ("Memory limit exceeded", "WITH a AS (SELECT 1) SELECT * FROM a", "not started", "not started"),
        ("TSocket read 0 bytes", "DROP TABLE t", "unknown", "unknown"),
        ("whatever", "REFRESH t", "not started", "not started"),
        ("the connection had failed before, so it was not sent", "DROP TABLE t", "not started", "unknown"),
    ],
)
def test_outcomes(text, sql, refused, accepted):
    assert outcome_of(text, classify(sql), accepted=False) == refused
    assert outcome_of(text, classify(sql), accepted=True) == accepted


def test_no_threads_or_sockets_stay(balancer):
    run(balancer, "SELECT 1")
    before = len(os.listdir("/proc/self/fd"))
    for _ in range(5):
        run(balancer, "SELECT 1")
    assert len(os.listdir("/proc/self/fd")) == before


def test_a_slow_statement_says_how_far_it_is(balancer, log, monkeypatch):
    from airflow_provider_impala_lb.impala.hs2 import operation

    monkeypatch.setattr(operation, "SLOW_SECONDS", 0.1)
    done = run(balancer, "SELECT sleep(700)")
    said = [record.getMessage() for record in log.records if "has run on" in record.getMessage()]
    assert said
    assert re.search(
        rf"Query {done.statements[0].query_id} has run on {done.node} for 0 s: Query {done.statements[0].query_id}: "
        rf"\d+% Complete \(\d+ out of \d+\), http://127.0.0.1:\d+/query_plan\?query_id=",
        said[0],
    )
    ended = [record.getMessage() for record in log.records if record.getMessage().startswith("[1/1]")]
    assert len(ended) == 1
    assert re.fullmatch(rf"\[1/1\] line 1 on {done.node}: query [0-9a-f:]+, \d+\.\d\d s: SELECT sleep\(700\)", ended[0])


@pytest.mark.parametrize(("waited", "pause"), [(0, 0.002), (0.036, 0.003), (0.72, 0.022), (7.2, 0.202), (3600, 1.0)])
def test_the_pause_between_polls_grows_with_the_time_waited(waited, pause):
    from airflow_provider_impala_lb.impala.hs2.operation import next_poll

    assert next_poll(waited) == pytest.approx(pause, rel=0.01)


def test_ids_are_printed_as_impala_prints_them():
    from airflow_provider_impala_lb.impala.hs2.ids import print_id

    guid = bytes.fromhex("0123456789abcdef") + b"76543210"  # impala tests/hs2/test_hs2.py
    assert print_id(guid) == "efcdab8967452301:3031323334353637"


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
