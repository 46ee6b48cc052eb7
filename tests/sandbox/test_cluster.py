"""Processes, users, journals, the configuration, and that nothing is left behind."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
import yaml
from impala.dbapi import connect
from impala.error import HiveServer2Error
from thrift.transport.TTransport import TTransportException

from airflow_provider_impala_lb import Balancer
from airflow_provider_impala_lb.errors import ConfigError, ImpalaLBError
from airflow_provider_impala_lb.sandbox import Sandbox
from tests.support.components import lacking
from tests.support.sandbox import Open, rows
from tests.support.servers import eventually

pytestmark = pytest.mark.usefixtures("collected")


def alive(pid: int) -> bool:
    try:
        return Path(f"/proc/{pid}/stat").read_text().split()[2] != "Z"
    except FileNotFoundError:
        return False


def parent_of(pid: int) -> int:
    return int(Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[1])


def wait_gone(pids: list[int]) -> None:
    deadline = time.monotonic() + 5
    while any(map(alive, pids)) and time.monotonic() < deadline:
        time.sleep(0.05)
    assert not [pid for pid in pids if alive(pid)]


def test_configuration(pair: Sandbox) -> None:
    config = pair.config
    assert yaml.safe_load(pair.config_file.read_text()) == config
    assert [f"{node['host']}:{node['port']}" for node in config["nodes"]] == [node.address for node in pair.nodes]
    assert config["lock_file"] == str(pair.directory / "node_in_use.tmp")
    connection = json.loads(pair.connection)
    assert connection["conn_type"] == "impala_lb"
    assert connection["host"] == ",".join(node.address for node in pair.nodes)
    assert connection["extra"]["session"]["auth_mechanism"] == "NOSASL"


def test_a_login_by_default(tmp_path: Path, open_cursor: Open) -> None:
    """The configuration, the file and the connection carry it; nobody gets in without."""
    with Sandbox(nodes=1, lag=0, directory=tmp_path) as cluster, Sandbox(nodes=1, lag=0) as other:
        password = str(cluster.password)
        assert cluster.user == other.user == "sandbox" and password != other.password and len(password) >= 24
        for given in (cluster.config, str(cluster.config_file)):
            with Balancer.from_config(given).connect() as connection, connection.cursor() as cursor:
                cursor.execute("select effective_user()")
                assert cursor.fetchall() == [("sandbox",)]
        fields = json.loads(cluster.connection)
        assert (fields["login"], fields["password"]) == ("sandbox", password)
        assert password not in json.dumps([cluster.config, fields["extra"]]) + cluster.config_file.read_text()
        arguments = {"auth_mechanism": "PLAIN", "user": "sandbox"}
        with pytest.raises(TTransportException, match="Error validating the login"):
            open_cursor(cluster.nodes[0], password=other.password, **arguments)
        with pytest.raises(TTransportException):
            open_cursor(cluster.nodes[0], auth_mechanism="NOSASL")
        assert rows(open_cursor(cluster.nodes[0], password=password, **arguments), "select 1") == [(1,)]
        holding = [path for path in tmp_path.rglob("*") if path.is_file() and password in path.read_text()]
        assert {path.name for path in holding} == {"users.json", "password"}
        assert {path.stat().st_mode & 0o777 for path in holding} == {0o600}
        Path(cluster.config["session"]["password_file"]).chmod(0o604)
        with pytest.raises(ConfigError, match="is open to every user of this host; chmod o-rwx"):
            Balancer.from_config(cluster.config)
        with pytest.raises(ConfigError, match="cannot be read: No such file"):
            Balancer.from_config({**cluster.config, "session": {"password_file": "/nosuch"}})


def test_no_login(open_cursor: Open) -> None:
    with Sandbox(nodes=1, lag=0, users=None) as cluster:
        assert (cluster.user, cluster.password) == (None, None)
        assert "password" not in json.loads(cluster.connection)
        with Balancer.from_config(cluster.config).connect() as connection, connection.cursor() as cursor:
            cursor.execute("select 1")
        assert rows(open_cursor(cluster.nodes[0]), "select 1") == [(1,)]


def test_plain_users(open_cursor: Open) -> None:
    with Sandbox(nodes=1, users={"ann": "right", "bob": "other"}) as cluster:
        node = cluster.nodes[0]
        connection = json.loads(cluster.connection)
        assert (connection["login"], connection["password"]) == ("ann", "right")
        assert "right" not in cluster.config_file.read_text()
        cursor = open_cursor(node, auth_mechanism="PLAIN", password="right")
        assert rows(cursor, "select effective_user()") == [("ann",)]
        with pytest.raises(TTransportException, match=r"Bad status: 3 \(b'Error validating the login'\)"):
            open_cursor(node, auth_mechanism="PLAIN", password="wrong")
        bob = connect(host=node.host, port=node.port, user="bob", password="other", auth_mechanism="PLAIN")
        thief = bob.cursor(user="bob")
        own, thief.session.handle = thief.session.handle, cursor.session.handle
        with pytest.raises(
            HiveServer2Error,
            match="^The user authorized on the connection 'bob' does not match the session username 'ann'",
        ):
            thief.execute("select 1")
        thief.session.handle = own
        thief.close()
        bob.close()


def test_journal(tmp_path: Path, open_cursor: Open) -> None:
    with Sandbox(nodes=2, directory=tmp_path, users=None) as cluster:
        cursor = open_cursor(cluster.nodes[0], user="ann")
        rows(cursor, "/* lb:0123456789abcdef 1/2 */ select 1;")
        with pytest.raises(HiveServer2Error):
            cursor.execute("select nosuch")
        rows(cursor, "create table t (a int)")
        cursor.close()
        entries = cluster.nodes[0].journal()
        assert cluster.nodes[1].journal() == []
    assert [(entry.get("event"), entry.get("sql"), entry.get("state")) for entry in entries] == [
        ("open", None, None),
        (None, "/* lb:0123456789abcdef 1/2 */ select 1;", "FINISHED"),
        (None, "select nosuch", "ERROR"),
        (None, "create table t (a int)", "FINISHED"),
        ("close", None, None),
    ]
    assert {entry["user"] for entry in entries} == {"ann"} and len({entry["session"] for entry in entries}) == 1
    assert [entry["t"] for entry in entries] == sorted(entry["t"] for entry in entries)
    assert (tmp_path / "node1.journal.jsonl").exists()  # a directory that was there before stays


def test_kill_and_start_again(open_cursor: Open) -> None:
    with Sandbox(nodes=1, lag=0, users=None) as cluster:
        node = cluster.nodes[0]
        cursor = open_cursor(node)
        rows(cursor, "create table t stored as parquet as select 5 a")
        address, web, pid = node.address, node.web, node.pid
        node.kill()
        assert not node.running
        with pytest.raises(TTransportException):
            connect(host=node.host, port=node.port)
        node.start()
        assert (node.address, node.web) == (address, web) and node.pid != pid
        with pytest.raises(HiveServer2Error, match="Invalid session id"):
            cursor.session.execute("select 1")
        assert rows(open_cursor(node), "select a from t") == [(5,)]


def test_a_paused_one_has_stopped() -> None:
    """Else it answers one call more, now and then."""
    with Sandbox(nodes=1) as cluster:
        node = cluster.nodes[0]
        for _ in range(300):
            node.pause()
            assert Path(f"/proc/{node.pid}/stat").read_text().rpartition(")")[2].split()[0] == "T"
            node.resume()
        node.pause()
        node.pause()
        node.kill()
        node.pause()  # of one that has ended it does nothing
        assert not node.running


def test_pause_and_resume() -> None:
    with Sandbox(nodes=1, users=None) as cluster:
        node = cluster.nodes[0]
        connection = connect(host=node.host, port=node.port, timeout=0.5, retries=1)
        node.pause()
        with pytest.raises(TTransportException, match="read timeout"):
            connection.cursor()
        node.resume()
        fresh = connect(host=node.host, port=node.port, timeout=10)
        assert rows(fresh.cursor(), "select 1") == [(1,)]
        node.pause()  # leaving the block must end it all the same
        pid = node.pid
    wait_gone([pid])


def test_nothing_is_left(tmp_path: Path) -> None:
    with pytest.raises(RuntimeError, match="mine"), Sandbox(nodes=2, users=None) as cluster:
        pids, directory = [node.pid for node in cluster.nodes], cluster.directory
        raise RuntimeError("mine")
    wait_gone(pids)
    assert not directory.exists()


@pytest.mark.parametrize("paused", [False, True])
def test_a_killed_parent_leaves_no_coordinator(paused: bool) -> None:
    code = (
        "import sys, json, time, threading\nfrom airflow_provider_impala_lb.sandbox import Sandbox\n"
        "made = []\nmaker = threading.Thread(target=lambda: made.append(Sandbox(nodes=2).__enter__()))\n"
        "maker.start(); maker.join(); time.sleep(0.3)\n"
        f"made[0].nodes[0].pause() if {paused} else None\n"
        "print(json.dumps([[n.pid for n in made[0].nodes], str(made[0].directory)]), flush=True)\ntime.sleep(60)"
    )
    parent = subprocess.Popen([sys.executable, "-c", code], stdout=subprocess.PIPE)
    assert parent.stdout is not None
    pids, directory = json.loads(parent.stdout.readline())
    assert all(map(alive, pids))  # also after the thread that made them has ended
    parent.kill()
    parent.wait()
    parent.stdout.close()
    wait_gone(pids)
    subprocess.run(["rm", "-r", directory], check=True)


def test_what_they_are_forked_from_is_started_again_if_it_was_killed() -> None:
    """In a process of its own: with it end all coordinators that were started from there."""
    code = (
        "import os\nfrom tests.sandbox.test_cluster import Sandbox, parent_of, wait_gone\n"
        "with Sandbox(nodes=1) as cluster:\n"
        "    pid = cluster.nodes[0].pid\n"
        "    os.kill(template := parent_of(pid), 9)\n"
        "    wait_gone([pid, template])\n"
        "with Sandbox(nodes=2) as cluster:\n"
        "    assert all(node.running for node in cluster.nodes)\n"
    )
    ended = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert ended.returncode == 0, ended.stderr


def test_a_fork_of_the_process_that_started_some_starts_its_own() -> None:
    with Sandbox(nodes=1) as cluster:
        child = os.fork()
        if child == 0:
            try:
                with Sandbox(nodes=1) as other:
                    assert parent_of(other.nodes[0].pid) != parent_of(cluster.nodes[0].pid)
                os._exit(0)
            finally:
                os._exit(1)
        assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 0
        assert cluster.nodes[0].running


def test_serve(tmp_path: Path) -> None:
    code = f"from airflow_provider_impala_lb.sandbox import serve\nraise SystemExit(serve(2, 0.5, {str(tmp_path)!r}))"
    process = subprocess.Popen([sys.executable, "-c", code], stdout=subprocess.PIPE)
    assert process.stdout is not None
    said = json.loads(process.stdout.readline())
    assert (
        Path(said["config"]).is_file()
        and [sorted(node) for node in said["nodes"]] == [["host", "journal", "pid", "port", "web"]] * 2
    )
    connection = connect(
        host=said["nodes"][0]["host"],
        port=said["nodes"][0]["port"],
        user=said["user"],
        password=said["password"],
        auth_mechanism="PLAIN",
    )
    rows(connection.cursor(), "select 1")
    connection.close()
    assert "select 1" in Path(said["nodes"][0]["journal"]).read_text()
    process.send_signal(signal.SIGTERM)
    assert process.wait(10) == 0
    process.stdout.close()
    wait_gone([node["pid"] for node in said["nodes"]])


def test_a_node_that_cannot_start_says_why(tmp_path: Path) -> None:
    (tmp_path / "node1.journal.jsonl").mkdir()
    with pytest.raises(ImpalaLBError, match=r"(?s)node1 did not start.*Is a directory"):
        Sandbox(nodes=2, directory=tmp_path, users=None).start()


def test_wrong_arguments() -> None:
    with pytest.raises(ValueError, match=r"Unknown flag 'nosuch'\. Known: fe_service_threads"):
        Sandbox(flags={"nosuch": 1})
    for arguments in ({"nodes": 0}, {"lag": -1.0}, {"users": {}}):
        with pytest.raises(ValueError):
            Sandbox(**arguments)  # type: ignore[arg-type]


def test_importing_it_is_light() -> None:
    code = (
        "import sys; import airflow_provider_impala_lb.sandbox.pytest_plugin\n"
        "from airflow_provider_impala_lb.sandbox import Sandbox\n"
        "heavy = {'duckdb', 'sqlglot', 'thrift', 'impala', 'yaml', 'airflow'} & set(sys.modules)\n"
        "assert not heavy, heavy"
    )
    subprocess.run([sys.executable, "-c", code], check=True, env={**os.environ})


def test_the_fixture(impala_sandbox: Sandbox, open_cursor: Open) -> None:
    assert len(impala_sandbox.nodes) == 3
    for node in impala_sandbox.nodes:
        login = {"user": impala_sandbox.user, "password": impala_sandbox.password, "auth_mechanism": "PLAIN"}
        assert rows(open_cursor(node, **login), "select 1") == [(1,)]


@pytest.mark.slow
def test_impala_shell(pair: Sandbox, tmp_path: Path) -> None:
    """The real impala-shell, where IMPALA_SHELL names it."""
    shell = os.environ.get("IMPALA_SHELL")
    if not shell:
        lacking("IMPALA_SHELL does not name an impala-shell: it is NOT tested")

    def run(*arguments: str) -> str:
        command = [shell, "-i", pair.nodes[0].address, "--protocol=hs2", *arguments]
        done = subprocess.run(
            command, capture_output=True, text=True, timeout=60, env={**os.environ, "HOME": str(tmp_path)}
        )
        assert done.returncode == 0, done.stderr
        return done.stdout + done.stderr

    script = tmp_path / "script.sql"
    script.write_text(
        "-- a script\ncreate table shell_t (a int, b string) stored as parquet;\nset mem_limit=1g;\n"
        "insert into shell_t values (1, 'x;y'), (2, 'z');\nselect * from shell_t order by a;\nprofile;\n"
    )
    said = run("-f", str(script))
    assert "Modified 2 row(s)" in said and "| x;y |" in said and "Sql Statement: select * from shell_t" in said
    assert "3" in run("-B", "-q", "select 1 + 2")


@pytest.mark.parametrize(
    "sql",
    [
        pytest.param("create table landed (a int)", marks=pytest.mark.slow),
        pytest.param("truncate landed", marks=pytest.mark.slow),
        "create table landed as select 1 a",
    ],
)
def test_the_catalog_service_goes_on_when_a_coordinator_dies(open_cursor: Open, sql: str) -> None:
    with Sandbox(nodes=2, lag=0, users=None) as cluster:
        first, second = cluster.nodes
        cursor, other = open_cursor(first), open_cursor(second)
        if "truncate" in sql:
            rows(cursor, "create table landed as select 1 a")
        with first.hold("catalog", sql=sql) as held:
            cursor.execute_async(sql)
            held.wait()
            first.kill()
            time.sleep(0.6)
            assert rows(other, "select * from landed" if "truncate" in sql else "show tables") == (
                [(1,)] if "truncate" in sql else []
            )
        [entry] = eventually(lambda: [entry for entry in second.journal() if entry.get("sql") == sql])
        assert entry["state"] == ("CANCELLED" if "select" in sql else "FINISHED")
        assert rows(other, "select * from landed") == []  # of CREATE TABLE AS SELECT the table only
        cursor._closed = True
