"""With Airflow's real processes: no password, no session's secret and no bound value is in what Airflow and this
package keep, of scripts that were deferred, killed, resumed and that failed."""

import json
import re
import secrets
import time
from contextlib import ExitStack

import airflow
import pytest
from cryptography.fernet import Fernet, InvalidToken

from airflow_provider_impala_lb import Balancer
from airflow_provider_impala_lb.sandbox import Sandbox
from tests.airflow.daemons import MAJOR, Airflow
from tests.support.servers import running
from tests.support.session_secrets import Listener, files, find, forms, rows

pytestmark = pytest.mark.slow
if MAJOR < 3:
    pytest.skip(f"Airflow {airflow.__version__}: NOT searched for secrets", allow_module_level=True)

PASSWORD, STORE, VALUE = (f"{name}-{secrets.token_hex(12)}" for name in ("pass", "store", "value"))
DAG = """
import os
import pathlib
from datetime import datetime, timedelta

from airflow.providers.common.compat.sdk import DAG

from airflow_provider_impala_lb.operators.impala_lb import ImpalaLBOperator

VALUE = {"value": "{{ var.value.secret_value }}"}
AGAIN = {"retries": 1, "retry_delay": timedelta(seconds=1)}


def dies_once(cursor):
    if cursor.description is None:
        return None
    found, flag = cursor.fetchall(), pathlib.Path(os.environ["AIRFLOW_HOME"], "died")
    if len(found) == 1 and not flag.exists():
        flag.touch()
        os.kill(os.getpid(), 9)
    return len(found)


with DAG("secrets", start_date=datetime(2026, 1, 1), schedule=None):
    ImpalaLBOperator(
        task_id="deferred",
        sql="INSERT INTO words SELECT 'd', %(value)s WHERE sleep(3000); "
        "SELECT a FROM words WHERE b = %(value)s AND sleep(2000)",
        parameters=VALUE,
        deferrable=True,
    )
    ImpalaLBOperator(
        task_id="moved_on",
        sql="INSERT INTO words SELECT 'm', %(value)s WHERE sleep(3000); INSERT INTO words SELECT 'n', %(value)s",
        parameters=VALUE,
        deferrable=True,
        resume=True,
        handler=None,
    )
    ImpalaLBOperator(
        task_id="marked",
        sql="INSERT INTO words SELECT 'k', %(value)s WHERE sleep(600000)",
        parameters=VALUE,
        deferrable=True,
        handler=None,
    )
    ImpalaLBOperator(
        task_id="resumed",
        sql="INSERT INTO words SELECT 'r', %(value)s; SELECT 1; INSERT INTO words SELECT 's', %(value)s",
        parameters=VALUE,
        resume=True,
        handler=dies_once,
        **AGAIN,
    )
    ImpalaLBOperator(
        task_id="killed",
        sql="INSERT INTO words SELECT 'q', %(value)s; SELECT 1, %(value)s",
        parameters=VALUE,
        handler=lambda cursor: os.kill(os.getpid(), 9) if cursor.description else None,
    )
    ImpalaLBOperator(task_id="failed", sql="INSERT INTO missing SELECT %(value)s", parameters=VALUE)
    ImpalaLBOperator(
        task_id="failed_later",
        sql="SELECT sleep(3000); INSERT INTO missing SELECT %(value)s",
        parameters=VALUE,
        deferrable=True,
    )
"""
ENDS = {
    "deferred": "success",
    "moved_on": "success",
    "marked": "failed",
    "resumed": "success",
    "killed": "failed",
    "failed": "failed",
    "failed_later": "failed",
}


@pytest.fixture(scope="module", params=["file", "redis"])
def searched(request, tmp_path_factory):
    """The directory of Airflow, that of the state, the secrets, and what was found while the tasks ran."""
    home, state, opened = tmp_path_factory.mktemp("daemons"), tmp_path_factory.mktemp("state"), set()
    with ExitStack() as servers, Sandbox(nodes=1, lag=0, users={"etl": PASSWORD}) as cluster:
        [node] = cluster.nodes
        with Balancer.from_config(cluster.config).connect() as connection, connection.cursor() as cursor:
            cursor.execute("CREATE TABLE words (a STRING, b STRING)")
        with Listener(node.host, node.port, opened) as listener:
            fields = json.loads(cluster.connection)
            fields["host"] = f"127.0.0.1:{listener.port}"
            listed = [{"host": "127.0.0.1", "port": listener.port, "web": node.web}]
            fields["extra"] |= {"lock_file": str(state / "lock"), "nodes": listed}
            if request.param == "redis":  # its append-only file has all that was ever written
                server = servers.enter_context(running())(state, appendonly="yes", requirepass=STORE)
                fields["extra"] |= {"store": f"redis://:{STORE}@127.0.0.1:{server.port}"}
                del fields["extra"]["lock_file"]
            env = {
                "AIRFLOW_CONN_IMPALA_LB_DEFAULT": json.dumps(fields),
                "AIRFLOW_VAR_SECRET_VALUE": VALUE,
                "AIRFLOW__CORE__PARALLELISM": "8",
            }
            with Airflow(home, {"secrets.py": DAG}, env) as daemons:
                yield home, state, opened, run(daemons, home, state, opened)


def wanted(opened, *, with_stores=True):
    found = {"the password": [PASSWORD.encode()], "a bound value": [VALUE.encode()]}
    if with_stores:
        found["the store's password"] = [STORE.encode()]
    return found | {f"the secret of session {number}": forms(each) for number, each in enumerate(sorted(opened), 1)}


def run(daemons, home, state, opened):
    """Run all tasks to their end. Returns what was found meanwhile: some rows are there for a moment only."""
    daemons.call("POST", "/api/v2/dags/secrets/dagRuns", {"dag_run_id": "one", "logical_date": None})
    path, found, marked = "/api/v2/dags/secrets/dagRuns/one/taskInstances", set(), False
    keys = set()

    def over():
        nonlocal marked
        instances = daemons.call("GET", path)["task_instances"]
        states = {each["task_id"]: each["state"] for each in instances}
        if states.get("marked") == "deferred" and not marked and "running" not in states.values():
            daemons.call("PATCH", f"{path}/marked", {"new_state": "failed"})
            marked = True
        database = list(rows(home / "airflow.db"))
        for _, row in database:
            keys.update(re.findall(rb"(?<![\w-])[\w-]{43}=(?![\w=-])", row))
        found.update(find(wanted(opened), database))
        found.update(find(wanted(opened, with_stores=False), files(state)))  # redis.conf has that one
        for name, data in files(state):
            for token in re.findall(rb"gAAAAA[\w-]+=*", data):
                found.update(f"a key of {name}: Airflow's database" for key in keys if opens(key, token))
        time.sleep(0.05)
        return states if len(states) == len(ENDS) and not set(states.values()) - {"success", "failed"} else None

    assert daemons.wait(over, "all tasks have ended", 200) == ENDS
    return found


def opens(key, token):
    try:
        return bool(Fernet(key).decrypt(token))
    except (InvalidToken, ValueError):
        return False


def test_there_was_something_to_find(searched):
    home, state, opened, _ = searched
    assert len(opened) >= 7
    kept = b"".join(name.encode() + data for name, data in files(state))
    assert b"journal" in kept and (b"gAAAAA" in kept or (state / "lock").exists())
    logs = b"".join(data for _, data in files(home / "logs"))
    assert b"INSERT INTO words SELECT" in logs and b"goes on" in logs
    assert find({"a task": [b"moved_on"]}, rows(home / "airflow.db"))


def test_nothing_was_found_while_they_ran(searched):
    assert searched[-1] == set()


def test_nothing_is_found_afterwards(searched):
    home, state, opened, _ = searched
    assert find(wanted(opened), files(home)) == set()
    assert find(wanted(opened, with_stores=False), files(state)) == set()
    assert find(wanted(opened), rows(home / "airflow.db")) == set()


def test_the_search_finds_each_form(tmp_path):
    secret = secrets.token_bytes(16)
    for number, form in enumerate(forms(secret)):
        (tmp_path / f"{number}").write_bytes(b"x" + form + b"y")
    assert len(find({"it": forms(secret)}, files(tmp_path))) == len(forms(secret))
