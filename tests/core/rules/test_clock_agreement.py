"""Hosts without a common clock: a wrong one may delay, and never ends a live lease."""

import pytest

from airflow_provider_impala_lb.core.config.parse import parse
from airflow_provider_impala_lb.core.rules.clock_agreement import clocks_differ
from airflow_provider_impala_lb.core.state.model import LEASE_SECONDS, RENEW_SECONDS
from airflow_provider_impala_lb.core.state.state import State, decode, encode
from tests.support.balancers import BareBalancer

CONFIG = parse({"nodes": ["a", "b"], "lock_file": "/not/used", "name": "t", "max_leases_per_node": 2})


class Share:
    """A store on a file system that stamps with the client's time: each host has a clock of its own."""

    def __init__(self):
        self.time = 1_000_000.0
        self.record = encode(State())

    def host(self, name, wrong=0.0):
        share = self

        class Store:
            where = "share"
            one_clock = False

            def transact(self, change):
                state = decode(share.record)
                result = change(state, share.time + wrong)
                share.record = encode(state)
                return result

            def read(self):
                return decode(share.record), share.time + wrong

        picker = BareBalancer(CONFIG, Store())
        picker.host = name
        return picker


@pytest.fixture
def share():
    return Share()


def live(share):
    return sorted(lease.owner for lease in decode(share.record).leases.values())


def pass_time(share, seconds, *busy, renewing=()):
    """Time passes; the busy hosts pick all the while, the renewing ones renew."""
    end = share.time + seconds
    while share.time < end:
        share.time += RENEW_SECONDS
        for picker in renewing:
            picker.leases.renew()
        for picker in busy:
            picker.get_host()


@pytest.mark.parametrize("wrong", [600.0, -600.0, 86400.0, -86400.0])
def test_a_host_with_a_wrong_clock_ends_no_live_lease(share, wrong):
    right, odd = share.host("right"), share.host("odd", wrong)
    mine = right.acquire("right")
    theirs = odd.acquire("odd")
    pass_time(share, 1800, right, odd, renewing=[right, odd])
    assert live(share) == ["odd", "right"]
    mine.release()
    theirs.release()
    assert live(share) == []


@pytest.mark.parametrize("wrong", [0.0, 600.0, -600.0])
def test_the_leases_of_a_host_that_is_gone_end_all_the_same(share, wrong):
    gone, here = share.host("gone", wrong), share.host("here")
    gone.acquire("gone")
    kept = here.acquire("here")
    pass_time(share, LEASE_SECONDS - RENEW_SECONDS, here, renewing=[here])
    assert live(share) == ["gone", "here"]
    pass_time(share, 700 + LEASE_SECONDS, here, renewing=[here])
    assert live(share) == ["here"]
    kept.release()
    gone.leases._held.clear()


def test_no_cap_is_passed_by_a_host_whose_clock_is_ahead(share):
    right, ahead = share.host("right"), share.host("ahead", 600.0)
    held = [right.acquire("x", wait=0) for _ in range(4)]
    for _ in range(20):
        share.time += RENEW_SECONDS
        right.cluster.leases.renew()
        with pytest.raises(Exception, match="2 nodes, 2 full"):
            ahead.acquire("y", wait=0)
    for pick in held:
        pick.release()


def test_the_ticket_of_one_who_waits_is_not_ended_by_a_clock_that_is_ahead(share):
    right, ahead = share.host("right"), share.host("ahead", 600.0)
    held = [right.acquire("x", wait=0) for _ in range(4)]
    with pytest.raises(Exception, match="busy or full"):
        right.acquire("first", ticket="first", asks_again=1)
    with pytest.raises(Exception, match="busy or full"):
        ahead.acquire("second", ticket="second", asks_again=1)
    held[0].release()
    with pytest.raises(Exception, match="number 2 in the queue"):
        ahead.acquire("second", ticket="second", asks_again=1)
    assert right.acquire("first", ticket="first", asks_again=1)
    for picker in (right, ahead):
        picker.leases._held.clear()


def test_hosts_whose_clocks_differ_are_named(share):
    right, odd = share.host("right"), share.host("odd", 45.0)
    odd.get_host()
    right.get_host()
    state, _ = right.store.read()
    assert clocks_differ(state, "right", share.time) == {"odd": 45.0}
    near = share.host("near", 20.0)
    near.get_host()
    right.get_host()
    state, _ = right.store.read()
    assert clocks_differ(state, "right", share.time) == {"odd": 45.0}
