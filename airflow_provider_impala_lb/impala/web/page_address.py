"""Where a coordinator's pages are, if the configuration does not say: at the port that the coordinator names
(``http_addr``, impala-hs2-server.cc, ``OpenSession``), on the node's own host. No server leads us to another host.
"""

from __future__ import annotations

import socket
from typing import NamedTuple
from urllib.parse import urlsplit

from airflow_provider_impala_lb.core.config.address import format_address, parse_address
from airflow_provider_impala_lb.core.config.model import Node
from airflow_provider_impala_lb.impala.web.http_fetch import ProbeFailed


class NamedPages(NamedTuple):
    """Where pages are, by what their coordinator says.

    :ivar url: on the node's own host.
    :ivar host: that the coordinator names: see :func:`check_host`.
    """

    url: str
    host: str


def named_pages(node: Node, named: str | None) -> NamedPages | None:
    """The place that a coordinator names for its pages.

    :param node: where it is.
    :param named: what it names, ``host:port``, or such a URL; None: nothing.
    :returns: None: it is no such address.
    """
    scheme, _, address = (named or "").rpartition("://")
    try:
        host, port = parse_address(address, 0)
    except ValueError:
        return None
    if not port or scheme not in ("", "http", "https"):
        return None
    return NamedPages(f"{scheme or 'http'}://{format_address(node.host, port)}", host)


def check_host(url: str, host: str) -> None:
    """Whether pages are the host's that a coordinator names. Resolves names, so it belongs into a thread.

    :param url: of the pages.
    :param host: a name or an address.
    :raises ProbeFailed: they are another host's, or that is not known.
    """
    own = urlsplit(url).hostname or ""
    if own != host and not _addresses(own) & _addresses(host):
        raise ProbeFailed(
            f"{own}: its coordinator says that its web pages are on {host}, which is not known to be the same host, so "
            "they are not asked: name their address in the configuration (web, of the node)"
        )


def _addresses(host: str) -> set[str]:
    try:
        return {str(found[4][0]) for found in socket.getaddrinfo(host, None)}
    except (OSError, UnicodeError):
        return set()
