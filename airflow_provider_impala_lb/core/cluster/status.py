"""The cluster as its users ask for it: JSON-ready, the same for the command line and for programs."""

from __future__ import annotations

from typing import Any

import msgspec

from airflow_provider_impala_lb.core.config.model import Config, Node
from airflow_provider_impala_lb.core.rules.ejection import left_out
from airflow_provider_impala_lb.core.rules.headroom import fresh
from airflow_provider_impala_lb.core.rules.policy import load_of
from airflow_provider_impala_lb.core.state.model import LastReport, Lease, NodeState
from airflow_provider_impala_lb.core.state.state import State


def describe(config: Config, state: State, now: float) -> dict[str, Any]:
    """``cluster``, ``policy``, ``nodes``, ``leases``, ``sessions``, ``waiting``; see README for what stands in each."""
    leases = sorted((lease for _, lease in state.leases.items()), key=lambda lease: lease.taken)
    told = dict(state.last_reports.items())
    return {
        "cluster": config.name,
        "policy": config.policy,
        "nodes": [_node(config, node, state, told.get(node.address), now) for node in config.nodes],
        "leases": [_lease(lease, now) for lease in leases],
        "sessions": [
            {"key": key, "node": record.node, "database": record.database, "options": record.options}
            for key, record in sorted(state.sessions.items())
        ],
        "waiting": [
            {"owner": ticket.owner, "host": ticket.host, "seconds": round(now - ticket.since, 1), "only": ticket.only}
            for ticket in state.head.waiting
        ],
    }


def _node(config: Config, node: Node, state: State, told: LastReport | None, now: float) -> dict[str, Any]:
    record = state.nodes.get(node.address, NodeState())
    ttl = config.report_seconds
    brief = fresh(record, now, ttl) if ttl else None
    word, why = "ready", None
    if record.drained:
        word, why = "drain", "by an operator"
    elif record.ejection is not None:
        out = record.ejection
        word = "drain" if out.cause == "shutdown" else "busy" if out.cause == "overload" else "ejected"
        why = left_out(record, now) or f"{out.why} (due for a trial)"
    elif brief is not None and brief.quiescing:
        word, why = "drain", "it is shutting down"
    elif brief is not None and brief.level != "ready":
        word, why = brief.level, f"{brief.low} is under its floor" if brief.low else f"headroom {brief.headroom:.2f}"
    report = None
    if told is not None:
        report = {key: value for key, value in msgspec.to_builtins(told).items() if key not in ("at", "counters")}
        report["age"] = round(now - told.at, 1)
    return {
        "node": node.address,
        "state": word,
        "why": why,
        "leases": record.leases,
        "load": load_of(record, now, ttl),
        "headroom": brief.headroom if brief is not None and brief.headroom >= 0 else None,
        "picks": record.picks,
        "weight": node.weight,
        "max_leases": config.cap(node),
        "web": node.web,
        "report": report,
    }


def _lease(lease: Lease, now: float) -> dict[str, Any]:
    told: dict[str, Any] = {key: value for key, value in msgspec.to_builtins(lease).items() if key != "holder"}
    return {
        **told,
        "age": round(now - lease.taken, 1),
        "expires_in": round(lease.expires - now, 1),
        "pid": lease.holder.pid if lease.holder else None,
    }
