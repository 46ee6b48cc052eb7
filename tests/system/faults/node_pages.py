"""What a coordinator's own pages say of the connections and statements that a test has left there."""

from __future__ import annotations

import json
import urllib.request

from airflow_provider_impala_lb.sandbox import SandboxNode
from tests.support.relay import Relay
from tests.support.servers import eventually


def _page(node: SandboxNode, path: str) -> dict:
    with urllib.request.urlopen(f"{node.web}{path}?json", timeout=10) as answer:
        return json.load(answer)


def wait_until_over(node: SandboxNode, relay: Relay, seconds: float = 20.0) -> None:
    """Until nothing that went over the relay can still be at work on the node: what was held back has arrived, the
    server has noticed the end of each connection, which it does after the last request on it."""
    relay.settle()
    relay.stop()

    eventually(lambda: not connected(node) & relay.upstreams, seconds)


def connected(node: SandboxNode) -> set[str]:
    """The clients' ends of the node's HiveServer2 connections, each ``host:port``."""
    return {each["network_address"] for each in _page(node, "/sessions")["connections"]}


def executing(node: SandboxNode) -> int:
    """How many statements are at work. "executing" is also a query whose rows nobody has fetched yet."""
    return sum(query["state"] == "RUNNING" for query in _page(node, "/queries")["in_flight_queries"])
