"""Does each coordinator answer, on its port and on its web page?"""

from __future__ import annotations

import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from typing import TYPE_CHECKING, Any

from airflow_provider_impala_lb.core.check import Check
from airflow_provider_impala_lb.errors import ConfigError
from airflow_provider_impala_lb.impala.outcome import NodeRefused
from airflow_provider_impala_lb.impala.statement import StatementError

if TYPE_CHECKING:
    from airflow_provider_impala_lb.balancer import Balancer

WEB_SECONDS = 3.0


def check_nodes(balancer: Balancer) -> Iterator[Check]:
    """For each node: log in, open a session, ask its version; then its web page. All nodes at once."""
    with ThreadPoolExecutor(max_workers=16) as pool:
        for checks in pool.map(lambda address: list(_check_node(balancer, address)), balancer.config.addresses):
            yield from checks


def _check_node(balancer: Balancer, address: str) -> Iterator[Check]:
    start = time.monotonic()
    node = balancer.config.node(address)
    web = node.web if node else None
    try:
        with balancer.open_session(address) as session:
            opened = time.monotonic() - start
            web = web or session.web
            session.execute("SELECT version()")
            version = str(session.cursor.fetchall()[0][0]).split(" RELEASE")[0]
        yield Check(f"node {address}", "ok", f"session as {session.user} in {opened * 1000:.0f} ms, {version}")
    except NodeRefused as error:
        do = "wait, or drain it" if error.cause == "shutdown" else "start it, or drain it until it is back"
        yield Check(f"node {address}", "failed", str(error), do)
    except ConfigError as error:
        yield Check(f"node {address}", "failed", str(error), "check login, password and session.auth_mechanism")
    except StatementError as error:
        yield Check(f"node {address}", "failed", f"a session opened, but SELECT version() failed: {error}")
    if web:
        yield _check_web(address, web)


def _check_web(address: str, web: str) -> Check:
    import httpx

    name = f"web page of {address}"
    try:
        answer = httpx.get(f"{web.rstrip('/')}/?json", timeout=WEB_SECONDS)
    except (httpx.HTTPError, httpx.InvalidURL) as error:
        return Check(name, "warning", f"{web}: {error}", "correct the node's web address, or ignore it: links need it")
    if answer.status_code in (401, 403):
        return Check(name, "warning", f"{web} asks for a login ({answer.status_code})")
    if answer.status_code != httpx.codes.OK:
        return Check(name, "warning", f"{web} answered {answer.status_code}")
    try:
        page: dict[str, Any] = answer.json()
    except ValueError:
        return Check(name, "warning", f"{web} is not Impala's: no JSON")
    if page.get("is_quiescing"):
        return Check(name, "warning", f"{address} is shutting down: {page.get('shutdown_status', '')}")
    if page.get("is_coordinator") is False:
        return Check(name, "failed", f"{address} is an executor, not a coordinator", "take it off the list of nodes")
    return Check(name, "ok", web)
