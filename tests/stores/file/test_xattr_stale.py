"""The mode cas: answers that are lost, reads that are old, locks that do not exclude."""

import errno
import fcntl
import os
import threading
import time

import pytest

from airflow_provider_impala_lb.errors import StateUnavailable
from airflow_provider_impala_lb.stores.file import xattr, xattr_versions
from airflow_provider_impala_lb.stores.file.store import FileStore
from tests.support.store_changes import bump, count
from tests.support.xattr_files import UNKNOWN, bump_with_stale_reads, grow, versions


@pytest.fixture
def path(path_on_fuse):
    return path_on_fuse


@pytest.mark.parametrize("big", [False, True])
@pytest.mark.parametrize("call", ["setxattr", "removexattr"])
@pytest.mark.parametrize("done", [False, True])
def test_a_lost_answer_is_an_unknown_outcome_and_loses_nothing(path, monkeypatch, call, done, big):
    store = FileStore(path)
    if big:
        store.transact(grow)
    for _ in range(3):
        store.transact(bump)
    real = getattr(os, call)

    def lost(*arguments):
        if done:
            real(*arguments)
        raise OSError(errno.ENOTCONN, "Transport endpoint is not connected")

    with monkeypatch.context() as patch:
        patch.setattr(os, call, lost)
        with pytest.raises(StateUnavailable, match=f"not connected; {UNKNOWN}"):
            store.transact(bump)
    assert store.transact(bump) == (4 if (call, done) == ("setxattr", False) else 5)
    assert len(versions(path)) == 1
    assert len(FileStore(path).read()[0].nodes) == (101 if big else 1)


def test_a_look_at_what_a_later_commit_removes_meanwhile_sees_that_commit(path, monkeypatch):
    """The error is made up here, at the call where GlusterFS gave it; the later commit is real."""
    store, other = FileStore(path), FileStore(path)
    store.transact(grow)
    store.transact(bump)
    real, met = xattr_versions.read_data_file, []

    def removed(*arguments):
        if not met:
            met.append("once")
            other.transact(bump)
            raise OSError(errno.ESTALE, "Stale file handle")
        return real(*arguments)

    monkeypatch.setattr(xattr_versions, "read_data_file", removed)
    assert count(store) == 2 and met

    def always(*_):
        raise OSError(errno.ESTALE, "Stale file handle")

    monkeypatch.setattr(xattr_versions, "read_data_file", always)
    with pytest.raises(StateUnavailable, match="Stale file handle"):
        store.read()


def test_a_commit_that_is_sent_twice_is_made_once(path, monkeypatch):
    store = FileStore(path)
    store.transact(bump)
    put = os.setxattr

    def twice(*arguments):
        put(*arguments)
        put(*arguments)  # EEXIST: what the client hears

    with monkeypatch.context() as patch:
        patch.setattr(os, "setxattr", twice)
        assert store.transact(bump) == 2
    assert count(store) == 2


def test_a_claim_that_is_sent_twice_leaves_the_commit(path, monkeypatch):
    store = FileStore(path)
    store.transact(bump)
    remove = os.removexattr

    def twice(*arguments):
        remove(*arguments)
        remove(*arguments)  # ENODATA: what the client hears

    with monkeypatch.context() as patch:
        patch.setattr(os, "removexattr", twice)
        with pytest.raises(StateUnavailable, match=UNKNOWN):
            store.transact(bump)
    assert count(store) == 2
    assert store.transact(bump) == 3


@pytest.fixture
def unlock_fails(monkeypatch):
    lock = fcntl.flock

    def cut_off(descriptor, operation):
        lock(descriptor, operation)
        if operation == fcntl.LOCK_UN:
            raise OSError(errno.EBADFD, "File descriptor in bad state")

    monkeypatch.setattr(fcntl, "flock", cut_off)


def test_an_error_of_the_unlock_does_not_undo_a_commit(path, unlock_fails):
    store = FileStore(path)
    assert [store.transact(bump), store.transact(bump)] == [1, 2]


def test_an_error_of_the_unlock_does_not_hide_an_unknown_outcome(path, monkeypatch, unlock_fails):
    def lost(*arguments):
        raise OSError(errno.ENOTCONN, "Transport endpoint is not connected")

    store = FileStore(path)
    store.transact(bump)
    monkeypatch.setattr(os, "removexattr", lost)
    with pytest.raises(StateUnavailable, match=f"not connected; {UNKNOWN}"):
        store.transact(bump)
    assert count(store) == 2


def show_the_first_again(monkeypatch, reads):
    """These reads, counted from 1, see what the first saw. Returns the list of all that were seen."""
    read, seen = xattr.newest, []

    def newest(descriptor):
        found = read(descriptor)
        seen.append(seen[0] if len(seen) + 1 in reads else found)
        return seen[-1]

    monkeypatch.setattr(xattr, "newest", newest)
    return seen


def test_a_base_that_is_one_version_old_is_refused(path, monkeypatch):
    store = FileStore(path)
    store.transact(bump)
    seen = show_the_first_again(monkeypatch, {2, 3, 4})
    assert [store.transact(bump) for _ in range(2)] == [2, 3]
    assert [found.number for found in seen] == [1, 1, 1, 1, 2]
    assert versions(path) == [3]


def test_a_base_whose_successor_is_gone_too_is_refused(path, monkeypatch):
    store = FileStore(path)
    store.transact(bump)
    seen = show_the_first_again(monkeypatch, {4, 5, 6})
    assert [store.transact(bump) for _ in range(4)] == [2, 3, 4, 5]
    assert [found.number for found in seen] == [1, 2, 3, 1, 1, 1, 4]
    assert versions(path) == [5]


def test_reads_that_stay_out_of_date_end_with_the_deadline(path, monkeypatch):
    store = FileStore(path, deadline=0.3)
    store.transact(bump)
    descriptor = os.open(path, os.O_RDONLY)
    old = xattr.newest(descriptor)
    os.close(descriptor)
    store.transact(bump)
    store.transact(bump)
    start = time.monotonic()
    with monkeypatch.context() as patch:
        patch.setattr(xattr, "newest", lambda descriptor: old)
        with pytest.raises(StateUnavailable, match=r"out of date for 0\.\d s"):
            store.transact(bump)
    assert 0.3 <= time.monotonic() - start < 2
    assert (count(store), versions(path)) == (3, [3])


def test_the_wait_for_the_lock_counts_for_the_deadline(path, monkeypatch):
    store = FileStore(path, deadline=0.5)
    store.transact(bump)
    descriptor = os.open(path, os.O_RDWR)
    fcntl.flock(descriptor, fcntl.LOCK_EX)
    free = threading.Timer(0.4, fcntl.flock, (descriptor, fcntl.LOCK_UN))
    free.start()
    start = time.monotonic()

    def stale_for_ever(descriptor):
        raise xattr.Stale

    monkeypatch.setattr(xattr, "newest", stale_for_ever)
    with pytest.raises(StateUnavailable, match="out of date"):
        store.transact(bump)
    assert 0.4 <= time.monotonic() - start < 0.8
    free.join()
    os.close(descriptor)


@pytest.mark.parametrize("lag", [2, 20])
def test_stale_reads_lose_no_update(crew, path, lag):
    for worker in range(4):
        crew.start(bump_with_stale_reads, worker, path, 150, lag)
    crew.join()
    assert count(FileStore(path)) == sum(crew.acks) == 600
    assert len(versions(path)) == 1


def bump_without_a_lock(acks, worker, path):
    fcntl.flock = lambda *_: None
    store = FileStore(path)
    for _ in range(150):
        try:
            store.transact(bump)
            acks[worker] += 1
        except StateUnavailable as error:
            assert UNKNOWN in str(error)
            acks[32 + worker] += 1


def test_without_a_lock_no_update_that_was_confirmed_is_lost(crew, path):
    """A lost connection frees the lock while its holder goes on (glusterfs#972)."""
    FileStore(path).transact(lambda state, now: None)
    for worker in range(4):
        crew.start(bump_without_a_lock, worker, path)
    crew.join()
    confirmed = sum(crew.acks[:32])
    assert confirmed + sum(crew.acks[32:]) == 600
    assert confirmed > 0
    assert count(FileStore(path)) >= confirmed


def test_a_reader_is_never_in_anybodys_way_and_sees_no_halves(path):
    store = FileStore(path)
    store.transact(grow)
    done = threading.Event()

    def write():
        while not done.is_set():
            store.transact(bump)

    writer = threading.Thread(target=write)
    writer.start()
    reader, last, reads, deadline = FileStore(path), 0, 0, time.monotonic() + 60
    try:
        while (reads < 300 or last <= 10) and time.monotonic() < deadline:
            reads += 1
            state, _ = reader.read()
            assert len(state.nodes) >= 100
            assert state.node("a").picks >= last
            last = state.node("a").picks
    finally:
        done.set()
        writer.join()
    assert last > 10
