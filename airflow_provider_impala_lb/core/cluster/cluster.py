"""One cluster, as a process uses it: its picks, leases, load reports, session keys, fencing and administration."""

from __future__ import annotations

import random
from functools import cached_property
from typing import TYPE_CHECKING

from airflow_provider_impala_lb.core.cluster.discovery import Discovery
from airflow_provider_impala_lb.core.cluster.lease_keeper import LeaseKeeper
from airflow_provider_impala_lb.core.cluster.load_reports import LoadReports
from airflow_provider_impala_lb.core.cluster.picker import Picker
from airflow_provider_impala_lb.core.cluster.session_keys import SessionKeys
from airflow_provider_impala_lb.core.cluster.shared_state import SharedState
from airflow_provider_impala_lb.core.config.model import Config
from airflow_provider_impala_lb.core.ports import Mirror, NodeFinder, Prober, Store

if TYPE_CHECKING:
    from airflow_provider_impala_lb.core.cluster.admin import Admin
    from airflow_provider_impala_lb.core.cluster.fencing import Fencing


class Cluster:
    """Makes these objects, and is none of them.

    :param config: the cluster's.
    :param store: where the state lies.
    :param mirror: a second home of session records; None (default): there is none.
    :param prober: asks the nodes for their load; None (default): this process does not.
    :param finder: asks where nodes are found; None (default): this process does not.
    :param rng: for what is drawn by lot; default a new one.
    :ivar store: as given.
    :ivar discovery: finds the nodes, where they are not listed.
    :ivar reports: the nodes' load.
    :ivar session_keys: what session keys bring along.
    :ivar leases: those of this process.
    :ivar picker: picks nodes.
    """

    def __init__(
        self,
        config: Config,
        store: Store,
        *,
        mirror: Mirror | None = None,
        prober: Prober | None = None,
        finder: NodeFinder | None = None,
        rng: random.Random | None = None,
    ) -> None:
        self.store = store
        self._shared = shared = SharedState(config, store)
        self.discovery = Discovery(shared, finder)
        self.reports = LoadReports(shared, prober)
        self.session_keys = SessionKeys(shared, mirror)
        self.leases = LeaseKeeper(shared, self.reports, self.discovery)
        self.picker = Picker(shared, self.leases, self.reports, self.session_keys, self.discovery, rng)

    @property
    def config(self) -> Config:
        """The configuration; where nodes are found, with those that were last known. A process that knows of none yet
        looks for them now."""
        self.discovery.try_to_know()
        return self._shared.config

    # What no pick needs is imported where it is used: `impala-lb pick` is a process of its own each time.
    @cached_property
    def admin(self) -> Admin:
        """Status, and an operator's orders."""
        from airflow_provider_impala_lb.core.cluster.admin import Admin

        return Admin(self._shared, self.discovery)

    @cached_property
    def fencing(self) -> Fencing:
        """Of earlier attempts at the same work."""
        from airflow_provider_impala_lb.core.cluster.fencing import Fencing

        return Fencing(self._shared)
