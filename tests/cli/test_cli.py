"""The command line as a shell sees it: real processes, their output and exit codes."""

import json
import os
import re
import signal
import subprocess
import time

import pytest

from airflow_provider_impala_lb.sandbox import Sandbox
from tests.support.command_line import COMMAND, lb


@pytest.fixture(scope="module")
def cluster():
    with Sandbox(nodes=2, lag=0) as cluster:
        yield cluster


@pytest.fixture
def script(tmp_path):
    path = tmp_path / "x.sql"
    path.write_text("DROP TABLE IF EXISTS cli;\nCREATE TABLE cli (a INT);\nINSERT INTO cli VALUES (1), (${var:n});\n")
    return path


def closed(arguments):
    """No standard output at all, as after ``>&-``."""
    command = ["sh", "-c", 'exec "$@" >&-', "sh", *arguments]
    return subprocess.run(command, stderr=subprocess.PIPE, text=True, timeout=60)


def full(arguments):
    with open("/dev/full", "w") as disk:
        return subprocess.run(arguments, stdout=disk, stderr=subprocess.PIPE, text=True, timeout=60)


def broken(arguments):
    """A pipe whose reader has gone."""
    reader, writer = os.pipe()
    os.close(reader)
    try:
        return subprocess.run(arguments, stdout=writer, stderr=subprocess.PIPE, text=True, timeout=60)
    finally:
        os.close(writer)


@pytest.mark.parametrize(
    ("output", "says"),
    [(closed, "Bad file descriptor"), (full, "No space left on device"), (broken, "Broken pipe")],
)
def test_a_lease_that_nobody_hears_of_is_released(cluster, output, says):
    command = [*COMMAND, "--config", cluster.config_file, "pick"]
    done = output([*command, "--hold", "60"])
    assert done.returncode == 1
    assert f"impala-lb: the pick cannot be told: {says}. Its lease was released\n" in done.stderr
    assert json.loads(lb("status", "--json", config=cluster.config_file).stdout)["leases"] == []
    done = output(command)
    assert (done.returncode, f"the pick cannot be told: {says}\n" in done.stderr) == (1, True)


@pytest.mark.parametrize("seconds", ["1e308", "nan", "inf", "0", "-5", "-inf"])
def test_a_lease_of_no_length_that_can_be_meant(cluster, seconds):
    done = lb("pick", f"--hold={seconds}", config=cluster.config_file)
    shown = "1e+308" if seconds == "1e308" else seconds
    assert done.returncode == 1
    assert f"hold: is {shown}, must be above 0 and at most 2592000 seconds" in done.stderr
    assert json.loads(lb("status", "--json", config=cluster.config_file).stdout)["leases"] == []


def test_a_length_that_is_no_number():
    done = lb("pick", "--hold", "1h")
    assert (done.returncode, "--hold: '1h' is not a number of seconds" in done.stderr) == (2, True)


def test_pick_moves_on_and_is_counted(cluster, tmp_path):
    addresses = {node.address for node in cluster.nodes}
    config = tmp_path / "lb.json"  # without reports, which may come between two picks, and others' picks
    config.write_text(json.dumps({**cluster.config, "load": "off", "lock_file": str(tmp_path / "lock")}))
    picks = [lb("pick", config=config).stdout.strip() for _ in range(2)]
    assert set(picks) == addresses
    found = json.loads(lb("--config", config, "pick", "--json").stdout)
    assert set(found) == {"host", "node", "why"}
    assert found["host"] in addresses
    keyed = {lb("pick", "--session-key", "k", config=config).stdout for _ in range(2)}
    assert len(keyed) == 1
    status = json.loads(lb("status", "--json", config=config).stdout)
    assert sum(node["picks"] for node in status["nodes"]) == 5
    assert set(status) == {"cluster", "policy", "load", "nodes", "source", "leases", "sessions", "waiting"}
    assert {"node", "state", "leases", "headroom", "picks"} <= set(status["nodes"][0])
    assert status["sessions"][0]["key"] == "k"
    table = lb("status", config=config).stdout
    assert all(address in table for address in addresses)


def test_drain_and_ready(cluster):
    first, second = (node.address for node in cluster.nodes)
    assert lb("drain", first, config=cluster.config_file).returncode == 0
    assert {lb("pick", config=cluster.config_file).stdout.strip() for _ in range(3)} == {second}
    assert re.search(rf"{first}\W+drain\W.*by an operator", lb("status", config=cluster.config_file).stdout)
    assert lb("ready", first, config=cluster.config_file).returncode == 0
    assert {lb("pick", config=cluster.config_file).stdout.strip() for _ in range(9)} == {first, second}
    wrong = lb("drain", "nowhere:1", config=cluster.config_file)
    assert wrong.returncode == 1
    assert "'nowhere:1' is not a node of sandbox" in wrong.stderr


def test_run_says_what_ran_where(cluster, script):
    done = lb("run", script, "--var", "n=7", config=cluster.config_file)
    assert done.returncode == 0, done.stderr
    first, *statements, last = done.stdout.splitlines()
    assert re.fullmatch(r"127\.0\.0\.1:\d+  session [0-9a-f:]+", first)
    assert len(statements) == 3
    assert re.fullmatch(r"3/3  line 3  query [0-9a-f:]+  \d+\.\d\d s  2 rows", statements[2])
    assert last.startswith("3 statements on 127.0.0.1:")
    as_json = json.loads(lb("run", script, "--var", "n=7", "--json", config=cluster.config_file).stdout)
    assert [entry["rows"] for entry in as_json["statements"]] == [None, None, 2]
    assert as_json["node"] in {node.address for node in cluster.nodes}


def test_run_reads_standard_input(cluster):
    assert lb("run", "-", config=cluster.config_file, input="SELECT 1").returncode == 0


def test_a_failed_run_says_which_statement_and_line(cluster, tmp_path):
    bad = tmp_path / "bad.sql"
    bad.write_text("SELECT 1;\n\nSELECT * FROM nowhere;\nSELECT 2")
    failed = lb("run", bad, config=cluster.config_file)
    assert failed.returncode == 1
    assert "Statement 2 of 3 (line 3" in failed.stderr
    assert "Could not resolve table reference: 'nowhere'" in failed.stderr
    as_json = lb("run", bad, "--json", config=cluster.config_file)
    assert as_json.returncode == 1
    error = json.loads(as_json.stdout)
    assert (error["number"], error["line"], error["outcome"]) == (2, 3, "not started")


@pytest.mark.parametrize(
    ("arguments", "says"),
    [
        (("run", "nowhere.sql"), "nowhere.sql: cannot be read: No such file"),
        (("run", "SCRIPT"), "x.sql, line 3"),
        (("run", "SCRIPT", "--var", "n"), "--var n: must be NAME=VALUE"),
        (("--config", "/nowhere.yml", "pick"), "/nowhere.yml: cannot be read"),
    ],
)
def test_a_wrong_call_is_one_clear_line(cluster, script, arguments, says):
    failed = lb(*(str(script) if word == "SCRIPT" else word for word in arguments), config=cluster.config_file)
    assert failed.returncode == 1
    assert failed.stderr.startswith("impala-lb: ")
    assert says in failed.stderr
    assert "Traceback" not in failed.stderr


def test_without_a_configuration_it_says_how_to_give_one():
    failed = lb("pick")
    assert failed.returncode == 1
    assert "give --config FILE or --conn-id ID, or set IMPALA_LB_CONFIG" in failed.stderr
    assert lb("nonsense").returncode == 2


def test_an_airflow_connection_can_be_named(cluster, tmp_path):
    environment = {**os.environ, "AIRFLOW_HOME": str(tmp_path), "AIRFLOW_CONN_WH": cluster.connection}
    done = subprocess.run([*COMMAND, "--conn-id", "wh", "pick"], capture_output=True, text=True, env=environment)
    assert done.stdout.splitlines()[-1] in {node.address for node in cluster.nodes}, done.stderr


def test_split_prints_what_would_be_sent(script):
    assert json.loads(lb("split", script, "--var", "n=2", "--json").stdout)[2] == {
        "line": 3,
        "sql": "INSERT INTO cli VALUES (1), (2)",
    }
    assert "-- line 2\nCREATE TABLE cli (a INT);\n" in lb("split", script, "--var", "n=2").stdout
    failed = lb("split", "-", input="select 'a")
    assert failed.returncode == 1
    assert "line 1, column 8" in failed.stderr


def test_split_prints_what_can_be_split_again():
    printed = lb("split", "-", input="select 1 -- why\n; insert into t select 2; -- impala-lb: safe to repeat").stdout
    assert printed == (
        "-- line 1\nselect 1 -- why\n;\n-- line 2\ninsert into t select 2 -- impala-lb: safe to repeat\n;\n"
    )
    assert lb("split", "-", input=printed).stdout.count(";") == 2


def test_a_file_of_comments_only_has_nothing_to_run(cluster, tmp_path):
    (tmp_path / "indexes.sql").write_text("-- Impala has no indexes\n\n/* none */\n")
    done = lb("--config", str(cluster.config_file), "run", str(tmp_path / "indexes.sql"))
    assert (done.returncode, done.stdout) == (0, "")
    assert "nothing but comments" in done.stderr
    assert lb("run", "-", input="\n;\n").returncode == 1


def test_sigterm_cancels_what_runs(cluster, tmp_path):
    slow = tmp_path / "slow.sql"
    slow.write_text("SELECT sleep(60000)")
    process = subprocess.Popen(
        [*COMMAND, "--config", str(cluster.config_file), "run", str(slow)], stdout=subprocess.PIPE
    )
    process.stdout.readline()
    time.sleep(0.3)
    start = time.monotonic()
    process.send_signal(signal.SIGTERM)
    assert process.wait(10) == 143
    assert time.monotonic() - start < 5
    process.stdout.close()
    ended = [entry["state"] for node in cluster.nodes for entry in node.journal() if "60000" in entry.get("sql", "")]
    assert ended == ["CANCELLED"]
    assert json.loads(lb("status", "--json", config=cluster.config_file).stdout)["leases"] == []


def test_the_sandbox_serves_until_sigterm(tmp_path):
    process = subprocess.Popen(
        [*COMMAND, "sandbox", "--nodes", "2", "--lag", "0", "--dir", str(tmp_path / "s")], stdout=subprocess.PIPE
    )
    try:
        ready = json.loads(process.stdout.readline())
        assert set(ready) == {"config", "user", "password", "nodes"}
        assert ready["password"] not in open(ready["config"]).read()
        assert set(ready["nodes"][0]) == {"host", "port", "web", "pid", "journal"}
        assert lb("run", "-", config=ready["config"], input="SELECT 1").returncode == 0
        journals = [open(node["journal"]).read() for node in ready["nodes"]]
        assert sum("SELECT 1" in journal for journal in journals) == 1
    finally:
        process.send_signal(signal.SIGTERM)
        assert process.wait(15) == 0
        process.stdout.close()
    assert not any(os.path.exists(f"/proc/{node['pid']}") for node in ready["nodes"])


def test_the_sandbox_without_a_login_and_with_an_allowed_directory(tmp_path):
    (tmp_path / "files").mkdir()
    (tmp_path / "files" / "x.csv").write_text("landed\n")
    process = subprocess.Popen(
        [*COMMAND, "sandbox", "--nodes", "1", "--no-login", "--allow", str(tmp_path / "files")], stdout=subprocess.PIPE
    )
    try:
        ready = json.loads(process.stdout.readline())
        assert (ready["user"], ready["password"]) == (None, None)
        script = f"CREATE EXTERNAL TABLE x (a STRING) LOCATION '{tmp_path / 'files'}'; SELECT a FROM x"
        done = lb("run", "-", "--output", str(tmp_path / "out.csv"), config=ready["config"], input=script)
        assert done.returncode == 0, done.stderr
        assert "landed" in (tmp_path / "out.csv").read_text()
    finally:
        process.send_signal(signal.SIGTERM)
        assert process.wait(15) == 0
        process.stdout.close()


def test_the_real_impala_shell_runs_on_a_picked_node(impala_shell, script):
    """``impala-shell -i "$(impala-lb pick)" -f x.sql``, as the README says."""
    with Sandbox(nodes=2, lag=0, users=None) as cluster:  # its PLAIN wants a terminal, or a file, for the password
        picked = lb("pick", config=cluster.config_file).stdout.strip()
        done = subprocess.run(
            [impala_shell, "--protocol=hs2", "-i", picked, "--var=n=5", "-f", str(script)],
            capture_output=True,
            text=True,
            timeout=60,
            env={**os.environ, "HOME": str(script.parent)},
        )
        assert done.returncode == 0, done.stderr
        assert "Modified 2 row(s)" in done.stderr
        node = next(node for node in cluster.nodes if node.address == picked)
        assert any("VALUES (1), (5)" in entry.get("sql", "") for entry in node.journal())
