"""What the tests of the mode cas do to a state, and see of its files."""

import os
import random
import secrets
import time

from airflow_provider_impala_lb.stores.file import xattr
from airflow_provider_impala_lb.stores.file.store import FileStore
from tests.support.store_changes import bump

UNKNOWN = "outcome unknown"


def versions(path):
    return sorted(int(name.removeprefix("user.lb.")) for name in os.listxattr(path))


def data_files(path):
    return sorted(name for name in os.listdir(os.path.dirname(path)) if name != os.path.basename(path))


def grow(state, now):
    """3 KB that do not compress."""
    for _ in range(100):
        state.node(secrets.token_hex(16)).picks = 1


def shrink(state, now):
    state.head.nodes = {"a": state.node("a")}


def make_at_once(acks, worker, path, start):
    time.sleep(max(0.0, start - time.time()))
    FileStore(path).transact(bump)


def bump_with_stale_reads(acks, worker, path, times, lag):
    injected = inject_stale_reads(random.Random(worker), lag)
    store = FileStore(path)
    for _ in range(times):
        store.transact(bump)
        acks[worker] += 1
    assert injected() > times / 5


def inject_stale_reads(rng, lag):
    """A third of all lists are old ones, and what a version held is never looked up again. In this process only.
    Returns what tells how many."""
    lists, records = [], {}
    real_list, real_get = xattr._versions, xattr._get
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

    xattr._versions, xattr._get = old_list, old_record
    return lambda: injected
