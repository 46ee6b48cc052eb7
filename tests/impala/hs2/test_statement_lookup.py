"""A statement whose answer was lost, looked up on pages that are made up; and how often it may be sent."""

import time
from types import SimpleNamespace

import pytest

from airflow_provider_impala_lb.core.stop_request import Cancelled, StopRequest
from airflow_provider_impala_lb.impala.hs2 import statement_lookup
from airflow_provider_impala_lb.impala.hs2.ids import StatementError
from airflow_provider_impala_lb.impala.hs2.statement_lookup import MAX_SENDINGS, Sendings, look_for, look_up
from airflow_provider_impala_lb.impala.web.debug_pages import ProbeFailed, Queries, Query

NONCE = "0123456789abcdef"
FAILURE = StatementError("the connection failed while it was sent: it is gone")


class Pages:
    """Those of a coordinator that was started an hour ago, and has kept everything since."""

    url = "http://node:25000"

    def __init__(self, *queries, status="OK", kept=200, started=3600.0):
        self.shown, self.kept, self._status, self._started = list(queries), kept, status, started

    def queries(self):
        return Queries(self.shown, self.kept)

    def status(self, _):
        return self._status

    def started(self):
        return time.time() - self._started


class Coordinator:
    """Keeps what is run beside on its pages."""

    def __init__(self, pages, closes=True):
        self.node, self.pages, self.stop = SimpleNamespace(address="node:21050"), pages, StopRequest()
        self.reconnect_timeout, self.lost, self._closes = 0.2, False, closes

    def nobody_listens(self):
        return False

    def close_to_prove(self):
        self.lost = True
        return self._closes

    def run_beside(self, sql):
        self.pages.shown.append(query(sql, in_flight=False, started=time.time(), ended=time.time()))
        return time.monotonic()


def query(text=f"/* lb:{NONCE} 1/1 */ INSERT", in_flight=True, state="RUNNING", started=None, ended=None):
    return Query("a:b", text, "DML", state, in_flight, started, ended)


@pytest.fixture(autouse=True)
def no_pauses(monkeypatch):
    monkeypatch.setattr(statement_lookup, "_LOOKS", (0.0,))


def looked_up(coordinator):
    return look_up(coordinator, NONCE, time.monotonic() - 1, FAILURE)


def test_one_that_runs_is_waited_for():
    coordinator = Coordinator(Pages(query()))
    assert looked_up(coordinator) == ("a:b", True)
    assert not coordinator.lost


def test_one_that_has_ended_well_is_done():
    assert looked_up(Coordinator(Pages(query(in_flight=False, state="FINISHED")))) == ("a:b", False)


def test_one_that_has_failed_is_so_by_its_own_text():
    with pytest.raises(StatementError, match=r"\AMemory limit exceeded\Z"):
        looked_up(Coordinator(Pages(query(in_flight=False, state="EXCEPTION"), status="Memory limit exceeded")))


def test_one_that_is_not_there_once_its_session_is_closed_has_never_arrived():
    coordinator = Coordinator(Pages())
    with pytest.raises(StatementError, match="; it never reached the coordinator$"):
        looked_up(coordinator)
    assert coordinator.lost


@pytest.mark.parametrize(
    ("coordinator", "doubt"),
    [
        (Coordinator(Pages(), closes=False), "the session could not be closed, so it may still begin"),
        (Coordinator(Pages(started=0.5)), "the coordinator was started anew"),
        (Coordinator(Pages(kept=0)), "keeps 0 statements, and may have dropped it already"),
        (Coordinator(None), "has no web page to look at"),
    ],
)
def test_where_absence_proves_nothing_the_outcome_is_in_doubt(coordinator, doubt):
    with pytest.raises(StatementError, match=doubt):
        looked_up(coordinator)


def test_a_page_that_does_not_answer_is_asked_until_the_time_is_up(monkeypatch):
    coordinator = Coordinator(Pages())

    def silent():
        raise ProbeFailed("no whole answer")

    monkeypatch.setattr(coordinator.pages, "queries", silent)
    start = time.monotonic()
    with pytest.raises(StatementError, match=r"its page does not tell \(no whole answer\)"):
        looked_up(coordinator)
    assert 0.05 < time.monotonic() - start < 2
    with pytest.raises(ProbeFailed):
        look_for(coordinator, NONCE, FAILURE)


def test_a_stop_request_ends_the_looking():
    coordinator = Coordinator(Pages())
    coordinator.stop.cancel("the task was killed")
    with pytest.raises(Cancelled, match="the task was killed"):
        looked_up(coordinator)


def test_what_may_be_sent_again_is_not_on_the_page_or_has_ended_well():
    assert look_for(Coordinator(Pages()), NONCE, FAILURE) is None
    assert look_for(Coordinator(Pages(query(in_flight=False, state="FINISHED"))), NONCE, FAILURE) is None
    assert look_for(Coordinator(Pages(query())), NONCE, FAILURE) == ("a:b", True)


def test_sendings_are_bounded_by_their_number():
    sendings, pauses = Sendings(600.0), []
    for _ in range(MAX_SENDINGS - 1):
        sendings.begin()
        pauses.append(sendings.lost(FAILURE))
    assert pauses == pytest.approx([0.1, 0.4, 1.6, 6.4])
    sendings.begin()
    with pytest.raises(StatementError, match=rf"it was sent {MAX_SENDINGS} times in 0 s \({MAX_SENDINGS} at most\)"):
        sendings.lost(FAILURE)


def test_sendings_are_bounded_by_the_time_since_the_first_answer_was_lost():
    sendings = Sendings(0.05)
    sendings.begin()
    with pytest.raises(StatementError, match=r"it was sent once in 0 s \(session.reconnect_timeout is 0.05 s\)"):
        sendings.lost(FAILURE)


def test_a_sending_that_was_refused_does_not_count():
    sendings = Sendings(600.0)
    for _ in range(MAX_SENDINGS + 1):
        sendings.begin()
        sendings.refused()
