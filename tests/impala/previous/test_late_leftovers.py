"""What is found late is looked for until it has ended, by whoever is about to send something. The sessions are a
stand-in: with real ones, ``tests/impala/test_dbapi.py`` and ``tests/impala/script/test_noted_nowhere.py``."""

import threading
import time

import pytest

from airflow_provider_impala_lb.core.state.model import LeftoverSession
from airflow_provider_impala_lb.errors import ConfigError, StillRunning
from airflow_provider_impala_lb.impala.previous.late_leftovers import LateLeftovers


class Sessions:
    """Ends what it is given, once :attr:`ends` is set."""

    def __init__(self):
        self.beside, self.pause, self.ends, self.asked = "", None, threading.Event(), []

    def end(self, owner, leftovers):
        self.asked.append(sorted(leftovers))
        if not self.ends.is_set():
            raise StillRunning(owner, {"s": "a:1"})


def left(session):
    return LeftoverSession(owner="o", node="a:1", session=session, query="", at=0.0, expires=9.0)


def test_what_did_not_end_is_looked_for_again_before_the_next_statement():
    sessions = Sessions()
    late = LateLeftovers(sessions)
    late.end("o", "2", time.sleep)
    late.found({"lease": left("s")}, None)
    for _ in range(2):
        with pytest.raises(StillRunning):
            late.end("o", "2", time.sleep)
    late.found({"another": left("t")}, None)
    sessions.ends.set()
    late.end("o", "2", time.sleep)
    late.end("o", "2", time.sleep)
    assert sessions.asked == [["lease"], ["lease"], ["another", "lease"]]
    assert sessions.beside == "2"


def test_who_comes_second_waits_and_looks_itself():
    sessions = Sessions()
    late = LateLeftovers(sessions)
    late.found({"lease": left("s")}, None)
    looks, raised = threading.Barrier(2), []

    def end(owner, leftovers):
        sessions.asked.append(threading.current_thread().name)
        if len(sessions.asked) == 1:
            looks.wait(5)  # the other one is on its way
            time.sleep(0.2)
        raise StillRunning(owner, {"s": "a:1"})

    sessions.end = end

    def send(first):
        if not first:
            looks.wait(5)
        try:
            late.end("o", "2", time.sleep)
        except StillRunning as error:
            raised.append(error)

    threads = [threading.Thread(target=send, args=(first,)) for first in (True, False)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(10)
    assert (len(raised), len(sessions.asked)) == (2, 2)


def test_another_run_of_this_name_is_an_error_each_time():
    late = LateLeftovers(Sessions())
    late.found({}, ConfigError("two runs have this name"))
    for _ in range(2):
        with pytest.raises(ConfigError, match="two runs"):
            late.end("o", "2", time.sleep)
