"""One run: events in simulated time around the real decisions.

Every decision is made by ``airflow_provider_impala_lb.core``, in the order of the balancer's transaction:
``end_expired``, then ``place`` (which keeps session keys, admits, chooses and notes the lease); at a script's end
``State.end_lease``; for reports ``ProbeBaseline``, ``note_reports`` and ``shed_load``. What is left out is around
them: the state stays decoded in memory between two rounds of reports instead of going through a store at each step,
and the clock is this simulation's. Renewals are implied by leases that do not expire.
"""

from __future__ import annotations

import heapq
import random
from typing import Any, NamedTuple

from airflow_provider_impala_lb.core.rules.expiry import end_expired
from airflow_provider_impala_lb.core.rules.headroom import ProbeBaseline, note_reports, shed_load
from airflow_provider_impala_lb.core.rules.placement import Placed, Request, Wait, place
from airflow_provider_impala_lb.core.rules.queue import pause as queue_pause
from airflow_provider_impala_lb.core.state.load_report import LoadSample, ProbeResult
from airflow_provider_impala_lb.core.state.model import Lease, Ticket
from airflow_provider_impala_lb.core.state.state import State, decode, encode

from .baselines import BASELINES, baseline
from .scenario import GAP_SECONDS, LEAKED_SECONDS, SLOTS, Scenario
from .server import Script, Server
from .workload import make_work

ROUND_SECONDS = 1.0
"""A round of reports: leases are counted at its start, the nodes count in its middle, and it is noted at its end."""
MOVE_SECONDS = 10.0
"""A script that is moved waits for the metadata to arrive, as ``impala/script/run.py`` does."""
_RENEWED = 1e9
_DROPPED = 0.2


class Outcome(NamedTuple):
    """Of the scripts after the first fifth. A slowdown is the time from ready to end, over the time it takes alone.

    :ivar mean: of the slowdowns
    :ivar p99: 99 % of the slowdowns are below it
    :ivar moved: how many scripts were interrupted
    :ivar waited: how often one had to wait in the queue
    """

    mean: float
    p99: float
    moved: int
    waited: int


class Run:
    """A scenario under a policy.

    :param scenario: what is simulated
    :param policy: one of the balancer's, or of the baselines
    :param utilisation: the work that comes, as a share of what all slots can do
    :param sessions: how many scripts, or chains of them
    :param seed: of everything that is random
    """

    def __init__(self, scenario: Scenario, policy: str, utilisation: float, sessions: int, seed: int) -> None:
        self._scenario, self._policy = scenario, policy
        self._config = scenario.config("least_loaded" if policy in BASELINES else policy)
        self._state = State()
        self._rng = random.Random(f"{policy} {seed}")
        addresses = self._config.addresses
        self._servers = {address: Server(slots) for address, slots in zip(addresses, scenario.slots, strict=True)}
        self._now = 0.0
        self._events: list[tuple[float, int, str, Any]] = []
        self._planned = 0
        self._running: dict[str, Script] = {}
        self._slowdowns: list[tuple[float, float]] = []
        self._reported: dict[str, int] = {}
        self._moved = self._waited = 0
        self._work = make_work(scenario, utilisation, sessions, seed)
        self._remaining = sum(1 + len(script.then) for script in self._work if script.foreign is None)
        self._named = len(self._work)

    def outcome(self) -> Outcome:
        """Run until all of our scripts have ended."""
        for script in self._work:
            self._plan(script.ready, "start", script)
        if self._scenario.period:
            self._plan(0.0, "ask", None)
        with baseline(self._policy, self._servers, SLOTS):
            while self._remaining:
                self._now, _, what, about = heapq.heappop(self._events)
                getattr(self, f"_{what}")(about)
        done = sorted(self._slowdowns)
        kept = sorted(slowdown for _, slowdown in done[int(len(done) * _DROPPED) :])
        return Outcome(sum(kept) / len(kept), kept[int(len(kept) * 0.99)], self._moved, self._waited)

    def _plan(self, when: float, what: str, about: Any) -> None:
        self._planned += 1
        heapq.heappush(self._events, (when, self._planned, what, about))

    def _start(self, script: Script) -> None:
        if script.foreign is not None:
            self._begin(script, self._config.addresses[script.foreign])
            return
        if not self._scenario.period:
            self._note((ProbeBaseline(self._state, self._now), self._readings()))
        script.since = self._now
        self._place(script)

    def _place(self, script: Script) -> None:
        """A transaction of a pick; and, as the picker does, again after the pause while the answer is to wait."""
        state, now = self._state, self._now
        lease = Lease(
            id=script.name, node="", owner="", expires=0.0, taken=0.0, host="", movable=self._scenario.movable
        )
        request = Request(
            token=lease.id,
            lease=lease,
            session_key=script.chain,
            excluded=script.avoid,
            may_wait=now - script.since < self._config.max_wait,
            ticket=Ticket(id=lease.id, owner="", host="", since=0.0, until=0.0),
            lease_seconds=_RENEWED,
        )
        end_expired(state, now)
        placed = place(self._config, state, now, request, self._rng)
        if isinstance(placed, Wait):
            self._waited += 1
            pause = queue_pause(placed.position, self._config.slots)
            self._plan(now + pause * self._rng.uniform(0.7, 1.0), "place", script)
            return
        assert isinstance(placed, Placed)
        self._running[script.name] = script
        self._begin(script, placed.node)

    def _begin(self, script: Script, address: str) -> None:
        script.node = address
        self._servers[address].begin(self._now, script)
        self._plan_end(address)

    def _plan_end(self, address: str) -> None:
        server = self._servers[address]
        end = server.next_end()
        if end < float("inf"):
            self._plan(end, "end", (address, server.version))

    def _end(self, about: tuple[str, int]) -> None:
        address, version = about
        server = self._servers[address]
        if server.version != version:
            return
        script = server.end(self._now)
        self._plan_end(address)
        if script.foreign is not None:
            return
        self._remaining -= 1
        self._slowdowns.append((script.ready, (self._now - script.ready) / script.size))
        del self._running[script.name]
        lease = self._state.end_lease(script.name)
        if script.leaks:
            assert lease is not None
            lease.expires = self._now + LEAKED_SECONDS
            self._state.lease(lease)
        if script.then:
            self._named += 1
            ready = self._now + GAP_SECONDS
            after = Script(self._named, ready, script.then[0], chain=script.chain, then=script.then[1:])
            self._plan(ready, "start", after)
        elif script.chain:
            # Nobody asks for it again. In a real state it stays for a day, which would only slow the simulation down.
            self._state.sessions.drop(script.chain)

    def _ask(self, _: None) -> None:
        self._plan(self._now + ROUND_SECONDS / 2, "count", ProbeBaseline(self._state, self._now))
        self._plan(self._now + self._scenario.period, "ask", None)

    def _count(self, asked: ProbeBaseline) -> None:
        self._plan(self._now + ROUND_SECONDS / 2, "note", (asked, self._readings()))

    def _readings(self) -> dict[str, ProbeResult]:
        readings = {}
        for address, server in self._servers.items():
            if not self._scenario.period and self._reported.get(address) == server.version:
                continue  # it would report what it reported last; to ask all before each pick takes very long
            self._reported[address] = server.version
            seen = server.count
            if self._scenario.missed:
                seen -= sum(self._rng.random() < self._scenario.missed for _ in range(seen))
            shares = self._scenario.shares(server.count, server.slots)
            readings[address] = ProbeResult(LoadSample(float(seen), shares=shares))
        return readings

    def _note(self, about: tuple[ProbeBaseline, dict[str, ProbeResult]]) -> None:
        asked, readings = about
        note_reports(self._config, self._state, self._now, asked, readings)
        # What a store does at each transaction, and here now and then: else the lines that were added grow for ever.
        self._state = decode(encode(self._state))
        if not self._scenario.thresholds:
            return  # no node is ever at H, and `shed_load` would find none
        shed_load(self._config, self._state, self._now, readings)
        leaving = [lease for lease in self._state.leases.values() if lease.move] if self._any_overloaded() else []
        for lease in leaving:
            # Its worker hears of it when it next looks, within `load.refresh` seconds.
            self._plan(self._now + self._rng.uniform(0.0, self._config.load.refresh), "move", lease)

    def _any_overloaded(self) -> bool:
        return any(node.summary and node.summary.level == "overloaded" for node in self._state.nodes.values())

    def _move(self, lease: Lease) -> None:
        script = self._running.get(lease.id)
        if script is None or script.node != lease.node:
            return
        self._moved += 1
        self._servers[script.node].interrupt(self._now, script)
        self._plan_end(script.node)
        del self._running[script.name]
        self._state.end_lease(script.name)
        script.avoid[script.node] = lease.move
        self._plan(self._now + MOVE_SECONDS, "start", script)
