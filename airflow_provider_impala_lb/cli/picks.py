"""Commands about one pick or one node's load: ``pick``, ``release``, ``report``, ``probe``."""

from __future__ import annotations

import argparse
import errno
import os
import sys
from typing import TYPE_CHECKING

from airflow_provider_impala_lb.cli.common import config_path, open_balancer
from airflow_provider_impala_lb.errors import ImpalaLBError

if TYPE_CHECKING:
    from airflow_provider_impala_lb.balancer import Balancer
    from airflow_provider_impala_lb.cli.common import Commands


def add_commands(commands: Commands) -> None:
    """Add the options of these commands to the parser.

    :param commands: what ``add_subparsers`` gave.
    """
    pick = commands.add_parser("pick", help="one pick, printed as host:port")
    pick.add_argument("--session-key", metavar="K", help="picks with the same key stay on one node")
    pick.add_argument(
        "--hold", type=_seconds, metavar="SECONDS", help="with a lease of this length, whose id is printed too"
    )
    pick.add_argument("--json", action="store_true", help='{"host","node","why"}, and "lease" with --hold')
    pick.set_defaults(command=_pick)

    release = commands.add_parser(
        "release", help="end a lease that was taken by pick --hold, or say that what one left has ended"
    )
    release.add_argument("id", metavar="ID")
    release.set_defaults(command=_release)

    report = commands.add_parser("report", help="tell the balancer what a node's load is, from an agent of your own")
    report.add_argument("node", metavar="NODE", help="host:port, as in the configuration")
    report.add_argument(
        "--json", required=True, metavar="JSON", help='{"queries": 3, "shares": {"cpu": 0.7, "memory": 0.4}, ...}'
    )
    report.set_defaults(command=_report)

    probe = commands.add_parser("probe", help="ask all nodes for their load now, as the workers do by themselves")
    probe.add_argument("--if-due", action="store_true", help="only if their last reports are older than load.refresh")
    probe.add_argument("--json", action="store_true", help='{"node": {"shares", ...} or "why not"}')
    probe.set_defaults(command=_probe)


def _pick(options: argparse.Namespace) -> None:
    balancer = open_balancer(options)
    reports = balancer.cluster.reports
    prober, reports.prober = reports.prober, None  # this process is gone before the nodes answer
    discovery = balancer.cluster.discovery
    discovery.in_background = False
    if options.hold is None:
        pick = balancer.pick(session_key=options.session_key)
    else:
        pick = balancer.hold(options.hold, f"impala-lb pick --hold {options.hold:g}", options.session_key)
    fields = {"host": pick.host, "node": pick.node, "why": pick.why}
    if pick.lease:
        fields["lease"] = pick.lease
    text = _as_json(fields) if options.json else " ".join(filter(None, [pick.host, pick.lease]))
    try:
        _tell(text)
    except BaseException as error:
        released = _release_unheard(balancer, pick.lease) if pick.lease else ""
        if isinstance(error, OSError):
            raise ImpalaLBError(f"the pick cannot be told: {error.strerror}{released}") from error
        raise
    if discovery.is_due or (prober is not None and reports.is_due):
        _probe_elsewhere(options)


def _seconds(text: str) -> float:
    try:
        return float(text)
    except ValueError:
        raise argparse.ArgumentTypeError(f"{text!r} is not a number of seconds") from None


def _tell(text: str) -> None:
    """Print it, and see that it was taken.

    :raises OSError: it was not.
    """
    if sys.stdout is None:  # this process was started without one (``>&-``), and `print` says nothing of that
        raise OSError(errno.EBADF, os.strerror(errno.EBADF))
    print(text, flush=True)


def _release_unheard(balancer: Balancer, lease: str) -> str:
    """End a lease whose id nobody has: nobody else would. Returns what became of it, for a message."""
    try:
        balancer.release(lease)
    except ImpalaLBError as error:
        return f". Its lease {lease} could not be released, and ends by its expiry: {error}"
    return ". Its lease was released"


def _as_json(found: object) -> str:
    import json

    return json.dumps(found)


def _probe_elsewhere(options: argparse.Namespace) -> None:
    """By a process of its own, that has none of our files: whoever reads our output must not wait for it."""
    import subprocess

    where = ["--conn-id", options.conn_id] if options.conn_id else ["--config", config_path(options)]
    subprocess.Popen(  # noqa: S603  our own command
        [sys.executable, "-m", "airflow_provider_impala_lb.cli", *where, "probe", "--if-due"],
        stdin=subprocess.DEVNULL,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
        start_new_session=True,
    )


def _release(options: argparse.Namespace) -> int:
    if open_balancer(options).release(options.id):
        return 0
    print(f"impala-lb: there is no lease {options.id}: it has expired, or was released before", file=sys.stderr)
    return 1


def _report(options: argparse.Namespace) -> None:
    from airflow_provider_impala_lb.core.state.load_report import parse_sample

    open_balancer(options).report(options.node, parse_sample(options.json))


def _probe(options: argparse.Namespace) -> int:
    import msgspec

    from airflow_provider_impala_lb.cli.tables import show_readings

    balancer = open_balancer(options)
    if balancer.config.source is not None:
        balancer.cluster.discovery.look(now_anyway=not options.if_due)
        if balancer.config.load is None:
            found = dict.fromkeys(balancer.config.addresses, "load is off")
            print(_as_json(found) if options.json else "\n".join(found))
            return 0
    results = balancer.cluster.reports.probe(now_anyway=not options.if_due)
    if results is None:
        print(
            "impala-lb: the nodes have been asked a moment ago, or are being asked by another process", file=sys.stderr
        )
        return 0
    unknown = "where its web pages are is not known before a session is opened there"
    readings = {node: msgspec.to_builtins(results.get(node, unknown)) for node in balancer.config.addresses}
    if options.json:
        print(_as_json(readings))
    else:
        show_readings(readings)
    return 0
