"""``host:port`` as people write it."""

from __future__ import annotations

import re

DEFAULT_PORT = 21050
"""Impala's ``--hs2_port``."""


def parse_address(text: str, default_port: int = DEFAULT_PORT) -> tuple[str, int]:
    """``host``, ``host:port`` or ``[v6]:port`` as (host, port). :raises ValueError: anything else."""
    found = re.fullmatch(r"\[([0-9A-Fa-f:.%]+)\](?::(\d+))?|([^\s:/@,\[\]]+)(?::(\d+))?", text.strip())
    if not found:
        raise ValueError(f"{text!r} is not host, host:port or [v6]:port")
    return found[1] or found[3], int(found[2] or found[4] or default_port)


def format_address(host: str, port: int) -> str:
    """The inverse of :func:`parse_address`."""
    return f"[{host}]:{port}" if ":" in host else f"{host}:{port}"
