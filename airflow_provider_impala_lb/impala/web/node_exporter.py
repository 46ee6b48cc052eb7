"""The load of a host from its Prometheus node_exporter, whose collectors are named in these comments.

https://github.com/prometheus/node_exporter: ``collector/*_linux.go`` say which file of /proc each metric is.
"""

from __future__ import annotations

import math
import re
import time

from airflow_provider_impala_lb.core.state.load_report import ExporterCounters
from airflow_provider_impala_lb.impala.web.http_fetch import ProbeFailed

# Jiffies are 10 ms: over a shorter interval the share is noise. Over a longer one it is of the past.
SHORTEST_INTERVAL = 1.0
LONGEST_INTERVAL = 300.0

_LINE = re.compile(
    r"^(node_(?:cpu_seconds_total|disk_io_time_seconds_total|load1|time_seconds|memory_MemAvailable_bytes"
    r"|memory_MemTotal_bytes|processes_threads|processes_max_threads|processes_max_processes))"
    r"(?:\{([^}\n]*)\})? (\S+)",
    re.MULTILINE,
)
_LABEL = re.compile(r'(\w+)="((?:[^"\\]|\\.)*)"')
# Memory and files that look like disks; and what is stacked on disks (LVM and multipath are dm, RAID is md): those
# are busy whenever any disk below is, so that three half-busy disks would look like one that is full.
_NOT_DISKS = re.compile(r"loop|z?ram|dm-|md|fd\d|sr\d")


class Figures:
    """One scrape, parsed.

    :param text: the page.
    :param url: whose it is, for the error; default "exporter".
    :raises ProbeFailed: it is not node_exporter's.
    :ivar single: metric, without ``node_`` -> its value, of those that have no labels.
    :ivar disks: disk -> seconds that it was busy since the host has started.
    :ivar idle: seconds that all CPUs were idle since then.
    :ivar total: seconds of all CPUs since then.
    :ivar cpus: how many there are.
    """

    def __init__(self, text: str, url: str = "exporter") -> None:
        self.single: dict[str, float] = {}
        self.disks: dict[str, float] = {}
        self.idle = self.total = 0.0
        cpus = set()
        for name, labels, value in _LINE.findall(text):
            try:
                number = float(value)
            except ValueError:
                raise ProbeFailed(f"{url}: {name} is {value[:40]!r}, not a number") from None
            if not math.isfinite(number):
                continue
            label = dict(_LABEL.findall(labels))
            if name == "node_cpu_seconds_total":
                cpus.add(label.get("cpu"))
                self.total += number
                self.idle += number if label.get("mode") == "idle" else 0.0
            elif name == "node_disk_io_time_seconds_total":
                if not _NOT_DISKS.match(label.get("device", "")):
                    self.disks[label.get("device", "")] = number
            else:
                self.single[name.removeprefix("node_")] = number
        self.cpus = len(cpus)
        if not self.single and not self.cpus:
            raise ProbeFailed(f"{url}: is not a node_exporter's page: no metric of a host is in it")

    @property
    def counters(self) -> ExporterCounters:
        """For the next reading."""
        # The host's own clock, as its counters are: how long the answer took on its way does not matter.
        return ExporterCounters(self.single.get("time_seconds", time.time()), self.idle, self.total, self.disks)


def host_shares(figures: Figures, before: ExporterCounters | None) -> tuple[dict[str, float], ExporterCounters]:
    """The free share of each resource of the host that the scrape tells of, and the counters for the next one.

    * ``cpu``: the part of the time since ``before`` that CPUs were idle (collector cpu, mode idle; waiting for a disk
      is not idle). Without a usable ``before``: 1 - load of one minute / CPUs (collector loadavg).
    * ``disk``: 1 - the part of that time the busiest disk was busy (collector diskstats). Without ``before``: absent.
      A disk array that is busy all the time can often take more; it is the best that every Linux counts.
    * ``processes``: 1 - threads / the most there can be (collector processes, which is off by default; absent then).
      Each thread takes a process id too (proc(5), pid_max), so the smaller of threads-max and pid_max counts. How many
      processes run right now (``node_procs_running``) is no share of anything, and cpu says it better.
    * ``memory``: what programs could still get / all there is (collector meminfo).

    :param figures: of the scrape.
    :param before: counters of this host's last scrape; None: there was none. Those from before a reboot, or more than
        5 minutes old, are as good as none; ones less than a second old are kept for the next time.
    """
    now = figures.counters
    elapsed = now.at - before.at if before else 0.0
    went_back = before is not None and (now.idle < before.idle or now.total < before.total)
    since = None
    if before and not went_back and 0 <= elapsed < SHORTEST_INTERVAL:
        now = before
    elif before and not went_back and 0 < elapsed <= LONGEST_INTERVAL:
        since = before
    shares: dict[str, float] = {}
    if since and figures.total > since.total:
        shares["cpu"] = (figures.idle - since.idle) / (figures.total - since.total)
    elif "load1" in figures.single and figures.cpus:
        shares["cpu"] = 1 - figures.single["load1"] / figures.cpus
    if since:
        busy = [
            (seconds - since.disks[name]) / elapsed for name, seconds in figures.disks.items() if name in since.disks
        ]
        if busy:
            shares["disk"] = 1 - max(busy)
    single = figures.single
    limits = [single[name] for name in ("processes_max_threads", "processes_max_processes") if single.get(name, 0) > 0]
    if "processes_threads" in single and limits:
        shares["processes"] = 1 - single["processes_threads"] / min(limits)
    if "memory_MemAvailable_bytes" in single and single.get("memory_MemTotal_bytes", 0) > 0:
        shares["memory"] = single["memory_MemAvailable_bytes"] / single["memory_MemTotal_bytes"]
    return shares, now
