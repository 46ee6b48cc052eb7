"""Reports, headroom, T and H."""

import pytest

from airflow_provider_impala_lb.core.config.parse import parse
from airflow_provider_impala_lb.core.rules.headroom import MOVE_WITHIN, headroom, level_of, next_level, under_floor
from airflow_provider_impala_lb.core.state.load_report import ExporterCounters, LoadSample, ProbeResult
from airflow_provider_impala_lb.core.state.model import UNLEASED_SECONDS, LoadSummary
from airflow_provider_impala_lb.errors import NoNodeAvailable, StateUnavailable
from airflow_provider_impala_lb.stores.memory import MemoryStore
from tests.support.balancers import Clock, make
from tests.support.queueing import acquire_now

LOAD = {"busy": 0.2, "overloaded": 0.1, "floor": 0.05, "refresh": 10}


@pytest.fixture
def clock():
    return Clock()


@pytest.fixture
def picker(clock):
    return make(clock, 3, load=LOAD)


def tell(picker, node, cpu, times=1, **more):
    for _ in range(times):
        picker.reports.note(f"{node}:21050", LoadSample(shares={"cpu": cpu}, **more))


def status(picker, node):
    return next(each for each in picker.status()["nodes"] if each["node"] == f"{node}:21050")


def hosts(picker, picks=12, **options):
    return {picker.pick(**options).host.split(":")[0] for _ in range(picks)}


def test_headroom_is_the_weighted_mean_of_the_shares_that_all_report():
    weights = {"cpu": 1.0, "memory": 3.0, "disk": 1.0}
    shares = {"cpu": 0.8, "memory": 0.4, "disk": 0.1, "own": 0.0}
    assert headroom(shares, weights, {"cpu", "memory"}) == pytest.approx((0.8 + 3 * 0.4) / 4)
    assert headroom(shares, weights, {"own"}) is None
    assert headroom({}, weights, {"cpu"}) is None


def test_a_share_that_not_every_node_reports_does_not_count_in_p(picker):
    picker.reports.note("n0:21050", LoadSample(shares={"cpu": 0.5, "memory": 1.0}))
    assert status(picker, "n0")["headroom"] == 0.75
    tell(picker, "n1", 0.9)
    picker.reports.note("n0:21050", LoadSample(shares={"cpu": 0.5, "memory": 1.0}))
    assert status(picker, "n0")["headroom"] == 0.5


@pytest.mark.parametrize(
    ("p", "low", "level"),
    [(0.21, "", "ready"), (0.2, "", "busy"), (0.11, "", "busy"), (0.1, "", "overloaded"), (0.9, "disk", "busy"),
     (0.05, "disk", "overloaded"), (None, "", "ready")],
)  # fmt: skip
def test_the_thresholds_belong_to_the_lower_level(p, low, level):
    assert level_of(p, low, parse({"nodes": ["a"], "load": LOAD}).load) == level


def test_the_share_furthest_below_its_floor_is_named_and_weightless_ones_are_not():
    load = parse({"nodes": ["a"], "load": {"floor": {"cpu": 0.3}, "weights": {"disk": 0}}}).load
    assert under_floor({"cpu": 0.25, "memory": 0.04, "disk": 0.0}, load) == "memory"
    assert under_floor({"cpu": 0.3, "memory": 0.1, "heap": 0.0}, load) == ""


def brief(level, seen):
    return LoadSummary(at=0.0, queries=0, leases=0, headroom=0.5, level=level, reported_level=seen)


@pytest.mark.parametrize(
    ("level", "before", "now", "after"),
    [
        ("ready", "ready", "busy", "ready"),
        ("ready", "busy", "busy", "busy"),
        ("ready", "busy", "overloaded", "busy"),
        ("busy", "overloaded", "overloaded", "overloaded"),
        ("overloaded", "overloaded", "ready", "overloaded"),
        ("overloaded", "busy", "ready", "busy"),
        ("overloaded", "ready", "ready", "ready"),
        ("busy", "ready", "overloaded", "busy"),
    ],
)
def test_a_level_moves_as_far_as_two_reports_in_a_row_agree(level, before, now, after):
    assert next_level(brief(level, before), now) == after


def test_one_odd_report_moves_nothing_and_two_do(picker):
    tell(picker, "n0", 0.15)
    assert "n0" in hosts(picker)
    tell(picker, "n0", 0.9)
    tell(picker, "n0", 0.15)
    assert "n0" in hosts(picker)
    tell(picker, "n0", 0.15)
    assert "n0" not in hosts(picker)
    assert status(picker, "n0")["state"] == "busy"
    tell(picker, "n0", 0.9)
    assert "n0" not in hosts(picker)
    tell(picker, "n0", 0.9)
    assert "n0" in hosts(picker)


def test_a_share_under_its_floor_means_no_new_work_however_much_else_is_free(picker):
    for _ in range(2):
        picker.reports.note("n0:21050", LoadSample(shares={"cpu": 1.0, "memory": 0.04}))
    assert "n0" not in hosts(picker)
    assert status(picker, "n0")["why"] == "memory is under its floor"
    for _ in range(2):
        picker.reports.note("n0:21050", LoadSample(shares={"cpu": 1.0, "memory": 0.06}))
    assert "n0" in hosts(picker)


def test_a_report_expires_and_with_it_what_it_meant(picker, clock):
    tell(picker, "n0", 0.15, times=2)
    clock.now += 30
    assert "n0" not in hosts(picker)
    clock.now += 0.1
    assert "n0" in hosts(picker)
    assert status(picker, "n0")["headroom"] is None


def test_a_report_from_the_future_counts_as_new(picker, clock):
    tell(picker, "n0", 0.15, times=2)
    clock.now -= 600
    assert "n0" not in hosts(picker)


def test_a_node_that_shuts_down_says_so_and_gets_nothing(picker):
    tell(picker, "n0", 1.0, quiescing=True)
    assert "n0" not in hosts(picker)
    assert (status(picker, "n0")["state"], status(picker, "n0")["why"]) == ("drain", "it is shutting down")


def test_the_estimate_is_the_report_and_what_has_changed_since(picker):
    mine = [picker.acquire("x", prefer="n0") for _ in range(2)]
    tell(picker, "n0", 1.0, queries=5)  # two of ours, three of others
    assert status(picker, "n0")["load"] == 5
    mine.append(picker.acquire("x", prefer="n0"))
    assert status(picker, "n0")["load"] == 6
    for pick in mine:
        pick.release()
    assert status(picker, "n0")["load"] == 3
    tell(picker, "n0", 1.0, queries=0)
    tell(picker, "n1", 1.0, queries=1)
    tell(picker, "n2", 1.0, queries=1)
    assert picker.acquire("x").host == "n0:21050"


def test_leases_that_leaked_cancel_out(picker):
    for _ in range(4):
        picker.acquire("leaked", prefer="n0")
    tell(picker, "n0", 1.0, queries=0)  # nothing of them runs
    assert status(picker, "n0")["load"] == 0
    picker.acquire("x", prefer="n0")
    assert status(picker, "n0")["load"] == 1


def test_the_estimate_is_never_below_nothing(picker):
    held = [picker.acquire("x", prefer="n0") for _ in range(3)]
    tell(picker, "n0", 1.0, queries=1)
    for pick in held:
        pick.release()
    assert status(picker, "n0")["load"] == 0


def test_a_pick_without_a_lease_weighs_until_a_report_covers_it(picker, clock):
    for _ in range(3):
        picker.pick(prefer="n0")
    assert status(picker, "n0")["load"] == 3
    clock.now += 6
    tell(picker, "n0", 1.0, queries=2)
    assert status(picker, "n0")["load"] == 2
    picker.pick(prefer="n0")
    assert status(picker, "n0")["load"] == 3
    clock.now += UNLEASED_SECONDS - 1
    assert status(picker, "n0")["load"] == 3


def test_when_all_are_busy_the_one_with_most_headroom_is_taken_after_the_wait(picker):
    for node, cpu in (("n0", 0.12), ("n1", 0.18), ("n2", 0.15)):
        tell(picker, node, cpu, times=2)
    pick = picker.acquire("x", wait=0)
    assert pick.host == "n1:21050"
    assert pick.why.startswith("all are busy, and it has the most headroom; left out: n0:21050 (busy: headroom 0.12)")
    assert picker.get_host() == "n1:21050"


def test_of_busy_nodes_those_under_a_floor_come_last(picker):
    for node, shares in (("n0", {"cpu": 0.04, "memory": 0.9}), ("n1", {"cpu": 0.15, "memory": 0.15}), ("n2", None)):
        if shares is None:
            picker.drain(node)
            continue
        for _ in range(2):
            picker.reports.note(f"{node}:21050", LoadSample(shares=shares))
    assert picker.acquire("x", wait=0).host == "n1:21050"


def test_all_busy_and_full_says_how_many_of_each(clock):
    picker = make(clock, 3, load=LOAD, max_leases_per_node=1)
    picker.acquire("x", prefer="n0")
    picker.acquire("x", prefer="n1")
    tell(picker, "n1", 0.15, times=2)
    picker.drain("n2")
    with pytest.raises(NoNodeAvailable, match="3 nodes, 1 drained, 1 busy, 1 full"):
        picker.acquire("y", wait=0)


def test_at_t_a_sticky_session_is_released_for_its_next_request(picker):
    first = picker.pick(session_key="k").host
    tell(picker, first.split(":")[0], 0.15, times=2)
    moved = picker.pick(session_key="k")
    assert moved.host != first
    assert f"session key 'k' was on {first} (busy: headroom 0.15)" in moved.why
    assert picker.pick(session_key="k").host == moved.host


def test_at_h_session_keys_are_dropped_at_once_and_their_data_stay(picker):
    first = picker.pick(session_key="k").host
    picker.session_keys.remember("k", first, "dwh", {"MEM_LIMIT": "4g"})
    tell(picker, first.split(":")[0], 0.05, times=2)
    record = picker.store.read()[0].sessions.get("k")
    assert (record.unplaced_reason, record.database) == ("overloaded", "dwh")
    tell(picker, first.split(":")[0], 0.9, times=2)  # back before the key is used again
    pick = picker.pick(session_key="k", exclude=[first])
    assert f"was on {first} (overloaded)" in pick.why
    assert (pick.database, pick.options) == ("dwh", {"MEM_LIMIT": "4g"})
    assert "session key 'k' is on it" in picker.pick(session_key="k").why


class LastReport:
    def __init__(self):
        self.moves, self.stays = [], []


def movable(picker, node, movable=True):
    told = LastReport()
    told.pick = picker.acquire(
        "script", prefer=node, on_move=told.moves.append if movable else None, on_overload=told.stays.append
    )
    return told


def test_at_h_one_script_for_each_report_is_told_to_move(picker, clock):
    first = movable(picker, "n0")
    clock.now += 1
    second = movable(picker, "n0")
    tell(picker, "n0", 0.05)
    picker.leases.renew()
    assert first.moves == second.moves == []
    tell(picker, "n0", 0.05)
    picker.leases.renew()
    picker.leases.renew()
    assert first.moves == []
    assert second.moves == ["n0:21050 is overloaded (headroom 0.05)"]  # the one that loses least
    tell(picker, "n0", 0.05)
    picker.leases.renew()
    assert len(first.moves) == len(second.moves) == 1


def test_scripts_that_may_not_be_moved_are_told_that_they_finish_there(picker):
    fixed, other = movable(picker, "n0", movable=False), movable(picker, "n1", movable=False)
    tell(picker, "n0", 0.05, times=2)
    picker.leases._look_at_load()
    picker.leases._look_at_load()
    assert fixed.stays == ["headroom 0.05; it is not declared restartable"]
    assert (fixed.moves, other.stays) == ([], [])


def test_a_script_that_has_run_for_long_is_not_begun_anew(picker, clock):
    old = movable(picker, "n0")
    clock.now += MOVE_WITHIN + 1
    picker.leases.renew()
    tell(picker, "n0", 0.05, times=3)
    picker.leases.renew()
    picker.leases._look_at_load()
    assert old.moves == []
    assert old.stays == ["headroom 0.05; it has run for more than 300 s, too long to be begun anew"]


@pytest.mark.parametrize("load", [LOAD, "auto"])
@pytest.mark.parametrize("limit", ["max_leases", "max_leases_per_node"])
def test_nothing_moves_while_the_nodes_above_t_are_full_or_others_wait(clock, load, limit):
    """It would lose what it has done, and then wait, or fail."""
    picker = make(clock, 2, load=load, **{limit: 1 if limit == "max_leases_per_node" else 2})
    script, held = movable(picker, "n0"), picker.acquire("held", prefer="n1")
    assert acquire_now(picker, "waits") is None
    for _ in range(3):
        clock.now += 5
        tell(picker, "n1", 0.9)
        tell(picker, "n0", 0.05)
        picker.leases.renew()
    assert script.moves == []
    held.release()
    picker.leave_queue("waits")
    tell(picker, "n0", 0.05)
    picker.leases.renew()
    assert len(script.moves) == 1


def test_nothing_moves_while_no_node_is_above_t(picker):
    script = movable(picker, "n0")
    for node in ("n1", "n2"):
        tell(picker, node, 0.15, times=2)
    tell(picker, "n0", 0.05, times=3)
    picker.leases.renew()
    assert script.moves == []
    tell(picker, "n1", 0.9, times=2)
    tell(picker, "n0", 0.05)
    picker.leases.renew()
    assert len(script.moves) == 1


def test_between_t_and_h_what_runs_goes_on(picker):
    script = movable(picker, "n0")
    tell(picker, "n0", 0.15, times=5)
    picker.leases.renew()
    assert script.moves == []


def reading(cpu, queries=0, counters=None):
    return ProbeResult(LoadSample(shares={"cpu": cpu}, queries=queries), counters=counters)


def test_one_process_asks_for_the_whole_fleet(clock):
    store = MemoryStore(clock)
    one, other = (make(clock, 2, store=store, load=LOAD) for _ in range(2))
    rounds = []

    def prober(nodes, named, counters):
        rounds.append(counters)
        assert other.reports.probe() is None  # claimed
        assert other.reports.probe(now_anyway=True) is None
        return {"n0:21050": reading(0.5, 3, ExporterCounters(at=1.0, idle=1.0, total=2.0)), "n1:21050": "refused"}

    one.reports.prober = prober
    other.reports.prober = lambda nodes, named, counters: pytest.fail("two ask at once")
    assert set(one.reports.probe()) == {"n0:21050", "n1:21050"}
    assert one.reports.probe() is None  # not due
    assert status(one, "n0")["headroom"] == 0.5
    assert status(one, "n1")["report"]["failed"] == "refused"
    clock.now += 10
    one.reports.probe()
    assert rounds[1] == {"n0:21050": ExporterCounters(at=1.0, idle=1.0, total=2.0)}


def test_who_dies_while_asking_does_not_stop_the_others(clock):
    store = MemoryStore(clock)
    one, other = (make(clock, 2, store=store, load=LOAD) for _ in range(2))

    def dies(nodes, named, counters):
        raise SystemExit

    one.reports.prober = dies
    with pytest.raises(SystemExit):
        one.reports.probe()
    other.reports.prober = lambda nodes, named, counters: {"n0:21050": reading(0.5)}
    assert other.reports.probe() is None
    clock.now += 3.1
    assert other.reports.probe() is not None


def test_an_answer_that_comes_too_late_is_not_noted(clock):
    store = MemoryStore(clock)
    one, other = (make(clock, 2, store=store, load=LOAD) for _ in range(2))
    other.reports.prober = lambda nodes, named, counters: {"n0:21050": reading(0.9)}

    def slow(nodes, named, counters):
        clock.now += 4
        other.reports.probe()
        return {"n0:21050": reading(0.1)}

    one.reports.prober = slow
    one.reports.probe()
    assert status(one, "n0")["headroom"] == 0.9


def test_a_node_that_does_not_answer_keeps_its_last_report_until_that_expires(clock):
    picker = make(clock, 2, load=LOAD)
    picker.reports.prober = lambda nodes, named, counters: {"n0:21050": reading(0.5, 7)}
    picker.reports.probe()
    picker.reports.prober = lambda nodes, named, counters: {"n0:21050": "no answer within 1 s"}
    clock.now += 10
    picker.reports.probe()
    assert status(picker, "n0")["load"] == 7
    assert status(picker, "n0")["report"]["failed"] == "no answer within 1 s"
    clock.now += 21
    picker.reports.probe()
    assert status(picker, "n0")["load"] == 0


def test_the_report_counts_the_leases_from_before_it_was_asked_for(clock):
    picker = make(clock, 2, load=LOAD)
    held = []

    def prober(nodes, named, counters):
        held.append(picker.acquire("x", prefer="n0"))  # begins while the nodes are being asked
        return {"n0:21050": reading(0.5, 0)}

    picker.reports.prober = prober
    picker.reports.probe()
    assert status(picker, "n0")["load"] == 1


def test_a_pick_never_waits_for_a_round(clock):
    import threading

    picker = make(clock, 2, load=LOAD)
    asked, go_on = threading.Event(), threading.Event()

    def prober(nodes, named, counters):
        asked.set()
        assert go_on.wait(10)
        return {"n0:21050": reading(0.5)}

    picker.reports.prober = prober
    picker.get_host()
    assert asked.wait(10)
    for _ in range(5):
        picker.get_host()  # while the round is under way
    go_on.set()
    end = threading.Event()
    for _ in range(500):
        if status(picker, "n0")["headroom"] == 0.5:
            break
        end.wait(0.01)
    assert status(picker, "n0")["headroom"] == 0.5


def test_a_store_out_of_reach_does_not_end_the_thread_that_asks(picker, monkeypatch):
    def away(*_, **__):
        raise StateUnavailable("away")

    picker.reports.prober = lambda nodes, named, counters: {}
    monkeypatch.setattr(picker.store, "read", away)
    assert picker.reports.probe_if_due() is None
