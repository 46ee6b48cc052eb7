"""Which suite a test belongs to: see CONTRIBUTING.md."""

from __future__ import annotations

import pytest

from airflow_provider_impala_lb.sandbox import Sandbox
from tests.support.versions import NEWEST, VERSION, is_older

pytest_plugins = [
    "tests.support.command_line",
    "tests.support.marked_secrets",
    "tests.support.scripts",
    "tests.support.store_fixtures",
]
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


if VERSION != NEWEST:
    Sandbox.__init__.__kwdefaults__["version"] = VERSION


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    for item in items:
        if (since := item.get_closest_marker("since")) is not None and is_older(since.args[0]):
            item.add_marker(pytest.mark.skip(f"on Impala {VERSION}: {since.args[1]}"))
        if not PROGRAMS.isdisjoint(getattr(item, "fixturenames", ())):
            item.add_marker(pytest.mark.slow)
