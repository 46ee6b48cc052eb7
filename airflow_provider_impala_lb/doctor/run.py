"""All that the doctor looks at, in order: configuration, lock file, state, clocks, nodes."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator

from airflow_provider_impala_lb.balancer import Balancer
from airflow_provider_impala_lb.doctor.coordinators import check_nodes
from airflow_provider_impala_lb.doctor.finding import Finding
from airflow_provider_impala_lb.doctor.lock_directory import check_lock_file
from airflow_provider_impala_lb.doctor.two_hosts import check_other_host
from airflow_provider_impala_lb.errors import ConfigError, ImpalaLBError
from airflow_provider_impala_lb.stores.factory import open_journals
from airflow_provider_impala_lb.stores.file.store import FileStore


def run_checks(make: Callable[[], Balancer], peer: str | tuple[str, int] | None, *, listen: bool) -> Iterator[Finding]:
    """What was found, as it is found.

    :param make: gives the balancer, or raises ConfigError.
    :param peer: a directory, by a second mount of this host; or the address of the other host's doctor, or with
        ``listen`` of this one's. None: only this host and its mount.
    :param listen: whether to wait for the other host's doctor.
    """
    try:
        balancer = make()
    except ConfigError as error:
        yield Finding("config", "failed", str(error))
        return
    config = balancer.config
    if config.source is None or config.nodes:
        yield Finding("config", "ok", f"{config.name}: {len(config.nodes)} nodes")
    else:
        yield Finding("config", "failed", balancer.cluster.discovery.none_known, "correct nodes, or look at its source")
    usable = True
    if config.lock_file and not config.store:
        for finding in check_lock_file(config.lock_file, peer if isinstance(peer, str) else None):
            usable = usable and (finding.name, finding.verdict) != ("lock directory", "failed")
            yield finding
        if isinstance(peer, tuple):
            yield from check_other_host(config.lock_file, config.name, peer, listen=listen, command=balancer.command)
    elif peer:
        yield Finding("other host", "failed", f"{config.name} has no lock file to try from two sides")
    if usable and (config.lock_file or config.store):
        yield from check_state(balancer)
        yield from _check_journals(balancer)
    yield from check_nodes(balancer)


def _check_journals(balancer: Balancer) -> Iterator[Finding]:
    """Where resumable and deferred scripts note what has run."""
    journals = open_journals(balancer.config)
    if journals is None:
        return
    try:
        may_lose = journals.durability()
        journals.keys()
    except ImpalaLBError as error:
        yield Finding("journals", "failed", str(error))
        return
    yield Finding("journals", "warning" if may_lose else "ok", may_lose or journals.where)


def check_state(balancer: Balancer) -> Iterator[Finding]:
    """Can this process read, lock and write the shared state?

    :param balancer: of the configuration whose state is meant.
    """
    config, store = balancer.config, balancer.cluster.store
    try:
        balancer.status()
        ahead: dict[str, float] = {}
        if isinstance(store, FileStore):
            store.try_out()
        else:
            store.transact(lambda state, now: None)
        # A lock file that is not there is left for a worker to make: the doctor's user may be another one.
        if config.store or (config.lock_file and os.path.exists(config.lock_file)):
            ahead = balancer.cluster.admin.clocks()
    except ImpalaLBError as error:
        yield Finding("state", "failed", str(error))
        return
    yield Finding("state", "ok", store.where)
    if ahead:
        clocks = ", ".join(f"{host} {seconds:+.0f} s" for host, seconds in sorted(ahead.items()))
        yield Finding(
            "clocks of hosts",
            "warning",
            f"beside this one: {clocks}. Each host goes by its own clock here: session keys, and what is remembered of "
            "failures, end early or late",
            "run NTP on all of them; a host that is behind is found by a doctor there",
        )
