"""Nodes and networks that fail, in simulated time: who is left out, for how long, and what that costs.

As in `run`, every decision is the package's own: ``end_expired`` and ``place`` for a pick, ``note_failure`` and
``note_success`` for what became of it, by one of several hosts. A task that a node refuses tries the next one, without
those it has tried, as ``impala/script/run.py`` does; where all have refused it is retried after a minute.
"""

from __future__ import annotations

import heapq
import random
from collections.abc import Callable, Sequence
from statistics import fmean
from typing import Any, NamedTuple

from airflow_provider_impala_lb.core.config.parse import parse
from airflow_provider_impala_lb.core.rules.admission import Caller
from airflow_provider_impala_lb.core.rules.clock_agreement import note_host
from airflow_provider_impala_lb.core.rules.ejection import Failure, left_out, note_failure, note_success
from airflow_provider_impala_lb.core.rules.expiry import end_expired
from airflow_provider_impala_lb.core.rules.placement import Placed, Request, place
from airflow_provider_impala_lb.core.state.model import Cause, Lease
from airflow_provider_impala_lb.core.state.state import State, decode, encode
from airflow_provider_impala_lb.errors import NoNodeAvailable

from .scenario import SLOTS, Scenario
from .server import Script, Server
from .workload import make_work

NODES, HOSTS = 20, 20
START, LENGTH = 600.0, 900.0
"""When it begins to fail, and for how long scripts are looked at from then on."""
OPENS, SILENCE = 0.1, 10.0
"""Seconds until a session is open, and until one is given up (``open_timeout``)."""
RETRY = 60.0
SAMPLE = 5.0
BEFORE = 60.0
"""Seconds for which nodes out are counted before it begins."""

Refusal = tuple[Cause, float] | None
"""What a host meets at a node, and after how many seconds; None: the node takes the work."""
REFUSED: Refusal = ("failure", 0.05)
SILENT: Refusal = ("failure", SILENCE)
GOING: Refusal = ("shutdown", OPENS)


class Fault(NamedTuple):
    """Something that fails.

    :ivar name: short, for the code
    :ivar title: for the table
    :ivar meets: what a host meets at a node, by their numbers, so many seconds after it began
    :ivar hosts: how many submit
    :ivar dies: when a node's process dies, and with it what runs there; None: never
    :ivar bad: the host whose scripts are not counted, since none can run
    """

    name: str
    title: str
    meets: Callable[[int, int, float], Refusal]
    hosts: int = HOSTS
    dies: Callable[[int], float | None] = lambda node: None
    bad: int | None = None


def _restart(host: int, node: int, t: float) -> Refusal:
    """One after the other, each 60 s after the one before: 30 s in which it shuts down, then 30 s until it is back."""
    since = t - 60.0 * node
    return None if not 0 <= since < 60 else GOING if since < 30 else REFUSED


def _split(host: int, node: int, t: float) -> Refusal:
    return None if host % 2 == node % 2 else SILENT


def _first(host: int, node: int, t: float) -> Refusal:
    return SILENT if node == 0 else None


FAULTS = (
    Fault("bad host", "one host of 20 is refused everywhere", lambda h, n, t: REFUSED if h == 0 else None, bad=0),
    Fault("bad silent", "one host of 20 meets silence", lambda h, n, t: SILENT if h == 0 else None, bad=0),
    Fault("bad of two", "one host of 2 is refused", lambda h, n, t: REFUSED if h == 0 else None, hosts=2, bad=0),
    Fault("blip", "all is refused for 30 s", lambda h, n, t: REFUSED if t < 30 else None),
    Fault("silent blip", "all is silent for 30 s", lambda h, n, t: SILENT if t < 30 else None),
    Fault("restart", "a rolling restart", _restart, dies=lambda node: 60.0 * node + 30),
    Fault("split", "20 hosts, each reaches half of the nodes", _split),
    Fault("split of two", "2 hosts, each reaches half of the nodes", _split, hosts=2),
    Fault("dead", "one node is silent", _first),
    Fault("dead, alone", "the same, one host", _first, hosts=1),
    Fault("flapping", "a node is refused for 20 s in 40", lambda h, n, t: REFUSED if n == 0 and t % 40 < 20 else None),
    Fault("most refused", "12 nodes are refused for 300 s", lambda h, n, t: REFUSED if n < 12 and t < 300 else None),
    Fault("most silent", "12 nodes are silent for 300 s", lambda h, n, t: SILENT if n < 12 and t < 300 else None),
)


class FaultOutcome(NamedTuple):
    """Of the scripts that became ready while it failed and after.

    :ivar mean: of the slowdowns
    :ivar p99: 99 % of the slowdowns are below it
    :ivar refusals: how many tries failed
    :ivar largest: scripts on one node at most
    :ivar out: the mean number of nodes that are left out, over the hosts that are counted; one for each 5 s
    """

    mean: float
    p99: float
    refusals: float
    largest: float
    out: tuple[float, ...]

    @classmethod
    def mean_of(cls, runs: Sequence[FaultOutcome]) -> FaultOutcome:
        """Of several seeds, with the series to one decimal place."""
        numbers = [fmean(column) for column in zip(*(run[:4] for run in runs), strict=True)]
        return cls(*numbers, tuple(round(fmean(column), 1) for column in zip(*(run.out for run in runs), strict=True)))


class FaultRun:
    """A fault under ``least_loaded``, or under an oracle, who knows what would be refused.

    :param fault: what fails
    :param oracle: it is the oracle's
    :param utilisation: the work that comes, as a share of what all slots can do
    :param seed: of everything that is random
    """

    def __init__(self, fault: Fault, utilisation: float, seed: int, *, oracle: bool = False) -> None:
        self._fault, self._oracle = fault, oracle
        nodes = [f"n{place}" for place in range(NODES)]
        self._config = parse({"nodes": nodes, "load": "off", "lock_file": "/not/used"})
        self._numbers = {address: number for number, address in enumerate(self._config.addresses)}
        self._state = State()
        self._rng, self._hosts = random.Random(f"fault {seed}"), random.Random(f"hosts {seed}")
        self._servers = {address: Server(SLOTS) for address in self._config.addresses}
        self._now = 0.0
        self._events: list[tuple[float, int, str, Any]] = []
        self._planned = self._named = 0
        self._running: dict[str, tuple[int, str]] = {}
        self._slowdowns: list[float] = []
        self._out: list[float] = []
        self._refusals = self._largest = 0
        sessions = int((START + LENGTH + 300) * utilisation * NODES * SLOTS / 60)
        self._work = make_work(_Twenty("", ""), utilisation, sessions, seed)

    def outcome(self) -> FaultOutcome:
        """Run until all scripts that are looked at have ended."""
        for script in self._work:
            self._plan(script.ready, "start", (script, self._hosts.randrange(self._fault.hosts)))
        for address, number in self._numbers.items():
            if (dies := self._fault.dies(number)) is not None:
                self._plan(START + dies, "die", address)
        self._plan(START - BEFORE, "sample", None)
        self._remaining = sum(START <= script.ready < START + LENGTH for script in self._work)
        while self._remaining:
            self._now, _, what, about = heapq.heappop(self._events)
            getattr(self, f"_{what}")(about)
        kept = sorted(self._slowdowns)
        p99 = kept[int(len(kept) * 0.99)]
        return FaultOutcome(fmean(kept), p99, self._refusals, self._largest, tuple(self._out))

    def _plan(self, when: float, what: str, about: Any) -> None:
        self._planned += 1
        heapq.heappush(self._events, (when, self._planned, what, about))

    def _meets(self, host: int, address: str) -> Refusal:
        if self._now < START or self._now >= START + LENGTH:
            return None
        return self._fault.meets(host, self._numbers[address], self._now - START)

    def _start(self, about: tuple[Script, int]) -> None:
        """A task, or its retry: it has tried no node yet."""
        about[0].avoid = {}
        self._try(about)

    def _try(self, about: tuple[Script, int]) -> None:
        script, host = about
        self._named += 1
        lease = Lease(id=f"{self._named:08x}", node="", owner="", expires=0.0, taken=self._now, host=f"h{host}")
        placed = self._pick(lease, host, script)
        if placed is None:
            if host == self._fault.bad:
                self._drop(script)
                return
            self._plan(self._now + (1.0 if self._oracle else RETRY), "start", about)
            return
        met = self._meets(host, placed.node)
        if met is None:
            self._plan(self._now + OPENS, "open", (script, host, lease, placed))
            return
        cause, seconds = met
        self._plan(self._now + seconds, "refuse", (script, host, lease, placed, cause))

    def _pick(self, lease: Lease, host: int, script: Script) -> Placed | None:
        if self._oracle:
            free = [address for address in self._config.addresses if self._meets(host, address) is None]
            best = min(free, key=lambda address: (self._servers[address].count, self._rng.random()), default=None)
            return Placed(best, "", {}) if best is not None else None
        request = self.request(lease, script)
        note_host(self._state, self._now, lease.host, None, one_clock=True)
        end_expired(self._state, self._now)
        try:
            placed = place(self._config, self._state, self._now, request, self._rng)
        except NoNodeAvailable:
            return None
        assert isinstance(placed, Placed)
        return placed

    def request(self, lease: Lease, script: Script) -> Request:
        """What the picker asks for."""
        return Request(lease.id, lease, excluded=script.avoid, lease_seconds=1e9, caller=Caller(lease.host))

    def refused(self, lease: Lease, cause: Cause) -> None:
        """As `NodeFeedback.refused`."""
        note_failure(self._config, self._state, self._now, lease.node, Failure(lease.host, cause, "", lease.id))

    def accepted(self, lease: Lease, placed: Placed) -> None:
        """As `NodeFeedback.accepted`."""
        if placed.doubted:
            note_success(self._state, self._now, lease.node, lease.host, lease.taken)

    def out(self, host: int) -> int:
        """How many nodes a host leaves out."""
        nodes = self._state.nodes.values()
        return sum(left_out(node, self._now, f"h{host}") is not None for node in nodes)

    def _refuse(self, about: tuple[Script, int, Lease, Placed, Cause]) -> None:
        script, host, lease, placed, cause = about
        if not self._oracle:
            self.refused(lease, cause)
            self._state.end_lease(lease.id)
        if host != self._fault.bad:
            self._refusals += 1
        script.avoid[placed.node] = "refused"
        self._try((script, host))

    def _open(self, about: tuple[Script, int, Lease, Placed]) -> None:
        script, host, lease, placed = about
        if not self._oracle:
            self.accepted(lease, placed)
        script.node = placed.node
        self._running[script.name] = host, lease.id
        server = self._servers[placed.node]
        server.begin(self._now, script)
        if self._now >= START:
            self._largest = max(self._largest, server.count)
        self._plan_end(placed.node)

    def _plan_end(self, address: str) -> None:
        server = self._servers[address]
        if (end := server.next_end()) < float("inf"):
            self._plan(end, "end", (address, server.version))

    def _end(self, about: tuple[str, int]) -> None:
        address, version = about
        server = self._servers[address]
        if server.version != version:
            return
        script = server.end(self._now)
        self._plan_end(address)
        host = self._leave(script)
        if START <= script.ready < START + LENGTH:
            self._remaining -= 1
            if host == self._fault.bad:
                return
            self._slowdowns.append((self._now - script.ready) / script.size)

    def _leave(self, script: Script) -> int:
        host, lease = self._running.pop(script.name)
        if not self._oracle:
            self._state.end_lease(lease)
        return host

    def _drop(self, script: Script) -> None:
        if START <= script.ready < START + LENGTH:
            self._remaining -= 1

    def _die(self, address: str) -> None:
        """What runs there is lost, and its tasks are retried."""
        for script in self._servers[address].scripts():
            self._servers[address].interrupt(self._now, script)
            self._plan(self._now + RETRY, "start", (script, self._leave(script)))

    def _sample(self, _: None) -> None:
        hosts = [host for host in range(self._fault.hosts) if host != self._fault.bad]
        self._out.append(0.0 if self._oracle else fmean(map(self.out, hosts)))
        self._state = decode(encode(self._state))
        if self._now < START + LENGTH:
            self._plan(self._now + SAMPLE, "sample", None)


class _Twenty(Scenario):
    """The scripts of the other simulation, for 20 nodes."""

    @property
    def slots(self) -> list[int]:
        return [SLOTS] * NODES
