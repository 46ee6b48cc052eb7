"""Nodes that are found: they come, go, and are believed with care."""

import collections

import pytest

from airflow_provider_impala_lb.core.config.parse import parse
from airflow_provider_impala_lb.core.rules.discovery import MOST_GONE, REMEMBERED_SECONDS
from airflow_provider_impala_lb.core.rules.ejection import Failure, note_failure
from airflow_provider_impala_lb.core.state.state import State, encode
from airflow_provider_impala_lb.errors import ConfigError, NoNodeAvailable
from airflow_provider_impala_lb.stores.memory import MemoryStore
from tests.support.balancers import BareBalancer, Clock
from tests.support.queueing import acquire_now


class Source:
    """What a test says there is."""

    def __init__(self, *hosts):
        self.hosts, self.asked = list(hosts), 0

    def __call__(self, source):
        self.asked += 1
        if isinstance(self.hosts, str):
            raise ConfigError(self.hosts)
        return {f"{host}:21050": "" for host in self.hosts}


@pytest.fixture
def clock():
    return Clock()


def make(clock, source, store=None, **keys):
    raw = {"nodes": {"dns": "c.example", "refresh": 30}, "lock_file": "/not/used", "name": "t", **keys}
    return BareBalancer(parse(raw), store or MemoryStore(clock), finder=source)


def look(balancer):
    balancer.cluster.discovery.look(now_anyway=True)


def nodes(balancer):
    return {node["node"].partition(":")[0]: node["state"] for node in balancer.status()["nodes"]}


def test_the_first_pick_finds_the_nodes_and_the_next_ones_do_not_ask(clock):
    source, store = Source("a", "b"), MemoryStore(clock)
    balancer = make(clock, source, store)
    assert {balancer.get_host() for _ in range(4)} == {"a:21050", "b:21050"}
    other = make(clock, Source("c"), store)
    assert other.get_host() in ("a:21050", "b:21050")
    assert source.asked == 1


def test_who_finds_no_node_at_all_is_told_why(clock):
    with pytest.raises(NoNodeAvailable, match=r"No coordinator of t is known: DNS name c\.example: cannot be resolved"):
        make(clock, _failing("cannot be resolved")).get_host()
    with pytest.raises(NoNodeAvailable, match="names no node"):
        make(clock, Source()).get_host()


def test_a_new_process_knows_the_nodes_before_its_first_pick(clock):
    """A task that sticks to where another one ran asks for that node by name."""
    source, store = Source("a", "b"), MemoryStore(clock)
    make(clock, source, store).get_host()
    other = make(clock, source, store)
    assert other.config.canonical("b") == "b:21050"
    assert make(clock, source).config.addresses == ("a:21050", "b:21050")


def _failing(text):
    source = Source()
    source.hosts = text
    return source


def test_a_new_node_gets_its_share_and_no_burst(clock):
    source = Source("a", "b", "c", "d")
    balancer = make(clock, source)
    for _ in range(80):
        balancer.acquire("x")
    source.hosts.append("new")
    look(balancer)
    first = collections.Counter(balancer.acquire("x").host for _ in range(10))
    assert first["new:21050"] <= 3  # by load alone it would have got all of them
    clock.now += 30
    later = collections.Counter(balancer.acquire("x").host for _ in range(20))
    assert later["new:21050"] >= 15


def test_round_robin_is_exact_between_two_changes(clock):
    source = Source("a", "b", "c")
    balancer = make(clock, source, policy="round_robin")
    counts = collections.Counter(balancer.get_host() for _ in range(30))
    assert set(counts.values()) == {10}
    source.hosts = ["a", "c", "d", "e"]
    look(balancer)
    counts = collections.Counter(balancer.get_host() for _ in range(40))
    assert counts == dict.fromkeys((f"{host}:21050" for host in "acde"), 10)


def test_a_node_that_is_gone_gets_nothing_new_and_keeps_what_it_has(clock):
    source = Source("a", "b")
    balancer = make(clock, source)
    held = balancer.acquire("x", prefer="b")
    source.hosts = ["a"]
    look(balancer)
    assert {balancer.acquire("y").host for _ in range(4)} == {"a:21050"}
    assert nodes(balancer) == {"a": "ready", "b": "drain"}
    assert balancer.config.canonical("b") == "b:21050"  # a task that ran there names it
    assert balancer.acquire("z", prefer="b").host == "a:21050"
    held.release()
    assert nodes(balancer) == {"a": "ready"}
    clock.now += REMEMBERED_SECONDS
    look(balancer)
    with pytest.raises(ConfigError, match="not a node of t"):
        balancer.config.canonical("b")
    assert "b:21050" not in balancer.store.read()[0].nodes


def test_one_that_comes_back_is_there_again(clock):
    source = Source("a", "b")
    balancer = make(clock, source)
    balancer.get_host()
    for hosts in (["a"], ["a", "b"]):
        source.hosts = hosts
        look(balancer)
    assert nodes(balancer) == {"a": "ready", "b": "ready"}


@pytest.mark.parametrize("answer", ["cannot be resolved: NXDOMAIN", [], ["a"], ["x", "y", "z", "u", "v"]])
def test_a_source_that_fails_or_shrinks_by_more_than_half_changes_nothing_and_says_so(clock, answer, caplog):
    source = Source("a", "b", "c", "d")
    balancer = make(clock, source)
    balancer.get_host()
    source.hosts = answer
    look(balancer)
    look(balancer)
    assert set(nodes(balancer)) == set("abcd")
    if isinstance(answer, str):
        source.hosts = f"{answer}, in other words"
        look(balancer)
    assert caplog.text.count("the nodes stay as they are") == 1
    assert balancer.status()["source"]["problem"]
    source.hosts = ["a", "b"]  # half of them
    look(balancer)
    assert set(nodes(balancer)) == set("ab")
    assert balancer.status()["source"]["problem"] is None


def test_whose_missing_nodes_are_drained_is_believed(clock):
    source = Source("a", "b", "c", "d")
    balancer = make(clock, source)
    balancer.get_host()
    for node in "bcd":
        balancer.drain(node)
    source.hosts = ["a"]
    look(balancer)
    assert set(nodes(balancer)) == {"a"}


def test_one_process_asks_for_all_and_another_one_if_that_has_died(clock):
    source, store = Source("a"), MemoryStore(clock)
    balancers = [make(clock, source, store) for _ in range(3)]
    for balancer in balancers:
        balancer.get_host()
    assert source.asked == 1
    clock.now += 31
    for balancer in balancers:
        balancer.cluster.discovery.look_if_due()
    assert source.asked == 2
    clock.now += 31
    store.transact(lambda state, now: setattr(state.head.found, "due", now + 15))  # one that asks, and dies
    balancers[0].cluster.discovery.look_if_due()
    assert source.asked == 2
    clock.now += 16
    balancers[0].cluster.discovery.look_if_due()
    assert source.asked == 3


def test_nodes_that_come_and_go_do_not_make_the_state_grow(clock):
    source = Source("a", "b0")
    balancer = make(clock, source)
    balancer.get_host()
    for index in range(1, MOST_GONE + 100):
        source.hosts = ["a", f"b{index}"]
        clock.now += 31
        look(balancer)
        balancer.get_host()
    state = balancer.store.read()[0]
    assert len(state.head.found.nodes) <= MOST_GONE + 2 and len(state.nodes) <= MOST_GONE + 2


def test_while_the_state_is_away_a_new_process_looks_for_itself(clock, monkeypatch):
    from airflow_provider_impala_lb.errors import StateUnavailable

    balancer = make(clock, Source("a", "b"))

    def away(*_, **__):
        raise StateUnavailable("the NAS is away")

    monkeypatch.setattr(balancer.store, "read", away)
    monkeypatch.setattr(balancer.store, "transact", away)
    assert {balancer.get_host() for _ in range(20)} == {"a:21050", "b:21050"}


def test_a_state_that_was_lost_while_the_source_does_not_answer_takes_no_nodes_from_who_knew_them(clock):
    source, store = Source("a", "b"), MemoryStore(clock)
    asks, picks, waits = (make(clock, source, store, max_leases=1) for _ in range(3))
    held = [balancer.acquire("x", wait=0) for balancer in (asks,)]
    picks.get_host()
    assert acquire_now(waits, "w") is None
    clock.now += 1
    store._record = encode(State())
    source.hosts = "cannot be resolved"
    look(asks)
    assert picks.get_host() in ("a:21050", "b:21050")
    assert acquire_now(waits, "w") is None
    assert asks.status()["source"] == {"name": "DNS name c.example", "problem": "cannot be resolved", "age": None}
    held[0].release()
    source.hosts = ["a", "c"]
    look(asks)
    assert nodes(picks) == {"a": "ready", "c": "ready"}


def test_what_one_source_tells_does_not_become_the_nodes_of_another_one(clock):
    """Two hosts with other names in DNS, which ask at the same time."""
    store = MemoryStore(clock)
    other = make(clock, Source("c", "d"), store, nodes={"dns": "d.example"})

    class Overtaken(Source):
        def __call__(self, source):
            if not self.asked:
                other.get_host()
            return super().__call__(source)

    mine = make(clock, Overtaken("a", "b"), store)
    assert {mine.get_host() for _ in range(2)} == {"a:21050", "b:21050"}
    assert {other.get_host() for _ in range(2)} == {"c:21050", "d:21050"}
    look(other)
    look(mine)
    assert set(nodes(mine)) == set("ab") and set(nodes(other)) == set("cd")


def test_an_operator_s_word_on_a_node_that_is_gone_holds_when_it_comes_back_days_later(clock):
    source = Source("a", "b")
    balancer = make(clock, source)
    balancer.get_host()
    balancer.drain("b")
    for hosts in (["a"], ["a"], ["a"], ["a", "b"]):
        source.hosts = hosts
        look(balancer)
        clock.now += REMEMBERED_SECONDS
        balancer.get_host()
    assert nodes(balancer) == {"a": "ready", "b": "drain"}


def test_an_operator_s_word_comes_from_a_process_that_has_picked_nothing(clock):
    source, store = Source("a", "b"), MemoryStore(clock)
    make(clock, source, store).drain("a")  # nobody has
    long_ago = make(clock, source, store)
    long_ago.get_host()
    source.hosts.append("c")
    look(make(clock, source, store))
    long_ago.drain("c")
    make(clock, source, store).drain("b")
    assert nodes(long_ago) == dict.fromkeys("abc", "drain")
    make(clock, source, store).ready("b")
    assert nodes(long_ago)["b"] == "ready"
    with pytest.raises(ConfigError, match="'d' is not a node of t"):
        make(clock, source, store).drain("d")


def test_nodes_that_are_gone_are_not_among_the_half_that_may_be_out(clock):
    source, store = Source("a", "b", "c", "d"), MemoryStore(clock)
    hosts = [make(clock, source, store) for _ in range(2)]
    hosts[1].host = "other"

    def meet(node):
        for balancer in hosts:
            failure = Failure(balancer.host, "failure", "refused", "")
            store.transact(lambda state, now, failure=failure: note_failure(hosts[0].config, state, now, node, failure))
            balancer.get_host()
        clock.now += 61

    for balancer in hosts:
        balancer.get_host()
    meet("a:21050")
    meet("b:21050")
    source.hosts = ["c", "d"]
    look(hosts[0])
    meet("c:21050")
    assert nodes(hosts[0]) == {"c": "ejected", "d": "ready"}


def test_limits_hold_for_nodes_that_are_found(clock):
    balancer = make(clock, Source("a", "b"), max_leases_per_node=1)
    held = [balancer.acquire("x", wait=0) for _ in range(2)]
    assert len({pick.host for pick in held}) == 2
    with pytest.raises(NoNodeAvailable, match="2 full"):
        balancer.acquire("y", wait=0)


@pytest.mark.parametrize(
    ("nodes", "message"),
    [
        ({}, "must be a list, or have either dns"),
        ({"dns": "a.example", "backends": "http://a:25000"}, "must be a list, or have either dns"),
        ({"dns": "http://a.example"}, "is not a name in DNS"),
        ({"dns": "a.example", "nameserver": "ns.example"}, "is not an IP address"),
        ({"dns": "a.example", "refresh": 0}, "refresh"),
        ({"dns": "a.example", "port": 70000}, "port"),
        ({"backends": "impala-1"}, "backends"),
        ({"backends": "http://a:25000", "web_port": 25000}, "web_port: is for dns only"),
        ({"dns": "a.example", "weight": 2}, "weight: unknown key"),
    ],
)
def test_a_source_that_cannot_be_meant_is_refused(nodes, message):
    with pytest.raises(ConfigError, match=message):
        parse({"nodes": nodes, "lock_file": "/x"})


def test_found_nodes_need_a_shared_state():
    with pytest.raises(ConfigError, match="lock_file: is missing"):
        parse({"nodes": {"dns": "a.example"}})
