"""A cluster that is full: tasks wait without a worker slot, and keep their place."""

import asyncio
import json
import threading
import time
from datetime import datetime

import pytest
from airflow.exceptions import AirflowRescheduleException
from airflow.providers.common.compat.sdk import DAG, TaskDeferred

from airflow_provider_impala_lb import Balancer
from airflow_provider_impala_lb.core.cluster.picker import Picker
from airflow_provider_impala_lb.errors import NoNodeAvailable
from airflow_provider_impala_lb.operators import impala_lb as module
from airflow_provider_impala_lb.operators.impala_lb import ImpalaLBOperator
from airflow_provider_impala_lb.triggers.wait_for_node import NodeTrigger


@pytest.fixture
def full(cluster, tmp_path, monkeypatch):
    """A connection for one script at a time, and a balancer on the same state."""
    config = {**cluster.config, "lock_file": str(tmp_path / "lock"), "max_leases": 1, "name": "one_at_a_time"}
    nodes = config.pop("nodes")
    fields = {"conn_type": "impala_lb", "extra": {**config, "nodes": nodes}}
    monkeypatch.setenv("AIRFLOW_CONN_ONE_AT_A_TIME", json.dumps(fields))
    return Balancer.from_config({**config, "nodes": nodes})


def operator(**options):
    with DAG("full", start_date=datetime(2026, 1, 1), schedule=None):
        return ImpalaLBOperator(task_id="t", sql="SELECT 42", conn_id="one_at_a_time", **options)


def waiting(balancer):
    return [ticket["owner"] for ticket in balancer.status()["waiting"]]


def events(trigger, seconds=10.0):
    async def first():
        return await anext(aiter(trigger.run()))

    return asyncio.run(asyncio.wait_for(first(), seconds))


def test_a_deferred_task_keeps_its_place_and_goes_on_when_it_is_its_turn(full, ti):
    held = full.acquire("held")
    task = operator(deferrable=True)
    with pytest.raises(TaskDeferred) as deferred:
        task.execute({"ti": ti()})
    assert waiting(full) == ["d/r/t"]
    path, keys = deferred.value.trigger.serialize()
    assert path == "airflow_provider_impala_lb.triggers.wait_for_node.NodeTrigger"
    json.dumps(keys)
    trigger = NodeTrigger(**keys)
    threading.Timer(0.5, held.release).start()
    start = time.monotonic()
    event = events(trigger)
    assert time.monotonic() - start >= 0.5
    assert waiting(full) == ["d/r/t"]  # kept for the task
    with pytest.raises(NoNodeAvailable):
        full.acquire("a newcomer", wait=0.3)
    result = getattr(task, deferred.value.method_name)({"ti": ti()}, event.payload)
    assert [list(row) for row in result] == [[42]]
    assert waiting(full) == [] and full.status()["leases"] == []


def test_a_deferred_task_does_not_wait_longer_than_it_may(full, ti):
    full.acquire("held")
    task = operator(deferrable=True, max_wait=1)
    with pytest.raises(TaskDeferred) as deferred:
        task.execute({"ti": ti()})
    event = events(deferred.value.trigger)
    with pytest.raises(NoNodeAvailable, match="3 nodes, 3 full"):
        task.execute_complete({"ti": ti()}, event.payload)
    assert waiting(full) == []


def test_nobody_waits_behind_a_task_that_was_killed(full, ti, monkeypatch):
    """Not even its own next try, for the three minutes that its place is kept."""
    ask, asks = Picker.ask, threading.Event()

    def slowly(*args, **options):
        asks.set()
        time.sleep(1)  # as on a slow NAS: it is still asking when the word comes
        return ask(*args, **options)

    monkeypatch.setattr(Picker, "ask", slowly)
    held = full.acquire("held")
    task = operator(deferrable=True)
    with pytest.raises(TaskDeferred) as deferred:
        task.execute({"ti": ti()})
    trigger = deferred.value.trigger

    async def killed():
        run = asyncio.create_task(anext(aiter(trigger.run())))
        await asyncio.to_thread(asks.wait)
        run.cancel()  # as Airflow does it
        await trigger.on_kill()

    asyncio.run(killed())
    assert waiting(full) == []
    held.release()
    ours = ti()
    ours.try_number = 2
    operator(max_wait=0).execute({"ti": ours})


def test_the_trigger_keeps_the_event_loop_free(full):
    full.acquire("held")
    seconds = 4

    async def measure():
        triggers = [NodeTrigger("one_at_a_time", f"t{index}", "o", wait=seconds) for index in range(20)]

        async def run(trigger):
            async for _ in trigger.run():
                return

        tasks = [asyncio.create_task(run(trigger)) for trigger in triggers]
        longest = 0.0
        while not all(task.done() for task in tasks):
            start = time.monotonic()
            await asyncio.sleep(0.01)
            longest = max(longest, time.monotonic() - start)
        return longest

    assert asyncio.run(measure()) < seconds  # one that waited on the loop would hold it for as long


def test_a_task_that_reschedules_gives_its_slot_back_and_keeps_its_place(full, ti):
    held = full.acquire("held")
    task = operator(reschedule=True)
    with pytest.raises(AirflowRescheduleException) as again:
        task.execute({"ti": ti()})
    assert 0 < again.value.reschedule_date.timestamp() - time.time() <= module.RESCHEDULE_SECONDS
    assert waiting(full) == ["d/r/t"]
    with pytest.raises(AirflowRescheduleException):
        task.execute({"ti": ti()})
    assert waiting(full) == ["d/r/t"]
    held.release()
    assert [list(row) for row in task.execute({"ti": ti()})] == [[42]]


def test_the_scheduler_knows_of_tasks_that_reschedule():
    assert "reschedule" in ImpalaLBOperator.get_serialized_fields()
    assert operator(reschedule=True).reschedule and not operator().reschedule


def test_a_task_that_is_killed_while_it_waits_stops_waiting(full, ti):
    full.acquire("held")
    task = operator()

    def kill():
        end = time.monotonic() + 10
        while waiting(full) != ["d/r/t"] and time.monotonic() < end:
            time.sleep(0.02)
        task.on_kill()

    killer = threading.Thread(target=kill)
    killer.start()
    with pytest.raises(NoNodeAvailable, match="cancelled before the script began"):
        task.execute({"ti": ti()})
    killer.join()
    assert waiting(full) == []


@pytest.mark.slow
def test_all_ways_of_waiting_in_a_real_run(full, run_dag, monkeypatch):
    monkeypatch.setattr(module, "RESCHEDULE_SECONDS", 2.0)
    held = full.acquire("held")
    threading.Timer(8.0, held.release).start()
    run = run_dag("waiting")
    states = run.states
    assert states.pop("impatient") in ("failed", "success")  # by then the cluster may be free again
    assert set(states.values()) == {"success"}
    assert full.status()["leases"] == [] and waiting(full) == []


def test_a_restartable_task_is_known_as_such_while_it_runs(full, ti):
    task = operator(restartable=True, handler=None)
    task.sql = "SELECT sleep(1500)"
    seen = []

    def look():
        end = time.monotonic() + 10
        while time.monotonic() < end and not seen:
            seen.extend(lease.get("movable", False) for lease in full.status()["leases"])
            time.sleep(0.05)

    watcher = threading.Thread(target=look)
    watcher.start()
    task.execute({"ti": ti()})
    watcher.join()
    assert seen == [True]
