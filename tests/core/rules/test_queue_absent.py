"""Those in the queue who do not come when it is their turn: late, lost, or never."""

import threading

import pytest

from airflow_provider_impala_lb.core.rules import queue as line
from airflow_provider_impala_lb.core.rules.clock_agreement import note_host
from airflow_provider_impala_lb.core.rules.placement import Placed, Wait
from airflow_provider_impala_lb.core.state.model import SILENCE_SECONDS
from airflow_provider_impala_lb.errors import MustWait, NoNodeAvailable
from tests.support.balancers import Clock, make
from tests.support.queueing import acquire_now, waiter_of, waiting


def test_no_slot_is_kept_for_long_for_who_does_not_come_back():
    clock = Clock()
    picker = make(clock, 1, max_leases=1)
    held = picker.acquire("held")
    acquire_now(picker, "away")
    held.release()
    assert acquire_now(picker, "alive") is None
    clock.now += 3 * 1 + 5 + 0.1
    assert acquire_now(picker, "alive") is not None


def test_no_slot_is_kept_for_one_after_the_other_of_many_who_are_gone():
    """Of tasks that were cleared, or whose triggerer is lost, in several batches of the first."""
    clock, slots = Clock(), 4
    picker = make(clock, 1, max_leases=slots)
    held = [picker.acquire("held") for _ in range(slots)]
    for index in range(4 * line.FIRST):
        acquire_now(picker, f"gone {index}")
    alive = waiter_of(picker, "alive", None)
    assert isinstance(alive.step(), Wait)
    for pick in held:
        pick.release()
    assert seconds_until_placed(clock, alive) < 3 * 1 + 5 + 3


def test_those_who_wait_on_a_host_that_is_lost_are_gone_together():
    clock = Clock()
    picker = make(clock, 1, max_leases=2)
    held = [picker.acquire("held") for _ in range(2)]
    picker.host = "lost"
    for index in range(6 * line.FIRST):
        ticket = waiter_of(picker, f"gone {index}", None).request.ticket
        ticket.host, ticket.holder, ticket.since = "lost", None, clock.now
        picker.store.transact(lambda state, now, ticket=ticket: line.enqueue(state, now, ticket))
    picker.store.transact(lambda state, now: note_host(state, now, "lost", None, one_clock=True))
    picker.host = "here"
    alive = waiter_of(picker, "alive", None)
    assert isinstance(alive.step(), Wait)
    for pick in held:
        pick.release()
    assert line.LOST_SECONDS / 2 < seconds_until_placed(clock, alive) < line.LOST_SECONDS + 6 + 10


def seconds_until_placed(clock, waiter):
    """He looks once a second, and others of his host note that it is there."""
    start = clock.now
    while not isinstance(waiter.step(), Placed):
        clock.now += 1
        assert clock.now - start < 2000
    return clock.now - start


def test_who_comes_too_late_for_the_slot_that_was_kept_for_him_waits_in_place():
    """Else he would go away and come too late again, for ever, where others wait in place."""
    clock = Clock()
    picker = make(clock, 1, max_leases=1)
    held = picker.acquire("held")
    acquire_now(picker, "late")
    held.release()
    waiter = picker.waiter("late", "late", asks_again=1)
    assert picker.ask(waiter) is None  # it is his turn
    other = waiter_of(picker, "other", None)
    assert isinstance(other.step(), Wait)
    clock.now += 3 * 1 + 5 + 0.1
    taken = other.step()
    assert isinstance(taken, Placed)
    waits = threading.Event()
    got = []

    def come():
        pick = picker.acquire("late", ticket="late", asks_again=1, wait=1e9, while_waiting=waits.set)
        got.append(pick)

    thread = threading.Thread(target=come)
    thread.start()
    assert waits.wait(10)
    assert waiting(picker) == ["late"]
    newcomer = waiter_of(picker, "newcomer", None)
    picker.store.transact(lambda state, now: state.end_lease(other.request.lease.id))
    assert isinstance(newcomer.step(), Wait)
    thread.join(10)
    assert got and waiting(picker) == ["newcomer"]
    got[0].release()


def test_who_comes_back_late_has_kept_his_place_and_his_age():
    clock = Clock()
    picker = make(clock, 1, max_leases=1)
    held = picker.acquire("held")
    for name in ("late", "second"):
        acquire_now(picker, name)
    for _ in range(24):
        clock.now += 3600
        picker.leases.renew()
    picker.get_host()
    acquire_now(picker, "third")
    with pytest.raises(MustWait) as caught:
        picker.acquire("late", ticket="late", asks_again=1, wait=1e9)
    assert (caught.value.position, caught.value.waited) == (1, 24 * 3600)
    held.release()
    assert acquire_now(picker, "third") is None
    assert acquire_now(picker, "late") is not None
    with pytest.raises(NoNodeAvailable, match=f"waited {24 * 3600} s"):
        picker.acquire("second", ticket="second", asks_again=1, wait=24 * 3600)


def test_who_comes_back_late_is_counted_once():
    clock = Clock()
    picker = make(clock, 1, max_leases=1)
    held = picker.acquire("held")
    names = [f"w{index}" for index in range(2 * line.FIRST)]
    for _ in range(3):
        for name in names:
            acquire_now(picker, name)
        clock.now += 3 * 1 + 5 + 1
        held.release()
        held = picker.acquire("another", wait=0)  # the first of those behind come forward, and have lapsed
    for name in names:
        acquire_now(picker, name)
    state = picker.store.read()[0]
    there = [ticket for ticket in line.waiting(state) if not ticket.away]
    assert sorted(ticket.id for ticket in there) == sorted(names)
    assert sum(state.head.behind.values()) + len(state.head.waiting) == len(names)
    held.release()


def test_those_who_never_come_back_are_not_remembered_for_ever(monkeypatch):
    monkeypatch.setattr(line, "MOST_AWAY", 5)
    clock = Clock()
    picker = make(clock, 1, max_leases=1)
    held = picker.acquire("held")
    for index in range(40):
        acquire_now(picker, f"gone {index}")
        clock.now += 10
    assert len(picker.status()["waiting"]) <= 7
    clock.now += line.AWAY_SECONDS + 100
    for _ in range(5):
        clock.now += SILENCE_SECONDS / 2
        picker.leases.renew()
        picker.get_host()
    assert picker.status()["waiting"] == []
    held.release()
