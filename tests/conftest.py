"""Which suite a test belongs to: see CONTRIBUTING.md."""

from __future__ import annotations

import pytest

pytest_plugins = ["tests.support.command_line", "tests.support.scripts", "tests.support.store_fixtures"]
"""Fixtures that tests of several folders share."""

PROGRAMS = {
    *("start_redis", "shared_redis", "shared_cluster"),  # redis-server
    "gluster_volume",
    "exporter",  # prometheus-node-exporter
    "javac",
    "impala_shell",
    "all_servers",  # Spark
}
"""Fixtures that start a program which not everybody has. The quick suite does without: it is the same for all."""


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    for item in items:
        if not PROGRAMS.isdisjoint(getattr(item, "fixturenames", ())):
            item.add_marker(pytest.mark.slow)
