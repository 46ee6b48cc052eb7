"""The configuration's section ``load``: how nodes are asked for their load, and what is made of the answers."""

from __future__ import annotations

import ipaddress
import re
from typing import Literal
from urllib.parse import urlsplit

import msgspec

from airflow_provider_impala_lb.core.config.limits import check_seconds
from airflow_provider_impala_lb.errors import ConfigError

WebAuth = Literal["none", "digest", "basic", "bearer"]

DEFAULT_FLOOR = 0.10
# Garbage looks like use until it is collected: a heap that is nearly full says little, so it counts for nothing
# unless somebody wants it to.
DEFAULT_WEIGHTS = {
    "cpu": 1.0,
    "memory": 1.0,
    "disk": 1.0,
    "processes": 1.0,
    "connections": 1.0,
    "admission": 1.0,
    "heap": 0.0,
}


class LoadConfig(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """How nodes report, and from which headroom on they get less.

    :param floor: a node whose free share of a single resource is below this gets nothing. A number is for every
        resource but ``heap`` (see :data:`DEFAULT_WEIGHTS`); a mapping changes only the resources it names.
    :param busy: T: a node with this headroom or less takes nothing new.
    :param overloaded: H: one with this headroom or less also gives work away.
    :param weights: of each resource in the headroom. A mapping changes only the resources it names.
    :param refresh: seconds between two reports of a node.
    :param web_auth: how the coordinators' web servers want a login: ``digest`` where Impala has
        ``--webserver_password_file``, ``basic`` for ``--webserver_require_ldap``, ``bearer`` for a JWT or OAuth token.
        The password or token itself comes from the environment's ``IMPALA_LB_WEB_PASSWORD``.
    :param ca_cert: PEM file of the authority that signed the certificates of https URLs; default the system's.
    :param verify_cert: check them, and the names of their hosts.
    """

    floor: float | dict[str, float] = DEFAULT_FLOOR
    busy: float = 0.20
    overloaded: float = 0.10
    weights: dict[str, float] = msgspec.field(default_factory=lambda: dict(DEFAULT_WEIGHTS))
    refresh: float = 10.0
    web_auth: WebAuth = "none"
    web_user: str | None = None
    ca_cert: str | None = None
    verify_cert: bool = True

    def floor_of(self, resource: str) -> float:
        """The least free share of this resource with which a node still gets work."""
        if isinstance(self.floor, dict) and resource in self.floor:
            return self.floor[resource]
        if resource == "heap":
            return 0.0
        return DEFAULT_FLOOR if isinstance(self.floor, dict) else self.floor

    def weight_of(self, resource: str) -> float:
        """0 for a resource that neither we nor the configuration know."""
        return self.weights.get(resource, 0.0)


def checked_load(source: str, load: LoadConfig) -> LoadConfig:
    """The section as it is used, with the default of every weight it does not name.

    :raises ConfigError: names the source, the key, the value, and what is allowed.
    """
    floors = load.floor if isinstance(load.floor, dict) else {"": load.floor}
    for name, floor in floors.items():
        key = f"load.floor.{name}" if name else "load.floor"
        _check(source, key, floor, 0 <= floor <= 1, "a share within 0 and 1")
    _check(source, "load.busy", load.busy, 0 < load.busy < 1, "above 0 and below 1")
    _check(
        source,
        "load.overloaded",
        load.overloaded,
        0 <= load.overloaded < load.busy,
        f"0 or more, and below load.busy ({load.busy}): the difference takes what arrives between two reports",
    )
    for name, weight in load.weights.items():
        _check(source, f"load.weights.{name}", weight, 0 <= weight <= 1e6, "within 0 and 1e6")
    for key in ("floor", "weights"):
        names = getattr(load, key)
        for name in names if isinstance(names, dict) else ():
            if not re.fullmatch(r"[a-z_]+", name):
                raise ConfigError(f"{source}: load.{key}: {name!r} is not the name of a resource: a-z and _ only")
    weights = {**DEFAULT_WEIGHTS, **load.weights}
    if not any(weights.values()):
        raise ConfigError(f"{source}: load.weights: are all 0; at least one must be above 0")
    check_seconds(f"{source}: load.refresh", load.refresh, 3600.0, "a report counts for three times as long", least=1)
    if load.web_auth in ("digest", "basic") and not load.web_user:
        raise ConfigError(f"{source}: load.web_user: is missing; load.web_auth {load.web_auth} needs a login")
    return msgspec.structs.replace(load, weights=weights)


def _check(source: str, key: str, value: float, holds: bool, allowed: str) -> None:
    if not holds:
        raise ConfigError(f"{source}: {key}: is {value}, must be {allowed}")


def check_url(where: str, key: str, url: str) -> None:
    """:raises ConfigError: ``url`` is not ``http(s)://host...``, or has a login in it; that is not shown then."""
    try:
        parts = urlsplit(url)
        named = parts.scheme in ("http", "https") and parts.hostname and (parts.port is None or parts.port > 0)
    except ValueError:
        named = False
        parts = None
    if "@" in (parts.netloc if parts else url):
        raise ConfigError(
            f"{where}.{key}: (value not shown) must not hold a login: set load.web_auth and load.web_user, and the "
            "environment's IMPALA_LB_WEB_PASSWORD"
        )
    if not named or parts is None or parts.query or parts.fragment:
        shown = repr(url) if "@" not in url else "(value not shown)"
        raise ConfigError(f"{where}.{key}: {shown} is not a URL like http://host:25000 or https://host:25000")


def in_clear_text(url: str, web_auth: WebAuth) -> bool:
    """Would the password or token cross a network readable? Digest only sends a hash of it."""
    parts = urlsplit(url)
    if web_auth not in ("basic", "bearer") or parts.scheme == "https":
        return False
    host = parts.hostname or ""
    try:
        return not ipaddress.ip_address(host).is_loopback
    except ValueError:
        return host != "localhost"
