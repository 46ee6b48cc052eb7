"""Three Spark Thrift Servers for all these tests, each of which is up when a test begins; and Airflow on them."""

import json
import logging
import os

import pytest

from airflow_provider_impala_lb import Balancer
from tests.support.airflow_runs import FOLDER, Run, migrate
from tests.system.spark.scripts import run
from tests.system.spark.servers import Servers, require_spark

(FOLDER / "spark").symlink_to(os.path.join(os.path.dirname(__file__), "dags"))


@pytest.fixture(scope="session")
def all_servers(tmp_path_factory):
    home = require_spark()
    with Servers(tmp_path_factory.mktemp("spark"), home) as servers:
        yield servers


@pytest.fixture
def servers(all_servers):
    """Three servers that are up; what a test kills is started again for the next one."""
    all_servers.heal()
    return all_servers


@pytest.fixture
def config(servers, tmp_path):
    return {
        "name": "spark",
        "nodes": [node.address for node in servers.nodes],
        "lock_file": str(tmp_path / "node_in_use.tmp"),
        "policy": "round_robin",
        # Spark answers a question for a statement's state within 5 s, as HiveServer2 may: less would be no limit.
        "session": {"user": "etl", "open_timeout": 3, "rpc_timeout": 8, "reconnect_timeout": 10},
    }


@pytest.fixture
def balancer(config):
    return Balancer.from_config(config)


@pytest.fixture
def connection(config, monkeypatch):
    """The same configuration as an Airflow connection, ``spark``."""
    extra = {key: config[key] for key in ("lock_file", "policy", "session")}
    fields = {"conn_type": "impala_lb", "host": ",".join(config["nodes"]), "login": "etl", "extra": extra}
    monkeypatch.setenv("AIRFLOW_CONN_SPARK", json.dumps(fields))
    monkeypatch.setenv("SPARK_NODES", fields["host"])
    return "spark"


@pytest.fixture
def cached_everywhere(balancer, servers):
    """A table of two rows that every server has in its memory, for all its sessions."""
    table = "cached"
    make = f"CREATE TABLE {table} (a INT) USING parquet; INSERT INTO {table} VALUES (1), (2)"
    run(balancer, f"DROP TABLE IF EXISTS {table}; {make}")
    for node in servers.nodes:
        assert run(balancer, f"CACHE TABLE {table}; SELECT count(*) FROM {table}", node).results[1] == [(2,)]
    yield table
    for node in servers.nodes:
        run(balancer, f"UNCACHE TABLE IF EXISTS {table}", node)


@pytest.fixture(scope="session")
def airflow_home(all_servers, tmp_path_factory):
    migrate(tmp_path_factory.getbasetemp().parent)


@pytest.fixture
def run_dag(airflow_home, connection):
    return Run


@pytest.fixture
def log(caplog):
    caplog.set_level(logging.INFO)
    return caplog
