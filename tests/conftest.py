"""Which suite a test belongs to: see CONTRIBUTING.md."""

from __future__ import annotations

import pytest

PROGRAMS = {
    "start_redis": "redis-server",
    "shared_redis": "redis-server",
    "shared_cluster": "redis-server",
    "gluster_volume": "glusterd",
    "exporter": "prometheus-node-exporter",
    "javac": "a JDK",
    "impala_shell": "impala-shell",
    "all_servers": "Spark",
}
"""Fixtures that start a program which not everybody has: the quick suite does without, and is the same for all."""


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    for item in items:
        if not PROGRAMS.keys().isdisjoint(getattr(item, "fixturenames", ())):
            item.add_marker(pytest.mark.slow)
