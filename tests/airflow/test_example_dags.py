"""The example DAGs on real data, many times: a dependent task is always on its upstream's node, and always right."""

import pytest

from airflow_provider_impala_lb.cli.demo import unpack_flights
from airflow_provider_impala_lb.sandbox import Sandbox
from tests.support.airflow_runs import Run
from tests.support.scripts import changed, run
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
        daily = Run("flights_daily")
        assert set(daily.states.values()) == {"success"}, daily.states
        host = {task_id: daily.xcom(task_id, "impala_host") for task_id in daily.states}
        assert {task_id: host[task_id] for task_id in STICKY} == {task: host[up] for task, up in STICKY.items()}
        staged_on |= {host[task_id] for task_id in host if task_id.startswith("stage_")}
        assert [list(row) for row in daily.xcom("clean")] == [[336776, 8255]]
        published = [list(row) for row in daily.xcom("publish")]
        assert len(published) == 12
        assert ["route", "JFK - Los Angeles Intl", 11262, -0.5] in published
        assert daily.xcom("publish", "impala_run")["why"] == "sticks to by_carrier"
    assert len(staged_on) == 3


@pytest.mark.slow
def test_without_sticking_rows_are_silently_missing(airflow_home, tmp_path, monkeypatch):
    """With a lag that is longer than a task takes to begin on a busy machine."""
    with Sandbox(nodes=1, lag=0, directory=tmp_path) as cluster:
        for sql in ("CREATE DATABASE flights_mart", "CREATE DATABASE flights_stage"):
            run(changed(cluster), sql)
        run(changed(cluster), "CREATE TABLE flights_stage.flights AS SELECT 'UA' carrier, CAST(1 AS INT) arr_delay")
    with Sandbox(nodes=3, lag=16, directory=tmp_path) as cluster:
        for node in cluster.nodes:  # else they have to hear of those, too
            with changed(cluster).sessions.open(node.address) as session:
                session.execute("INVALIDATE METADATA")
        monkeypatch.setenv("AIRFLOW_CONN_IMPALA_LB_DEFAULT", cluster.connection)
        counts = Run("why_stick")
        seen = {task: counts.xcom(task)[0][0] for task in ("load", "count_sticky", "count_anywhere")}
    assert seen == {"load": 1, "count_sticky": 1, "count_anywhere": 0}
