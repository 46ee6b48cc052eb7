"""The journals' directory: private, in hostile hands, on a share that fails; and what a sweep finds in it."""

import errno
import fcntl
import os
import signal
import stat
import subprocess
import time

import pytest

from airflow_provider_impala_lb.errors import ConfigError, StateUnavailable
from airflow_provider_impala_lb.stores.file.new_file import hidden_path
from airflow_provider_impala_lb.stores.file.store import FileStore
from airflow_provider_impala_lb.stores.journals.file import FileJournals
from tests.support.shares import remount
from tests.support.store_changes import KEY, bump, file_of, put
from tests.support.xattr_files import UNKNOWN


@pytest.fixture
def journals(tmp_path):
    return FileJournals(str(tmp_path / "node_in_use.tmp"), deadline=1.0)


def mode_of(path):
    return stat.S_IMODE(os.stat(path).st_mode)


@pytest.mark.parametrize("umask", [0o000, 0o077, 0o027])
def test_all_of_it_is_private_whatever_the_umask(journals, umask):
    old = os.umask(umask)
    try:
        journals.change(KEY, put(b"x"))
    finally:
        os.umask(old)
    assert mode_of(journals.where) == 0o700
    assert {mode_of(entry.path) for entry in os.scandir(journals.where)} == {0o600}


def test_nothing_is_made_to_look(journals, tmp_path):
    assert journals.read(KEY) is None
    assert journals.keys() == []
    assert journals.sweep(lambda *found: False) == (0, [])
    assert os.listdir(tmp_path) == []
    journals.change("other", put(b"x"))
    entries = sorted(os.listdir(journals.where))
    assert journals.read(KEY) is None
    assert sorted(os.listdir(journals.where)) == entries


def test_the_state_beside_it_is_not_synced(tmp_path, monkeypatch):
    def sync(descriptor):
        raise AssertionError("the state is soft")

    for name in ("fsync", "fdatasync"):
        monkeypatch.setattr(os, name, sync)
    assert FileStore(str(tmp_path / "node_in_use.tmp")).transact(bump) == 1


def actions(journals):
    return [
        lambda: journals.change(KEY, put(b"x")),
        lambda: journals.read(KEY),
        journals.keys,
        lambda: journals.sweep(lambda *found: False),
    ]


@pytest.mark.parametrize("thing", ["link", "dangling link", "file", "pipe"])
def test_something_else_in_the_directorys_place_is_refused(journals, tmp_path, thing):
    (tmp_path / "elsewhere").mkdir(mode=0o700)
    if "link" in thing:
        os.symlink(tmp_path / ("elsewhere" if thing == "link" else "nowhere"), journals.where)
    elif thing == "file":
        open(journals.where, "w").close()
    else:
        os.mkfifo(journals.where)
    for action in actions(journals):
        with pytest.raises(ConfigError, match=r"node_in_use\.tmp\.journal: is not a directory"):
            action()
    assert os.listdir(tmp_path / "elsewhere") == []
    assert not (tmp_path / "nowhere").exists()


@pytest.mark.parametrize("mode", [0o777, 0o770, 0o702])
def test_a_directory_that_others_may_write_is_refused(journals, mode):
    os.mkdir(journals.where)
    os.chmod(journals.where, mode)
    for action in actions(journals):
        with pytest.raises(ConfigError, match=rf"others may write into it \(mode {mode:o}\)"):
            action()
    assert os.listdir(journals.where) == []


@pytest.mark.skipif(os.geteuid() != 0, reason="only root can give a directory away: a foreign one is NOT tested")
def test_another_users_directory_is_refused(journals, monkeypatch):
    os.mkdir(journals.where, 0o700)
    os.chown(journals.where, 12345, 12345)
    for action in actions(journals):
        with pytest.raises(ConfigError, match="belongs to user 12345, and this process runs as 0"):
            action()
    # Unless the file server stamps with that user what this one makes, as it does for a root it does not trust.
    made = os.open

    def mapped(path, *rest):
        descriptor = made(path, *rest)
        if os.path.dirname(path) == journals.where:
            os.fchown(descriptor, 12345, 12345)
        return descriptor

    with monkeypatch.context() as patch:
        patch.setattr(os, "open", mapped)
        journals.change(KEY, put(b"x"))
    assert journals.read(KEY) == b"x"

    # And such a server may let nobody set modes.
    def refuse(descriptor, mode):
        raise OSError(errno.EPERM, "Operation not permitted")

    with monkeypatch.context() as patch:
        patch.setattr(os, "open", mapped)
        patch.setattr(os, "fchmod", refuse)
        assert FileJournals(journals.where.removesuffix(".journal")).read(KEY) == b"x"
    assert not [name for name in os.listdir(journals.where) if name.startswith(".impala-lb-clock")]


@pytest.mark.parametrize("thing", ["link", "directory", "pipe"])
def test_something_else_in_a_files_place_is_refused(journals, tmp_path, thing):
    journals.change("other", put(b"x"))
    target = tmp_path / "target"
    target.write_bytes(open(file_of(journals, "other"), "rb").read())
    before = target.read_bytes()
    if thing == "link":
        os.symlink(target, file_of(journals))
    elif thing == "directory":
        os.mkdir(file_of(journals))
    else:
        os.mkfifo(file_of(journals))
    for action in (lambda: journals.change(KEY, put(b"x")), lambda: journals.read(KEY)):
        with pytest.raises(ConfigError, match=f"{file_of(journals)}: is "):
            action()
    assert target.read_bytes() == before


def test_a_directory_that_cannot_be_there_yet(tmp_path):
    journals = FileJournals(str(tmp_path / "not mounted" / "lock"))
    for action in actions(journals):
        with pytest.raises(ConfigError, match="its directory is not there, and this host .* has never used it"):
            action()


def test_what_cannot_be_looked_at_is_not_absent(journals, monkeypatch):
    journals.change(KEY, put(b"x"))
    lstat = os.lstat

    def fails(path, *rest, **options):
        if str(path).startswith(journals.where):
            raise OSError(errno.ENOTCONN, "Transport endpoint is not connected")
        return lstat(path, *rest, **options)

    def fails_to_open(path, *rest, **options):
        if str(path).startswith(journals.where):
            raise OSError(errno.ENOTCONN, "Transport endpoint is not connected")
        return opened(path, *rest, **options)

    opened = os.open
    monkeypatch.setattr(os, "lstat", fails)
    monkeypatch.setattr(os, "stat", fails)
    monkeypatch.setattr(os, "open", fails_to_open)
    for action in (lambda: journals.change(KEY, put(b"y")), lambda: journals.read(KEY)):
        with pytest.raises(StateUnavailable, match="not connected"):
            action()


def test_a_share_that_is_full(share):
    journals = FileJournals(str(share / "impala" / "lock"))
    journals.change(KEY, put(b"before"))
    journals.change(KEY, put(b"before"))
    filler = open(share / "filler", "wb", buffering=0)
    with filler, pytest.raises(OSError, match="No space left"):
        while True:
            filler.write(b"x" * 4096)
    for key in (KEY, "new"):
        with pytest.raises(StateUnavailable, match="No space left|only in part") as caught:
            journals.change(key, put(os.urandom(100_000)))
        assert UNKNOWN not in str(caught.value)
    assert journals.read(KEY) == b"before"
    assert journals.change(KEY, put(b"small")) == b"before"  # there is room where it was
    assert journals.change(KEY, put(None)) == b"small"
    os.unlink(share / "filler")
    assert journals.change(KEY, put(b"x" * 100_000)) is None
    assert journals.change("new", put(b"y")) is None
    assert "lies on tmpfs: a restart of the host forgets" in journals.durability()


def test_a_share_that_is_read_only_or_away(share, journals):
    assert journals.durability() is None
    journals = FileJournals(str(share / "impala" / "lock"))
    journals.change(KEY, put(b"before"))
    remount(share, "ro")
    with pytest.raises(StateUnavailable, match="Read-only file system") as caught:
        journals.change(KEY, put(b"x"))
    assert UNKNOWN not in str(caught.value)
    remount(share, "rw")
    assert journals.change(KEY, put(b"after")) == b"before"
    subprocess.run(["umount", "-l", str(share)], check=True)
    with pytest.raises(StateUnavailable, match="its directory is not there; is the share mounted"):
        journals.change(KEY, put(b"x"))
    with pytest.raises(StateUnavailable, match="is the share mounted"):
        FileJournals(journals.where.removesuffix(".journal")).durability()


@pytest.mark.parametrize("held", ["journal", "directory"])
def test_a_stopped_holder_holds_others_up_no_longer_than_the_deadline(journals, held):
    journals.change(KEY, put(b"before"))
    path = file_of(journals) if held == "journal" else os.path.join(journals.where, "lock")
    reader, writer = os.pipe()
    if not (child := os.fork()):
        fcntl.flock(os.open(path, os.O_RDWR), fcntl.LOCK_EX)
        os.write(writer, b"!")
        time.sleep(1000)
    try:
        os.read(reader, 1)
        os.kill(child, signal.SIGSTOP)
        start = time.monotonic()
        with pytest.raises(StateUnavailable, match=r"its lock was not free within 1\.\d s") as caught:
            journals.change(KEY, put(b"x"))
        assert 0.9 < time.monotonic() - start < 3
        assert UNKNOWN not in str(caught.value)
        if held == "journal":
            journals.change("other", put(b"y"))
    finally:
        os.kill(child, signal.SIGKILL)
        os.waitpid(child, 0)
        os.close(reader), os.close(writer)
    assert journals.change(KEY, put(b"x")) == b"before"


def leave(journals, name, token, age):
    path = hidden_path(os.path.join(journals.where, name), token * 16)
    open(path, "w").close()
    then = time.time() - age
    os.utime(path, (then, then))
    return path


def test_a_sweep_removes_what_killed_writers_have_left_an_hour_ago(journals):
    journals.change(KEY, put(b"x"))
    name = os.path.basename(file_of(journals))
    old = leave(journals, name, "a", 3700)
    young = leave(journals, name, "b", 3500)
    never_made = leave(journals, "0" * 32, "a", 3700)
    other = os.path.join(journals.where, "notes.txt")
    open(other, "w").close()
    journals.sweep(lambda *found: True)
    assert [os.path.exists(path) for path in (old, young, never_made, other)] == [False, True, False, True]
    assert journals.read(KEY) == b"x"


def test_a_sweep_leaves_the_files_of_documents_that_are_wanted(path_on_fuse):
    journals = FileJournals(path_on_fuse)
    big = os.urandom(10_000)
    for key in (KEY, "unwanted", "removed"):
        journals.change(key, put(big))
    journals.change("removed", put(None))
    name = os.path.basename(file_of(journals))
    orphan = leave(journals, name, "a", 3700)
    for entry in os.scandir(journals.where):
        os.utime(entry.path, (1, 1))
    assert journals.sweep(lambda key, document, now: key == KEY).removed == 1
    assert not os.path.exists(orphan)
    assert journals.read(KEY) == big
    assert journals.keys() == [KEY]
    left = sorted(os.listdir(journals.where))
    assert len(left) == 3 and left[0].startswith(f".{name}.") and left[1:] == sorted([name, "lock"])
    assert journals.sweep(lambda *found: False) == (1, [])
    assert os.listdir(journals.where) == ["lock"]


def test_a_sweep_does_not_wait_for_ever_for_those_who_are_always_there(journals, monkeypatch):
    journals.change(KEY, put(None))
    descriptor = os.open(os.path.join(journals.where, "lock"), os.O_RDWR)
    fcntl.flock(descriptor, fcntl.LOCK_SH)
    start = time.monotonic()
    assert journals.sweep(lambda *found: False) == (0, [])
    assert time.monotonic() - start < 3
    os.close(descriptor)
    assert os.path.exists(file_of(journals))
    journals.sweep(lambda *found: False)
    assert not os.path.exists(file_of(journals))
