"""What keeps a script from a node meets what keeps it from another one: limits, failures, headroom, the queue."""

import pytest

from airflow_provider_impala_lb.core.rules.ejection import Failure, note_failure
from airflow_provider_impala_lb.core.rules.placement import Wait
from airflow_provider_impala_lb.core.state.load_report import LoadSample
from airflow_provider_impala_lb.core.state.model import Avoid, LoadSummary
from airflow_provider_impala_lb.core.state.state import State, encode
from airflow_provider_impala_lb.errors import MustWait, NoNodeAvailable
from tests.support.balancers import Clock, make
from tests.support.queueing import acquire_now, waiter_of, waiting


@pytest.fixture
def clock():
    return Clock()


def meet_failure(picker, node):
    failure = Failure(picker.host, "failure", "connection refused", "")
    picker.store.transact(lambda state, now: note_failure(picker.config, state, now, node, failure))


def make_busy(picker, *nodes):
    def change(state, now):
        for node in nodes:
            state.node(node).summary = LoadSummary(now, 0, 0, 0.15, "busy", "busy")

    picker.store.transact(change)


@pytest.mark.parametrize("limit", ["max_leases", "max_leases_per_node"])
def test_who_waits_at_a_limit_goes_on_waiting_while_all_is_out(clock, limit):
    """A network that blinks is no reason to fail who would have waited for the others' end anyway."""
    picker = make(clock, 1, **{limit: 1})
    held = picker.acquire("held")
    assert acquire_now(picker, "first") is None
    meet_failure(picker, "n0:21050")
    assert acquire_now(picker, "first") is None
    assert acquire_now(picker, "second") is None
    assert waiting(picker) == ["first", "second"]
    with pytest.raises(NoNodeAvailable, match=r"1 nodes, 1 full\n.*refused.*; .*full: 1 of 1 leases"):
        picker.acquire("third", wait=0)
    held.release()
    assert acquire_now(picker, "first").why.startswith("all are out, and it was drawn")


def test_while_all_nodes_shut_down_scripts_wait_for_them_but_not_for_drained_ones(clock):
    picker = make(clock, 2)
    for quiescing in (True, False):
        for node in picker.config.addresses:
            picker.reports.note(node, LoadSample(queries=0, quiescing=quiescing))
        if quiescing:
            assert acquire_now(picker, "first") is None
            with pytest.raises(NoNodeAvailable, match="2 nodes, 2 shutting down\n.*it says itself"):
                picker.acquire("second", wait=0)
    assert acquire_now(picker, "first").node == "n0:21050"
    for node in picker.config.addresses:
        picker.drain(node)
    with pytest.raises(NoNodeAvailable, match="2 nodes, 2 drained"):
        picker.acquire("third", ticket="third", asks_again=5, wait=30)


def test_a_retry_goes_back_to_the_node_that_failed_it_rather_than_nowhere(clock):
    picker = make(clock, 2, max_leases_per_node=1)
    with picker.acquire("dag/run/task", prefer="n0") as pick:
        pick.failed()
    held = picker.acquire("other", prefer="n1")
    assert acquire_now(picker, "dag/run/task") is None  # as long as he may wait, for the other one
    pick = picker.acquire("dag/run/task", ticket="dag/run/task", asks_again=1, wait=0)
    assert pick.node == "n0:21050"
    assert pick.why.startswith("the others are full, though it failed this task last time; left out: n1:21050 (full")
    pick.release()
    held.release()
    assert picker.acquire("dag/run/task", wait=0).node == "n1:21050"


def test_a_retry_leaves_out_a_busy_node_that_failed_it_while_the_ready_ones_are_full(clock):
    picker = make(clock, 3, max_leases_per_node=1)
    picker.acquire("x", prefer="n0")
    make_busy(picker, "n1:21050", "n2:21050")
    picker.store.transact(lambda state, now: state.avoid.put("dag/run/task", Avoid("n1:21050", now + 600), now + 600))
    pick = picker.acquire("dag/run/task", wait=30)
    assert pick.node == "n2:21050" and pick.left_out["n1:21050"] == "failed this task last time"


def test_who_takes_a_busy_node_takes_no_slot_of_the_cluster_from_those_who_came_before(clock):
    picker = make(clock, 2, max_leases=2, load={})
    held = [picker.acquire("held", prefer="n0") for _ in range(2)]
    assert acquire_now(picker, "first", exclude=["n1:21050"]) is None
    held[0].release()
    make_busy(picker, "n1:21050")
    with pytest.raises(NoNodeAvailable, match="its room is kept for those who came before"):
        picker.acquire("newcomer", wait=0)
    assert acquire_now(picker, "first", exclude=["n1:21050"]).node == "n0:21050"


def test_that_all_are_busy_or_full_is_not_said_where_others_are_drained_and_down(clock):
    picker = make(clock, 3, max_leases_per_node=1)
    picker.acquire("held", prefer="n0")
    picker.drain("n1")
    meet_failure(picker, "n2:21050")
    with pytest.raises(MustWait, match=r"^No node is free: number 1 in the queue, waited 0 of 30 s\n") as caught:
        picker.acquire("x", ticket="x", asks_again=60, wait=30)
    assert [reason.split()[0] for _, reason in sorted(caught.value.reasons.items())] == [
        "full:",
        "drained",
        "connection",
    ]


@pytest.mark.parametrize("word", ["busy", "out"])
def test_that_all_are_busy_or_out_is_not_said_where_some_are_full(clock, word):
    picker = make(clock, 2, max_leases_per_node=1, load={})
    picker.acquire("held", prefer="n0")
    if word == "busy":
        make_busy(picker, "n1:21050")
    else:
        meet_failure(picker, "n1:21050")
    assert picker.acquire("x", wait=0).why.startswith("the others are full, and ")


def test_what_is_not_limited_waits_for_nothing_when_the_state_was_lost(clock):
    picker = make(clock, 1, load={})
    picker.get_host()
    clock.now += 1
    picker.store._record = encode(State())
    with picker.acquire("x", wait=0) as pick:
        pick.refused("failure", "connection refused")
    assert picker.acquire("x", wait=0).why.startswith("all are out")
    picker.ready("n0:21050")
    make_busy(picker, "n0:21050")
    assert picker.acquire("x", wait=0).why.startswith("all are busy")


def test_who_waits_for_a_node_that_is_drained_keeps_his_place_for_the_others(clock):
    picker = make(clock, 2, max_leases_per_node=1)
    sticky = picker.acquire("held", session_key="k")
    other = picker.acquire("held")
    first, second = waiter_of(picker, "first", None), waiter_of(picker, "second", None)
    first.request.session_key = "k"
    assert isinstance(first.step(), Wait) and isinstance(second.step(), Wait)
    picker.drain(sticky.node)
    assert isinstance(first.step(), Wait)
    other.release()
    assert isinstance(second.step(), Wait)
    assert first.step().node == other.node
