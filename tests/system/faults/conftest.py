"""What all fault tests share: a coordinator, and a look at what a test has left behind."""

from __future__ import annotations

import threading
from collections.abc import Iterator

import pytest

from airflow_provider_impala_lb.sandbox import Sandbox, SandboxNode


@pytest.fixture(scope="module")
def node() -> Iterator[SandboxNode]:
    """A coordinator for the relay's own tests."""
    with Sandbox(nodes=1, lag=0, users=None) as cluster:
        yield cluster.nodes[0]


@pytest.fixture(autouse=True)
def no_relay_left() -> Iterator[None]:
    yield
    assert not [thread.name for thread in threading.enumerate() if thread.name.startswith("relay-")]
