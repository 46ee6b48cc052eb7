"""Whole scripts on real coordinators (of the sandbox): one node, one session, and what happens when nodes are bad."""

import json
import logging
import os
import re
import signal
import socket
import subprocess
import sys
import threading
import time
import urllib.request

import pytest

from airflow_provider_impala_lb import Balancer
from airflow_provider_impala_lb.errors import ConfigError, NoNodeAvailable, ScriptError, StatementFailed
from airflow_provider_impala_lb.impala import run as run_module
from airflow_provider_impala_lb.impala.run import ScriptRun
from airflow_provider_impala_lb.impala.script import split
from airflow_provider_impala_lb.sandbox import Sandbox

from .conftest import changed, events_on, statements_on

LOG = logging.getLogger("test.run")


def run(balancer, script, **options):
    return ScriptRun(balancer, split(script), logger=LOG, **options).run()


def rows_of(cursor):
    return cursor.fetchall() if cursor.description is not None else None


@pytest.fixture(autouse=True)
def log(caplog):
    caplog.set_level(logging.INFO)
    return caplog


def test_a_script_is_one_session_on_one_node():
    script = """
        SET MEM_LIMIT=1g;
        CREATE DATABASE d;
        USE d;
        CREATE TABLE t (a INT, b STRING);
        INSERT INTO t VALUES (1, 'x;y');
        INSERT INTO t VALUES (2, 'z'), (3, NULL);
        INSERT INTO t SELECT a + 3, b FROM t;
        SELECT a, b FROM t ORDER BY a;
    """
    with Sandbox(nodes=3, lag=2) as cluster:
        balancer = Balancer.from_config(cluster.config)
        done = run(balancer, script, handler=rows_of)
        used = [node for node in cluster.nodes if node.journal()]
        assert [node.address for node in used] == [done.node]
        assert events_on(used[0]) == ["open", "close"]
        assert len(statements_on(used[0])) == 8
        assert len({entry["session"] for entry in used[0].journal()}) == 1
        assert balancer.status()["leases"] == []
    assert [statement.rows for statement in done.statements] == [None, None, None, None, 1, 2, 3, None]
    assert [statement.line for statement in done.statements] == list(range(2, 10))
    assert done.results[-1] == [(1, "x;y"), (2, "z"), (3, None), (4, "x;y"), (5, "z"), (6, None)]
    assert all(re.fullmatch(r"[0-9a-f]{16}:[0-9a-f]{8}00000000", entry.query_id) for entry in done.statements)


def test_each_statement_leads_with_its_label(cluster, balancer):
    tags = {"dag": "d*/; drop table x", "task": "t\n2", "run": "r" * 300}
    done = run(balancer, "SELECT 1; SELECT 2", tags=tags)
    node = next(node for node in cluster.nodes if node.address == done.node)
    first, second = statements_on(node)[-2:]
    label = re.match(r"/\* lb:[0-9a-f]{16} 1/2 dag=d/; drop table x task=t2 run=r+ \*/ SELECT 1$", first)
    assert label, first
    assert first.index("*/") + 2 <= 200
    assert first.split()[1] != second.split()[1]


def test_the_session_has_the_user_and_the_options(cluster):
    balancer = changed(cluster, session={"user": "etl", "query_options": {"mem_limit": "3g"}, "reconnect_timeout": 77})
    done = run(balancer, "SET ALL; SELECT effective_user()", query_options={"MT_DOP": 3}, handler=rows_of)
    options = {row[0].upper(): row[1] for row in done.results[0]}
    assert (options["MEM_LIMIT"], options["MT_DOP"], options["QUERY_TIMEOUT_S"]) == ("3g", "3", "77")
    assert done.results[1] == [("etl",)]


def test_a_failing_statement_says_which_where_and_what_is_done(cluster, balancer):
    script = "DROP TABLE IF EXISTS f1;\nCREATE TABLE f1 (a INT);\nINSERT INTO f1 VALUES (1), (2);\n\nSELEC 1;\nSELECT 2"
    with pytest.raises(StatementFailed) as caught:
        run(balancer, script)
    error = caught.value
    assert (error.number, error.total, error.line, error.outcome) == (4, 5, 5, "user error")
    assert error.node in str(error)
    assert "Statement 4 of 5 (line 5" in str(error)
    assert "statements 1 to 3 are done, 1 after it not sent" in str(error)
    assert re.search(r"done: 3 \(line 3, query [0-9a-f:]+, 2 rows\)", str(error))
    assert "ParseException" in str(error)
    assert "It was: SELEC 1\n" in str(error)
    assert balancer.status()["leases"] == []


def test_a_statement_that_fails_while_it_runs_has_its_query_id(cluster, balancer):
    script = "DROP TABLE IF EXISTS f2; CREATE TABLE f2 (a INT); INSERT INTO f2 SELECT cast(raise_error('boom') AS INT)"
    with pytest.raises(StatementFailed) as caught:
        run(balancer, script.replace("raise_error('boom')", "sleep(50) / 0"))
    assert caught.value.number == 3


@pytest.fixture
def four():
    """Clusters that are broken by the test; short timeouts."""
    with Sandbox(nodes=3, lag=0, flags={"fe_service_threads": 4}) as cluster:
        for node in cluster.nodes:  # a coordinator's first session is its slowest
            changed(cluster).open_session(node.address).close()
        yield cluster


def patient(cluster, **keys):
    return changed(cluster, policy="round_robin", session={"open_timeout": 2}, **keys)


def left_out(log):
    return [record.getMessage() for record in log.records if "cannot take the script" in record.getMessage()]


def test_nodes_that_are_down_or_silent_are_skipped(four, log):
    four.nodes[0].kill()
    four.nodes[1].pause()
    start = time.monotonic()
    done = run(patient(four), "SELECT 1")
    assert done.node == four.nodes[2].address
    assert time.monotonic() - start < 2 * 2
    down, silent = left_out(log)
    assert "connection refused: it is down" in down
    assert "stayed silent for 2 s: it is full, or stopped" in silent
    assert "left out" in done.why
    assert not [record for record in log.records if record.name.startswith(("impala.", "thrift."))]  # one line says it


def test_a_node_that_is_full_is_skipped(four, log):
    held = [socket.create_connection((four.nodes[0].host, four.nodes[0].port)) for _ in range(4)]
    try:
        time.sleep(0.2)
        done = run(patient(four), "SELECT 1")
    finally:
        for connection in held:
            connection.close()
    assert done.node == four.nodes[1].address
    assert "full, or stopped" in left_out(log)[0]


def test_a_node_that_shuts_down_is_skipped(four, log):
    four.nodes[0].drain()
    done = run(patient(four), "SELECT 1")
    assert done.node == four.nodes[1].address
    assert "Server is being shut down" in left_out(log)[0]


def test_a_node_that_is_not_impala_is_skipped(four, log):
    with socket.create_server(("127.0.0.1", 0)) as server:
        threading.Thread(target=lambda: server.accept()[0].close(), daemon=True).start()
        config = four.config
        nodes = [{"host": "127.0.0.1", "port": server.getsockname()[1]}, *config["nodes"]]
        done = run(patient(four, nodes=nodes), "SELECT 1")
    assert done.node == four.nodes[0].address
    assert "closed the connection before a session was open" in left_out(log)[0]


def test_a_node_that_refuses_the_first_statement_is_left_and_nothing_is_run_twice(four):
    """Draining begins between the session and its first real statement; SET and USE before it do not count."""
    balancer = patient(four)
    opened = []

    def drain_the_first(pick, session):
        opened.append(pick.node)
        if len(opened) == 1:
            next(node for node in four.nodes if node.address == pick.node).drain()

    done = run(balancer, "SET MEM_LIMIT=1g; CREATE TABLE once (a INT)", on_session=drain_the_first)
    assert opened == [four.nodes[0].address, four.nodes[1].address]
    assert done.node == opened[1]
    assert sum("CREATE" in sql for node in four.nodes for sql in statements_on(node)) == 1


def test_a_node_that_refuses_a_later_statement_fails_the_script(four):
    four_nodes = {node.address: node for node in four.nodes}
    balancer = patient(four)
    picked = []

    def drain(done):
        if done.number == 2:
            four_nodes[picked[0].node].drain()

    with pytest.raises(StatementFailed) as caught:
        run(
            balancer,
            "CREATE TABLE later (a INT); INSERT INTO later VALUES (1); INSERT INTO later VALUES (2)",
            on_session=lambda pick, _: picked.append(pick),
            on_statement=drain,
        )
    assert (caught.value.number, caught.value.outcome) == (3, "not started")
    assert len(picked) == 1


def test_when_all_are_bad_the_error_says_why_for_each(four):
    four.nodes[0].kill()
    four.nodes[1].drain()
    four.nodes[2].pause()
    with pytest.raises(NoNodeAvailable) as caught:
        run(patient(four), "SELECT 1")
    assert "nothing was run" in str(caught.value)
    reasons = list(caught.value.reasons.values())
    assert [word in reason for word, reason in zip(("refused", "shut down", "silent"), reasons, strict=True)] == [
        True
    ] * 3


def test_stick_move_waits_since_the_upstreams_end_and_says_so(four, log, monkeypatch):
    monkeypatch.setattr(run_module, "MOVE_SECONDS", 2.0)
    four.nodes[1].kill()
    start = time.monotonic()
    done = run(patient(four), "SELECT 1", prefer=four.nodes[1].address, upstream_end=time.time() - 1)
    assert done.node != four.nodes[1].address
    assert 0.9 < time.monotonic() - start < 1.9
    assert any("Moving away from" in record.getMessage() for record in log.records)


def test_stick_move_does_not_wait_for_an_upstream_that_ended_long_ago(four):
    four.nodes[1].kill()
    start = time.monotonic()
    run(patient(four), "SELECT 1", prefer=four.nodes[1].address, upstream_end=time.time() - 60)
    assert time.monotonic() - start < 1


def test_stick_fail(four):
    four.nodes[1].kill()
    with pytest.raises(NoNodeAvailable, match="on_unavailable is 'fail'") as caught:
        run(patient(four), "SELECT 1", prefer=four.nodes[1].address, on_unavailable="fail")
    assert list(caught.value.reasons) == [four.nodes[1].address]


def test_stick_wait(four):
    node = four.nodes[1]
    node.kill()
    timer = threading.Timer(1.0, node.start)
    timer.start()
    done = run(patient(four), "SELECT 1", prefer=node.address, on_unavailable="wait")
    timer.join()
    assert done.node == node.address


def test_stick_wait_has_a_limit(four):
    four.nodes[1].kill()
    balancer = changed(four, session={"reconnect_timeout": 0.5})
    with pytest.raises(NoNodeAvailable, match=r"did not take the script within 0\.5 s"):
        run(balancer, "SELECT 1", prefer=four.nodes[1].address, on_unavailable="wait")


def wait_for(condition, seconds=5.0):
    end = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < end, "not in time"
        time.sleep(0.02)


def in_flight(node):
    with urllib.request.urlopen(f"{node.web}/queries?json", timeout=5) as page:
        return json.load(page)["in_flight_queries"]


def start_sleeper(balancer, cluster, script="SELECT sleep(60000)"):
    """A script in a thread, and what became of it; returns once its query runs."""
    script_run = ScriptRun(balancer, split(script), logger=LOG)
    outcome = []

    def work():
        try:
            outcome.append(script_run.run())
        except BaseException as error:
            outcome.append(error)

    thread = threading.Thread(target=work)
    thread.start()
    wait_for(lambda: any(in_flight(node) for node in cluster.nodes))
    node = next(node for node in cluster.nodes if in_flight(node))
    return script_run, thread, outcome, node


def test_cancel_ends_the_query_on_the_coordinator_and_the_run_raises(cluster, balancer):
    script_run, thread, outcome, node = start_sleeper(balancer, cluster)
    start = time.monotonic()
    script_run.cancel("the task was killed")
    assert time.monotonic() - start < 5
    thread.join(5)
    assert isinstance(outcome[0], StatementFailed)
    assert "cancelled: the task was killed" in str(outcome[0])
    wait_for(lambda: not in_flight(node))
    assert node.journal()[-1].get("state", node.journal()[-2].get("state")) != "FINISHED"
    assert balancer.status()["leases"] == []


def test_a_query_that_an_admin_cancels_is_never_a_success(cluster, balancer):
    _, thread, outcome, node = start_sleeper(balancer, cluster)
    query_id = in_flight(node)[0]["query_id"]
    urllib.request.urlopen(f"{node.web}/cancel_query?query_id={query_id}", timeout=5).close()
    thread.join(5)
    assert isinstance(outcome[0], StatementFailed)
    assert "ancelled" in outcome[0].reason


class Timeout(BaseException):
    """What a signal handler raises, as Airflow's does for a task's time limit."""


@pytest.fixture
def alarm():
    def on_alarm(*_):
        raise Timeout

    before = signal.signal(signal.SIGALRM, on_alarm)
    yield lambda seconds: signal.setitimer(signal.ITIMER_REAL, seconds)
    signal.setitimer(signal.ITIMER_REAL, 0)
    signal.signal(signal.SIGALRM, before)


def test_an_exception_between_two_polls_cancels_the_query(cluster, balancer, alarm):
    alarm(0.5)
    with pytest.raises(Timeout):
        run(balancer, "SELECT sleep(60000)")
    wait_for(lambda: not any(in_flight(node) for node in cluster.nodes))
    assert balancer.status()["leases"] == []


def test_an_exception_in_the_middle_of_an_answer_cancels_the_query(four, alarm):
    """The first connection is then out of step with the server: the query has to be ended over a second one."""
    node = four.nodes[0]
    balancer = patient(four)
    stop, go_on = threading.Timer(0.7, node.pause), threading.Timer(2.0, node.resume)
    stop.start()
    go_on.start()
    alarm(1.4)
    with pytest.raises(Timeout):
        run(balancer, "SELECT sleep(60000)", prefer=node.address)
    stop.join()
    go_on.join()
    wait_for(lambda: not in_flight(node))
    assert balancer.status()["leases"] == []


def test_the_coordinator_ends_the_query_of_a_client_that_was_killed(cluster, tmp_path):
    """kill -9: QUERY_TIMEOUT_S ends the query, the next pick on the host reaps the lease."""
    config = {**cluster.config, "session": {**cluster.config["session"], "reconnect_timeout": 2}}
    code = (
        "import sys, json; from airflow_provider_impala_lb import Balancer\n"
        "from airflow_provider_impala_lb.impala.run import ScriptRun\n"
        "from airflow_provider_impala_lb.impala.script import split\n"
        "ScriptRun(Balancer.from_config(json.loads(sys.argv[1])), split('SELECT sleep(60000)'), owner='victim').run()"
    )
    client = subprocess.Popen([sys.executable, "-c", code, json.dumps(config)])
    try:
        wait_for(lambda: any(in_flight(node) for node in cluster.nodes), 10)
    finally:
        client.send_signal(signal.SIGKILL)
        client.wait()
    balancer = Balancer.from_config(config)
    assert [lease["owner"] for lease in balancer.status()["leases"]] == ["victim"]
    lease = balancer.status()["leases"][0]
    assert re.fullmatch(r"[0-9a-f]{16}:[0-9a-f]{16}", lease["session"])
    balancer.get_host()
    assert balancer.status()["leases"] == []
    wait_for(lambda: not any(in_flight(node) for node in cluster.nodes), 10)


def test_parameters_are_bound_before_anything_runs(cluster, balancer):
    before = [len(node.journal()) for node in cluster.nodes]
    with pytest.raises(ScriptError, match=r"line 2.*no parameter 'missing'"):
        run(balancer, "SELECT %(a)s;\nSELECT %(missing)s", parameters={"a": 1})
    assert [len(node.journal()) for node in cluster.nodes] == before
    done = run(balancer, "SELECT %(a)s", parameters={"a": "it's; 1"}, handler=rows_of)
    assert done.results == [[("it's; 1",)]]


def test_sync_ddl_that_was_executed_but_not_broadcast_counts_as_done():
    from airflow_provider_impala_lb.impala.outcome import outcome_of

    text = (
        "ImpalaRuntimeException: Couldn't retrieve the catalog topic update for the SYNC_DDL operation after 5 "
        "attempts.The operation has been successfully executed but its effects may have not been broadcast to all the "
        "coordinators."
    )
    assert outcome_of(text, "INSERT INTO t SELECT 1", accepted=True) == "done"


@pytest.mark.parametrize(
    ("text", "sql", "refused", "accepted"),
    [  # the outcome in place of a query id, and after one was given
        ("Query 1:2 failed:\nServer is being shut down: shutdown grace", "INSERT", "not started", "unknown"),
        ("Invalid session id: a:b", "INSERT INTO t SELECT 1", "not started", "unknown"),
        ("Session is closed", "DROP TABLE t", "not started", "unknown"),
        ("Invalid or unknown query handle: a:b.", "INSERT INTO t SELECT 1", "unknown", "unknown"),
        ("AnalysisException: Could not resolve table reference: 'd.t'", "INSERT", "not started", "unknown"),
        ("AnalysisException: Column 'x' is ambiguous", "SELECT x FROM t", "user error", "not started"),
        ("ParseException: Syntax error in line 1", "SELEC", "user error", "unknown"),
        ("Rejected query from pool P: queue full", "INSERT INTO t SELECT 1", "not started", "not started"),
        ("Memory limit exceeded", "INSERT INTO t SELECT 1", "unknown", "unknown"),
        ("Memory limit exceeded", "/* c */ (SELECT 1)", "not started", "not started"),
        ("Memory limit exceeded", "WITH a AS (SELECT 1) INSERT INTO t SELECT * FROM a", "unknown", "unknown"),
        ("Memory limit exceeded", "WITH a AS (SELECT 1) SELECT * FROM a", "not started", "not started"),
        ("TSocket read 0 bytes", "DROP TABLE t", "unknown", "unknown"),
        ("whatever", "REFRESH t", "not started", "not started"),
        ("the connection had failed before, so it was not sent", "DROP TABLE t", "not started", "unknown"),
    ],
)
def test_outcomes(text, sql, refused, accepted):
    from airflow_provider_impala_lb.impala.outcome import outcome_of

    assert outcome_of(text, sql, accepted=False) == refused
    assert outcome_of(text, sql, accepted=True) == accepted


def test_a_session_that_is_closed_under_a_running_insert_leaves_its_outcome_unknown(cluster, balancer):
    """The polls are then answered with "Invalid session id" or the like, which would be harmless before the start."""
    run(balancer, "DROP TABLE IF EXISTS target; SET SYNC_DDL=1; CREATE TABLE target (a BOOLEAN)")
    _, thread, outcome, node = start_sleeper(balancer, cluster, "INSERT INTO target SELECT sleep(60000)")
    with urllib.request.urlopen(f"{node.web}/sessions?json", timeout=5) as page:
        session = json.load(page)["sessions"][0]["session_id"]
    urllib.request.urlopen(f"{node.web}/close_session?session_id={session}", timeout=5).close()
    thread.join(10)
    assert isinstance(outcome[0], StatementFailed)
    assert outcome[0].outcome == "unknown", outcome[0]
    assert outcome[0].query_id


@pytest.fixture(scope="module")
def guarded():
    with Sandbox(nodes=2, lag=0, users={"etl": "s3cret"}) as cluster:
        yield cluster


def test_a_login_by_password(guarded):
    config = {**guarded.config, "session": {**guarded.config["session"], "user": "etl"}}
    done = run(Balancer.from_config(config, password="s3cret"), "SELECT effective_user()", handler=rows_of)
    assert done.results == [[("etl",)]]


def test_a_wrong_password_is_one_clear_error_without_it(guarded, log):
    config = {**guarded.config, "session": {**guarded.config["session"], "user": "etl", "auth_mechanism": "LDAP"}}
    with pytest.raises(ConfigError) as caught:
        run(Balancer.from_config(config, password="wr0ng"), "SELECT 1")
    assert re.search(r"127\.0\.0\.1:\d+: the login was refused \(user 'etl', auth_mechanism LDAP\)", str(caught.value))
    assert "wr0ng" not in str(caught.value)
    assert "wr0ng" not in log.text


def test_a_wrong_auth_mechanism_is_named(guarded, cluster):
    with pytest.raises(NoNodeAvailable, match="auth_mechanism NOSASL"):
        run(changed(guarded, session={"auth_mechanism": "NOSASL"}), "SELECT 1")
    with pytest.raises(NoNodeAvailable, match="auth_mechanism PLAIN; does it speak another"):
        run(changed(cluster, session={"auth_mechanism": "PLAIN", "user": "x", "open_timeout": 2}), "SELECT 1")


def test_no_threads_or_sockets_stay(balancer):
    run(balancer, "SELECT 1")
    before = len(os.listdir("/proc/self/fd"))
    for _ in range(5):
        run(balancer, "SELECT 1")
    assert len(os.listdir("/proc/self/fd")) == before


def test_a_slow_statement_says_how_far_it_is(balancer, log, monkeypatch):
    from airflow_provider_impala_lb.impala import session as session_module

    monkeypatch.setattr(session_module, "SLOW_SECONDS", 0.1)
    done = run(balancer, "SELECT sleep(700)")
    said = [record.getMessage() for record in log.records if "has run on" in record.getMessage()]
    assert said
    assert re.search(
        rf"Query {done.statements[0].query_id} has run on {done.node} for 0 s: Query {done.statements[0].query_id}: "
        rf"\d+% Complete \(\d+ out of \d+\), http://127.0.0.1:\d+/query_plan\?query_id=",
        said[0],
    )
    ended = [record.getMessage() for record in log.records if record.getMessage().startswith("[1/1]")]
    assert len(ended) == 1
    assert re.fullmatch(rf"\[1/1\] line 1 on {done.node}: query [0-9a-f:]+, 0\.\d\d s: SELECT sleep\(700\)", ended[0])


@pytest.mark.parametrize(("waited", "pause"), [(0, 0.002), (0.05, 0.002), (0.64, 0.02), (6.4, 0.2), (3600, 1.0)])
def test_the_pause_between_polls_grows_with_the_time_waited(waited, pause):
    from airflow_provider_impala_lb.impala.session import next_poll

    assert next_poll(waited) == pytest.approx(pause, rel=0.01)


def test_ids_are_printed_as_impala_prints_them():
    from airflow_provider_impala_lb.impala.session import print_id

    guid = bytes.fromhex("0123456789abcdef") + b"76543210"  # impala tests/hs2/test_hs2.py
    assert print_id(guid) == "efcdab8967452301:3031323334353637"


def test_warnings_are_shown_with_rows_fetched_or_not(balancer, log):
    script = "SELECT /* +FASTER */ 1; SELECT -- +STRAIGHT_JOIN\n2; INSERT INTO warned /* +noshuffle,LUCKY */ SELECT 3"
    run(balancer, "DROP TABLE IF EXISTS warned; SET SYNC_DDL=1; CREATE TABLE warned (a INT)")
    for handler in (None, rows_of):
        log.clear()
        run(balancer, script, handler=handler)
        warnings = [record.getMessage() for record in log.records if record.levelno == logging.WARNING]
        assert warnings == ["[1/3] PLAN hint not recognized: FASTER", "[3/3] INSERT hint not recognized: LUCKY"]


def test_after_an_answer_was_lost_nothing_is_sent_on_that_connection(four):
    """The next answer read on it would be the one that was lost (thrift's sequence ids are never checked)."""
    from airflow_provider_impala_lb.impala.session import StatementError

    node = four.nodes[0]
    with changed(four, session={"rpc_timeout": 0.5}).open_session(node.address) as session:
        session.execute("SELECT 1")
        node.pause()
        threading.Timer(1.5, node.resume).start()
        with pytest.raises(StatementError, match="so it was not sent"):
            session.execute("DROP TABLE IF EXISTS never_sent")
    assert statements_on(node)[-1].endswith("SELECT 1")
    assert events_on(node)[-1] == "close"  # over a second connection


def test_a_short_reconnect_timeout_is_not_none_at_all(cluster):
    done = run(changed(cluster, session={"reconnect_timeout": 0.4}), "SET ALL", handler=rows_of)
    assert {row[0].upper(): row[1] for row in done.results[0]}["QUERY_TIMEOUT_S"] == "1"


def test_an_exception_while_a_session_is_opened_leaves_no_connection(four, alarm):
    four.nodes[0].pause()
    before = len(os.listdir("/proc/self/fd"))
    alarm(0.4)
    with pytest.raises(Timeout):
        run(patient(four), "SELECT 1", prefer=four.nodes[0].address)
    assert len(os.listdir("/proc/self/fd")) == before
    assert patient(four).status()["leases"] == []


def test_a_node_that_failed_is_left_out_by_the_next_scripts_without_a_try(four, log):
    four.nodes[0].kill()
    balancer = patient(four)
    run(balancer, "SELECT 1")
    assert len(left_out(log)) == 1
    log.clear()
    hosts = {run(patient(four), "SELECT 1").node for _ in range(4)}  # as other workers
    assert hosts == {four.nodes[1].address, four.nodes[2].address}
    assert left_out(log) == []
    states = {node["node"]: node["state"] for node in balancer.status()["nodes"]}
    assert states[four.nodes[0].address] == "ejected"


def test_a_node_that_is_back_is_tried_by_one_script_and_then_used_by_all(four):
    from airflow_provider_impala_lb.core.state import State

    four.nodes[0].kill()
    balancer = patient(four)
    run(balancer, "SELECT 1")
    four.nodes[0].start()

    def cool_down_is_over(state: State, now: float) -> None:
        state.nodes[four.nodes[0].address].out.until = now

    balancer.store.transact(cool_down_is_over)
    done = [run(balancer, "SELECT 1") for _ in range(6)]
    tried = [entry for entry in done if "(on trial)" in entry.why]
    assert [entry.node for entry in tried] == [four.nodes[0].address]
    assert sum(entry.node == four.nodes[0].address for entry in done) == 2
    assert {node["state"] for node in balancer.status()["nodes"]} == {"ready"}


def test_a_silent_node_is_busy_and_one_that_shuts_down_is_draining(four):
    four.nodes[0].pause()
    four.nodes[1].drain()
    balancer = patient(four)
    run(balancer, "SELECT 1")
    assert [node["state"] for node in balancer.status()["nodes"]] == ["busy", "drain", "ready"]
    four.nodes[0].resume()


def test_a_host_to_stick_to_that_is_drained_is_not_used(four, log, monkeypatch):
    monkeypatch.setattr(run_module, "MOVE_SECONDS", 0.0)
    balancer = patient(four)
    balancer.drain(four.nodes[1].address)
    done = run(balancer, "SELECT 1", prefer=four.nodes[1].address)
    assert done.node != four.nodes[1].address
    assert "drained by an operator" in left_out(log)[0]
    with pytest.raises(NoNodeAvailable, match="drained by an operator"):
        run(balancer, "SELECT 1", prefer=four.nodes[1].address, on_unavailable="fail")
    assert balancer.status()["leases"] == []


def test_a_script_that_failed_is_tried_elsewhere_next_time(four):
    balancer = patient(four)
    with pytest.raises(StatementFailed) as caught:
        run(balancer, "SELECT * FROM not_there_yet", owner="dag/run/task")
    hosts = {run(balancer, "SELECT 1", owner="dag/run/task").node for _ in range(4)}
    assert caught.value.node not in hosts
    assert caught.value.node in {run(balancer, "SELECT 1", owner="dag/run/other").node for _ in range(4)}
