"""Nodes that fail, drain and come back: by the pure state machine, and by a fleet of pickers on one state."""

import pytest
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, precondition, rule

from airflow_provider_impala_lb.core.config.parse import parse
from airflow_provider_impala_lb.core.rules.ejection import (
    FIRST_COOL_DOWN,
    LONGEST_COOL_DOWN,
    MOST_FAILURES,
    OVERLOAD_SECONDS,
    QUIET_SECONDS,
    SHUTDOWN_SECONDS,
    cool_down,
)
from airflow_provider_impala_lb.errors import ConfigError, NoNodeAvailable
from airflow_provider_impala_lb.stores.memory import MemoryStore
from tests.support.balancers import BareBalancer, Clock

TRIAL = 10 + 5  # open_timeout + 5


@pytest.fixture
def clock():
    return Clock()


@pytest.fixture
def picker(clock):
    config = parse({"nodes": ["a", "b", "c"], "lock_file": "/not/used", "name": "t"})
    return BareBalancer(config, MemoryStore(clock))


def state_of(picker, node):
    return next(entry for entry in picker.status()["nodes"] if entry["node"] == f"{node}:21050")


def hosts(picker, picks=12):
    return {picker.acquire("x").host for _ in range(picks)}


def fail(picker, node, cause="failure", why="connection refused"):
    with picker.acquire("f", exclude=[other for other in picker.config.addresses if other != f"{node}:21050"]) as pick:
        pick.refused(cause, why)
    return pick


def test_a_node_that_fails_is_left_out_by_everybody_and_says_why(picker):
    fail(picker, "a")
    assert hosts(picker) == {"b:21050", "c:21050"}
    pick = picker.acquire("x")
    assert "left out: a:21050 (connection refused (failure, left out for 10 s more))" in pick.why
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


def test_the_cool_down_grows_with_failures_in_a_row_and_shrinks_with_quiet(picker, clock):
    seen = []
    for _ in range(7):
        fail(picker, "a")
        out = picker.store.read()[0].nodes["a:21050"].ejection
        seen.append(out.until - clock.now)
        clock.now = out.until
    assert seen == [10, 20, 40, 80, 160, 300, 300]
    clock.now += 3 * QUIET_SECONDS + 1
    fail(picker, "a")
    assert picker.store.read()[0].nodes["a:21050"].ejection.until - clock.now == cool_down(MOST_FAILURES - 3 + 1) == 80


def test_failures_at_the_same_time_count_once(picker, clock):
    others = ["b:21050", "c:21050"]
    picks = [picker.acquire("x", exclude=others) for _ in range(3)]
    for pick in picks:
        pick.refused("failure", "refused")
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


def test_when_all_are_out_the_one_due_soonest_is_tried_anyway(picker, clock):
    fail(picker, "b")
    clock.now += 1
    fail(picker, "a")
    clock.now += 1
    fail(picker, "c")
    pick = picker.acquire("x")
    assert pick.host == "b:21050"
    assert pick.why.startswith("all others are out, and it is due soonest")
    pick.accepted()
    assert hosts(picker) == {"b:21050"}


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
    for _ in range(3):
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
        out = record.ejection if record is not None else None
        return out is not None and self.clock.now < max(out.until, out.trial_until)

    @rule()
    def pick(self):
        before = self.nodes()
        try:
            pick = self.picker.acquire("x")
        except NoNodeAvailable:
            assert all(before[address].drained for address in self.picker.config.addresses)
            return
        assert not before[pick.host].drained if pick.host in before else True
        if self.is_out(before.get(pick.host)):
            free = [
                address
                for address in self.picker.config.addresses
                if not self.is_out(before.get(address)) and not (address in before and before[address].drained)
            ]
            assert not free, f"{pick.host} is out, but {free} are not"
        self.open.append(pick)

    @precondition(lambda self: self.open)
    @rule(which=st.integers(0, 99), word=st.sampled_from(["accepted", "failure", "overload", "shutdown", "failed"]))
    def end(self, which, word):
        pick = self.open.pop(which % len(self.open))
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
    def bounded(self):
        for node in self.nodes().values():
            if node.ejection is not None:
                assert node.ejection.until - self.clock.now <= LONGEST_COOL_DOWN
                assert node.ejection.trial_until - self.clock.now <= TRIAL

    @invariant()
    def leases_are_the_open_picks(self):
        state = self.picker.store.read()[0]
        assert {lease.id for lease in state.leases.values()} == {pick.lease for pick in self.open}
        for address in self.picker.config.addresses:
            assert state.node(address).leases == sum(pick.node == address for pick in self.open)

    def teardown(self):
        for pick in self.open:
            pick.release()


TestFleet = Fleet.TestCase
TestFleet.settings = settings(max_examples=60, stateful_step_count=40, deadline=None)
