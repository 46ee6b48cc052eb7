"""The shared state is lost, and begins empty: what runs is counted again before anything begins."""

from contextlib import suppress

import pytest

from airflow_provider_impala_lb.core.state.loading import load_or_reset
from airflow_provider_impala_lb.core.state.model import SILENCE_SECONDS
from airflow_provider_impala_lb.core.state.state import State, encode
from airflow_provider_impala_lb.errors import ConfigError, MustWait
from airflow_provider_impala_lb.stores.memory import MemoryStore
from tests.support.balancers import Clock, make


@pytest.fixture
def clock():
    return Clock()


def lose(store, clock, record=None):
    """The state is gone, as of a Redis that was started anew without its data; or damaged.

    :param record: what is there instead; None: nothing
    """
    clock.now += 1
    store._record = encode(State()) if record is None else record


@pytest.mark.parametrize("record", [None, encode(load_or_reset("file", b"{damaged")[0])], ids=["gone", "damaged"])
def test_when_the_state_is_lost_nothing_begins_until_what_runs_is_counted_again(clock, record):
    store = MemoryStore(clock)
    running, fresh = make(clock, 2, store, max_leases=2), make(clock, 2, store, max_leases=2)
    held = [running.acquire("held") for _ in range(2)]
    lose(store, clock, record)
    if record is None:
        running.get_host()  # whoever knew the state that was lost notices; nobody else could
    with pytest.raises(MustWait) as caught:
        fresh.acquire("new", ticket="new", asks_again=60, wait=100)
    assert "the shared state was lost" in str(caught.value)
    running.leases.renew()
    clock.now += SILENCE_SECONDS
    running.leases.renew()
    with pytest.raises(MustWait, match="2 of 2 leases"):
        fresh.acquire("new", ticket="new", asks_again=60, wait=100)
    held[0].release()
    assert fresh.acquire("new", ticket="new", asks_again=60, wait=100)


def test_a_script_that_renews_its_lease_says_that_the_state_was_lost(clock):
    store = MemoryStore(clock)
    running, other, fresh = (make(clock, 2, store, max_leases=2) for _ in range(3))
    running.acquire("held")
    other.acquire("held, and not renewed yet")
    lose(store, clock)
    running.leases.renew()
    with pytest.raises(MustWait, match="the shared state was lost"):
        fresh.acquire("new", ticket="new", asks_again=60, wait=100)


def test_what_runs_under_another_clusters_name_does_not_take_its_state(clock):
    """The lock file was removed, and the cluster has another name since."""
    store = MemoryStore(clock)
    old = make(clock, 2, store, load={})
    pick = old.acquire("runs")
    store._record = encode(State())
    new = make(clock, 2, store, name="new")
    new.get_host()
    before = store._record
    for work in (old.leases.renew, old.reports.probe_if_due, pick.accepted, pick.release):
        with suppress(ConfigError):
            work()
    assert store._record == before


def test_a_new_state_makes_nobody_wait(clock):
    picker = make(clock, 1, max_leases=2)
    assert [picker.acquire(name, wait=100).host for name in "ab"] == ["n0:21050"] * 2


def test_when_the_state_is_lost_those_who_waited_come_before_newcomers(clock):
    store = MemoryStore(clock)
    picker = make(clock, 1, store, max_leases=1)
    picker.acquire("held")
    waiter = picker.cluster.picker.waiter("old", "old", asks_again=60)
    assert picker.ask(waiter) is not None
    lose(store, clock)
    picker.leases.renew()
    with pytest.raises(MustWait):
        picker.acquire("new", ticket="new", asks_again=60, wait=100)
    waiter.ask_next()
    assert picker.ask(waiter) is not None
    assert [entry["owner"] for entry in picker.status()["waiting"]] == ["old", "new"]
