"""What people and programs may ask and order of a cluster, apart from picking."""

from __future__ import annotations

from typing import Any

from airflow_provider_impala_lb.core.cluster.shared_state import SharedState
from airflow_provider_impala_lb.core.cluster.status import describe
from airflow_provider_impala_lb.core.rules import supersession
from airflow_provider_impala_lb.core.rules.clock_agreement import clocks_differ
from airflow_provider_impala_lb.core.rules.expiry import end_expired
from airflow_provider_impala_lb.core.state.model import LeftoverSession
from airflow_provider_impala_lb.core.state.state import State


class Admin:
    """Status of one cluster, and an operator's orders.

    :param shared: the cluster's state.
    """

    def __init__(self, shared: SharedState) -> None:
        self._shared = shared

    def status(self) -> dict[str, Any]:
        """The cluster as JSON-ready values: ``cluster``, ``policy``, ``nodes``, ``leases``, ``sessions``, ``waiting``.

        :raises StateUnavailable: the store cannot be read.
        """
        state, now = self._shared.read()
        end_expired(state, now, has_lapsed=self._shared.has_lapsed(state, now))
        return describe(self._shared.config, state, now)

    def clocks(self) -> dict[str, float]:
        """Hosts whose clock is ahead of this one's by more than 30 s: by how many, at least.

        Only where the store gives no common clock; else empty.

        :raises StateUnavailable: the store cannot be used.
        """
        if self._shared.store.one_clock:
            return {}

        def change(state: State, now: float) -> dict[str, float]:
            self._shared.note_host(state, now, nodes=True)
            return clocks_differ(state, self._shared.host, now)

        return self._shared.transact(change)

    def drain(self, node: str) -> None:
        """Take a node out: no new work; what runs there finishes. Until :meth:`ready`.

        :param node: ``host:port``.
        :raises ConfigError: not a node of this configuration.
        :raises StateUnavailable: it was not noted.
        """
        self._set_drained(self._shared.config.canonical(node), True)

    def ready(self, node: str) -> None:
        """Put a node back, also one that is out for its failures.

        :param node: ``host:port``.
        :raises ConfigError: as :meth:`drain`.
        :raises StateUnavailable: as :meth:`drain`.
        """
        self._set_drained(self._shared.config.canonical(node), False)

    def leftovers(self) -> dict[str, LeftoverSession]:
        """What earlier attempts may have left running, by the id to :meth:`release`.

        :raises StateUnavailable: the state cannot be read.
        """
        state, now = self._shared.store.read()
        return {
            lease_id: left
            for lease_id, left in state.leftovers.items()
            if left.node and left.session and not left.ended and left.expires > now
        }

    def sessions_in_use(self) -> set[str]:
        """Ids of the sessions of leases that live.

        :raises StateUnavailable: the state cannot be read.
        """
        state, now = self._shared.store.read()
        living = [lease for lease in state.leases.values() if lease.session and lease.expires > now]
        return {session for lease in living for session in (lease.session or "", *lease.other_sessions)}

    def release(self, lease_id: str) -> bool:
        """End a lease of `Picker.hold`, or note that what a lease has left running was seen ended. (One that a process
        renews would come back with its next renewal.)

        :param lease_id: the lease's id.
        :returns: False if there is none: it has expired, or ended before.
        :raises StateUnavailable: it could not be ended now; it ends by its expiry.
        """

        def change(state: State, now: float) -> bool:
            if state.end_lease(lease_id) is not None:
                return True
            leftover = state.leftovers.get(lease_id)
            if leftover is None or (leftover.ended if leftover.node else leftover.fenced):
                return False
            leftover.fenced = True  # also of an attempt that has no lease yet: it takes none any more
            state.leftovers.put(lease_id, leftover, leftover.expires)
            supersession.note_ended(state, [lease_id])
            return True

        return self._shared.transact(change)

    def _set_drained(self, address: str, drained: bool) -> None:
        def change(state: State, now: float) -> None:
            state.head.cluster = self._shared.config.name
            record = state.node(address)
            record.drained, record.used = drained, int(now)
            if not drained:
                record.failures, record.ejection, record.suspicions = 0, None, {}

        self._shared.transact(change)
