"""A mount that ignores XATTR_CREATE makes no compare-and-set: it is found by trial, whatever its name, and refused."""

import os
import shutil

import pytest

from airflow_provider_impala_lb import Balancer
from airflow_provider_impala_lb.doctor.lock_directory import check_lock_file
from airflow_provider_impala_lb.errors import ConfigError
from airflow_provider_impala_lb.stores.factory import open_journals
from tests.support.careless_mount import careless_mount

SAYS = r"its mount {} \(FUSE.*\) makes an attribute that is there already.* as SMB shares do: hosts would overwrite"


@pytest.fixture(scope="module")
def mount(tmp_path_factory):
    with careless_mount(tmp_path_factory.mktemp("careless")) as point:
        yield point


@pytest.fixture
def share(mount):
    place = mount / "impala"
    place.mkdir()
    yield place
    shutil.rmtree(place)


@pytest.fixture
def balancer(share):
    return Balancer.from_config({"nodes": ["a", "b"], "lock_file": str(share / "node_in_use.tmp"), "max_leases": 2})


def test_it_does_what_it_is_to_do(share):
    path = share / "x"
    path.touch()
    os.setxattr(path, "user.x", b"1", os.XATTR_CREATE)
    os.setxattr(path, "user.x", b"2", os.XATTR_CREATE)
    assert os.getxattr(path, "user.x") == b"2"


def test_no_pick_and_no_journal_is_made_there(mount, share, balancer):
    for action in (balancer.pick, balancer.acquire, balancer.cluster.store.try_out):
        with pytest.raises(ConfigError, match=SAYS.format(mount)):
            action()
    with pytest.raises(ConfigError, match=SAYS.format(mount)):
        open_journals(balancer.config).change("key", lambda document, now: (None, b"{}"))
    assert "node_in_use.tmp" not in os.listdir(share)


def test_nor_in_an_empty_file_that_an_admin_made(mount, share, balancer):
    (share / "node_in_use.tmp").touch()
    with pytest.raises(ConfigError, match=SAYS.format(mount)):
        balancer.pick()


def test_the_doctor_tries_it_where_another_mount_made_the_file(mount, share, balancer):
    path = share / "node_in_use.tmp"
    path.touch()
    os.setxattr(path, "user.lb.0", b"1z0123456789abcdef")
    (finding,) = (each for each in check_lock_file(str(path)) if each.name == "locking, two processes")
    assert finding.verdict == "failed"
    assert f"lock_file {path}: its mount {mount} " in finding.message


def test_one_that_removes_what_is_not_there_is_refused_too(tmp_path):
    with careless_mount(tmp_path, heeds="flags") as point:
        balancer = Balancer.from_config({"nodes": ["a", "b"], "lock_file": str(point / "node_in_use.tmp")})
        with pytest.raises(ConfigError, match="removes an attribute that is not there, without an error"):
            balancer.pick()
