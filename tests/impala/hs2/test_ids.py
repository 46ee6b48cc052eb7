"""Ids as Impala prints them, and error texts without Java's stack traces."""

import pytest

from airflow_provider_impala_lb.impala.hs2.ids import guid_of, print_id, without_stack

SAYS = "org.apache.hive.service.cli.HiveSQLException: Error running query: "
STACK = """
\tat org.apache.spark.sql.hive.thriftserver.HiveThriftServerErrors$.runningQueryError(HiveThriftServerErrors.scala:43)
\tat java.base/java.util.concurrent.FutureTask.run(FutureTask.java:264)
"""


def test_ids_are_printed_as_impala_prints_them():
    guid = bytes.fromhex("0123456789abcdef") + b"76543210"  # impala tests/hs2/test_hs2.py
    assert print_id(guid) == "efcdab8967452301:3031323334353637"
    assert guid_of(print_id(guid)) == guid


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
