"""The doctor, on directories that are right and on ones that are wrong."""

import errno
import json
import os
import subprocess
import sys
import time

import pytest

from airflow_provider_impala_lb.doctor import lock_directory, lock_trial
from airflow_provider_impala_lb.doctor.lock_directory import check_lock_file, mount_options
from airflow_provider_impala_lb.sandbox import Sandbox
from airflow_provider_impala_lb.stores.file import filesystem, xattr_versions
from airflow_provider_impala_lb.stores.file.store import FileStore
from tests.support.broken_mounts import NO_LOCK, STALE_CACHE, commands
from tests.support.command_line import lb
from tests.support.web_servers import page_server


@pytest.fixture
def cluster():
    with Sandbox(nodes=3, lag=0) as cluster:
        yield cluster


def test_a_healthy_cluster(cluster):
    done = lb("doctor", config=cluster.config_file)
    assert done.returncode == 0, done.stdout
    lines = done.stdout.splitlines()
    assert len(lines) == 14
    told = [line for line in lines if not line.startswith("ok ")]
    assert len(told) == 1 and told[0].startswith("warning  file system: "), done.stdout  # this host's own disk
    assert "locking, two processes" in done.stdout
    assert "none stale, no update lost" in done.stdout
    assert "impalad version" in done.stdout
    assert not [name for name in os.listdir(cluster.directory) if "doctor" in name or "clock" in name]


def test_what_is_wrong_with_nodes_is_named(cluster):
    cluster.nodes[0].kill()
    cluster.nodes[1].drain()
    done = lb("doctor", "--json", config=cluster.config_file)
    assert done.returncode == 1
    found = {finding["name"]: finding for finding in json.loads(done.stdout)}
    first, second, third = (node.address for node in cluster.nodes)
    assert "connection refused" in found[f"node {first}"]["message"]
    assert found[f"node {first}"]["remedy"] == "start it, or drain it until it is back"
    assert found[f"web page of {first}"]["verdict"] == "warning"
    assert "Server is being shut down" in found[f"node {second}"]["message"]
    assert "is shutting down" in found[f"web page of {second}"]["message"]
    assert found[f"node {third}"]["verdict"] == "ok"


def web_checks(cluster, tmp_path, monkeypatch, password, **node):
    """What the doctor finds about the web page and the exporter of the first node."""
    config = cluster.config
    config["nodes"] = [{**config["nodes"][0], **node}]
    config["load"] = {"web_auth": "digest", "web_user": "ann"}
    path = tmp_path / "impala_lb.yml"
    path.write_text(json.dumps(config))
    monkeypatch.setenv("IMPALA_LB_WEB_PASSWORD", password)
    done = lb("doctor", "--json", config=path)
    assert password not in done.stdout + done.stderr
    address = cluster.nodes[0].address
    found = {finding["name"]: finding for finding in json.loads(done.stdout)}
    return done.returncode, found[f"web page of {address}"], found.get(f"exporter of {address}")


@pytest.mark.slow
def test_web_pages_are_asked_with_the_login_that_load_reports_use(tmp_path, monkeypatch):
    with Sandbox(nodes=1, lag=0, web_auth="digest", web_users={"ann": "s3cret"}) as cluster:
        code, page, exporter = web_checks(cluster, tmp_path, monkeypatch, "s3cret", exporter="http://127.0.0.1:9")
        assert (code, page["verdict"], page["message"]) == (0, "ok", cluster.nodes[0].web)
        assert exporter["verdict"] == "warning"
        assert "http://127.0.0.1:9: " in exporter["message"] and "refused" in exporter["message"]
        code, page, exporter = web_checks(cluster, tmp_path, monkeypatch, "wr0ng")
        assert (code, page["verdict"], exporter) == (0, "warning", None)
        assert "refused the login by digest as ann (401)" in page["message"]
        assert "load reports need it" in page["remedy"]


@pytest.mark.slow
def test_what_an_exporter_says_is_shown(tmp_path, monkeypatch):
    exposition = "node_load1 0.5\n" + "".join(f'node_cpu_seconds_total{{cpu="{n}",mode="idle"}} 1\n' for n in range(2))
    with (
        Sandbox(nodes=1, lag=0, web_auth="digest", web_users={"ann": "s3cret"}) as cluster,
        page_server({"/metrics": (200, exposition)}) as (url, _),
    ):
        _, page, exporter = web_checks(cluster, tmp_path, monkeypatch, "s3cret", exporter=url)
        assert exporter["verdict"] == "ok" and "cpu 75%" in exporter["message"]
        cluster.nodes[0].drain()
        _, page, exporter = web_checks(cluster, tmp_path, monkeypatch, "s3cret")
        assert "is shutting down" in page["message"]


@pytest.mark.slow
def test_an_executor_in_the_list_is_a_failure(cluster, tmp_path):
    config = cluster.config
    root = {"is_coordinator": False, "process_start_time": "2026-05-29 08:00:01"}
    with page_server({"/?json": (200, root), "/jsonmetrics?json": (200, {"impala-server.ready": True})}) as (url, _):
        config["nodes"] = [{**config["nodes"][0], "web": url}]
        path = tmp_path / "impala_lb.yml"
        path.write_text(json.dumps(config))
        done = lb("doctor", "--json", config=path)
    found = {finding["name"]: finding for finding in json.loads(done.stdout)}[f"web page of {cluster.nodes[0].address}"]
    assert (done.returncode, found["verdict"], found["remedy"]) == (1, "failed", "take it off the list of nodes")


def test_a_bad_config_and_a_missing_directory(tmp_path):
    bad = tmp_path / "bad.yml"
    bad.write_text("nodes: [a]\npolcy: x\n")
    done = lb("doctor", config=bad)
    assert done.returncode == 1
    assert done.stdout.startswith("failed   config: ")
    assert "polcy: unknown key" in done.stdout
    (finding,) = check_lock_file("/nowhere/at/all/lock")
    assert finding.verdict == "failed" and "its directory is not there" in finding.message
    assert finding.message.endswith(" /")


def verdicts(directory, **options):
    return {finding.name: finding for finding in check_lock_file(str(directory / "lock"), **options)}


@pytest.fixture
def fast(monkeypatch):
    """Few turns are enough where it is not the file system that is tried."""
    start = subprocess.Popen
    program = "from airflow_provider_impala_lb.doctor import lock_trial; "
    program += "lock_trial.FAST_SECONDS, lock_trial.SLOW_TURNS = 0.1, 1; "
    program += "import msgspec, sys; print(msgspec.json.encode(lock_trial.run_trial(tuple(sys.argv[1:]))).decode())"

    def hurried(command, **options):
        return start([sys.executable, "-c", program, *command[3:]], **options)

    monkeypatch.setattr(lock_directory.subprocess, "Popen", hurried)


def test_the_mode_is_named_and_tried(tmp_path, monkeypatch, fast):
    found = verdicts(tmp_path)
    assert "mode slots" in found["file system"].message
    assert found["locking, two processes"].verdict == "ok"
    monkeypatch.setattr(filesystem, "kind", lambda descriptor: 0x65735546)
    used = []
    make = xattr_versions.make
    monkeypatch.setattr(xattr_versions, "make", lambda path: used.append(path) or make(path))
    found = verdicts(tmp_path)
    assert found["file system"].verdict == "ok"
    assert "FUSE" in found["file system"].message
    assert "mode cas" in found["file system"].message
    assert found["locking, two processes"].verdict == "ok"
    assert len(used) == 1
    assert os.listdir(tmp_path) == []


def test_a_file_in_the_mode_of_another_mount_is_tried_in_that_mode(tmp_path, fast):
    xattr_versions.make(str(tmp_path / "lock"))
    found = verdicts(tmp_path)
    assert "mode cas" in found["file system"].message
    assert found["locking, two processes"].verdict == "ok"


def test_a_lock_file_that_cannot_be_used_here_is_flagged(tmp_path, monkeypatch):
    FileStore(str(tmp_path / "lock")).transact(lambda state, now: None)
    monkeypatch.setattr(filesystem, "kind", lambda descriptor: 0x65735546)
    found = verdicts(tmp_path)
    assert found["lock file"].verdict == "failed"
    assert "was made on another file system" in found["lock file"].message
    assert "locking, two processes" not in found


def test_a_file_system_without_attributes_is_flagged(tmp_path, monkeypatch):
    def refused(*arguments):
        raise OSError(errno.EOPNOTSUPP, "Operation not supported")

    monkeypatch.setattr(filesystem, "kind", lambda descriptor: 0x65735546)
    monkeypatch.setattr(os, "setxattr", refused)
    found = verdicts(tmp_path)["locking, two processes"]
    assert found.verdict == "failed"
    assert "has no extended attributes" in found.message
    assert os.listdir(tmp_path) == []


def test_open_directories_and_files_are_flagged(tmp_path):
    directory = tmp_path / "open"
    directory.mkdir()
    directory.chmod(0o777)
    assert "anybody may write" in modes_of(directory)
    directory.chmod(0o770)
    (directory / "lock").touch()
    (directory / "lock").chmod(0o666)
    assert "others may open" in modes_of(directory)


@pytest.mark.slow
def test_journals_that_a_group_cannot_share_are_flagged(tmp_path):
    tmp_path.chmod(0o2770)
    journals = tmp_path / "lock.journal"
    assert "journals" not in verdicts(tmp_path)
    journals.mkdir(mode=0o700)
    journals.chmod(0o700)
    found = verdicts(tmp_path)["journals"]
    assert (found.verdict, f"chmod 2770 {journals}" in found.remedy) == ("warning", True)
    journals.chmod(0o2770)
    assert "journals" not in verdicts(tmp_path)
    journals.chmod(0o777)
    assert verdicts(tmp_path)["journals"].verdict == "failed"


def modes_of(directory):
    return next(finding.message for finding in check_lock_file(str(directory / "lock")) if finding.name == "modes")


def test_mount_options_are_those_of_the_innermost_mount(tmp_path):
    table = tmp_path / "mountinfo"
    table.write_text(
        "1 0 8:1 / / rw,relatime shared:1 - ext4 /dev/vda rw\n"
        "2 1 0:50 / /nas rw,noatime - nfs4 server:/x rw,vers=4.2,local_lock=none\n"
        "3 1 0:51 / /nas\\040old rw - nfs server:/y rw,vers=3,nolock,soft\n"
    )
    assert mount_options("/nas/impala", str(table)) == {"rw", "noatime", "vers=4.2", "local_lock=none"}
    assert {"nolock", "soft"} <= mount_options("/nas old", str(table))
    assert "relatime" in mount_options("/nasty", str(table))
    assert "rw" in mount_options(str(tmp_path))


BAD = ["nolock", "local_lock=flock", "local_lock=all", "localflock", "localflocks", "flock=local", "soft", "ro"]


@pytest.mark.parametrize("bad", BAD)
def test_bad_mount_options_are_flagged(tmp_path, monkeypatch, bad):
    monkeypatch.setattr(lock_directory, "mount_options", lambda path: {"rw", bad})
    monkeypatch.setattr(lock_directory, "_check_locking", lambda *_: None)
    found = {finding.name: finding for finding in check_lock_file(str(tmp_path / "lock")) if finding}
    assert found["mount options"].verdict == "failed"
    assert ("only processes of this host" in found["mount options"].message) == (bad not in ("soft", "ro"))


@pytest.mark.parametrize("kind", ["tmpfs", "overlay", "ext"])
def test_a_directory_that_no_other_host_sees_is_a_warning(tmp_path, monkeypatch, kind):
    (magic,) = (magic for magic, name in filesystem.COHERENT.items() if name == kind)
    monkeypatch.setattr(filesystem, "kind", lambda descriptor: magic)
    monkeypatch.setattr(lock_directory, "_check_locking", lambda *_: None)
    found = {finding.name: finding for finding in check_lock_file(str(tmp_path / "lock")) if finding}
    assert found["file system"].verdict == "warning"
    assert f"{tmp_path} lies on {kind}" in found["file system"].message
    assert "Other hosts, and containers without this directory, do not see it" in found["file system"].message
    assert found["file system"].remedy.startswith("nothing, if all that use the cluster run here")
    assert found["clock"].message == "this host's own"
    monkeypatch.setattr(filesystem, "kind", lambda descriptor: filesystem.NFS)
    found = {finding.name: finding for finding in check_lock_file(str(tmp_path / "lock")) if finding}
    assert found["file system"].verdict == "ok" and "beside the file server" in found["clock"].message


@pytest.mark.slow
def test_a_real_overlay_is_known(tmp_path):
    """As in a container that was given no volume."""
    for name in ("lower", "upper", "work", "merged"):
        (tmp_path / name).mkdir()
    options = f"lowerdir={tmp_path}/lower,upperdir={tmp_path}/upper,workdir={tmp_path}/work"
    command = ["mount", "-t", "overlay", "overlay", "-o", options, str(tmp_path / "merged")]
    if (made := subprocess.run(command, capture_output=True, text=True)).returncode:
        pytest.skip(f"no overlay can be mounted here, so one is NOT tested: {made.stderr}")
    try:
        first, *_ = check_lock_file(str(tmp_path / "merged" / "lock"))
    finally:
        subprocess.run(["umount", str(tmp_path / "merged")], check=True)
    assert first.verdict == "warning" and "lies on overlay; mode slots" in first.message


def test_a_clock_that_is_off_is_a_warning(tmp_path, monkeypatch):
    monkeypatch.setattr(lock_directory, "server_time", lambda directory: time.time() - 600)
    monkeypatch.setattr(filesystem, "kind", lambda descriptor: filesystem.NFS)
    monkeypatch.setattr(lock_directory, "_check_locking", lambda *_: None)
    found = {finding.name: finding for finding in check_lock_file(str(tmp_path / "lock")) if finding}
    assert found["clock"].verdict == "warning"
    assert "+600 s off the file server" in found["clock"].message


BROKEN = """
import fcntl, sys
import msgspec
from airflow_provider_impala_lb.core.state.state import encode_head
from airflow_provider_impala_lb.doctor import lock_trial
from airflow_provider_impala_lb.stores.file import state_slots, store
{breakage}
lock_trial.FAST_SECONDS, lock_trial.SLOW_TURNS = 0.3, 1
print(msgspec.json.encode(lock_trial.run_trial((sys.argv[1], sys.argv[1]))).decode())
"""


def run_trial(path, breakage=""):
    done = subprocess.run(
        [sys.executable, "-c", BROKEN.format(breakage=breakage), str(path)],
        capture_output=True,
        text=True,
        timeout=60,
    )
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout)


def test_locks_that_do_not_exclude_are_found(tmp_path):
    assert run_trial(tmp_path / "right")["lost"] == 0
    assert run_trial(tmp_path / "broken", NO_LOCK)["lost"] > 0


def test_reads_that_are_stale_are_found(tmp_path):
    found = run_trial(tmp_path / "cached", STALE_CACHE)
    assert found["stale"] > found["turns"] / 2


def test_a_lock_that_hangs_is_given_up(tmp_path, monkeypatch):
    monkeypatch.setattr(lock_directory, "TRIAL_LIMIT", 0.2)
    assert "no lock within 0.2 s" in verdicts(tmp_path)["locking, two processes"].message
    end = time.monotonic() + 5
    while any(str(tmp_path) in command for command in commands()):
        assert time.monotonic() < end, "a process was left behind"
        time.sleep(0.05)


@pytest.mark.slow
def test_two_mounts_of_one_directory(tmp_path):
    (tmp_path / "share").mkdir()
    (tmp_path / "again").symlink_to(tmp_path / "share")
    found = verdicts(tmp_path / "share", peer=str(tmp_path / "again"))
    assert found["locking, two mounts"].verdict == "ok"
    assert lock_trial.SLOW_TURNS == 3
