"""Does each coordinator answer, on its port and on its web pages, and does its host's exporter?"""

from __future__ import annotations

import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor

import msgspec

from airflow_provider_impala_lb.balancer import Balancer
from airflow_provider_impala_lb.core.config.model import LoadConfig, Node
from airflow_provider_impala_lb.doctor.finding import Finding
from airflow_provider_impala_lb.errors import ConfigError
from airflow_provider_impala_lb.impala.hs2.connection_failure import NodeRefused
from airflow_provider_impala_lb.impala.hs2.ids import StatementError
from airflow_provider_impala_lb.impala.web.load_probe import NotACoordinator, ProbeFailed, probe

WEB_SECONDS = 3.0
"""For the pages of one node."""
REMEDIES = {
    "node": "start it, or drain it until it is back",
    "client": "look at this host: its DNS, its routes, its limits",
    "login": "check user, password, session.auth_mechanism, session.use_ssl; if other nodes take these, see this one",
    "certificate": "check session.ca_cert; if other nodes' certificates are accepted, look at this one's",
    "unclear": "check session.auth_mechanism, session.use_ssl and its port; if other nodes answer, look at this one",
}
"""What to do where no session could be opened, by whose fault that is."""


def check_nodes(balancer: Balancer) -> Iterator[Finding]:
    """For each node: log in, open a session, ask its version; then its web page. All nodes at once.

    :param balancer: of the configuration whose nodes are meant.
    """
    with ThreadPoolExecutor(max_workers=16) as pool:
        for findings in pool.map(lambda address: list(_check_node(balancer, address)), balancer.config.addresses):
            yield from findings


def _check_node(balancer: Balancer, address: str) -> Iterator[Finding]:
    start = time.monotonic()
    node = balancer.config.node(address)
    assert node is not None
    load, login = balancer.config.load or LoadConfig(), balancer.sessions.web_password
    own = None
    try:
        with balancer.sessions.open(address) as session:
            opened = time.monotonic() - start
            own = None if node.web else session.pages
            session.execute("SELECT version()")
            version = str(session.cursor.fetchall()[0][0]).split(" RELEASE")[0]
        yield Finding(f"node {address}", "ok", f"session as {session.user} in {opened * 1000:.0f} ms, {version}")
    except NodeRefused as error:
        remedy = "wait, or drain it" if error.cause == "shutdown" else REMEDIES[error.fault]
        yield Finding(f"node {address}", "failed", str(error), remedy)
    except ConfigError as error:
        yield Finding(f"node {address}", "failed", str(error), "correct the configuration on this host")
    except StatementError as error:
        yield Finding(f"node {address}", "failed", f"a session opened, but SELECT version() failed: {error}")
    if own is not None:  # as workers ask for them: without a login
        try:
            own.version()
        except ProbeFailed as error:
            remedy = "name them by web, of the node: a login is sent to configured addresses only"
            yield Finding(f"web page of {address}", "warning", str(error), remedy)
        else:
            node, login = msgspec.structs.replace(node, web=own.url), None
            load = msgspec.structs.replace(load, web_auth="none")
    if node.web or node.metrics or node.exporter:
        yield from _check_load(node, load, login)


def _check_load(node: Node, load: LoadConfig, login: str | None) -> Iterator[Finding]:
    """Do the node's pages answer, with the login that the configuration says, and what do they say?"""
    name = f"web page of {node.address}" if node.web else f"metrics of {node.address}"
    try:
        result = probe(node, load, login, seconds=WEB_SECONDS)
    except NotACoordinator as error:
        yield Finding(name, "failed", str(error), "take it off the list of nodes")
        return
    except ProbeFailed as error:
        yield Finding(
            name, "warning", str(error), "correct the node's URLs or the login; links and load reports need it"
        )
        return
    if result.sample.quiescing:
        yield Finding(name, "warning", f"{node.address} is shutting down", "wait, or drain it")
    elif node.web or node.metrics:
        reason = result.missing.get("web")
        yield (
            Finding(name, "warning", reason, "links need it")
            if reason
            else Finding(name, "ok", node.web or node.metrics or "")
        )
    if node.exporter:
        reason = result.missing.get("exporter")
        shares = ", ".join(f"{resource} {share:.0%}" for resource, share in sorted(result.sample.shares.items()))
        yield Finding(
            f"exporter of {node.address}",
            "warning" if reason else "ok",
            reason or f"{node.exporter}; free: {shares}",
            "without it the load of the host is not known" if reason else "",
        )
