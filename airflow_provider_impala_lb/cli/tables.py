"""What the command line shows to people: tables."""

from __future__ import annotations

import sys
from collections.abc import Mapping, Sequence
from datetime import datetime
from typing import Any

from airflow_provider_impala_lb.core.text import plain


def show_status(status: Mapping[str, Any]) -> None:
    """Show the cluster: its nodes, leases, session keys, and who waits.

    :param status: of `Balancer.status`.
    """
    columns = ("node", "state", "headroom", "load", "leases", "picks", "why")
    show(f"{status['cluster']}, {status['policy']}", columns, [_of(node, columns) for node in status["nodes"]])
    print(plain(f"load: {status['load']}"))
    if status["source"]:
        found_by = ("name", "age", "problem")
        show("nodes are found by", found_by, [_of(status["source"], found_by)])
    for title, key, columns_of in (
        ("leases", "leases", ("node", "owner", "host", "pid", "age", "query")),
        ("sessions", "sessions", ("key", "node", "database")),
        ("waiting, first come first served", "waiting", ("owner", "host", "seconds", "only")),
    ):
        if status[key]:
            show(title, columns_of, [_of(entry, columns_of) for entry in status[key]])


def show_readings(readings: Mapping[str, Any]) -> None:
    """Show what the nodes reported of their load.

    :param readings: by ``host:port``, each a `ProbeResult` as JSON-ready values; a text is why one did not answer.
    """
    samples = {node: reading["sample"] for node, reading in readings.items() if not isinstance(reading, str)}
    names = sorted({name for sample in samples.values() for name in sample.get("shares", {})})
    rows: list[list[Any]] = []
    for node, reading in readings.items():
        if isinstance(reading, str):
            rows.append([node, *[None] * (len(names) + 1), reading])
            continue
        sample, shares = samples[node], samples[node].get("shares", {})
        missing = [f"no {what}: {why}" for what, why in reading.get("missing", {}).items()]
        remarks = (["shutting down"] if sample.get("quiescing") else []) + missing
        free = [f"{shares[name]:.2f}" if name in shares else None for name in names]
        rows.append([node, *free, sample.get("queries"), "; ".join(remarks)])
    show("free shares", ("node", *names, "queries", ""), rows)


def show_journals(records: Mapping[str, Any]) -> None:
    """Show how far scripts are.

    :param records: by their keys, as of `impala/journal/document.py`.
    """
    rows = []
    for key, record in records.items():
        state = "ended" if record.ended else "under way, or stopped"
        doubt = record.intent
        if doubt is not None:
            state = f"statement {doubt.number} was about to be sent to {doubt.node}"
            if doubt.query:
                state = f"statement {doubt.number} runs, or ran, on {doubt.node} as query {doubt.query}"
        if record.answer:
            state += f"; its author: {record.answer}"
        when = datetime.fromtimestamp(record.at).strftime("%Y-%m-%d %H:%M:%S")
        rows.append([key, f"{record.done} of {record.total}", state, record.by, when])
    show("journals", ("script", "done", "state", "last attempt", "written"), rows)


def show(title: str, columns: Sequence[str], rows: Sequence[Sequence[Any]]) -> None:
    """Show one table on standard output. What is in it is data: no markup, no emoji, no control characters.

    :param title: of the table.
    :param columns: their names.
    :param rows: their values; None is shown as nothing.
    """
    from rich.console import Console
    from rich.table import Table
    from rich.text import Text

    table = Table(title=Text(plain(title)), title_justify="left")
    for column in columns:
        table.add_column(Text(column), overflow="fold")
    for row in rows:
        table.add_row(*(Text("" if value is None else plain(value)) for value in row))
    # In a pipe there is no width to fit: a cut host name would be of no use to the next program.
    Console(width=None if sys.stdout.isatty() else 200).print(table)


def _of(entry: Mapping[str, Any], keys: Sequence[str]) -> list[Any]:
    return [entry.get(key) for key in keys]
