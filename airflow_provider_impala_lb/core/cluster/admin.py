"""A cluster as its people and programs know it, apart from picking: its words, its status, what the nodes say."""

from __future__ import annotations

import hashlib
import os
from collections.abc import Callable, Iterable
from logging import getLogger
from typing import Any

from airflow_provider_impala_lb.core.cluster.load_reports import LoadReports
from airflow_provider_impala_lb.core.cluster.session_keys import SessionKeys
from airflow_provider_impala_lb.core.cluster.status import describe
from airflow_provider_impala_lb.core.config.address import parse_address
from airflow_provider_impala_lb.core.config.model import Config, Node
from airflow_provider_impala_lb.core.ports import Store
from airflow_provider_impala_lb.core.process_identity import this_process
from airflow_provider_impala_lb.core.rules.clock_agreement import clocks_differ, may_expire, note_host
from airflow_provider_impala_lb.core.rules.expiry import reap
from airflow_provider_impala_lb.core.rules.supersession import begin, claim, settled, take_over
from airflow_provider_impala_lb.core.state.attempt import Attempt
from airflow_provider_impala_lb.core.state.state import LeftoverSession, State
from airflow_provider_impala_lb.errors import ConfigError, StateUnavailable

log = getLogger(__name__)


class Cluster:
    """The nodes of ``config``, and what all workers know of them in ``store``.

    :ivar host: this host's name in the state.
    """

    def __init__(self, config: Config, store: Store) -> None:
        self.config = config
        self.store = store
        self.host = os.uname().nodename
        self.reports = LoadReports(config, store)
        self.sessions = SessionKeys(store)
        self._nodes_digest = hashlib.sha256(" ".join(config.addresses).encode()).hexdigest()[:16]
        self._copy: State | None = None

    @property
    def reports_due(self) -> bool:
        """Whether, by the state of the last pick, the nodes should be asked for their load by somebody."""
        return self._copy is not None and self.reports.due(self._copy, max(h.seen for h in self._copy.hosts.values()))

    def status(self) -> dict[str, Any]:
        """The cluster as JSON-ready values: ``cluster``, ``policy``, ``nodes``, ``leases``, ``sessions``, ``waiting``.

        :raises StateUnavailable: the store cannot be read.
        """
        state, now = self.store.read()
        self._check_cluster(state)
        reap(state, now, may_expire=self._may_expire(state, now))
        return describe(self.config, state, now)

    def clocks(self) -> dict[str, float]:
        """Hosts whose clock differs from this one's by more than 30 s, as last seen: seconds ahead. Only where the
        store gives no common clock; else empty. :raises StateUnavailable: the store cannot be used."""
        if self.store.one_clock:
            return {}

        def change(state: State, now: float) -> dict[str, float]:
            self._check_cluster(state)
            self._note_host(state, now, self._nodes_digest)
            return clocks_differ(state, now, self.host)

        return self.store.transact(change)

    def drain(self, node: str) -> None:
        """Take a node out: no new work; what runs there finishes. Until :meth:`ready`.

        :raises ConfigError: not a node of this configuration. :raises StateUnavailable: it was not noted.
        """
        self._set_drained(self.known(node), True)

    def ready(self, node: str) -> None:
        """Put a node back, also one that is out for its failures. Errors as :meth:`drain`."""
        self._set_drained(self.known(node), False)

    def _set_drained(self, address: str, drained: bool) -> None:
        def change(state: State, now: float) -> None:
            self._check_cluster(state)
            state.head.cluster = self.config.name
            record = state.node(address)
            record.drained = drained
            if not drained:
                record.failures, record.out = 0, None

        self.store.transact(change)

    def tell(self, node: str, change: Callable[[State, float], None]) -> None:
        """Note what became of a pick. Never raises: it is not worth the work it is about."""
        try:
            self.store.transact(change)
        except (StateUnavailable, ConfigError) as error:
            log.warning("What became of the work on %s could not be noted for the others: %s", node, error)

    def known(self, address: str) -> str:
        """``address`` in the form of the configuration. :raises ConfigError: it does not list this node."""
        try:
            host, port = parse_address(address)
        except ValueError as error:
            raise ConfigError(f"{error}; nodes of {self.config.name}: {', '.join(self.config.addresses)}") from None
        found = Node(host=host, port=port).address
        if found not in self.config.order:
            raise ConfigError(
                f"{address!r} is not a node of {self.config.name}, so nothing is sent to it; "
                f"its nodes: {', '.join(self.config.addresses)}"
            )
        return found

    def release(self, lease_id: str) -> bool:
        """End a lease of :meth:`hold` by its id. False if there is none: it has expired, or ended before. (One that a
        process renews would come back with its next renewal.)

        :raises StateUnavailable: it could not be ended now; it ends by its expiry.
        """

        def change(state: State, now: float) -> bool:
            self._check_cluster(state)
            return state.end_lease(lease_id) is not None

        return self.store.transact(change)

    def take_over(self, owner: str, lease_id: str = "", attempt: Attempt | None = None) -> dict[str, LeftoverSession]:
        """End the leases of earlier tries of this work, so that a process that still has one runs nothing more.

        :param lease_id: the one that will be taken for this try (`Picker.acquire`); until then it can be superseded by
            a try that begins meanwhile. "": it cannot.
        :param attempt: which try this is, if that is known.
        :raises Superseded: a later one has begun before, and this one was stopped meanwhile.

        Returns what they may have left running, by lease id, until :meth:`settled` says that it has ended. Leases of
        this very process stay. Never raises for a store out of reach: then nothing is known, and the log says so.
        """
        me = this_process()

        def change(state: State, now: float) -> dict[str, LeftoverSession]:
            self._check_cluster(state)
            if attempt is not None:
                begin(state, now, owner, attempt)
            found = take_over(state, now, owner, lambda lease: lease.holder is not None and lease.holder == me)
            if lease_id:
                claim(state, now, owner, lease_id)
            return found

        try:
            return self.store.transact(change)
        except StateUnavailable as error:
            log.warning("Whether an earlier try of %s has left something running cannot be known now: %s", owner, error)
            return {}

    def give_back(self, lease_id: str) -> None:
        """No lease of this id, given to :meth:`take_over`, will be taken. Never raises: it also lapses by itself."""

        def change(state: State, now: float) -> None:
            state.orphans.drop(lease_id)

        self.tell("a try", change)

    def settled(self, lease_ids: Iterable[str]) -> None:
        """Say that nothing of these runs any more. Never raises: then the next try looks again."""
        ids = list(lease_ids)
        if ids:
            self.tell("an earlier try", lambda state, now: settled(state, ids))

    def _check_cluster(self, state: State) -> None:
        cluster = state.head.cluster
        if cluster and cluster != self.config.name:
            raise ConfigError(
                f"{self.store.where}: belongs to cluster {cluster!r}, and this configuration's name "
                f"is {self.config.name!r}; each cluster needs a lock file of its own"
            )

    def _note_host(self, state: State, now: float, digest: str | None) -> bool:
        state.head.cluster = self.config.name
        return note_host(state, now, self.host, digest, one_clock=self.store.one_clock)

    def _may_expire(self, state: State, now: float) -> Callable[[str], bool] | None:
        return None if self.store.one_clock else lambda other: may_expire(state, now, self.host, other)
