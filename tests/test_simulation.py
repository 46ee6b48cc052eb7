"""The simulation in benchmarks/ decides by the package's own code, and tells good policies from bad ones."""

from __future__ import annotations

import math
import random

import pytest

from airflow_provider_impala_lb.core.rules import headroom as load
from airflow_provider_impala_lb.core.rules import placement, policy
from benchmarks.simulation import failures
from benchmarks.simulation import run as simulation
from benchmarks.simulation.failures import FAULTS, FaultRun
from benchmarks.simulation.run import Run
from benchmarks.simulation.scenario import SCENARIOS
from benchmarks.simulation.server import Script, Server

SCENARIO = {scenario.name: scenario for scenario in SCENARIOS}


def outcome(scenario="age 30", policy="least_loaded", seed=1, sessions=800):
    return Run(SCENARIO[scenario], policy, 0.95, sessions, seed).outcome()


def test_the_same_seed_gives_the_same_outcome_and_another_one_another():
    assert outcome() == outcome() != outcome(seed=2)


def test_picks_are_made_by_the_real_choose(monkeypatch):
    calls = []

    def always_the_first(name, config, candidates, state, now, rng):
        calls.append(name)
        return candidates[0], dict

    before = outcome()
    monkeypatch.setattr(placement, "choose", always_the_first)
    after = outcome()
    assert len(calls) >= 800
    assert set(calls) == {"least_loaded"}
    assert after.mean > 10 * before.mean


def test_the_load_it_chooses_by_is_the_real_estimate(monkeypatch):
    before = outcome("foreign")
    monkeypatch.setattr(policy, "load_of", lambda node, now, ttl: node.leases)
    assert outcome("foreign").p99 > 1.3 * before.p99  # it no longer hears of the others' work


def test_levels_come_from_the_real_reports(monkeypatch):
    scripts = outcome("T, H, foreign", "random")
    assert scripts.moved > 0
    monkeypatch.setattr(load, "level_of", lambda p, low, config: "ready")
    assert outcome("T, H, foreign", "random").moved == 0


def test_without_reports_noted_none_are_used(monkeypatch):
    before = outcome("foreign")
    monkeypatch.setattr(simulation, "note_reports", lambda *about: [])
    assert outcome("foreign") != before


def test_least_loaded_beats_round_robin_by_a_wide_margin():
    best, turns = outcome("unequal", sessions=3000), outcome("unequal", "round_robin", sessions=3000)
    assert turns.mean > 1.5 * best.mean
    assert turns.p99 > 3 * best.p99


def test_least_loaded_is_the_oracle_when_reports_are_exact_and_new():
    assert outcome("age 0") == outcome("age 0", "oracle")


@pytest.mark.parametrize(("scripts", "ends"), [(2, 10.0), (4, 20.0)])
def test_scripts_share_what_a_node_has(scripts, ends):
    server = Server(slots=2)
    for name in range(scripts):
        server.begin(0.0, Script(name, 0.0, 10.0))
    assert server.next_end() == pytest.approx(ends)
    server.end(ends)
    assert server.count == scripts - 1


def test_a_node_alone_is_as_slow_as_queueing_theory_says():
    # Processor sharing is insensitive to the distribution of sizes: the mean slowdown is that of M/M/c,
    # 1 + C / (c * (1 - rho)) with Erlang's C (Kelly, Reversibility and Stochastic Networks, 3.3).
    slots, rho, rng = 8, 0.8, random.Random(1)
    offered = slots * rho
    below = sum(offered**count / math.factorial(count) for count in range(slots))
    above = offered**slots / math.factorial(slots) / (1 - rho)
    expected = 1 + above / (below + above) / (slots * (1 - rho))
    server, slowdowns, now = Server(slots), [], 0.0
    for name in range(40_000):
        now += rng.expovariate(offered)
        while (end := server.next_end()) <= now:
            done = server.end(end)
            slowdowns.append((end - done.ready) / done.size)
        server.begin(now, Script(name, now, rng.uniform(0.5, 1.5)))
    assert sum(slowdowns) / len(slowdowns) == pytest.approx(expected, rel=0.03)


FAULT = {fault.name: fault for fault in FAULTS}


def test_a_node_that_fails_is_left_out_by_the_real_rules(monkeypatch):
    before = FaultRun(FAULT["dead, alone"], 0.3, 1).outcome()
    assert before.out[-1] == 1 and 0 < before.refusals < 20
    monkeypatch.setattr(failures, "note_failure", lambda *about: None)
    after = FaultRun(FAULT["dead, alone"], 0.3, 1).outcome()
    assert after.out[-1] == 0 and after.refusals > 10 * before.refusals


def test_a_bad_host_puts_nobody_out_and_an_oracle_meets_no_refusal():
    assert max(FaultRun(FAULT["bad host"], 0.3, 1).outcome().out) == 0
    assert FaultRun(FAULT["split"], 0.3, 1, oracle=True).outcome().refusals == 0
