"""``impala-lb doctor --protocol``, on practice clusters that are as they should be, and on ones that are not."""

from __future__ import annotations

import contextlib
import json
import os
import re
import signal
import subprocess
import threading
import time
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from itertools import cycle
from urllib.request import urlopen

import pytest

from airflow_provider_impala_lb.balancer import Balancer
from airflow_provider_impala_lb.doctor.protocol import limits, node, proofs, run
from airflow_provider_impala_lb.doctor.protocol.errors import try_errors
from airflow_provider_impala_lb.doctor.protocol.limits import try_limits, try_planning
from airflow_provider_impala_lb.doctor.protocol.node import PREFIX, TrialNode
from airflow_provider_impala_lb.doctor.protocol.pages import try_pages
from airflow_provider_impala_lb.doctor.protocol.sessions import try_kills, try_sessions
from airflow_provider_impala_lb.doctor.protocol.statements import try_lost, try_tables
from airflow_provider_impala_lb.sandbox import Sandbox
from tests.support.command_line import COMMAND, lb
from tests.support.sandbox import page
from tests.support.servers import eventually

pytestmark = pytest.mark.slow  # but for what test_protocol_command.py has
NOT_TRIED = "not tried: "
NOT_PROVED = "not proved: "
PROVED = "proved: "


@contextlib.contextmanager
def scratch_cluster(nodes=1, **options):
    """A practice cluster with a database ``scratch``, and in it a table ``others``."""
    with Sandbox(nodes=nodes, lag=0, **options) as cluster:
        run_sql(cluster, "CREATE DATABASE scratch", "CREATE TABLE scratch.others (n INT)")
        yield cluster


def run_sql(cluster, *statements):
    """The rows of the last one."""
    with Balancer.from_config(str(cluster.config_file)).sessions.open(cluster.nodes[0].address) as session:
        for sql in statements:
            session.execute(sql)
        return session.cursor.fetchall() if session.has_rows else []


@pytest.fixture(scope="module")
def cluster():
    with scratch_cluster(nodes=2) as cluster:
        yield cluster


@pytest.fixture(autouse=True)
def nothing_is_left(request):
    """No session of ours, and no table, whatever the test was about."""
    yield
    if "cluster" in request.fixturenames:
        assert_clean(request.getfixturevalue("cluster"))


def assert_clean(cluster):
    for each in cluster.nodes:
        eventually(lambda each=each: page(each, "/sessions")["num_sessions"] == 0)
    assert run_sql(cluster, "SHOW TABLES IN scratch") == [("others",)]


def node_of(cluster, config):
    """The first node of the cluster, under trial."""
    sessions = node.in_short_time(Balancer.from_config(config).sessions)
    return TrialNode(sessions, cluster.nodes[0].address, "scratch", "12345678")


@contextlib.contextmanager
def tried(cluster, *trials, config=None, pages=True):
    """A node on which these are tried: what they find, by name, and what was proved."""
    on = node_of(cluster, config or cluster.config)
    version = page(cluster.nodes[0], "/")["version"].split()[2].split(".") if pages else (5, 0)
    on.proofs.version = (int(version[0]), int(version[1]))
    try:
        yield {each.name.split(" on ")[0]: each for trial in trials for each in on.trial("it", trial)}, on.proofs
    finally:
        assert on.drop_tables() == {}


# The whole


def test_a_cluster_on_which_all_can_be_proved(cluster):
    done = lb("doctor", "--protocol", "scratch", "--json", config=cluster.config_file)
    found = json.loads(done.stdout)
    assert done.returncode == 0, done.stdout + done.stderr
    assert {each["verdict"] for each in found} == {"ok"}, done.stdout
    names = [each["name"] for each in found]
    for each in cluster.nodes:
        assert len([name for name in names if name.endswith(each.address)]) == 19
    assert names[-1] == "a killed worker's statement" and names.count(names[-1]) == 1
    assert "On this cluster (all 2 coordinators that could be tried): its fate is known" in found[-1]["message"]
    assert cluster.password not in done.stdout + done.stderr


def test_it_touches_its_own_tables_only(cluster):
    earlier = f"scratch.{PREFIX}00000000_0"
    run_sql(cluster, f"CREATE TABLE {earlier} (n INT)")
    seen = len(cluster.nodes[0].journal())
    try:
        found = list(run.check_protocol(lambda: Balancer.from_config(cluster.config), "scratch"))
        left = next(each for each in found if each.name == f"database on {cluster.nodes[0].address}")
        assert (left.verdict, earlier.partition(".")[2] in left.message) == ("warning", True)
        changes = [entry["sql"] for entry in cluster.nodes[0].journal()[seen:] if "sql" in entry]
        changes = [sql for sql in changes if any(word in sql for word in ("CREATE", "INSERT", "INSRT", "DROP"))]
        assert len(changes) > 8
        assert all(f"`scratch`.`{PREFIX}" in sql and "00000000_0" not in sql for sql in changes), changes
    finally:
        assert run_sql(cluster, f"DROP TABLE {earlier}") == [("Table has been dropped.",)]


@pytest.mark.parametrize("version", ["3.4", "4.1", "4.4"])
def test_older_versions(version):
    with scratch_cluster(version=version) as cluster:
        found = list(run.check_protocol(lambda: Balancer.from_config(cluster.config), "scratch"))
        assert_clean(cluster)
    assert not [each for each in found if each.verdict == "failed"]
    warned = {each.name.split(" on ")[0]: each.message for each in found if each.verdict == "warning"}
    kills = next(each for each in found if each.name.startswith("KILL QUERY"))
    assert kills.message == "not tried: Impala has it since 4.5"
    if version == "3.4":
        assert set(warned) == {"asynchronous DDL", "INSERT that never arrived", "a killed worker's statement"}
        assert "does not show all that runs" in warned["a killed worker's statement"]
        assert "is a question to the author" in warned["a killed worker's statement"]
    else:
        assert warned == {}, warned


def test_coordinators_that_differ_are_told_apart():
    same = {"reached": True, "version": (4, 4), "pages": True, "keeps_log": True, "closes_by_secret": True}
    good = {"running": proofs.Lookup("go on"), "never_sent": proofs.Lookup("send")}
    short = {"running": proofs.Lookup("go on"), "never_sent": proofs.Lookup("ended", "it keeps 1 statement")}
    many = [
        proofs.Proofs("a:1", **same, **good),
        proofs.Proofs("b:1", **same, **short),
        proofs.Proofs("c:1", **same, **good),
        proofs.Proofs("down:1"),
    ]
    first, second = proofs.conclude(many)
    assert first.verdict == "ok" and "(a:1, c:1): its fate is known" in first.message
    assert second.verdict == "warning" and "(b:1): " in second.message
    assert "is seen to be over, but not whether it ran, and is a question to the author" in second.message
    assert "because it keeps 1 statement" in second.message
    [nothing] = proofs.conclude(many[-1:])
    assert nothing.verdict == "failed"


# What is wrong with the database, or the node


def test_a_database_that_is_not_there(cluster):
    done = lb("doctor", "--protocol", "no_such", config=cluster.config_file)
    assert done.returncode == 1
    for each in cluster.nodes:
        assert (
            f"failed   database on {each.address}: AnalysisException: Database does not exist: no_such" in done.stdout
        )
    assert "-> CREATE DATABASE no_such, in which sandbox may create, fill and drop tables" in done.stdout
    assert "no coordinator could be tried" in done.stdout
    assert len(done.stdout.splitlines()) == 6


@pytest.mark.parametrize("name", ["", "a`b", "a.b", "x; DROP DATABASE scratch", "ä"])
def test_a_name_that_is_none_is_not_sent(cluster, name):
    seen = [len(each.journal()) for each in cluster.nodes]
    done = lb("doctor", "--protocol", name, config=cluster.config_file)
    assert done.returncode == 1 and "not the name of a database" in done.stdout
    assert [len(each.journal()) for each in cluster.nodes] == seen


def test_no_right_to_create_tables(cluster):
    text = "AuthorizationException: User 'sandbox' does not have privileges to execute 'CREATE' on: scratch"
    with cluster.nodes[0].fail("planning", text, sql="CREATE TABLE"), tried(cluster, try_tables) as (found, _):
        assert found["it"].message == f"{NOT_PROVED}{text}"


def test_a_node_that_is_down_does_not_keep_the_others_from_being_tried():
    with scratch_cluster(nodes=2) as cluster:
        down = cluster.nodes[1]
        down.kill()
        found = list(run.check_protocol(lambda: Balancer.from_config(cluster.config), "scratch"))
    failed = [each for each in found if each.verdict == "failed"]
    assert [each.name for each in failed] == [f"node {down.address}"]
    assert "connection refused" in failed[0].message
    assert "(all 1 coordinators that could be tried): its fate is known" in found[-1].message


# Pages


def test_a_page_of_another_coordinator(cluster):
    first, second = cluster.nodes
    with first.queries_page_of(second), tried(cluster, try_pages, try_lost, try_kills) as (found, proved):
        assert found["web pages"].verdict == "failed"
        assert "0 of 5 copies of /queries show what was run just now" in found["web pages"].message
        assert not proved.pages and "label" not in found
        assert found["a lost statement"].message.startswith(NOT_TRIED)
        assert found["/cancel_query"].message.startswith(NOT_TRIED)
    assert proofs.meaning_of(proved)[0] is False


def test_a_page_that_is_old(cluster):
    with cluster.nodes[0].stale_queries_page(), tried(cluster, try_pages) as (found, proved):
        assert (found["web pages"].verdict, proved.pages) == ("failed", False)


@contextlib.contextmanager
def proxy_before(cluster):
    """The pages of all coordinators in turn at one address."""
    urls = cycle([each.web for each in cluster.nodes])

    class Request(BaseHTTPRequestHandler):
        def do_GET(self):
            with urlopen(next(urls) + self.path, timeout=10) as answer:
                body = answer.read()
            self.send_response(200)
            self.send_header("Content-Length", str(len(body)))
            self.end_headers()
            self.wfile.write(body)

        def log_message(self, *_):
            pass

    with ThreadingHTTPServer(("127.0.0.1", 0), Request) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        yield f"http://127.0.0.1:{server.server_port}"
        server.shutdown()


def test_pages_behind_a_load_balancer(cluster):
    config = cluster.config
    with proxy_before(cluster) as url:
        config["nodes"][0]["web"] = url
        with tried(cluster, try_pages, config=config) as (found, proved):
            assert found["web pages"].verdict == "failed" and not proved.pages
            assert any(f"{count} of 5 copies" in found["web pages"].message for count in (2, 3))


def test_pages_that_fail(cluster):
    with cluster.nodes[0].fail("queries_page"), tried(cluster, try_pages, try_sessions) as (found, proved):
        assert found["web pages"].verdict == "warning" and "answered 500 for /queries" in found["web pages"].message
        assert found["/close_session"].message.startswith(NOT_TRIED)
        assert proved.closes_by_secret and not proved.closes_by_page


def test_pages_behind_a_login(monkeypatch):
    with scratch_cluster(web_auth="digest", web_users={"ann": "s3cret"}) as cluster:
        config = {**cluster.config, "load": {"web_auth": "digest", "web_user": "ann"}}
        monkeypatch.setenv("IMPALA_LB_WEB_PASSWORD", "wr0ng")
        with tried(cluster, try_pages, try_lost, config=config, pages=False) as (found, proved):
            assert "refused the login by digest as ann (401)" in found["web pages"].message
            is_known, text = proofs.meaning_of(proved)
            assert not is_known and "its web pages prove nothing: refused the login by digest" in text
        monkeypatch.setenv("IMPALA_LB_WEB_PASSWORD", "s3cret")
        with tried(cluster, try_pages, try_sessions, config=config, pages=False) as (found, proved):
            assert found["web pages"].message.startswith(PROVED)
            assert proved.pages and proved.closes_by_page
        assert "s3cret" not in str(found)


def test_a_coordinator_that_keeps_no_log():
    with scratch_cluster(flags={"query_log_size": 0}) as cluster:
        with tried(cluster, try_pages, try_lost) as (found, proved):
            assert "shows no ended statement (it keeps 0)" in found["witness"].message
            assert "--query_log_size" in found["witness"].remedy
            assert found["INSERT that never arrived"].message.startswith(NOT_PROVED)
        is_known, text = proofs.meaning_of(proved)
        assert not is_known and "is a question to the author, because the page shows no statement that" in text


def test_pages_that_the_coordinator_names_itself(cluster):
    config = cluster.config
    for each in config["nodes"]:
        del each["web"]
    with tried(cluster, try_pages, try_lost, config=config) as (found, proved):
        assert found["web pages"].message.startswith(f"{PROVED}{cluster.nodes[0].web} is its own")
        assert proved.running.action == "go on" and proved.never_sent.action == "send"


def test_a_log_that_reaches_back_for_seconds_only():
    with scratch_cluster(flags={"query_log_size": 3}) as cluster, tried(cluster, try_pages) as (found, proved):
        assert found["witness"].message.startswith(f"{NOT_PROVED}the 3 statements that it keeps reach back 0 s only")
        assert proved.keeps_log


def test_a_label_that_is_redacted(cluster, monkeypatch):
    """As a rule of the site for what may be a number of somebody's would."""
    shown = run.try_pages.__globals__["DebugPages"].queries

    def redacted(self, *arguments):
        copy = shown(self, *arguments)
        for query in copy.queries:
            query.text = query.text.replace("lb:", "***")
        return copy

    monkeypatch.setattr(run.try_pages.__globals__["DebugPages"], "queries", redacted)
    with tried(cluster, try_pages) as (found, proved):
        assert "is it redacted?" in found["label"].message and not proved.pages


# Errors


def test_a_text_that_the_table_does_not_know_is_shown(cluster):
    on = node_of(cluster, cluster.config)
    with cluster.nodes[0].fail("planning", "Kein solches Ding", sql="_no`"):
        texts = [each.message for each in on.trial("it", try_errors)]
    assert texts[0] == "not proved: table not found: not known: 'Kein solches Ding'"
    assert texts[1] == "not proved: DROP of what is not there: not known: 'Kein solches Ding'"
    assert texts[2].startswith("proved: 8 of 10 are read as they are meant: syntax error, ")
    assert on.drop_tables() == {}


def test_an_error_that_does_not_come_is_told(cluster, monkeypatch):
    monkeypatch.setattr(TrialNode, "error_of", lambda *arguments, **options: None)
    on = node_of(cluster, cluster.config)
    texts = [each.message for each in on.trial("it", try_errors)]
    assert texts[0] == "not proved: syntax error: no error came"
    assert on.drop_tables() == {}


# Sessions, kills, limits


def test_a_session_that_ends_with_its_connection():
    with (
        scratch_cluster(flags={"disconnected_session_timeout": 0}) as cluster,
        tried(cluster, try_sessions) as (found, proved),
    ):
        assert found["session without a connection"].message.startswith(f"{NOT_PROVED}it was gone after 2 s")
        assert proved.closes_by_secret


def test_no_right_to_kill(cluster):
    text = "User 'sandbox' is not authorized to kill the query."
    with cluster.nodes[0].fail("planning", text, sql="KILL"), tried(cluster, try_kills) as (found, proved):
        assert found["KILL QUERY"].message == f"{NOT_PROVED}{text}"
        assert not proved.kills


def test_limits_that_do_nothing(cluster, monkeypatch):
    monkeypatch.setattr(limits, "_IDLE_SECONDS", 0.5)
    submit = limits.Session.submit
    monkeypatch.setattr(limits.Session, "submit", lambda self, sql, *, options=None: submit(self, sql))
    with tried(cluster, try_limits) as (found, _):
        assert found["EXEC_TIME_LIMIT_S"].message == f"{NOT_PROVED}a query of 6 s with a limit of 1 s was not ended"
        assert found["QUERY_TIMEOUT_S"].message.startswith(NOT_PROVED)
        assert found["QUERY_TIMEOUT_S"].message.endswith("was still there 0.5 s later")


def test_closing_while_planning(cluster):
    delay = cluster.nodes[0].delay("planning", 1.5, sql="UNION ALL")
    with delay, tried(cluster, try_pages, try_planning) as (found, _):
        seen = re.match(
            "proved: it is on the page until its end, ([0-9.]+) s after", found["closing while planning"].message
        )
        assert seen and float(seen[1]) > 1.0


def test_a_page_that_does_not_show_what_is_planned(cluster, monkeypatch):
    shown, found_before = limits._found, []

    def forgetful(pages, nonce):
        found = None if found_before else shown(pages, nonce)
        found_before.extend([found] if found else [])
        return found

    monkeypatch.setattr(limits, "_found", forgetful)
    delay = cluster.nodes[0].delay("planning", 1.5, sql="UNION ALL")
    with delay, tried(cluster, try_pages, try_planning, try_lost) as (found, proved):
        assert found["closing while planning"].verdict == "failed"
        assert "copies of the page did not show it while it was planned" in found["closing while planning"].message
    is_known, text = proofs.meaning_of(proved)
    assert not is_known and "its page did not show a statement that was being planned" in text


def test_a_statement_that_is_planned_too_soon_to_be_met(cluster, monkeypatch):
    monkeypatch.setattr(limits, "_PLAN", "EXPLAIN SELECT 1")
    monkeypatch.setattr(limits, "_found", lambda pages, nonce: None)  # as where it is over before the first look
    with tried(cluster, try_pages, try_planning) as (found, _):
        assert found["closing while planning"].message.startswith(f"{NOT_TRIED}a long statement was planned within ")


# Its own end


def test_each_trial_has_its_time(cluster, monkeypatch):
    monkeypatch.setattr(node, "TRIAL_SECONDS", 1.0)
    start = time.monotonic()
    with cluster.nodes[0].hold("execution", sql="INSERT"), tried(cluster, try_tables, try_errors) as (found, _):
        assert found["it"].message == f"{NOT_PROVED}it was not over within 1 s"
    assert time.monotonic() - start < 15


def test_a_session_without_a_connection_is_closed_where_the_trial_is_interrupted(cluster, monkeypatch):
    monkeypatch.setattr(node, "TRIAL_SECONDS", 0.5)
    with tried(cluster, try_sessions) as (found, _):
        assert found["it"].message == f"{NOT_PROVED}it was not over within 0.5 s"


def test_a_statement_that_is_planned_is_closed_where_the_trial_is_interrupted(cluster, monkeypatch, caplog):
    monkeypatch.setattr(node, "TRIAL_SECONDS", 2.0)
    monkeypatch.setattr(limits, "_found", lambda *_: None)
    with cluster.nodes[0].delay("planning", 6.0, sql="UNION ALL"):
        with tried(cluster, try_pages, try_planning) as (found, _):
            assert found["it"].message == f"{NOT_PROVED}it was not over within 2 s"
        assert_clean(cluster)
    assert caplog.text == ""  # its own connection is its sender's, and was not used


def test_all_trials_have_their_time(cluster, monkeypatch):
    monkeypatch.setattr(run, "NODE_SECONDS", 4.0)
    start = time.monotonic()
    with cluster.nodes[0].hold("execution", sql="INSERT"):
        found = list(run.check_protocol(lambda: Balancer.from_config(cluster.config), "scratch"))
    assert time.monotonic() - start < 4 + 20
    late = [each for each in found if each.name == f"node {cluster.nodes[0].address}" and each.verdict == "failed"]
    assert late[0].message == "its trials were not over within 4 s"
    assert [each for each in found if each.name.startswith("tables on ") and "may be left" in each.message]


def test_a_coordinator_that_hangs(monkeypatch):
    monkeypatch.setattr(node, "CALL_SECONDS", 1.0)
    with scratch_cluster() as cluster:
        hung = cluster.nodes[0]
        hung.pause()
        start = time.monotonic()
        found = list(run.check_protocol(lambda: Balancer.from_config(cluster.config), "scratch"))
        assert time.monotonic() - start < 10
    assert [(each.name, each.verdict) for each in found[1:2]] == [(f"node {hung.address}", "failed")]


def test_a_fault_of_the_trials_themselves_is_told(cluster, monkeypatch):
    monkeypatch.setattr(run, "_begin", lambda node: iter([1 / 0]))
    found = list(run.check_protocol(lambda: Balancer.from_config(cluster.config), "scratch"))
    assert [each.verdict for each in found] == ["ok", "failed", "failed", "failed"]
    assert found[1].message == "the trials themselves failed: ZeroDivisionError"


def test_a_fault_of_one_trial_leaves_the_others(cluster):
    def faulty(_):
        raise ZeroDivisionError
        yield

    with tried(cluster, faulty, try_tables) as (found, _):
        assert found["it"].message == f"{NOT_PROVED}the trial itself failed: ZeroDivisionError"
        assert found["number of rows"].verdict == "ok"


def test_a_table_that_cannot_be_dropped_is_named(cluster, monkeypatch):
    monkeypatch.setattr(run, "_TRIALS", (("tables", try_tables),))
    with cluster.nodes[0].fail("planning", "Not now", sql="DROP TABLE IF EXISTS"):
        found = list(run.check_protocol(lambda: Balancer.from_config(cluster.config), "scratch"))
    left = [each for each in found if each.name == f"tables on {cluster.nodes[0].address}"]
    names = [each.message.split()[0] for each in left]
    assert [each.verdict for each in left] == ["failed", "failed"]
    assert all(each.message.endswith("may be left: Not now") for each in left)
    assert {f"`scratch`.`{name}`" for (name,) in run_sql(cluster, "SHOW TABLES IN scratch LIKE 'impala*'")} == set(
        names
    )
    run_sql(cluster, *(f"DROP TABLE {name}" for name in names))


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_it_clears_up_when_it_is_stopped(cluster, number):
    command = [*COMMAND, "doctor", "--protocol", "scratch"]
    environment = {**os.environ, "IMPALA_LB_CONFIG": str(cluster.config_file)}
    with cluster.nodes[0].hold("execution", sql="INSERT") as held:
        process = subprocess.Popen(
            command,
            env=environment,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            preexec_fn=lambda: signal.signal(signal.SIGINT, signal.SIG_DFL),  # a job in the background
        )
        try:
            held.wait(20)
            process.send_signal(number)
            assert process.wait(40) == (143 if number == signal.SIGTERM else 130)
        finally:
            process.kill()
            process.communicate()
