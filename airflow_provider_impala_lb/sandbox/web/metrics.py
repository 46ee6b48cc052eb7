"""A coordinator's metrics: names are Impala's, numbers are what this one really has, and what a test adds to them."""

from __future__ import annotations

import os
import re
import resource
import threading
from typing import Any

from airflow_provider_impala_lb.sandbox.coordinator.admission import DEFAULT_POOL
from airflow_provider_impala_lb.sandbox.coordinator.coordinator import Coordinator
from airflow_provider_impala_lb.sandbox.coordinator.profile import page_time
from airflow_provider_impala_lb.sandbox.coordinator.registry import registered
from airflow_provider_impala_lb.sandbox.web.simulated_load import SimulatedLoad

_THRIFT = "impala.thrift-server.hiveserver2-frontend"


def metrics_of(c: Coordinator) -> dict[str, Any]:
    """All metrics, flat, as on ``/jsonmetrics``. The simulated load is read each time.

    :param c: the coordinator.
    """
    load = SimulatedLoad.read(c.load_file)
    view = c.catalog.view()
    resident, physical = _resident(), os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    # There is no JVM here; its default is a quarter of the memory.
    heap = physical // 4
    return {
        "process-start-time": page_time(c.started),
        "impala-server.ready": True,
        "impala-server.version": c.version,
        "impala-server.num-open-hiveserver2-sessions": len(c.sessions) + load.sessions,
        "impala-server.num-open-beeswax-sessions": 0,
        "impala-server.num-queries": c.counters.queries,
        "impala-server.num-queries-registered": len(c.statements.registered()) + load.queries,
        "impala-server.num-queries-expired": c.limits.expired,
        "impala-server.query-log-est-total-bytes": c.statements.log.size,
        "impala-server.num-sessions-expired": c.counters.sessions_expired,
        "impala-server.backend-num-queries-executing": c.executing(),
        "impala-server.num-fragments-in-flight": c.executing(),
        f"{_THRIFT}.connections-in-use": len(c.connections) + load.connections,
        f"{_THRIFT}.total-connections": c.counters.connections,
        f"{_THRIFT}.connection-setup-queue-size": len(c.setup_queue),
        f"{_THRIFT}.timedout-cnxn-requests": c.counters.setup_timeouts,
        "catalog.ready": True,
        "catalog.curr-version": c.catalog.version,
        "catalog.curr-topic": c.catalog.topic,
        "catalog.curr-serviceid": c.catalog.service_id,
        "catalog.num-databases": sum(1 for item in view.values() if not item.table),
        "catalog.num-tables": sum(1 for item in view.values() if item.table),
        "statestore-subscriber.connected": True,
        "cluster-membership.backends.total": len(registered(c.directory)),
        "memory.rss": resident,
        "memory.total-used": resident if load.memory is None else int(physical * load.memory),
        "mem-tracker.process.limit": physical,
        "jvm.heap.current-usage-bytes": min(resident, heap) if load.heap is None else int(heap * load.heap),
        "jvm.heap.max-usage-bytes": heap,
        "thread-manager.running-threads": threading.active_count(),
        **_admission(c, load),
    }


def _admission(c: Coordinator, load: SimulatedLoad) -> dict[str, Any]:
    """Pools appear when they are first used."""
    admission, flags = c.services.admission, c.flags
    pools = admission.counts()
    if load.queued:
        pools.setdefault(DEFAULT_POOL, (0, 0))
    pools_shown: dict[str, Any] = {}
    for pool, (running, waiting) in pools.items():
        queued = waiting + (load.queued if pool == DEFAULT_POOL else 0)
        for name, value in {
            "local-num-admitted-running": running,
            "local-num-queued": queued,
            "agg-num-running": running,
            "agg-num-queued": queued,
            "pool-max-requests": flags.default_pool_max_requests,
            "pool-max-queued": flags.default_pool_max_queued,
            "pool-queue-timeout": int(flags.queue_wait_timeout_ms),
            "total-admitted": admission.admitted[pool],
            "total-rejected": admission.rejected[pool],
            "total-timed-out": admission.timed_out[pool],
        }.items():
            pools_shown[f"admission-controller.{name}.{pool}"] = value
    return pools_shown


def metrics_tree(metrics: dict[str, Any]) -> dict[str, Any]:
    """The metrics as on ``/metrics?json``, but all in the root group.

    :param metrics: as :func:`metrics_of` gives them.
    """
    listed = [
        {"name": name, "description": "", "human_readable": str(value), "value": value, "kind": _kind(value)}
        for name, value in metrics.items()
    ]
    return {"metric_group": {"name": "impala-metrics", "metrics": listed, "child_groups": []}}


def prometheus(metrics: dict[str, Any]) -> str:
    """The metrics as on ``/metrics_prometheus``: properties are left out.

    :param metrics: as :func:`metrics_of` gives them.
    """
    lines = []
    for name, value in metrics.items():
        if _kind(value) == "GAUGE":
            name = re.sub(r"[.'-]", "_", name)
            name = name if name.startswith("impala_") else f"impala_{name}"
            lines.append(f"# HELP {name} \n# TYPE {name} gauge\n{name} {value}\n")
    return "".join(lines)


def _kind(value: Any) -> str:
    return "GAUGE" if isinstance(value, (int, float)) and not isinstance(value, bool) else "PROPERTY"


def _resident() -> int:
    """Bytes."""
    try:
        with open("/proc/self/statm") as file:
            return int(file.read().split()[1]) * os.sysconf("SC_PAGE_SIZE")
    except OSError:
        return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024
