"""The public `Balancer`: a facade over what picks nodes and what opens sessions on them; it decides nothing itself."""

from __future__ import annotations

import os
from collections.abc import Collection, Mapping, Sequence
from functools import cached_property, partial
from typing import TYPE_CHECKING, Any

from airflow_provider_impala_lb.core.cluster.cluster import Cluster
from airflow_provider_impala_lb.core.cluster.lease_options import LeaseOptions, QueueOptions
from airflow_provider_impala_lb.core.cluster.pick import Pick
from airflow_provider_impala_lb.core.config.model import Config, LoadConfig, Node, NodeSource
from airflow_provider_impala_lb.core.config.parse import load, parse
from airflow_provider_impala_lb.core.ports import Store
from airflow_provider_impala_lb.core.state.load_report import ExporterCounters, LoadSample, ProbeResult
from airflow_provider_impala_lb.errors import ConfigError
from airflow_provider_impala_lb.impala.hs2.session_factory import SessionFactory
from airflow_provider_impala_lb.stores.factory import open_mirror, open_store

if TYPE_CHECKING:
    from pathlib import Path

    from airflow_provider_impala_lb.impala.dbapi import Connection
    from airflow_provider_impala_lb.impala.script.upstream import Upstream

__all__ = ["Balancer", "Pick"]


class Balancer:
    """Picks coordinators, and connects to them. Threads may share one.

    :param config: as `from_config` reads it.
    :param store: where the state lies; default as the configuration says.
    :param password: for ``auth_mechanism`` PLAIN and LDAP; default what ``session.password_file`` holds, else the
        environment's ``IMPALA_LB_PASSWORD``.
    :param web_password: for ``load.web_auth``; default the environment's ``IMPALA_LB_WEB_PASSWORD``.
    :param seal_key: seals what the journals keep of sessions; default the environment's ``IMPALA_LB_SEAL_KEY``, else
        the password.
    :param options: of the command line for this configuration, for the commands that an error proposes; default
        ``--config FILE``, which is not to be run as it stands.
    :ivar cluster: the picks, leases, reports and session keys behind the methods here.
    :ivar sessions: opens sessions on the nodes.
    """

    def __init__(
        self,
        config: Config,
        store: Store | None = None,
        *,
        password: str | None = None,
        web_password: str | None = None,
        seal_key: str | None = None,
        options: Sequence[str] = ("--config", "FILE"),
    ) -> None:
        self.cluster = Cluster(
            config,
            store or open_store(config),
            mirror=open_mirror(config),
            prober=self._probe if config.load is not None else None,
            finder=partial(self._find, config.load or LoadConfig()) if config.source else None,
        )
        self.sessions = SessionFactory(
            config, password, web_password, seal_key, current=lambda: self.config if config.source else config
        )
        self._options = tuple(options)

    @property
    def config(self) -> Config:
        """The configuration; where nodes are found, with those that were last known."""
        return self.cluster.config

    @classmethod
    def from_config(cls, config: str | Path | Mapping[str, Any] | Config, *, password: str | None = None) -> Balancer:
        """A balancer of a configuration.

        :param config: a YAML file's path, or a mapping with the file's keys.
        :param password: as for the class.
        :raises ConfigError: names the file, the key, the value, and what is allowed.
        """
        if isinstance(config, Mapping):
            return cls(parse(config), password=password)
        if isinstance(config, Config):
            return cls(config, password=password)
        return cls(load(config), password=password, options=("--config", os.path.abspath(config)))

    @cached_property
    def command(self) -> str:
        """How a command for this configuration begins, for a shell."""
        import shlex

        return shlex.join(["impala-lb", *self._options])

    def get_host(self) -> str:
        """The next node as ``host:port``; every call moves on.

        :raises NoNodeAvailable: as :meth:`acquire`.
        :raises ConfigError: as :meth:`acquire`.
        """
        return self.cluster.picker.pick().host

    def pick(
        self,
        *,
        session_key: str | None = None,
        prefer: str | None = None,
        exclude: Collection[str] | Mapping[str, str] = (),
    ) -> Pick:
        """One pick without a lease; it weighs on its node until a report covers it, or 30 s.

        It never waits, and ``max_leases`` does not bind it, since nobody could say when it ends.

        :param session_key: as :meth:`acquire`.
        :param prefer: as :meth:`acquire`.
        :param exclude: as :meth:`acquire`.
        :raises NoNodeAvailable: as :meth:`acquire`.
        :raises ConfigError: as :meth:`acquire`.
        """
        return self.cluster.picker.pick(session_key=session_key, prefer=prefer, exclude=exclude)

    def acquire(
        self,
        owner: str = "",
        session_key: str | None = None,
        prefer: str | None = None,
        exclude: Collection[str] | Mapping[str, str] = (),
        *,
        wait: float | None = None,
    ) -> Pick:
        """A pick with a lease, renewed until it is released. Use it in a ``with`` block.

        While every node is busy or full it waits, first come first served among all workers of all hosts.

        :param owner: who asks, e.g. ``dag/run/task``; shown by status. Default "".
        :param session_key: picks with the same key stay on one node; None (default): it has none.
        :param prefer: a node (``host:port``) to keep if it may take work; None (default): any.
        :param exclude: nodes not to pick; a mapping gives each one's reason, for `Pick.why` and errors. Default none.
        :param wait: seconds to wait at most; default ``max_wait``. Then a busy node is taken, the one with the most
            headroom; a full one never is.
        :raises NoNodeAvailable: every node is excluded, drained or full; the message says how many, and why each.
        :raises ConfigError: ``prefer`` is not a node of this configuration, or the store belongs to another cluster.
        """
        owner = self.config.owner_of(owner)
        return self.cluster.picker.acquire(owner, session_key, prefer, exclude, LeaseOptions(QueueOptions(wait=wait)))

    def hold(self, seconds: float, owner: str = "", session_key: str | None = None, wait: float | None = None) -> Pick:
        """A pick with a lease that nobody renews. For programs that do not go on running here.

        :param seconds: the lease ends after so long, or by :meth:`release`; at most 30 days.
        :param owner: as :meth:`acquire`.
        :param session_key: as :meth:`acquire`.
        :param wait: as :meth:`acquire`.
        :raises NoNodeAvailable: as :meth:`acquire`.
        :raises ConfigError: ``seconds`` cannot be meant, or as :meth:`acquire`.
        """
        return self.cluster.picker.hold(seconds, self.config.owner_of(owner), session_key, wait)

    def release(self, lease_id: str) -> bool:
        """End a lease of :meth:`hold`.

        :param lease_id: its id.
        :returns: False if there is none: it has expired, or ended before.
        :raises StateUnavailable: it could not be ended now; it ends by its expiry.
        """
        return self.cluster.admin.release(lease_id)

    def connect(
        self,
        owner: str = "",
        *,
        database: str | None = None,
        session_key: str | None = None,
        prefer: str | None = None,
        upstream: Upstream | None = None,
    ) -> Connection:
        """A DB-API connection to a picked node; ``close()`` ends its lease.

        A node that refuses the connection is left out, and the next is picked.

        :param owner: who asks, e.g. ``dag/run/task``; shown by status. Default "".
        :param database: of each cursor's session; None (default): the configuration's.
        :param session_key: connections and scripts with the same key are on one node; None (default): it has none.
        :param prefer: a node (``host:port``) to keep if it takes the connection; None (default): any.
        :param upstream: what ran on ``prefer`` before, and changed; another node is told of it first. None (default):
            not known.
        :raises NoNodeAvailable: none could take it; the error says why for each.
        :raises ConfigError: the login was refused, or ``prefer`` is not a node of the configuration.
        """
        from airflow_provider_impala_lb.impala.dbapi import ConnectOptions, connect

        options = ConnectOptions(self.config.owner_of(owner), database, session_key, prefer, upstream)
        return connect(self.cluster, self.sessions, options)

    def status(self) -> dict[str, Any]:
        """The cluster as JSON-ready values: ``cluster``, ``policy``, ``load``, ``nodes``, ``leases``, ``sessions``,
        ``waiting``.

        :raises StateUnavailable: the store cannot be read.
        """
        return self.cluster.admin.status()

    def drain(self, node: str) -> None:
        """Take a node out: no new work; what runs there finishes. Until :meth:`ready`.

        :param node: ``host:port``.
        :raises ConfigError: not a node of this configuration.
        :raises StateUnavailable: it was not noted.
        """
        self.cluster.admin.drain(node)

    def ready(self, node: str) -> None:
        """Put a node back, also one that is out for its failures.

        :param node: ``host:port``.
        :raises ConfigError: as :meth:`drain`.
        :raises StateUnavailable: as :meth:`drain`.
        """
        self.cluster.admin.ready(node)

    def report(self, node: str, sample: LoadSample) -> None:
        """Note what somebody else found out about a node's load, as if it had been asked.

        It counts for three times ``load.refresh``, or until the next report.

        :param node: ``host:port``.
        :param sample: what was found out.
        :raises ConfigError: not a node of this configuration, or that has no ``load``.
        :raises StateUnavailable: it was not noted.
        """
        if self.config.load is None:
            raise ConfigError(f"load: is off in the configuration of {self.config.name}, so no report is used")
        self.cluster.reports.note(self.config.canonical(node), sample)

    def _find(self, settings: LoadConfig, source: NodeSource) -> dict[str, str]:
        from airflow_provider_impala_lb.impala.web.node_finder import find_nodes

        return find_nodes(source, settings, self.sessions.web_password)

    def _probe(
        self, nodes: Sequence[Node], named: Mapping[str, str], counters: Mapping[str, ExporterCounters]
    ) -> Mapping[str, ProbeResult | str]:
        from airflow_provider_impala_lb.impala.web.load_probe import probe_all

        assert self.config.load is not None
        return probe_all(nodes, self.config.load, self.sessions.web_password, before=counters, named=named)
