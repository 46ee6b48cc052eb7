"""What each error text means: Impala's by its sources, Spark's as tests/system/spark has them from a real server."""

import pytest

from airflow_provider_impala_lb.impala.sql.classification import classify
from airflow_provider_impala_lb.impala.statement.failure_rules import classify_failure

SAYS = "org.apache.hive.service.cli.HiveSQLException: Error running query: "
PARSER = (
    f"{SAYS}[PARSE_SYNTAX_ERROR] org.apache.spark.sql.catalyst.parser.ParseException: \n"
    "[PARSE_SYNTAX_ERROR] Syntax error at or near 'SELEC'.(line 1, pos 30)\n\n== SQL ==\nSELEC 1\n^^^"
)
ANALYZER = (
    f"{SAYS}[UNRESOLVED_COLUMN.WITHOUT_SUGGESTION] org.apache.spark.sql.AnalysisException: "
    "[UNRESOLVED_COLUMN.WITHOUT_SUGGESTION] A column or function parameter with name `nope` cannot be resolved. "
    "; line 1 pos 52;\n'InsertIntoStatement Relation spark_catalog.default.t1[a#37] parquet, false\n+- 'Project ['nope]"
)
FROM_A_COMMAND = (
    f"{SAYS}[TABLE_OR_VIEW_NOT_FOUND] org.apache.spark.sql.catalyst.analysis.NoSuchTableException: "
    "[TABLE_OR_VIEW_NOT_FOUND] The table or view `spark_catalog`.`default`.`nope` cannot be found."
)
NO_PLACE = (
    f"{SAYS}[COLUMN_ALREADY_EXISTS] org.apache.spark.sql.AnalysisException: The column `a` already exists."
    "\nCaused by: java.lang.RuntimeException: something else; line 1 pos 7"
)
FROM_A_TASK = f"{SAYS}org.apache.spark.SparkException: Job aborted: {PARSER.removeprefix(SAYS)}"  # a user's own words


@pytest.mark.parametrize(
    ("text", "outcome"),
    [
        (PARSER, "user error"),
        (ANALYZER, "not started"),
        (FROM_A_COMMAND, "unknown"),
        (NO_PLACE, "unknown"),
        (FROM_A_TASK, "unknown"),
    ],
)
def test_what_spark_refuses_after_it_has_accepted_it(text, outcome):
    assert classify_failure(text, classify("INSERT INTO t SELECT 1"), accepted=True).outcome == outcome


def test_sync_ddl_that_was_executed_but_not_broadcast_counts_as_done():
    text = (
        "ImpalaRuntimeException: Couldn't retrieve the catalog topic update for the SYNC_DDL operation after 5 "
        "attempts.The operation has been successfully executed but its effects may have not been broadcast to all the "
        "coordinators."
    )
    assert classify_failure(text, classify("INSERT INTO t SELECT 1"), accepted=True).outcome == "done"
    assert classify_failure(text, classify("CREATE TABLE t (a INT)"), accepted=True).outcome == "done"
    # That is its first step: the table is there, and no row of it.
    assert classify_failure(text, classify("CREATE TABLE t AS SELECT 1"), accepted=True).outcome == "unknown"


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
        assert classify_failure(text, classify(sql), accepted=True).outcome == "unknown"
        assert classify_failure(text, classify("SELECT 1"), accepted=True).outcome == "not started"
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
        ("TableLoadingException: Failed to load metadata for table: d.t", "INSERT", "not started", "unknown"),
        ("TableLoadingException: Failed to load metadata for table: d.t", "ALTER TABLE t ADD", "unknown", "unknown"),
        ("the connection had failed before, so it was not sent", "DROP TABLE t", "not started", "unknown"),
    ],
)
def test_outcomes(text, sql, refused, accepted):
    assert classify_failure(text, classify(sql), accepted=False).outcome == refused
    assert classify_failure(text, classify(sql), accepted=True).outcome == accepted
