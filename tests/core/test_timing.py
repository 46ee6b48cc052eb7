import time
from math import inf

import pytest

from airflow_provider_impala_lb.core import timing
from airflow_provider_impala_lb.core.timing import Backoff, Deadline


class Monotonic:
    """A clock that only sleeping moves on."""

    def __init__(self):
        self.now = 100.0
        self.slept = []

    def monotonic(self):
        return self.now

    def sleep(self, seconds):
        self.slept.append(round(seconds, 9))
        self.now += seconds


@pytest.fixture
def clock(monkeypatch):
    clock = Monotonic()
    monkeypatch.setattr(timing, "time", clock)
    return clock


def test_a_deadline_passes_when_its_time_is_over(clock):
    deadline = Deadline(10)
    assert (deadline.remaining, deadline.passed()) == (10.0, False)
    clock.now += 9
    assert (deadline.remaining, deadline.passed(), deadline.passed(ahead=1)) == (1.0, False, True)
    clock.now += 1
    assert (deadline.remaining, deadline.passed()) == (0.0, True)
    clock.now += 5
    assert deadline.remaining == 0.0


def test_a_deadline_may_be_never_or_now(clock):
    assert (Deadline(inf).remaining, Deadline(inf).passed(ahead=1e9)) == (inf, False)
    assert Deadline(0).passed()
    assert Deadline(-1).remaining == 0.0


def test_pauses_grow_up_to_the_longest():
    backoff = Backoff(0.5, 3)
    assert [backoff.next() for _ in range(5)] == [0.5, 1.0, 2.0, 3.0, 3.0]
    assert [Backoff(1, 100, growth=3).next(), Backoff(1, 100, growth=3).pause] == [1, 1]
    tripled = Backoff(1, 100, growth=3)
    assert [tripled.next() for _ in range(6)] == [1, 3, 9, 27, 81, 100]


def test_what_is_looked_after_is_called_before_each_piece_of_a_pause(clock):
    calls = []
    timing.sleep(0.5, lambda: calls.append(clock.now), every=0.2)
    assert clock.slept == [0.2, 0.2, 0.1]
    assert calls == pytest.approx([100.0, 100.2, 100.4])
    timing.sleep(0)
    assert len(clock.slept) == 3


def test_what_is_raised_meanwhile_ends_the_pause():
    start = time.monotonic()
    with pytest.raises(KeyError):
        timing.sleep(30, {}.popitem)
    assert time.monotonic() - start < 10
