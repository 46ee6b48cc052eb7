"""A statement whose answer was lost, looked up on pages that are made up; and how often it may be sent."""

import time
from types import SimpleNamespace

import pytest

from airflow_provider_impala_lb.core.stop_request import Cancelled, StopRequest
from airflow_provider_impala_lb.impala.hs2 import statement_lookup
from airflow_provider_impala_lb.impala.hs2.ids import StatementError
from airflow_provider_impala_lb.impala.hs2.statement_lookup import (
    MAX_SENDINGS,
    FoundStatement,
    Sendings,
    StatementLookup,
    look_for,
    look_up,
)
from airflow_provider_impala_lb.impala.sql.classification import classify
from airflow_provider_impala_lb.impala.statement.protocol import StatementRecord
from airflow_provider_impala_lb.impala.web.debug_pages import ProbeFailed, Queries, Query

NONCE = "lb:0123456789abcdef"
FAILURE = StatementError("the connection failed while it was sent: it is gone")


class Pages:
    """Those of a coordinator that has kept everything since."""

    url = "http://node:25000"

    def __init__(self, *queries, status="OK", version=(4, 5), kept=200):
        self.shown, self.kept, self._status, self._version = list(queries), kept, status, version

    def version(self):
        return self._version

    def queries(self):
        return Queries(list(self.shown), self.kept)

    def status(self, _):
        return self._status


class Proof:
    """Shows the marker on the pages."""

    def __init__(self, pages, chained=True, shows=True):
        self.pages, self.chained, self.shows = pages, chained, shows

    def mark(self, label):
        if self.shows:
            self.pages.shown.append(query(f"{label} SET", in_flight=False, state="FINISHED", id="c:d"))
        return self.chained


class Coordinator:
    """Closes a session, or does not."""

    def __init__(self, pages, closes="closed", **proof):
        self.node, self.pages, self.stop = SimpleNamespace(address="node:21050"), pages, StopRequest()
        self.pause, self.proof = self.stop.sleep, Proof(pages, **proof)
        self.reconnect_timeout, self.closed, self._closes = 0.2, False, closes

    def nobody_listens(self):
        return False

    def close_to_prove(self):
        self.closed = True
        return self._closes


WITNESS = "e:f"


def witness():
    return query("SELECT 1", in_flight=False, state="FINISHED", id=WITNESS)


def query(text=f"/* {NONCE} 1/1 */ INSERT", in_flight=True, state="RUNNING", id="a:b"):
    return Query(id, text, "DML", state, in_flight)


@pytest.fixture(autouse=True)
def no_pauses(monkeypatch):
    monkeypatch.setattr(statement_lookup, "_LOOKS", (0.0,))
    monkeypatch.setattr(statement_lookup, "_FRESH_SECONDS", 0.1)
    monkeypatch.setattr(statement_lookup, "_MARKER_SECONDS", 0.2)


def looked_up(coordinator, witness=WITNESS, sql="INSERT INTO t SELECT 1"):
    return look_up(coordinator, StatementRecord(classify(sql), "intended"), NONCE, witness, FAILURE)


def test_one_that_runs_is_waited_for():
    coordinator = Coordinator(Pages(query()))
    assert looked_up(coordinator) == FoundStatement("a:b", True)
    assert not coordinator.closed


def test_one_that_has_ended_well_is_done():
    assert looked_up(Coordinator(Pages(query(in_flight=False, state="FINISHED")))) == FoundStatement("a:b", False)


def test_one_that_has_failed_is_so_by_its_own_text():
    with pytest.raises(StatementError, match=r"\AMemory limit exceeded\Z"):
        looked_up(Coordinator(Pages(query(in_flight=False, state="EXCEPTION"), status="Memory limit exceeded")))


def test_one_that_is_not_there_once_its_session_is_closed_has_never_arrived():
    coordinator = Coordinator(Pages(witness()))
    assert looked_up(coordinator) is None
    assert coordinator.closed


def test_one_that_arrives_in_the_last_moment_is_found_in_the_log():
    pages = Pages(witness())
    coordinator = Coordinator(pages)
    close = coordinator.close_to_prove

    def closes():
        pages.shown.append(query(in_flight=False, state="EXCEPTION"))
        pages._status = "Session closed"
        return close()

    coordinator.close_to_prove = closes
    with pytest.raises(StatementError, match="^Session closed$") as raised:
        looked_up(coordinator)
    assert raised.value.query_id == "a:b"


@pytest.mark.parametrize(
    ("coordinator", "seen", "doubt"),
    [
        (Coordinator(Pages(witness()), closes="failed"), WITNESS, "session could not be closed, so it may still begin"),
        (Coordinator(Pages()), WITNESS, "keeps 200 statements, and may have dropped it already; it is over"),
        (Coordinator(Pages(witness())), "", "no ended statement was seen on .* before it was sent, so .*; it is over"),
        (Coordinator(Pages(), closes="unknown"), WITNESS, "was started anew, or its session had ended before"),
        (Coordinator(Pages(), chained=False), WITNESS, "was started anew, or its session had ended before"),
        (Coordinator(Pages(witness()), shows=False), WITNESS, "is old, or another coordinator's"),
        (Coordinator(Pages(witness(), version=(3, 4))), WITNESS, "of this version does not show all that runs"),
        (Coordinator(None), WITNESS, "has no web page to look at"),
    ],
)
def test_where_absence_proves_nothing_the_outcome_is_in_doubt(coordinator, seen, doubt):
    with pytest.raises(StatementError, match=doubt) as raised:
        looked_up(coordinator, seen)
    assert "never reached" not in str(raised.value)


def waited_for(coordinator, *, closed=False, witness=WITNESS):
    """One that is on the page and can be asked for by no handle: only the page tells of its end."""
    lookup = StatementLookup(
        coordinator, StatementRecord(classify("INSERT INTO t SELECT 1"), "intended"), NONCE, witness, answer=""
    )
    if closed:
        lookup._close()
    return lookup, lookup.run()


@pytest.mark.parametrize("closed", [False, True], ids=["open", "closed"])
def test_an_old_page_that_shows_it_is_not_waited_for_without_an_end(closed):
    """A proxy serves a copy of the time when the statement ran."""
    lookup, action = waited_for(Coordinator(Pages(query()), shows=False), closed=closed)
    assert action == "ask"
    assert "is old, or another coordinator's" in lookup.reason and lookup.may_clear_up


@pytest.mark.parametrize("closed", [False, True], ids=["open", "closed"])
def test_a_page_that_becomes_old_while_it_is_waited_for_is_noticed(closed):
    coordinator = Coordinator(Pages(query()))
    began, marks = time.monotonic(), []
    mark = coordinator.proof.mark

    def once(label):
        marks.append(time.monotonic() - began)
        return mark(label) if len(marks) == 1 else True

    coordinator.proof.mark = once
    lookup, action = waited_for(coordinator, closed=closed)
    assert action == "ask" and "is old" in lookup.reason
    assert len(marks) == 2 if closed else len(marks) >= 2
    assert coordinator.closed


@pytest.mark.parametrize("closed", [False, True], ids=["open", "closed"])
def test_one_that_runs_for_long_is_waited_for_while_the_page_is_of_now(closed):
    """Each marker leaves the log before the next: others fill it."""
    pages = Pages(witness(), query())
    coordinator, marks = Coordinator(pages), []
    mark = coordinator.proof.mark

    def counted(label):
        marks.append(label)
        pages.shown = [each for each in pages.shown if "SET" not in each.text]
        if len(marks) == 4:
            pages.shown[1] = query(in_flight=False, state="FINISHED")
        return mark(label)

    coordinator.proof.mark = counted
    lookup, action = waited_for(coordinator, closed=closed)
    assert (action, lookup.status, len(marks)) == ("go on", "OK", 4)


def test_a_marker_that_soon_leaves_the_page_is_seen_before(monkeypatch):
    """The statement runs for so long that it is asked for seldom, and others fill the log meanwhile."""
    monkeypatch.setattr(statement_lookup, "next_poll", lambda waited: 0.6)
    pages = Pages(witness(), query())
    coordinator, sent = Coordinator(pages), []
    mark, ask = coordinator.proof.mark, pages.queries

    def marked(label):
        sent.append(time.monotonic())
        return mark(label)

    def queries():
        if sent and time.monotonic() - sent[-1] > 0.3:
            pages.shown = [each for each in pages.shown if "SET" not in each.text]
        if len(sent) == 4:
            pages.shown[1] = query(in_flight=False, state="FINISHED")
        return ask()

    coordinator.proof.mark, pages.queries = marked, queries
    lookup, action = waited_for(coordinator)
    assert (action, lookup.status) == ("go on", "OK"), lookup.reason


def test_a_marker_that_has_left_the_page_is_sent_again():
    """The statement is taken off the page after the marker was seen, and others have filled the log."""
    pages = Pages(witness(), query())
    coordinator, looks = Coordinator(pages), []
    ask = pages.queries

    def queries():
        looks.append(1)
        if len(looks) == 2:
            pages.shown = [witness()]
        return ask()

    pages.queries = queries
    lookup, action = waited_for(coordinator, closed=True)
    assert action == "ended", lookup.reason


def test_one_that_was_killed_while_it_was_planned_may_go_on():
    killed = query(in_flight=False, state="EXCEPTION")
    for version, over in (((4, 5), "ended"), ((5, 0), "ask")):
        coordinator = Coordinator(Pages(killed, status="Cancelled", version=version))
        lookup = StatementLookup(coordinator, StatementRecord(classify("DROP TABLE t"), "intended"), NONCE, WITNESS)
        assert lookup.run() == over


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
    assert look_for(Coordinator(Pages(query())), NONCE, FAILURE) == FoundStatement("a:b", True)


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
