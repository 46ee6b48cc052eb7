"""After a statement failed: what is retried by itself, and what the author is told of the next attempt."""

import threading
from datetime import datetime

import pytest
from airflow.providers.common.compat.sdk import DAG, AirflowFailException

from airflow_provider_impala_lb.errors import StatementFailed
from airflow_provider_impala_lb.operators.impala_lb import ImpalaLBOperator
from airflow_provider_impala_lb.operators.no_retry import next_attempt


def failure(outcome, number, retry=True):
    return StatementFailed(
        "what happened", number=number, total=4, line=9, node="a:1", query_id=None, outcome=outcome, retry=retry
    )


@pytest.mark.parametrize(
    ("outcome", "number", "options", "may_retry", "text"),
    [
        ("not started", 1, {}, True, ""),
        (
            "not started",
            3,
            {},
            True,
            "begins at statement 1: it runs statements 1 to 2, which are done, again. With resume=True",
        ),
        ("not started", 2, {}, True, "it runs statement 1, which is done, again. With resume=True"),
        ("not started", 3, {"restartable": True}, True, "statements 1 to 2, which are done, again"),
        ("not started", 3, {"resume": True}, True, "The next attempt goes on here: what is done is not run again"),
        ("not started", 1, {"resume": True}, True, ""),
        (
            "unknown",
            1,
            {},
            False,
            "not retried by itself. The next attempt begins at statement 1: it runs the one that failed, which may",
        ),
        (
            "unknown",
            2,
            {},
            False,
            "statement 1, which is done, and the one that failed, which may have run, again. With resume",
        ),
        (
            "unknown",
            2,
            {"restartable": True},
            True,
            "statement 1, which is done, and the one that failed, which may have run",
        ),
        ("unknown", 1, {"resume": True}, True, "looks whether that statement has run, and then goes on here"),
        ("user error", 3, {}, False, "statements 1 to 2, which are done, again. With resume=True"),
        ("user error", 1, {}, False, ""),
        ("user error", 3, {"resume": True}, False, "goes on here: what is done is not run again"),
        ("done", 2, {}, True, "statement 1, which is done, again"),
    ],
)
def test_what_is_retried_and_what_that_does(outcome, number, options, may_retry, text):
    options = {"resume": False, "restartable": False, **options}
    found = next_attempt(failure(outcome, number), **options)
    assert found[0] is may_retry
    assert text in found[1] and bool(text) == bool(found[1])


def test_a_question_to_the_author_is_not_retried():
    assert not next_attempt(failure("unknown", 2, retry=False), resume=True, restartable=False)[0]


@pytest.mark.parametrize(("options", "raised"), [({}, AirflowFailException), ({"restartable": True}, StatementFailed)])
def test_an_insert_whose_coordinator_is_lost_is_not_run_again_by_a_retry(
    cluster, connection, tmp_path, ti, options, raised
):
    """A node of its own is killed while it runs the second INSERT."""
    from airflow_provider_impala_lb.sandbox import Sandbox

    with Sandbox(nodes=1, lag=0) as lost:
        session = {**lost.config["session"], "reconnect_timeout": 1, "open_timeout": 1}
        connection("lost", extra={**lost.config, "session": session})
        with DAG("d", start_date=datetime(2026, 1, 1), schedule=None):
            task = ImpalaLBOperator(
                task_id="t",
                conn_id="lost",
                sql="CREATE TABLE t (n INT); INSERT INTO t SELECT 1; INSERT INTO t SELECT 2 WHERE sleep(60000)",
                handler=None,
                **options,
            )
        timer = threading.Timer(3, lost.nodes[0].kill)
        timer.start()
        with pytest.raises(raised) as error:
            task._run({"ti": ti()})
        timer.join()
    assert "Whether it ran is NOT known" in str(error.value)
    if not options:  # else the log says so
        assert "it runs statements 1 to 2, which are done, and the one that failed" in str(error.value)
