"""How a statement is waited for."""

import re

import pytest

from airflow_provider_impala_lb.impala.hs2 import operation
from tests.support.scripts import run


def test_a_slow_statement_says_how_far_it_is(balancer, log, monkeypatch):
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
    assert operation.next_poll(waited) == pytest.approx(pause, rel=0.01)
