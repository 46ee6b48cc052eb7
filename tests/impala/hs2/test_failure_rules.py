"""Errors as Spark's Thrift Server words them; tests/system/spark has them from a real one."""

import pytest

from airflow_provider_impala_lb.impala.hs2.failure_rules import outcome_of
from airflow_provider_impala_lb.impala.hs2.ids import without_stack
from airflow_provider_impala_lb.impala.sql.statement import classify

SAYS = "org.apache.hive.service.cli.HiveSQLException: Error running query: "
STACK = """
\tat org.apache.spark.sql.hive.thriftserver.HiveThriftServerErrors$.runningQueryError(HiveThriftServerErrors.scala:43)
\tat java.base/java.util.concurrent.FutureTask.run(FutureTask.java:264)
"""
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
    assert outcome_of(text, classify("INSERT INTO t SELECT 1"), accepted=True) == outcome


def test_a_stack_is_cut_out_and_each_cause_said_once():
    task = "org.apache.spark.SparkException: [TASK_WRITE_FAILED] Task failed"
    sent = (
        f"{SAYS}org.apache.spark.SparkException: Job aborted: {task}{STACK}"
        f"Caused by: java.lang.RuntimeException: boom{STACK}\t... 1 more\n\nDriver stacktrace:{STACK}"
        f"Caused by: {task}{STACK}Caused by: java.lang.RuntimeException: boom{STACK.rstrip()}\n\t... 1 more"
    )
    said = without_stack(sent)
    assert said == (
        f"{SAYS}org.apache.spark.SparkException: Job aborted: {task}\nCaused by: java.lang.RuntimeException: boom"
    )


@pytest.mark.parametrize("text", ["", "Cancelled", "ParseException: Syntax error\n\n  at x\nCAUSED BY: Caused by: y "])
def test_a_text_without_a_stack_is_left_as_it_is(text):
    assert without_stack(text) == text
