"""A wrong clock may delay; it never ends a live lease: not where it is set, nor where the host was suspended."""

import os
import random
import subprocess
import sys
import time

import pytest

from airflow_provider_impala_lb.core.config.parse import parse
from airflow_provider_impala_lb.core.state.model import LEASE_SECONDS, RENEW_SECONDS
from airflow_provider_impala_lb.stores.file import clock
from airflow_provider_impala_lb.stores.file.clock import HostTime, ServerClock, server_time
from airflow_provider_impala_lb.stores.file.new_file import ABANDONED_SECONDS, remove_abandoned
from airflow_provider_impala_lb.stores.file.store import FileStore
from tests.support.balancers import BareBalancer


class Kernel:
    """The clocks of one; what passes there is the test's word."""

    def __init__(self, boot, wall=1_000_000.0):
        self.boot, self.wall, self.uptime = boot, wall, 1000.0

    def __call__(self):
        return HostTime(self.wall, self.uptime, self.boot)

    def pass_time(self, seconds):
        self.wall += seconds
        self.uptime += seconds


def host(path, kernel, name):
    store = FileStore(path)
    store._file.host_clock = kernel
    config = parse({"nodes": ["a", "b"], "lock_file": path, "name": "t", "max_leases_per_node": 9})
    balancer = BareBalancer(config, store)
    balancer.host = name
    return balancer


def live(balancer):
    return sorted(lease.owner for lease in balancer.store.read()[0].leases.values())


def two_hosts(path, request, hosts):
    if hosts == "one kernel, a local disk":
        kernels = [Kernel("one")] * 2
    else:
        request.getfixturevalue("path_on_fuse")
        kernels = [Kernel("one"), Kernel("two", 1_000_600.0)]
    return kernels, [host(path, kernel, name) for kernel, name in zip(kernels, "ab", strict=True)]


@pytest.mark.parametrize("hosts", ["one kernel, a local disk", "two, each with its own clock"])
@pytest.mark.parametrize("steps", [[600.0], [600.0, -600.0], [40.0], [86400.0, -3600.0, 20.0, -44.0]])
@pytest.mark.parametrize("often", [20, 400])
def test_however_often_a_hosts_clock_is_set_no_live_lease_ends(tmp_path, request, hosts, steps, often):
    kernels, balancers = two_hosts(str(tmp_path / "node_in_use.tmp"), request, hosts)
    rng = random.Random(f"{hosts} {steps} {often}")
    held = [balancer.acquire(name) for balancer, name in zip(balancers, "ab", strict=True)]
    renew_at, step_at = [rng.uniform(0, RENEW_SECONDS) for _ in balancers], rng.uniform(1, often)
    for second in range(900):
        for kernel in set(kernels):
            kernel.pass_time(1)
        if second >= step_at:
            step_at = second + rng.uniform(1, often)
            rng.choice(kernels).wall += rng.choice(steps)
        for index, balancer in enumerate(balancers):
            if second >= renew_at[index]:
                renew_at[index] += RENEW_SECONDS
                assert balancer.leases.renew() == [], second
        if rng.random() < 0.1:
            rng.choice(balancers).get_host()
    assert live(balancers[0]) == ["a", "b"]
    for pick in held:
        pick.release()


@pytest.mark.parametrize("hosts", ["one kernel, a local disk", "two, each with its own clock"])
def test_a_lease_of_who_is_gone_ends_all_the_same_after_a_step(tmp_path, request, hosts):
    kernels, balancers = two_hosts(str(tmp_path / "node_in_use.tmp"), request, hosts)
    gone = balancers[0].acquire("gone")
    balancers[0].leases._held.clear()
    lease = balancers[1].acquire("here")
    kernels[1].wall -= 3600
    for _ in range(100):
        for kernel in set(kernels):
            kernel.pass_time(RENEW_SECONDS)
        balancers[1].leases.renew()
        balancers[1].get_host()
    assert live(balancers[1]) == ["here"]
    lease.release()
    assert gone


def test_who_was_suspended_finds_his_leases(tmp_path):
    """Its uptime goes on meanwhile, and its clock."""
    kernel = Kernel("one")
    first, second = (host(str(tmp_path / "node_in_use.tmp"), kernel, "a") for _ in range(2))
    pick = first.acquire("a")
    for _ in range(5):
        kernel.pass_time(3600)
        second.get_host()
        assert first.leases.renew() == []
        kernel.pass_time(LEASE_SECONDS / 2)
        second.get_host()
        assert live(second) == ["a"]
        kernel.pass_time(1)
        first.leases.renew()
    pick.release()


def test_the_servers_time_is_measured_and_leaves_nothing(tmp_path):
    assert abs(server_time(str(tmp_path)) - time.time()) < 1
    assert os.listdir(tmp_path) == []


def test_a_measurement_that_was_killed_is_cleared_away(tmp_path):
    left = tmp_path / f"{clock.PROBE}{0:016x}"
    left.mkdir()
    remove_abandoned(str(tmp_path / "lock"), None)
    assert left.exists()
    os.utime(left, (time.time() - ABANDONED_SECONDS - 60,) * 2)
    remove_abandoned(str(tmp_path / "lock"), None)
    assert os.listdir(tmp_path) == []


class Server:
    """A file server's time, as the host measures it."""

    def __init__(self, monkeypatch, kernel):
        self.ahead, self.is_away, self.kernel, self.measured = -600.0, False, kernel, 0
        monkeypatch.setattr(clock, "host_time", kernel)
        self.clock = ServerClock("/not/used", self)

    def __call__(self, directory):
        if self.is_away:
            raise PermissionError(13, "Permission denied")
        self.measured += 1
        return self.kernel.uptime + self.ahead

    def is_right(self):
        return self.clock.now() == pytest.approx(self.kernel.uptime + self.ahead)


@pytest.fixture
def server(monkeypatch):
    return Server(monkeypatch, Kernel("one"))


def test_a_step_of_the_hosts_clock_does_not_reach_the_servers_time(server):
    assert server.is_right()
    for step in (3600.0, -7200.0, 0.0):
        server.kernel.wall += step
        server.kernel.pass_time(5)
        assert server.is_right()


def test_a_virtual_machine_that_was_stopped_measures_anew_as_soon_as_its_clock_is_set(server):
    """Neither of its clocks has gone on meanwhile; the server's has."""
    assert server.is_right()
    server.ahead += 3600
    server.kernel.wall += 3600
    assert server.is_right() and server.measured == 2


def test_a_time_that_was_never_measured_is_not_the_hosts(server):
    server.is_away = True
    with pytest.raises(PermissionError):
        server.clock.now()


def test_a_server_that_is_away_for_a_while_is_done_without(server):
    assert server.is_right()
    server.is_away = True
    server.kernel.pass_time(600)
    assert server.is_right()
    server.kernel.wall += 3600
    with pytest.raises(PermissionError):
        server.clock.now()
    server.is_away = False
    assert server.is_right()


@pytest.mark.parametrize("gone", [("wall", "uptime"), ("wall",)], ids=["a mount that hung", "a machine that stopped"])
def test_a_measurement_that_took_long_says_nothing_and_is_made_again(monkeypatch, gone):
    kernel = Kernel("one")
    monkeypatch.setattr(clock, "host_time", kernel)
    server, slow = Kernel("server"), [600.0]

    def measure(directory):
        stamp = server.wall
        for seconds in slow:
            server.wall += seconds
            for clock_of_host in gone:
                setattr(kernel, clock_of_host, getattr(kernel, clock_of_host) + seconds)
        slow.clear()
        return stamp

    measured = ServerClock("/not/used", measure)
    assert measured.now() == server.wall
    for each in (kernel, server):
        each.pass_time(clock.MEASURE_EVERY)
    slow.extend([600.0])
    assert measured.now() == server.wall
    monkeypatch.setattr(clock, "host_time", lambda: HostTime(kernel.wall, next(ticks), ""))
    ticks = iter(range(2000, 9000, 11))
    with pytest.raises(TimeoutError, match="more than 10 s each"):
        ServerClock("/not/used", measure).now()


def test_the_time_of_a_change_is_that_of_the_change(tmp_path, monkeypatch):
    """Not of the measurement before it: in between the process may have waited for the lock, or been stopped."""
    kernel = Kernel("one")
    store = FileStore(str(tmp_path / "node_in_use.tmp"))
    store._file.host_clock = kernel
    monkeypatch.setattr(FileStore, "_by_server_clock", True)
    acquire = store._lock.acquire

    def stopped_meanwhile(call):
        kernel.pass_time(600)
        return acquire(call)

    monkeypatch.setattr(store._lock, "acquire", stopped_meanwhile)
    assert store.transact(lambda state, now: now) == kernel.wall


def test_the_uptime_goes_on_while_the_host_is_suspended():
    """By CLOCK_BOOTTIME: in a namespace where a day more of it has passed than of CLOCK_MONOTONIC, as if suspended."""
    code = f"import time; from {clock.__name__} import uptime; print(uptime() - time.monotonic())"
    command = ["unshare", "--time", "--boottime", "86400", sys.executable, "-c", code]
    found = subprocess.run(command, capture_output=True, text=True)
    if found.returncode and "unshare" in found.stderr:
        pytest.skip(f"no time namespace here, so a suspended host is NOT tested: {found.stderr}")
    assert float(found.stdout) > 86000, found.stderr
