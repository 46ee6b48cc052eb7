"""A balancer without Impala: the objects of core/cluster behind one name, on a clock that a test sets."""

import random

from airflow_provider_impala_lb.core.cluster.cluster import Cluster
from airflow_provider_impala_lb.core.cluster.lease_options import LeaseListener, LeaseOptions, QueueOptions
from airflow_provider_impala_lb.core.config.parse import parse
from airflow_provider_impala_lb.stores.memory import MemoryStore


class Clock:
    """Seconds since the epoch, as a test says."""

    def __init__(self):
        self.now = 1_000_000.0

    def __call__(self):
        return self.now


class ExchangedStore:
    """A store that a test may exchange while it is in use."""

    def __init__(self, store):
        self.current = store

    def __getattr__(self, name):
        return getattr(self.current, name)


def options_of(options):
    """`LeaseOptions` of the keys that their parts have."""
    queue = {key: options.pop(key) for key in ("wait", "ticket", "asks_again") if key in options}
    listener = {key: options.pop(key) for key in ("on_move", "on_overload", "on_fenced") if key in options}
    return LeaseOptions(QueueOptions(**queue), LeaseListener(**listener), **options)


class BareBalancer:
    """:param rng: always begins the same way."""

    def __init__(self, config, store, finder=None):
        self._exchanged = ExchangedStore(store)
        self.cluster = Cluster(config, self._exchanged, finder=finder, rng=random.Random(1))
        picker, admin = self.cluster.picker, self.cluster.admin
        self.reports, self.leases = self.cluster.reports, self.cluster.leases
        self.session_keys, self.fencing = self.cluster.session_keys, self.cluster.fencing
        self.pick, self.adopt, self.hold = picker.pick, picker.adopt, picker.hold
        self.waiter, self.ask, self.leave_queue = picker.waiter, picker.ask, picker.leave_queue
        self.status, self.clocks, self.release = admin.status, admin.clocks, admin.release
        self.drain, self.ready = admin.drain, admin.ready

    @property
    def config(self):
        return self.cluster.config

    def get_host(self):
        return self.pick().host

    def acquire(self, owner="", session_key=None, prefer=None, exclude=(), **options):
        """As `Picker.acquire`, with the keys of `QueueOptions`, `LeaseListener` and `LeaseOptions`."""
        return self.cluster.picker.acquire(owner, session_key, prefer, exclude, options_of(options))

    @property
    def store(self):
        return self._exchanged.current

    @store.setter
    def store(self, store):
        self._exchanged.current = store

    @property
    def host(self):
        return self.cluster.picker._shared.host

    @host.setter
    def host(self, name):
        self.cluster.picker._shared.host = name


def make(clock, nodes=3, store=None, **keys):
    """A balancer on this clock.

    :param nodes: how many, or the list; with ``load`` among the keys each has an address to be asked at
    :param keys: of the configuration
    """
    if isinstance(nodes, int):
        nodes = [{"host": f"n{i}", "web": f"http://n{i}:25000"} if "load" in keys else f"n{i}" for i in range(nodes)]
    raw = {
        "nodes": nodes,
        "lock_file": "/not/used",
        "name": "test",
        **keys,
    }
    return BareBalancer(parse(raw), store or MemoryStore(clock))
