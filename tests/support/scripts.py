import json
import logging
import shutil
import subprocess
import tempfile
import threading
import time
import urllib.request
from pathlib import Path

import msgspec
import pytest

from airflow_provider_impala_lb import Balancer
from airflow_provider_impala_lb.impala.journal.identity import RunIdentity
from airflow_provider_impala_lb.impala.script.options import ProcessOptions, RunListener, RunOptions
from airflow_provider_impala_lb.impala.script.plan import ScriptPlan
from airflow_provider_impala_lb.impala.script.run import ScriptRun
from airflow_provider_impala_lb.impala.script.upstream import Upstream
from airflow_provider_impala_lb.impala.sql.splitter import split
from airflow_provider_impala_lb.sandbox import Sandbox
from tests.support.components import lacking
from tests.support.servers import eventually, free_port

LOG = logging.getLogger("test.run")


@pytest.fixture(scope="session")
def cluster():
    """Three coordinators without lag, for tests that leave them as they were."""
    with Sandbox(nodes=3, lag=0) as cluster:
        yield cluster


@pytest.fixture
def balancer(cluster):
    return Balancer.from_config(cluster.config)


def changed(cluster, **keys):
    """A balancer whose configuration differs from the cluster's; ``session`` keys are merged."""
    config = cluster.config
    session = {**config["session"], **keys.pop("session", {})}
    return Balancer.from_config({**config, **keys, "session": session})


def statements_on(node):
    return [entry["sql"] for entry in node.journal() if "sql" in entry]


def events_on(node):
    return [entry["event"] for entry in node.journal() if "event" in entry]


def script_run(balancer, statements, *, parameters=None, **keys):
    """A run of these statements, not started yet.

    :param keys: fields of `RunOptions`, `RunIdentity`, `RunListener` and `ProcessOptions`.
    """

    def part(kind):
        return kind(**{name: keys.pop(name) for name in kind.__struct_fields__ if name in keys})

    plan = ScriptPlan.bind(statements, parameters, part(RunOptions))
    parts = part(RunIdentity), part(RunListener), part(ProcessOptions)
    assert not keys, keys
    return ScriptRun(
        balancer.cluster,
        balancer.sessions,
        plan,
        *parts[:2],
        msgspec.structs.replace(parts[2], command=balancer.command),
    )


def run(balancer, script, **options):
    return script_run(balancer, split(script), logger=LOG, **options).run()


def only(cluster, node):
    """A balancer that has no other choice."""
    (entry,) = [each for each in cluster.config["nodes"] if each["port"] == node.port]
    return changed(cluster, nodes=[entry], lock_file=str(cluster.directory / f"{node.name}.tmp"))


def sent(done):
    """What a script left, as it travels through XCom."""
    return Upstream.of(json.loads(json.dumps(done.left.as_dict())))


def rows_of(cursor):
    return cursor.fetchall() if cursor.description is not None else None


@pytest.fixture
def movable_share():
    """A directory for a lock file, of a file system of its own, and where to move it to be away."""
    with tempfile.TemporaryDirectory(dir="/dev/shm") as directory:
        (Path(directory) / "share").mkdir()
        yield Path(directory) / "share", Path(directory) / "away"


@pytest.fixture
def log(caplog):
    caplog.set_level(logging.INFO)
    return caplog


@pytest.fixture
def four():
    """Clusters that are broken by the test; short timeouts."""
    with Sandbox(nodes=3, lag=0, flags={"fe_service_threads": 4}) as cluster:
        for node in cluster.nodes:  # a coordinator's first session is its slowest
            changed(cluster).sessions.open(node.address).close()
        yield cluster


def patient(cluster, **keys):
    return changed(cluster, policy="round_robin", session={"open_timeout": 2}, **keys)


def left_out(log):
    return [record.getMessage() for record in log.records if "cannot take the script" in record.getMessage()]


def wait_for(condition, seconds=5.0):
    end = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < end, "not in time"
        time.sleep(0.02)


def in_flight(node, word=""):
    """Its queries under way with this word: without one, a script's own (witness, marker) count too."""
    with urllib.request.urlopen(f"{node.web}/queries?json", timeout=5) as page:
        return [query for query in json.load(page)["in_flight_queries"] if word in query["stmt"]]


def start_script(balancer, script, **options):
    """A script in a thread, and what became of it."""
    started = script_run(balancer, split(script), logger=LOG, **options)
    outcome = []

    def work():
        try:
            outcome.append(started.run())
        except BaseException as error:
            outcome.append(error)

    thread = threading.Thread(target=work)
    thread.start()
    return started, thread, outcome


def start_sleeper(balancer, cluster, script="SELECT sleep(60000)"):
    """A script in a thread, and what became of it; returns once its query runs."""
    script_run, thread, outcome = start_script(balancer, script)
    wait_for(lambda: any(in_flight(node, "sleep(") for node in cluster.nodes))
    node = next(node for node in cluster.nodes if in_flight(node, "sleep("))
    return script_run, thread, outcome, node


@pytest.fixture
def exporter():
    """URL of a real node_exporter, with the collector ``processes``."""
    if not shutil.which("prometheus-node-exporter"):
        lacking("prometheus-node-exporter is not installed (apt-get install it): the load of hosts is NOT tested")
    port = free_port()
    # The kernel kills it should this process be killed.
    command = ["setpriv", "--pdeathsig", "KILL", "prometheus-node-exporter", "--collector.processes"]
    process = subprocess.Popen(
        [*command, f"--web.listen-address=127.0.0.1:{port}"], stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL
    )
    url = f"http://127.0.0.1:{port}/metrics"

    def answers():
        assert process.poll() is None, "prometheus-node-exporter ended"
        try:
            with urllib.request.urlopen(url, timeout=5):
                return True
        except OSError:
            return False

    try:
        eventually(answers, 20)
        yield url
    finally:
        process.kill()
        process.wait()
