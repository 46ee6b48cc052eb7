"""What people see of a cluster, the same for the command line and for programs, and an operator's orders."""

from __future__ import annotations

from typing import Any

import msgspec

from airflow_provider_impala_lb.core.cluster.discovery import Discovery
from airflow_provider_impala_lb.core.cluster.load_reports import load_line
from airflow_provider_impala_lb.core.cluster.shared_state import SharedState
from airflow_provider_impala_lb.core.config.model import Config, Node
from airflow_provider_impala_lb.core.rules import queue, supersession
from airflow_provider_impala_lb.core.rules.clock_agreement import clocks_differ
from airflow_provider_impala_lb.core.rules.ejection import left_out
from airflow_provider_impala_lb.core.rules.expiry import end_expired
from airflow_provider_impala_lb.core.rules.headroom import fresh
from airflow_provider_impala_lb.core.rules.policy import load_of
from airflow_provider_impala_lb.core.state.load_report import LastReport
from airflow_provider_impala_lb.core.state.model import Lease, LeftoverSession, NodeState
from airflow_provider_impala_lb.core.state.state import State


class Admin:
    """Status of one cluster, and an operator's orders.

    :param shared: the cluster's state.
    :param discovery: knows the nodes, where they are found.
    """

    def __init__(self, shared: SharedState, discovery: Discovery) -> None:
        self._shared, self._discovery = shared, discovery

    def status(self) -> dict[str, Any]:
        """The cluster as JSON-ready values: ``cluster``, ``policy``, ``load``, ``nodes``, ``leases``, ``sessions``,
        ``waiting``.

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
        self._set_drained(node, True)

    def ready(self, node: str) -> None:
        """Put a node back, also one that is out for its failures.

        :param node: ``host:port``.
        :raises ConfigError: as :meth:`drain`.
        :raises StateUnavailable: as :meth:`drain`.
        """
        self._set_drained(node, False)

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

    def _set_drained(self, node: str, drained: bool) -> None:
        def change(state: State, now: float) -> None:
            state.head.cluster = self._shared.config.name
            record = state.node(self._shared.config.canonical(node))  # among those that this state knows
            record.drained, record.used = drained, int(now)
            if not drained:
                record.failures, record.ejection, record.suspicions = 0, None, {}

        self._discovery.try_to_know()
        self._shared.transact(change)


def describe(config: Config, state: State, now: float) -> dict[str, Any]:
    """``cluster``, ``policy``, ``load``, ``nodes``, ``source``, ``leases``, ``sessions``, ``waiting``: see README.

    :param config: the nodes.
    :param state: what is known of them.
    :param now: the store's clock, seconds since the epoch.
    """
    reports = dict(state.last_reports.items())
    found = state.head.found
    with_work = [node for node in config.gone if node.address in state.nodes and state.nodes[node.address].leases]
    return {
        "cluster": config.name,
        "policy": config.policy,
        "load": load_line(config, state, now),
        "nodes": [_node(config, node, state, reports.get(node.address), now) for node in (*config.nodes, *with_work)],
        "source": None
        if config.source is None or found is None
        else {
            "name": config.source.name,
            "problem": found.problem or None,
            "age": round(now - found.at, 1) if found.at else None,
        },
        "leases": [_lease(lease, now) for lease in sorted(state.leases.values(), key=lambda lease: lease.taken)],
        "sessions": [
            {"key": key, "node": record.node, "database": record.database, "options": record.options}
            for key, record in sorted(state.sessions.items())
        ],
        "waiting": [
            {"owner": ticket.owner, "host": ticket.host, "seconds": round(now - ticket.since, 1), "only": ticket.only}
            for ticket in queue.waiting(state)
        ],
    }


def _node(config: Config, node: Node, state: State, report: LastReport | None, now: float) -> dict[str, Any]:
    record = state.nodes.get(node.address, NodeState())
    ttl = config.report_seconds
    summary = fresh(record, now, ttl) if ttl else None
    word, reason = _condition(config, record, now)
    if node.address not in config.order:
        word, reason = "drain", "it is gone: where nodes are found it is not named any more"
    return {
        "node": node.address,
        "state": word,
        "why": reason,
        "leases": record.leases,
        "load": load_of(record, now, ttl),
        "headroom": summary.headroom if summary is not None and summary.headroom >= 0 else None,
        "picks": record.picks,
        "weight": node.weight,
        "max_leases": config.lease_limit(node),
        "web": node.web,
        "report": None if report is None else _report(report, now),
    }


def _condition(config: Config, record: NodeState, now: float) -> tuple[str, str | None]:
    """A word, and why it is not ``ready``."""
    if record.drained:
        return "drain", "by an operator"
    ejection = record.ejection
    if ejection is not None:
        word = "drain" if ejection.cause == "shutdown" else "busy" if ejection.cause == "overload" else "ejected"
        said = f", said by {', '.join(ejection.by)}" if ejection.by else ""
        return word, left_out(record, now, "") or f"{ejection.reason} ({ejection.cause}{said}; due for a trial)"
    ttl = config.report_seconds
    summary = fresh(record, now, ttl) if ttl else None
    if summary is not None and summary.quiescing:
        return "drain", "it is shutting down"
    if summary is not None and summary.level != "ready":
        short = summary.short_share
        return summary.level, f"{short} is under its floor" if short else f"headroom {summary.headroom:.2f}"
    met = [
        f"{host} alone ({each.reason}; for {each.until - now:.0f} s more)"
        for host, each in sorted(record.suspicions.items())
        if not each.ended and now < each.until
    ]
    return "ready", f"left out by {', by '.join(met)}" if met else None


def _report(report: LastReport, now: float) -> dict[str, Any]:
    shown = {key: value for key, value in msgspec.to_builtins(report).items() if key not in ("at", "counters")}
    return {**shown, "age": round(now - report.at, 1)}


def _lease(lease: Lease, now: float) -> dict[str, Any]:
    shown: dict[str, Any] = {
        key: value for key, value in msgspec.to_builtins(lease).items() if key not in ("holder", "attempt")
    }
    return {
        **shown,
        "age": round(now - lease.taken, 1),
        "expires_in": round(lease.expires - now, 1),
        "pid": lease.holder.pid if lease.holder else None,
    }
