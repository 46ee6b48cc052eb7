"""The mode for file systems that may show the past, on one that does not: each fault is made to happen."""

import errno
import fcntl
import os
import random
import secrets
import stat
import threading
import time
import zlib

import pytest

from airflow_provider_impala_lb.errors import ConfigError, StateUnavailable
from airflow_provider_impala_lb.stores import attributes, cas, data_file, filesystem
from airflow_provider_impala_lb.stores.file import FileStore
from tests.stores.test_file_store import bump, count
from tests.stores.test_races import Crew

UNKNOWN = "outcome unknown"


@pytest.fixture
def path(tmp_path, monkeypatch):
    monkeypatch.setattr(filesystem, "kind", lambda descriptor: 0x65735546)
    return str(tmp_path / "node_in_use.tmp")


@pytest.fixture
def crew():
    crew = Crew(64)
    yield crew
    for pid in list(crew.pids):
        crew.kill(pid)


def versions(path):
    return sorted(int(name.removeprefix("user.lb.")) for name in os.listxattr(path))


def data_files(path):
    return sorted(name for name in os.listdir(os.path.dirname(path)) if name != os.path.basename(path))


def grow(state, now):
    """3 KB that do not compress."""
    for _ in range(100):
        state.node(secrets.token_hex(16)).picks = 1


def shrink(state, now):
    state.nodes = {"a": state.node("a")}


# What is in the file


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
    assert (store.mode, store.trusted_clock) == ("cas", False)
    assert store.transact(bump) == 1
    monkeypatch.undo()
    assert "ext" in filesystem.COHERENT.values()
    store = FileStore(path)
    assert (store.mode, store.trusted_clock) == ("cas", False)
    assert store.transact(bump) == 2
    assert (os.stat(path).st_size, versions(path)) == (0, [2])


def test_elsewhere_slots_are_the_mode_and_the_clock_is_trusted(tmp_path):
    store = FileStore(str(tmp_path / "lock"))
    assert (store.mode, store.trusted_clock) == ("slots", True)
    store.transact(bump)
    assert os.listxattr(tmp_path / "lock") == []
    assert FileStore(str(tmp_path / "lock")).trusted_clock


def test_a_file_in_slots_is_refused_and_left_alone(path, monkeypatch):
    with monkeypatch.context() as patch:
        patch.setattr(filesystem, "kind", lambda descriptor: filesystem.NFS)
        FileStore(path).transact(bump)
    before = open(path, "rb").read()
    store = FileStore(path)
    for action in (lambda: store.transact(bump), store.read, lambda: store.trusted_clock):
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
    monkeypatch.setattr("airflow_provider_impala_lb.stores.clock.server_time", lambda directory: 1000.0)
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
        cas.make(path)
        os.setxattr(path, "user.made_by", b"the first")
        link(temporary, final)

    monkeypatch.setattr(os, "link", overtaken)
    assert FileStore(path).transact(bump) == 1
    assert os.getxattr(path, "user.made_by") == b"the first"
    assert data_files(path) == []


def make_at_once(acks, worker, path, start):
    time.sleep(max(0.0, start - time.time()))
    FileStore(path).transact(bump)


def test_twelve_that_make_it_at_once_have_one_winner(crew, path):
    for attempt in range(5):
        start = time.time() + 0.1
        for worker in range(12):
            crew.start(make_at_once, worker, f"{path}.{attempt}", start)
        crew.join()
        assert count(FileStore(f"{path}.{attempt}")) == 12
    assert len(os.listdir(os.path.dirname(path))) == 5


# Writers that were killed


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
    monkeypatch.setattr(cas, "CLEAN_EVERY", 0)
    store._versions._clean_next = 0.0
    store.transact(grow)
    assert not os.path.exists(orphan)


def test_the_newest_is_never_cleaned_and_a_second_name_of_the_lock_file_is(path):
    FileStore(path).transact(bump)
    directory = os.path.dirname(path)
    tokens = ["a" * 16, "b" * 16]
    for token in tokens:
        data_file.write(path, token, b"content")
        os.utime(data_file.path_of(path, token), (1, 1))
    os.link(path, data_file.path_of(path, "c" * 16))  # a maker was killed between link and unlink
    os.utime(path, (1, 1))
    data_file.clean(path, tokens[0])
    assert data_files(path) == [os.path.basename(data_file.path_of(path, tokens[0]))]
    assert sorted(os.listdir(directory)) == [*data_files(path), os.path.basename(path)]
    assert FileStore(path).transact(bump) == 2


# What is damaged


def test_a_data_file_counts_only_if_it_is_what_its_version_says(path):
    content = b"an older one of the same length"
    data_file.write(path, "a" * 16, content)
    crc = zlib.crc32(content)
    assert data_file.read(path, "a" * 16, len(content), crc) == content
    assert data_file.read(path, "a" * 16, len(content), crc ^ 1) is None
    assert data_file.read(path, "a" * 16, len(content) + 1, crc) is None
    assert data_file.read(path, "a" * 16, len(content) - 1, zlib.crc32(content[:-1])) is None
    with pytest.raises(FileExistsError):
        data_file.write(path, "a" * 16, content)


@pytest.mark.parametrize("damage", ["short", "other", "long", "gone", "link", "pipe", "directory"])
def test_a_damaged_data_file_heals_with_one_warning(path, monkeypatch, caplog, damage):
    monkeypatch.setattr(cas, "LOST_AFTER", 0.05)
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
    monkeypatch.setattr(cas, "LOST_AFTER", 0.05)
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
    read, hidden = data_file.read, [None] * 20
    monkeypatch.setattr(data_file, "read", lambda *found: hidden.pop() if hidden else read(*found))
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


# Answers that are lost, and late


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


def test_an_error_of_the_unlock_does_not_undo_a_commit(path, monkeypatch):
    store = FileStore(path)
    lock = fcntl.flock

    def cut_off(descriptor, operation):
        lock(descriptor, operation)
        if operation == fcntl.LOCK_UN:
            raise OSError(errno.EBADFD, "File descriptor in bad state")

    monkeypatch.setattr(fcntl, "flock", cut_off)
    assert [store.transact(bump), store.transact(bump)] == [1, 2]


def test_a_base_that_is_one_version_old_is_refused(path, monkeypatch):
    store = FileStore(path)
    store.transact(bump)
    stale(monkeypatch, path, times=3)
    store.transact(bump)
    assert store.transact(bump) == 3  # of which the first three tries were made on version 1
    assert versions(path) == [3]


def test_a_base_whose_successor_is_gone_too_is_refused(path, monkeypatch):
    store = FileStore(path)
    store.transact(bump)
    stale(monkeypatch, path, times=3)
    for expected in (2, 3, 4, 5):
        FileStore(path)
        assert store.transact(bump) == expected
    assert versions(path) == [5]


def stale(monkeypatch, path, times):
    """The version there is now is what the next ``times`` reads after the next commit will show."""
    old = attributes.newest
    kept = []

    def newest(descriptor):
        found = old(descriptor)
        kept.append(found)
        if len(kept) > 3 and len(kept) - 3 <= times:
            return kept[0]
        return found

    monkeypatch.setattr(attributes, "newest", newest)


def test_reads_that_stay_out_of_date_end_with_the_deadline(path, monkeypatch):
    store = FileStore(path, deadline=0.3)
    store.transact(bump)
    descriptor = os.open(path, os.O_RDONLY)
    old = attributes.newest(descriptor)
    os.close(descriptor)
    store.transact(bump)
    store.transact(bump)
    start = time.monotonic()
    with monkeypatch.context() as patch:
        patch.setattr(attributes, "newest", lambda descriptor: old)
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
        raise attributes.Stale

    monkeypatch.setattr(attributes, "newest", stale_for_ever)
    with pytest.raises(StateUnavailable, match="out of date"):
        store.transact(bump)
    assert 0.4 <= time.monotonic() - start < 0.8
    free.join()
    os.close(descriptor)


def inject_stale_reads(rng, lag):
    """A third of all lists are old ones, and what a version held is never looked up again. In this process only."""
    lists, records = [], {}
    real_list, real_get = attributes._versions, attributes._get
    injected = 0

    def old_list(descriptor):
        nonlocal injected
        lists.append(real_list(descriptor))
        if rng.random() < 0.3:
            injected += 1
            return lists[-min(len(lists), rng.randint(1, lag))]
        return lists[-1]

    def old_record(descriptor, version):
        if version not in records:
            records[version] = real_get(descriptor, version)
        return records[version]

    attributes._versions, attributes._get = old_list, old_record
    return lambda: injected


def bump_with_stale_reads(acks, worker, path, times, lag):
    injected = inject_stale_reads(random.Random(worker), lag)
    store = FileStore(path)
    for _ in range(times):
        store.transact(bump)
        acks[worker] += 1
    assert injected() > times / 5


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
    reader, last = FileStore(path), 0
    try:
        for _ in range(300):
            state, _ = reader.read()
            assert len(state.nodes) >= 100
            assert (last := max(last, state.node("a").picks)) == state.node("a").picks
    finally:
        done.set()
        writer.join()
    assert last > 10
