"""A journal's file after damage: the newest committed document, or an error."""

import errno
import os
import random
import shutil
import time

import pytest

from airflow_provider_impala_lb.errors import ConfigError, JournalDamaged, StateUnavailable
from airflow_provider_impala_lb.stores.file import slot, xattr_versions
from airflow_provider_impala_lb.stores.journals import slots as journal_slots
from airflow_provider_impala_lb.stores.journals.document import name_of, wrap
from airflow_provider_impala_lb.stores.journals.file import FileJournals
from airflow_provider_impala_lb.stores.journals.slots import COMMIT_RECORD_START, SLOT_BYTES, SLOTS_START
from tests.support.store_changes import KEY, file_of, put
from tests.support.xattr_files import UNKNOWN, versions


@pytest.fixture
def on_fuse(path_on_fuse, monkeypatch):
    monkeypatch.setattr(xattr_versions, "LOST_AFTER", 0.05)
    return FileJournals(path_on_fuse)


def write_at(path, start, data):
    with open(path, "r+b") as file:
        file.seek(start)
        file.write(data)


def slot_start(version):
    return SLOTS_START + version % 2 * SLOT_BYTES


def fill(journals, changes=5):
    """The newest version is then ``changes`` + 1: a new file begins with an empty version 1."""
    for number in range(1, changes + 1):
        journals.change(KEY, put(b"document %d" % number))


def assert_damaged(journals, reason):
    for action in (lambda: journals.change(KEY, put(b"new")), lambda: journals.read(KEY)):
        with pytest.raises(JournalDamaged, match=f"{name_of(KEY)}: this journal cannot be trusted: .*{reason}"):
            action()
    assert journals.keys() == []
    swept = journals.sweep(lambda *found: False)
    assert swept.removed == 0
    assert [reason in line for line in swept.damaged] == [True]
    assert os.path.exists(file_of(journals))


def test_a_version_whose_writer_was_killed_before_its_commit_counts_once_its_commit_record_is_written(
    journals, monkeypatch
):
    fill(journals)
    if not (child := os.fork()):
        monkeypatch.setattr(journal_slots, "commit", lambda *_: os._exit(0))
        journals.change(KEY, put(b"uncommitted"))
    os.waitpid(child, 0)
    assert journals.read(KEY) == b"uncommitted"
    descriptor = os.open(file_of(journals), os.O_RDWR)
    assert journal_slots._read_commit_record(descriptor)[0] == 7
    os.close(descriptor)
    write_at(file_of(journals), slot_start(7) + 40, b"damage")
    assert_damaged(journals, "version 7, which was noted, fails its checksum, and 6 is older")


@pytest.mark.parametrize("part", [0, 1, 10, 35, 60, 100])
def test_a_write_that_was_cut_off_leaves_the_document_before(journals, part):
    fill(journals)
    if not (child := os.fork()):
        pwrite = os.pwrite

        def cut(descriptor, data, start):
            pwrite(descriptor, data[:part], start)
            os._exit(0)

        os.pwrite = cut
        journals.change(KEY, put(b"longer than the one before " * 10))
    os.waitpid(child, 0)
    assert journals.read(KEY) == b"document 5"
    assert journals.change(KEY, put(b"next")) == b"document 5"
    assert journals.read(KEY) == b"next"


def test_damage_of_the_newest_is_never_answered_with_an_older_one(journals):
    for place in (0, 5, 17, 26, 36, 60):
        fill(journals)
        version = journal_slots.load(os.open(file_of(journals), os.O_RDWR))[0]
        write_at(file_of(journals), slot_start(version) + place, b"\xff")
        assert_damaged(journals, f"version {version}, which was noted, fails its checksum")
        os.unlink(file_of(journals))


def test_an_older_body_with_a_right_checksum_in_the_newest_slot_is_seen(journals):
    """As if a lost host's write arrived late, or a disk had kept what stood there before."""
    fill(journals)
    path = file_of(journals)
    for version in (6, 4):
        late = slot.pack(version, wrap(path, KEY, b"late"))
        with open(path, "rb") as file:
            before = file.read()
        write_at(path, slot_start(version), late)
        assert_damaged(journals, "not what was noted" if version == 6 else "is older")
        write_at(path, 0, before)
        assert journals.read(KEY) == b"document 5"


@pytest.mark.parametrize("damaged", ["older slot", "commit record"])
def test_other_damage_is_mended_by_the_next_change(journals, damaged):
    fill(journals)
    start = slot_start(5) if damaged == "older slot" else COMMIT_RECORD_START
    write_at(file_of(journals), start, b"\0" * 60)
    assert journals.read(KEY) == b"document 5"
    fill(journals, 2)
    write_at(file_of(journals), slot_start(8) + 40, b"?")
    assert_damaged(journals, "version 8, which was noted")


@pytest.mark.parametrize("version", [5, 6])
def test_without_the_commit_record_one_whole_slot_is_not_enough(journals, version):
    fill(journals)
    write_at(file_of(journals), COMMIT_RECORD_START, b"\0" * 60)
    write_at(file_of(journals), slot_start(version), b"\0" * 60)
    assert_damaged(journals, "its commit record and one of its slots fail")


def test_a_cut_or_overwritten_file_is_damaged(journals):
    fill(journals)
    content = open(file_of(journals), "rb").read()
    for length in (0, 1, 600, slot_start(6), slot_start(6) + 50):
        os.truncate(file_of(journals), length)
        assert_damaged(journals, "")
        open(file_of(journals), "wb").write(content)
    for magic, kind in ((b"precious", JournalDamaged), (b"impala-lb journal, slots 2\n", ConfigError)):
        write_at(file_of(journals), 0, magic)
        with pytest.raises(kind):
            journals.change(KEY, put(b"x"))
    assert "newer version" in journals.sweep(lambda *found: False).damaged[0]


def test_a_file_in_the_place_of_another_is_damaged(journals):
    fill(journals)
    journals.change("other", put(b"other's"))
    shutil.copy(file_of(journals, "other"), file_of(journals))
    with pytest.raises(JournalDamaged, match="belongs to another key, b'other'"):
        journals.read(KEY)


def test_a_sync_that_fails_is_an_unknown_outcome(journals, monkeypatch):
    fill(journals)
    for failing, kept in ((1, b"document 5"), (2, b"new 2")):
        calls = []

        def sync(descriptor, failing=failing, calls=calls):
            calls.append(descriptor)
            if len(calls) == failing:
                raise OSError(errno.EIO, "Input/output error")

        with monkeypatch.context() as patch:
            patch.setattr(os, "fdatasync", sync)
            with pytest.raises(StateUnavailable, match=f"Input/output error; {UNKNOWN}"):
                journals.change(KEY, put(b"new %d" % failing))
        assert FileJournals(journals.where.removesuffix(".journal")).read(KEY) == kept


@pytest.mark.parametrize("damage", ["no versions", "record", "data file gone", "data file cut", "newer"])
def test_versions_that_are_gone_or_damaged(on_fuse, damage):
    fill(on_fuse, 2)
    big = random.Random(1).randbytes(10_000)
    on_fuse.change(KEY, put(big))
    path = file_of(on_fuse)
    (number,) = versions(path)
    (data,) = (entry.path for entry in os.scandir(on_fuse.where) if entry.name.startswith("."))
    assert os.stat(data).st_mode & 0o777 == 0o600
    if damage == "no versions":
        os.removexattr(path, f"user.lb.{number}")
    elif damage == "record":
        os.setxattr(path, f"user.lb.{number}", b"1z" + b"a" * 16 + b"?")
    elif damage == "data file gone":
        os.unlink(data)
    elif damage == "data file cut":
        os.truncate(data, 9000)
    else:
        os.setxattr(path, f"user.lb.{number}", b"2")
        with pytest.raises(ConfigError, match="newer version"):
            on_fuse.change(KEY, put(b"x"))
        return
    start = time.monotonic()
    assert_damaged(on_fuse, "its newest version is gone or unreadable")
    assert time.monotonic() - start < 2


def test_a_writer_killed_between_the_two_steps_of_its_commit(on_fuse):
    fill(on_fuse, 2)
    old = os.getxattr(file_of(on_fuse), "user.lb.2")
    on_fuse.change(KEY, put(b"newest"))
    os.setxattr(file_of(on_fuse), "user.lb.2", old)
    assert on_fuse.read(KEY) == b"newest"
    assert on_fuse.change(KEY, put(b"next")) == b"newest"


def test_a_file_of_the_other_mode_is_refused_where_it_would_lose_changes(journals, monkeypatch):
    from airflow_provider_impala_lb.stores.file import filesystem

    fill(journals)
    monkeypatch.setattr(filesystem, "kind", lambda descriptor: 0x65735546)
    with pytest.raises(ConfigError, match="made on another file system"):
        FileJournals(journals.where.removesuffix(".journal")).change(KEY, put(b"x"))
