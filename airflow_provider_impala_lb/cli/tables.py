"""What the command line shows to people: tables."""

from __future__ import annotations

import sys
from collections.abc import Mapping, Sequence
from datetime import datetime
from typing import Any

from airflow_provider_impala_lb.core.text import plain


def show_status(status: Mapping[str, Any]) -> None:
    """The cluster: its nodes, leases, session keys, and who waits."""
    columns = ("node", "state", "headroom", "load", "leases", "picks", "why")
    show(f"{status['cluster']}, {status['policy']}", columns, [_of(node, columns) for node in status["nodes"]])
    for title, key, columns_of in (
        ("leases", "leases", ("node", "owner", "host", "pid", "age", "query")),
        ("sessions", "sessions", ("key", "node", "database")),
        ("waiting, first come first served", "waiting", ("owner", "host", "seconds", "only")),
    ):
        if status[key]:
            show(title, columns_of, [_of(entry, columns_of) for entry in status[key]])


def show_readings(told: Mapping[str, Any]) -> None:
    """What the nodes said of their load, by ``host:port``; a text is why one did not answer."""
    samples = {node: said["sample"] for node, said in told.items() if not isinstance(said, str)}
    names = sorted({name for sample in samples.values() for name in sample.get("shares", {})})
    rows: list[list[Any]] = []
    for node, said in told.items():
        if isinstance(said, str):
            rows.append([node, *[None] * (len(names) + 1), said])
            continue
        sample, shares = samples[node], samples[node].get("shares", {})
        missing = [f"no {what}: {why}" for what, why in said.get("missing", {}).items()]
        remarks = (["shutting down"] if sample.get("quiescing") else []) + missing
        free = [f"{shares[name]:.2f}" if name in shares else None for name in names]
        rows.append([node, *free, sample.get("queries"), "; ".join(remarks)])
    show("free shares", ("node", *names, "queries", ""), rows)


def show_journals(found: Mapping[str, Any]) -> None:
    """How far scripts are, by their keys; records as of impala/journal.py."""
    rows = []
    for key, record in found.items():
        state = "ended" if record.ended else "under way, or stopped"
        doubt = record.intent
        if doubt is not None:
            state = f"statement {doubt.number} was about to be sent to {doubt.node}, query {doubt.query or 'unknown'}"
        if record.answer:
            state += f"; its author: {record.answer}"
        when = datetime.fromtimestamp(record.at).strftime("%Y-%m-%d %H:%M:%S")
        rows.append([key, f"{record.done} of {record.total}", state, record.by, when])
    show("journals", ("script", "done", "state", "last try", "written"), rows)


def show(title: str, columns: Sequence[str], rows: Sequence[Sequence[Any]]) -> None:
    """One table on standard output. What is in it is data: no markup, no emoji, no control characters."""
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
