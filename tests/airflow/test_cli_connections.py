"""The command line on connections that were made in the UI, and the commands that errors propose, as printed."""

import json
import os
import re
import subprocess
import sys
import time
from datetime import datetime

import msgspec
import pytest
from airflow.providers.common.compat.sdk import DAG, AirflowFailException

from airflow_provider_impala_lb import Balancer
from airflow_provider_impala_lb.impala.journal.document import Intent, Record, digest
from airflow_provider_impala_lb.operators.impala_lb import ImpalaLBOperator
from airflow_provider_impala_lb.stores.factory import open_journals

CONN_ID = "made_in_the_ui"
SCRIPT = ["CREATE TABLE IF NOT EXISTS asked (n INT)", "INSERT INTO asked SELECT 1"]


def shell(command, **environment):
    """As somebody pastes it into a terminal. The connection is in Airflow's database alone."""
    env = {key: value for key, value in os.environ.items() if not key.startswith(("AIRFLOW_CONN_", "IMPALA_LB_"))}
    path = os.pathsep.join([os.path.dirname(sys.executable), os.environ["PATH"]])
    return subprocess.run(
        ["bash", "-c", command], env={**env, "PATH": path, **environment}, capture_output=True, text=True, timeout=120
    )


@pytest.fixture(scope="module")
def balancer(cluster, tmp_path_factory):
    """Of a connection that was added by hand, with a state of its own; in this process it is in the environment, since
    Airflow 3 reads its database outside a task for its own commands only."""
    config = {**cluster.config, "lock_file": str(tmp_path_factory.mktemp("ui") / "lock"), "name": "ui"}
    connection = json.dumps({"conn_type": "impala_lb", "extra": config})
    added = subprocess.run(
        [sys.executable, "-m", "airflow", "connections", "add", CONN_ID, "--conn-json", connection],
        capture_output=True,
        text=True,
    )
    assert added.returncode == 0, added.stderr[-2000:]
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv(f"AIRFLOW_CONN_{CONN_ID.upper()}", connection)
        yield Balancer.from_config(config)


@pytest.mark.slow
def test_a_connection_in_the_database_is_read(balancer, tmp_path):
    picked = shell(f"impala-lb --conn-id {CONN_ID} pick")
    assert picked.stdout.strip() in balancer.config.addresses, picked.stderr  # and nothing else
    assert picked.stderr == ""
    assert json.loads(shell(f"impala-lb --conn-id {CONN_ID} status --json").stdout)["cluster"] == "ui"
    (tmp_path / "x.sql").write_text("SELECT 1")
    done = shell(f"impala-lb --conn-id {CONN_ID} run {tmp_path}/x.sql")
    assert (done.returncode, done.stderr) == (0, "")
    assert done.stdout.splitlines()[-1].startswith("1 statement on ")


@pytest.mark.parametrize(
    ("conn_id", "environment", "says"),
    [
        pytest.param("nope", {}, "--conn-id nope: Airflow knows no connection of this id here", marks=pytest.mark.slow),
        ("nope", {"AIRFLOW_CONN_NOPE": '{"password": "s3cret'}, "AIRFLOW_CONN_NOPE is set, and is neither"),
        pytest.param(
            "nope",
            {"AIRFLOW_CONN_NOPE": '{"conn_type": "impala_lb", "host": "a,b", "extra": {"store_conn_id": "gone"}}'},
            "connection nope: store_conn_id: Airflow knows no connection 'gone'",
            marks=pytest.mark.slow,
        ),
    ],
    ids=["unknown", "unreadable", "names an unknown one"],
)
def test_one_that_cannot_be_read_is_one_plain_line(balancer, conn_id, environment, says):
    failed = shell(f"impala-lb --conn-id {conn_id} status", **environment)
    assert failed.returncode == 1
    (line,) = failed.stderr.splitlines()
    assert says in line and "s3cret" not in line
    assert failed.stdout == ""


def in_doubt(balancer, owner):
    """A statement that was about to be sent to a coordinator that is no more, after one that all have heard of."""
    with balancer.connect() as connection, connection.cursor() as cursor:
        cursor.execute("SET SYNC_DDL=1")
        cursor.execute(SCRIPT[0])
    record = Record(format=1, script=digest(SCRIPT), total=2, epoch=1, by="attempt 1", at=time.time())
    record.done, record.node = 1, "10.9.9.9:21050"
    record.intent = Intent(2, "0000000000000000", "10.9.9.9:21050", "1:1", time.time())
    open_journals(balancer.config).change(owner, lambda _, now: (None, msgspec.json.encode(record)))


def proposed(text):
    return re.findall(r"^\s*(impala-lb .*?)\s*$", text, re.MULTILINE)


def operator():
    with DAG("d", start_date=datetime(2026, 1, 1), schedule=None):
        return ImpalaLBOperator(task_id="t", conn_id=CONN_ID, sql="; ".join(SCRIPT), resume=True, handler=None)


@pytest.mark.slow
def test_the_commands_of_a_question_work_as_they_are_printed(balancer, ti):
    ours = ti()
    ours.run_id = "manual__2026-01-01T00:00:00+00:00 o'clock"
    owner = f"d/{ours.run_id}/t"
    in_doubt(balancer, owner)
    with pytest.raises(AirflowFailException, match="Look whether it ran") as asked:
        operator()._run({"ti": ours})
    commands = proposed(str(asked.value))
    assert [command.split("' ")[-1] for command in commands] == ["ran 2:00000000", "not-run 2:00000000", "start-over"]
    for command in commands:
        in_doubt(balancer, owner)
        answered = shell(command)
        assert answered.returncode == 0, answered.stderr
        assert owner in answered.stdout
    ours.try_number = 2
    operator()._run({"ti": ours})  # the last answer was: start over
    assert ours.pushed["impala_run"]["statements"] == 2


@pytest.mark.slow
def test_the_command_for_a_journal_that_is_gone(balancer, ti):
    ours = ti()
    ours.task_id, ours.try_number = "gone", 2
    with pytest.raises(AirflowFailException, match="is missing") as failed:
        operator()._run({"ti": ours})
    (command,) = proposed(str(failed.value))
    assert shell(command).returncode == 0
    operator()._run({"ti": ours})
    assert ours.pushed["impala_run"]["statements"] == 2


@pytest.mark.slow
def test_the_commands_of_a_configuration_file(cluster, balancer, tmp_path):
    folder = tmp_path / "my files"
    folder.mkdir()
    (folder / "lb.yml").write_text(json.dumps({**cluster.config, "lock_file": str(folder / "lock")}))
    (folder / "x.sql").write_text(";".join(SCRIPT))
    own = Balancer.from_config(folder / "lb.yml")
    in_doubt(own, "-nightly")
    run = f"cd '{folder}' && impala-lb --config lb.yml run x.sql --resume=-nightly"
    asked = shell(run)
    assert asked.returncode == 1
    commands = proposed(asked.stderr)
    assert len(commands) == 3, asked.stderr
    answered = shell(commands[1])
    assert "will be run by the next attempt" in answered.stdout, answered.stderr
    done = shell(run)
    assert done.returncode == 0, done.stderr
