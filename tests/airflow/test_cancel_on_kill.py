"""With Airflow's real processes: what a user does to a deferred task, and the loss of a triggerer, reach Impala."""

import json
import re
import urllib.request
from collections import Counter

import airflow
import pytest

from airflow_provider_impala_lb import Balancer
from airflow_provider_impala_lb.impala.journal.document import decode
from airflow_provider_impala_lb.sandbox import Sandbox
from airflow_provider_impala_lb.stores.factory import open_journals
from tests.airflow.daemons import Airflow

pytestmark = pytest.mark.slow
if tuple(map(int, airflow.__version__.split(".")[:2])) < (3, 3):
    pytest.skip(
        f"Airflow {airflow.__version__} tells no trigger that its task was killed (3.3 does): NOT tested",
        allow_module_level=True,
    )

SLOW, QUICK, LASTS = 600_000, 3_000, 20_000
"""Milliseconds: none waits for the first one's end; the last one still runs when another triggerer has come."""
DAG = f"""
from datetime import datetime

from airflow.providers.common.compat.sdk import DAG

from airflow_provider_impala_lb.operators.impala_lb import ImpalaLBOperator

with DAG("slow", start_date=datetime(2026, 1, 1), schedule=None):
    ImpalaLBOperator(
        task_id="script",
        sql='''
            INSERT INTO rows_of SELECT '{{{{ run_id }}}}', 1, {{{{ ti.try_number }}}};
            INSERT INTO rows_of SELECT '{{{{ run_id }}}}', 2, {{{{ ti.try_number }}}}
                WHERE sleep({{{{ {LASTS} if run_id == 'lost' else {SLOW} if ti.try_number == 1 else {QUICK} }}}});
            INSERT INTO rows_of SELECT '{{{{ run_id }}}}', 3, {{{{ ti.try_number }}}};
        ''',
        deferrable=True,
        handler=None,
    )
"""


@pytest.fixture(scope="module")
def cluster():
    with Sandbox(nodes=2, lag=0) as cluster:
        with Balancer.from_config(cluster.config).connect() as connection, connection.cursor() as cursor:
            cursor.execute("CREATE TABLE rows_of (run STRING, n INT, try INT)")
        yield cluster


@pytest.fixture(scope="module")
def daemons(cluster, tmp_path_factory):
    home = tmp_path_factory.mktemp("daemons")
    with Airflow(home, {"slow.py": DAG}, {"AIRFLOW_CONN_IMPALA_LB_DEFAULT": cluster.connection}) as daemons:
        yield daemons


@pytest.fixture
def deferred(cluster, daemons):
    """Start a run, and wait until a trigger waits for its second statement."""

    def start(run_id):
        run = Run(cluster, daemons, run_id)
        run.wait(lambda: run.state == "deferred" and run.epoch == 2 and run.running, "a trigger waits for statement 2")
        return run

    return start


class Run:
    def __init__(self, cluster, daemons, run_id):
        self.cluster, self.daemons, self.run_id = cluster, daemons, run_id
        self.balancer = Balancer.from_config(cluster.config)
        daemons.call("POST", "/api/v2/dags/slow/dagRuns", {"dag_run_id": run_id, "logical_date": None})

    @property
    def path(self):
        return f"/api/v2/dags/slow/dagRuns/{self.run_id}/taskInstances/script"

    @property
    def owner(self):
        return f"slow/{self.run_id}/script"

    def wait(self, check, what, seconds=120.0):
        return self.daemons.wait(check, f"{self.run_id}: {what}", seconds)

    @property
    def state(self):
        return self.daemons.call("GET", self.path)["state"]

    @property
    def tries(self):
        return self.daemons.call("GET", self.path)["try_number"]

    def xcom(self, key):
        return self.daemons.call("GET", f"{self.path}/xcomEntries/{key}?deserialize=true")["value"]

    @property
    def epoch(self):
        """Of the process that goes on with the script: 1 is the worker, 2 the trigger."""
        document = open_journals(self.balancer.config).read(self.owner)
        return 0 if document is None else decode(document, "").epoch

    @property
    def running(self):
        """Statements that are under way, by the coordinators' pages."""
        return [
            query["stmt"]
            for node in self.cluster.nodes
            for query in page(node, "queries")["in_flight_queries"]
            if f" run={self.run_id} " in query["stmt"]
        ]

    def ran(self):
        """What has ended, by the coordinators' journals: ``n``, ``try``, ``state``, ``session``, ``t``, in order."""
        found = []
        for node in self.cluster.nodes:
            for entry in node.journal():
                text = re.search(rf"INTO rows_of SELECT '{self.run_id}', (\d), (\d)", entry.get("sql", ""))
                if text:
                    found.append({**entry, "n": int(text[1]), "try": int(text[2])})
        return sorted(found, key=lambda entry: entry["t"])

    def ends(self):
        return [(entry["try"], entry["n"], entry["state"]) for entry in self.ran()]

    def rows(self):
        with self.balancer.connect() as connection, connection.cursor() as cursor:
            cursor.execute(f"SELECT try, n FROM rows_of WHERE run = '{self.run_id}'")
            return Counter(map(tuple, cursor.fetchall()))

    def nothing_is_left(self):
        """No session of its statements on a coordinator, and no lease in the shared state."""
        sessions = {entry["session"] for entry in self.ran()}
        there = {each["session_id"] for node in self.cluster.nodes for each in page(node, "sessions")["sessions"]}
        leases = [lease for lease in self.balancer.status()["leases"] if lease["owner"] == self.owner]
        return not sessions & there and not leases and not self.running

    def log(self, pattern):
        """What stands in the task's own log."""
        logs = self.daemons.home.joinpath("logs").rglob(f"run_id={self.run_id}/**/{pattern}")
        return "".join(path.read_text() for path in logs)


def page(node, name):
    with urllib.request.urlopen(f"{node.web}/{name}?json", timeout=30) as answer:
        return json.load(answer)


@pytest.mark.parametrize("state", ["failed", "success"])
def test_a_task_that_is_marked_has_its_query_cancelled(deferred, state):
    run = deferred(f"marked_{state}")
    assert run.ends() == [(1, 1, "FINISHED")]
    run.daemons.call("PATCH", run.path, {"new_state": state})
    run.wait(lambda: len(run.ends()) > 1, "its query ends", 30)
    run.wait(run.nothing_is_left, "its session and its lease end")
    assert run.ends() == [(1, 1, "FINISHED"), (1, 2, "CANCELLED")]
    assert run.state == state
    assert re.search(r"Query \S+ on \S+ was cancelled", run.log("*.trigger.*")), "the user sees so"


def test_a_task_that_is_cleared_has_its_query_cancelled_and_runs_again(deferred):
    run = deferred("cleared")
    body = {"dry_run": False, "dag_run_id": run.run_id, "task_ids": ["script"], "only_failed": False}
    run.daemons.call("POST", "/api/v2/dags/slow/clearTaskInstances", body)
    run.wait(lambda: run.state == "success", "the next try succeeds")
    assert run.tries == 2
    again = [(2, n, "FINISHED") for n in (1, 2, 3)]
    assert run.ends() == [(1, 1, "FINISHED"), (1, 2, "CANCELLED"), *again], "the first one's query ends, then the next"
    assert run.rows() == Counter([(1, 1), (2, 1), (2, 2), (2, 3)])
    run.wait(run.nothing_is_left, "its sessions and leases end")
    assert run.xcom("impala_host") == run.xcom("impala_run")["host"]


def test_a_triggerer_is_lost_and_another_one_goes_on(deferred):
    """Last in this file: the ones above would have to wait for the new triggerer."""
    run = deferred("lost")
    run.daemons.stop(run.daemons.triggerer())
    run.daemons.start_triggerer()
    run.wait(lambda: run.epoch == 3, "the other triggerer takes it over")
    run.wait(lambda: run.state == "success", "the script comes to its end")
    assert run.tries == 1
    assert run.ends() == [(1, n, "FINISHED") for n in (1, 2, 3)]
    assert run.rows() == Counter([(1, 1), (1, 2), (1, 3)])
    run.wait(run.nothing_is_left, "its sessions and leases end")
    done = run.xcom("impala_run")
    assert run.xcom("impala_host") == done["host"] in {node.address for node in run.cluster.nodes}
    assert done["statements"] == 3
    assert "[3/3]" in run.log("*.trigger.*"), "a user sees what ran in the triggerer"
