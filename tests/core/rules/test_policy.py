"""How one of the candidates is chosen."""

from collections import Counter
from typing import get_args

import pytest

from airflow_provider_impala_lb.core.config.model import PolicyName
from airflow_provider_impala_lb.core.rules.policy import POLICIES
from airflow_provider_impala_lb.core.state.load_report import LoadSample
from tests.support.balancers import Clock, make


def counts(picker, picks):
    return Counter(picker.get_host().split(":")[0] for _ in range(picks))


def with_headroom(shares, **keys):
    picker = make(Clock(), list(shares), load={"busy": 0.05, "overloaded": 0.01, "floor": 0}, **keys)
    for node, share in shares.items():
        if share is not None:
            picker.reports.note(f"{node}:21050", LoadSample(shares={"cpu": share}))
    return picker


def test_every_policy_that_the_configuration_allows_is_there_and_no_other():
    assert set(POLICIES) == set(get_args(PolicyName))


def test_weighted_random_goes_by_headroom():
    picker = with_headroom({"a": 0.6, "b": 0.3, "c": 0.1}, policy="weighted_random")
    found = counts(picker, 6000)
    for node, share in (("a", 0.6), ("b", 0.3), ("c", 0.1)):
        assert found[node] / 6000 == pytest.approx(share, abs=0.025)
    assert "chance 0." in picker.pick().why


def test_weighted_random_gives_nothing_to_nodes_at_t():
    picker = with_headroom({"a": 0.6, "b": 0.3, "c": 0.05}, policy="weighted_random")
    picker.reports.note("c:21050", LoadSample(shares={"cpu": 0.05}))
    assert counts(picker, 300)["c"] == 0


def test_weighted_random_takes_a_node_without_a_report_for_the_mean_and_weights_into_account():
    picker = with_headroom({"a": 0.6, "b": 0.2, "c": None}, policy="weighted_random")
    found = counts(picker, 6000)
    assert found["c"] / 6000 == pytest.approx(0.4 / 1.2, abs=0.025)
    unequal = make(Clock(), ["a", {"host": "b", "weight": 3}], policy="weighted_random")
    assert counts(unequal, 4000)["b"] / 4000 == pytest.approx(0.75, abs=0.03)


def test_power_of_two_takes_the_better_of_two():
    picker = make(Clock(), 4, policy="power_of_two")
    for _ in range(20):
        picker.acquire("x", prefer="n0")
    found = Counter(picker.acquire("y").host for _ in range(300))
    assert found["n0:21050"] < 75 * 0.9  # it is drawn, and is the lesser one until the others have caught up
    loads = [node["load"] for node in picker.status()["nodes"]]
    assert max(loads) - min(loads) <= 4
    assert picker.pick().scores.keys() <= {f"n{i}:21050" for i in range(4)}
    assert len(picker.pick().scores) == 2


def test_least_loaded_divides_by_weight():
    picker = make(Clock(), ["a", {"host": "b", "weight": 2}])
    assert Counter(picker.acquire("x").host for _ in range(30)) == {"a:21050": 10, "b:21050": 20}


def test_each_pick_explains_itself():
    picker = make(Clock(), 8)
    picker.drain("n3")
    picker.acquire("x", prefer="n0")
    pick = picker.acquire("y", exclude={"n7:21050": "it refused a session"})
    assert pick.scores == {"n0:21050": "score 2", **{f"n{i}:21050": "score 1" for i in (1, 2, 4, 5, 6)}}
    assert pick.left_out == {"n3:21050": "drained by an operator", "n7:21050": "it refused a session"}
    assert pick.why == (
        "least_loaded: score 1, best of 6 (n0:21050 score 2, n2:21050 score 1, n4:21050 score 1, n5:21050 score 1, "
        "1 more); left out: n7:21050 (it refused a session), n3:21050 (drained by an operator)"
    )
    assert picker.acquire("z", prefer="n1").scores == {}


def test_policies_draw_by_the_given_random_numbers():
    def hosts():
        return [make(Clock(), 5, policy="weighted_random").get_host() for _ in range(3)]

    assert hosts() == hosts()
