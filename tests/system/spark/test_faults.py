"""Servers that are killed or stopped under a script, and statements that are cancelled."""

import threading

import pytest

from airflow_provider_impala_lb import Balancer
from airflow_provider_impala_lb.errors import NoNodeAvailable, StatementFailed
from airflow_provider_impala_lb.impala.sql.splitter import split
from tests.support.scripts import script_run
from tests.support.servers import eventually
from tests.system.spark.scripts import LOG, rows_of, run
from tests.system.spark.servers import SLEEP

TABLE = "CREATE TABLE IF NOT EXISTS faults (a INT) USING parquet"
INSERT = f"INSERT INTO faults SELECT CAST(length({SLEEP}) AS INT)"


class Running:
    """A script in a thread, and what became of it."""

    def __init__(self, balancer, script):
        self.sessions = []
        self.outcome = None
        self.run = script_run(
            balancer,
            split(script),
            handler=rows_of,
            logger=LOG,
            on_session=lambda _, session: self.sessions.append(session),
        )
        self.thread = threading.Thread(target=self._work)
        self.thread.start()

    def _work(self):
        try:
            self.outcome = self.run.run()
        except BaseException as error:
            self.outcome = error

    def wait_asleep(self, servers):
        """Until its statement is in its sleep on the server."""
        eventually(lambda: self.sessions, 30)
        self.node = servers.node(self.sessions[0].node.address)
        eventually(lambda: self.node.sleeping, 30)

    def failure(self, seconds):
        self.thread.join(seconds)
        assert not self.thread.is_alive()
        assert isinstance(self.outcome, StatementFailed), self.outcome
        return self.outcome


@pytest.fixture
def start(balancer, servers):
    started = []

    def start(script):
        running = Running(balancer, script)
        started.append(running)
        running.wait_asleep(servers)
        return running

    yield start
    for running in started:
        running.run.cancel("the test is over")
        running.thread.join(30)


def rows_in_table(balancer, servers):
    """As a server that has never seen the table reads it, in a new session."""
    alive = next(node for node in servers.nodes if node.alive)
    return run(balancer, "SELECT count(*) FROM faults", alive).results[0][0][0]


def test_a_cancelled_script_ends_on_the_server_and_raises(start, balancer, servers):
    running = start(f"{TABLE}; {INSERT}; SELECT 1")
    running.run.cancel("not wanted any more")
    assert running.sessions[0].wait_ended()  # seen to have ended, and not left to the server that loses its client
    error = running.failure(10)
    assert "cancelled: not wanted any more" in error.reason
    assert (error.number, error.total, error.outcome) == (2, 3, "unknown")
    eventually(lambda: not running.node.sleeping, 10)
    assert rows_in_table(balancer, servers) == 0
    assert balancer.status()["leases"] == []
    assert run(balancer, "SELECT 1", running.node).results == [[(1,)]]


def test_a_statement_cancelled_by_somebody_else_is_no_success(start, balancer, servers):
    """Spark answers CANCELED_STATE, which impyla's own loop takes for a statement that has ended well."""
    from impala import dbapi
    from impala._thrift_gen.TCLIService.ttypes import TCancelOperationReq

    running = start(f"{TABLE}; {INSERT}; SELECT 1")
    (session,) = running.sessions
    with dbapi.connect(host=running.node.host, port=running.node.port, timeout=10) as other:
        other.service.client.CancelOperation(TCancelOperationReq(operationHandle=session.operation.handle))
    error = running.failure(10)
    assert "CANCELED_STATE" in error.reason
    assert error.outcome == "unknown"
    assert rows_in_table(balancer, servers) == 0


def test_a_killed_server_is_left_for_another(balancer, servers, log):
    order = [run(balancer, "SELECT 1").node for _ in range(3)]
    servers.node(order[0]).kill()
    done = run(balancer, "SELECT 1")
    assert done.node == order[1]
    assert f"{order[0]} cannot take the script, nothing of it was run there: connection refused" in log.text
    assert [run(balancer, "SELECT 1").node for _ in range(4)] == [order[2], order[1], order[2], order[1]]  # it is out


def test_sticking_to_a_killed_server(balancer, servers):
    servers.nodes[0].kill()
    with pytest.raises(NoNodeAvailable, match="on_unavailable is 'fail'; nothing was run"):
        run(balancer, "SELECT 1", servers.nodes[0], on_unavailable="fail")


@pytest.mark.parametrize(
    ("second", "outcome"), [(INSERT, "unknown"), (f"SELECT {SLEEP}", "not started")], ids=["writes", "reads"]
)
def test_killed_in_the_middle_of_a_script(start, balancer, servers, second, outcome):
    running = start(f"{TABLE}; {second}; INSERT INTO faults VALUES (7)")
    running.node.kill()
    error = running.failure(10)
    assert (error.number, error.total, error.node, error.outcome) == (2, 3, running.node.address, outcome)
    assert "connection failed while it ran" in error.reason
    assert "statement 1 is done, 1 after it not sent" in str(error)
    assert balancer.status()["leases"] == []
    assert rows_in_table(balancer, servers) == 0
    assert run(balancer, "SELECT 1").node != running.node.address


def test_a_silent_server_is_left_within_the_time_limit(config, servers, log):
    balancer = Balancer.from_config({**config, "session": {**config["session"], "open_timeout": 1}})
    order = [run(balancer, "SELECT 1").node for _ in range(3)]
    silent = servers.node(order[0])
    silent.pause()
    try:
        assert run(balancer, "SELECT 1").node == order[1]
        assert f"{order[0]} cannot take the script, nothing of it was run there: accepted the connection" in log.text
    finally:
        silent.go_on()
    assert "stayed silent for 1 s" in log.text


def test_silent_in_the_middle_of_a_statement(start, balancer, servers):
    running = start(f"{TABLE}; {INSERT}; SELECT 1")
    running.node.pause()
    try:
        error = running.failure(60)  # reconnect_timeout, and what is left to do over a second connection
    finally:
        running.node.go_on()
    assert (error.number, error.outcome) == (2, "unknown")
    assert "the connection failed while it ran" in error.reason
    eventually(lambda: not running.node.sleeping, 30)  # it ends a session whose connection is gone
    assert rows_in_table(balancer, servers) == 0
