"""Every form of ``stick_to``, checks, sensors and transfers after a load, in a real Airflow with its own processes.

``STICK_RUNS=20`` for more runs than one. The coordinators lag 4 s behind each other (``STICK_LAG``).
"""

import json
import os
import pathlib
import re
from collections import Counter

import airflow
import pytest

from airflow_provider_impala_lb import Balancer
from airflow_provider_impala_lb.sandbox import Sandbox
from tests.airflow.daemons import Airflow
from tests.support.stick_forms import MAPPED_READERS, READERS, UPSTREAM

pytestmark = [pytest.mark.slow, pytest.mark.timeout(7200)]

RUNS = int(os.environ.get("STICK_RUNS", "1"))
LAG = float(os.environ.get("STICK_LAG", "4"))
NODES = 3
DAG = (pathlib.Path(__file__).parent / "dags" / "stick_forms.py").read_text()


@pytest.fixture(scope="module")
def cluster():
    with Sandbox(nodes=NODES, lag=LAG) as cluster:
        with Balancer.from_config(cluster.config).connect() as connection, connection.cursor() as cursor:
            cursor.execute("SET SYNC_DDL=1")
            cursor.execute("CREATE TABLE stuck_rows (r STRING, n INT)")
        yield cluster


@pytest.fixture(scope="module")
def daemons(cluster, tmp_path_factory):
    env = {"AIRFLOW_CONN_IMPALA_LB_DEFAULT": cluster.connection, "STICK_SCHEDULE": "@continuous"}
    with Airflow(tmp_path_factory.mktemp("sticking"), {"stick_forms.py": DAG}, env) as daemons:
        yield daemons


def test_right_every_time(cluster, daemons):
    ended = "SELECT run_id FROM dag_run WHERE state IN ('success', 'failed') ORDER BY start_date LIMIT ?"
    daemons.wait(lambda: len(daemons.query(ended, RUNS)) == RUNS, f"{RUNS} runs", 240.0 * (RUNS + 1))
    wrong, figures, readers = [], Counter(), 0
    for (run_id,) in daemons.query(ended, RUNS):
        states = states_of(daemons, run_id)
        figures["tasks"] += len(states)
        bad = {name: state for name, state in states.items() if state != ("skipped" if name == "no -1" else "success")}
        counts = {name: rows_of(daemons, run_id, name) for name in [*READERS, *MAPPED_READERS]}
        bad |= {name: rows for name, rows in counts.items() if rows != [1] * MAPPED_READERS.get(name, 1)}
        where = on_nodes(cluster, run_id)
        for name, upstream in UPSTREAM.items():
            readers += 1
            if {node for node, _ in where[name]} != {node for node, _ in where[upstream]}:
                bad[name] = where[name], where[upstream]
            # Elsewhere it would have found no row.
            loaded = max(t for _, t in where[upstream])
            figures["readers within the lag"] += min(t for _, t in where[name]) < loaded + LAG
            figures["nodes", where[upstream][0][0]] += 1
        twins = [hosts_of(daemons, run_id, name) for name in ("loads", "twins")]
        if twins[0] != twins[1]:
            bad["twins"] = twins
        if bad:
            wrong.append((run_id, bad))
    print(f"Airflow {airflow.__version__}: {RUNS - len(wrong)} of {RUNS} runs right; {readers} sticky tasks; {figures}")
    assert not wrong, "\n".join([*(log_of(daemons, run_id, name) for run_id, bad in wrong for name in bad), str(wrong)])


def log_of(daemons, run_id, name):
    logs = sorted((daemons.home / "logs").rglob(f"run_id={run_id}/task_id={name.split()[0]}/**/*.log*"))
    said = [line for each in daemons.daemons for line in each.log.read_text().splitlines() if "reported that" in line]
    return "\n".join([*(f"--- {path}\n{path.read_text()}" for path in logs), *said])


def states_of(daemons, run_id):
    rows = daemons.query("SELECT task_id, map_index, state FROM task_instance WHERE run_id = ?", run_id)
    return {f"{task_id} {index}": state for task_id, index, state in rows}


def rows_of(daemons, run_id, task_id):
    """The counts that a reader found: each of its instances has one row of one column."""
    return list(numbers(json.loads(text) for text in xcoms(daemons, run_id, task_id, "return_value")))


def numbers(value):
    """Without the names and versions of the types that Airflow puts around them."""
    if isinstance(value, int):
        yield value
    elif isinstance(value, dict):
        yield from numbers(value["__data__"])
    elif not isinstance(value, str):
        for each in value:
            yield from numbers(each)


def hosts_of(daemons, run_id, task_id):
    return xcoms(daemons, run_id, task_id, "impala_host")


def xcoms(daemons, run_id, task_id, key):
    sql = "SELECT value FROM xcom WHERE run_id = ? AND task_id = ? AND key = ? ORDER BY map_index"
    return [
        value.decode() if isinstance(value, bytes) else value for (value,) in daemons.query(sql, run_id, task_id, key)
    ]


def on_nodes(cluster, run_id):
    """Where and when each task ran its statements, by the coordinators' own journals."""
    found = {}
    for node in cluster.nodes:
        for entry in node.journal():
            label = re.search(r"dag=stick_forms task=(\S+) run=(\S+)", entry.get("sql", ""))
            if label and label[2] == run_id and "stuck_copy" not in entry["sql"]:
                found.setdefault(label[1], []).append((node.address, entry["t"]))
    return found
