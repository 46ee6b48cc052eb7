"""The coordinators of a cluster, as DNS or one of them names them."""

from __future__ import annotations

import json
import socket
from collections.abc import Iterator
from urllib.parse import urlsplit

from airflow_provider_impala_lb.core.config.address import format_address, parse_address
from airflow_provider_impala_lb.core.config.model import LoadConfig, NodeSource
from airflow_provider_impala_lb.errors import ConfigError
from airflow_provider_impala_lb.impala.web.http_fetch import Fetch, ProbeFailed, fetch_all, tls_context

SECONDS = 5.0
"""For one answer; names are asked for in a thread, or with the cluster's first pick."""
_PAGE = "/backends?json"


def find_nodes(source: NodeSource, settings: LoadConfig, password: str | None = None) -> dict[str, str]:
    """All coordinators now.

    :param source: whom to ask.
    :param settings: how web servers want a login.
    :param password: for that; default None: there is none.
    :returns: the URL of each one's web server, or "", by ``host:port``.
    :raises ConfigError: it did not answer, or not as it should; the text says what.
    """
    if source.backends:
        return _of_page(source, settings, password)
    assert source.dns
    if source.dns.startswith("_"):
        found = dict(_of_srv(source))
    else:
        found = {format_address(address, source.port): address for address in _addresses(source)}
    return {address: _web(host, source.web_port) for address, host in found.items()}


def _web(host: str, port: int | None) -> str:
    return f"http://{format_address(host, port)}" if port else ""


def _addresses(source: NodeSource) -> list[str]:
    """All A and AAAA records. The host's own resolver also knows its search domains and its hosts file."""
    assert source.dns
    if source.nameserver is not None:
        return [str(record) for kind in ("A", "AAAA") for record in _records(source, kind)]
    try:
        entries = socket.getaddrinfo(source.dns, source.port, type=socket.SOCK_STREAM)
    except OSError as error:
        raise ConfigError(f"cannot be resolved: {error.strerror or error}") from None
    return [parse_address(f"[{entry[4][0]}]" if ":" in str(entry[4][0]) else str(entry[4][0]))[0] for entry in entries]


def _of_srv(source: NodeSource) -> Iterator[tuple[str, str]]:
    """Names stay names: certificates and Kerberos know hosts by them."""
    for record in _records(source, "SRV"):
        host, _ = parse_address(str(record.target))  # type: ignore[attr-defined]  # dnspython makes its types at run time
        yield format_address(host, record.port), host  # type: ignore[attr-defined]


def _records(source: NodeSource, kind: str) -> list[object]:
    """:raises ConfigError: nobody answered, there is no such name, or dnspython is not installed. A name without
    records of this kind has none."""
    try:
        import dns.exception
        import dns.resolver
    except ImportError:
        raise ConfigError(
            "SRV records and nodes.nameserver need dnspython: pip install 'airflow-provider-impala-lb[dns]'"
        ) from None
    assert source.dns
    try:
        resolver = dns.resolver.Resolver(configure=source.nameserver is None)
        if source.nameserver is not None:
            address, resolver.port = parse_address(source.nameserver, 53)
            resolver.nameservers = [address]
        answer = resolver.resolve(source.dns, kind, lifetime=SECONDS, raise_on_no_answer=False)
    except dns.exception.DNSException as error:
        raise ConfigError(f"cannot be resolved: {error}") from None
    return list(answer)


def _of_page(source: NodeSource, settings: LoadConfig, password: str | None) -> dict[str, str]:
    """The coordinators among the backends that a coordinator knows by the statestore (impala-http-handler.cc,
    ``BackendsHandler``). The page tells the port of Impala's own protocol, not that of HiveServer2. One that shuts down
    is not named: it takes nothing new."""
    assert source.backends
    try:
        context = tls_context(settings) if source.backends.startswith("https:") else False
        login = password if settings.web_auth != "none" else None
        fetch = Fetch(source.backends, settings, _backends_page, context=context, login=login)
        fetch_all([fetch], SECONDS)
        if fetch.failed is not None:
            raise fetch.failed
    except ProbeFailed as error:
        raise ConfigError(str(error)) from None
    try:
        rows = json.loads(fetch.pages[_PAGE])["backends"]
        found = {}
        for row in rows:
            if row["is_coordinator"] and not row["is_quiescing"]:
                host, _ = parse_address(row["address"])
                found[format_address(host, source.port)] = _own_web(host, row.get("webserver_url", ""))
        return found
    except (ValueError, KeyError, TypeError) as error:
        raise ConfigError(f"the page is not that of a coordinator's backends ({type(error).__name__})") from None


def _backends_page(fetch: Fetch) -> None:
    fetch.get(_PAGE)


def _own_web(host: str, url: str) -> str:
    """The web server on the node's own host: no page leads us to another one."""
    parts = urlsplit(url)
    port = parts.port
    return f"{parts.scheme}://{format_address(host, port)}" if parts.scheme in ("http", "https") and port else ""
