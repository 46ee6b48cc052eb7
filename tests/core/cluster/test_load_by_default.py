"""``load`` is left out: nodes are asked where their pages answer without a login, and nobody waits for headroom."""

import logging
from itertools import pairwise

import pytest

from airflow_provider_impala_lb.core.state.load_report import LoadSample, ProbeResult
from airflow_provider_impala_lb.core.state.model import Avoid, ProbeClaim
from airflow_provider_impala_lb.errors import MustWait, NoNodeAvailable
from airflow_provider_impala_lb.stores.memory import MemoryStore
from tests.support.balancers import Clock, make

REFUSED = "http://n1:25000: asks for a login (401)"


class Pages:
    """A prober: these nodes answer; what was asked, and under which addresses."""

    def __init__(self, *answering):
        self.answering, self.asked = set(answering), []

    def __call__(self, nodes, named, counters):
        self.asked.append([(node.web or named.get(node.address)) for node in nodes])
        fine = ProbeResult(LoadSample(queries=3, shares={"memory": 0.9}))
        return {node.address: fine if node.host in self.answering else REFUSED for node in nodes}


@pytest.fixture
def clock():
    return Clock()


def session_on(picker, node, web=None):
    with picker.acquire("dag/run/task", prefer=node) as pick:
        pick.note(session="s", web=web or f"{node}:25000")


def test_a_node_is_asked_once_its_coordinator_has_named_its_pages(clock):
    picker = make(clock, 3)
    picker.reports.prober = pages = Pages("n0", "n1")
    picker.pick()
    assert picker.reports.probe() is None and not picker.reports.is_due
    assert "0 of 3 nodes tell; not n0:21050 (where its web pages are is not known" in picker.status()["load"]
    session_on(picker, "n0")
    assert set(picker.reports.probe()) == {"n0:21050"}
    assert picker.reports.probe() is None  # not due
    session_on(picker, "n1", "impala-1.example:25001")  # who is new need not wait for the others' turn
    assert set(picker.reports.probe()) == {"n0:21050", "n1:21050"}
    assert pages.asked == [["n0:25000"], ["n0:25000", "impala-1.example:25001"]]
    assert picker.status()["load"].startswith("auto, every 10 s: 2 of 3 nodes tell; not n2:21050 (where its web pages")


def test_what_does_not_answer_is_asked_less_and_less_often_and_costs_the_others_nothing(clock, caplog):
    caplog.set_level(logging.INFO)
    picker = make(clock, [{"host": f"n{i}", "web": f"http://n{i}:25000"} for i in range(2)])
    picker.reports.prober = pages = Pages("n0")
    times = []
    for _ in range(200):
        if picker.reports.probe() and len(pages.asked[-1]) == 2:
            times.append(clock.now)
        clock.now += 10
    assert len(pages.asked) == 200
    assert [later - earlier for earlier, later in pairwise(times)] == [
        20,
        40,
        80,
        160,
        320,
        600,
        600,
    ]
    [line] = [record.message for record in caplog.records if record.message.startswith("Load: ")]
    assert line == (f"Load: auto, every 10 s: 1 of 2 nodes tell; not n1:21050 ({REFUSED}, asked again in 20 s)")
    pages.answering.add("n1")
    clock.now += 600
    picker.reports.probe()
    assert picker.status()["load"] == "auto, every 10 s: 2 of 2 nodes tell"
    assert caplog.messages[-1] == "Load: auto, every 10 s: 2 of 2 nodes tell"


def test_where_nobody_answers_nobody_is_due_before_the_pause_is_over(clock):
    store = MemoryStore(clock)
    web = [{"host": f"n{i}", "web": f"http://n{i}:25000"} for i in range(2)]
    one, other = (make(clock, web, store=store) for _ in range(2))
    one.reports.prober = other.reports.prober = pages = Pages()
    for _ in range(1000):
        for picker in (one, other):
            picker.pick()
            if picker.reports.is_due:
                picker.reports.probe()
        clock.now += 5
    assert 12 <= len(pages.asked) <= 14  # 20, 40, ... 320, then every 600 s of 5,000
    clock.now -= 86_400  # a clock that was wrong
    one.pick()
    assert one.reports.is_due


def test_a_clock_that_was_a_day_ahead_holds_up_nobody(clock):
    picker = make(clock, [{"host": f"n{i}", "web": f"http://n{i}:25000"} for i in range(2)])
    picker.reports.prober = pages = Pages()
    clock.now += 86_400
    picker.reports.probe()
    clock.now -= 86_400
    for _ in range(30):
        picker.pick()
        if picker.reports.is_due:
            picker.reports.probe()
        clock.now += 1
    assert len(pages.asked) == 2 and len(pages.asked[1]) == 2  # not once for each pick, and not of nobody
    picker.store.transact(lambda state, now: setattr(state.head, "probe", ProbeClaim("died", now + 86_400)))
    assert len(picker.reports.probe(now_anyway=True)) == 2


def test_a_node_that_only_others_have_in_their_list_holds_up_nobody(clock):
    store = MemoryStore(clock)
    web = [{"host": f"n{i}", "web": f"http://n{i}:25000"} for i in range(2)]
    one, other = make(clock, web[:1], store=store), make(clock, web, store=store)
    one.reports.prober = other.reports.prober = pages = Pages("n1")
    for _ in range(20):
        one.reports.probe()
        clock.now += 10
    assert set(other.reports.probe()) == {"n1:21050"}
    assert pages.asked[-1] == ["http://n1:25000"]


def test_a_new_address_is_asked_at_once_and_an_old_session_does_not_bring_the_old_one_back(clock):
    picker = make(clock, 1)
    picker.reports.prober = pages = Pages()
    old = picker.acquire("dag/run/old")
    old.note(session="s", web="n0:25000")
    for _ in range(20):
        picker.reports.probe()
        clock.now += 10
    session_on(picker, "n0", "n0:25001")  # the coordinator was started anew
    picker.leases.renew()
    picker.reports.probe()
    assert pages.asked[-1] == ["n0:25001"]
    old.release()


def test_an_agents_report_does_not_have_the_pages_asked_more_often(clock, caplog):
    caplog.set_level(logging.INFO)
    picker = make(clock, [{"host": "n0", "web": "http://n0:25000"}])
    picker.reports.prober = pages = Pages()
    for _ in range(30):
        picker.reports.probe()
        picker.reports.note("n0:21050", LoadSample(queries=1))
        clock.now += 10
    assert len(pages.asked) == 4  # after 20, 40, 80 s
    assert len(caplog.messages) == 1


def test_who_asks_by_hand_asks_all(clock):
    picker = make(clock, [{"host": f"n{i}", "web": f"http://n{i}:25000"} for i in range(2)])
    picker.reports.prober = pages = Pages()
    for _ in range(3):
        assert len(picker.reports.probe(now_anyway=True)) == 2
    assert len(pages.asked) == 3


def tell(picker, **shares):
    for _ in range(2):
        for node, share in shares.items():
            picker.reports.note(f"{node}:21050", LoadSample(shares={"memory": share}))


@pytest.mark.parametrize("policy", ["least_loaded", "round_robin", "weighted_random", "power_of_two"])
def test_busy_nodes_are_spared_but_where_all_are_busy_all_is_as_without_reports(clock, policy):
    picker = make(clock, 3, policy=policy)
    tell(picker, n0=0.15, n1=0.15, n2=0.9)
    for _ in range(9):
        with picker.acquire() as pick:
            assert pick.host == "n2:21050"
    tell(picker, n2=0.05)
    hosts = [picker.acquire(str(i), wait=30) for i in range(9)]  # would wait with thresholds that somebody has set
    assert {pick.host for pick in hosts} == {"n0:21050", "n1:21050", "n2:21050"}
    assert picker.acquire("sticks", prefer="n2", wait=30).host == "n2:21050"
    assert picker.status()["waiting"] == []


@pytest.mark.parametrize("limit", [{"max_leases_per_node": 1}, {"max_leases_per_node": 1, "max_leases": 2}])
def test_where_all_that_are_ready_are_full_nobody_waits_for_headroom(clock, limit):
    picker = make(clock, 3, **limit)
    tell(picker, n0=0.9, n1=0.15, n2=0.15)
    first, second = picker.acquire("a"), picker.acquire("b", wait=30, ticket="b", asks_again=5.0)
    assert first.node == "n0:21050" and "n1:21050 (busy" not in second.why
    assert second.node == "n1:21050"
    if "max_leases" in limit:
        with pytest.raises(MustWait):
            picker.acquire("c", wait=30, ticket="c", asks_again=5.0)
        second.release()
        with pytest.raises(NoNodeAvailable, match="3 full"):  # the room is kept for c, who came before
            picker.acquire("d", wait=0)
    else:
        assert picker.pick().node == "n2:21050"
        picker.acquire("c", wait=30, ticket="c", asks_again=5.0)
        with pytest.raises(NoNodeAvailable, match="3 full"):
            picker.acquire("d", wait=0)


def test_a_name_without_end_is_not_kept(clock):
    picker = make(clock, 1)
    session_on(picker, "n0", "x" * 10_000 + ":25000")
    picker.reports.prober = Pages()
    assert picker.reports.probe() is None


def test_where_load_is_off_nothing_is_learned_and_nobody_asked(clock):
    picker = make(clock, 1, load="off")
    picker.reports.prober = pages = Pages("n0")
    session_on(picker, "n0")
    assert not picker.reports.is_due and pages.asked == []
    assert picker.status()["load"] == "off: no node is asked for its load"
    state, _ = picker.store.read()
    assert state.node("n0:21050").web == ""


def test_a_node_that_comes_and_goes_is_a_line_in_ten_minutes_and_the_last_word_is_said(clock, caplog):
    caplog.set_level(logging.INFO)
    picker = make(clock, [{"host": f"n{i}", "web": f"http://n{i}:25000"} for i in range(2)])
    picker.reports.prober = pages = Pages("n0")
    for _ in range(36):  # in 12 minutes
        pages.answering.symmetric_difference_update({"n1"})
        picker.reports.probe()
        clock.now += 20
    said = [message for message in caplog.messages if message.startswith("Load: ")]
    assert len(said) == 2
    pages.answering.add("n1")
    for _ in range(60):
        picker.reports.probe()
        clock.now += 20
    said = [message for message in caplog.messages if message.startswith("Load: ")]
    assert len(said) == 3 and said[-1] == "Load: auto, every 10 s: 2 of 2 nodes tell"


def test_a_retry_goes_to_a_busy_node_rather_than_to_the_one_that_failed_it(clock):
    picker = make(clock, 2)
    tell(picker, n0=0.9, n1=0.15)
    picker.store.transact(lambda state, now: state.avoid.put("dag/run/task", Avoid("n0:21050", now + 600), now + 600))
    with picker.acquire("dag/run/task", wait=30) as pick:
        assert pick.node == "n1:21050" and "failed this task last time" in pick.why
    picker.drain("n1:21050")
    with picker.acquire("dag/run/task", wait=30) as pick:
        assert pick.node == "n0:21050"


def test_who_answers_is_said_also_where_the_first_attempt_to_note_it_came_too_late(clock, caplog, monkeypatch):
    caplog.set_level(logging.INFO)
    picker = make(clock, 1)
    picker.reports.prober = Pages("n0")
    session_on(picker, "n0")
    working = picker.store.transact

    def overtaken(change):  # as by another commit in Redis
        change(picker.store.read()[0], clock())
        return working(change)

    monkeypatch.setattr(picker.store, "transact", overtaken)
    picker.reports.probe()
    assert "Load: auto, every 10 s: 1 of 1 nodes tell" in caplog.messages
