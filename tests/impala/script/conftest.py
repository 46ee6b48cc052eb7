"""The cluster on which most scripts here run."""

import pytest

from airflow_provider_impala_lb.sandbox import Sandbox
from tests.support.scripts import changed, run


@pytest.fixture
def pair():
    """Two coordinators without a lag, and a table ``t (n INT)``."""
    with Sandbox(nodes=2, lag=0) as cluster:
        run(changed(cluster), "CREATE TABLE t (n INT)")
        yield cluster
