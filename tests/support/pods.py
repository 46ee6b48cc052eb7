"""Months of short-lived hosts in minutes: pods on a real store, on a clock that the test moves."""

import heapq
import itertools
import os
import random
import statistics
import time
from typing import NamedTuple

from airflow_provider_impala_lb.core.state.state import KINDS, encode_head
from airflow_provider_impala_lb.stores.file.clock import HostTime
from airflow_provider_impala_lb.stores.file.store import FileStore
from airflow_provider_impala_lb.stores.redis.store import RedisStore
from tests.support.balancers import BareBalancer, make
from tests.support.shelved_store import ShelvedStore

MINUTE, DAY = 60.0, 86400.0
BEGIN = 1_800_000_000.0
RENEWED_EVERY = 30.0


class SetClock:
    """The hosts' and the servers' clock, as the test moves it.

    :param begin: seconds since the epoch
    :ivar time: the same, now
    """

    def __init__(self, begin=BEGIN):
        self.begin = self.time = begin

    def now(self):
        return self.time

    def __call__(self):
        return HostTime(self.time, self.time - self.begin, "")  # of no known boot: pods are on many machines


def file_store(path, clock):
    """A real lock file, in whatever mode its file system wants, by this clock."""
    store = FileStore(str(path))
    store._file.now()
    store._file.host_clock = clock
    return store


class SetRedisStore(RedisStore):
    """A real Redis, but for its clock."""

    def __init__(self, url, name, clock):
        super().__init__(url, name)
        self._set = clock

    def _read(self, start, me, most):
        found = super()._read(start, me, most)
        return found and found._replace(now=self._set.now())


class Sample(NamedTuple):
    """:ivar day: simulated
    :ivar state: bytes, head and records
    :ivar head: bytes of it
    :ivar pick: milliseconds, the median of some picks
    :ivar leases: in the state
    :ivar hosts: noted in the state
    :ivar nodes: with a record
    :ivar files: in the lock file's directory; 0: no file store
    """

    day: float
    state: int
    head: int
    pick: float
    leases: int
    hosts: int
    nodes: int
    files: int


class Pods:
    """One pod a minute, each a host with a new name: a script of 10 to 100 s. One of 50 is killed at work.

    :param store: where the state is
    :param clock: that store's
    :param keys: session keys of a day, for :meth:`run_keys`; default 0
    :param node_days: nodes are replaced, one by one, each after so many days; default never
    """

    def __init__(self, store, clock, seed=1, keys=0, node_days=0.0, nodes=5):
        self.store, self.clock = store, clock
        self.rng = random.Random(seed)
        self.keys, self.nodes, self.node_days = keys, nodes, node_days
        self.names = itertools.count()
        self.events = []
        self.samples = []
        self.killed = 0
        self._order = itertools.count()
        self._configs = {}

    def run(self, days, samples, each=MINUTE):
        """So many days of one pod after another; returns the samples taken meanwhile.

        :param each: seconds from one pod to the next
        """
        end = self.clock.time + days * DAY
        self._at(self.clock.time + each, self._begin, each)
        gap = days * DAY / samples
        for index in range(1, samples + 1):
            self._at(self.clock.begin + gap * index - 1e-3, self._sample)
        while self.events and self.events[0][0] <= end:
            moment, _, action, arguments = heapq.heappop(self.events)
            self.clock.time = max(self.clock.time, moment)
            action(*arguments)
        return self.samples

    def run_keys(self, days):
        """So many days of picks with new session keys, from one host; returns a sample of every sixth of a day."""
        balancer = self.balancer("a long-lived host")
        for index in range(int(days * self.keys)):
            self.clock.time = self.clock.begin + index * DAY / self.keys
            key = f"user-{self.rng.getrandbits(48):012x}"
            pick = balancer.pick(session_key=key)
            if index % 10 == 0:
                balancer.session_keys.remember(key, pick.node, "dwh", {"MEM_LIMIT": "4g"})
            if index % (self.keys // 6) == self.keys // 6 - 1:
                self._sample()
        return self.samples

    def balancer(self, host, store=None):
        first = int((self.clock.time - self.clock.begin) / DAY / self.node_days) if self.node_days else 0
        if first not in self._configs:
            names = [f"node-{first + index}" for index in range(self.nodes)]
            self._configs = {first: make(None, nodes=names, max_leases=500).config}
        balancer = BareBalancer(self._configs[first], store or self.store)
        balancer.host = host
        return balancer

    def _at(self, moment, action, *arguments):
        heapq.heappush(self.events, (moment, next(self._order), action, arguments))

    def _begin(self, each):
        number = next(self.names)
        self._at(self.clock.time + each, self._begin, each)
        balancer = self.balancer(f"pod-{number:07}-{self.rng.getrandbits(32):08x}")
        owner = f"dag_{number % 200}/scheduled__{number}/task"
        pick = balancer.acquire(owner, wait=0)
        balancer.leases.note(next(iter(balancer.leases._held)), session=f"{self.rng.getrandbits(128):032x}")
        ends = self.clock.time + self.rng.uniform(10, 100)
        if number % 50 == 49:  # killed
            self.killed += 1
            self._at((self.clock.time + ends) / 2, self._kill, balancer)
        else:
            self._at(ends, self._end, balancer, pick)
            self._at(self.clock.time + RENEWED_EVERY, self._renew, balancer)

    def _renew(self, balancer):
        if balancer.leases._held:
            balancer.leases.renew()
            self._at(self.clock.time + RENEWED_EVERY, self._renew, balancer)

    @staticmethod
    def _end(balancer, pick):
        pick.release()

    @staticmethod
    def _kill(balancer):
        balancer.leases._held.clear()
        balancer.leases._wake.set()

    def _sample(self):
        store = self.store.settled() if isinstance(self.store, ShelvedStore) else self.store
        self.samples.append(sample(store, self.balancer("a long-lived host", store), self.clock))


def sample(store, balancer, clock, picks=25):
    times = []
    for _ in range(picks):
        start = time.perf_counter()
        balancer.get_host()
        times.append(time.perf_counter() - start)
    state, _ = store.read()
    texts = [records.text for records in state.records]
    head = len(encode_head(state))
    assert len(texts) == KINDS
    path = getattr(store, "where", "")
    directory = os.path.dirname(path) if os.path.exists(path) else ""
    return Sample(
        day=(clock.time - clock.begin) / DAY,
        state=head + sum(map(len, texts)),
        head=head,
        pick=statistics.median(times) * 1000,
        leases=len(list(state.leases.values())),
        hosts=len(state.hosts),
        nodes=len(state.nodes),
        files=len(os.listdir(directory)) if directory else 0,
    )
