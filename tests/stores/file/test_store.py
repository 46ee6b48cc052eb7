import os
import resource
import shutil
import stat
import zlib

import pytest

from airflow_provider_impala_lb.core.state.model import Head, Lease
from airflow_provider_impala_lb.core.state.state import State, encode_head
from airflow_provider_impala_lb.errors import ConfigError, StateUnavailable
from airflow_provider_impala_lb.stores.file import filesystem
from airflow_provider_impala_lb.stores.file import state_slots as module
from airflow_provider_impala_lb.stores.file.state_slots import HEAD_BYTES, HEAD_START
from airflow_provider_impala_lb.stores.file.store import FileStore
from tests.support.store_changes import bump, count


@pytest.fixture
def path(tmp_path):
    return str(tmp_path / "node_in_use.tmp")


def test_what_is_written_is_read_and_the_inode_stays(path):
    store = FileStore(path)
    assert store.transact(bump) == 1
    inode = os.stat(path).st_ino
    assert [store.transact(bump) for _ in range(5)] == [2, 3, 4, 5, 6]
    assert FileStore(path).transact(bump) == 7
    assert os.stat(path).st_ino == inode


def test_the_file_is_private_to_its_group_whatever_the_umask(path):
    old = os.umask(0o077)
    try:
        FileStore(path).transact(bump)
    finally:
        os.umask(old)
    assert stat.S_IMODE(os.stat(path).st_mode) == 0o660


def test_an_empty_file_made_by_an_admin_is_taken(path):
    open(path, "w").close()
    assert FileStore(path).transact(bump) == 1


def test_a_file_with_other_content_is_refused_and_left_alone(path):
    with open(path, "w") as file:
        file.write("precious data\n")
    with pytest.raises(ConfigError, match=r"node_in_use\.tmp: holds something else .*precious"):
        FileStore(path).transact(bump)
    assert open(path).read() == "precious data\n"


def test_a_change_that_raises_leaves_the_state_as_it_was(path):
    store = FileStore(path)
    store.transact(bump)

    def fails(state, now):
        state.node("a").picks = 99
        raise KeyError("x")

    with pytest.raises(KeyError):
        store.transact(fails)
    assert store.transact(bump) == 2


@pytest.mark.parametrize("cut", [0, 1, 10, 34, 35, 36, 60, -1])
def test_a_torn_write_leaves_the_version_before_it(path, cut):
    store = FileStore(path)
    store.transact(bump)
    store.transact(bump)
    with open(path, "r+b") as file:  # the slot of version 3, where a writer died in the middle
        body = encode_head(State(Head(cluster="c" * 100)))
        record = b"%016d %08d %08x\n" % (3, len(body), zlib.crc32(body, 3)) + body
        file.seek(HEAD_START + 3 % 2 * HEAD_BYTES)
        file.write(record[:cut] + b"\0" * (len(record) - len(record[:cut])))
    assert count(store) == 2
    assert store.transact(bump) == 3
    assert store.transact(bump) == 4


def test_a_write_that_is_cut_short_says_so_and_loses_nothing(path, monkeypatch):
    """A full file system, or a writer killed in the middle: whatever of the record arrives, the one before it stays."""
    store = FileStore(path)
    write = os.pwrite

    def half(descriptor, data, at):
        return write(descriptor, data[: len(data) // 2], at)

    for _ in range(4):
        store.transact(bump)
        before = count(store)
        with monkeypatch.context() as patch:
            patch.setattr(module.os, "pwrite", half)
            with pytest.raises(StateUnavailable, match="written only in part"):
                store.transact(bump)
        assert count(store) == before


def test_a_first_write_that_is_cut_short_leaves_a_new_file_and_no_lost_state(path, caplog):
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (HEAD_START, hard))
    try:
        with pytest.raises(StateUnavailable, match="File too large"):
            FileStore(path).transact(bump)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
    os.truncate(path, HEAD_START + 2 * HEAD_BYTES)  # as where the disk was full
    store = FileStore(path)
    assert store.transact(bump) == 1
    assert not store.read()[0].head.lost and not caplog.records


def test_an_unreadable_state_starts_anew_with_one_warning(path, caplog):
    store = FileStore(path)
    store.transact(bump)
    store.transact(bump)
    with open(path, "r+b") as file:
        for slot in (0, 1):
            file.seek(HEAD_START + slot * HEAD_BYTES + 40)
            file.write(b"damage")
    assert store.transact(bump) == 1
    assert store.transact(bump) == 2
    assert sum("started anew" in record.message for record in caplog.records) == 1


def test_a_state_of_a_newer_version_is_refused(path):
    store = FileStore(path)
    store.transact(bump)
    with open(path, "r+b") as file:
        body = b'{"format":99}'
        file.seek(HEAD_START)
        file.write(b"%016d %08d %08x\n" % (2, len(body), zlib.crc32(body, 2)) + body)
    with pytest.raises(ConfigError, match=r"newer version .*format 99"):
        store.transact(bump)


def test_a_file_of_a_newer_layout_is_refused(path):
    with open(path, "wb") as file:
        file.write(b"impala-lb state, slots 9\n")
    with pytest.raises(ConfigError, match=r"was written by a newer version .*slots 9"):
        FileStore(path).transact(bump)


def lease(name):
    return Lease(id=name, node="a", owner="o", expires=9e9, taken=0.0, host="h")


def names(store):
    return sorted(each.id for each in store.read()[0].leases.values())


@pytest.mark.parametrize("last", [lambda state: state.lease(lease("new")), lambda state: state.end_lease("l1")])
def test_records_of_a_torn_version_do_not_show(path, last):
    """Version n wrote its records and died in the head: those of version n-1 are as they were."""
    store = FileStore(path)
    for index in range(3):
        store.transact(lambda state, now, index=index: state.lease(lease(f"l{index}")))
    store.transact(lambda state, now: state.end_lease("l0"))
    before = names(store)
    store.transact(lambda state, now: last(state))
    with open(path, "r+b") as file:
        versions = []
        for slot in (0, 1):
            file.seek(HEAD_START + slot * HEAD_BYTES)
            versions.append(int(file.read(16)))
        file.seek(HEAD_START + versions.index(max(versions)) * HEAD_BYTES + 50)
        file.write(b"torn")
    assert names(store) == before == ["l1", "l2"]
    store.transact(lambda state, now: last(state))
    assert names(store) == (["l1", "l2", "new"] if "new" in names(store) else ["l2"])
    assert store.read()[0].node("a").leases == len(names(store))


def test_a_lease_reads_no_other_lease_and_a_pick_reads_none(path, monkeypatch):
    store = FileStore(path)
    store.transact(lambda state, now: [state.lease(lease(f"l{index}")) for index in range(500)])
    read, sizes = os.pread, []

    def counted(descriptor, length, at):
        sizes.append(length)
        return read(descriptor, length, at)

    monkeypatch.setattr(module.os, "pread", counted)
    store.transact(bump)
    store.transact(lambda state, now: state.lease(lease("one more")))
    assert sum(sizes) < 2 * (2 * 8192 + 100)
    assert len(names(store)) == 501


def test_ten_thousand_leases_are_exact(path):
    store = FileStore(path)
    store.transact(lambda state, now: [state.lease(lease(f"l{index}")) for index in range(10_000)])
    store.transact(lambda state, now: [state.end_lease(f"l{index}") for index in range(0, 10_000, 100)])
    assert len(names(store)) == 9900 == store.read()[0].node("a").leases


def test_a_damaged_lease_costs_itself_alone(path):
    store = FileStore(path)
    store.transact(lambda state, now: [state.lease(lease(f"l{index}")) for index in range(3)])
    text = open(path, "rb").read()
    at = text.index(b'"id":"l1"')
    with open(path, "r+b") as file:
        file.seek(at)
        file.write(b'"id":"XX"')
    assert names(store) == ["l0", "l2"]
    store.transact(lambda state, now: state.keep_leases(lambda each: True))
    assert store.read()[0].node("a").leases == 2


def test_a_reader_that_is_overtaken_reads_again(path, monkeypatch):
    """Between its head and its records two writers pass, and the second writes where the reader reads."""
    store, writer = FileStore(path), FileStore(path)
    for name in ("l0", "l1", "l2"):
        store.transact(lambda state, now, name=name: state.lease(lease(name)))
    real, turns = module._records, []

    def overtaken(descriptor, kind, place):
        if kind == 0 and not turns:
            turns.append(1)
            monkeypatch.setattr(module, "_records", real)
            for name in ("l0", "l1"):
                writer.transact(lambda state, now, name=name: state.end_lease(name))
        return real(descriptor, kind, place)

    monkeypatch.setattr(module, "_records", overtaken)
    assert names(store) == ["l2"] and turns


def test_a_large_state_is_exact(path):
    store = FileStore(path)

    def fill(state, now):
        for index in range(20_000):
            state.node(f"node-{index}").picks = index

    store.transact(fill)
    assert os.stat(path).st_blocks * 512 < 4 << 20
    assert store.transact(lambda state, now: sum(node.picks for node in state.nodes.values())) == 19_999 * 10_000


def test_a_state_that_outgrows_its_slot_fails_and_keeps_what_was(path, monkeypatch):
    monkeypatch.setattr(module, "HEAD_BYTES", 4096)
    store = FileStore(path)
    store.transact(bump)
    with pytest.raises(StateUnavailable, match="outgrown"):
        store.transact(lambda state, now: [state.node(f"n{i}" * 10) for i in range(500)])
    assert store.transact(bump) == 2


@pytest.mark.parametrize("kind", ["directory", "link", "fifo"])
def test_only_a_regular_file_is_used(path, kind):
    if kind == "directory":
        os.mkdir(path)
    elif kind == "link":
        os.symlink("/etc/hostname", path)
    else:
        os.mkfifo(path)
    store = FileStore(path)
    for action in (lambda: store.transact(bump), store.read):
        with pytest.raises(ConfigError, match=r"node_in_use\.tmp: is (a|not a) "):
            action()


def test_a_missing_directory_is_named(tmp_path):
    store = FileStore(str(tmp_path / "nas" / "lock"))
    for action in (lambda: store.transact(bump), store.read):
        with pytest.raises(ConfigError, match="its directory is not there, and this host .* has never used it"):
            action()
    os.mkdir(tmp_path / "nas")
    assert store.transact(bump) == 1  # back by itself
    shutil.rmtree(tmp_path / "nas")
    with pytest.raises(StateUnavailable, match="its directory is not there; is the share mounted"):
        store.transact(bump)


def test_the_kernel_tells_the_file_system(tmp_path):
    for directory, expected in ((tmp_path, None), ("/dev/shm", "tmpfs"), ("/proc", "unknown (f_type 0x9fa0)")):
        descriptor = os.open(directory, os.O_RDONLY)
        try:
            magic = filesystem.kind(descriptor)
        finally:
            os.close(descriptor)
        assert magic != 0
        assert expected is None or filesystem.name(magic) == expected
    assert not filesystem.is_coherent(0x9FA0)


def test_what_killed_processes_left_of_a_measurement_is_removed(tmp_path, monkeypatch):
    FileStore(str(tmp_path / "lock")).transact(bump)
    for name in (".impala-lb-clock.00000000000000aa", ".impala-lb-clock.00000000000000bb", ".other.00000000000000aa"):
        (tmp_path / name).touch()
        if "bb" not in name:
            os.utime(tmp_path / name, (1, 1))
    monkeypatch.setattr("random.random", lambda: 0.5)
    FileStore(str(tmp_path / "lock")).transact(bump)
    assert len(os.listdir(tmp_path)) == 4
    monkeypatch.setattr("random.random", lambda: 0.0)
    FileStore(str(tmp_path / "lock")).transact(bump)
    assert sorted(os.listdir(tmp_path)) == [".impala-lb-clock.00000000000000bb", ".other.00000000000000aa", "lock"]
