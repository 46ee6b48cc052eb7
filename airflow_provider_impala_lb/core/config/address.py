"""``host:port`` as people write it, and the one way in which it is kept: one node has one name."""

from __future__ import annotations

import re

from airflow_provider_impala_lb.core.text import shown

DEFAULT_PORT = 21050
"""Impala's ``--hs2_port``."""

_FORM = re.compile(r"\[([0-9A-Fa-f:.]+(?:%[^\s\]]+)?)\](?::([0-9]{1,5}))?|([^\s:/@,=\[\]]+)(?::([0-9]{1,5}))?")
_NUMERIC = r"(?:0[xX][0-9a-fA-F]*|[0-9]+)(?:\.(?:0[xX][0-9a-fA-F]*|[0-9]+))*"


def parse_address(text: str, default_port: int = DEFAULT_PORT) -> tuple[str, int]:
    """``host``, ``host:port`` or ``[v6]:port`` as (host, port), with the host in its canonical form.

    That is: a name in small letters without a dot at its end, a v6 address in its shortest form, a v4 one in v6 as v4.

    :param text: what somebody wrote.
    :param default_port: where the text has none; default `DEFAULT_PORT`.
    :raises ValueError: anything else, or a port that is not between 1 and 65535. A login is not shown.
    """
    value = shown(text)
    found = _FORM.fullmatch(text.strip())
    if not found:
        raise ValueError(f"{value} is not host, host:port or [v6]:port")
    port = found[2] or found[4]
    if port is not None and not 0 < int(port) < 65536:
        raise ValueError(f"{value}: port {port} is not between 1 and 65535")
    try:
        host = _address(found[1]) if found[1] else _name(found[3])
    except ValueError:
        raise ValueError(f"{value} is neither a name nor an address like 10.0.0.11 or [fd00::11]") from None
    return host, default_port if port is None else int(port)


def format_address(host: str, port: int) -> str:
    """The inverse of :func:`parse_address`.

    :param host: in its canonical form.
    :param port: of it.
    """
    return f"[{host}]:{port}" if ":" in host else f"{host}:{port}"


def _address(text: str) -> str:
    from ipaddress import IPv6Address

    address = IPv6Address(text)
    return str(address.ipv4_mapped or address)


def _name(text: str) -> str:
    name = text.lower().removesuffix(".")
    if not name or name.startswith("."):
        raise ValueError
    # inet_aton(3) takes 127.1, 0x7f000001 and 010.0.0.1, too, each as its own spelling.
    if name[0].isdigit() and re.fullmatch(_NUMERIC, name):
        from ipaddress import IPv4Address

        return str(IPv4Address(name))
    return name
