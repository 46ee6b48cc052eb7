import itertools

import pytest

from airflow_provider_impala_lb.stores.file import filesystem
from tests.support import glusterfs
from tests.support.servers import make_cluster, running

_numbers = itertools.count()


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


@pytest.fixture(scope="session")
def shared_cluster(tmp_path_factory):
    with running() as start:
        yield make_cluster(start, tmp_path_factory.mktemp("cluster"))


@pytest.fixture
def redis_cluster(shared_cluster):
    """URL of a cluster without keys."""
    for node in shared_cluster:
        node.cli("FLUSHALL")
    return f"redis+cluster://127.0.0.1:{shared_cluster[0].port}"


@pytest.fixture(scope="session")
def gluster_volume(tmp_path_factory):
    with glusterfs.volume(tmp_path_factory.mktemp("gluster")) as volume:
        yield volume


@pytest.fixture
def gluster(gluster_volume):
    """An empty directory on a GlusterFS, as two hosts name it."""
    return gluster_volume.directories(f"test{next(_numbers)}")


@pytest.fixture
def path_on_fuse(tmp_path, monkeypatch):
    """A lock file on a local disk that is taken for a file system that may show the past."""
    monkeypatch.setattr(filesystem, "kind", lambda descriptor: 0x65735546)
    return str(tmp_path / "node_in_use.tmp")
