"""The share goes read-only, full, away; a host's clock is wrong: picks go on, say why, and all is exact again after."""

import os
import subprocess
import time

import pytest

from airflow_provider_impala_lb import Balancer
from airflow_provider_impala_lb.core.state.model import LEASE_SECONDS
from airflow_provider_impala_lb.stores.file.clock import HostTime, uptime
from tests.support.shares import remount

NODES = ["a", "b", "c"]


def balancer_of(share, **keys):
    keys = {"policy": "round_robin", **keys}
    return Balancer.from_config({"nodes": NODES, "lock_file": str(share / "impala" / "node_in_use.tmp"), **keys})


def picks_go_on(balancer, picks=6):
    """Each within the deadline; the reasons they give."""
    reasons = []
    for _ in range(picks):
        start = time.monotonic()
        reasons.append(balancer.pick().why)
        assert time.monotonic() - start < 6
    return reasons


def is_exact_again(balancer):
    window = [balancer.get_host() for _ in range(9)]
    assert {window.count(host) for host in window} == {3}


def warnings(caplog):
    return [record.getMessage() for record in caplog.records if "Picking without" in record.getMessage()]


def test_a_share_that_is_read_only(share, caplog):
    balancer = balancer_of(share)
    balancer.get_host()
    remount(share, "ro")
    assert all("out of reach" in why for why in picks_go_on(balancer))
    assert len(warnings(caplog)) == 1 and "Read-only file system" in warnings(caplog)[0]
    remount(share, "rw")
    caplog.set_level("INFO")
    is_exact_again(balancer)
    assert "in reach again; 6 picks were made without it" in caplog.text


def test_a_share_that_is_full(share, caplog):
    balancer = balancer_of(share)
    for _ in range(2):  # both places of the head are there then
        balancer.get_host()
    with open(share / "filler", "wb", buffering=0) as file, pytest.raises(OSError, match="No space left"):
        while True:
            file.write(b"x" * 4096)
    # What is there is written in place, so picks need no space; a lease needs some once its page is full.
    is_exact_again(balancer)
    held = [balancer.acquire(f"owner {index} " + "x" * 200) for index in range(40)]
    assert any("out of reach" in pick.why for pick in held)
    assert any("No space left" in text or "only in part" in text for text in warnings(caplog))
    before = sum(node["picks"] for node in balancer.status()["nodes"])
    os.unlink(share / "filler")
    for pick in held:
        pick.release()
    balancer.get_host()
    assert sum(node["picks"] for node in balancer.status()["nodes"]) == before + 1
    assert balancer.status()["leases"] == []
    is_exact_again(balancer)


def test_a_share_that_is_not_there(share, caplog):
    balancer = balancer_of(share)
    balancer.get_host()
    lease = balancer.acquire("script")
    subprocess.run(["umount", "-l", str(share)], check=True)
    assert all("out of reach" in why for why in picks_go_on(balancer))
    assert "its directory is not there; is the share mounted?" in warnings(caplog)[0]
    lease.release()
    # Another one, as after a file server's restart with an older copy: it begins anew.
    subprocess.run(["mount", "-t", "tmpfs", "-o", "size=1m", "tmpfs", str(share)], check=True)
    (share / "impala").mkdir()
    is_exact_again(balancer)


def test_without_any_copy_of_a_share_that_was_there_picks_are_at_random(share):
    balancer_of(share).get_host()
    subprocess.run(["umount", "-l", str(share)], check=True)
    hosts = {balancer_of(share).get_host() for _ in range(60)}
    assert hosts == {"a:21050", "b:21050", "c:21050"}


class Wrong:
    """The clocks of a host; its time goes on by the test's word, too."""

    def __init__(self, seconds, boot, passed=0.0):
        self.seconds, self.boot, self.passed = seconds + passed, boot, passed

    def __call__(self):
        return HostTime(time.time() + self.seconds, uptime() + self.passed, self.boot)


@pytest.mark.parametrize("wrong", [600.0, -600.0])
def test_a_host_whose_clock_is_wrong_on_a_file_system_without_one_of_its_own(gluster, wrong):
    right, odd = (
        Balancer.from_config({"nodes": NODES, "lock_file": str(host / "lock"), "max_leases_per_node": 1})
        for host in gluster
    )
    right.cluster.picker._shared.host, odd.cluster.picker._shared.host = "right", "odd"
    odd.cluster.store._file.host_clock = Wrong(wrong, "odd")
    right.cluster.store._file.host_clock = Wrong(0, "right")
    held = [right.acquire("right"), odd.acquire("odd"), right.acquire("right too")]
    shift = 0.0
    for _ in range(8):  # half an hour in which both live
        shift += LEASE_SECONDS / 4
        right.cluster.store._file.host_clock = Wrong(0, "right", shift)
        odd.cluster.store._file.host_clock = Wrong(wrong, "odd", shift)
        right.cluster.leases.renew()
        odd.cluster.leases.renew()
        assert {odd.get_host() for _ in range(3)} == {f"{node}:21050" for node in NODES}  # picks go on
        with pytest.raises(Exception, match="3 nodes, 3 full"):
            odd.acquire("one too many", wait=0)
        assert len(right.status()["leases"]) == 3
    for pick in held:
        pick.release()
    assert right.status()["leases"] == []
