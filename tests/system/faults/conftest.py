from __future__ import annotations

import json
import threading
import urllib.request
from collections.abc import Iterator

import pytest

from airflow_provider_impala_lb.sandbox import Sandbox, SandboxNode
from tests.support.servers import eventually
from tests.system.faults.relay import Relay


@pytest.fixture(scope="module")
def node() -> Iterator[SandboxNode]:
    """A coordinator for the relay's own tests."""
    with Sandbox(nodes=1, lag=0, users=None) as cluster:
        yield cluster.nodes[0]


@pytest.fixture(autouse=True)
def no_relay_left() -> Iterator[None]:
    yield
    assert not [thread.name for thread in threading.enumerate() if thread.name.startswith("relay-")]


def page(node: SandboxNode, path: str) -> dict:
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
    return {each["network_address"] for each in page(node, "/sessions")["connections"]}


def executing(node: SandboxNode) -> int:
    """How many statements are at work."""
    return sum(query["executing"] for query in page(node, "/queries")["in_flight_queries"])
