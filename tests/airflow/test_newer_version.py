"""What a deferred task carries, where another version of this package has written it."""

import asyncio

import pytest
from airflow.providers.common.compat.sdk import AirflowFailException

from airflow_provider_impala_lb.errors import StatementFailed
from airflow_provider_impala_lb.impala.script.handover_message import FORMAT
from airflow_provider_impala_lb.operators.impala_lb import ImpalaLBOperator
from airflow_provider_impala_lb.triggers.run_script import ScriptTrigger, check_event

FAILED = StatementFailed("no", number=2, total=3, line=1, node="a:1", query_id=None, outcome="unknown", done=["1"])


@pytest.fixture
def conn_id(connection, tmp_path):
    connection("newer", host="127.0.0.1:9", extra={"lock_file": str(tmp_path / "lock")})
    return "newer"


async def event_of(trigger):
    return (await anext(aiter(trigger.run()))).payload


@pytest.mark.parametrize(
    ("deferred", "error"),
    [
        (
            {"format": FORMAT + 1, "script": ["another way"]},
            f"newer version .*format {FORMAT + 1}.*Upgrade the triggerer",
        ),
        ({"format": FORMAT, "script": 7}, "cannot be read"),
        ("sealed", "cannot be read"),
    ],
)
def test_a_trigger_that_cannot_read_its_arguments_ends_its_task_and_not_the_triggerer(conn_id, deferred, error):
    """Airflow makes the object in its triggerer's main loop, which ends with any exception but TypeError."""
    trigger = ScriptTrigger(conn_id, deferred)
    assert trigger.serialize()[1]["deferred"] == deferred  # what it cannot read it does not lose
    found = asyncio.run(event_of(trigger))
    assert found["format"] == FORMAT
    with pytest.raises(AirflowFailException, match=f"(?s){error}.*clear the task"):
        ImpalaLBOperator(task_id="t", conn_id=conn_id, sql="SELECT 1").execute_complete({}, found)


@pytest.mark.parametrize("what", [{"finished": {}}, {"done": []}, {"failed": {"later": 1}}, {}])
def test_a_task_that_cannot_read_its_triggers_event_does_not_begin_anew(conn_id, what):
    task = ImpalaLBOperator(task_id="t", conn_id=conn_id, sql="INSERT INTO t SELECT 1")
    with pytest.raises(AirflowFailException, match="newer version .*may have run to its end"):
        task.execute_complete({}, {"format": FORMAT + 1, **what})


def test_what_a_later_version_adds_to_an_event_is_passed_over():
    failed = {**FAILED.as_dict(), "later": [1]}
    with pytest.raises(StatementFailed) as raised:
        check_event({"format": FORMAT, "failed": failed, "later": 1})
    assert (str(raised.value), raised.value.as_dict()) == (str(FAILED), FAILED.as_dict())
    with pytest.raises(Exception, match="^gone$"):
        check_event({"format": FORMAT, "error": {"kind": "OfLater", "text": "gone", "later": 1}})
