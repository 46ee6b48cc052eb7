"""The public :class:`Balancer`: the picker of ``core``, with its store and its connections to Impala."""

from __future__ import annotations

import os
import shlex
from collections.abc import Mapping, Sequence
from logging import getLogger
from pathlib import Path
from typing import TYPE_CHECKING, Any

import msgspec

from airflow_provider_impala_lb.core.cluster.picker import Pick, Picker
from airflow_provider_impala_lb.core.config import model as configuration
from airflow_provider_impala_lb.core.config.model import Config, Node, SessionConfig
from airflow_provider_impala_lb.core.journal_port import JournalStore
from airflow_provider_impala_lb.core.ports import Store
from airflow_provider_impala_lb.core.state.load_report import ExporterCounters, LoadSample, ProbeResult
from airflow_provider_impala_lb.errors import ConfigError, ImpalaLBError
from airflow_provider_impala_lb.stores.file.store import FileStore
from airflow_provider_impala_lb.stores.journals.file import FileJournals
from airflow_provider_impala_lb.stores.memory import MemoryStore
from airflow_provider_impala_lb.stores.redis.journals import RedisJournals
from airflow_provider_impala_lb.stores.redis.mirror import open_mirror
from airflow_provider_impala_lb.stores.redis.store import RedisStore

if TYPE_CHECKING:
    from airflow_provider_impala_lb.impala.hs2.dbapi import Connection
    from airflow_provider_impala_lb.impala.hs2.session import Session
    from airflow_provider_impala_lb.impala.script.metadata_sync import Upstream

__all__ = ["Balancer", "Pick"]

log = getLogger(__name__)


class Balancer(Picker):
    """Picks coordinators, and connects to them. Threads may share one.

    :param password: for ``auth_mechanism`` PLAIN and LDAP; default what ``session.password_file`` holds, else the
        environment's ``IMPALA_LB_PASSWORD``.
    :param web_password: for ``load.web_auth``; default the environment's ``IMPALA_LB_WEB_PASSWORD``.
    :param options: of the command line for this configuration, for the commands that an error proposes; default
        ``--config FILE``, which is not to be run as it stands.
    :ivar command: how such a command begins, for a shell.
    """

    def __init__(
        self,
        config: Config,
        store: Store | None = None,
        *,
        password: str | None = None,
        web_password: str | None = None,
        options: Sequence[str] = ("--config", "FILE"),
    ) -> None:
        super().__init__(config, store or open_store(config))
        self.password = password if password is not None else _password_of(config.session)
        self.web_password = web_password if web_password is not None else os.environ.get("IMPALA_LB_WEB_PASSWORD")
        self.command = shlex.join(["impala-lb", *options])
        self.sessions.mirror = open_mirror(config.mirror, config.name)
        if config.load and any(node.web or node.metrics or node.exporter for node in config.nodes):
            self.reports.prober = self._probe
        mechanism = config.session.auth_mechanism
        if self.password and mechanism not in ("PLAIN", "LDAP"):
            log.warning(
                "%s: the password is not used by auth_mechanism %s, so nobody checks it; for a login by password "
                "set session.auth_mechanism to LDAP (or PLAIN)",
                config.name,
                mechanism,
            )

    @classmethod
    def from_config(cls, config: str | Path | Mapping[str, Any] | Config, *, password: str | None = None) -> Balancer:
        """A balancer from a YAML file's path, or from a mapping with the file's keys.

        :raises ConfigError: names the file, the key, the value, and what is allowed.
        """
        if isinstance(config, Mapping):
            return cls(configuration.parse(config), password=password)
        if isinstance(config, Config):
            return cls(config, password=password)
        return cls(configuration.load(config), password=password, options=("--config", os.path.abspath(config)))

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

        :param database: of each cursor's session, instead of the configuration's.
        :param session_key: connections and scripts with the same key are on one node.
        :param prefer: a node (``host:port``) to keep if it takes the connection.
        :param upstream: what ran on ``prefer`` before, and changed; another node is told of it first. None: not known.
        :raises NoNodeAvailable: none could take it; the error says why for each.
        :raises ConfigError: the login was refused, or ``prefer`` is not a node of the configuration.
        """
        from airflow_provider_impala_lb.impala.hs2.dbapi import connect

        return connect(self, owner, database=database, session_key=session_key, prefer=prefer, upstream=upstream)

    def open_session(
        self, address: str, *, database: str | None = None, options: Mapping[str, Any] | None = None
    ) -> Session:
        """A session on this node (``host:port``), with the configuration's user and query options.

        :param options: query options over the configuration's.
        :raises NodeRefused: the node cannot take it, and another one may; `fault` says whose fault it is.
        :raises ConfigError: a file or a library that the configuration needs is missing on this host.
        """
        from airflow_provider_impala_lb.impala.hs2.session import Session
        from airflow_provider_impala_lb.impala.web.debug_pages import DebugPages

        node = self.config.node(self.known(address))
        assert node is not None
        settings = self.config.session
        if options:
            settings = msgspec.structs.replace(settings, query_options={**settings.query_options, **options})
        pages = DebugPages(node.web, self.config.load, self.web_password) if node.web else None
        return Session.open(node, settings, password=self.password, database=database, pages=pages)

    def attach_session(self, address: str, guid: bytes, secret: bytes) -> Session:
        """Go on with a session on this node that another process has opened. Errors as :meth:`open_session`."""
        from airflow_provider_impala_lb.impala.hs2.session import Session
        from airflow_provider_impala_lb.impala.web.debug_pages import DebugPages

        node = self.config.node(self.known(address))
        assert node is not None
        pages = DebugPages(node.web, self.config.load, self.web_password) if node.web else None
        return Session.attach(node, self.config.session, guid, secret, password=self.password, pages=pages)

    def end_session(self, address: str, guid: bytes, secret: bytes) -> None:
        """Close such a session, so that nothing more can be sent in it. Never raises for a node out of reach."""
        try:
            self.attach_session(address, guid, secret).close()
        except ImpalaLBError as error:
            log.info("A session on %s need not be closed any more: %s", address, error)

    def report(self, node: str, sample: LoadSample) -> None:
        """Note what somebody else found out about a node's load, as if it had been asked. It counts for three times
        ``load.refresh``, or until the next report.

        :raises ConfigError: not a node of this configuration, or that has no ``load``.
        :raises StateUnavailable: it was not noted.
        """
        if self.config.load is None:
            raise ConfigError(f"load: is missing in the configuration of {self.config.name}, so no report is used")
        self.reports.tell(self.known(node), sample)

    def _probe(
        self, nodes: Sequence[Node], counters: Mapping[str, ExporterCounters]
    ) -> Mapping[str, ProbeResult | str]:
        from airflow_provider_impala_lb.impala.web.load_probe import probe_all

        assert self.config.load is not None
        asked = [node for node in nodes if node.web or node.metrics or node.exporter]
        return probe_all(asked, self.config.load, self.web_password, before=counters)


def _password_of(session: SessionConfig) -> str | None:
    """:raises ConfigError: ``session.password_file`` cannot be read, or anybody can read it."""
    if session.password_file is None:
        return os.environ.get("IMPALA_LB_PASSWORD")
    try:
        with open(session.password_file, encoding="utf-8") as file:
            if os.fstat(file.fileno()).st_mode & 0o007:
                raise ConfigError(
                    f"session.password_file: {session.password_file} is open to every user of this host; "
                    f"chmod o-rwx {session.password_file}"
                )
            return file.read().rstrip("\r\n")
    except (OSError, UnicodeDecodeError) as error:
        reason = error.strerror if isinstance(error, OSError) else "it is not a text in UTF-8"
        raise ConfigError(f"session.password_file: {session.password_file} cannot be read: {reason}") from error


def open_store(config: Config) -> Store:
    """The store of a configuration: its Redis, its lock file, or for one node without either this process's memory.

    A Redis password that is not in its URL comes from the environment's ``IMPALA_LB_STORE_PASSWORD``.
    """
    if config.store:
        return RedisStore(config.store, config.name, password=os.environ.get("IMPALA_LB_STORE_PASSWORD"))
    return FileStore(config.lock_file) if config.lock_file else MemoryStore()


def open_journals(config: Config) -> JournalStore | None:
    """Where the scripts' journals are: the configuration's Redis, or a directory beside its lock file. None if it has
    neither: then nobody else could resume.

    A Redis password that is not in its URL comes from the environment's ``IMPALA_LB_STORE_PASSWORD``.
    """
    if config.store:
        return RedisJournals(config.store, config.name, password=os.environ.get("IMPALA_LB_STORE_PASSWORD"))
    return FileJournals(config.lock_file) if config.lock_file else None
