"""The runtime profile and the summary of a statement: Impala's headings, with what is known here."""

from __future__ import annotations

import time
from typing import Any

from impala._thrift_gen.ExecStats.ttypes import (  # noqa: TID253 (node's process only)
    TExecProgress,
    TExecState,
    TExecStats,
    TExecSummary,
    TPlanNodeExecSummary,
)

from airflow_provider_impala_lb.sandbox.coordinator.operation import Operation


def page_time(seconds: float | None) -> str:
    """A time as on Impala's pages, with nanoseconds.

    :param seconds: since 1970; None: an end that has not come, which is empty.
    """
    if seconds is None:
        return ""
    whole = time.strftime("%Y-%m-%d %H:%M:%S", time.localtime(seconds))
    return f"{whole}.{int(seconds % 1 * 1e6):06d}000"


def impala_state(operation: Operation) -> str:
    """The word of Impala's pages for a statement's state.

    :param operation: the statement.
    """
    if operation.was_retried:
        return "RETRIED"
    named = {"INITIALIZED": "CREATED", "PENDING": "COMPILED", "ERROR": "EXCEPTION"}
    return named.get(operation.state, operation.state)


def progress_of(operation: Operation) -> tuple[int, int]:
    """Steps done, and all: one for each file it reads, at least three; ``sleep()`` is done by its time.

    :param operation: the statement.
    """
    total = max(3, operation.plan.files if operation.plan else 0)
    if operation.done.is_set() or operation.worked:
        return total, total
    slept = operation.slept
    part = (time.time() - slept[0]) / max(slept[1], 0.001) if slept else 1 / total
    return min(total - 1, int(part * total)), total


def progress_line(operation: Operation) -> str:
    """Impala's words: with a colon while something is left to do, else without (progress-updater.cc).

    :param operation: the statement.
    """
    done, total = progress_of(operation)
    colon = ":" if done < total else ""
    return f"Query {operation.id}{colon} {100 * done // total}% Complete ({done} out of {total})"


def profile_text(operation: Operation, address: str) -> str:
    """The runtime profile, as text.

    :param operation: the statement.
    :param address: the coordinator's ``host:port``.
    """
    session, options = operation.session, operation.options
    kind = operation.plan.kind if operation.plan else "N/A"
    lines = [
        f"Query (id={operation.id}):",
        "  Summary:",
        f"    Session ID: {session.id}",
        "    Session Type: HIVESERVER2",
        f"    Start Time: {page_time(operation.started)}",
        f"    End Time: {page_time(operation.end_time)}",
        f"    Query Type: {kind}",
        f"    Query State: {impala_state(operation)}",
        f"    Impala Query State: {operation.state}",
        f"    Query Status: {operation.error or 'OK'}",
        f"    User: {session.user}",
        f"    Connected User: {session.connected_user}",
        f"    Network Address: {operation.address}",
        f"    Default Db: {operation.database}",
        f"    Sql Statement: {' '.join(operation.sql.splitlines())}",
        f"    Coordinator: {address}",
        "    Query Options (set by configuration): " + ",".join(f"{k}={v}" for k, v in sorted(options.items())),
    ]
    if operation.plan is not None and operation.plan.ddl_type:
        lines.append(f"    DDL Type: {operation.plan.ddl_type}")
    if operation.plan is not None and operation.plan.text:
        lines += ["    Plan:", "    ----------------", *(f"    {line}" for line in operation.plan.text.split("\n"))]
    lines += _timeline(operation)
    lines.append(f"  ImpalaServer:\n     - NumRowsFetched: {operation.rows_fetched} ({operation.rows_fetched})")
    for partition, count in (operation.modified or {}).items():
        lines.append(f"     - NumModifiedRows ({partition or 'Default'}): {count}")
    return "\n".join(lines) + "\n"


def _timeline(operation: Operation) -> list[str]:
    """As ``RuntimeProfileBase::PrettyPrintTimeline`` prints it, all times in milliseconds."""
    lines, before = [f"    Query Timeline: {(time.time() - operation.started) * 1e3:.3f}ms"], 0.0
    for name, at in list(operation.events):
        lines.append(f"       - {name}: {at * 1e3:.3f}ms ({(at - before) * 1e3:.3f}ms)")
        before = at
    return lines


_EXEC_STATES = {
    "INITIALIZED": TExecState.REGISTERED,
    "PENDING": TExecState.QUEUED,
    "RUNNING": TExecState.RUNNING,
    "FINISHED": TExecState.FINISHED,
    "ERROR": TExecState.FAILED,
}


def exec_summary(operation: Operation) -> Any:
    """The TExecSummary: why it is queued; or its nodes and progress; empty for what was not admitted, such as DDL
    (``ImpalaServer::GetExecSummary``).

    :param operation: the statement.
    """
    if operation.state == "PENDING" and operation.admission is not None and operation.admission.queued:
        return TExecSummary(is_queued=True, queued_reason=operation.admission.reason)
    if not operation.has_coordinator:
        return TExecSummary()
    done, total = progress_of(operation)
    progress = TExecProgress(total, done, 1, 1 if operation.done.is_set() else 0)
    state = _EXEC_STATES[operation.state]
    return TExecSummary(state=state, nodes=_exec_nodes(operation), progress=progress, is_queued=False)


def _exec_nodes(operation: Operation) -> list[Any]:
    """The nodes of the summary: one for all, the whole statement as the root of the plan; none for what is no query
    and no DML.
    """
    if operation.plan is None or operation.plan.kind not in ("QUERY", "DML"):
        return []
    spent = int(((operation.end_time or time.time()) - operation.started) * 1e9)
    count = sum((operation.modified or {}).values()) or operation.rows_fetched
    stats = TExecStats(latency_ns=spent, cpu_time_ns=spent, cardinality=count, memory_used=0)
    node = TPlanNodeExecSummary(
        node_id=0,
        fragment_idx=0,
        label="F00:ROOT",
        label_detail="",
        num_children=0,
        estimated_stats=TExecStats(cardinality=-1, memory_used=0),
        exec_stats=[stats],
        is_broadcast=False,
        num_hosts=1,
    )
    return [node]
