"""The mode cas: what killed writers, full disks and others leave in the files."""

import errno
import os
import time
import zlib

import pytest

from airflow_provider_impala_lb.errors import ConfigError, StateUnavailable
from airflow_provider_impala_lb.stores.file import xattr_versions
from airflow_provider_impala_lb.stores.file.new_file import hidden_path, remove_abandoned
from airflow_provider_impala_lb.stores.file.store import FileStore
from airflow_provider_impala_lb.stores.file.xattr_versions import read_data_file, write_data_file
from tests.support.store_changes import bump, count
from tests.support.xattr_files import UNKNOWN, data_files, grow, shrink, versions


@pytest.fixture
def path(path_on_fuse):
    return path_on_fuse


def test_a_writer_killed_after_its_commit_leaves_a_version_that_the_next_removes(path):
    store = FileStore(path)
    for _ in range(3):
        store.transact(bump)
    old = os.getxattr(path, "user.lb.3")
    store.transact(bump)
    os.setxattr(path, "user.lb.3", old)  # killed between the two steps of version 4
    os.setxattr(path, "user.lb.2", old)
    assert count(FileStore(path)) == 4
    assert store.transact(bump) == 5
    assert versions(path) == [5]


def test_data_files_of_killed_writers_are_removed_after_an_hour(path):
    first = FileStore(path)
    first.transact(grow)
    (newest,) = data_files(path)
    directory = os.path.dirname(path)
    names = {
        "old": ".node_in_use.tmp." + "a" * 16,
        "old probe": ".impala-lb-clock." + "a" * 16,
        "young": ".node_in_use.tmp." + "b" * 16,
        "another's": ".other.tmp." + "a" * 16,
        "no token": ".node_in_use.tmp." + "g" * 16,
    }
    for what, name in names.items():
        open(os.path.join(directory, name), "w").close()
        age = time.time() - (3500 if what == "young" else 3700)
        os.utime(os.path.join(directory, name), (age, age))
    os.utime(os.path.join(directory, newest), (1, 1))
    first.transact(shrink)  # it has cleaned once
    first.transact(grow)
    assert names["old"] in data_files(path)
    (newest,) = set(data_files(path)) - set(names.values())
    os.utime(os.path.join(directory, newest), (1, 1))
    FileStore(path).read()
    assert names["old"] in data_files(path)
    FileStore(path).transact(lambda state, now: None)
    left = set(data_files(path))
    assert not {names["old"], names["old probe"], newest} & left  # the latter is no longer needed
    assert {names["young"], names["another's"], names["no token"]} < left
    assert len(FileStore(path).read()[0].nodes) > 100


def test_cleaning_goes_by_the_servers_stamps(path, monkeypatch):
    orphan = os.path.join(os.path.dirname(path), ".node_in_use.tmp." + "a" * 16)
    open(orphan, "w").close()
    real = time.time
    monkeypatch.setattr(time, "time", lambda: real() + 86400)
    FileStore(path).transact(bump)
    assert os.path.exists(orphan)


def test_a_store_that_lives_long_cleans_again(path, monkeypatch):
    store = FileStore(path)
    store.transact(grow)
    orphan = os.path.join(os.path.dirname(path), ".node_in_use.tmp." + "a" * 16)
    open(orphan, "w").close()
    os.utime(orphan, (1, 1))
    store.transact(grow)
    assert os.path.exists(orphan)
    monkeypatch.setattr(xattr_versions, "CLEAN_EVERY", 0)
    store._formats["cas"]._versions._clean_next = 0.0
    store.transact(grow)
    assert not os.path.exists(orphan)


def test_the_newest_is_never_cleaned_and_a_second_name_of_the_lock_file_is(path):
    FileStore(path).transact(bump)
    directory = os.path.dirname(path)
    tokens = ["a" * 16, "b" * 16]
    for token in tokens:
        write_data_file(path, token, b"content")
        os.utime(hidden_path(path, token), (1, 1))
    os.link(path, hidden_path(path, "c" * 16))  # a maker was killed between link and unlink
    os.utime(path, (1, 1))
    remove_abandoned(path, tokens[0])
    assert data_files(path) == [os.path.basename(hidden_path(path, tokens[0]))]
    assert sorted(os.listdir(directory)) == [*data_files(path), os.path.basename(path)]
    assert FileStore(path).transact(bump) == 2


def test_a_data_file_counts_only_if_it_is_what_its_version_says(path):
    content = b"an older one of the same length"
    write_data_file(path, "a" * 16, content)
    crc = zlib.crc32(content)
    assert read_data_file(path, "a" * 16, len(content), crc) == content
    assert read_data_file(path, "a" * 16, len(content), crc ^ 1) is None
    assert read_data_file(path, "a" * 16, len(content) + 1, crc) is None
    assert read_data_file(path, "a" * 16, len(content) - 1, zlib.crc32(content[:-1])) is None
    with pytest.raises(FileExistsError):
        write_data_file(path, "a" * 16, content)


@pytest.mark.parametrize("damage", ["short", "other", "long", "gone", "link", "pipe", "directory"])
def test_a_damaged_data_file_heals_with_one_warning(path, monkeypatch, caplog, damage):
    monkeypatch.setattr(xattr_versions, "LOST_AFTER", 0.05)
    store = FileStore(path)
    store.transact(grow)
    store.transact(bump)
    file = os.path.join(os.path.dirname(path), data_files(path)[0])
    content = open(file, "rb").read()
    if damage in ("short", "other", "long"):
        cut = {"short": content[:-1], "other": content[:-1] + b"?", "long": content + b"?"}[damage]
        open(file, "wb").write(cut)
    else:
        os.unlink(file)
        if damage == "link":
            open(path + ".elsewhere", "wb").write(content)  # the right content, but by a link
            os.symlink(path + ".elsewhere", file)
        elif damage == "pipe":
            os.mkfifo(file)
        elif damage == "directory":
            os.mkdir(file)
    assert store.transact(bump) == 1
    assert store.transact(bump) == 2
    assert sum("started anew" in record.message for record in caplog.records) == 1


@pytest.mark.parametrize(
    "record",
    [
        b"1f../../../etc/passw 1000 00000000",
        b"1f../../etc/passwd 1000 00000000",
        b"1f" + b"a" * 16 + b"/../x 10 00000000",
        b"1f" + b"a" * 16 + b" 99999999999999999999 00000000",
        b"1f" + b"a" * 16 + b" 10 0000000g",
        b"1z" + b"a" * 16 + b"not compressed",
        b"?",
        b"",
    ],
)
def test_an_attribute_with_something_else_in_it_opens_nothing_and_heals(path, monkeypatch, record):
    monkeypatch.setattr(xattr_versions, "LOST_AFTER", 0.05)
    store = FileStore(path)
    store.transact(bump)
    os.setxattr(path, "user.lb.1", record)
    opened, open_ = [], os.open
    monkeypatch.setattr(os, "open", lambda name, *rest: opened.append(name) or open_(name, *rest))
    assert store.transact(bump) == 1
    assert not [name for name in opened if "passwd" in name or ".." in name]
    assert versions(path) == [2]


def test_a_record_of_a_newer_version_is_refused(path):
    store = FileStore(path)
    store.transact(bump)
    os.setxattr(path, "user.lb.1", b"2whatever")
    with pytest.raises(ConfigError, match="newer version"):
        store.transact(bump)
    assert os.getxattr(path, "user.lb.1") == b"2whatever"
    os.setxattr(path, "user.lb.1", b"1z" + b"a" * 16 + zlib.compress(b'{"format":99}'))
    with pytest.raises(ConfigError, match=r"newer version .*format 99"):
        store.transact(bump)


def test_names_that_are_no_versions_are_left_alone(path):
    store = FileStore(path)
    store.transact(bump)
    others = ["user.lb.07", "user.lb.-1", "user.lb.x", "user.lb.", "user.other", "user.lb.9" + "9" * 19]
    for name in others:
        os.setxattr(path, name, b"x")
    assert store.transact(bump) == 2
    assert set(os.listxattr(path)) == {*others, "user.lb.2"}


def test_a_data_file_that_a_cache_still_hides_is_waited_for(path, monkeypatch):
    """GlusterFS may show a file as it was when some listing met it, empty, for a second."""
    store = FileStore(path)
    store.transact(grow)
    store.transact(bump)
    read, hidden = xattr_versions.read_data_file, [None] * 20
    monkeypatch.setattr(xattr_versions, "read_data_file", lambda *found: hidden.pop() if hidden else read(*found))
    assert store.transact(bump) == 2
    assert not hidden


def test_a_data_file_out_of_reach_is_no_reason_to_give_the_state_up(path, monkeypatch):
    store = FileStore(path)
    store.transact(grow)
    store.transact(bump)
    open_ = os.open

    def cut_off(name, *rest):
        if ".tmp." in str(name):
            raise OSError(errno.ENOTCONN, "Transport endpoint is not connected")
        return open_(name, *rest)

    with monkeypatch.context() as patch:
        patch.setattr(os, "open", cut_off)
        with pytest.raises(StateUnavailable, match="not connected"):
            store.transact(bump)
    assert store.transact(bump) == 2


def test_a_full_file_system_says_so_and_changes_nothing(path, monkeypatch):
    store = FileStore(path)
    store.transact(bump)

    def full(*arguments):
        raise OSError(errno.ENOSPC, "No space left on device")

    for call in ("fsync", "setxattr"):
        with monkeypatch.context() as patch:
            patch.setattr(os, call, full)
            with pytest.raises(StateUnavailable, match="No space left") as caught:
                store.transact(grow)
            assert UNKNOWN not in str(caught.value)
        assert data_files(path) == []
    assert store.transact(bump) == 2
