"""A loss of power at any step of a change leaves the old document or the new one; once acknowledged, the new one."""

import os
import random

import pytest

from airflow_provider_impala_lb.stores.journals import slots as journal_slots
from airflow_provider_impala_lb.stores.journals.file import FileJournals
from tests.support.store_changes import KEY, file_of, put


class Disk:
    """Records what is written and synced, and makes the files that a loss of power may leave."""

    def __init__(self, patch):
        self.steps = []
        pwrite, fsync, fdatasync = os.pwrite, os.fsync, os.fdatasync

        def writes(descriptor, data, start):
            self.steps.append((os.fstat(descriptor).st_ino, start, bytes(data)))
            return pwrite(descriptor, data, start)

        def syncs(real):
            def sync(descriptor):
                self.steps.append((os.fstat(descriptor).st_ino, None, None))
                real(descriptor)

            return sync

        patch.setattr(os, "pwrite", writes)
        patch.setattr(os, "fsync", syncs(fsync))
        patch.setattr(os, "fdatasync", syncs(fdatasync))

    def after(self, steps, inode, before, path, rng):
        """The file as it may be if power fails after so many steps: what is synced, and any sectors of the rest."""
        image, pending = bytearray(before), []
        for where, start, data in self.steps[:steps]:
            if where != inode:
                continue
            if data is None:
                for start, data in pending:
                    _apply(image, start, data)
                pending = []
            else:
                pending.append((start, data))
        keep = rng.choice([0.0, 0.1, 0.5, 0.9, 1.0])
        for start, data in pending:
            for at in range(0, len(data), 512):
                if rng.random() < keep:
                    _apply(image, start + at, data[at : at + 512])
        with open(path, "wb") as file:
            file.write(image)


def _apply(image, start, data):
    if len(image) < start + len(data):
        image.extend(bytes(start + len(data) - len(image)))
    image[start : start + len(data)] = data


@pytest.mark.parametrize("size", [10, 3000, 40_000])
def test_a_loss_of_power_at_any_step_leaves_the_old_or_the_new(journals, tmp_path, monkeypatch, size):
    rng = random.Random(size)
    journals.change(KEY, put(b"first" * size))
    path, states = file_of(journals), set()
    inode = os.stat(path).st_ino
    for number in range(6):
        before = open(path, "rb").read()
        old, new = journals.read(KEY), None if number == 3 else rng.randbytes(rng.randrange(size * 2))
        with monkeypatch.context() as patch:
            disk = Disk(patch)
            journals.change(KEY, put(new))
        committed = len(disk.steps)
        assert committed >= 4
        for steps in [*range(committed + 1)] * 8:
            disk.after(steps, inode, before, path, rng)
            found = FileJournals(str(tmp_path / "node_in_use.tmp")).read(KEY)
            assert found in (old, new)
            assert found == new or steps < committed
            states.add((steps, found == new))
            # And what comes after it is as sound.
            assert journals.change(KEY, put(b"next")) == found
            assert journals.read(KEY) == b"next"
        disk.after(committed, inode, before, path, rng)
        assert journals.read(KEY) == new
    assert (2, False) in states and (committed, True) in states


def test_a_loss_of_power_after_a_killed_writer(journals, tmp_path, monkeypatch):
    """Its version is in the file, but in no disk; the next writer must not build on it before it is."""
    rng = random.Random(1)
    journals.change(KEY, put(b"old" * 1000))
    path = file_of(journals)
    inode, before = os.stat(path).st_ino, open(path, "rb").read()
    with monkeypatch.context() as patch:
        disk = Disk(patch)
        with monkeypatch.context() as kill, pytest.raises(KeyboardInterrupt):
            kill.setattr(journal_slots, "commit", lambda *_: (_ for _ in ()).throw(KeyboardInterrupt))
            journals.change(KEY, put(b"uncommitted" * 1000))
        assert journals.change(KEY, put(b"new" * 1000)) == b"uncommitted" * 1000
    documents = [document * 1000 for document in (b"old", b"uncommitted", b"new")]
    states = set()
    for steps in [*range(len(disk.steps) + 1)] * 20:
        disk.after(steps, inode, before, path, rng)
        found = FileJournals(str(tmp_path / "node_in_use.tmp")).read(KEY)
        states.add((steps, documents.index(found)))
    assert {state for steps, state in states} == {0, 1, 2}
    assert {state for steps, state in states if steps == len(disk.steps)} == {2}


@pytest.mark.parametrize("size", [100, 10_000])
def test_versions_in_attributes_are_synced_in_order(path_on_fuse, monkeypatch, size):
    """Data file, its name, then the version that names it, synced before the change returns and the old one is gone."""
    opened = FileJournals(path_on_fuse)
    opened.change(KEY, put(os.urandom(size)))
    steps = []

    def noted(name, what):
        real = getattr(os, name)

        def call(target, *rest):
            is_file = what == "unlink" or not os.path.samestat(os.fstat(target), os.stat(opened.where))
            known = is_file and what != "unlink" and os.fstat(target).st_ino == os.stat(file_of(opened)).st_ino
            steps.append(f"{what} {'journal' if known else 'data' if is_file else 'directory'}")
            return real(target, *rest)

        monkeypatch.setattr(os, name, call)

    for name in ("setxattr", "removexattr", "fsync", "unlink"):
        noted(name, name)
    opened.change(KEY, put(os.urandom(size)))
    versions = ["setxattr journal", "removexattr journal", "fsync journal"]
    assert steps == (versions if size == 100 else ["fsync data", "fsync directory", *versions, "unlink data"])
