import collections
import subprocess
import sys
import threading
import time

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from airflow_provider_impala_lb.core.cluster import lease_keeper as lease_module
from airflow_provider_impala_lb.core.cluster import picker as picker_module
from airflow_provider_impala_lb.core.state.model import LEASE_SECONDS, SILENCE_SECONDS, UNLEASED_SECONDS
from airflow_provider_impala_lb.errors import ConfigError, NoNodeAvailable, StateContended, StateUnavailable
from airflow_provider_impala_lb.stores.memory import MemoryStore
from tests.support.balancers import Clock, make


@pytest.fixture
def clock():
    return Clock()


def picks(picker):
    return {node["node"]: node["picks"] for node in picker.status()["nodes"]}


@given(nodes=st.integers(1, 7), start=st.integers(0, 20), rounds=st.integers(1, 4))
@settings(max_examples=60, deadline=None)
def test_round_robin_gives_each_node_k_of_any_n_times_k_picks(nodes, start, rounds):
    picker = make(Clock(), nodes, policy="round_robin")
    for _ in range(start):
        picker.get_host()
    window = [picker.get_host() for _ in range(nodes * rounds)]
    assert {window.count(host) for host in set(window)} == {rounds}
    assert len(set(window)) == nodes


def test_the_neighbour_of_a_node_that_is_out_does_not_inherit_its_share(clock):
    picker = make(clock, 4, policy="round_robin")
    hosts = [picker.pick(exclude=["n1:21050"]).host for _ in range(30)]
    assert {hosts.count(host) for host in set(hosts)} == {10}


def test_least_loaded_counts_leases_and_goes_in_turn_on_ties(clock):
    picker = make(clock)
    held = [picker.acquire("a") for _ in range(3)]
    assert sorted(pick.host for pick in held) == ["n0:21050", "n1:21050", "n2:21050"]
    held[1].release()
    assert picker.acquire("b").host == held[1].host


def test_a_node_of_twice_the_weight_gets_twice_the_leases(clock):
    picker = make(clock, ["small", {"host": "large", "weight": 2}])
    hosts = [picker.acquire("x").host for _ in range(9)]
    assert hosts.count("large:21050") == 6


def test_a_pick_without_a_lease_weighs_on_its_node_for_half_a_minute(clock):
    picker = make(clock, 2)
    first = picker.get_host()
    assert picker.acquire("x").host != first
    assert [node["load"] for node in picker.status()["nodes"]] == [1, 1]
    clock.now += UNLEASED_SECONDS + 5
    load = {node["node"]: node["load"] for node in picker.status()["nodes"]}
    assert load[first] == 0


def test_many_picks_without_a_lease_do_not_make_the_state_grow(clock):
    picker = make(clock, 1)
    picker.get_host()
    before = len(picker.store._record)
    for _ in range(2000):
        clock.now += 0.001
        picker.get_host()
    assert len(picker.store._record) < before + 100


def test_a_lease_ends_with_its_block_and_every_pick_is_counted(clock):
    picker = make(clock)
    with picker.acquire("dag/run/task") as pick:
        lease = picker.status()["leases"][0]
        assert (lease["node"], lease["owner"]) == (pick.node, "dag/run/task")
    assert picker.status()["leases"] == []
    picker.get_host()
    assert sum(picks(picker).values()) == 2


def test_a_lease_ends_at_its_expiry_when_nobody_renews_it(clock):
    picker = make(clock, 2)
    lost = picker.acquire("lost")
    picker.leases._held.clear()  # as if its worker were on another host, and gone
    for _ in range(4):
        clock.now += LEASE_SECONDS / 4 - 0.1  # others are at work meanwhile
        picker.get_host()
    assert len(picker.status()["leases"]) == 1
    clock.now += 1
    assert picker.status()["leases"] == []
    assert lost.lease is not None


def test_the_lease_of_a_dead_process_of_this_host_is_reaped_at_once(tmp_path):
    lock_file = str(tmp_path / "lock")
    code = (
        "import sys, os; from airflow_provider_impala_lb import Balancer;"
        "b = Balancer.from_config({'nodes': ['a', 'b'], 'lock_file': sys.argv[1]});"
        "b.acquire('victim'); os.kill(os.getpid(), 9)"
    )
    assert subprocess.run([sys.executable, "-c", code, lock_file]).returncode == -9
    from airflow_provider_impala_lb import Balancer

    balancer = Balancer.from_config({"nodes": ["a", "b"], "lock_file": lock_file})
    assert [lease["owner"] for lease in balancer.status()["leases"]] == ["victim"]
    balancer.get_host()
    assert balancer.status()["leases"] == []


def away(*_, **__):
    raise StateUnavailable("the NAS is away")


def test_while_the_state_is_away_the_limit_holds_and_who_can_wait_waits(clock, monkeypatch):
    picker = make(clock, 2, max_leases=1)
    held = picker.acquire("first")
    with monkeypatch.context() as patch:
        patch.setattr(picker.store, "transact", away)
        with pytest.raises(NoNodeAvailable, match=r"the shared state is out of reach.*: the NAS is away; waited \d s"):
            picker.acquire("second", wait=0.3)
    held.release()
    picker.acquire("second", wait=0).release()


def test_who_waits_while_the_state_comes_back_gets_the_node(monkeypatch):
    picker = make(time.time, 1, max_leases=1)
    with monkeypatch.context() as patch:
        patch.setattr(picker.store, "transact", away)
        timer = threading.Timer(0.5, patch.undo)
        timer.start()
        pick = picker.acquire("patient", wait=30)
        timer.join()
    assert "out of reach" not in pick.why
    pick.release()


@pytest.mark.parametrize("what", ["acquire", "hold"])
def test_a_lease_whose_answer_was_lost_is_not_left_behind_by_who_gives_up(monkeypatch, what):
    """Of `hold` it would count for its whole length, and nobody knows its id."""
    monkeypatch.setattr(lease_module, "RELEASE_SECONDS", 0.1)
    picker = make(time.time, 1, max_leases=1)
    real, calls = picker.store.transact, []

    def lose_the_first_answer(change):
        calls.append(change)
        if len(calls) == 1:
            real(change)
        raise StateUnavailable("outcome unknown")

    with monkeypatch.context() as patch:
        patch.setattr(picker.store, "transact", lose_the_first_answer)
        with pytest.raises(NoNodeAvailable, match="out of reach"):
            picker.acquire("x", wait=0.3) if what == "acquire" else picker.hold(1e6, wait=0.3)
    end = time.monotonic() + 10
    while picker.status()["leases"]:
        assert time.monotonic() < end
        time.sleep(0.02)


def test_without_limits_nobody_waits_for_a_state_that_is_away(clock, monkeypatch):
    picker = make(clock, 2)
    with monkeypatch.context() as patch:
        patch.setattr(picker.store, "transact", away)
        pick = picker.acquire("x")
        assert "the shared state was out of reach" in pick.why
    pick.release()


def test_who_cannot_wait_goes_alone_within_what_was_last_known(clock, monkeypatch):
    picker = make(clock, 2, max_leases=3)
    held = [picker.acquire(f"held {index}") for index in range(2)]
    with monkeypatch.context() as patch:
        patch.setattr(picker.store, "transact", away)
        third = picker.acquire("third", wait=0)
        with pytest.raises(NoNodeAvailable, match="2 full"):
            picker.acquire("fourth", wait=0)
        third.release()  # its end is known here, if nowhere else
        held.append(picker.acquire("fourth", wait=0))
        held.pop(0).release()
        held.append(picker.acquire("fifth", wait=0))
        assert picker.get_host()  # nobody could say when its work ends, so no limit binds it
    picker.leases.renew()
    picker.leases._release_late()
    assert picker.status()["nodes"][0]["leases"] + picker.status()["nodes"][1]["leases"] == 3
    for pick in held:
        pick.release()


def test_processes_that_pick_alone_spread_over_the_nodes_by_what_they_know(clock, monkeypatch):
    """Each knows the same, and nothing of the others: by least_loaded all would go to the same node."""

    def contended(*_):
        raise StateContended("the lock is not free")

    store = MemoryStore(clock)
    for _ in range(3):
        make(clock, 3, store=store).acquire("busy", prefer="n0")
    monkeypatch.setattr(store, "transact", contended)
    hosts = collections.Counter()
    for seed in range(300):
        fresh = make(clock, 3, store=store)
        fresh.cluster.picker._rng.seed(seed)
        hosts[fresh.get_host()] += 1
    assert hosts["n0:21050"] < 60  # a third would be 100; by its load it is due 33
    assert min(hosts["n1:21050"], hosts["n2:21050"]) > 100


def test_leases_that_nobody_could_renew_are_not_ended_when_the_state_comes_back(clock):
    picker = make(clock, 2, max_leases=2)
    held = [picker.acquire(str(index)) for index in range(2)]
    clock.now += 10 * LEASE_SECONDS  # out of reach for all hosts
    with pytest.raises(NoNodeAvailable, match="2 full"):
        picker.acquire("third", wait=0)
    picker.leases.renew()
    clock.now += SILENCE_SECONDS + 1
    with pytest.raises(NoNodeAvailable, match="2 full"):
        picker.acquire("third", wait=0)
    picker.leases._held.clear()  # as if their workers were on another host, and gone
    for _ in range(5):
        clock.now += LEASE_SECONDS / 4  # others are at work meanwhile
        picker.get_host()
    picker.acquire("third", wait=0).release()
    assert held


def test_a_lease_of_a_holder_that_is_gone_ends_also_where_hardly_anything_happens(clock):
    """It is spared once: who could have renewed it since has not."""
    picker = make(clock, 2, max_leases=2)
    held = [picker.acquire(str(index)) for index in range(2)]
    picker.leases._held.clear()  # as if their workers were on another host, and gone
    clock.now += 3600
    with pytest.raises(NoNodeAvailable, match="2 full"):
        picker.acquire("third", wait=0)
    clock.now += 3600
    picker.acquire("third", wait=0).release()
    assert held


def test_a_lease_is_put_back_over_a_cap_if_need_be(clock):
    picker = make(clock, 1, max_leases=1)
    pick = picker.acquire("first")
    picker.store.transact(lambda state, now: state.end_lease(pick.lease) and None)  # a reset of the state
    other = picker.acquire("second", wait=0)
    assert [lease.owner for lease in picker.leases.renew()] == ["first"]
    assert picker.status()["nodes"][0]["leases"] == 2
    other.release()
    with pytest.raises(NoNodeAvailable):
        picker.acquire("third", wait=0)
    pick.release()


def test_a_lease_that_is_gone_is_put_back_on_its_node(clock):
    picker = make(clock, 2)
    pick = picker.acquire("x")
    picker.store.transact(lambda state, now: state.end_lease(pick.lease))
    assert [lease.id for lease in picker.leases.renew()] == [pick.lease]
    assert picker.status()["leases"][0]["node"] == pick.node
    assert picker.leases.renew() == []


def test_a_lease_lives_as_long_as_its_script_however_long_that_is(monkeypatch):
    for module in (lease_module, picker_module):
        monkeypatch.setattr(module, "LEASE_SECONDS", 2.0)
    monkeypatch.setattr(lease_module, "RENEW_SECONDS", 0.1)
    picker = make(time.time)
    with picker.acquire("long") as pick:
        end = time.monotonic() + 3
        while time.monotonic() < end:
            assert [lease["node"] for lease in picker.status()["leases"]] == [pick.node]
            time.sleep(0.05)
        thread = picker.leases._thread
        assert thread.is_alive()
    thread.join(5)
    assert not thread.is_alive()
    assert picker.status()["leases"] == []


def test_leases_that_follow_one_another_have_one_thread(monkeypatch):
    monkeypatch.setattr(lease_module, "LINGER_SECONDS", 60.0)
    picker = make(time.time)
    with picker.acquire("first"):
        thread = picker.leases._thread
    thread.join(0.2)
    with picker.acquire("second"):
        assert picker.leases._thread is thread and thread.is_alive()


def test_an_error_that_nobody_has_thought_of_does_not_end_the_renewing(monkeypatch, caplog):
    monkeypatch.setattr(lease_module, "RENEW_SECONDS", 0.05)
    picker = make(time.time)
    working, failures = picker.leases.renew, []

    def renew():
        if len(failures) < 2:
            failures.append(time.monotonic())
            raise ZeroDivisionError("a bug")
        return working()

    monkeypatch.setattr(picker.leases, "renew", renew)
    with picker.acquire("long") as pick:
        picker.store.transact(lambda state, now: state.end_lease(pick.lease) and None)
        end = time.monotonic() + 10
        while not picker.status()["leases"]:
            assert time.monotonic() < end
            time.sleep(0.02)
    assert len(failures) == 2 and "ZeroDivisionError" in caplog.text


def test_what_could_not_be_released_is_released_when_the_state_is_back(monkeypatch):
    """Also by a process whose other leases could not be renewed either; and it does not ask all the time."""
    monkeypatch.setattr(lease_module, "RENEW_SECONDS", 0.1)
    monkeypatch.setattr(lease_module, "RELEASE_SECONDS", 0.2)
    picker = make(time.time, 2)
    pick, other = picker.acquire("one"), picker.acquire("other")
    asked = []
    with monkeypatch.context() as patch:
        patch.setattr(picker.store, "transact", lambda change: asked.append(change) or away())
        pick.release()
        time.sleep(1)
    assert 3 <= len(asked) <= 20
    end = time.monotonic() + 10
    while [lease["owner"] for lease in picker.status()["leases"]] != ["other"]:
        assert time.monotonic() < end
        time.sleep(0.02)
    other.release()


def test_the_session_is_in_the_state_as_soon_as_it_is_noted(clock):
    picker = make(clock)
    with picker.acquire("x") as pick:
        pick.note(session="s:1")
        assert picker.status()["leases"][0]["session"] == "s:1"
        pick.note(query="q:1")
        picker.leases.renew()
        assert picker.status()["leases"][0]["query"] == "q:1"
        assert picker.status()["leases"][0]["session"] == "s:1"


def test_prefer_keeps_the_node_and_leaves_the_turn_alone(clock):
    picker = make(clock, policy="round_robin")
    assert picker.get_host() == "n0:21050"
    assert picker.pick(prefer="n0").host == "n0:21050"
    assert picker.get_host() == "n1:21050"


def test_a_host_that_is_not_configured_is_named(clock):
    with pytest.raises(ConfigError, match=r"'evil:21050' is not a node of test, so nothing is sent to it.*n0:21050"):
        make(clock).acquire(prefer="evil:21050")
    with pytest.raises(ConfigError, match="is not host"):
        make(clock).acquire(prefer="n0:21050/x")


def test_a_session_key_stays_on_its_node_until_that_is_excluded(clock):
    picker = make(clock)
    first = picker.pick(session_key="etl").host
    assert {picker.pick(session_key="etl").host for _ in range(5)} == {first}
    second = picker.pick(session_key="etl", exclude=[first]).host
    assert second != first
    assert picker.pick(session_key="etl").host == second


def test_when_all_are_excluded_the_error_says_why_for_each(clock):
    with pytest.raises(NoNodeAvailable) as caught:
        make(clock, 2).acquire(exclude={"n0:21050": "refused", "n1:21050": "silent"})
    assert caught.value.reasons == {"n0:21050": "refused", "n1:21050": "silent"}
    assert "n0:21050: refused" in str(caught.value)


def test_another_cluster_in_the_lock_file_is_an_error(clock):
    store = MemoryStore(clock)
    make(clock, store=store).get_host()
    with pytest.raises(ConfigError, match=r"belongs to cluster 'test'.*name is 'other'"):
        make(clock, store=store, name="other").get_host()


def test_node_lists_that_differ_between_hosts_are_one_warning(clock, caplog):
    store = MemoryStore(clock)
    other = make(clock, 2, store=store)
    other.host = "other-host"
    other.get_host()
    picker = make(clock, 3, store=store)
    for _ in range(3):
        picker.get_host()
    assert [record.message for record in caplog.records].count(
        "memory of this process: another host balances a different list of nodes; each uses its own"
    ) == 1
    assert {picker.get_host() for _ in range(6)} == {"n0:21050", "n1:21050", "n2:21050"}


class Broken:
    where = "/nas/gone"

    def transact(self, change):
        raise StateUnavailable("/nas/gone: its directory is not there")

    read = transact

    def __init__(self):
        self.read = lambda **_: self.transact(None)


def test_without_the_store_picks_go_on_and_it_is_said_once(clock, caplog):
    picker = make(clock, 5, store=Broken())
    hosts = {picker.get_host() for _ in range(50)}
    assert len(hosts) > 2
    assert sum("Picking without the shared state" in record.message for record in caplog.records) == 1
    with picker.acquire("x") as pick:
        assert "out of reach" in pick.why


def test_a_lease_taken_without_the_store_reaches_it_once_it_is_back(clock):
    picker = make(clock)
    working, picker.store = picker.store, Broken()
    pick = picker.acquire("x")
    picker.store = working
    picker.leases.renew()
    assert [lease["owner"] for lease in picker.status()["leases"]] == ["x"]
    pick.release()
    assert picker.status()["leases"] == []


def test_a_hand_over_that_failed_reports_nothing_twice(clock):
    moves = []
    picker = make(clock, 2)
    pick = picker.acquire("x", on_move=moves.append)

    def overloaded(state, now):
        lease = state.end_lease(pick.lease)
        lease.move = "overloaded"
        state.lease(lease)

    picker.store.transact(overloaded)
    picker.leases.renew()
    working, picker.store = picker.store, Broken()
    with pytest.raises(StateUnavailable):
        pick.hand_over()
    picker.store = working
    picker.leases.renew()
    assert moves == ["overloaded"]
    pick.release()


@pytest.mark.parametrize("first", ["renewal", "other"])
@pytest.mark.parametrize("other", ["hand over", "release"])
def test_a_renewal_under_way_undoes_neither_a_hand_over_nor_what_a_release_notes(clock, monkeypatch, first, other):
    picker = make(clock, 2)
    pick = picker.acquire("x")
    pick.note(session="00:11")
    working = picker.store.transact

    def meanwhile(change):
        monkeypatch.setattr(picker.store, "transact", working)
        result = working(change) if first == "renewal" else None
        pick.hand_over() if other == "hand over" else pick.release(left_running=True)
        return result if first == "renewal" else working(change)

    monkeypatch.setattr(picker.store, "transact", meanwhile)
    assert picker.leases.renew() == []
    state, _ = picker.store.read()
    assert [lease.holder for lease in state.leases.values()] == ([None] if other == "hand over" else [])
    assert [left.session for left in state.leftovers.values()] == ([] if other == "hand over" else ["00:11"])


def test_a_session_key_that_is_no_text_is_refused_before_it_is_in_the_state(clock):
    picker = make(clock)
    with pytest.raises(ConfigError, match="session_key: is 42, must be a text"):
        picker.pick(session_key=42)
    with pytest.raises(ConfigError, match=r"session_key: is '\\udcff', must be a text"):
        picker.pick(session_key="\udcff")
    assert picker.status()["sessions"] == []


def test_a_host_that_has_no_lease_looks_for_no_dead_process(clock, monkeypatch):
    there, pod = make(clock), make(clock)
    there.store = pod.store
    pod.host = "a-pod-of-its-own"
    looks = []
    monkeypatch.setattr(picker_module, "_dead", lambda state: looks.append(state) or frozenset())
    with there.acquire("script"):
        for _ in range(5):
            clock.now += 2
            pod.get_host()
        assert looks == []
        clock.now += 2
        there.get_host()
        assert len(looks) == 1
