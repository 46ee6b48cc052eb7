"""A lock file's directory that is not what the configuration takes it for is an error at once; one that this host has
used, and that is away, is an outage."""

import errno
import json
import os
import pathlib
import re
import subprocess
import sys
import tempfile

import pytest

from airflow_provider_impala_lb import Balancer
from airflow_provider_impala_lb.errors import ConfigError
from tests.support.refusing import SUPPORTED
from tests.support.shares import remount

NODES = ["a", "b", "c"]

PROCESS = """
import json, os, sys
from airflow_provider_impala_lb import Balancer
from airflow_provider_impala_lb.stores.factory import open_journals
import airflow_provider_impala_lb.stores.file.store  # while this user may read what Python is made of
import airflow_provider_impala_lb.stores.journals.file
config, before, what = json.loads(sys.argv[1])
exec(before)
balancer = Balancer.from_config(config)
try:
    if what == "journal with state":
        balancer.get_host()
    if what.startswith("journal"):
        open_journals(balancer.config).change("key", lambda document, now: (None, b"{}"))
        print("written")
    else:
        print(getattr(balancer, what)().why)
except Exception as error:
    print(type(error).__name__, error)
"""


@pytest.fixture(autouse=True)
def marks(tmp_path, monkeypatch):
    """Where this host's memory is, for all processes of the test."""
    place = tmp_path / "var tmp"
    place.mkdir(mode=0o777)
    place.chmod(0o1777)
    monkeypatch.setenv("TMPDIR", str(place))
    return place


def config_of(directory, **keys):
    return {"nodes": NODES, "lock_file": str(directory / "node_in_use.tmp"), "max_leases": 2, "max_wait": 1, **keys}


def process(directory, what="pick", *, before=""):
    """What a new process on this host says."""
    found = subprocess.run(
        [sys.executable, "-c", PROCESS, json.dumps([config_of(directory), before, what])],
        capture_output=True,
        text=True,
        timeout=60,
    )
    assert found.returncode == 0, found.stderr
    return found.stdout


@pytest.mark.parametrize("what", ["pick", "acquire", "journal"])
def test_a_directory_that_this_host_has_never_seen(tmp_path, what):
    said = process(tmp_path / "typo" / "impala", what)
    assert said.startswith(f"ConfigError lock_file {tmp_path}/typo/impala/node_in_use.tmp")
    assert "is not there, and this host" in said and "mount the share here, or make the directory: mkdir" in said
    assert f"There is: {tmp_path}" in said
    with pytest.raises(ConfigError, match="has never used it"):
        Balancer.from_config(config_of(tmp_path / "typo")).status()


def test_a_share_that_this_host_has_used_is_an_outage_for_new_processes_too(share, marks):
    where = share / "impala"
    assert "ready" not in process(where)
    subprocess.run(["umount", "-l", str(share)], check=True)
    for what in ("pick", "acquire"):
        assert "out of reach" in process(where, what)
    assert process(where, "journal").startswith("StateUnavailable")
    assert process(share / "inpala").startswith("ConfigError"), "another directory there was never used"
    (mine,) = marks.iterdir()
    assert (mine.stat().st_mode & 0o777, len(list(mine.iterdir()))) == (0o700, 1)


def test_what_lies_on_the_hosts_own_disk_is_not_remembered(tmp_path, marks):
    (tmp_path / "local").mkdir()
    process(tmp_path / "local")
    assert [entry for place in marks.iterdir() for entry in place.iterdir()] == []
    (tmp_path / "local" / "node_in_use.tmp").unlink()
    (tmp_path / "local").rmdir()
    assert process(tmp_path / "local").startswith("ConfigError")


@pytest.mark.parametrize(
    "attack", ["link to another's directory", "another's directory", "open to all", "link as mark"]
)
def test_marks_that_others_could_have_made_are_not_believed(share, marks, attack):
    """And nothing is written through a link."""
    where = share / "impala"
    mine, theirs = marks / f"impala-lb-{os.geteuid()}", marks / "theirs"
    theirs.mkdir()
    if attack == "link to another's directory":
        mine.symlink_to(theirs)
    elif attack == "another's directory":
        mine.mkdir(mode=0o700)
        os.chown(mine, 65534, 65534)
    elif attack == "open to all":
        mine.mkdir()
        mine.chmod(0o777)
    process(where)
    if attack == "link as mark":
        (mark,) = mine.iterdir()
        mark.unlink()
        mark.symlink_to(theirs / "target")
        process(where)
    subprocess.run(["umount", "-l", str(share)], check=True)
    assert process(where).startswith("ConfigError")
    assert list(theirs.iterdir()) == []


def test_a_share_that_is_read_only_from_the_start(share):
    remount(share, "ro")
    for what in ("pick", "acquire", "journal"):
        said = process(share / "impala", what)
        assert said.startswith("ConfigError lock_file") and "Read-only file system" in said
        assert f"mount -o remount,rw {share}" in said
    remount(share, "rw")
    process(share / "impala")
    remount(share, "ro")
    assert "out of reach" in process(share / "impala")


AS_NOBODY = "import os; os.setgroups([]); os.setgid(65534); os.setuid(65534)"


@pytest.fixture
def reachable():
    """A directory that another user may come to; pytest's own are closed again by each pytest that begins."""
    if os.geteuid():
        pytest.skip("not root: another user's rights are NOT tested")
    with tempfile.TemporaryDirectory(dir="/tmp", prefix="impala-lb-test-", ignore_cleanup_errors=True) as place:
        os.chmod(place, 0o755)
        nas = pathlib.Path(place) / "nas"
        nas.mkdir()
        yield nas


@pytest.mark.parametrize("what", ["pick", "acquire", "journal"])
@pytest.mark.parametrize("case", ["directory", "file", "entering"])
def test_a_user_without_rights_is_told_the_group(reachable, what, case):
    reachable.chmod(0o2770 if case == "entering" else 0o755)
    if case == "file":
        reachable.chmod(0o777)
        process(reachable)
        process(reachable, "journal")
    said = process(reachable, what, before=AS_NOBODY)
    assert said.startswith("ConfigError"), said
    if (case, what) != ("file", "journal"):  # that belongs to one user, in any case
        assert "Permission denied" in said and "runs as user nobody with the groups nogroup" in said
        assert "add the user to group root" in said and f"chmod 2770 {reachable}" in said


ON_NFS = "from airflow_provider_impala_lb.stores.file import filesystem; filesystem.kind = lambda _: filesystem.NFS; "


def test_who_cannot_have_the_file_servers_time_does_not_go_by_his_own(reachable):
    """A local directory that is taken for NFS (a mock), with a user who may write the lock file and nothing else."""
    reachable.chmod(0o755)
    process(reachable, before=ON_NFS)
    (reachable / "node_in_use.tmp").chmod(0o666)
    for what in ("pick", "acquire"):
        said = process(reachable, what, before=ON_NFS + AS_NOBODY)
        assert said.startswith("ConfigError lock_file"), said
        assert "the file server's time, by which leases end, cannot be measured" in said
        assert f"{reachable} belongs to root:root with mode drwxr-xr-x" in said and f"chmod 2770 {reachable}" in said
    look = "print(Balancer.from_config(config).status()['nodes'][0]['node'])"
    assert process(reachable, before=f"{ON_NFS}{AS_NOBODY}; {look}").startswith("a:21050")


@pytest.mark.parametrize("made", [True, False])
def test_journals_of_another_user_are_an_error_although_the_state_may_be_used(reachable, made):
    reachable.chmod(0o755)
    process(reachable, "journal with state" if made else "pick")
    (reachable / "node_in_use.tmp").chmod(0o666)
    said = process(reachable, "journal with state", before=AS_NOBODY)
    assert said.startswith(f"ConfigError lock_file {reachable}/node_in_use.tmp.journal: "), said
    assert "Permission denied" in said and "runs as user nobody" in said


@pytest.mark.skipif(not SUPPORTED, reason="seccomp filters are written for x86_64")
@pytest.mark.parametrize(
    ("call", "code", "says"),
    [
        ("flock", errno.ENOLCK, r"No locks available\. .*gives no locks: NFSv3 needs rpc\.statd.*vers=4\.2"),
        ("flock", errno.ENOSYS, "Function not implemented.*lacks what the shared state needs"),
        ("flock", errno.EOPNOTSUPP, "Operation not supported.*lacks what the shared state needs"),
        ("link", errno.EPERM, "makes no hard links"),
        ("link", errno.EOPNOTSUPP, "makes no hard links"),
    ],
)
def test_a_mount_without_locks_or_links(tmp_path, call, code, says):
    refuse = f"import sys; sys.path.insert(0, {os.getcwd()!r}); from tests.support.refusing import refuse; "
    before = f"{refuse}refuse({call!r}, {code})"
    for what in ("journal",) if call == "link" else ("pick", "acquire", "journal"):
        said = process(tmp_path, what, before=before)
        assert said.startswith("ConfigError lock_file"), said
        assert re.search(says, said), said


def test_locks_that_were_there_before_are_an_outage(tmp_path):
    """A lock manager that is started anew; not a system call that there is not."""
    before = f"import sys; sys.path.insert(0, {os.getcwd()!r}); from tests.support.refusing import refuse; "
    before += "Balancer.from_config(config).pick(); "
    if SUPPORTED:
        assert "out of reach" in process(tmp_path, before=f"{before}refuse('flock', {errno.ENOLCK})")
        assert process(tmp_path, before=f"{before}refuse('flock', {errno.ENOSYS})").startswith("ConfigError")


def test_trying_out_leaves_nothing_behind(tmp_path):
    (tmp_path / "nas").mkdir()
    balancer = Balancer.from_config(config_of(tmp_path / "nas"))
    balancer.cluster.store.try_out()
    assert list((tmp_path / "nas").iterdir()) == []
    balancer.get_host()
    balancer.cluster.store.try_out()
    assert [entry.name for entry in (tmp_path / "nas").iterdir()] == ["node_in_use.tmp"]
