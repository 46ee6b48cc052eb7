"""The lock file on a real GlusterFS, by two mounts. The races of tests/system/races run there too."""

import fcntl
import json
import os
import random
import secrets
import subprocess
import sys
import time
from contextlib import contextmanager, suppress

import pytest

from airflow_provider_impala_lb.doctor.lock_directory import check_lock_file
from airflow_provider_impala_lb.errors import StateUnavailable
from airflow_provider_impala_lb.stores.file import filesystem
from airflow_provider_impala_lb.stores.file.store import FileStore
from tests.support.servers import eventually
from tests.support.store_changes import bump, count
from tests.support.xattr_files import UNKNOWN, bump_with_stale_reads, data_files, grow, make_at_once, versions


@pytest.fixture
def paths(gluster):
    """The lock file, as two hosts name it."""
    return [str(host / "node_in_use.tmp") for host in gluster]


def add_in_place(acks, worker, path):
    """Lock, read, write, unlock: right on a local disk, and on NFS."""
    descriptor = os.open(path, os.O_RDWR)
    for _ in range(50):
        while True:
            with suppress(BlockingIOError):
                fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
                break
            time.sleep(random.uniform(0.0005, 0.005))
        number = int(os.pread(descriptor, 20, 0))
        os.pwrite(descriptor, b"%020d" % (number + 1), 0)
        fcntl.flock(descriptor, fcntl.LOCK_UN)


def test_this_file_system_loses_updates_of_whoever_trusts_a_read_under_the_lock(crew, paths, tmp_path):
    (tmp_path / "local").write_bytes(b"%020d" % 0)
    with open(paths[0], "wb") as file:
        file.write(b"%020d" % 0)
    for worker in range(4):
        crew.start(add_in_place, worker, tmp_path / "local")
    crew.join()
    assert int((tmp_path / "local").read_bytes()) == 200
    for worker in range(4):
        crew.start(add_in_place, worker, paths[worker % 2])
    crew.join()
    assert int(open(paths[0], "rb").read()) < 180


def test_each_host_sees_the_others_last_at_once(paths):
    stores = [FileStore(path) for path in paths]
    stores[0].transact(bump)
    for expected in range(2, 101):
        os.stat(paths[expected % 2])  # a lookup, which fills that host's caches
        assert stores[expected % 2].transact(bump) == expected
    assert [store.mode for store in stores] == ["cas", "cas"]
    assert not stores[0].one_clock
    assert versions(paths[0]) == [100]


def test_who_reaches_the_brick_uses_the_mode_of_the_file(gluster_volume, paths):
    assert FileStore(paths[0]).transact(bump) == 1
    brick = FileStore(paths[0].replace(str(gluster_volume.mounts[0].path), str(gluster_volume.directory / "brick")))
    assert brick.transact(bump) == 2
    assert not brick.one_clock
    assert FileStore(paths[1]).transact(bump) == 3


def test_twelve_on_two_hosts_that_make_it_at_once_have_one_winner(crew, paths):
    for attempt in range(5):
        start = time.time() + 0.1
        for worker in range(12):
            crew.start(make_at_once, worker, f"{paths[worker % 2]}.{attempt}", start)
        crew.join()
        assert count(FileStore(f"{paths[0]}.{attempt}")) == 12
    assert len(os.listdir(os.path.dirname(paths[1]))) == 5


def change_size(state, now):
    """Between 0 and 10 KB that do not compress, and one more."""
    kept = state.node("a").picks + 1
    state.head.nodes = {secrets.token_hex(16): state.node("filler") for _ in range(random.choice([0, 50, 300]))}
    state.node("a").picks = kept


def work(acks, worker, path, times=10**9, change=change_size):
    store = FileStore(path)
    for _ in range(times):
        store.transact(change)
        acks[worker] += 1


def test_a_state_too_large_for_an_attribute_is_exact(crew, paths):
    for worker in range(4):
        crew.start(work, worker, paths[worker % 2], 75)
    crew.join()
    assert count(FileStore(paths[0])) == sum(crew.acks) == 300
    assert len(data_files(paths[1])) <= 1


def test_three_hundred_killed_writers_lose_nothing_and_leave_what_is_cleaned(crew, paths):
    rng = random.Random(4692)
    workers = {crew.start(work, slot, paths[slot % 2]): slot for slot in range(6)}
    watcher = FileStore(paths[0])
    for _ in range(300):
        time.sleep(rng.uniform(0, 0.01))
        pid = rng.choice(list(workers))
        slot = workers.pop(pid)
        crew.kill(pid)
        acknowledged = sum(crew.acks)  # before: the others go on meanwhile
        assert watcher.transact(lambda state, now: state.node("a").picks) >= acknowledged
        workers[crew.start(work, slot, paths[slot % 2])] = slot
    for pid in list(workers):
        crew.kill(pid)
    watcher.transact(grow)
    assert sum(crew.acks) > 300
    assert 0 <= count(watcher) - sum(crew.acks) <= 300 + 6  # at most the one each was killed in
    assert len(versions(paths[1])) == 1
    left = data_files(paths[0])
    for name in left:
        os.utime(os.path.join(os.path.dirname(paths[0]), name), (1, 1))
    expected = count(watcher) + 1
    time.sleep(1.1)  # else the other host may still have the stamps in its cache, and leave them for another day
    assert FileStore(paths[1]).transact(bump) == expected  # a new process of the other host cleans
    assert len(data_files(paths[1])) == 1 < len(left)
    assert count(FileStore(paths[0])) == expected


def test_stale_reads_lose_no_update(crew, paths):
    for worker in range(4):
        crew.start(bump_with_stale_reads, worker, paths[worker % 2], 75, 20)
    crew.join()
    assert count(FileStore(paths[0])) == sum(crew.acks) == 300


SLOTS = """
import sys
import msgspec
from airflow_provider_impala_lb.stores.file import filesystem
from airflow_provider_impala_lb.doctor import lock_trial
filesystem.is_coherent = lambda magic: True
print(msgspec.json.encode(lock_trial.run_trial(tuple(sys.argv[1:]))).decode())
"""


def test_the_other_mode_on_this_file_system_is_found_by_the_doctors_trial(paths):
    done = subprocess.run([sys.executable, "-c", SLOTS, *paths], capture_output=True, text=True, timeout=60)
    assert done.returncode == 0, done.stderr
    found = json.loads(done.stdout)
    assert found["stale"] > 0
    assert found["lost"] > 0
    assert os.path.getsize(paths[0]) > 0


def test_the_doctor_finds_this_file_system_fit(paths):
    found = {finding.name: finding for finding in check_lock_file(paths[0], peer=os.path.dirname(paths[1]))}
    assert {name: finding.verdict for name, finding in found.items()} == dict.fromkeys(found, "ok")
    assert "FUSE" in found["file system"].message
    assert "mode cas" in found["file system"].message
    assert "none stale, no update lost" in found["locking, two mounts"].message
    assert os.listdir(os.path.dirname(paths[0])) == []


def test_this_file_system_is_not_taken_for_a_coherent_one(gluster):
    descriptor = os.open(gluster[0], os.O_RDONLY)
    assert not filesystem.is_coherent(filesystem.kind(descriptor))
    os.close(descriptor)


@contextmanager
def cut_off(mount):
    mount.pause()
    try:
        yield
    finally:
        mount.go_on()


def test_a_host_cut_off_with_the_lock_is_no_hang_and_loses_nothing(crew, gluster_volume, paths):
    read, write = os.pipe()
    mine = FileStore(paths[0], deadline=1.0)
    mine.transact(bump)

    def hold(acks, worker, path):
        def slow(state, now):
            os.write(write, b".")
            time.sleep(0.5)
            return bump(state, now)

        assert FileStore(path).transact(slow) == 2

    crew.start(hold, 0, paths[1])
    assert os.read(read, 1) == b"."
    with cut_off(gluster_volume.mounts[1]):
        for _ in range(2):
            start = time.monotonic()
            with pytest.raises(StateUnavailable, match="lock was not free"):
                mine.transact(bump)
            assert time.monotonic() - start < 2.5
    crew.join()
    assert mine.transact(bump) == 3
    assert FileStore(paths[1]).transact(bump) == 4
    os.close(read)
    os.close(write)


def work_until(acks, worker, path, end):
    store = FileStore(path, deadline=0.3)
    while time.time() < end:
        try:
            store.transact(change_size)
            acks[worker] += 1
        except StateUnavailable as error:
            acks[32 + worker] += UNKNOWN in str(error)
            time.sleep(0.005)


def test_a_host_cut_off_again_and_again_loses_nothing(crew, gluster_volume, paths):
    rng = random.Random(1)
    end = time.time() + 8
    for worker in range(4):
        crew.start(work_until, worker, paths[worker % 2], end)
    while time.time() < end:
        with cut_off(gluster_volume.mounts[1]):
            time.sleep(rng.uniform(0, 0.6))
        time.sleep(rng.uniform(0, 0.3))
    crew.join()
    assert min(crew.acks[:4]) > 0
    assert count(FileStore(paths[0])) == sum(crew.acks[:32])
    assert sum(crew.acks[32:]) == 0


def test_a_server_killed_under_its_clients_loses_nothing_that_was_confirmed(crew, gluster_volume, paths):
    rng = random.Random(2)
    FileStore(paths[0]).transact(lambda state, now: None)
    end = time.time() + 14
    for worker in range(4):
        crew.start(work_until, worker, paths[worker % 2], end)
    for _ in range(3):
        time.sleep(rng.uniform(0.3, 0.8))
        before = sum(crew.acks[:32])
        gluster_volume.restart_brick(rng.uniform(0, 0.5))
        eventually(lambda known=before: min(crew.acks[:4]) and sum(crew.acks[:32]) > known + 50)  # 3 s to reconnect
    crew.join()
    assert 0 <= count(FileStore(paths[0])) - sum(crew.acks[:32]) <= sum(crew.acks[32:])
