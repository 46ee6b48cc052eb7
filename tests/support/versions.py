"""The versions of Impala on which the tests of a script's life run: the oldest and the newest that are known."""

import pytest

from airflow_provider_impala_lb.sandbox.common.versions import NUMBERS

OLDEST, NEWEST = next(iter(NUMBERS)), next(reversed(NUMBERS))
VERSIONS = [NEWEST, pytest.param(OLDEST, marks=pytest.mark.slow)]
"""For a fixture ``version``: all of a file, of which the quick suite has the newest."""
ON_BOTH = pytest.mark.parametrize("version", [NEWEST, OLDEST])
"""For a test of such a file that is in the quick suite on both: few, since each starts a cluster."""
