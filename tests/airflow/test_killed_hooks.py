"""Queries of common-sql's operators and of hooks end with their task, and a retry first ends what is left of them."""

import contextlib
import json
import signal
import subprocess
import sys
import time
import urllib.request
from pathlib import Path

import pytest

from airflow_provider_impala_lb.cli import cluster as commands
from airflow_provider_impala_lb.errors import StillRunning
from airflow_provider_impala_lb.hooks import impala_lb
from airflow_provider_impala_lb.impala.previous import leftover_sessions
from tests.support.hook_worker import context_of, work
from tests.support.scripts import in_flight

ROOT = Path(__file__).parents[2]


@pytest.fixture
def killed(cluster, run_dag):
    """Run a task in a process of its own until it waits for its query; then end the process as Airflow does."""
    processes = []

    def start(task):
        command = [sys.executable, str(run_dag.folder / "tests" / "sleeping_sql.py"), task]
        process = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True)
        processes.append(process)
        wait_for(lambda: queries(cluster) or process.poll() is not None, 200)  # Airflow begins
        return process

    yield start
    for process in processes:
        process.kill()
        process.communicate()
    end_all(cluster)


def end_all(cluster):
    """Close the sessions that still have statements: one that is cancelled only stays until its session ends, and other
    files' tests use the same cluster."""
    for node in cluster.nodes:
        with urllib.request.urlopen(f"{node.web}/sessions?json", timeout=5) as page:
            sessions = [each["session_id"] for each in json.load(page)["sessions"] if each["inflight_queries"]]
        for session in sessions:
            urllib.request.urlopen(f"{node.web}/close_session?session_id={session}&json", timeout=5).close()
    wait_for(lambda: not any(in_flight(node) for node in cluster.nodes), 10)


def queries(cluster):
    return [query for node in cluster.nodes for query in in_flight(node) if "62000" in query["stmt"]]


def sent(cluster):
    return sum("62000" in entry.get("sql", "") for node in cluster.nodes for entry in node.journal()) + len(
        queries(cluster)
    )


def wait_for(condition, seconds):
    end = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < end, "not in time"
        time.sleep(0.02)


@pytest.mark.slow
@pytest.mark.parametrize("task", ["execute", "goes_on", "check", "cursor"])
def test_sigterm_cancels_the_query_of_a_hook(killed, cluster, balancer, task):
    before = sent(cluster)
    process = killed(task)
    process.send_signal(signal.SIGTERM)
    wait_for(lambda: not queries(cluster), 5)
    wait_for(lambda: not balancer.status()["leases"], 5)
    output = process.communicate(timeout=30)[0]
    assert "the task was killed" in output or "Task received SIGTERM" in output
    assert sent(cluster) == before + 1, "what goes on after it runs nothing more"


@pytest.fixture
def lab(cluster, connection, tmp_path, monkeypatch):
    return Lab(cluster, connection, tmp_path, monkeypatch)


class Lab:
    """A connection with a state of its own, and a table of its own."""

    def __init__(self, cluster, connection, tmp_path, monkeypatch):
        self.cluster, self.patch, self.table = cluster, monkeypatch, f"hooked_{time.time_ns()}"
        connection("hooks", extra={**cluster.config, "lock_file": str(tmp_path / "lock"), "name": "hooks"})
        impala_lb.ImpalaLBHook("hooks").run(f"SET SYNC_DDL=1; CREATE TABLE {self.table} (n INT)")

    @property
    def balancer(self):
        return impala_lb.ImpalaLBHook("hooks").balancer

    @contextlib.contextmanager
    def worker(self, way, attempt=1, *, planned=False):
        """A process in which an attempt waits for its INSERT, which is at work, or may still be planned: then up to 4.3
        no end of it is ever seen once its session is closed."""
        sql = f"INSERT INTO {self.table} SELECT 1 WHERE sleep(62000)"
        command = [sys.executable, "-m", "tests.support.hook_worker", "hooks", str(attempt), way, sql]
        process = subprocess.Popen(command, cwd=ROOT)
        try:
            wait_for(lambda: any(planned or query["state"] == "RUNNING" for _, query in self.running()), 60)
            yield process
        finally:
            process.kill()
            process.wait()
            end_all(self.cluster)

    def attempt(self, number, way, map_index=-1):
        """Another one, in this process."""
        context = context_of(number, map_index)
        with self.patch.context() as patch:
            patch.setattr(impala_lb, "running_task", lambda: context)
            work("hooks", way, f"INSERT INTO {self.table} SELECT 2")

    def running(self):
        return [(node, query) for node in self.cluster.nodes for query in in_flight(node) if self.mine(query["stmt"])]

    def ended(self):
        entries = [entry for node in self.cluster.nodes for entry in node.journal() if self.mine(entry.get("sql", ""))]
        return [
            (entry["sql"].partition(" SELECT ")[2][:1], entry["state"])
            for entry in sorted(entries, key=lambda entry: entry["t"])
        ]

    def mine(self, sql):
        return f"INTO {self.table} SELECT" in sql


@pytest.mark.parametrize("way", ["run", *(pytest.param(way, marks=pytest.mark.slow) for way in ("cursor", "two"))])
def test_what_a_killed_worker_has_left_is_ended_before_its_retry_runs(lab, way):
    with lab.worker(way) as first:
        first.kill()
        first.wait()
        assert lab.running(), "nobody has ended it yet"
        lab.attempt(2, way)
        assert lab.ended() == [("1", "CANCELLED"), ("2", "FINISHED")]


@pytest.mark.parametrize("way", ["run", pytest.param("cursor", marks=pytest.mark.slow)])
def test_what_is_planned_yet_is_waited_for(lab, way):
    """It is in no session yet, so it is known by its label."""
    lab.patch.setattr(leftover_sessions, "END_SECONDS", 1.0)
    with contextlib.ExitStack() as held:
        switches = [
            held.enter_context(node.hold("planning", sql=f"{lab.table} SELECT 1")) for node in lab.cluster.nodes
        ]
        first = held.enter_context(lab.worker(way, planned=True))
        for switch in switches:
            held.callback(switch.release)
        first.kill()
        first.wait()
        with pytest.raises(StillRunning, match="still shows query"):
            lab.attempt(2, way)
        assert lab.running()
        assert lab.ended() == []


@pytest.mark.slow
@pytest.mark.since("4.0", "only who closed a session knows its end")
def test_of_two_cursors_both_sessions_are_to_be_ended(lab):
    close = leftover_sessions.SessionOfAnother.close_to_prove
    with lab.worker("two") as first:
        first.kill()
        first.wait()
        [lease] = lab.balancer.status()["leases"]
        with lab.patch.context() as patch:
            last = lease["session"]
            patch.setattr(
                leftover_sessions.SessionOfAnother,
                "close_to_prove",
                lambda another: "failed" if another._id == last else close(another),
            )
            with pytest.raises(StillRunning, match="does not close it"):
                lab.attempt(2, "cursor")
        [left] = lab.balancer.cluster.admin.leftovers().values()
        assert {left.session, *left.other_sessions} == {last, *lease["other_sessions"]}
        assert len(left.other_sessions) == 1, "one was closed in order"
        assert {row["session"] for row in commands._left(lab.balancer)} == {left.session, *left.other_sessions}
        lab.attempt(3, "cursor")
        assert not lab.balancer.cluster.admin.leftovers()


@pytest.mark.parametrize(("other", "map_index"), [(2, -1), (1, 0)], ids=["of the same attempt", "another instance"])
def test_what_others_run_is_left_alone(lab, other, map_index):
    """A task may have several hooks at work, in several processes; a mapped one several instances."""
    with lab.worker("run", other):
        lab.attempt(2, "run", map_index)
        assert lab.running()


@pytest.mark.slow
@pytest.mark.since("4.0", "only who closed a session knows its end")
@pytest.mark.parametrize("way", ["run", "cursor"])
def test_a_stopped_worker_that_goes_on_later_runs_nothing_more(lab, way):
    with lab.worker(way) as first:
        first.send_signal(signal.SIGSTOP)
        lab.attempt(2, way)
        first.send_signal(signal.SIGCONT)
        assert first.wait(30) != 0
        assert lab.ended() == [("1", "CANCELLED"), ("2", "FINISHED")]
