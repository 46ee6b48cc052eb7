"""The doctors of two hosts: real processes on loopback that stand for hosts, with one directory or with two."""

import contextlib
import json
import os
import signal
import socket
import subprocess
import sys
import threading
import time
from concurrent.futures import ThreadPoolExecutor

import msgspec
import pytest

from airflow_provider_impala_lb.doctor import two_hosts
from airflow_provider_impala_lb.doctor.two_hosts import check_other_host, parse_listen, parse_peer
from airflow_provider_impala_lb.doctor.two_hosts_protocol import GREETING, VERSION, Task, TwoHostResult
from airflow_provider_impala_lb.errors import ConfigError
from airflow_provider_impala_lb.stores.file import xattr_versions
from tests.support.broken_mounts import NO_LOCK, STALE_CACHE, commands
from tests.support.command_line import COMMAND, lb

PROGRAM = """
import fcntl, sys
from airflow_provider_impala_lb.core.state.state import encode_head
from airflow_provider_impala_lb.doctor import lock_trial, two_hosts, two_hosts_protocol
from airflow_provider_impala_lb.stores.file import filesystem, state_slots, store
lock_trial.FAST_SECONDS, lock_trial.SLOW_TURNS, lock_trial.SLOW_PAUSE, two_hosts.GREETING_SECONDS = 0.3, 1, 0.1, 0.3
{breakage}
two_hosts.main(sys.argv[1])
"""
NAME = ".impala-lb-doctor.0123456789abcdef"
HELLO = f"{GREETING} {VERSION} c lock\n".encode()


@pytest.fixture
def port():
    with socket.create_server(("127.0.0.1", 0)) as server:
        return server.getsockname()[1]


@pytest.fixture
def shared(tmp_path):
    """Two paths to one directory."""
    (tmp_path / "share").mkdir()
    (tmp_path / "again").symlink_to(tmp_path / "share")
    return tmp_path / "share", tmp_path / "again"


@pytest.fixture
def begin():
    """One host as the doctor starts it, quick, and maybe broken. Ended with the test."""
    with contextlib.ExitStack() as started:

        def begin(directory, port, listens, breakage="", cluster="c"):
            task = Task(str(directory / "lock"), cluster, "127.0.0.1", port, 20.0, NAME if listens else "")
            process = started.enter_context(
                subprocess.Popen(
                    [sys.executable, "-c", PROGRAM.format(breakage=breakage), json.dumps(as_json(task))],
                    stdin=subprocess.PIPE,
                    stdout=subprocess.PIPE,
                    stderr=subprocess.PIPE,
                    text=True,
                )
            )
            started.callback(process.kill)
            if listens:
                assert "for the other host" in process.stderr.readline()
            return process

        yield begin


def as_json(task):
    return {name: getattr(task, name) for name in task.__struct_fields__}


def ended(process):
    process.wait(40)
    assert process.returncode == 0, process.stderr.read()
    return json.loads(process.stdout.read())


def both(first, second, port, wait=20.0, clusters=("c", "c")):
    """The checks of both sides, by name; first that of the listener."""

    def side(directory, cluster, listen):
        found = check_other_host(str(directory / "lock"), cluster, ("127.0.0.1", port), listen=listen, wait=wait)
        return {finding.name: finding for finding in found}

    with ThreadPoolExecutor(2) as pool:
        return [
            each.result()
            for each in [pool.submit(side, first, clusters[0], True), pool.submit(side, second, clusters[1], False)]
        ]


def leftovers(*directories):
    return [name for directory in directories for name in os.listdir(directory) if "doctor" in name]


@pytest.mark.slow
def test_two_doctors_say_the_same_of_one_directory(shared, port, tmp_path):
    commands = []
    for number, (directory, option) in enumerate(
        zip(shared, (["--listen", str(port)], ["--peer", f"127.0.0.1:{port}"]), strict=True)
    ):
        config = tmp_path / f"{number}.yml"
        config.write_text(json.dumps({"name": "c", "nodes": ["127.0.0.1:1"], "lock_file": str(directory / "lock")}))
        commands.append([*COMMAND, "--config", str(config), "doctor", *option, "--json"])
    with ThreadPoolExecutor(2) as pool:
        done = list(
            pool.map(lambda command: subprocess.run(command, capture_output=True, text=True, timeout=60), commands)
        )
    said = [{finding["name"]: finding for finding in json.loads(each.stdout)} for each in done]
    names = ["lock directory, two hosts", "clock, two hosts", "locking, two hosts"]
    assert [name for name in said[0] if name.endswith("two hosts")] == names
    assert all(side[name]["verdict"] == "ok" for side in said for name in names)
    assert said[0][names[0]] == said[1][names[0]]
    assert said[0][names[2]] == said[1][names[2]]
    assert "none stale, no update lost" in said[0][names[2]]["message"]
    assert f"waiting 60 s at 127.0.0.1:{port}" in done[0].stderr
    assert not leftovers(*shared)


def test_two_different_directories_are_named(tmp_path, port):
    first, second = tmp_path / "a", tmp_path / "b"
    first.mkdir()
    second.mkdir()
    said = both(first, second, port)
    assert said[0] == said[1]
    (check,) = said[0].values()
    assert check.verdict == "failed"
    assert f"{first} and" in check.message and f"{second} are not the same directory" in check.message
    assert not os.listdir(first) and not os.listdir(second)


@pytest.mark.parametrize("broken", ["listener", "caller"])
def test_a_lock_that_does_nothing_on_one_host_is_found_by_both(shared, port, begin, broken):
    listener = begin(shared[0], port, True, NO_LOCK if broken == "listener" else "")
    caller = begin(shared[1], port, False, NO_LOCK if broken == "caller" else "")
    found = ended(listener)
    assert ended(caller) == found
    assert found["trial"]["lost"] > 0
    assert not leftovers(*shared)


@pytest.mark.parametrize("broken", ["listener", "caller"])
def test_a_cache_that_is_stale_on_one_host_is_found_by_both(shared, port, begin, broken):
    listener = begin(shared[0], port, True, STALE_CACHE if broken == "listener" else "")
    caller = begin(shared[1], port, False, STALE_CACHE if broken == "caller" else "")
    found = ended(listener)
    assert ended(caller) == found
    assert found["trial"]["stale"] > 0


def test_the_clocks_are_compared(shared, port, begin):
    listener = begin(shared[0], port, True)
    caller = begin(
        shared[1], port, False, "import time; now = time.time; two_hosts_protocol.time.time = lambda: now() - 90"
    )
    found = ended(listener)
    assert ended(caller) == found
    assert 0 < found["uncertainty"] < 0.1
    assert abs(found["ahead"] - 90) <= found["uncertainty"] + 0.01
    for listen, says in ((True, "+90.0"), (False, "-90.0")):
        checks = {finding.name: finding for finding in two_hosts.judge(msgspec.convert(found, TwoHostResult), listen)}
        assert checks["clock, two hosts"].verdict == "warning"
        assert f"this host is {says}" in checks["clock, two hosts"].message


def test_strays_are_sent_away(shared, port, begin):
    listener = begin(shared[0], port, True)
    for said in (b"", b"GET / HTTP/1.1\r\n\r\n", b"\xff" * 100_000, HELLO.replace(b" ", b"s ", 1)):
        with socket.create_connection(("127.0.0.1", port), timeout=5) as stray, contextlib.suppress(OSError):
            stray.sendall(said)
            assert stray.recv(100) == b""
    with socket.create_connection(("127.0.0.1", port)):  # says nothing, and stays
        caller = begin(shared[1], port, False)
        found = ended(listener)
    assert ended(caller) == found
    assert found["trial"]["lost"] == 0


def test_nobody_else_is_let_in_once_they_have_met(shared, port, begin):
    listener = begin(shared[0], port, True)
    with socket.create_connection(("127.0.0.1", port)) as first:
        first.sendall(HELLO)
        assert first.recv(100) == HELLO
        end = time.monotonic() + 5  # it closes the port just after its answer
        with pytest.raises(ConnectionRefusedError):
            while time.monotonic() < end:
                socket.create_connection(("127.0.0.1", port)).close()
    assert ended(listener)["failed"].endswith("the other host has gone in the middle")


def test_only_the_given_address_is_listened_on(shared, port, begin):
    begin(shared[0], port, True)
    with pytest.raises(ConnectionRefusedError):
        socket.create_connection(("127.0.0.2", port))


def only(checks):
    (check,) = checks
    assert (check.name, check.verdict) == ("other host", "failed")
    return check


def test_nobody_comes_and_nobody_is_there(shared, port):
    where = (str(shared[0] / "lock"), "c", ("127.0.0.1", port))
    nobody = only(check_other_host(*where, listen=True, wait=0.3, command="impala-lb --conn-id x"))
    assert nobody.message == f"nobody came to 127.0.0.1:{port} within 0.3 s"
    assert f"impala-lb --conn-id x doctor --peer 127.0.0.1:{port}" in nobody.remedy
    refused = only(check_other_host(*where, listen=False, wait=0.3))
    assert refused.message == f"cannot reach 127.0.0.1:{port}: Connection refused"
    assert "doctor --listen" in refused.remedy
    with socket.create_server(("127.0.0.1", port)):
        taken = only(check_other_host(*where, listen=True, wait=5))
    assert "cannot listen on" in taken.message and "in use" in taken.message
    gone = only(check_other_host("/nowhere/at/all/lock", "c", ("127.0.0.1", port), listen=True, wait=5))
    assert "its directory is not there" in gone.message
    assert not leftovers(*shared)


def test_another_cluster_and_another_lock_file_are_named_on_both_sides(shared, port):
    first, second = (only(side.values()) for side in both(*shared, port, clusters=("a b", "c")))
    assert first.message == "the other host is of another cluster: c, not a b"
    assert second.message == "the other host is of another cluster: a b, not c"
    assert first.remedy == second.remedy == "give both hosts the same configuration"


def talk(port, *lines):
    """A listener that answers each line with the next of these; then it says no more."""
    server = socket.create_server(("127.0.0.1", port))

    def serve():
        with (
            server,
            server.accept()[0] as connection,
            connection.makefile("rb") as read,
            contextlib.suppress(ConnectionError),
        ):
            for line in lines:
                read.readline()
                connection.sendall(line)
            read.readline()

    thread = threading.Thread(target=serve, daemon=True)
    thread.start()
    return thread


@pytest.mark.parametrize(
    ("lines", "says"),
    [
        ([b"impala-lb-doctor 1 c lock\n"], f"the other host has version 1 of this check, this one {VERSION}"),
        ([HELLO.replace(b"lock\n", b"lock.tmp\n")], "another lock file: lock.tmp, not lock"),
        ([b"impala-lb-doctor\n"], "version ? of this check"),
        ([b"HTTP/1.1 400 Bad Request\r\n"], "is not impala-lb doctor --listen"),
        ([HELLO, b'{"host":"x","directory":"/","file":"../x"}\n'], "it named the file '../x'"),
        ([HELLO, b'{"host":7}\n'], "sent what is not understood"),
        ([HELLO, b"x" * 99_999], "has gone in the middle"),
        ([HELLO, b'{"host":"x","directory":"/","file":"%s"}\n' % NAME.encode(),
          b'{"failed":"a\\u001b[31mb"}\n'], "a?[31mb"),
    ],
)  # fmt: skip
def test_a_listener_that_is_another_or_odd(shared, port, lines, says):
    thread = talk(port, *lines)
    assert (
        says in only(check_other_host(str(shared[0] / "lock"), "c", ("127.0.0.1", port), listen=False, wait=5)).message
    )
    thread.join(10)
    assert not os.listdir(shared[0])


def test_a_caller_that_is_killed_is_missed(shared, port, begin):
    listener = begin(shared[0], port, True, "lock_trial.FAST_SECONDS = 30")
    caller = begin(shared[1], port, False)
    time.sleep(1)
    caller.kill()
    found = ended(listener)
    assert found["failed"].endswith("the other host has gone in the middle")
    assert found["same"]
    assert not leftovers(*shared)


def test_a_lock_that_is_not_to_be_had_is_said_on_both(shared, port, begin):
    breakage = """
class Stuck(store.FileStore):
    def transact(self, change):
        raise two_hosts.ImpalaLBError("its lock was not free")
lock_trial.FileStore = Stuck
"""
    listener = begin(shared[0], port, True)
    caller = begin(shared[1], port, False, breakage)
    found = ended(listener)
    assert ended(caller) == found
    assert found["failed"].endswith(": its lock was not free")


def test_a_check_that_hangs_is_given_up(shared, port, monkeypatch):
    monkeypatch.setattr(two_hosts, "TOGETHER_LIMIT", 0.5)
    where = (str(shared[0] / "lock"), "c", ("127.0.0.1", port))
    with socket.create_server(("127.0.0.1", port)):  # takes the connection, and is silent
        start = time.monotonic()
        assert "no result within 1.5 s" in only(check_other_host(*where, listen=False, wait=1.0)).message
        assert time.monotonic() - start < 5
    until_gone(shared[0])


@pytest.mark.slow
def test_who_waits_ends_with_the_doctor_that_was_killed(shared, port, tmp_path):
    config = tmp_path / "c.yml"
    config.write_text(json.dumps({"nodes": ["127.0.0.1:1"], "lock_file": str(shared[0] / "lock")}))
    command = [*COMMAND, "--config", str(config), "doctor", "--listen", str(port)]
    process = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True)
    assert "for the other host" in process.stderr.readline()
    assert leftovers(shared[0])
    process.send_signal(signal.SIGKILL)
    process.communicate(timeout=10)
    until_gone(shared[0])
    assert not leftovers(shared[0])


def until_gone(directory):
    end = time.monotonic() + 5
    while any(str(directory) in command and "doctor.two_hosts" in command for command in commands()):
        assert time.monotonic() < end, "a process was left behind"
        time.sleep(0.05)


def test_directories_and_addresses_are_told_apart(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "h:1").mkdir()
    assert parse_peer("h:1") == "h:1"
    assert parse_peer("/not/there") == "/not/there"
    assert parse_peer("host:4711") == ("host", 4711)
    assert parse_peer("[::1]:4711") == ("::1", 4711)
    assert parse_listen("4711") == ("127.0.0.1", 4711)
    assert parse_listen("10.0.0.5:4711") == ("10.0.0.5", 4711)
    for wrong in ("nas", "host:99999", "a b:1"):
        with pytest.raises(ConfigError, match=r"a directory that is there, or HOST:PORT is expected"):
            parse_peer(wrong)
    with pytest.raises(ConfigError, match=r"\[ADDRESS:\]PORT is expected"):
        parse_listen("10.0.0.5")


def test_without_a_lock_file_there_is_nothing_to_try(tmp_path):
    config = tmp_path / "c.yml"
    config.write_text(json.dumps({"nodes": ["127.0.0.1:1"]}))
    done = lb("doctor", "--listen", "4711", config=config)
    assert "failed   other host: impala has no lock file to try from two sides" in done.stdout
    assert lb("doctor", "--listen", "1", "--peer", "h:1", config=config).returncode == 2
    assert lb("doctor", "--peer", "nas", config=config).stderr.startswith("impala-lb: --peer nas: a directory")


@pytest.mark.parametrize("forced", ["file", "both"])
def test_two_hosts_in_the_mode_cas(shared, port, begin, forced):
    xattr_versions.make(str(shared[0] / "lock"))
    breakage = "filesystem.kind = lambda descriptor: 0x65735546" if forced == "both" else ""
    listener = begin(shared[0], port, True, breakage)
    assert os.listxattr(shared[0] / NAME)
    caller = begin(shared[1], port, False, breakage)
    found = ended(listener)
    assert ended(caller) == found
    assert found["trial"]["lost"] == found["trial"]["stale"] == 0
    assert os.listdir(shared[0]) == ["lock"]
