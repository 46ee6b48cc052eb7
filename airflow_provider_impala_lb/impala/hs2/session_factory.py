"""Sessions on the nodes of a configuration: with its user, its password, its query options and its web pages' login."""

from __future__ import annotations

import os
from collections.abc import Callable, Mapping
from functools import cached_property
from logging import getLogger
from typing import TYPE_CHECKING, Any

import msgspec

from airflow_provider_impala_lb.core.config.model import Config, Node, SessionConfig
from airflow_provider_impala_lb.core.text import shown
from airflow_provider_impala_lb.errors import ConfigError

if TYPE_CHECKING:
    from airflow_provider_impala_lb.core.stop_request import StopRequest
    from airflow_provider_impala_lb.impala.hs2.connection import EndedSession
    from airflow_provider_impala_lb.impala.hs2.session import Session
    from airflow_provider_impala_lb.impala.journal.sealing import Sealer
    from airflow_provider_impala_lb.impala.web.debug_pages import DebugPages

log = getLogger(__name__)


class SessionFactory:
    """Opens sessions. Threads may share one.

    :param config: the nodes, and what sessions need.
    :param password: for ``auth_mechanism`` PLAIN and LDAP; default what ``session.password_file`` holds, else the
        environment's ``IMPALA_LB_PASSWORD``.
    :param web_password: for ``load.web_auth``; default the environment's ``IMPALA_LB_WEB_PASSWORD``.
    :param seal_key: seals what journals keep; default the environment's ``IMPALA_LB_SEAL_KEY``, else the password.
    :param current: the configuration as it is now, where its nodes are found; default ``config`` itself.
    :raises ConfigError: ``session.password_file`` cannot be read, or anybody can read it.
    :ivar password: as used; None: there is none.
    :ivar web_password: as used; None: there is none.
    """

    def __init__(
        self,
        config: Config,
        password: str | None = None,
        web_password: str | None = None,
        seal_key: str | None = None,
        current: Callable[[], Config] | None = None,
    ) -> None:
        self._current = current or (lambda: config)
        self.password = password if password is not None else _password_of(config.session)
        self.web_password = web_password if web_password is not None else os.environ.get("IMPALA_LB_WEB_PASSWORD")
        self._seal_key = seal_key if seal_key is not None else os.environ.get("IMPALA_LB_SEAL_KEY")
        mechanism = config.session.auth_mechanism
        if self.password and mechanism not in ("PLAIN", "LDAP"):
            log.warning(
                "%s: the password is not used by auth_mechanism %s, so nobody checks it; for a login by password "
                "set session.auth_mechanism to LDAP (or PLAIN)",
                config.name,
                mechanism,
            )

    @property
    def config(self) -> Config:
        """The configuration as it is now."""
        return self._current()

    @cached_property
    def sealer(self) -> Sealer:
        """Seals what journals keep of sessions."""
        from airflow_provider_impala_lb.impala.journal.sealing import Sealer

        return Sealer(self._seal_key or self.password or "")

    def open(
        self,
        address: str,
        *,
        database: str | None = None,
        options: Mapping[str, Any] | None = None,
        stop: StopRequest | None = None,
    ) -> Session:
        """A session on a node, with the configuration's user and query options.

        :param address: of the node, ``host:port``.
        :param database: instead of the configuration's; default that.
        :param options: query options over the configuration's; default none.
        :param stop: says when the work in it is to stop; default a request of its own.
        :raises NodeRefused: the node cannot take it, and another one may; `fault` says whose fault it is.
        :raises ConfigError: it is not a node of the configuration, or a file or a library that the configuration
            needs is missing on this host.
        """
        from airflow_provider_impala_lb.impala.hs2.connection import Login
        from airflow_provider_impala_lb.impala.hs2.session import Session

        node, settings = self._node(address), self.config.session
        if options:
            settings = msgspec.structs.replace(settings, query_options={**settings.query_options, **options})
        login = Login(node, settings, self.password)
        return Session.open(login, database=database, pages=self._pages(node), stop=stop)

    def attach(
        self, address: str, guid: bytes, secret: bytes, *, stop: StopRequest | None = None, named: str = ""
    ) -> Session:
        """Go on with a session on a node that another process has opened.

        :param address: of the node, ``host:port``.
        :param guid: the session's id, 16 bytes.
        :param secret: the session's secret, 16 bytes.
        :param stop: as :meth:`open`.
        :param named: as :meth:`pages`.
        :raises NodeRefused: as :meth:`open`; or the node does not know the session.
        :raises ConfigError: as :meth:`open`.
        """
        from airflow_provider_impala_lb.impala.hs2.connection import Login
        from airflow_provider_impala_lb.impala.hs2.session import Session

        node = self._node(address)
        login = Login(node, self.config.session, self.password)
        return Session.attach(login, guid, secret, pages=self._pages(node, named), stop=stop)

    def end(self, address: str, session_id: str, secret: bytes, query_id: str = "") -> EndedSession:
        """End such a session, and a statement of it, within 4 s. Never raises for a node out of reach.

        :param address: as :meth:`attach`.
        :param session_id: as Impala prints it.
        :param secret: as :meth:`attach`.
        :param query_id: of a statement that may run in it; default none is known.
        :raises ConfigError: it is not a node of the configuration.
        """
        from airflow_provider_impala_lb.impala.hs2.connection import Login, end_another

        return end_another(Login(self._node(address), self.config.session, self.password), session_id, secret, query_id)

    def pages(self, address: str, named: str = "") -> DebugPages | None:
        """The web pages of a node, as configured; None: ``web`` is not configured for it, and its port is not known.

        :param address: of the node, ``host:port``.
        :param named: a URL of its pages, as of a session on it; where it has no ``web``, its port counts. Default none.
        :raises ConfigError: it is not a node of the configuration.
        """
        return self._pages(self._node(address), named)

    def _node(self, address: str) -> Node:
        node = self.config.node(self.config.canonical(address))
        assert node is not None
        return node

    def _pages(self, node: Node, named: str = "") -> DebugPages | None:
        from airflow_provider_impala_lb.impala.web.debug_pages import pages_of

        return pages_of(node, named, self.config.load, self.web_password)


def _password_of(session: SessionConfig) -> str | None:
    """:raises ConfigError: ``session.password_file`` cannot be read, or anybody can read it."""
    if session.password_file is None:
        return os.environ.get("IMPALA_LB_PASSWORD")
    # somebody may have written the password itself there
    name = shown(session.password_file) if "/" in session.password_file else "(value not shown, it is no path)"
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
        raise ConfigError(f"session.password_file: {name} cannot be read: {reason}") from None
