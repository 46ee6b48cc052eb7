"""Commands about the cluster and its nodes: ``status``, ``drain``, ``ready``, ``leftovers``, ``doctor``."""

from __future__ import annotations

import argparse
import json
from collections.abc import Iterator
from itertools import groupby
from operator import itemgetter
from typing import TYPE_CHECKING

from airflow_provider_impala_lb.cli.common import open_balancer

if TYPE_CHECKING:
    from airflow_provider_impala_lb.balancer import Balancer
    from airflow_provider_impala_lb.cli.common import Commands
    from airflow_provider_impala_lb.doctor.finding import Finding


def add_commands(commands: Commands) -> None:
    """Add the options of these commands to the parser.

    :param commands: what ``add_subparsers`` gave.
    """
    status = commands.add_parser("status", help="nodes, leases, sessions")
    status.add_argument("--json", action="store_true")
    status.set_defaults(command=_status)

    drain = commands.add_parser("drain", help="no new work for a node; what runs there finishes")
    drain.add_argument("node", metavar="NODE", help="host:port, as in the configuration")
    drain.set_defaults(command=_drain)

    ready = commands.add_parser("ready", help="put a node back, also one that is out for its failures")
    ready.add_argument("node", metavar="NODE", help="host:port, as in the configuration")
    ready.set_defaults(command=_ready)

    leftovers = commands.add_parser("leftovers", help="what earlier attempts may have left running")
    leftovers.add_argument("--forget", metavar="ID", help="all of it was seen ended by you: nobody need look for it")
    leftovers.add_argument("--json", action="store_true", help='[{"id","owner","node","session","query","since"}]')
    leftovers.set_defaults(command=_leftovers)

    doctor = commands.add_parser("doctor", help="config, lock directory, each node: what is wrong, and what to do")
    other = doctor.add_mutually_exclusive_group()
    other.add_argument(
        "--peer",
        metavar="DIR|HOST:PORT",
        help="the lock file's directory by a second mount of this host; or the host that listens",
    )
    other.add_argument(
        "--listen",
        metavar="[ADDRESS:]PORT",
        help="wait for the doctor of another host (default address: 127.0.0.1, which no other host can reach)",
    )
    other.add_argument(
        "--protocol",
        metavar="DATABASE",
        help="try in this scratch database what scripts rest on, and say what a killed worker's statement means here",
    )
    doctor.add_argument("--json", action="store_true", help='[{"name","verdict","message","remedy"}]')
    doctor.set_defaults(command=_doctor)


def _status(options: argparse.Namespace) -> None:
    from airflow_provider_impala_lb.cli.tables import show_status

    status = open_balancer(options).status()
    if options.json:
        print(json.dumps(status))
    else:
        show_status(status)


def _drain(options: argparse.Namespace) -> None:
    open_balancer(options).drain(options.node)


def _ready(options: argparse.Namespace) -> None:
    open_balancer(options).ready(options.node)


def _leftovers(options: argparse.Namespace) -> int:
    from airflow_provider_impala_lb.core.text import plain

    balancer = open_balancer(options)
    rows = _left(balancer)
    if options.forget:
        return _forget(balancer, rows, options.forget)
    if options.json:
        print(json.dumps(rows))
        return 0
    for _, same in groupby(rows, key=itemgetter("id")):
        row, *more = same
        what = "nothing is kept of earlier attempts"
        if row["session"]:
            sessions = " and ".join(f"session {each['session']}" for each in (row, *more))
            what = f"{sessions} on {row['node']}, query {row['query'] or 'unknown'}, since {row['since']}"
        print(plain(f"{row['id']}  {row['owner']}: {what}"))
    return 0


def _left(balancer: Balancer) -> list[dict[str, str]]:
    """What the balancer's state knows, and what the attempts' own records know beside that."""
    from datetime import datetime, timezone

    from airflow_provider_impala_lb.impala.journal.answers import kept_of
    from airflow_provider_impala_lb.stores.factory import open_journals

    def row(identity: str, owner: str, node: str, session: str, query: str, at: float) -> dict[str, str]:
        since = datetime.fromtimestamp(at, timezone.utc).isoformat(timespec="seconds") if at else ""
        return {"id": identity, "owner": owner, "node": node, "session": session, "query": query, "since": since}

    found = balancer.cluster.admin.leftovers()
    rows = [
        row(lease_id, left.owner, left.node, session, left.query, left.at)
        for lease_id, left in found.items()
        for session in (left.session, *left.other_sessions)
    ]
    journals = open_journals(balancer.config)
    if journals is not None:
        known = {row["session"] for row in rows} | balancer.cluster.admin.sessions_in_use()
        for key, kept in kept_of(journals):
            if kept is None:
                rows.append(row(key, key, "", "", "", 0.0))
            elif kept.session not in known:
                rows.append(row(kept.session, key, kept.node, kept.session, "", kept.at))
    return rows


def _forget(balancer: Balancer, rows: list[dict[str, str]], wanted: str) -> int:
    import sys

    from airflow_provider_impala_lb.core.text import plain
    from airflow_provider_impala_lb.impala.journal.answers import forget_session
    from airflow_provider_impala_lb.stores.factory import open_journals

    row = next((row for row in rows if row["id"] == wanted), None)
    if row is None:
        known = ", ".join(row["id"] for row in rows) or "none"
        print(f"impala-lb: nothing is left by {plain(wanted)}; there is: {known}", file=sys.stderr)
        return 1
    if row["id"] not in (row["session"], row["owner"]):
        balancer.release(row["id"])
    journals = open_journals(balancer.config)
    if journals is not None:
        forget_session(journals, row["owner"], row["session"])
    return 0


def _doctor(options: argparse.Namespace) -> int:
    from airflow_provider_impala_lb.core.text import plain

    findings = []
    for finding in _findings(options):
        findings.append(finding)
        if not options.json:
            remedy = f" -> {finding.remedy}" if finding.remedy else ""
            print(plain(f"{finding.verdict:8} {finding.name}: {finding.message}{remedy}"), flush=True)
    if options.json:
        keys = ("name", "verdict", "message", "remedy")
        print(json.dumps([{key: getattr(finding, key) for key in keys} for finding in findings]))
    return int(any(finding.verdict == "failed" for finding in findings))


def _findings(options: argparse.Namespace) -> Iterator[Finding]:
    import signal
    import sys

    from airflow_provider_impala_lb.doctor.protocol.run import check_protocol
    from airflow_provider_impala_lb.doctor.run import run_checks
    from airflow_provider_impala_lb.doctor.two_hosts import parse_listen, parse_peer

    if options.protocol is not None:
        signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))  # its tables are dropped on the way out
        return check_protocol(lambda: open_balancer(options), options.protocol)
    peer = parse_listen(options.listen) if options.listen else parse_peer(options.peer) if options.peer else None
    return run_checks(lambda: open_balancer(options), peer, listen=bool(options.listen))
