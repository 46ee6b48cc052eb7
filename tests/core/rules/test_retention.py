"""What is kept of what has no time of its own, and how much of anything."""

import pytest

from airflow_provider_impala_lb.core.rules import retention
from airflow_provider_impala_lb.core.state import record_log
from airflow_provider_impala_lb.core.state.load_report import LastReport, LoadSample
from airflow_provider_impala_lb.core.state.model import (
    Avoid,
    Ejection,
    Lease,
    LeftoverSession,
    LoadSummary,
    NodeState,
    SessionRecord,
    Ticket,
)
from airflow_provider_impala_lb.core.state.record_log import RecordLog
from airflow_provider_impala_lb.core.state.state import State
from airflow_provider_impala_lb.errors import ConfigError, NoNodeAvailable
from airflow_provider_impala_lb.stores.file.state_slots import RECORDS_BYTES
from airflow_provider_impala_lb.stores.file.store import FileStore
from tests.support.balancers import Clock, make

DAY = 24 * 3600.0
LOAD = {"busy": 0.2, "overloaded": 0.1, "floor": 0.05, "refresh": 10}


@pytest.fixture
def clock():
    return Clock()


def keys_of(picker):
    return [key for key, _ in picker.store.read()[0].sessions.items()]


def add_keys(picker, names, node="n0:21050"):
    def fill(state, now):
        record = SessionRecord(node, now + DAY, database="dwh", options={"MEM_LIMIT": "4g"}, at=now)
        for name in names:
            state.sessions.add(name, record, now + DAY)

    picker.store.transact(fill)


def test_a_node_that_left_the_configuration_is_forgotten_after_a_day(clock):
    before = make(clock, ["a", "b"], load=LOAD)
    before.reports.note("b:21050", LoadSample(queries=1))
    held = before.acquire("script", prefer="b:21050")
    after = make(clock, ["a", "c"], store=before.store)
    clock.now += DAY + 100
    before.leases.renew()
    after.get_host()
    assert "b:21050" in after.store.read()[0].nodes  # a script runs there
    held.release()
    clock.now += 60  # a host looks once a minute
    after.get_host()
    state, _ = after.store.read()
    assert set(state.nodes) == {"a:21050", "c:21050"}
    assert len(state.last_reports) == 0


def test_nodes_that_come_and_go_daily_leave_no_records(clock):
    store = make(clock).store
    for day in range(60):
        picker = make(clock, [f"node-{day + index}" for index in range(5)], store=store)
        for _ in range(20):
            picker.get_host()
        clock.now += DAY
    assert len(store.read()[0].nodes) <= 11


def test_an_operators_word_on_a_node_outlasts_its_days_out_of_the_configuration(clock):
    whole = make(clock, ["a", "b"])
    whole.drain("b:21050")
    part = make(clock, ["a"], store=whole.store)
    for _ in range(20):
        clock.now += DAY
        part.get_host()
    assert whole.get_host() == "a:21050"
    for _ in range(40):  # and as long as anybody has it
        clock.now += DAY
        whole.get_host()
        part.get_host()
    assert whole.store.read()[0].nodes["b:21050"].drained
    for _ in range(31):
        clock.now += DAY
        part.get_host()
    assert set(part.store.read()[0].nodes) == {"a:21050"}


def test_with_a_node_its_last_report_goes_and_the_count_of_those_who_waited_for_it(clock):
    state, now = State(), clock.now
    for address, waiting in (("gone:1", 0), ("wanted:1", 2)):
        state.node(address).used = int(now - 2 * DAY)
        state.last_reports.add(address, LastReport(at=now), now + DAY)
        state.head.behind[address] = waiting
    retention.forget_nodes(make(clock).config, state, now)
    assert (state.nodes, len(state.last_reports)) == ({}, 0)
    assert state.head.behind == {"wanted:1": 2}


@pytest.mark.parametrize(
    ("use", "is_kept"),
    [
        (lambda now: NodeState(), False),
        (lambda now: NodeState(used=int(now) - 3600), True),
        (lambda now: NodeState(summary=LoadSummary(now - 3600, 0, 0, 0.5, "ready", "ready")), True),
        (lambda now: NodeState(ejection=Ejection("failure", "refused", until=now - 3600)), True),
        (lambda now: NodeState(leases=1), True),
    ],
)
def test_a_node_that_another_host_uses_is_kept(clock, use, is_kept):
    state = State()
    state.nodes["elsewhere:1"] = use(clock.now)
    retention.forget_nodes(make(clock).config, state, clock.now)
    assert ("elsewhere:1" in state.nodes) == is_kept


def test_what_a_node_reported_last_is_forgotten_after_a_day(clock):
    picker = make(clock, load=LOAD)
    picker.reports.note("n0:21050", LoadSample(queries=1))
    clock.now += DAY - 100
    picker.get_host()
    assert len(picker.store.read()[0].last_reports) == 1
    clock.now += 200
    picker.get_host()
    assert len(picker.store.read()[0].last_reports) == 0


@pytest.mark.parametrize("kind", ["sessions", "avoid"])
def test_of_what_is_too_much_the_newest_three_quarters_stay(clock, kind):
    state, ends = State(), clock.now + DAY
    records = getattr(state, kind)
    record = Avoid("n0:21050", ends) if kind == "avoid" else SessionRecord("n0:21050", ends)
    while records.size <= retention.MOST_BYTES:
        records.add(f"{len(records)}", record, ends)
    last = len(records) - 1
    retention.bound_records(state, clock.now)
    assert 0.99 * retention.MOST_KEPT_BYTES < records.size <= retention.MOST_KEPT_BYTES
    assert [name for name, _ in records.items()][-1] == f"{last}"


@pytest.mark.slow
def test_of_too_many_session_keys_the_oldest_go_and_new_ones_stay(tmp_path):
    picker = make(None, 3, store=FileStore(str(tmp_path / "lock")))
    for round in range(12):
        add_keys(picker, [f"user-{round}-{index}" for index in range(10_000)])
        picker.get_host()
    host = picker.pick(session_key="newest").host
    assert picker.pick(session_key="newest").host == host
    assert picker.store.read()[0].sessions.size <= retention.MOST_BYTES + (1 << 20)
    picker.get_host()
    keys = keys_of(picker)
    assert keys[-1] == "newest"
    assert keys[-2] == "user-11-9999"
    assert "user-0-0" not in keys
    assert len(keys) > 15_000
    assert picker.store.read()[0].sessions.extent.count == len(keys)


def test_an_overloaded_node_lets_ten_thousand_keys_go_in_one_rewrite(clock, monkeypatch):
    picker = make(clock, 3, load=LOAD)
    add_keys(picker, [f"user-{index}" for index in range(10_000)])
    add_keys(picker, ["elsewhere"], "n1:21050")
    put = RecordLog.put
    monkeypatch.setattr(RecordLog, "put", lambda *given: pytest.fail(given[1]) if "user" in given[1] else put(*given))
    lines = []
    real = record_log._line
    monkeypatch.setattr(record_log, "_line", lambda key, record: lines.append(key) or real(key, record))
    for _ in range(3):
        picker.reports.note("n0:21050", LoadSample(shares={"cpu": 0.05}))
    state, _ = picker.store.read()
    assert [record.unplaced_reason for record in state.sessions.values()] == ["overloaded"] * 10_000 + [""]
    assert keys_of(picker)[:2] == ["user-0", "user-1"]
    assert sum("user" in line for line in lines) == 10_000  # and none of them again, as long as it is overloaded


def test_data_that_are_too_large_are_told_of_and_not_kept(clock, caplog):
    picker = make(clock)
    node = picker.pick(session_key="k").host
    picker.session_keys.remember("k", node, "dwh", {"A": "x" * 5000})
    record = picker.store.read()[0].sessions.get("k")
    assert (record.node, record.database, record.options) == (node, None, {})
    assert "'k'" in caplog.text
    assert "5004 bytes" in caplog.text
    with pytest.raises(ConfigError, match="session_key: has 5000 characters"):
        picker.pick(session_key="k" * 5000)


def test_what_attempts_have_left_is_bounded_and_what_may_run_goes_last(clock):
    picker = make(clock)

    def fill(state, now):
        def left(index):
            ended = index % 100 != 0
            return LeftoverSession(f"dag/run/{index}", "n0:21050", "s" * 32, "q" * 32, now, now + DAY, True, ended)

        for index in range(20_000):
            state.leftovers.add(f"lease-{index}", left(index), now + DAY)

    picker.store.transact(fill)
    clock.now += 1
    picker.get_host()
    state, _ = picker.store.read()
    assert state.leftovers.size <= retention.MOST_BYTES
    assert sum(not left.ended for left in state.leftovers.values()) == 200


@pytest.mark.parametrize("ended", [True, False])
def test_of_too_much_that_attempts_have_left_the_newest_stays(clock, ended):
    state, ends = State(), clock.now + DAY
    leftovers = state.leftovers
    while leftovers.size <= retention.MOST_BYTES:
        at = clock.now + len(leftovers)
        leftovers.add(f"{len(leftovers)}", LeftoverSession("dag", "n0:1", "s" * 32, "", at, ends, ended=ended), ends)
    last = len(leftovers) - 1
    retention.bound_records(state, clock.now)
    assert leftovers.size <= retention.MOST_BYTES
    first = last // 2 + 1 if ended else 1  # half of those that were seen to end, else what is too much
    assert {name for name, _ in leftovers.items()} == {f"{index}" for index in range(first, last + 1)}


def test_data_are_counted_in_bytes():
    for options, size in (({"A": "x" * 4000}, 0), ({"A": "é" * 4000}, 8001), ({"é" * 2500: ""}, 5000)):
        record = SessionRecord("n0:1", 9.0, options=dict(options))
        assert retention.bound_data(record) == size
        assert record.options == ({} if size else options)


def fill_kind(picker, kind, record):
    """Of one kind of records as many as are allowed."""

    def fill(state, now):
        records = getattr(state, kind)
        line = len(record_log._line("lease-1", record(now)))
        count = retention.MOST_WAITING_BYTES // line + 1
        for index in range(count):
            records.add(f"lease-{index}", record(now), now + DAY)
        if kind == "tickets":
            state.head.behind = {"": len(records)}

    picker.store.transact(fill)


def test_who_finds_the_queue_full_is_refused_and_all_others_go_on(tmp_path):
    picker = make(None, 1, store=FileStore(str(tmp_path / "lock")), max_leases=1)
    held = picker.acquire("held", wait=0)
    with pytest.raises(Exception, match="number 1"):
        picker.acquire("first", ticket="first", asks_again=30)
    fill_kind(picker, "tickets", lambda now: Ticket("x" * 32, "dag/run/task", "pod", now, now + DAY, 7, 30.0))
    assert picker.store.read()[0].tickets.size < RECORDS_BYTES
    with pytest.raises(NoNodeAvailable, match=r"The queue is full: [\d,]+ wait"):
        picker.acquire("newcomer", ticket="newcomer", asks_again=30)
    with pytest.raises(Exception, match="number 1"):
        picker.acquire("first", ticket="first", asks_again=30)
    held.release()
    with picker.acquire("first", ticket="first", asks_again=30):
        picker.get_host()


@pytest.mark.slow
def test_where_there_is_no_room_for_one_more_lease_it_is_refused_and_picks_go_on(tmp_path):
    picker = make(None, 3, store=FileStore(str(tmp_path / "lock")))
    fill_kind(picker, "leases", lambda now: Lease("x" * 32, "n0:21050", "dag/run/task", now + DAY, now, "pod"))
    with pytest.raises(NoNodeAvailable, match=r"scripts run, and the shared state has no room for more"):
        picker.acquire("one more")
    picker.get_host()
