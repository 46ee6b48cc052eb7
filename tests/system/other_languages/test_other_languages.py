"""The programs of docs/examples for real: compiled, several at once, killed, against a real lock file."""

import collections
import concurrent.futures
import json
import os
import pathlib
import shutil
import signal
import subprocess
import sys
import time

import pytest

from airflow_provider_impala_lb.sandbox import Sandbox
from airflow_provider_impala_lb.stores.file.lock import Lock
from tests.support.command_line import lb
from tests.support.components import lacking

EXAMPLES = pathlib.Path(__file__).parents[3] / "docs" / "examples"
HOLD = 60
TRY_LOCK = """
import java.nio.channels.FileChannel;
import java.nio.channels.FileLock;
import java.nio.file.Path;
import static java.nio.file.StandardOpenOption.*;

public class TryLock {
    public static void main(String[] arguments) throws Exception {
        try (FileChannel file = FileChannel.open(Path.of(arguments[0]), READ, WRITE); FileLock lock = file.tryLock()) {
            System.out.println(lock == null ? "refused" : "granted");
        }
    }
}
"""


@pytest.fixture(scope="module")
def javac():
    missing = [tool for tool in ("java", "javac") if not shutil.which(tool)]
    if missing:
        lacking(f"{' and '.join(missing)} missing (install a JDK of 17 or later): the example in Java is NOT tested")

    def compile(source, classes):
        subprocess.run(["javac", "-Xlint:all", "-Werror", "-d", str(classes), str(source)], check=True)
        return str(classes)

    return compile


@pytest.fixture(scope="module")
def classes(javac, tmp_path_factory):
    return javac(EXAMPLES / "RunOnImpala.java", tmp_path_factory.mktemp("classes"))


@pytest.fixture
def config(tmp_path):
    path = tmp_path / "impala_lb.yml"
    nodes = [f"n{i}:21050" for i in range(3)]
    path.write_text(
        json.dumps({"nodes": nodes, "lock_file": str(tmp_path / "lock"), "policy": "round_robin", "max_wait": 0})
    )
    return path


@pytest.fixture
def environment(tmp_path, config):
    """The balancer's command on the PATH, whether or not this package is installed."""
    command = tmp_path / "bin" / "impala-lb"
    command.parent.mkdir()
    command.write_text(f'#!/bin/sh\nexec {sys.executable} -m airflow_provider_impala_lb.cli "$@"\n')
    command.chmod(0o755)
    path = f"{command.parent}:{os.environ['PATH']}"
    found = {**os.environ, "PATH": path, "IMPALA_LB_CONFIG": str(config), "HOLD": str(HOLD)}
    found.pop("IMPALA_SHELL", None)
    return found


def with_java(classes, *arguments, hold=HOLD):
    options = ["-XX:TieredStopAtLevel=1", "-Xmx32m"]  # several start at once, on few cores
    return ["java", *options, "-cp", classes, "RunOnImpala", "--hold", str(hold), *arguments]


def start(command, environment, **options):
    pipes = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE, "stderr": subprocess.PIPE}
    return subprocess.Popen(command, env=environment, text=True, preexec_fn=heed_signals, **{**pipes, **options})


def heed_signals():
    """As in a terminal. Under nohup, or in the background of a script, a process starts with some signals ignored and
    hands that on to all that it starts, and no shell can trap them then (POSIX, "trap")."""
    for number in (signal.SIGHUP, signal.SIGINT, signal.SIGQUIT):
        signal.signal(number, signal.SIG_DFL)


def leases(config):
    return json.loads(lb("status", "--json", config=config).stdout)["leases"]


def until(condition, seconds=10.0):
    end = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < end
        time.sleep(0.05)


def is_alive(pid):
    return pathlib.Path(f"/proc/{pid}").exists()


def test_parallel_java_programs_share_the_nodes_exactly(classes, environment, config):
    def run(number):
        done = subprocess.run(
            with_java(
                classes, "sh", "-c", 'test "$IMPALA_HOST" = "$1" && echo "$1"; exit $2', "x", "{host}", str(number)
            ),
            env=environment,
            capture_output=True,
            text=True,
            timeout=120,
        )
        assert done.returncode == number, done.stderr
        return done.stdout.strip()

    with concurrent.futures.ThreadPoolExecutor(4) as pool:
        hosts = collections.Counter(pool.map(run, range(12)))
    assert hosts == {"n0:21050": 4, "n1:21050": 4, "n2:21050": 4}
    assert leases(config) == []


WAITING = ("sh", "-c", "echo $$ {host}; read line; exit 7")


def test_the_lease_lives_as_long_as_the_work(classes, environment, config):
    process = start(with_java(classes, *WAITING), environment)
    host = process.stdout.readline().split()[1]
    (lease,) = leases(config)
    assert (lease["node"], lease["owner"]) == (host, f"impala-lb pick --hold {HOLD}")
    process.communicate("go on\n", timeout=30)
    assert process.returncode == 7
    assert leases(config) == []


def test_sigterm_ends_the_work_and_then_the_lease(classes, environment, config):
    process = start(with_java(classes, *WAITING), environment)
    work = process.stdout.readline().split()[0]
    assert len(leases(config)) == 1
    process.terminate()
    process.wait(30)  # with the input still open, or the work would end by itself
    process.communicate()
    assert process.returncode == 143
    assert not is_alive(work)
    assert leases(config) == []


def test_after_sigkill_the_lease_ends_by_its_expiry(classes, environment, config):
    started = time.time()
    process = start(with_java(classes, *WAITING, hold=8), environment)
    process.stdout.readline()
    process.kill()
    process.communicate(timeout=30)
    assert len(leases(config)) == 1
    until(lambda: not leases(config), 30)
    assert time.time() - started >= 8


def test_work_that_outlasts_its_lease_goes_on_and_is_told(classes, environment, config):
    process = start(with_java(classes, *WAITING, hold=1), environment)
    process.stdout.readline()
    assert "outlasts its lease" in process.stderr.readline()
    assert leases(config) == []
    process.communicate("go on\n", timeout=30)
    assert process.returncode == 7


def test_without_a_coordinator_the_work_is_not_begun(classes, environment, config):
    for node in range(3):
        lb("drain", f"n{node}:21050", config=config)
    done = subprocess.run(with_java(classes, "echo", "ran"), env=environment, capture_output=True, text=True)
    assert (done.returncode, done.stdout) == (125, "")
    assert "drained" in done.stderr and "nothing was run" in done.stderr
    lb("ready", "n0:21050", config=config)
    done = subprocess.run(with_java(classes, "no-such-command"), env=environment, capture_output=True, text=True)
    assert done.returncode == 127
    assert leases(config) == []
    gone = {**environment, "IMPALA_LB": "/nowhere/impala-lb"}
    assert subprocess.run(with_java(classes, "echo"), env=gone, capture_output=True).returncode == 125


def test_sigterm_while_java_waits_for_a_node_leaves_nothing(classes, environment, config):
    raw = json.loads(config.read_text())
    config.write_text(json.dumps({**raw, "nodes": [{"host": "n0", "max_leases": 1}], "max_wait": 60}))
    holder = lb("pick", "--hold", "60", config=config).stdout.split()[1]
    process = start(with_java(classes, *WAITING), environment)
    until(lambda: json.loads(lb("status", "--json", config=config).stdout)["waiting"])
    process.terminate()
    assert process.communicate(timeout=30)[0] == ""
    assert process.returncode == 143
    assert [lease["id"] for lease in leases(config)] == [holder]


def test_a_java_file_lock_is_granted_while_the_balancer_holds_the_file(javac, tmp_path):
    """Why the page says to call the command: on a local disk flock and Java's fcntl locks do not know of each other.
    The second half shows that Java's would be refused by a lock of its own kind."""
    import fcntl

    source = tmp_path / "TryLock.java"
    source.write_text(TRY_LOCK)
    classes = javac(source, tmp_path)
    lock = Lock(str(tmp_path / "lock"))

    def java_gets_it():
        command = ["java", "-cp", classes, "TryLock", lock.path]
        return subprocess.run(command, capture_output=True, text=True, check=True).stdout.strip()

    with lock.hold():
        assert java_gets_it() == "granted"
    with open(lock.path, "r+b") as file:
        fcntl.lockf(file, fcntl.LOCK_EX)
        assert java_gets_it() == "refused"


@pytest.fixture
def fake_shell(environment, tmp_path):
    """An impala-shell that notes its arguments and does what FAKE says."""
    noted = tmp_path / "arguments"
    command = tmp_path / "bin" / "impala-shell"
    command.write_text(f'#!/bin/sh\nprintf "%s\\n" "$@" >{noted}\neval "$FAKE"\n')
    command.chmod(0o755)
    return noted


SCRIPT = str(EXAMPLES / "run_on_impala.sh")


@pytest.mark.parametrize("shell", ["sh", "bash"])
def test_the_shell_script_passes_arguments_input_and_exit_code(shell, fake_shell, environment, config):
    environment["FAKE"] = "impala-lb status --json; cat; exit 3"
    done = subprocess.run(
        [shell, SCRIPT, "-f", "a b.sql", "--var=x=1 2"], env=environment, input="in", capture_output=True, text=True
    )
    assert done.returncode == 3, done.stderr
    protocol, flag, host, *arguments = fake_shell.read_text().splitlines()
    assert (protocol, flag, arguments) == ("--protocol=hs2", "-i", ["-f", "a b.sql", "--var=x=1 2"])
    status, given = done.stdout.splitlines()
    assert given == "in"
    assert [lease["node"] for lease in json.loads(status)["leases"]] == [host]
    assert leases(config) == []


@pytest.mark.parametrize("shell", ["sh", "bash"])
@pytest.mark.parametrize(("number", "code"), [(signal.SIGTERM, 143), (signal.SIGINT, 130), (signal.SIGHUP, 129)])
def test_a_signal_ends_impala_shell_and_then_the_lease(shell, number, code, fake_shell, environment, config):
    environment["FAKE"] = "echo $$; exec sleep 60"
    process = start([shell, SCRIPT, "-f", "x.sql"], environment)
    work = process.stdout.readline().strip()
    assert len(leases(config)) == 1
    process.send_signal(number)
    process.communicate(timeout=30)
    assert process.returncode == code
    assert not is_alive(work)
    assert leases(config) == []


def test_the_shell_script_begins_nothing_without_a_coordinator(fake_shell, environment, config):
    for node in range(3):
        lb("drain", f"n{node}:21050", config=config)
    done = subprocess.run([SCRIPT, "-f", "x.sql"], env=environment, capture_output=True, text=True)
    assert done.returncode == 125
    assert "drained" in done.stderr
    assert not fake_shell.exists()


def test_both_programs_run_a_script_by_the_real_impala_shell(impala_shell, classes, environment, tmp_path):
    script = tmp_path / "x.sql"
    script.write_text("CREATE TABLE ${var:t} (a INT);\nINSERT INTO ${var:t} VALUES (1), (2);\n")
    with Sandbox(nodes=2, lag=0, users=None) as cluster:  # this impala-shell has no SASL
        environment |= {"IMPALA_LB_CONFIG": str(cluster.config_file), "HOME": str(tmp_path)}
        by_java = with_java(
            classes, impala_shell, "--protocol=hs2", "-i", "{host}", "--var=t=by_java", "-f", str(script)
        )
        by_shell = [SCRIPT, "--var=t=by_shell", "-f", str(script)]
        environment["IMPALA_SHELL"] = impala_shell
        for command in (by_java, by_shell):
            done = subprocess.run(command, env=environment, capture_output=True, text=True, timeout=60)
            assert done.returncode == 0, done.stderr
            assert "Modified 2 row(s)" in done.stderr
        for table in ("by_java", "by_shell"):
            ran = [
                node.address
                for node in cluster.nodes
                for entry in node.journal()
                if f" {table} " in entry.get("sql", "")
            ]
            assert len(ran) == 2 and len(set(ran)) == 1
        assert leases(cluster.config_file) == []
