"""max_leases: hard, first come first served, with a limit to the waiting."""

import threading
import time

import pytest
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, precondition, rule

from airflow_provider_impala_lb.core.cluster.lease_options import LeaseListener
from airflow_provider_impala_lb.core.config.parse import parse
from airflow_provider_impala_lb.core.rules import queue as line
from airflow_provider_impala_lb.core.rules.placement import Placed, Wait
from airflow_provider_impala_lb.core.state.model import Ticket
from airflow_provider_impala_lb.core.state.state import State, encode
from airflow_provider_impala_lb.errors import NoNodeAvailable
from airflow_provider_impala_lb.stores.memory import MemoryStore
from tests.support.balancers import BareBalancer, Clock, make
from tests.support.queueing import acquire_now, waiter_of, waiting


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


@pytest.mark.parametrize("asks_again", [None, 60])
def test_who_does_not_take_the_slot_that_is_kept_for_him_holds_up_nobody(asks_again):
    """A retry that avoids the only free node, say: what an owner may use is known to himself alone."""
    clock = Clock()
    picker = make(clock, 2, max_leases_per_node=1)
    first = picker.acquire("task")
    first.failed()
    other = picker.acquire("other")
    waiter, behind = waiter_of(picker, "task", asks_again), waiter_of(picker, "behind", None)
    assert isinstance(waiter.step(), Wait) and isinstance(behind.step(), Wait)
    first.release()
    served = []
    for _ in range(40):
        clock.now += 0.25
        for each in (waiter, behind):
            if each not in served and isinstance(each.step(), Placed):
                served.append(each)
    assert behind in served
    other.release()


@pytest.mark.parametrize("step", [-3600, 3600])
def test_a_slot_is_kept_for_no_longer_when_the_clock_is_set(step):
    """Or where whoever has kept it has a clock that differs."""
    clock = Clock()
    picker = make(clock, 1, max_leases=1)
    held = picker.acquire("held")
    dead, behind = waiter_of(picker, "dead", None), waiter_of(picker, "behind", None)
    assert isinstance(dead.step(), Wait) and isinstance(behind.step(), Wait)
    held.release()
    clock.now += 1
    assert isinstance(behind.step(), Wait)
    clock.now += step
    for _ in range(8):
        clock.now += 1
        if isinstance(found := behind.step(), Placed):
            break
    assert isinstance(found, Placed)


def test_the_place_is_told_rightly_when_none_of_the_first_are_left():
    clock = Clock()
    picker = make(clock, 1, max_leases=1)
    held = picker.acquire("held")
    picker.store.transact(lambda state, now: setattr(state.head, "drawn", 1_000_000))
    for index in range(100):
        acquire_now(picker, f"w{index}")
    for index in range(line.FIRST):
        picker.leave_queue(f"w{index}")
    state = picker.store.read()[0]
    assert not state.head.waiting
    by_id = {ticket.id: ticket for ticket in line.waiting(state)}
    assert [line.position(state, by_id[f"w{index}"]) for index in (32, 60, 99)] == [1, 29, 68]
    held.release()


def test_a_session_key_waits_for_its_node_while_that_is_only_full():
    picker = make(Clock(), 2, max_leases_per_node=1)
    held = picker.acquire("a", session_key="k")
    assert acquire_now(picker, "b", session_key="k") is None
    assert picker.status()["waiting"][0]["only"] == held.host
    held.release()
    assert acquire_now(picker, "b", session_key="k").host == held.host


def test_who_leaves_out_a_node_takes_no_slot_of_the_cluster_from_those_who_wait_for_it():
    picker = make(Clock(), 3, max_leases=2)
    held = [picker.acquire("held", prefer="n0") for _ in range(2)]
    assert acquire_now(picker, "sticky", prefer="n1") is None
    held.pop().release()
    with pytest.raises(NoNodeAvailable, match="2 full"):
        picker.acquire("newcomer", exclude=["n1:21050"], wait=0)


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


def test_one_who_waits_looks_as_often_as_it_may_be_his_turn():
    assert line.pause(1, 100) == 0.2
    assert all(line.pause(position, 100) <= 1 for position in range(1, 101))  # so many slots may be free at once
    assert line.pause(1001, 100) == 10
    assert line.pause(1001, 100, rate=500) == pytest.approx(1.0, abs=0.01)  # half the time until his turn
    assert line.pause(100_000, 1) == 30


class Queue(RuleBasedStateMachine):
    """Anybody comes, asks or looks again, gives up, ends, or does not come back for a while, in any order, with limits
    of all kinds; of the queue only two stand in the head."""

    def __init__(self):
        super().__init__()
        self.clock = Clock()
        nodes = [{"host": "a", "max_leases": 1}, "b", "c"]
        config = parse({"nodes": nodes, "lock_file": "/x", "name": "t", "max_leases": 4, "max_leases_per_node": 2})
        self.balancer = BareBalancer(config, MemoryStore(self.clock))
        self.held, self.queue, self.waiters, self.came = [], [], {}, 0
        self.first, line.FIRST = line.FIRST, 2

    def state(self):
        return self.balancer.store.read()[0]

    def counting(self):
        """Those for whom a slot would be kept, by their names."""
        tickets = line.waiting(self.state())
        assert [ticket.id for ticket in tickets] == [name for name in self.queue if self.is_there(name, tickets)]
        return {
            ticket.id: ticket
            for ticket in tickets
            if ticket.until > self.clock.now
            and (ticket.asks_again or not ticket.called or self.clock.now - ticket.called < line.CALL_SECONDS)
        }

    def is_there(self, name, tickets):
        """One who waits in place may have been taken for dead: he knows his number."""
        return any(ticket.id == name for ticket in tickets)

    def step(self, name, look=False):
        """Nobody before him could have used the node that he gets."""
        waiter = self.waiters[name]
        counting = self.counting()
        if not look:
            waiter.ask_next()
        waiter._looked = 0
        placed = waiter.step()
        if not isinstance(placed, Placed):
            if name not in self.queue:
                self.queue.append(name)
            return False
        before = self.queue[: self.queue.index(name)] if name in self.queue else list(self.queue)
        overtaken = [other for other in before if other in counting and self.can_use(other, placed.node)]
        # Somebody before may be left to another node that is free for him: there must be one for each.
        room = {"a:21050": 1, "b:21050": 2, "c:21050": 2}
        for other in self.held:
            room[other.node] -= 1
        free = sum(max(0, left) for left in room.values())
        assert len(overtaken) < max(1, min(free, 4 - len(self.held))), (name, overtaken)
        self.held.append(waiter.request.lease)
        self.balancer.leases.add(waiter.request.lease, LeaseListener())
        if name in self.queue:
            self.queue.remove(name)
        del self.waiters[name]
        return True

    def can_use(self, name, node):
        request = self.waiters[name].request
        return node == request.prefer if request.prefer else node not in request.excluded

    @rule(
        exclude=st.sampled_from([(), (), ("a:21050",), ("b:21050", "c:21050")]),
        prefer=st.sampled_from([None, None, "a:21050", "b:21050"]),
        asks_again=st.sampled_from([None, 1]),
    )
    def come(self, exclude, prefer, asks_again):
        self.came += 1
        name = f"w{self.came}"
        picker = self.balancer.cluster.picker
        request = picker._request(picker._lease(name, name), None, prefer, () if prefer else exclude)
        request.may_wait, request.ticket = True, picker._ticket(name, name, asks_again)
        self.waiters[name] = picker._waiter(request)
        self.step(name)

    @precondition(lambda self: self.queue)
    @rule(which=st.integers(0, 99), look=st.booleans())
    def ask_again(self, which, look):
        self.step(self.queue[which % len(self.queue)], look)

    @precondition(lambda self: self.queue)
    @rule(which=st.integers(0, 99))
    def give_up(self, which):
        name = self.queue.pop(which % len(self.queue))
        del self.waiters[name]
        self.balancer.leave_queue(name)

    @precondition(lambda self: self.held)
    @rule(which=st.integers(0, 99))
    def end(self, which):
        self.balancer.leases.drop(self.held.pop(which % len(self.held)).id)

    @rule(seconds=st.sampled_from([1, 4, 40, 400]))
    def time_passes(self, seconds):
        self.clock.now += seconds
        self.balancer.leases.renew()

    @precondition(lambda self: self.queue)
    @rule()
    def the_state_is_lost(self):
        self.balancer.store._record = encode(State())
        self.balancer.leases.renew()
        for name in sorted(self.queue, key=lambda name: hash(name) % 7):  # in any order
            self.step(name)
        assert self.queue == sorted(self.queue, key=lambda name: int(name[1:]))

    @invariant()
    def no_cap_is_passed(self):
        state = self.state()
        leases = {address: state.node(address).leases for address in ("a:21050", "b:21050", "c:21050")}
        assert leases["a:21050"] <= 1 and leases["b:21050"] <= 2 and leases["c:21050"] <= 2
        assert sum(leases.values()) <= 4
        assert sum(leases.values()) == len(self.held) == len(state.leases)

    @invariant()
    def the_numbers_are_right(self):
        state = self.state()
        assert sum(state.head.behind.values()) <= len(state.tickets)
        assert len(state.tickets) == len(list(state.tickets.values()))

    def teardown(self):
        """Whoever looks as often as he should gets his turn, whatever has become of the others."""
        end = self.clock.now + 3600
        while self.queue and self.clock.now < end:
            if self.held:
                self.end(0)
            for _ in range(3):
                self.clock.now += 1
                for name in list(self.queue)[:4]:
                    self.step(name, look=True)
        line.FIRST = self.first
        assert not self.queue
        for lease in self.held:
            self.balancer.leases.drop(lease.id)


TestQueue = Queue.TestCase
TestQueue.settings = settings(max_examples=80, stateful_step_count=40, deadline=None)


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
    assert picker.ask(picker.waiter("task", "task", asks_again=60)) is None
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
