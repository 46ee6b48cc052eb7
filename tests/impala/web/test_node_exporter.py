"""The load of a host, from text that is known and from a real node_exporter of this one."""

import os
import resource
import subprocess
import sys
import time

import msgspec
import pytest

from airflow_provider_impala_lb.core.config.model import LoadConfig, Node
from airflow_provider_impala_lb.core.state.load_report import ExporterCounters
from airflow_provider_impala_lb.impala.web.http_fetch import ProbeFailed
from airflow_provider_impala_lb.impala.web.load_probe import probe, probe_all
from airflow_provider_impala_lb.impala.web.node_exporter import Figures, host_shares
from airflow_provider_impala_lb.sandbox import Sandbox
from tests.support.servers import eventually


def scrape(at=1000.0, idle=(100.0, 200.0), busy=(50.0, 50.0), disks=None, **single):
    lines = ["# HELP node_load1 1m load average.", "# TYPE node_load1 gauge", f"node_time_seconds {at}"]
    for cpu, (free, used) in enumerate(zip(idle, busy, strict=True)):
        lines.append(f'node_cpu_seconds_total{{cpu="{cpu}",mode="idle"}} {free}')
        lines.append(f'node_cpu_seconds_total{{cpu="{cpu}",mode="user"}} {used}')
        lines.append(f'node_cpu_guest_seconds_total{{cpu="{cpu}",mode="user"}} 77')
    lines += [f'node_disk_io_time_seconds_total{{device="{name}"}} {value}' for name, value in (disks or {}).items()]
    lines += [f'node_disk_io_time_weighted_seconds_total{{device="{name}"}} 1e9' for name in disks or {}]
    lines += [f"node_{name} {value}" for name, value in single.items()]
    return Figures("\n".join(lines) + "\n")


def shares(figures, before=None):
    return host_shares(figures, before)[0]


def test_the_first_scrape_goes_by_the_load_of_a_minute():
    assert shares(scrape(load1=0.5)) == {"cpu": 0.75}
    assert shares(scrape(load1=6))["cpu"] == -2.0  # a probe makes it 0
    assert shares(scrape()) == {}
    # No interval, no busy share of a disk.
    assert "disk" not in shares(scrape(load1=0, disks={"sda": 5}))


def test_two_scrapes_give_what_was_free_in_between():
    before = scrape(disks={"sda": 10.0, "nvme0n1": 100.0}).counters
    now = scrape(1010.0, (102.0, 203.0), (58.0, 57.0), {"sda": 14.0, "nvme0n1": 101.0, "new": 500.0}, load1=99)
    assert shares(now, before) == pytest.approx({"cpu": 5 / 20, "disk": 0.6})


def test_what_is_no_disk_or_made_of_disks_does_not_count():
    names = ["loop0", "ram0", "zram0", "dm-0", "md127", "sr0", "fd0"]
    before = scrape(disks={**dict.fromkeys(names, 0.0), "vda": 0.0}).counters
    now = scrape(1010.0, (101.0, 201.0), (51.0, 51.0), {**dict.fromkeys(names, 10.0), "vda": 1.0})
    assert shares(now, before)["disk"] == pytest.approx(0.9)
    assert set(now.disks) == {"vda"}


@pytest.mark.parametrize(
    ("at", "idle", "total"),
    [(990.0, 9999.0, 9999.0), (600.0, 290.0, 390.0), (2000.0, 290.0, 390.0)],
    ids=["rebooted", "long ago", "in the future"],
)
def test_counters_that_say_nothing_of_now_are_as_good_as_none(at, idle, total):
    assert shares(scrape(load1=0.5, disks={"sda": 5}), ExporterCounters(at, idle, total, {"sda": 1})) == {"cpu": 0.75}


def test_an_interval_that_is_too_short_goes_on():
    before = scrape().counters
    found, kept = host_shares(scrape(1000.4, (100.0, 200.0), (50.4, 50.4), load1=1), before)
    assert (found, kept) == ({"cpu": 0.5}, before)
    found, kept = host_shares(scrape(1001.2, (100.0, 200.0), (51.2, 51.2), load1=1), kept)
    assert found == {"cpu": 0.0}
    assert kept.at == 1001.2


def test_process_slots_are_those_of_the_smaller_limit():
    # What is always there says nothing of a limit.
    assert "processes" not in shares(scrape(procs_running=3, processes_pids=4))
    found = shares(scrape(processes_threads=800, processes_max_threads=10000, processes_max_processes=1000))
    assert found["processes"] == pytest.approx(0.2)
    assert shares(scrape(processes_threads=800, processes_max_threads=1000))["processes"] == pytest.approx(0.2)


def test_the_hosts_memory_is_what_programs_could_still_get():
    found = shares(scrape(memory_MemAvailable_bytes="2.5e+10", memory_MemTotal_bytes="1e+11"))
    assert found == {"memory": 0.25}


def test_what_is_no_number_is_left_out():
    assert shares(scrape(load1="NaN", memory_MemAvailable_bytes="+Inf", memory_MemTotal_bytes=1)) == {}


def test_a_page_of_something_else_is_refused():
    for text in ("", "<html></html>", "go_threads 7\n", "nodeload1 7\n"):
        with pytest.raises(ProbeFailed, match="is not a node_exporter's page"):
            Figures(text)
    with pytest.raises(ProbeFailed, match="node_load1 is 'x', not a number"):
        Figures("node_load1 x\n")


def test_counters_survive_the_shared_state():
    counters = scrape(disks={"sda": 10.0}).counters
    assert msgspec.json.decode(msgspec.json.encode(counters), type=ExporterCounters) == counters


def test_a_real_node_exporter_tells_of_a_real_burden(exporter):
    node = Node("a", exporter=exporter)
    first = probe(node, LoadConfig(), None, seconds=5)
    assert {"cpu", "memory", "processes"} <= set(first.sample.shares)
    assert all(0 <= share <= 1 for share in first.sample.shares.values())
    assert first.sample.queries is None
    assert 0.5 < first.sample.shares["processes"] < 1

    def over(seconds):
        """Counters before, and the reading after, about this time."""
        before = probe(node, LoadConfig(), None, seconds=5).counters
        time.sleep(seconds)
        found = probe(node, LoadConfig(), None, before=before, seconds=5)
        assert found.counters.at - before.at >= 1
        return before, found

    command = [sys.executable, "-c", "while True: pass"]
    start, used = time.monotonic(), children_cpu()
    burners = [subprocess.Popen(command) for _ in range(os.cpu_count())]
    try:
        before, found = over(2)
    finally:
        for burner in burners:
            burner.kill()
            burner.wait()
    # What they could burn: a container may have fewer CPUs than its host, which is what the exporter tells of.
    burnt = (children_cpu() - used) / (time.monotonic() - start)
    cpus = (found.counters.total - before.total) / (found.counters.at - before.at)
    busy = found.sample.shares["cpu"]
    assert busy == pytest.approx((found.counters.idle - before.idle) / (found.counters.total - before.total))
    assert 1 - busy > 0.6 * burnt / cpus > 0
    if found.counters.disks:
        assert 0 <= found.sample.shares["disk"] <= 1
    # Others may work on this machine too: only that it is better again, at some time.
    eventually(lambda: over(1.2)[1].sample.shares["cpu"] > busy + 0.3 * burnt / cpus, 60)


def children_cpu():
    """Seconds, of those that have ended."""
    usage = resource.getrusage(resource.RUSAGE_CHILDREN)
    return usage.ru_utime + usage.ru_stime


def test_a_coordinators_share_of_memory_is_the_smaller_of_its_own_and_its_hosts(exporter):
    with Sandbox(nodes=1, lag=0) as cluster:
        (node,) = cluster.nodes
        both = Node(node.host, node.port, web=node.web, exporter=exporter)
        alone = Node(node.host, node.port, exporter=exporter)
        node.set_load(memory=0.99)
        (found,) = probe_all([both], LoadConfig(), None, 5).values()
        assert found.sample.shares["memory"] == pytest.approx(0.01, abs=0.001)
        assert {"cpu", "connections", "heap", "admission"} <= set(found.sample.shares)
        node.set_load(memory=0.0)
        hosts = probe(alone, LoadConfig(), None, seconds=5).sample.shares["memory"]
        (found,) = probe_all([both], LoadConfig(), None, 5).values()
        assert found.sample.shares["memory"] == pytest.approx(hosts, abs=0.1)
        assert found.sample.shares["memory"] < 1
        # The counters of one probe are for the next, here of all nodes by address.
        before = {both.address: found.counters}
        time.sleep(1.1)
        (found,) = probe_all([both], LoadConfig(), None, 5, before=before).values()
        assert found.counters.at > before[both.address].at
