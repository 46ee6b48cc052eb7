"""All trials on all coordinators of a configuration, each in its time, and what they mean for a killed worker."""

from __future__ import annotations

import itertools
import re
import secrets
import threading
from collections.abc import Callable, Iterator, Sequence
from logging import getLogger

from airflow_provider_impala_lb.balancer import Balancer
from airflow_provider_impala_lb.core.timing import Deadline
from airflow_provider_impala_lb.doctor.coordinators import REMEDIES
from airflow_provider_impala_lb.doctor.finding import Finding
from airflow_provider_impala_lb.doctor.protocol.errors import try_errors
from airflow_provider_impala_lb.doctor.protocol.limits import try_limits, try_planning
from airflow_provider_impala_lb.doctor.protocol.node import PREFIX, TrialNode, check_database, in_short_time, one_line
from airflow_provider_impala_lb.doctor.protocol.pages import try_pages
from airflow_provider_impala_lb.doctor.protocol.proofs import conclude
from airflow_provider_impala_lb.doctor.protocol.sessions import try_kills, try_sessions
from airflow_provider_impala_lb.doctor.protocol.statements import try_lost, try_tables
from airflow_provider_impala_lb.errors import ConfigError
from airflow_provider_impala_lb.impala.hs2.connection_failure import NodeRefused
from airflow_provider_impala_lb.impala.hs2.ids import StatementError

log = getLogger(__name__)

NODE_SECONDS = 300.0
"""For all trials on one coordinator. Whatever it does, it is left alone then."""
_END_SECONDS = 20.0
"""For its tables to be dropped and its sessions to be closed, once it was told to end."""
_AT_ONCE = 16
"""Coordinators at a time."""
_TRIALS: tuple[tuple[str, Callable[[TrialNode], Iterator[Finding]]], ...] = (
    ("web pages", try_pages),
    ("tables", try_tables),
    ("error texts", try_errors),
    ("sessions", try_sessions),
    ("ending a query", try_kills),
    ("time limits", try_limits),
    ("closing while planning", try_planning),
    ("a lost statement", try_lost),
)
_VERSION = re.compile(r"impalad version (\d+)\.(\d+)")


def check_protocol(make: Callable[[], Balancer], database: str) -> Iterator[Finding]:
    """Try on each coordinator what the script protocol rests on, with tables of random names in a scratch database.

    :param make: gives the balancer, or raises ConfigError.
    :param database: where the tables are made, and dropped.
    """
    try:
        balancer = make()
        database = check_database(database)
    except ConfigError as error:
        yield Finding("config", "failed", str(error))
        return
    config = balancer.config
    yield Finding("config", "ok", f"{config.name}: {len(config.nodes)} nodes, tried in database {database}")
    this_run = secrets.token_hex(4)
    sessions = in_short_time(balancer.sessions)
    nodes = [TrialNode(sessions, address, database, this_run) for address in config.addresses]
    for start in range(0, len(nodes), _AT_ONCE):
        yield from _try_all(nodes[start : start + _AT_ONCE])
    yield from conclude(node.proofs for node in nodes)


def _try_all(nodes: Sequence[TrialNode]) -> Iterator[Finding]:
    running = [_Run(node) for node in nodes]
    deadline = Deadline(NODE_SECONDS)
    try:
        for run in running:
            run.start()
        for run in running:
            run.over.wait(deadline.remaining)
            yield from run.findings()
    finally:  # also where whoever reads this stops reading, or is interrupted
        late = [run for run in running if not run.over.is_set()]
        for run in late:
            run.node.end()
        end = Deadline(_END_SECONDS)
        for run in late:
            run.over.wait(end.remaining)


class _Run(threading.Thread):
    """All trials on one coordinator.

    :param node: the coordinator.
    :ivar node: as given.
    :ivar over: set at its end. Not `is_alive`: up to Python 3.12 a thread seems to have ended once a signal's handler
        has raised in the middle of its `join`.
    """

    def __init__(self, node: TrialNode) -> None:
        # A daemon: Python would wait at its exit for one that hangs in a resolver of names.
        super().__init__(name="impala-lb doctor", daemon=True)
        self.node, self.over = node, threading.Event()
        self._found: list[Finding] = []

    def run(self) -> None:
        """Try all, and clear up."""
        try:
            for finding in itertools.chain(_begin(self.node), _all_trials(self.node)):
                self._found.append(finding)
        except Exception as error:  # whatever a coordinator sends, it must not look as if all had been tried
            log.debug("Trials on %s", self.node.address, exc_info=True)
            text = f"the trials themselves failed: {type(error).__name__}"
            self._found.append(Finding(f"node {self.node.address}", "failed", text))
        finally:
            try:
                self._found += _clear_up(self.node)
            finally:
                self.over.set()

    def findings(self) -> list[Finding]:
        """What was found; that its time is up, if it is not over."""
        if self.over.is_set():
            return self._found
        return [*self._found, *_late(self.node)]


def _begin(node: TrialNode) -> Iterator[Finding]:
    """Its version, and whether the scratch database may be used."""
    try:
        session = node.open()
        node.execute(session, "SELECT version()")
        version = str(session.fetch(lambda cursor: cursor.fetchall(), session.cursor)[0][0])
    except NodeRefused as error:
        yield Finding(f"node {node.address}", "failed", str(error), REMEDIES[error.fault])
        return
    except (ConfigError, StatementError) as error:
        yield Finding(f"node {node.address}", "failed", one_line(error))
        return
    found = _VERSION.search(version)
    node.proofs.version = (int(found[1]), int(found[2])) if found else (0, 0)
    yield Finding(f"node {node.address}", "ok", version.split(" RELEASE")[0])
    try:
        node.execute(session, f"SHOW TABLES IN `{node.database}` LIKE '{PREFIX}*'")
        names = [str(row[0]) for row in session.fetch(lambda cursor: cursor.fetchall(), session.cursor)]
        names = [name for name in names if not node.is_of_this_run(name)]
    except StatementError as error:
        remedy = f"CREATE DATABASE {node.database}, in which {session.user} may create, fill and drop tables"
        yield Finding(f"database on {node.address}", "failed", one_line(error), remedy)
        return
    finally:
        node.close_sessions()
    node.proofs.reached = True
    if names:
        text = f"{', '.join(sorted(names)[:5])} ({len(names)}): of another trial, now or earlier; they are left alone"
        yield Finding(f"database on {node.address}", "warning", text, "drop them if no doctor is at work")


def _all_trials(node: TrialNode) -> Iterator[Finding]:
    for name, trial in _TRIALS:
        if node.proofs.reached:
            yield from node.trial(name, trial)


def _clear_up(node: TrialNode) -> Iterator[Finding]:
    if not node.tables:
        return
    for name, problem in node.drop_tables().items():
        yield Finding(f"tables on {node.address}", "failed", f"{name} may be left: {problem}", f"DROP TABLE {name}")


def _late(node: TrialNode) -> Iterator[Finding]:
    yield Finding(f"node {node.address}", "failed", f"its trials were not over within {NODE_SECONDS:g} s")
    for name in node.tables:
        yield Finding(f"tables on {node.address}", "failed", f"{name} may be left", f"DROP TABLE IF EXISTS {name}")
