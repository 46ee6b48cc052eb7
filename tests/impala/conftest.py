import pytest

from airflow_provider_impala_lb import Balancer
from airflow_provider_impala_lb.sandbox import Sandbox


@pytest.fixture(scope="session")
def cluster():
    """Three coordinators without lag, for tests that leave them as they were."""
    with Sandbox(nodes=3, lag=0) as cluster:
        yield cluster


@pytest.fixture
def balancer(cluster):
    return Balancer.from_config(cluster.config)


def changed(cluster, **keys):
    """A balancer whose configuration differs from the cluster's; ``session`` keys are merged."""
    config = cluster.config
    session = {**config["session"], **keys.pop("session", {})}
    return Balancer.from_config({**config, **keys, "session": session})


def statements_on(node):
    return [entry["sql"] for entry in node.journal() if "sql" in entry]


def events_on(node):
    return [entry["event"] for entry in node.journal() if "event" in entry]
