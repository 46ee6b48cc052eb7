"""The cluster as its users ask for it: JSON-ready, the same for the command line and for programs."""

from __future__ import annotations

from typing import Any

import msgspec

from airflow_provider_impala_lb.core.config import Config, Node
from airflow_provider_impala_lb.core.health import left_out
from airflow_provider_impala_lb.core.policy import load_of
from airflow_provider_impala_lb.core.state import Lease, NodeState, State, reap


def describe(config: Config, state: State, now: float) -> dict[str, Any]:
    """``cluster``, ``policy``, ``nodes``, ``leases``, ``sessions``; see README for what stands in each."""
    reap(state, now, frozenset())
    load = load_of(state)
    leases = sorted(state.leases.values(), key=lambda lease: lease.taken)
    return {
        "cluster": config.name,
        "policy": config.policy,
        "nodes": [_node(node, state, load.get(node.address, 0), leases, now) for node in config.nodes],
        "leases": [_lease(lease, now) for lease in leases],
        "sessions": [{"key": key, "node": record.node} for key, record in sorted(state.sessions.items())],
    }


def _node(node: Node, state: State, load: int, leases: list[Lease], now: float) -> dict[str, Any]:
    record = state.nodes.get(node.address, NodeState())
    word, why = "ready", None
    if record.drained:
        word, why = "drain", "by an operator"
    elif record.out is not None:
        out = record.out
        word = "drain" if out.cause == "shutdown" else "busy" if out.cause == "overload" else "ejected"
        why = left_out(record, now) or f"{out.why} (due for a trial)"
    return {
        "node": node.address,
        "state": word,
        "why": why,
        "leases": sum(lease.node == node.address for lease in leases),
        "load": load,
        "headroom": None,
        "picks": record.picks,
        "weight": node.weight,
        "web": node.web,
    }


def _lease(lease: Lease, now: float) -> dict[str, Any]:
    told: dict[str, Any] = {key: value for key, value in msgspec.to_builtins(lease).items() if key != "holder"}
    return {
        **told,
        "age": round(now - lease.taken, 1),
        "expires_in": round(lease.expires - now, 1),
        "pid": lease.holder.pid if lease.holder else None,
    }
