"""A script that goes on without its worker: in a trigger, in another one when that is gone, and never in two."""

import asyncio
import contextlib
import json
import os
import time
from concurrent.futures import ThreadPoolExecutor
from datetime import datetime, timedelta
from types import MappingProxyType

import msgspec
import pytest
from airflow.providers.common.compat.sdk import DAG, AirflowFailException, TaskDeferred

from airflow_provider_impala_lb import Balancer
from airflow_provider_impala_lb.errors import Superseded
from airflow_provider_impala_lb.hooks.resolve_stick_to import XCOM_HOST, XCOM_RUN
from airflow_provider_impala_lb.impala.journal.answers import answer
from airflow_provider_impala_lb.impala.journal.document import decode
from airflow_provider_impala_lb.operators import impala_lb as module
from airflow_provider_impala_lb.operators.impala_lb import ImpalaLBOperator
from airflow_provider_impala_lb.sandbox import Sandbox
from airflow_provider_impala_lb.stores.factory import open_journals
from airflow_provider_impala_lb.triggers.run_script import ScriptTrigger
from tests.support.servers import eventually

OWNER = "d/r/t"


@pytest.fixture
def lab(cluster, tmp_path, monkeypatch):
    return make_lab(cluster, tmp_path, monkeypatch)


def make_lab(cluster, tmp_path, monkeypatch, reconnect_timeout=30):
    """A connection with a state of its own, and a table of its own; workers let go at once."""
    config = {**cluster.config, "lock_file": str(tmp_path / "lock"), "name": "deferred"}
    timeouts = {"open_timeout": 3, "rpc_timeout": 3, "reconnect_timeout": reconnect_timeout}
    config["session"] = {**config["session"], **timeouts}
    nodes = config.pop("nodes")
    fields = {"conn_type": "impala_lb", "extra": {**config, "nodes": nodes}}
    monkeypatch.setenv("AIRFLOW_CONN_DEFERRED", json.dumps(fields))
    monkeypatch.setattr(module, "HAND_OVER_SECONDS", 0.1)
    balancer = Balancer.from_config({**config, "nodes": nodes})
    table = f"deferred_{time.time_ns()}"
    with balancer.connect() as connection, connection.cursor() as cursor:
        cursor.execute("SET SYNC_DDL=1")  # these coordinators lag behind each other
        cursor.execute(f"CREATE TABLE {table} (n INT)")
    return Lab(cluster, balancer, table)


class Lab:
    def __init__(self, cluster, balancer, table):
        self.cluster, self.balancer, self.table = cluster, balancer, table

    def insert(self, n, sleep=600):
        return f"INSERT INTO {self.table} SELECT {n} WHERE sleep({sleep})"

    def ran(self):
        """What was executed on the table, in order: the number, and how it ended."""
        entries = [entry for node in self.cluster.nodes for entry in node.journal()]
        return [
            (entry["sql"].partition(" SELECT ")[2].split()[0], entry["state"])
            for entry in sorted(entries, key=lambda entry: entry["t"])
            if f"INTO {self.table} SELECT" in entry.get("sql", "")
        ]

    def record(self):
        document = open_journals(self.balancer.config).read(OWNER)
        return None if document is None else decode(document, "")


def operator(sql, **options):
    options = {"conn_id": "deferred", "deferrable": True, "handler": None, **options}
    with DAG("d", start_date=datetime(2026, 1, 1), schedule=None):
        return ImpalaLBOperator(task_id="t", sql=sql, **options)


def deferred(task, ti):
    with pytest.raises(TaskDeferred) as raised:
        task._run({"ti": ti})  # what execute does; Airflow 2.11 allows that one in the main thread only
    path, keys = raised.value.trigger.serialize()
    assert path == "airflow_provider_impala_lb.triggers.run_script.ScriptTrigger"
    return json.loads(json.dumps(keys)), raised.value.method_name


async def event_of(trigger, killed=None):
    """As Airflow's triggerer does it.

    :param killed: an event; once it is set, a user has killed the task.
    """
    try:
        return (await anext(aiter(trigger.run()))).payload
    except asyncio.CancelledError:
        if killed is not None and killed.is_set():
            await asyncio.sleep(1)  # it writes to its log in between, which may be slow
            await trigger.on_kill()
        raise
    finally:
        await trigger.cleanup()


async def kill(task, killed):
    killed.set()
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task


def event(keys, seconds=30.0):
    return asyncio.run(asyncio.wait_for(event_of(ScriptTrigger(**keys)), seconds))


def test_the_trigger_runs_the_rest_and_the_task_tells_what_ran(lab, ti):
    task, ours = operator(f"{lab.insert(1)}; SET MEM_LIMIT=1g; {lab.insert(2, 10)}"), ti()
    keys, method = deferred(task, ours)
    assert ours.pushed[XCOM_HOST]
    assert lab.balancer.status()["leases"][0]["owner"] == OWNER
    found = event(keys)
    assert found["done"]["statements"] == 3
    task.sql = "SELECT 'rendered again, with another time in it'"  # what was run counts
    getattr(task, method)({"ti": ours}, found)
    run = ours.pushed[XCOM_RUN]
    assert run["host"] == ours.pushed[XCOM_HOST]
    assert (run["statements"], run["rows"]) == (3, 2)
    assert run["written"] == [f"default.{lab.table}"]
    assert len(run["query_ids"]) == 3
    assert lab.ran() == [("1", "FINISHED"), ("2", "FINISHED")]
    assert lab.balancer.status()["leases"] == []
    assert lab.record().ended


@pytest.mark.slow
def test_the_summary_of_a_deferred_run_is_that_of_any_other(lab, ti):
    """Its seconds are those of all its processes, ``why`` is what spoke for its node, and what was published shows."""
    start = time.time()
    node = lab.cluster.nodes[1].address
    task = operator(f"{lab.insert(1, 3000)}; SELECT 1", publish=True, handler=lambda cursor: cursor.fetchall())
    ours = ti()
    keys, method = deferred(task, ours)
    time.sleep(1)
    found = event(keys)
    getattr(task, method)({"ti": ours}, json.loads(json.dumps(found)))
    run = ours.pushed[XCOM_RUN]
    assert run["why"].startswith("least_loaded: score 1")
    assert 3.0 < run["seconds"] < time.time() - start
    assert (run["published"], run["unpublished"]) == (True, [])
    assert start < run["ended"] < time.time()
    assert abs(datetime.fromisoformat(run["ended_at"]).timestamp() - run["ended"]) < 1
    # The same, of one that sticks, and whose rows nobody wants.
    task, ours = operator(lab.insert(2, 2000), stick_to=node), ti()
    keys, method = deferred(task, ours)
    getattr(task, method)({"ti": ours}, json.loads(json.dumps(event(keys))))
    run = ours.pushed[XCOM_RUN]
    assert (run["host"], run["why"]) == (node, "sticks to the host it was given")
    assert run["seconds"] > 2.0


def test_rows_that_are_wanted_are_fetched_by_a_worker(lab, ti):
    task, ours = operator(f"{lab.insert(7)}; SELECT n FROM {lab.table}", handler=lambda cursor: cursor.fetchall()), ti()
    keys, method = deferred(task, ours)
    found = event(keys)
    assert "go_on" in found
    task.sql = "SELECT 'rendered again, with another time in it'"  # what is under way counts
    result = getattr(task, method)({"ti": ours}, json.loads(json.dumps(found)))
    assert [list(row) for row in result] == [[7]]
    assert lab.ran() == [("7", "FINISHED")]
    assert lab.balancer.status()["leases"] == []
    assert ours.pushed[XCOM_RUN]["statements"] == 2


@pytest.mark.parametrize("gone", ["query", pytest.param("session", marks=pytest.mark.slow)])
def test_rows_that_no_worker_came_for_in_time_are_read_again(tmp_path, monkeypatch, ti, gone):
    """Nobody asks for the query while the task waits for a worker's slot: the coordinator closes it, or its session,
    too. What only reads runs again, there; nothing that changed something does."""
    flags = {"disconnected_session_timeout": 2} if gone == "session" else {}
    with Sandbox(nodes=2, lag=0, flags=flags) as cluster:
        lab = make_lab(cluster, tmp_path, monkeypatch, reconnect_timeout=3)
        script = f"{lab.insert(7)}; USE default; SELECT n FROM {lab.table}"
        task, ours = operator(script, handler=lambda cursor: cursor.fetchall()), ti()
        keys, method = deferred(task, ours)
        found = event(keys)
        assert "go_on" in found
        time.sleep(6)
        result = getattr(task, method)({"ti": ours}, json.loads(json.dumps(found)))
        assert [list(row) for row in result] == [[7]]
        assert lab.ran() == [("7", "FINISHED")]
        assert lab.record().ended
        assert ours.pushed[XCOM_RUN]["statements"] == 3
        assert ours.pushed[XCOM_HOST] == ours.pushed[XCOM_RUN]["host"]
        assert lab.balancer.status()["leases"] == []


@pytest.mark.slow
def test_rows_that_no_trigger_came_for_in_time_are_read_again(tmp_path, monkeypatch, ti):
    """By its coordinator's page the query has run; its rows are gone with its session."""
    with Sandbox(nodes=2, lag=0, flags={"disconnected_session_timeout": 2}) as cluster:
        make_lab(cluster, tmp_path, monkeypatch)
        monkeypatch.setattr(module, "HAND_OVER_SECONDS", 1.5)  # it has been sent by then
        task, ours = operator("SELECT 7 n, sleep(3000)", handler=lambda cursor: cursor.fetchall()), ti()
        keys, method = deferred(task, ours)
        assert keys["deferred"]["handover"]["query"]
        time.sleep(6)
        found = event(keys)
        assert "go_on" in found
        result = getattr(task, method)({"ti": ours}, json.loads(json.dumps(found)))
        assert [row[0] for row in result] == [7]


def test_what_a_template_renders_to_need_not_be_text(lab, ti):
    """With render_template_as_native_obj a date without dashes is a number, for the worker and for the trigger."""
    task = operator(lab.insert(1, 1000), session_key=20261127, resume=1, statement_timeout=60)
    keys, _ = deferred(task, ti())
    assert event(keys)["done"]["statements"] == 1
    assert [key["key"] for key in lab.balancer.status()["sessions"]] == ["20261127"]


def test_query_options_may_be_any_mapping(lab, ti):
    task = operator(lab.insert(1, 1000), query_options=MappingProxyType({"mem_limit": "1g"}))
    keys, _ = deferred(task, ti())
    assert event(keys)["done"]["statements"] == 1


def test_what_a_trigger_could_not_read_keeps_the_worker(lab, ti):
    """It has to show before the script is handed over: after that nobody would wait for its statement."""

    class Limit:
        def __str__(self):
            return "1g"

    operator(lab.insert(1, 1000), query_options={"mem_limit": Limit()})._run({"ti": ti()})
    assert lab.ran() == [("1", "FINISHED")]


def test_a_failure_in_the_trigger_is_the_tasks_failure(lab, ti):
    task, ours = operator(f"{lab.insert(1)}; SELEC"), ti()
    keys, method = deferred(task, ours)
    with pytest.raises(AirflowFailException, match="Statement 2 of 2"):
        getattr(task, method)({"ti": ours}, json.loads(json.dumps(event(keys))))
    assert lab.balancer.status()["leases"] == []


def test_a_restarted_triggerer_attaches_to_the_running_statement(lab, ti):
    """Stopped in order: the trigger is cancelled, and runs again elsewhere with the same arguments."""
    task, ours = operator(f"{lab.insert(1)}; {lab.insert(2, 2000)}; {lab.insert(3, 10)}"), ti()
    keys, _ = deferred(task, ours)

    async def interrupted():
        first = asyncio.create_task(event_of(ScriptTrigger(**keys)))
        while lab.record().done < 1:
            await asyncio.sleep(0.05)
        await asyncio.sleep(0.3)
        first.cancel()
        with contextlib.suppress(asyncio.CancelledError):
            await first

    asyncio.run(interrupted())
    found = event(keys)
    assert found["done"]["statements"] == 3
    assert lab.ran() == [("1", "FINISHED"), ("2", "FINISHED"), ("3", "FINISHED")]


def test_two_triggerers_that_both_believe_they_own_the_task(lab, ti):
    task, ours = operator("; ".join(lab.insert(n, 300) for n in range(1, 6))), ti()
    keys, _ = deferred(task, ours)

    async def both():
        first = asyncio.create_task(event_of(ScriptTrigger(**keys)))
        while lab.record().done < 1:
            await asyncio.sleep(0.02)
        second = asyncio.create_task(event_of(ScriptTrigger(**keys)))
        done, _ = await asyncio.wait([first, second], timeout=30, return_when=asyncio.FIRST_COMPLETED)
        assert done == {second}, "the one that was superseded says nothing"
        first.cancel()
        return second.result()

    assert asyncio.run(both())["done"]["statements"] == 5
    assert lab.ran() == [(str(n), "FINISHED") for n in range(1, 6)]


def test_start_over_ends_the_attempt_that_a_trigger_runs(lab, ti, monkeypatch):
    """Nobody goes on with it: the task fails, and its next attempt does what the author has said."""
    monkeypatch.setattr(module, "HAND_OVER_SECONDS", 2.0)  # long enough for the statement to be sent before
    task, ours = operator(f"{lab.insert(1, 6000)}; {lab.insert(2, 10)}", resume=True), ti()
    keys, method = deferred(task, ours)

    async def started_over():
        trigger = asyncio.create_task(event_of(ScriptTrigger(**keys)))
        while lab.record().epoch < 2:
            await asyncio.sleep(0.05)
        answer(open_journals(lab.balancer.config), OWNER, "start-over")
        return await asyncio.wait_for(trigger, 20)

    found = json.loads(json.dumps(asyncio.run(started_over())))
    with pytest.raises(Superseded, match=r"taken over \(impala-lb journal\): this one runs nothing more"):
        getattr(task, method)({"ti": ours}, found)
    assert lab.ran() == [("1", "FINISHED")]
    again, theirs = operator(f"{lab.insert(1, 10)}; {lab.insert(2, 10)}", resume=True, deferrable=False), ti()
    theirs.try_number = 2
    again._run({"ti": theirs})
    assert lab.ran() == [("1", "FINISHED"), ("1", "FINISHED"), ("2", "FINISHED")]


@pytest.mark.slow
def test_a_trigger_whose_successor_ends_says_nothing_until_its_attempt_is_over(lab, ti):
    """A triggerer that was taken for dead, and another one that has the trigger now: one event."""
    task, ours = operator(f"{lab.insert(1, 2000)}; {lab.insert(2, 10)}", resume=True), ti()
    keys, _ = deferred(task, ours)

    async def both():
        first = asyncio.create_task(event_of(ScriptTrigger(**keys)))
        while lab.record().epoch < 2:
            await asyncio.sleep(0.02)
        second = asyncio.create_task(event_of(ScriptTrigger(**keys)))
        assert (await asyncio.wait_for(second, 20))["done"]["statements"] == 2
        _, waiting = await asyncio.wait([first], timeout=1)
        assert waiting == {first}
        answer(open_journals(lab.balancer.config), OWNER, "start-over")
        return await asyncio.wait_for(first, 20)

    assert asyncio.run(both())["error"]["kind"] == "Superseded"
    assert lab.ran() == [("1", "FINISHED"), ("2", "FINISHED")]


def test_cancel_on_kill(lab, ti):
    task, ours = operator(f"{lab.insert(1, 60000)}; {lab.insert(2, 10)}"), ti()
    keys, _ = deferred(task, ours)

    async def killed():
        run = asyncio.create_task(event_of(ScriptTrigger(**keys), over := asyncio.Event()))
        while lab.record().epoch < 2:
            await asyncio.sleep(0.05)
        await asyncio.sleep(0.5)
        await kill(run, over)

    asyncio.run(killed())
    eventually(lambda: lab.ran() == [("1", "CANCELLED")] and lab.balancer.status()["leases"] == [])


def test_a_script_that_was_killed_between_two_statements_is_not_handed_over(lab, ti):
    task, ours = operator(f"{lab.insert(1)}; {lab.insert(2, 10)}"), ti()
    keys, _ = deferred(task, ours)
    trigger = ScriptTrigger(**keys)
    run = trigger._script_run(lab.balancer)

    def killed(_):
        run.kill("the task was killed")
        run.hand_over()

    run._record.listener = msgspec.structs.replace(run._record.listener, on_statement=killed)
    assert "the task was killed" in trigger._go_on(run)["failed"]["reason"]
    assert lab.ran() == [("1", "FINISHED")]
    assert lab.balancer.status()["leases"] == []


def test_cancel_on_kill_before_the_trigger_has_begun(lab, ti, monkeypatch):
    """Airflow creates a trigger, and cancels it before it has got its connection."""
    monkeypatch.setattr(module, "HAND_OVER_SECONDS", 3.0)  # long enough for the statement to be sent before
    task, ours = operator(lab.insert(1, 60000)), ti()
    keys, _ = deferred(task, ours)
    asyncio.run(asyncio.wait_for(ScriptTrigger(**keys).on_kill(), 20))
    eventually(lambda: lab.ran() == [("1", "CANCELLED")])
    assert lab.balancer.status()["leases"] == []
    assert lab.record().done == 0 and not lab.record().ended


@pytest.mark.slow
@pytest.mark.parametrize("has_begun", [True, False])
def test_a_kill_that_comes_late_does_not_touch_the_next_try(lab, ti, has_begun):
    """Airflow tells a trigger that its task was cleared once the scheduler has sent the next attempt to a worker."""
    task, ours = operator(lab.insert(1, 6000), resume=True), ti()
    keys, _ = deferred(task, ours)
    again, theirs = operator(lab.insert(1, 6000), resume=True, deferrable=False), ti()
    theirs.try_number = 2

    async def killed():
        trigger = ScriptTrigger(**keys)
        first = asyncio.create_task(event_of(trigger))
        while has_begun and lab.record().epoch < 2:
            await asyncio.sleep(0.05)
        if not has_begun:
            first.cancel()
            trigger = ScriptTrigger(**keys)
        next_try = asyncio.create_task(asyncio.to_thread(again._run, {"ti": theirs}))
        while lab.record().by != "attempt 2":
            await asyncio.sleep(0.05)
        await trigger.on_kill()
        first.cancel()
        await next_try

    asyncio.run(killed())
    assert lab.ran() == [("1", "FINISHED")]
    assert theirs.pushed[XCOM_RUN]["statements"] == 1
    assert lab.record().ended


def test_execution_timeout_holds_in_the_trigger(lab, ti):
    task, ours = operator(lab.insert(1, 60000), execution_timeout=timedelta(seconds=2)), ti()
    keys, method = deferred(task, ours)
    with pytest.raises(AirflowFailException, match="execution_timeout"):  # it may have run: not retried by itself
        getattr(task, method)({"ti": ours}, event(keys))
    assert lab.ran() == [("1", "CANCELLED")]


def test_a_retry_settles_what_the_trigger_left(lab, ti):
    task, ours = operator(lab.insert(1, 60000)), ti()
    keys, _ = deferred(task, ours)  # and no trigger ever comes
    assert lab.balancer.status()["leases"]
    again = operator(lab.insert(2, 1), deferrable=False)
    again.execute({"ti": ti()})
    # On a busy host it may have been handed over before its statement was sent.
    left = [("1", "CANCELLED")] if keys["deferred"]["handover"]["query"] else []
    # Its session is closed, so no page shows it any more; its thread may end a moment later, and write its line then.
    eventually(lambda: sorted(lab.ran()) == [*left, ("2", "FINISHED")])


def test_a_script_that_is_too_large_for_airflows_database_keeps_the_worker(lab, ti, monkeypatch):
    monkeypatch.setattr(module, "LARGEST_SCRIPT", 100)
    operator(f"{lab.insert(1)}; {lab.insert(2)}").execute({"ti": ti()})
    assert lab.ran() == [("1", "FINISHED"), ("2", "FINISHED")]


def test_a_trigger_whose_connection_has_another_password_runs_nothing(lab, ti, monkeypatch):
    task, ours = operator(f"{lab.insert(1, 2000)}; {lab.insert(2)}"), ti()
    keys, method = deferred(task, ours)
    fields = json.loads(os.environ["AIRFLOW_CONN_DEFERRED"])
    fields["extra"]["seal_key"] = "another"
    monkeypatch.setenv("AIRFLOW_CONN_DEFERRED", json.dumps(fields))
    with pytest.raises(AirflowFailException, match="cannot be read: the connection's password, or its seal_key, has"):
        getattr(task, method)({"ti": ours}, event(keys))
    assert ("2", "FINISHED") not in lab.ran()


def test_results_of_all_statements_keep_the_worker(lab, ti, caplog):
    task = operator(["SELECT 1", "SELECT sleep(500)"], handler=lambda cursor: cursor.fetchall(), return_last=False)
    assert len(task.execute({"ti": ti()})) == 2


@pytest.fixture(scope="module")
def roomy(airflow_home):
    """Coordinators that take 200 connections and more together."""
    with Sandbox(nodes=3, lag=0, flags={"fe_service_threads": 128}) as cluster:
        yield cluster


@pytest.mark.slow
def test_two_hundred_scripts_in_one_triggerer(roomy, tmp_path, monkeypatch, ti):
    """They keep neither its loop from turning nor each other from ending."""
    lab = make_lab(roomy, tmp_path, monkeypatch)
    owners = 200
    tasks = [operator(lab.insert(number, 8000)) for number in range(owners)]

    def let_go(number):
        ours = ti()
        ours.task_id = f"t{number}"
        return deferred(tasks[number], ours)[0]

    with ThreadPoolExecutor(16) as pool:  # as workers on other hosts would
        keys = list(pool.map(let_go, range(owners)))

    async def all_of_them():
        longest, start = 0.0, time.monotonic()
        tasks = [asyncio.create_task(event_of(ScriptTrigger(**each))) for each in keys]
        while not all(task.done() for task in tasks):
            before = time.monotonic()
            await asyncio.sleep(0.01)
            longest = max(longest, time.monotonic() - before)
            assert before - start < 120
        return [task.result() for task in tasks], longest

    results, longest = asyncio.run(all_of_them())
    assert all("done" in result for result in results)
    assert sorted(int(n) for n, state in lab.ran() if state == "FINISHED") == list(range(owners))
    print(f"the loop was late by {longest:.3f} s at most")
    assert longest < 2


@pytest.mark.slow
def test_deferred_scripts_in_a_real_run(run_dag, tmp_path, monkeypatch, cluster):
    """By Airflow's own hands: the task defers, its trigger runs, the task comes back."""
    monkeypatch.setenv("AIRFLOW_VAR_ROWS_FILE", str(tmp_path / "rows.csv"))
    run = run_dag("deferred")
    assert run.states == {"make": "success", "read": "success", "to_file": "success", "fails": "failed"}
    host = run.xcom("make", "impala_host")
    assert run.xcom("make", "impala_run")["statements"] == 4
    assert run.xcom("make", "impala_run")["host"] == host == run.xcom("read", "impala_host")
    assert [list(row) for row in run.xcom("read")] == [[3, 3]]
    assert (tmp_path / "rows.csv").read_text().split() == ["n", "1", "2", "3"]
    assert run.xcom("to_file")["rows"] == 3
    inserts = [
        entry["sql"].partition("*/ ")[2]
        for node in cluster.nodes
        for entry in node.journal()
        if "INTO later" in entry.get("sql", "") and entry["state"] == "FINISHED"
    ]
    assert inserts == ["INSERT INTO later SELECT 1 WHERE sleep(4000)", "INSERT INTO later VALUES (2), (3)"]
