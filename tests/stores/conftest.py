import pytest

from tests.stores.servers import running


@pytest.fixture
def start_redis():
    with running() as start:
        yield start


@pytest.fixture(scope="session")
def shared_redis(tmp_path_factory):
    with running() as start:
        yield start(tmp_path_factory.mktemp("redis"))


@pytest.fixture
def redis(shared_redis):
    """A server without keys."""
    shared_redis.cli("FLUSHALL")
    return shared_redis
