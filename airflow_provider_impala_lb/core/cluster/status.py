"""The cluster as its users ask for it: JSON-ready, the same for the command line and for programs."""

from __future__ import annotations

from typing import Any

import msgspec

from airflow_provider_impala_lb.core.config.model import Config, Node
from airflow_provider_impala_lb.core.rules import queue
from airflow_provider_impala_lb.core.rules.ejection import left_out
from airflow_provider_impala_lb.core.rules.headroom import fresh
from airflow_provider_impala_lb.core.rules.policy import load_of
from airflow_provider_impala_lb.core.state.model import LastReport, Lease, NodeState
from airflow_provider_impala_lb.core.state.state import State


def describe(config: Config, state: State, now: float) -> dict[str, Any]:
    """``cluster``, ``policy``, ``nodes``, ``source``, ``leases``, ``sessions``, ``waiting``: see README.

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
        "nodes": [_node(config, node, state, reports.get(node.address), now) for node in (*config.nodes, *with_work)],
        "source": None
        if config.source is None or found is None
        else {"name": config.source.name, "problem": found.problem or None, "age": round(now - found.at, 1)},
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
        return word, left_out(record, now) or f"{ejection.reason} (due for a trial)"
    ttl = config.report_seconds
    summary = fresh(record, now, ttl) if ttl else None
    if summary is not None and summary.quiescing:
        return "drain", "it is shutting down"
    if summary is not None and summary.level != "ready":
        short = summary.short_share
        return summary.level, f"{short} is under its floor" if short else f"headroom {summary.headroom:.2f}"
    return "ready", None


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
