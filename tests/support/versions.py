"""The versions of Impala on which tests run. ``IMPALA=3.4 make test``: all practice clusters whose test names none
behave as that one. The tests of a script's life run on the oldest and the newest in any case."""

import os

import pytest

from airflow_provider_impala_lb.sandbox.common.versions import NUMBERS

OLDEST, NEWEST = next(iter(NUMBERS)), next(reversed(NUMBERS))
VERSION = os.environ.get("IMPALA", NEWEST)
"""As which a practice cluster behaves where its test does not say."""
VERSIONS = [NEWEST, pytest.param(OLDEST, marks=pytest.mark.slow)]
"""For a fixture ``version``: all of a file, of which the quick suite has the newest."""
ON_BOTH = pytest.mark.parametrize("version", [NEWEST, OLDEST])
"""For a test of such a file that is in the quick suite on both: few, since each starts a cluster."""


def is_older(version: str) -> bool:
    """Whether the practice clusters behave as an older one than this."""
    order = list(NUMBERS)
    return order.index(VERSION) < order.index(version)
