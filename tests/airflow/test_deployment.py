"""Whose scripts these are, where several Airflows share a cluster's state: the key ``deployment`` of a connection."""

import asyncio
import json
from datetime import datetime

import pytest
import yaml
from airflow.providers.common.compat.sdk import DAG, TaskDeferred

from airflow_provider_impala_lb import Balancer
from airflow_provider_impala_lb.errors import ConfigError
from airflow_provider_impala_lb.impala.journal.document import decode
from airflow_provider_impala_lb.operators import impala_lb as module
from airflow_provider_impala_lb.operators.impala_lb import ImpalaLBOperator
from airflow_provider_impala_lb.stores.factory import open_journals
from airflow_provider_impala_lb.triggers.run_script import ScriptTrigger
from airflow_provider_impala_lb.triggers.wait_for_node import NodeTrigger

OWNER = "d/r/t"


def journals_of(config):
    journals = open_journals(Balancer.from_config(config).config)
    return {key: decode(journals.read(key), "") for key in list(journals.keys())}


@pytest.mark.slow
def test_a_journal_knows_its_deployment_its_run_and_what_its_names_stand_for(run_dag, cluster, monkeypatch):
    extra = {**cluster.config, "deployment": "prod"}
    monkeypatch.setenv(
        "AIRFLOW_CONN_OF_PROD", json.dumps({"conn_type": "impala_lb", "schema": "Default", "extra": extra})
    )
    run = run_dag("deployments")
    assert run.states == {"load": "failed"}
    (record,) = [record for key, record in journals_of(cluster.config).items() if key.startswith("prod:deployments/")]
    assert (record.done, record.deployment) == (1, "prod")
    assert record.attempt.run == run.run.start_date.timestamp() > 0
    assert (record.target.connection, record.target.database) == ("of_prod", "default")


@pytest.fixture
def lab(cluster, tmp_path, monkeypatch):
    """A balancer without a deployment, and a connection with one; a state and a table of their own."""
    config = {**cluster.config, "lock_file": str(tmp_path / "lock"), "name": "shared"}
    extra = {**config, "deployment": "prod", "max_leases": 1}
    monkeypatch.setenv("AIRFLOW_CONN_OF_PROD", json.dumps({"conn_type": "impala_lb", "extra": extra}))
    balancer = Balancer.from_config(config)
    with balancer.connect() as connection, connection.cursor() as cursor:
        cursor.execute("SET SYNC_DDL=1")  # these coordinators lag behind each other
        cursor.execute("DROP TABLE IF EXISTS shared")
        cursor.execute("CREATE TABLE shared (n INT)")
    return balancer


def test_a_script_without_a_worker_stays_its_deployments(lab, monkeypatch, ti):
    monkeypatch.setattr(module, "HAND_OVER_SECONDS", 0.1)
    with DAG("d", start_date=datetime(2026, 1, 1), schedule=None):
        sql = "INSERT INTO shared SELECT 1 WHERE sleep(600)"
        task = ImpalaLBOperator(task_id="t", sql=sql, conn_id="of_prod", deferrable=True, handler=None)
    ours = ti()
    with pytest.raises(TaskDeferred) as raised:
        task._run({"ti": ours})  # what execute does; Airflow 2.11 allows that one in the main thread only
    _, keys = raised.value.trigger.serialize()
    assert [lease["owner"] for lease in lab.status()["leases"]] == [f"prod:{OWNER}"]
    found = asyncio.run(asyncio.wait_for(event_of(ScriptTrigger(**json.loads(json.dumps(keys)))), 30))
    assert found["done"]["statements"] == 1
    getattr(task, raised.value.method_name)({"ti": ours}, found)
    assert {key: record.ended for key, record in journals_of(lab.config).items()} == {f"prod:{OWNER}": True}


async def event_of(trigger):
    try:
        return (await anext(aiter(trigger.run()))).payload
    finally:
        await trigger.cleanup()


def test_a_place_in_the_queue_is_its_deployments(lab):
    trigger = NodeTrigger("of_prod", f"{OWNER} try 1", OWNER)
    with lab.acquire("somebody else"):
        balancer = trigger._balancer()
        assert trigger._ask(balancer, trigger._begin(balancer)[1]) is not None
        (waiting,) = lab.status()["waiting"]
        assert waiting["owner"] == f"prod:{OWNER}"
        trigger._leave_queue(balancer)
        assert lab.status()["waiting"] == []


@pytest.mark.slow
def test_a_file_that_several_airflows_read_leaves_the_name_to_their_connections(connection, tmp_path):
    path = tmp_path / "lb.yml"
    path.write_text(yaml.safe_dump({"nodes": ["c1"], "deployment": "of_the_file"}))
    hook = connection("wh", extra={"config_file": str(path)})
    assert hook.balancer.config.deployment == "of_the_file"
    hook = connection("wh2", extra={"config_file": str(path), "deployment": "prod"})
    assert hook.balancer.config.deployment == "prod"
    assert connection("wh3", host="c1", extra={"deployment": "prod"}).balancer.config.owner_of("d/r/t") == "prod:d/r/t"
    for extra in ({"config_file": str(path), "deployment": "a:b"}, {"nodes": ["c1"], "deployment": "a:b"}):
        with pytest.raises(ConfigError, match="connection wh4: deployment: is 'a:b', must be a name"):
            _ = connection("wh4", extra=extra).balancer
