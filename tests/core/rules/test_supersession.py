"""Whose lease, and whose remains, a later attempt takes over."""

import pytest

from airflow_provider_impala_lb.core.rules import supersession
from airflow_provider_impala_lb.core.state.model import Attempt, Lease
from airflow_provider_impala_lb.core.state.state import State, decode, encode

OWNER = "d/r/t"


def lease(name, attempt=None):
    return Lease(
        id=name,
        node="a:1",
        owner=OWNER,
        expires=9.0,
        taken=1.0,
        host="h",
        session=f"session of {name}",
        attempt=attempt,
    )


def test_what_is_ones_own_stays_also_what_it_has_left():
    state = State()
    mine, theirs = Attempt(2, 2.0), Attempt(1, 1.0)
    for name, attempt in (("mine", mine), ("theirs", theirs)):
        supersession.note_leftover(state, 1.0, lease(name, attempt))
        state.lease(lease(f"live of {name}", attempt))
    found = supersession.fence_earlier(state, 2.0, OWNER, lambda each: each.attempt == mine)
    assert sorted(found) == ["live of theirs", "theirs"]
    assert not supersession.is_fenced(state, "mine")
    assert supersession.is_fenced(state, "theirs")
    assert [each.id for each in state.leases.values()] == ["live of mine"]


def test_all_sessions_of_a_lease_are_to_be_ended():
    state = State()
    one = lease("theirs")
    one.other_sessions = ["a", "b"]
    state.lease(one)
    found = supersession.fence_earlier(decode(encode(state)), 2.0, OWNER, lambda each: False)
    assert (found["theirs"].session, found["theirs"].other_sessions) == ("session of theirs", ["a", "b"])


RUN = Attempt(1, 10.0, run=1.0)


@pytest.mark.parametrize(
    ("other", "may", "may_where_two_were_seen"),
    [
        (Attempt(2, 20.0, run=1.0), True, True),
        (Attempt(1, 20.0, run=1.0), True, True),
        (Attempt(2, 20.0, run=2.0, clears=1), True, False),
        (Attempt(2, 20.0, run=2.0), False, False),
        (Attempt(1, 20.0, run=2.0, clears=1), False, False),
        (Attempt(2, 20.0, run=0.5, clears=1), False, False),
        (Attempt(2, 20.0), True, True),
    ],
    ids=["a retry", "itself", "cleared", "no clear", "no later attempt", "began before", "not known"],
)
def test_which_attempts_may_be_of_one_run(other, may, may_where_two_were_seen):
    for one, two in ((RUN, other), (other, RUN)):
        assert one.may_be_work_of(two, disputed=False) is may
        assert one.may_be_work_of(two, disputed=True) is may_where_two_were_seen


def test_what_has_ended_is_nobodys_rival():
    state = State()
    supersession.note_leftover(state, 1.0, lease("one", RUN))
    other = Attempt(1, 20.0, run=2.0)
    assert supersession.find_rival(state, 2.0, OWNER, other).id == "one"
    supersession.note_ended(state, ["one"])
    assert supersession.find_rival(state, 2.0, OWNER, other) is None
    assert supersession.find_rival(state, 2.0, "another owner", other) is None


@pytest.mark.parametrize(
    ("attempt", "overtaken"),
    [(RUN, True), (Attempt(2, 20.0, run=1.0), False), (Attempt(3, 30.0, run=1.0), False), (None, False)],
    ids=["an earlier one", "itself", "a later one", "not known"],
)
def test_one_that_took_its_lease_without_the_state_is_overtaken_by_what_is_noted_there(attempt, overtaken):
    state = State()
    supersession.begin_attempt(state, 1.0, OWNER, Attempt(2, 20.0, run=1.0))
    assert supersession.is_overtaken(state, lease("taken alone", attempt)) is overtaken


def test_an_attempt_of_another_run_overtakes_nobody():
    state = State()
    supersession.begin_attempt(state, 1.0, OWNER, Attempt(2, 20.0, run=2.0))
    assert not supersession.is_overtaken(state, lease("taken alone", RUN))
