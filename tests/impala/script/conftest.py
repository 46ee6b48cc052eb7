"""The cluster on which most scripts here run."""

import pytest

from airflow_provider_impala_lb.sandbox import Sandbox
from tests.support.scripts import changed, run
from tests.support.versions import VERSION


@pytest.fixture
def version():
    """Of Impala, as which the cluster behaves."""
    return VERSION


@pytest.fixture
def pair(version):
    """Two coordinators without a lag, and a table ``t (n INT)``."""
    with Sandbox(nodes=2, lag=0, version=version) as cluster:
        run(changed(cluster), "CREATE TABLE t (n INT)")
        yield cluster
