"""One Airflow home, one practice cluster and one Airflow process for all these tests: each start costs seconds."""

import json
import os

import pytest

from airflow_provider_impala_lb.cli.demo import unpack_flights
from airflow_provider_impala_lb.sandbox import Sandbox
from tests.support.airflow_runs import HOME, Run, Ti, migrate


@pytest.fixture(scope="session", autouse=True)
def airflow_home(tmp_path_factory):
    migrate(tmp_path_factory.getbasetemp().parent)
    return HOME


@pytest.fixture(scope="session")
def cluster(airflow_home):
    with Sandbox(nodes=3, lag=2.0) as cluster:
        os.environ["AIRFLOW_CONN_IMPALA_LB_DEFAULT"] = cluster.connection
        os.environ["THIRD_NODE"] = cluster.nodes[2].address
        os.environ["FLIGHTS_LANDING"] = str(unpack_flights(cluster.directory / "landing"))
        yield cluster


@pytest.fixture
def balancer(cluster):
    from airflow_provider_impala_lb import Balancer

    return Balancer.from_config(cluster.config)


@pytest.fixture
def run_dag(cluster):
    return Run


@pytest.fixture
def ti():
    return Ti


@pytest.fixture
def connection(monkeypatch):
    from airflow_provider_impala_lb.hooks.impala_lb import ImpalaLBHook

    def define(conn_id, **fields):
        monkeypatch.setenv(f"AIRFLOW_CONN_{conn_id.upper()}", json.dumps({"conn_type": "impala_lb", **fields}))
        return ImpalaLBHook(conn_id)

    return define
