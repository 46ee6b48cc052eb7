"""One Airflow home for a whole pytest process, and runs of DAGs in it. Import this before anything imports Airflow."""

import atexit
import fcntl
import importlib
import os
import pathlib
import shutil
import subprocess
import sys
import tempfile
from datetime import datetime, timezone

from airflow_provider_impala_lb.cli.demo import example_dags, xcoms

HOME = pathlib.Path(tempfile.mkdtemp(prefix="impala-lb-airflow-"))
atexit.register(shutil.rmtree, HOME, ignore_errors=True)
FOLDER = HOME / "dags"  # Airflow 3 runs a DAG only from its folder
FOLDER.mkdir()
(FOLDER / "examples").symlink_to(example_dags())
(FOLDER / "tests").symlink_to(pathlib.Path(__file__).parents[1] / "airflow" / "dags")
# Before anything imports Airflow, which reads this once.
os.environ.update(
    AIRFLOW_HOME=str(HOME),
    AIRFLOW__CORE__LOAD_EXAMPLES="False",
    AIRFLOW__CORE__DAGS_FOLDER=str(FOLDER),
    AIRFLOW__CORE__UNIT_TEST_MODE="False",
)


def migrate(shared):
    """Make its database. The processes of one pytest-xdist run make it once, and copy it: it takes seconds.

    :param shared: a directory that they share.
    """
    run = os.environ.get("PYTEST_XDIST_TESTRUNUID")
    made, own = shared / f"airflow-{run}.db", HOME / "airflow.db"
    with (shared / "airflow.lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        if run and made.exists():
            shutil.copy(made, own)
            return
        subprocess.run([sys.executable, "-m", "airflow", "db", "migrate"], check=True, capture_output=True)
        if run:
            shutil.copy(own, made)


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
