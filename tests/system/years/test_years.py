"""The shared state after months of hosts that come and go: as small and as fast as after a day.

The stores are real, the time is simulated. What one pod leaves if it is killed at work is kept for 30 days, for its
retry (`LEFTOVER_SECONDS`): so the state is as large as it gets after a month. Of the changes of the long ones most are
made beside the store (`ShelvedStore`).
"""

import math
import random

import msgspec
import pytest

from airflow_provider_impala_lb.core.cluster import picker
from airflow_provider_impala_lb.core.config.store_url import parse_store
from airflow_provider_impala_lb.core.rules.clock_agreement import MOST_NOTES
from airflow_provider_impala_lb.core.rules.retention import MOST_BYTES
from tests.support.pods import Pods, SetClock, SetRedisStore, file_store
from tests.support.shelved_store import ShelvedStore
from tests.support.sizes import sizes

KILLED_A_DAY = 24 * 60 / 50


def check(samples, days):
    """That nothing has grown, but for what is kept for a month."""
    for found in samples:
        print(found)
        assert found.leases <= 8
        assert found.hosts <= 40
        assert found.nodes <= 11
        assert found.files <= 3
        assert found.head < 10_000
        kept = math.ceil(min(30, found.day) * KILLED_A_DAY) + 50
        assert found.state < 10_000 + 300 * kept
    assert samples[-1].day > 0.99 * days


@pytest.mark.parametrize("days", sizes("POD_DAYS"))
def test_a_year_of_pods_on_a_lock_file(tmp_path, days):
    clock = SetClock()
    store = file_store(tmp_path / "lock", clock)
    check(Pods(spared(store, clock, days), clock, node_days=1).run(days, samples=10), days)
    assert store.mode == "slots"


@pytest.mark.parametrize("days", sizes("POD_DAYS"))
def test_a_year_of_pods_on_versions_in_attributes(path_on_fuse, days):
    clock = SetClock()
    store = file_store(path_on_fuse, clock)
    check(Pods(spared(store, clock, days, made=10), clock, node_days=1).run(days, samples=10), days)
    assert store.mode == "cas"


@pytest.mark.parametrize("days", sizes("POD_DAYS"))
def test_a_year_of_pods_on_redis(redis, days):
    clock = SetClock()
    store = SetRedisStore(parse_store(f"redis://127.0.0.1:{redis.port}"), "test", clock)
    check(Pods(spared(store, clock, days), clock, node_days=1).run(days, samples=10), days)
    keys = redis.cli("--scan").split()
    assert {key for key in keys if ":applied:" not in key} <= {"{test}:state", "{test}:turn"}
    lives = [int(redis.cli("PTTL", key)) for key in keys[:50] if ":applied:" in key]
    assert all(-2 <= life <= 60_000 and life != -1 for life in lives)


@pytest.mark.parametrize("days", sizes("GLUSTER_DAYS"))
def test_a_week_of_pods_on_glusterfs(gluster, days):
    clock = SetClock()
    store = file_store(gluster[0] / "lock", clock)
    check(Pods(store, clock, node_days=1).run(days, samples=7), days)
    assert store.mode == "cas"


@pytest.mark.slow
def test_two_hundred_pods_at_once_without_a_common_clock(path_on_fuse):
    clock = SetClock()
    pods = Pods(file_store(path_on_fuse, clock), clock)
    samples = pods.run(0.004, samples=2, each=0.25)  # each for 10 to 100 s: about 220 with a lease
    assert all(found.hosts < 300 + MOST_NOTES for found in samples)
    assert all(found.head < 120 * (300 + MOST_NOTES) for found in samples)


@pytest.mark.parametrize("keys", sizes("DAILY_KEYS"))
def test_three_days_of_session_keys_on_a_lock_file(tmp_path, keys):
    clock = SetClock()
    check_keys(file_store(tmp_path / "lock", clock), clock, keys)


@pytest.mark.parametrize("keys", sizes("DAILY_KEYS"))
def test_three_days_of_session_keys_on_versions_in_attributes(path_on_fuse, keys):
    clock = SetClock()
    check_keys(file_store(path_on_fuse, clock), clock, keys, made=10)


@pytest.mark.parametrize("keys", sizes("DAILY_KEYS"))
def test_three_days_of_session_keys_on_redis(redis, keys):
    clock = SetClock()
    check_keys(SetRedisStore(parse_store(f"redis://127.0.0.1:{redis.port}"), "test", clock), clock, keys)


@pytest.mark.parametrize("keys", [0, 20_000])
@pytest.mark.parametrize(
    "place", ["tmp_path", *(pytest.param(name, marks=pytest.mark.slow) for name in ("path_on_fuse", "redis"))]
)
def test_a_store_that_is_spared_changes_comes_to_hold_the_same(request, monkeypatch, place, keys):
    found, where = [], request.getfixturevalue(place)
    for made in (1000, 20):
        rng = random.Random(1)
        monkeypatch.setattr(picker, "new_id", lambda rng=rng: f"{rng.getrandbits(128):032x}")
        clock = SetClock()
        if place == "redis":
            store = SetRedisStore(parse_store(f"redis://127.0.0.1:{where.port}"), f"test {made}", clock)
        else:
            store = file_store(f"{where}{made}", clock)
        pods = Pods(ShelvedStore(store, clock, made, of=1000), clock, node_days=0.03, keys=keys)
        if keys:
            pods.run_keys(0.05)
        else:
            pods.run(0.35, samples=2)
        state, _ = pods.store.settled().read()
        head = msgspec.to_builtins(state.head)
        extents = [each[:2] for each in head.pop("extents")]
        found.append((head, extents, [list(records.items()) for records in state.records]))
    assert found[0] == found[1]
    assert len(found[0][2][1 if keys else 4]) >= (1000 if keys else 5)


def spared(store, clock, days, made=50):
    """The store, or for more than a few days one on which so many of 1,000 changes are made."""
    return store if days <= 3 else ShelvedStore(store, clock, made)


def check_keys(store, clock, keys, made=20):
    """Three days of so many a day, and that it has not grown since the first."""
    on = store if keys <= 10_000 else ShelvedStore(store, clock, made)
    samples = Pods(on, clock, keys=keys).run_keys(3)
    for found in samples:
        print(found)
    assert max(found.state for found in samples) < 1.3 * MOST_BYTES
    assert samples[-1].state < 1.3 * max(found.state for found in samples[: len(samples) // 2])
    assert all(found.files <= 3 for found in samples)
