"""The mode for file systems that may show the past: what is in the file, which mode it has, and how it is made."""

import errno
import os
import stat
import time

import pytest

from airflow_provider_impala_lb.core.state.model import Lease
from airflow_provider_impala_lb.errors import ConfigError
from airflow_provider_impala_lb.stores.file import filesystem, xattr_versions
from airflow_provider_impala_lb.stores.file.store import FileStore
from tests.support.store_changes import bump, count
from tests.support.xattr_files import data_files, grow, make_at_once, shrink, versions


@pytest.fixture
def path(path_on_fuse):
    return path_on_fuse


def test_the_file_stays_empty_and_holds_one_version(path):
    store = FileStore(path)
    assert store.transact(bump) == 1
    inode = os.stat(path).st_ino
    assert [store.transact(bump) for _ in range(5)] == [2, 3, 4, 5, 6]
    assert FileStore(path).transact(bump) == 7
    assert (os.stat(path).st_ino, os.stat(path).st_size, versions(path)) == (inode, 0, [7])
    assert data_files(path) == []


def test_all_files_are_private_to_the_group_whatever_the_umask(path):
    old = os.umask(0o077)
    try:
        FileStore(path).transact(grow)
    finally:
        os.umask(old)
    files = [path, *(os.path.join(os.path.dirname(path), name) for name in data_files(path))]
    assert [stat.S_IMODE(os.stat(file).st_mode) for file in files] == [0o660] * 2


def test_a_state_grows_into_a_data_file_and_back(path):
    store = FileStore(path)
    store.transact(bump)
    store.transact(grow)
    (first,) = data_files(path)
    assert store.transact(bump) == 2
    (second,) = data_files(path)
    assert second != first
    assert len(store.read()[0].nodes) == 101
    store.transact(shrink)
    assert data_files(path) == []
    assert FileStore(path).transact(bump) == 3


def test_a_state_that_finds_no_room_beside_other_attributes_goes_into_a_data_file(path, monkeypatch):
    store = FileStore(path)
    store.transact(bump)
    put = os.setxattr

    def full(descriptor, name, value, flags=0):
        if len(value) > 40:
            raise OSError(errno.ENOSPC, "No space left on device")
        put(descriptor, name, value, flags)

    monkeypatch.setattr(os, "setxattr", full)
    assert store.transact(bump) == 2
    assert len(data_files(path)) == 1
    assert store.transact(bump) == 3
    assert len(data_files(path)) == 1


# The mode


def test_the_file_says_the_mode_on_whatever_mount(path, monkeypatch):
    store = FileStore(path)
    assert (store.mode, store.one_clock) == ("cas", False)
    assert store.transact(bump) == 1
    monkeypatch.undo()
    assert "ext" in filesystem.COHERENT.values()
    store = FileStore(path)
    assert (store.mode, store.one_clock) == ("cas", False)
    assert store.transact(bump) == 2
    assert (os.stat(path).st_size, versions(path)) == (0, [2])


def test_elsewhere_slots_are_the_mode_and_the_clock_is_trusted(tmp_path):
    store = FileStore(str(tmp_path / "lock"))
    assert (store.mode, store.one_clock) == ("slots", True)
    store.transact(bump)
    assert os.listxattr(tmp_path / "lock") == []
    assert FileStore(str(tmp_path / "lock")).one_clock


def test_a_file_in_slots_is_refused_and_left_alone(path, monkeypatch):
    with monkeypatch.context() as patch:
        patch.setattr(filesystem, "kind", lambda descriptor: filesystem.NFS)
        FileStore(path).transact(bump)
    before = open(path, "rb").read()
    store = FileStore(path)
    for action in (lambda: store.transact(bump), store.read, lambda: store.one_clock):
        with pytest.raises(ConfigError, match=r"made on another file system.*FUSE.*Stop all that use it, remove it"):
            action()
    assert (open(path, "rb").read(), os.listxattr(path)) == (before, [])


@pytest.mark.parametrize("content", [b"precious data\n", b"\0" * 5000])
def test_a_file_with_other_content_is_refused_and_left_alone(path, content):
    open(path, "wb").write(content)
    with pytest.raises(ConfigError, match="holds something else|made on another file system"):
        FileStore(path).transact(bump)
    assert (open(path, "rb").read(), os.listxattr(path)) == (content, [])


def test_an_empty_file_made_by_an_admin_is_taken(path):
    open(path, "w").close()
    assert count(FileStore(path)) == 0
    assert FileStore(path).transact(bump) == 1
    assert versions(path) == [1]


def test_the_clock_is_the_hosts(path, monkeypatch):
    store = FileStore(path)
    store.transact(bump)
    monkeypatch.setattr(filesystem, "kind", lambda descriptor: filesystem.NFS)
    monkeypatch.setattr("airflow_provider_impala_lb.stores.file.clock.server_time", lambda directory: 1000.0)
    assert abs(FileStore(path).transact(lambda state, now: now) - time.time()) < 5
    assert abs(FileStore(path).read()[1] - time.time()) < 5


@pytest.mark.parametrize("call", ["setxattr", "listxattr"])
def test_a_file_system_without_attributes_is_named(path, monkeypatch, call):
    def refused(*arguments):
        raise OSError(errno.EOPNOTSUPP, "Operation not supported")

    if call == "listxattr":
        open(path, "w").close()
    monkeypatch.setattr(os, call, refused)
    with pytest.raises(ConfigError, match=r"lies on FUSE .*has no extended attributes.*NFS or GlusterFS"):
        FileStore(path).transact(bump)
    assert data_files(path) == []


# Its making


def test_it_appears_whole(path, monkeypatch):
    link, seen = os.link, []

    def watched(temporary, final):
        seen.append((versions(temporary), stat.S_IMODE(os.stat(temporary).st_mode), os.path.exists(final)))
        link(temporary, final)

    monkeypatch.setattr(os, "link", watched)
    FileStore(path).transact(bump)
    assert seen == [([0], 0o660, False)]


def test_who_comes_second_uses_what_the_first_has_made(path, monkeypatch):
    link = os.link

    def overtaken(temporary, final):
        monkeypatch.setattr(os, "link", link)
        xattr_versions.make(path)
        os.setxattr(path, "user.made_by", b"the first")
        link(temporary, final)

    monkeypatch.setattr(os, "link", overtaken)
    assert FileStore(path).transact(bump) == 1
    assert os.getxattr(path, "user.made_by") == b"the first"
    assert data_files(path) == []


def test_twelve_that_make_it_at_once_have_one_winner(crew, path):
    for attempt in range(5):
        start = time.time() + 0.1
        for worker in range(12):
            crew.start(make_at_once, worker, f"{path}.{attempt}", start)
        crew.join()
        assert count(FileStore(f"{path}.{attempt}")) == 12
    assert len(os.listdir(os.path.dirname(path))) == 5


def test_ten_thousand_leases_are_exact_in_a_data_file(path):
    store = FileStore(path)

    def lease(name):
        return Lease(id=name, node="a", owner="o", expires=9e9, taken=0.0, host="h")

    store.transact(lambda state, now: [state.lease(lease(f"l{index}")) for index in range(10_000)])
    store.transact(lambda state, now: [state.end_lease(f"l{index}") for index in range(0, 10_000, 100)])
    state, _ = store.read()
    assert len(list(state.leases.values())) == 9900 == len(state.leases) == state.node("a").leases
    assert len(data_files(path)) == 1
