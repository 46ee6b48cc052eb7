import threading
import time

import pytest

from airflow_provider_impala_lb.core.stop_request import Cancelled, StopRequest
from airflow_provider_impala_lb.errors import Superseded


def test_a_run_that_nobody_stops_goes_on():
    stop = StopRequest()
    stop.check()
    stop.check_fenced()
    stop.sleep(0)
    assert (stop.cancelled, stop.fenced, stop.move_reason, stop.wants_hand_over) == (None, None, None, False)


def test_the_first_reason_to_cancel_stays():
    stop = StopRequest()
    stop.cancel("the task was killed")
    stop.cancel("the worker ends")
    for check in (stop.check, stop.check_cancelled):
        with pytest.raises(Cancelled, match="^the task was killed$"):
            check()
    stop.check_fenced()
    stop.check_moved()


def test_a_fence_is_looked_for_by_itself_and_its_first_reason_stays():
    stop = StopRequest()
    stop.fence("attempt 2 has it")
    stop.fence("attempt 3 has it")
    stop.check()
    with pytest.raises(Superseded, match="^attempt 2 has it$"):
        stop.check_fenced()


def test_a_move_interrupts_only_if_it_says_so_and_is_over_when_the_script_has_moved():
    stop = StopRequest()
    stop.move("overloaded", interrupt=False)
    stop.check()
    stop.check_cancelled()
    assert stop.move_reason == "overloaded"
    with pytest.raises(Cancelled, match="^to move: overloaded$"):
        stop.check_moved()
    stop.move("more overloaded", interrupt=True)
    with pytest.raises(Cancelled, match="^to move: more overloaded$"):
        stop.check()
    stop.moved()
    stop.check()
    stop.check_moved()
    assert stop.move_reason is None


def test_what_is_cancelled_is_not_handed_over():
    stop = StopRequest()
    stop.hand_over()
    assert stop.wants_hand_over
    stop.check()
    stop.cancel("the task was killed")
    assert not stop.wants_hand_over


def test_a_cancelled_run_is_told_so_before_it_is_told_to_move():
    stop = StopRequest()
    stop.move("overloaded", interrupt=True)
    stop.cancel("the task was killed")
    with pytest.raises(Cancelled, match="killed"):
        stop.check()


def test_a_pause_ends_when_another_thread_cancels():
    stop = StopRequest()
    threading.Timer(0.2, stop.cancel, ["the task was killed"]).start()
    start = time.monotonic()
    with pytest.raises(Cancelled):
        stop.sleep(30)
    assert 0.1 < time.monotonic() - start < 10


def test_a_pause_without_length_is_a_check():
    stop = StopRequest()
    stop.cancel("the task was killed")
    with pytest.raises(Cancelled):
        stop.sleep(0)
