"""A script whose journal lies on a mount that hangs in the middle of it."""

import json

import pytest

from airflow_provider_impala_lb.sandbox import Sandbox
from tests.support.hanging_mounts import fuse_mount, run


@pytest.mark.slow
def test_it_stops_with_a_clear_error_and_its_next_attempt_does_not_begin_anew(tmp_path):
    (tmp_path / "nas").mkdir()
    with fuse_mount(tmp_path / "nas") as mount, Sandbox(nodes=1, lag=0) as cluster:
        config = {
            **cluster.config,
            "lock_file": str(mount.path / "node_in_use.tmp"),
            "session": {**cluster.config["session"], "reconnect_timeout": 1},
        }
        (tmp_path / "config.json").write_text(json.dumps(config))
        while_it_hangs, next_attempt, done = run(
            mount,
            mount.path,
            str(tmp_path / "config.json"),
            """
import json
from airflow_provider_impala_lb.core.state.model import Attempt
from airflow_provider_impala_lb.impala.journal.journal import Journal
from airflow_provider_impala_lb.impala.sql.splitter import split
from airflow_provider_impala_lb.stores.factory import open_journals
from tests.support.scripts import script_run

balancer = Balancer.from_config(json.load(open(other)))
journals = open_journals(balancer.config)
SCRIPT = "CREATE TABLE t (a INT); INSERT INTO t SELECT 1; INSERT INTO t SELECT 2"

def attempt(number):
    script = script_run(balancer, split(SCRIPT), owner="dag/run/task", resume=True, one_at_a_time=True,
        attempt=Attempt(number, time.time()), journals=journals)
    try:
        script.run()
    except StatementFailed as error:
        return str(error).replace("\\n", " ")

intend, intents = Journal.intend, []

def hanging_at_the_third(journal, *args, **keys):
    intents.append(args)
    if len(intents) == 3:
        journals._deadline = 0.2
        hang()
    return intend(journal, *args, **keys)

Journal.intend = hanging_at_the_third
print(attempt(1))
Journal.intend = intend
print(error_of(attempt, 2))
journals._deadline = 5.0
go_on()
once_back(journals.keys)
attempt(3)
print("done")
""",
        )
        ran = [
            entry["sql"].partition("*/ ")[2] for entry in cluster.nodes[0].journal() if "own:" in entry.get("sql", "")
        ]
    assert "Statement 3 of 3" in while_it_hangs and "its file system has not answered" in while_it_hangs
    assert "It changed nothing, and is safe to run again; statements 1 to 2 are done" in while_it_hangs
    assert "is not asked again until it does" in next_attempt
    assert done == "done"
    assert [sql for sql in ran if sql.startswith(("CREATE", "INSERT"))] == [
        "CREATE TABLE t (a INT)",
        "INSERT INTO t SELECT 1",
        "INSERT INTO t SELECT 2",
    ]
