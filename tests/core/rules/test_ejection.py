"""Nodes that fail, drain and come back: by the pure state machine, and by a fleet of pickers on one state."""

import pytest
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, precondition, rule

from airflow_provider_impala_lb.core.config.parse import parse
from airflow_provider_impala_lb.core.rules.ejection import (
    DOUBT_SECONDS,
    EVIDENCE_SECONDS,
    FIRST_COOL_DOWN,
    LONGEST_COOL_DOWN,
    MOST_FAILURES,
    MOST_SUSPICIONS,
    OVERLOAD_SECONDS,
    QUIET_SECONDS,
    SHUTDOWN_SECONDS,
    UNTRIED_SECONDS,
    cool_down,
    fails,
)
from airflow_provider_impala_lb.errors import ConfigError, NoNodeAvailable
from airflow_provider_impala_lb.stores.memory import MemoryStore
from tests.support.balancers import BareBalancer, Clock, make

TRIAL = 10 + 5  # open_timeout + 5


@pytest.fixture
def clock():
    return Clock()


@pytest.fixture
def picker(clock):
    return of_two_hosts(clock, "abc")


def of_two_hosts(clock, nodes):
    """One of them is this one: the word of an only one would be enough."""
    config = parse({"nodes": list(nodes), "lock_file": "/not/used", "name": "t"})
    picker = BareBalancer(config, MemoryStore(clock))
    picker.get_host()
    return picker


def state_of(picker, node):
    return next(entry for entry in picker.status()["nodes"] if entry["node"] == f"{node}:21050")


def hosts(picker, picks=12):
    return {picker.acquire("x").host for _ in range(picks)}


def meet(picker, node, host, cause="failure", why="connection refused"):
    """A host meets a failure of a node."""
    me, picker.host = picker.host, host
    with picker.acquire("f", exclude=[other for other in picker.config.addresses if other != f"{node}:21050"]) as pick:
        pick.refused(cause, why)
    picker.host = me


def fail(picker, node, cause="failure", why="connection refused"):
    """A node fails two hosts, neither of them this one."""
    for host in ("one", "another"):
        meet(picker, node, host, cause, why)


def test_a_node_that_fails_is_left_out_by_everybody_and_says_why(picker):
    fail(picker, "a")
    assert hosts(picker) == {"b:21050", "c:21050"}
    pick = picker.acquire("x")
    assert "left out: a:21050 (connection refused (failure, said by another, one; left out for 10 s more))" in pick.why
    assert state_of(picker, "a")["state"] == "ejected"
    assert "connection refused" in state_of(picker, "a")["why"]


def test_after_the_cool_down_one_pick_tries_for_the_whole_fleet(picker, clock):
    fail(picker, "a")
    clock.now += FIRST_COOL_DOWN + 1
    tried = [pick for pick in (picker.acquire("x") for _ in range(9)) if pick.host == "a:21050"]
    assert len(tried) == 1
    assert "(on trial)" in tried[0].why
    tried[0].accepted()
    assert state_of(picker, "a")["state"] == "ready"
    assert "a:21050" in hosts(picker)


def test_a_trial_that_nobody_ends_expires_and_the_next_pick_tries(picker, clock):
    fail(picker, "a")
    clock.now += FIRST_COOL_DOWN + 1
    assert "a:21050" in hosts(picker)
    assert "a:21050" not in hosts(picker)
    clock.now += TRIAL
    assert "a:21050" in hosts(picker)


def test_a_late_word_from_an_earlier_trial_does_not_bring_a_node_back(picker, clock):
    others = ["b:21050", "c:21050"]
    fail(picker, "a")
    clock.now += FIRST_COOL_DOWN + 1
    late = picker.acquire("x", exclude=others)
    clock.now += TRIAL + 1
    picker.acquire("x", exclude=others).refused("failure", "refused again")
    late.accepted()
    assert state_of(picker, "a")["state"] == "ejected"


def later(node, seconds):
    """As if the last cool-down had ended later."""
    node.quiet_since += seconds


def test_the_cool_down_grows_with_failures_in_a_row_and_shrinks_with_quiet(picker, clock):
    seen = []
    for _ in range(7):
        clock.now += 300  # what a host has met by itself is over
        picker.store.transact(lambda state, now: later(state.node("a:21050"), 300))
        fail(picker, "a")
        out = picker.store.read()[0].nodes["a:21050"].ejection
        seen.append(out.until - clock.now)
        clock.now = out.until
    assert seen == [10, 20, 40, 80, 160, 300, 300]
    clock.now += 3 * QUIET_SECONDS + 1
    fail(picker, "a")
    assert picker.store.read()[0].nodes["a:21050"].ejection.until - clock.now == cool_down(MOST_FAILURES - 3 + 1) == 80


def test_failures_at_the_same_time_count_once(picker, clock):
    for host in ("one", "one", "another", "a third"):
        meet(picker, "a", host)
    assert picker.store.read()[0].nodes["a:21050"].ejection.until == clock.now + FIRST_COOL_DOWN
    assert picker.store.read()[0].nodes["a:21050"].failures == 1


def test_overload_is_not_failure(picker, clock):
    for _ in range(4):
        fail(picker, "a", "overload", "silent")
        out = picker.store.read()[0].nodes["a:21050"].ejection
        assert out.until - clock.now == OVERLOAD_SECONDS
        clock.now = out.until
    assert state_of(picker, "a")["state"] == "busy"
    assert picker.store.read()[0].nodes["a:21050"].failures == 0


def test_a_node_that_says_it_is_going_is_a_drain(picker, clock):
    fail(picker, "a", "shutdown", "Server is being shut down")
    assert state_of(picker, "a")["state"] == "drain"
    clock.now += SHUTDOWN_SECONDS - 1
    assert "a:21050" not in hosts(picker)


def test_what_one_host_alone_has_met_is_left_out_by_that_host_alone(picker, clock):
    meet(picker, "a", "bad")
    assert hosts(picker) == {"a:21050", "b:21050", "c:21050"}
    assert state_of(picker, "a")["state"] == "ready"
    assert state_of(picker, "a")["why"] == "left out by bad alone (connection refused; for 10 s more)"
    picker.host = "bad"
    pick = picker.acquire("x")
    assert "connection refused (failure, met by this host, bad, alone; left out for 10 s more)" in pick.why
    assert hosts(picker) == {"b:21050", "c:21050"}
    clock.now += FIRST_COOL_DOWN
    trial = next(pick for pick in (picker.acquire("x") for _ in range(9)) if pick.host == "a:21050")
    assert "a:21050" not in hosts(picker)  # one of its processes tries for all of them
    trial.accepted()
    assert "a:21050" in hosts(picker)


def test_a_host_for_which_all_nodes_fail_is_no_witness(picker, clock):
    """A firewall, or a wrong route: it says so of every node, once a minute. Then each node fails somebody once."""
    for _ in range(5):
        for node in "abc":
            meet(picker, node, "bad")
        clock.now += 1
        for node in "abc":
            meet(picker, node, f"good {node}")
        assert hosts(picker) == {"a:21050", "b:21050", "c:21050"}
        assert {entry["state"] for entry in picker.status()["nodes"]} == {"ready"}
        clock.now += 60


def test_it_is_spread_over_all_where_all_fail_for_a_host(picker, clock):
    for node in "abc":
        meet(picker, node, "bad")
    picker.host = "bad"
    assert hosts(picker, 40) == {"a:21050", "b:21050", "c:21050"}
    pick = picker.acquire("x")
    assert pick.why.startswith("all are out, and it was drawn")
    assert "more than half of the nodes fail for this host" in pick.why


def test_the_word_of_the_only_host_is_enough(clock):
    config = parse({"nodes": ["a", "b", "c"], "lock_file": "/not/used", "name": "t"})
    picker = BareBalancer(config, MemoryStore(clock))
    meet(picker, "a", picker.host)
    assert hosts(picker) == {"b:21050", "c:21050"}
    assert state_of(picker, "a")["state"] == "ejected"
    meet(picker, "b", picker.host)  # now most fail: rather this host's fault
    assert state_of(picker, "b")["state"] == "ready"


def test_a_second_host_that_meets_it_long_after_is_a_first(picker, clock):
    hosts(picker)
    meet(picker, "a", "one")
    clock.now += EVIDENCE_SECONDS + 1
    meet(picker, "a", "another")
    assert "a:21050" in hosts(picker)
    meet(picker, "a", "one")
    assert "a:21050" not in hosts(picker)


def test_of_a_split_network_each_side_is_right_for_itself(picker, clock):
    """One side does not reach a, the other one works there."""
    meet(picker, "a", "far one")
    clock.now += 1
    picker.host = "near"
    picker.acquire("x", prefer="a").accepted()
    clock.now += 1
    meet(picker, "a", "far one")
    meet(picker, "a", "far two")
    assert state_of(picker, "a")["state"] == "ready"
    assert "a:21050" in hosts(picker)
    picker.host = "far two"
    assert "a:21050" not in hosts(picker)


def test_who_has_worked_there_before_it_failed_is_a_witness(picker, clock):
    """Else a node that comes and goes would be held against those who meet it."""
    fail(picker, "a")
    clock.now += FIRST_COOL_DOWN + 1
    for host in ("one", "another"):
        picker.host = host
        picker.acquire("x", exclude=["b:21050", "c:21050"]).accepted()
    clock.now += 1
    fail(picker, "a")
    assert state_of(picker, "a")["state"] == "ejected"


def test_a_trial_that_fails_is_another_hosts_then(picker, clock):
    fail(picker, "a")
    clock.now += FIRST_COOL_DOWN + 1
    clock.now += EVIDENCE_SECONDS
    meet(picker, "a", "one")
    assert state_of(picker, "a")["why"] == "connection refused (failure, said by another, one; due for a trial)"
    assert "(on trial)" in picker.acquire("x", exclude=["b:21050", "c:21050"]).why
    assert state_of(picker, "a")["why"] == "connection refused (failure, said by another, one; on trial)"


def test_any_work_that_was_begun_after_the_failure_and_is_accepted_brings_a_node_back(picker, clock):
    """Also long after a trial's token has expired, and whoever's it is: a node that was asked for by name, say."""
    early = picker.acquire("x", prefer="a")
    clock.now += 1
    fail(picker, "a")
    early.accepted()
    assert state_of(picker, "a")["state"] == "ejected"
    clock.now += FIRST_COOL_DOWN + 1
    late = picker.acquire("x", exclude=["b:21050", "c:21050"])
    clock.now += 600
    picker.leases.renew()
    late.accepted()
    assert state_of(picker, "a")["state"] == "ready"


def test_a_node_that_is_back_makes_the_others_due(clock):
    """A rack, a switch: what has failed together is back together."""
    picker = of_two_hosts(clock, "abcdef")
    for node in "bc":
        fail(picker, node)
    clock.now += FIRST_COOL_DOWN + 1
    for node in "abc":
        fail(picker, node)
    clock.now += FIRST_COOL_DOWN + 1
    trial = next(pick for pick in (picker.acquire("x") for _ in range(40)) if pick.host == "a:21050")
    assert hosts(picker, 40) == {"d:21050", "e:21050", "f:21050"}  # b and c are out for 20 s
    trial.accepted()
    assert hosts(picker, 40) == set(picker.config.addresses)


def test_only_work_that_will_say_what_became_of_it_is_a_trial(picker, clock):
    fail(picker, "a")
    clock.now += FIRST_COOL_DOWN + 1
    assert {picker.get_host() for _ in range(9)} == {"b:21050", "c:21050"}
    assert picker.hold(60).host != "a:21050"
    assert "a:21050" in hosts(picker)


def test_where_nobody_could_try_a_node_it_is_back_in_the_end(picker, clock):
    fail(picker, "a")
    clock.now += FIRST_COOL_DOWN + UNTRIED_SECONDS - 1
    assert "a:21050" not in {picker.get_host() for _ in range(9)}
    clock.now += 1
    assert "a:21050" in {picker.hold(60).host for _ in range(9)}
    assert "(on trial)" in picker.acquire("x", exclude=["b:21050", "c:21050"]).why


def test_a_trial_that_has_not_come_as_far_as_the_node_is_the_next_ones(picker, clock):
    """Its host could not resolve the name, say."""
    fail(picker, "a")
    clock.now += FIRST_COOL_DOWN + 1
    with picker.acquire("x", exclude=["b:21050", "c:21050"]) as pick:
        pick.not_tried()
    assert "(on trial)" in picker.acquire("x", exclude=["b:21050", "c:21050"]).why


def test_at_most_half_of_the_nodes_are_out_for_all_and_of_more_each_is_tried_often(clock):
    picker = of_two_hosts(clock, "abcd")
    for node, by in zip("abc", ("12", "34", "56"), strict=True):
        for host in by:
            meet(picker, node, host)
    assert [state_of(picker, node)["state"] for node in "abc"] == ["ejected", "ejected", "ready"]
    assert hosts(picker, 40) == {"c:21050", "d:21050"}
    meet(picker, "c", picker.host)
    clock.now += DOUBT_SECONDS - 1
    assert hosts(picker, 40) == {"d:21050"}
    clock.now += 1
    tried = [picker.acquire("x") for _ in range(40)]
    assert {pick.host for pick in tried} == set(picker.config.addresses)
    assert sum(pick.host != "d:21050" for pick in tried) == 3  # one pick for each
    assert "more than half of the nodes fail for this host" in tried[-1].why


def test_when_all_are_out_any_of_them_is_tried(picker, clock):
    for node in "abc":
        fail(picker, node, "shutdown")
    assert hosts(picker, 40) == {"a:21050", "b:21050", "c:21050"}
    assert picker.acquire("x").why.startswith("all are out, and it was drawn")


def test_what_hosts_have_met_long_ago_is_forgotten(picker, clock):
    for host in range(MOST_SUSPICIONS + 5):
        meet(picker, "a", f"h{host}")
    assert len(picker.store.read()[0].nodes["a:21050"].suspicions) == MOST_SUSPICIONS
    clock.now += FIRST_COOL_DOWN + UNTRIED_SECONDS
    picker.get_host()
    assert not picker.store.read()[0].nodes["a:21050"].suspicions


def test_a_drained_node_gets_nothing_until_it_is_ready(picker):
    running = picker.acquire("x", prefer="a")
    picker.drain("a")
    assert hosts(picker) == {"b:21050", "c:21050"}
    assert state_of(picker, "a")["state"] == "drain"
    assert state_of(picker, "a")["leases"] == 1  # what runs there finishes
    running.release()
    kept = picker.pick(prefer="a")
    assert kept.host != "a:21050"
    assert kept.left_out == {"a:21050": "drained by an operator"}
    picker.ready("a:21050")
    assert "a:21050" in hosts(picker)


def test_when_all_are_drained_the_error_says_so(picker):
    for node in "abc":
        picker.drain(node)
    with pytest.raises(NoNodeAvailable, match="3 nodes, 3 drained"):
        picker.get_host()
    with pytest.raises(ConfigError, match="'d' is not a node of t"):
        picker.drain("d")


def test_ready_also_forgets_failures(picker):
    fail(picker, "a")
    picker.ready("a")
    assert "a:21050" in hosts(picker)
    fail(picker, "a")
    assert picker.store.read()[0].nodes["a:21050"].failures == 1


def test_a_retry_goes_elsewhere_than_where_the_task_failed(picker):
    first = picker.acquire("dag/run/task")
    first.failed()
    first.release()
    assert {picker.acquire("dag/run/task").host for _ in range(9)} == set(picker.config.addresses) - {first.host}
    assert hosts(picker) == set(picker.config.addresses)  # other tasks do not mind
    assert picker.pick(prefer=first.host).host == first.host
    kept = picker.acquire("dag/run/task", prefer=first.host)
    assert kept.host == first.host  # a host to stick to is stronger
    others = set(picker.config.addresses) - {first.host}
    assert picker.acquire("dag/run/task", exclude=others).host == first.host  # the only one there is


class Fleet(RuleBasedStateMachine):
    """Any order of picks, outcomes, drains and waiting."""

    def __init__(self):
        super().__init__()
        self.clock = Clock()
        config = parse({"nodes": list("abcd"), "lock_file": "/not/used", "name": "t"})
        self.picker = BareBalancer(config, MemoryStore(self.clock))
        self.open = []

    def nodes(self):
        return self.picker.store.read()[0].nodes

    def is_out(self, record):
        """For all, or for the host that picks."""
        if record is None:
            return False
        out, mine = record.ejection, record.suspicions.get(self.picker.host)
        met = mine is not None and not mine.ended and self.clock.now < max(mine.until, mine.trial_until)
        return met or (out is not None and self.clock.now < max(out.until, out.trial_until))

    def more_than_half_fail(self, nodes):
        there = [record for record in nodes.values() if not record.drained]
        failing = sum(fails(record, self.clock.now, self.picker.host) for record in there)
        return 2 * failing > 4 - (len(nodes) - len(there))

    @rule(host=st.sampled_from(["one", "another"]))
    def pick(self, host):
        self.picker.host = host
        before = self.nodes()
        try:
            pick = self.picker.acquire("x")
        except NoNodeAvailable:
            assert all(before[address].drained for address in self.picker.config.addresses)
            return
        assert not before[pick.host].drained if pick.host in before else True
        if self.is_out(before.get(pick.host)) and not self.more_than_half_fail(before):
            free = [
                address
                for address in self.picker.config.addresses
                if not self.is_out(before.get(address)) and not (address in before and before[address].drained)
            ]
            assert not free, f"{pick.host} is out, but {free} are not"
        self.open.append((host, pick))

    @precondition(lambda self: self.open)
    @rule(which=st.integers(0, 99), word=st.sampled_from(["accepted", "failure", "overload", "shutdown", "failed"]))
    def end(self, which, word):
        self.picker.host, pick = self.open.pop(which % len(self.open))
        if word == "accepted":
            pick.accepted()
        elif word == "failed":
            pick.failed()
        else:
            pick.refused(word, "because")
        pick.release()

    @rule(node=st.sampled_from("abcd"), word=st.sampled_from(["drain", "ready"]))
    def word(self, node, word):
        getattr(self.picker, word)(node)

    @rule(seconds=st.sampled_from([1, 9, 16, 61, 301]))
    def wait(self, seconds):
        self.clock.now += seconds
        self.picker.leases.renew()

    @invariant()
    def at_most_half_are_out_for_what_hosts_say(self):
        out = [node.ejection for node in self.nodes().values() if node.ejection is not None]
        assert sum(each.cause != "shutdown" and self.clock.now < each.until for each in out) <= 2

    @invariant()
    def bounded(self):
        for node in self.nodes().values():
            assert all(each.until - self.clock.now <= LONGEST_COOL_DOWN for each in node.suspicions.values())
            if node.ejection is not None:
                assert node.ejection.until - self.clock.now <= LONGEST_COOL_DOWN
                assert node.ejection.trial_until - self.clock.now <= TRIAL

    @invariant()
    def leases_are_the_open_picks(self):
        state = self.picker.store.read()[0]
        assert {lease.id for lease in state.leases.values()} == {pick.lease for _, pick in self.open}
        for address in self.picker.config.addresses:
            assert state.node(address).leases == sum(pick.node == address for _, pick in self.open)

    def teardown(self):
        for _, pick in self.open:
            pick.release()


TestFleet = Fleet.TestCase
TestFleet.settings = settings(max_examples=60, stateful_step_count=40, deadline=None)


def test_a_clock_that_is_set_back_leaves_no_node_out_for_longer(clock):
    pickers = [make(clock, 4, store := MemoryStore(clock)), make(clock, 4, store)]
    pickers[1].host = "other"
    for picker in pickers:
        picker.get_host()
    for picker in pickers:
        with picker.acquire("x", prefer="n0") as pick:
            pick.refused("failure", "connection refused")
    assert state_of(pickers[0], "n0")["state"] == "ejected"
    clock.now -= 3600
    assert pickers[0].acquire("x", prefer="n0").node == "n0:21050"
    assert state_of(pickers[0], "n0")["state"] == "ready"
