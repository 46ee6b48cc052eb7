"""Fixtures of stores: servers, shares, and processes that work on them."""

import itertools
import os
import subprocess

import pytest

from airflow_provider_impala_lb.stores.file import filesystem
from tests.support import glusterfs
from tests.support.components import lacking
from tests.support.crews import Crew
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


@pytest.fixture
def share(tmp_path, monkeypatch):
    """A file system of its own, 1 MiB, that the test may break."""
    if "TMPDIR" not in os.environ:
        monkeypatch.setenv("TMPDIR", str(tmp_path))  # for this host's memory of what it has used
    point = tmp_path / "nas"
    point.mkdir()
    made = subprocess.run(
        ["mount", "-t", "tmpfs", "-o", "size=1m", "tmpfs", str(point)], capture_output=True, text=True
    )
    if made.returncode:
        lacking(f"no file system can be mounted here, so faults of the NAS are NOT tested: {made.stderr}")
    (point / "impala").mkdir()
    yield point
    while os.path.ismount(point):
        subprocess.run(["umount", "-l", str(point)], check=True)


@pytest.fixture
def crew():
    """Forked workers, each with room to report; killed with the test."""
    crew = Crew(64 * 30)
    yield crew
    for pid in list(crew.pids):
        crew.kill(pid)
