"""The example DAGs on real data, many times: a dependent task is always on its upstream's node, and always right."""

import pytest

from airflow_provider_impala_lb.cli.demo import unpack_flights
from airflow_provider_impala_lb.sandbox import Sandbox
from tests.support.airflow_runs import Run
from tests.support.sizes import sizes

STICKY = {
    "clean": "stage_flights",
    "by_carrier": "clean",
    "by_route": "clean",
    "by_weather": "clean",
    "publish": "by_carrier",
}


@pytest.fixture(scope="module")
def lagging(airflow_home, tmp_path_factory):
    """A cluster whose lag is shorter than the demo's, since each run waits for it some times."""
    landing = tmp_path_factory.mktemp("files") / "landing"
    with pytest.MonkeyPatch.context() as patch, Sandbox(nodes=3, lag=0.6, allow=[landing]) as cluster:
        patch.setenv("AIRFLOW_CONN_IMPALA_LB_DEFAULT", cluster.connection)
        patch.setenv("FLIGHTS_LANDING", str(unpack_flights(landing)))
        yield cluster


@pytest.mark.timeout(900)
@pytest.mark.parametrize("runs", sizes("EXAMPLE_RUNS"))
def test_the_daily_batch_sticks_and_is_right_every_time(lagging, runs):
    staged_on = set()
    for _ in range(runs):
        run = Run("flights_daily")
        assert set(run.states.values()) == {"success"}, run.states
        host = {task_id: run.xcom(task_id, "impala_host") for task_id in run.states}
        assert {task_id: host[task_id] for task_id in STICKY} == {task: host[up] for task, up in STICKY.items()}
        staged_on |= {host[task_id] for task_id in host if task_id.startswith("stage_")}
        assert [list(row) for row in run.xcom("clean")] == [[336776, 8255]]
        published = [list(row) for row in run.xcom("publish")]
        assert len(published) == 12
        assert ["route", "JFK - Los Angeles Intl", 11262, -0.5] in published
        assert run.xcom("publish", "impala_run")["why"] == "sticks to by_carrier"
    assert len(staged_on) == 3


@pytest.mark.slow
def test_without_sticking_rows_are_silently_missing(lagging):
    """Unless the machine is so busy that a task begins later than the lag: then once more."""
    anywhere = []
    while len(anywhere) < 5 and min(anywhere, default=336776) == 336776:
        counts = Run("why_stick")
        seen = {task: counts.xcom(task)[0][0] for task in ("load", "count_sticky", "count_anywhere")}
        assert seen["load"] == seen["count_sticky"] == 336776
        anywhere.append(seen["count_anywhere"])
    assert anywhere[-1] < 336776
