"""Hosts without a common clock: a wrong one may delay, and never ends a live lease."""

import random

import pytest

from airflow_provider_impala_lb.core.config.parse import parse
from airflow_provider_impala_lb.core.rules.clock_agreement import clocks_differ
from airflow_provider_impala_lb.core.state.model import LEASE_SECONDS, RENEW_SECONDS
from airflow_provider_impala_lb.core.state.state import State, decode, encode
from airflow_provider_impala_lb.errors import NoNodeAvailable
from tests.support.balancers import BareBalancer

CONFIG = parse({"nodes": ["a", "b"], "lock_file": "/not/used", "name": "t", "max_leases_per_node": 2})


class Share:
    """A store on a file system that stamps with the client's time: each host has a clock of its own."""

    def __init__(self):
        self.time = 1_000_000.0
        self.record = encode(State())

    def host(self, name, wrong=0.0):
        """A balancer there. Its store's ``wrong`` is what its clock is ahead."""
        share = self

        class Store:
            where = "share"
            one_clock = False

            def __init__(self):
                self.wrong = wrong

            def transact(self, change):
                state = decode(share.record)
                result = change(state, share.time + self.wrong)
                share.record = encode(state)
                return result

            def read(self, *, records=True):
                return decode(share.record), share.time + self.wrong

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
    with pytest.raises(Exception, match="No node is free"):
        right.acquire("first", ticket="first", asks_again=1)
    with pytest.raises(Exception, match="No node is free"):
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
    share.time += 200  # one that has said nothing for so long is not behind
    assert clocks_differ(state, "right", share.time) == {}
    share.time -= 200
    near = share.host("near", 20.0)
    near.get_host()
    right.get_host()
    state, _ = right.store.read()
    assert clocks_differ(state, "right", share.time) == {"odd": 45.0}


@pytest.mark.parametrize("step", [3600.0, -3600.0])
def test_a_clock_that_is_set_ends_no_live_lease(share, step):
    right, odd = share.host("right"), share.host("odd")
    held = [right.acquire("right"), odd.acquire("odd")]
    pass_time(share, 300, right, odd, renewing=[right, odd])
    odd.store.wrong = step
    for _ in range(5):  # before anybody else has come
        odd.get_host()
    assert live(share) == ["odd", "right"]
    pass_time(share, 300, right, odd, renewing=[right, odd])
    assert live(share) == ["odd", "right"]
    for pick in held:
        pick.release()


def test_a_host_that_spoke_meanwhile_was_not_silent(share):
    """One that speaks again may vouch for the time between, and not against those that spoke in it."""
    here, there, gone = share.host("here", -40.0), share.host("there", 40.0), share.host("gone")
    gone.get_host()
    share.time += 1
    here.get_host()
    share.time += 29
    there.get_host()
    share.time += 1
    here.get_host()
    hosts = decode(share.record).hosts
    assert (hosts["gone"].silent, hosts["there"].silent, hosts["here"].silent) == (30.0, 0.0, 0.0)
    share.time += 10
    there.get_host()  # what it can vouch for is less than was counted while it was here
    hosts = decode(share.record).hosts
    assert (hosts["gone"].silent, hosts["here"].silent) == (30.0, 0.0)


@pytest.mark.parametrize("seed", range(3))
def test_of_pods_that_come_and_go_with_wrong_clocks_the_dead_ones_leases_end_and_no_others(share, seed):
    rng = random.Random(seed)
    working, died, longest, most = {}, {}, 0.0, 0
    for number in range(600):
        share.time += rng.uniform(1, 10)
        pod = share.host(f"pod-{number}", rng.choice([0.0, rng.uniform(-100, 100), rng.uniform(-1e6, 1e6)]))
        if len(working) < 6 and len(working) + len(died) < 40:
            try:
                working[f"w{number}"] = pod, pod.acquire(f"w{number}", wait=0), share.time + rng.uniform(5, 200)
            except NoNodeAvailable:
                pod.get_host()
        for name, (other, pick, ends) in list(working.items()):
            if share.time >= ends and rng.random() < 0.3:
                died[name] = share.time
                other.leases._held.clear()
                other.leases._wake.set()
                del working[name]
            elif share.time >= ends:
                pick.release()
                del working[name]
            elif rng.random() < 0.4:
                other.leases.renew()
        there = set(live(share))
        assert set(working) <= there
        for name in [name for name in died if name not in there]:
            longest = max(longest, share.time - died.pop(name))
        most = max(most, len(share.record))
    assert longest < 1000
    assert len(died) < 10
    assert most < 40_000
    for _, pick, _ in working.values():
        pick.release()


def test_a_note_is_as_large_with_many_hosts_as_with_two(share):
    sizes = {}
    for number in range(200):
        share.time += 1
        share.host(f"host-{number:04}").get_host()
        sizes[number] = len(share.record)
    assert sizes[199] - sizes[149] < 60 * 50
    assert sizes[199] < 20_000


def test_the_lease_of_a_host_that_is_noted_nowhere_ends(share):
    gone, here = share.host("gone", 5000.0), share.host("here")
    gone.acquire("gone")
    kept = here.acquire("kept")
    here.store.transact(lambda state, now: state.hosts.pop("gone") and None)
    pass_time(share, LEASE_SECONDS + 5 * RENEW_SECONDS, here, renewing=[here])
    assert live(share) == ["kept"]
    kept.release()
    gone.leases._held.clear()


@pytest.mark.parametrize("common", [True, False])
def test_after_a_clock_was_set_back_what_is_dated_since_lapses_in_time(share, common):
    right, odd = share.host("right"), share.host("odd")
    for picker in (right, odd):
        picker.store.one_clock = common
        picker.get_host()
    share.time += 600  # nobody can reach the state: so nothing lapses for a while
    right.get_host()
    odd.get_host()
    if common:
        share.time -= 3600
    else:
        odd.store.wrong = -3600
    odd.get_host()
    odd.acquire("dead")
    odd.get_host()
    pass_time(share, 60, right, odd)
    pass_time(share, 2 * LEASE_SECONDS, right)
    assert live(share) == []
