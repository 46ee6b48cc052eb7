"""One Airflow home, one practice cluster and one Airflow process for all these tests: each start costs seconds."""

import atexit
import importlib
import os
import pathlib
import shutil
import subprocess
import sys
import tempfile
from datetime import datetime, timezone

import pytest

from airflow_provider_impala_lb.cli.demo import example_dags, unpack_flights, xcoms
from airflow_provider_impala_lb.sandbox import Sandbox

HOME = pathlib.Path(tempfile.mkdtemp(prefix="impala-lb-airflow-"))
atexit.register(shutil.rmtree, HOME, ignore_errors=True)
FOLDER = HOME / "dags"  # Airflow 3 runs a DAG only from its folder
FOLDER.mkdir()
(FOLDER / "examples").symlink_to(example_dags())
(FOLDER / "tests").symlink_to(pathlib.Path(__file__).parent / "dags")
# Before anything imports Airflow, which reads this once.
os.environ.update(
    AIRFLOW_HOME=str(HOME),
    AIRFLOW__CORE__LOAD_EXAMPLES="False",
    AIRFLOW__CORE__DAGS_FOLDER=str(FOLDER),
    AIRFLOW__CORE__UNIT_TEST_MODE="False",
)


def migrate():
    subprocess.run([sys.executable, "-m", "airflow", "db", "migrate"], check=True, capture_output=True)


@pytest.fixture(scope="session", autouse=True)
def airflow_home():
    migrate()
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


class Run:
    """A finished run of a DAG: its state, each task's state and XComs."""

    folder = FOLDER

    def __init__(self, dag_id):
        for folder in map(str, FOLDER.iterdir()):
            if folder not in sys.path:
                sys.path.append(folder)
        self.dag = importlib.import_module(dag_id).dag
        self.run = self.dag.test()

    @property
    def states(self):
        return {ti.task_id: str(ti.state) for ti in self.run.get_task_instances()}

    def xcom(self, task_id, key="return_value", map_index=-1):
        return xcoms(self.run, task_id, map_index).get(key)


@pytest.fixture
def run_dag(cluster):
    return Run


class Ti:
    """The little of a task instance that the operator uses; to see an error's text, which a whole run only logs."""

    dag_id, task_id, run_id, try_number, map_index = "d", "t", "r", 1, -1
    start_date, max_tries = datetime(2026, 1, 1, tzinfo=timezone.utc), 0

    def __init__(self, **xcoms):
        self.pushed, self.there = {}, xcoms

    def xcom_push(self, key, value):
        self.pushed[key] = value

    def xcom_pull(self, task_ids, key="return_value", map_indexes=None):
        return self.there.get(key) if task_ids in (None, "up") else None


@pytest.fixture
def ti():
    return Ti
