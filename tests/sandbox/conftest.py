"""Clusters for the tests of the sandbox: one that tests share, others made where they are needed."""

from __future__ import annotations

import contextlib
import gc
from collections.abc import Iterator
from typing import Any

import pytest
from impala.dbapi import connect
from impala.hiveserver2 import HiveServer2Cursor

from airflow_provider_impala_lb.sandbox import Sandbox, SandboxNode
from tests.support.sandbox import Open


@pytest.fixture(scope="session")
def plain() -> Iterator[Sandbox]:
    """One coordinator without a lag, for tests of everything but clusters."""
    with Sandbox(nodes=1, lag=0, users=None) as cluster:
        yield cluster


@pytest.fixture(scope="session")
def pair() -> Iterator[Sandbox]:
    """Two coordinators, lag 1 s."""
    with Sandbox(nodes=2, lag=1.0, users=None) as cluster:
        yield cluster


@pytest.fixture
def open_cursor() -> Iterator[Open]:
    """``open_cursor(node, user="ann", **connect)``: a cursor on a connection of its own."""
    opened: list[Any] = []

    def make(node: SandboxNode, user: str = "ann", configuration: Any = None, **options: Any) -> HiveServer2Cursor:
        connection = connect(host=node.host, port=node.port, timeout=20, user=user, **options)
        cursor = connection.cursor(user=user, configuration=configuration)
        opened.append((cursor, connection))
        return cursor

    yield make
    for cursor, connection in opened:
        with contextlib.suppress(Exception):  # the test may have ended it
            cursor.close()
        cursor._closed = True  # or impyla tries again when the cursor is collected
        connection.close()


@pytest.fixture
def collected() -> Iterator[None]:
    """Cursors that a test drops close their session when they are collected: let that be now."""
    yield
    gc.collect()
