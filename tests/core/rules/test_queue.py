"""max_leases: hard, first come first served, with a limit to the waiting."""

import threading
import time

import pytest
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, precondition, rule

from airflow_provider_impala_lb.core.config.parse import parse
from airflow_provider_impala_lb.core.rules import queue as line
from airflow_provider_impala_lb.core.rules.placement import Placed
from airflow_provider_impala_lb.core.state.model import Ticket
from airflow_provider_impala_lb.errors import MustWait, NoNodeAvailable
from airflow_provider_impala_lb.stores.memory import MemoryStore
from tests.support.balancers import BareBalancer, Clock, make


def acquire_now(picker, name, **options):
    """The pick, or None if it has to wait in the line under this name."""
    try:
        return picker.acquire(name, ticket=name, asks_again=1, wait=1e9, **options)
    except MustWait:
        return None


def waiting(picker):
    return [entry["owner"] for entry in picker.status()["waiting"]]


def test_at_the_cap_of_a_node_the_next_one_is_taken_and_then_one_waits():
    picker = make(Clock(), 2, max_leases_per_node=1)
    first, second = picker.acquire("a"), picker.acquire("b")
    assert {first.host, second.host} == {"n0:21050", "n1:21050"}
    assert acquire_now(picker, "c") is None
    assert waiting(picker) == ["c"]
    second.release()
    assert acquire_now(picker, "c").host == second.host
    assert waiting(picker) == []


def test_a_node_may_have_a_cap_of_its_own():
    picker = make(Clock(), [{"host": "small", "max_leases": 1}, "large"], max_leases_per_node=3)
    hosts = [picker.acquire(str(index)).host for index in range(4)]
    assert hosts.count("small:21050") == 1
    assert acquire_now(picker, "fifth") is None
    reasons = picker.status()["nodes"]
    assert [(node["leases"], node["max_leases"]) for node in reasons] == [(1, 1), (3, 3)]


def test_the_cluster_has_a_cap_too():
    picker = make(Clock(), 5, max_leases=2)
    held = [picker.acquire("x") for _ in range(2)]
    with pytest.raises(NoNodeAvailable, match=r"5 nodes, 5 full") as caught:
        picker.acquire("y", wait=0)
    assert caught.value.reasons["n0:21050"] == "the cluster is full: 2 of 2 leases"
    held[0].release()
    assert picker.acquire("y", wait=0).host


def test_who_came_first_is_served_first_and_a_newcomer_does_not_overtake():
    picker = make(Clock(), 1, max_leases=1)
    held = picker.acquire("held")
    assert acquire_now(picker, "first") is None
    assert acquire_now(picker, "second") is None
    held.release()
    assert acquire_now(picker, "second") is None
    assert acquire_now(picker, "newcomer") is None
    assert waiting(picker) == ["first", "second", "newcomer"]
    turn = acquire_now(picker, "first")
    assert acquire_now(picker, "second") is None
    turn.release()
    assert acquire_now(picker, "second") is not None


def test_as_many_go_as_there_is_room_and_no_more():
    picker = make(Clock(), 1, max_leases_per_node=2)
    held = [picker.acquire("held") for _ in range(2)]
    for name in ("first", "second", "third"):
        assert acquire_now(picker, name) is None
    for pick in held:
        pick.release()
    assert acquire_now(picker, "third") is None
    assert acquire_now(picker, "second") is not None  # there is room for both
    assert acquire_now(picker, "third") is None
    assert acquire_now(picker, "first") is not None


def test_who_cannot_use_a_free_node_does_not_hold_up_the_others():
    picker = make(Clock(), 2, max_leases_per_node=1)
    on_n0, _on_n1 = picker.acquire("x", prefer="n0"), picker.acquire("y", prefer="n1")
    assert acquire_now(picker, "wants n1", prefer="n1") is None
    assert acquire_now(picker, "wants any") is None
    on_n0.release()
    assert acquire_now(picker, "wants any").host == "n0:21050"
    assert waiting(picker) == ["wants n1"]


def test_a_session_key_waits_for_its_node_while_that_is_only_full():
    picker = make(Clock(), 2, max_leases_per_node=1)
    held = picker.acquire("a", session_key="k")
    assert acquire_now(picker, "b", session_key="k") is None
    assert picker.status()["waiting"][0]["only"] == held.host
    held.release()
    assert acquire_now(picker, "b", session_key="k").host == held.host


def test_a_ticket_lapses_when_its_owner_does_not_come_back():
    clock = Clock()
    picker = make(clock, 1, max_leases=1)
    held = picker.acquire("held")
    acquire_now(picker, "dead")
    held.release()
    assert acquire_now(picker, "alive") is None
    clock.now += 3 * 1 + 5 + 0.1
    assert acquire_now(picker, "alive") is not None


def test_after_the_wait_there_is_no_node_and_the_text_says_why():
    picker = make(time.time, 2, max_leases_per_node=1)
    picker.drain("n1")
    picker.acquire("held")
    with pytest.raises(
        NoNodeAvailable, match=r"2 nodes, 1 drained, 1 full; waited 0 s\n.*full: 1 of 1 leases"
    ) as caught:
        picker.acquire("late", wait=0.3)
    assert caught.value.reasons["n1:21050"] == "drained by an operator"
    assert waiting(picker) == []


def test_one_who_waits_gets_the_node_when_it_is_free():
    picker = make(time.time, 1, max_leases=1)
    held = picker.acquire("held")
    threading.Timer(0.4, held.release).start()
    start = time.monotonic()
    assert picker.acquire("patient", wait=10).host == "n0:21050"
    assert time.monotonic() - start >= 0.4


def test_what_ends_the_waiting_also_leaves_the_line():
    picker = make(time.time, 1, max_leases=1)
    picker.acquire("held")

    def stop():
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        picker.acquire("killed", wait=10, while_waiting=stop)
    assert waiting(picker) == []


def test_a_pick_without_a_lease_is_not_bound_but_prefers_a_node_with_room():
    picker = make(Clock(), 2, max_leases_per_node=1)
    held = picker.acquire("held")
    assert all(picker.get_host() != held.host for _ in range(4))
    picker.acquire("held too")
    assert picker.get_host()


def test_waiting_is_asked_for_less_often_far_behind_in_the_line():
    assert line.pause(1) == 0.2
    assert line.pause(10) == 2.0
    assert line.pause(1000) == 5.0


class Line(RuleBasedStateMachine):
    """Anybody comes, asks again, gives up, ends, dies or is put back, in any order, with limits of all kinds."""

    def __init__(self):
        super().__init__()
        self.clock = Clock()
        nodes = [{"host": "a", "max_leases": 1}, "b", "c"]
        config = parse({"nodes": nodes, "lock_file": "/x", "name": "t", "max_leases": 4, "max_leases_per_node": 2})
        self.picker = BareBalancer(config, MemoryStore(self.clock))
        self.held, self.line, self.came = [], [], 0
        self.excluded = {}

    def state(self):
        return self.picker.store.read()[0]

    def ask(self, name):
        """True if it got a node: then nobody before it could have used that one."""
        alive = [ticket.id for ticket in self.state().head.waiting if ticket.until > self.clock.now]
        self.line = [other for other in self.line if other in alive]  # who has not asked for long is out
        pick = acquire_now(self.picker, name, exclude=self.excluded[name])
        if pick is None:
            if name not in self.line:
                self.line.append(name)
            return
        before = self.line[: self.line.index(name)] if name in self.line else list(self.line)
        overtaken = [other for other in before if pick.host not in self.excluded[other]]
        # Somebody before may be left to another node that is free for him: there must be one for each.
        room = {"a:21050": 1, "b:21050": 2, "c:21050": 2}
        for other in self.held:
            room[other.host] -= 1
        free = sum(max(0, left) for left in room.values())
        assert len(overtaken) < max(1, min(free, 4 - len(self.held))), (name, overtaken)
        self.held.append(pick)
        if name in self.line:
            self.line.remove(name)

    @rule(exclude=st.sampled_from([(), ("a:21050",), ("b:21050", "c:21050")]))
    def come(self, exclude):
        self.came += 1
        name = f"w{self.came}"
        self.excluded[name] = exclude
        self.ask(name)

    @precondition(lambda self: self.line)
    @rule(which=st.integers(0, 99))
    def ask_again(self, which):
        self.ask(self.line[which % len(self.line)])

    @precondition(lambda self: self.line)
    @rule(which=st.integers(0, 99))
    def give_up(self, which):
        self.picker.leave_queue(self.line.pop(which % len(self.line)))

    @precondition(lambda self: self.held)
    @rule(which=st.integers(0, 99))
    def end(self, which):
        self.held.pop(which % len(self.held)).release()

    @rule()
    def time_passes(self):
        self.clock.now += 4
        self.picker.leases.renew()

    @invariant()
    def no_cap_is_passed(self):
        state = self.state()
        leases = {address: state.node(address).leases for address in ("a:21050", "b:21050", "c:21050")}
        assert leases["a:21050"] <= 1 and leases["b:21050"] <= 2 and leases["c:21050"] <= 2
        assert sum(leases.values()) <= 4
        assert sum(leases.values()) == len(self.held) == len(state.leases)

    def teardown(self):
        for pick in self.held:
            pick.release()


TestLine = Line.TestCase
TestLine.settings = settings(max_examples=80, stateful_step_count=40, deadline=None)


def test_a_place_in_the_line_is_kept_by_its_name_over_processes():
    store = MemoryStore(Clock())
    one, other = make(None, 1, store=store, max_leases=1), make(None, 1, store=store, max_leases=1)
    held = one.acquire("held")
    acquire_now(one, "task")
    acquire_now(one, "later")
    held.release()
    pick = acquire_now(other, "task")
    assert isinstance(pick._placed, Placed)
    assert waiting(other) == ["later"]


def test_who_only_asks_is_not_told_that_there_is_no_node():
    """The trigger asks for the task; the task itself must get the error that says why."""
    picker = make(Clock(), 1, max_leases=1)
    held = picker.acquire("held")
    assert acquire_now(picker, "task") is None
    picker.drain("n0")
    assert picker.ask("task", "task", asks_again=60) is None
    held.release()


def test_a_named_place_is_given_up_by_another_process_that_finds_no_node():
    store = MemoryStore(Clock())
    one, resumed = (make(None, 1, store=store, max_leases=1) for _ in range(2))
    held = one.acquire("held")
    assert acquire_now(one, "task") is None
    one.drain("n0")
    with pytest.raises(NoNodeAvailable, match="1 drained"):
        resumed.acquire("task", ticket="task", asks_again=60)
    assert waiting(one) == []
    held.release()


def test_a_ticket_says_who_waits_and_for_how_long():
    clock = Clock()
    picker = make(clock, 1, max_leases=1)
    picker.acquire("held")
    acquire_now(picker, "dag/run/task")
    clock.now += 2
    assert picker.status()["waiting"] == [
        {"owner": "dag/run/task", "host": picker.host, "seconds": 2.0, "only": ""},
    ]
    assert Ticket(id="x", owner="", host="", since=0, until=0).only == ""
