"""The pytest fixture ``impala_sandbox``. Every pytest start loads this module: keep it light."""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING

import pytest

if TYPE_CHECKING:
    from airflow_provider_impala_lb.sandbox import Sandbox


@pytest.fixture
def impala_sandbox() -> Iterator[Sandbox]:
    """A fresh practice cluster for one test: three coordinators, empty but for the database ``default``, lag 2 s.

    One per test, because tests kill, drain and fill nodes, and the next one must not see that. A start takes about a
    second; tests that only read can share one cluster through a fixture of their own::

        @pytest.fixture(scope="session")
        def cluster():
            with Sandbox(nodes=2, lag=0) as cluster:
                yield cluster
    """
    from airflow_provider_impala_lb.sandbox import Sandbox

    with Sandbox() as cluster:
        yield cluster
