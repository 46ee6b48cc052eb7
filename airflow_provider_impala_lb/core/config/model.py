"""The configuration: a YAML file, a dict or an Airflow connection's extra, checked strictly before anything runs."""

from __future__ import annotations

import re
from collections.abc import Mapping
from functools import cached_property
from pathlib import Path
from typing import Any, Literal

import msgspec

from airflow_provider_impala_lb.core.config.address import DEFAULT_PORT, format_address, parse_address
from airflow_provider_impala_lb.core.config.errors import explained
from airflow_provider_impala_lb.core.config.limits import DAY, WEEK, check_seconds
from airflow_provider_impala_lb.core.config.load import LoadConfig, WebAuth, check_url, checked_load, in_clear_text
from airflow_provider_impala_lb.core.config.store_url import StoreUrl, parse_store
from airflow_provider_impala_lb.core.config.yaml_file import read_yaml
from airflow_provider_impala_lb.errors import ConfigError

# The policies of this version; a name that is not here is an error that lists them.
Policy = Literal["least_loaded", "round_robin", "weighted_random", "power_of_two"]
MAX_WAIT = 300.0
AuthMechanism = Literal["NOSASL", "PLAIN", "LDAP", "GSSAPI"]


class Node(msgspec.Struct, frozen=True, forbid_unknown_fields=True, dict=True):
    """A coordinator: where it listens for HiveServer2, how large it is beside the others, and who tells of its load.

    :param web: URL of its web server, e.g. ``http://host:25000``.
    :param metrics: URL of its metrics port, which asks for no login (``--metrics_webserver_port``).
    :param exporter: URL of the host's Prometheus node_exporter, e.g. ``http://host:9100/metrics``.
    :param max_leases: how many scripts it may run at once; None: the cluster's ``max_leases_per_node``.
    """

    host: str
    port: int = DEFAULT_PORT
    weight: float = 1.0
    web: str | None = None
    max_leases: int | None = None
    metrics: str | None = None
    exporter: str | None = None

    @cached_property
    def address(self) -> str:
        """``host:port``, the name by which the state, XCom and the command line know the node."""
        return format_address(self.host, self.port)


class SessionConfig(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """How sessions are opened. All times are in seconds.

    :param user: whom the session belongs to; default the connection's login, else the operating system's user.
    :param password_file: a file with the password, which nobody but its owner and group may read; a password given
        otherwise (the Airflow connection's) counts before it, it before the environment's.
    :param query_options: set for the whole session when it is opened, as ``SET`` would.
    :param open_timeout: for TCP, login and OpenSession together: a full coordinator accepts and stays silent.
    :param rpc_timeout: for one call of the protocol, e.g. the planning of a statement. Not a query's time limit.
    :param reconnect_timeout: how long a query may be without its client; it sets ``QUERY_TIMEOUT_S``, so that
        a query whose client has died ends by itself.
    :param verify_cert: with ``use_ssl``, check the server's certificate (with ``ca_cert``, else the system's).
    """

    user: str | None = None
    password_file: str | None = None
    auth_mechanism: AuthMechanism = "NOSASL"
    database: str | None = None
    query_options: dict[str, str | int | float | bool] = {}
    open_timeout: float = 10.0
    rpc_timeout: float = 300.0
    reconnect_timeout: float = 600.0
    use_ssl: bool = False
    ca_cert: str | None = None
    verify_cert: bool = True
    kerberos_service_name: str = "impala"
    krb_host: str | None = None


class Config(msgspec.Struct, frozen=True, dict=True):
    """A checked configuration. Made by :func:`load` or :func:`parse`.

    :param store: the Redis that keeps the state; None: the lock file does.
    :param mirror: the Redis that session records are copied to.
    :param max_leases: how many scripts the cluster may run at once; ``max_leases_per_node`` each node. None: no limit.
    :param max_wait: seconds to wait for a node while all are full or busy.
    :param load: None: nodes are not asked for their load.
    """

    nodes: tuple[Node, ...]
    name: str = "impala"
    lock_file: str | None = None
    policy: Policy = "least_loaded"
    store: StoreUrl | None = None
    mirror: StoreUrl | None = None
    max_leases: int | None = None
    max_leases_per_node: int | None = None
    max_wait: float = MAX_WAIT
    load: LoadConfig | None = None
    session: SessionConfig = SessionConfig()

    @cached_property
    def addresses(self) -> tuple[str, ...]:
        return tuple(node.address for node in self.nodes)

    @cached_property
    def order(self) -> dict[str, int]:
        """Each address's place in the list of nodes."""
        return {address: place for place, address in enumerate(self.addresses)}

    @cached_property
    def capped(self) -> bool:
        """Whether anything limits how many scripts run at once."""
        return self.max_leases is not None or any(self.cap(node) is not None for node in self.nodes)

    @cached_property
    def without_limits(self) -> Config:
        """The same without ``max_leases``."""
        nodes = tuple(msgspec.structs.replace(node, max_leases=None) for node in self.nodes)
        return msgspec.structs.replace(self, nodes=nodes, max_leases=None, max_leases_per_node=None)

    @cached_property
    def report_seconds(self) -> float:
        """How long a report is good for: three times ``load.refresh``; 0 without ``load``."""
        return 3 * self.load.refresh if self.load else 0.0

    def cap(self, node: Node) -> int | None:
        """How many scripts may run on this node at once; None: no limit."""
        return self.max_leases_per_node if node.max_leases is None else node.max_leases

    def known(self, address: str) -> str:
        """``address`` in the form of the configuration. :raises ConfigError: it does not list this node."""
        try:
            host, port = parse_address(address)
        except ValueError as error:
            raise ConfigError(f"{error}; nodes of {self.name}: {', '.join(self.addresses)}") from None
        found = Node(host=host, port=port).address
        if found not in self.order:
            raise ConfigError(
                f"{address!r} is not a node of {self.name}, so nothing is sent to it; "
                f"its nodes: {', '.join(self.addresses)}"
            )
        return found

    def node(self, address: str) -> Node | None:
        """The node of this ``host:port``, or None if the configuration does not list it."""
        place = self.order.get(address)
        return None if place is None else self.nodes[place]


# least (None: above 0), most, why
_SECONDS: dict[str, tuple[float | None, float, str]] = {
    "open_timeout": (0.5, 600.0, "in less no coordinator answers; for so long a silent one holds up each script"),
    "rpc_timeout": (None, DAY, "the planning of one statement"),
    "reconnect_timeout": (
        None,
        WEEK,
        "it is QUERY_TIMEOUT_S, too: so long a query without its client holds its memory",
    ),
}


class _NodeEntry(msgspec.Struct, forbid_unknown_fields=True):
    """A node as it is written; ``port`` falls back on the cluster's."""

    host: str
    port: int | None = None
    weight: float = 1.0
    web: str | None = None
    max_leases: int | None = None
    metrics: str | None = None
    exporter: str | None = None


class _File(msgspec.Struct, forbid_unknown_fields=True):
    """The keys of the file, before its cross-checks."""

    nodes: list[str | _NodeEntry]
    name: str = "impala"
    lock_file: str | None = None
    node_count: int | None = None
    port: int = DEFAULT_PORT
    policy: Policy = "least_loaded"
    store: str = "file"
    mirror: str | None = None
    max_leases: int | None = None
    max_leases_per_node: int | None = None
    max_wait: float = MAX_WAIT
    session: SessionConfig = SessionConfig()
    load: LoadConfig | None = None


def load(path: str | Path) -> Config:
    """Read a YAML file. :raises ConfigError: unreadable, not YAML, or anything :func:`parse` refuses."""
    return parse(read_yaml(path), source=str(path))


def parse(raw: Any, *, source: str = "config", from_text: bool = False) -> Config:
    """Check a configuration given as a mapping.

    :param source: what to call it in an error: the file's path, or the connection's id.
    :param from_text: a number or truth value may be its text (``"30"``, ``"true"``), as in a connection's URI.
    :raises ConfigError: names the source, the key, the value, and what is allowed.
    """
    if not isinstance(raw, Mapping):
        raise ConfigError(f"{source}: must be a mapping of keys to values, is {type(raw).__name__}")
    raw = dict(raw)
    for section in ("session", "load"):
        if section in raw and raw[section] is None:  # `load:` and no more is as `load: {}`
            raw[section] = {}
    if raw.get("load") in (False, "off"):
        del raw["load"]
    try:
        entry = msgspec.convert(raw, _File, strict=not from_text)
    except msgspec.ValidationError as error:
        sections = {"": _File, "session": SessionConfig, "load": LoadConfig}
        choices = {"policy": Policy, "session.auth_mechanism": AuthMechanism, "load.web_auth": WebAuth}
        raise ConfigError(f"{source}: {explained(str(error), raw, sections, _NodeEntry, choices)}") from None
    if not 0 < entry.port < 65536:
        raise ConfigError(f"{source}: port: {entry.port} is not between 1 and 65535")
    nodes = tuple(_node(source, index, item, entry.port) for index, item in enumerate(entry.nodes))
    store = _store(source, "store", entry.store)
    mirror = _store(source, "mirror", entry.mirror) if entry.mirror else None
    _cross_check(source, entry, nodes, store, mirror)
    load = checked_load(source, entry.load) if entry.load else None
    _check_web(source, nodes, load)
    return Config(
        nodes=nodes,
        name=entry.name,
        lock_file=entry.lock_file,
        policy=entry.policy,
        store=store,
        mirror=mirror,
        max_leases=entry.max_leases,
        max_leases_per_node=entry.max_leases_per_node,
        max_wait=entry.max_wait,
        session=entry.session,
        load=load,
    )


def _cross_check(
    source: str, entry: _File, nodes: tuple[Node, ...], store: StoreUrl | None, mirror: StoreUrl | None
) -> None:
    if not nodes:
        raise ConfigError(f"{source}: nodes: must list at least one coordinator, as host or host:port")
    addresses = [node.address for node in nodes]
    twice = sorted({address for address in addresses if addresses.count(address) > 1})
    if twice:
        raise ConfigError(f"{source}: nodes: {', '.join(twice)} listed more than once; each node may appear once")
    if entry.node_count is not None and entry.node_count != len(nodes):
        raise ConfigError(f"{source}: node_count: is {entry.node_count}, but nodes lists {len(nodes)}")
    if not entry.name.strip():
        raise ConfigError(f"{source}: name: is empty; leave it out, or give the cluster a name")
    if (store or mirror) and not re.fullmatch(r"[^{}]+", entry.name):
        raise ConfigError(
            f"{source}: name: {entry.name!r} names keys in Redis: it must not be empty, nor hold {{ or }}"
        )
    if len(nodes) > 1 and entry.lock_file is None and store is None:
        raise ConfigError(
            f"{source}: lock_file: is missing; {len(nodes)} nodes are balanced only if all workers share a state. "
            "Name a file in a directory that every host mounts (a default in /tmp would be shared by nobody), or a "
            "shared store instead (store: redis://host)"
        )
    for key in ("max_leases", "max_leases_per_node"):
        if (limit := getattr(entry, key)) is not None and limit < 1:
            raise ConfigError(f"{source}: {key}: must be at least 1, is {limit}; leave it out for no limit")
    check_seconds(f"{source}: max_wait", entry.max_wait, WEEK, "a task that waits longer is lost", least=0)
    if entry.lock_file is not None and not Path(entry.lock_file).is_absolute():
        raise ConfigError(f"{source}: lock_file: {entry.lock_file!r} must be an absolute path, the same on every host")
    for key, (least, most, why) in _SECONDS.items():
        check_seconds(f"{source}: session.{key}", getattr(entry.session, key), most, why, least=least)


def _store(source: str, key: str, text: str) -> StoreUrl | None:
    try:
        store = parse_store(text)
    except ValueError as error:
        raise ConfigError(f"{source}: {key}: (value not shown) {error}") from None
    if store is None and key == "mirror":
        raise ConfigError(f"{source}: mirror: is a Redis URL, as store can be, or is left out")
    return store


def _check_web(source: str, nodes: tuple[Node, ...], load: LoadConfig | None) -> None:
    for index, node in enumerate(nodes):
        for key in ("web", "metrics", "exporter"):
            url = getattr(node, key)
            if url is not None:
                check_url(f"{source}: nodes[{index}]", key, url)
        if load and node.web and in_clear_text(node.web, load.web_auth):
            raise ConfigError(
                f"{source}: nodes[{index}].web: {node.web!r} with load.web_auth {load.web_auth} would send the secret "
                "in clear text; allowed: an https:// URL, or another load.web_auth"
            )


def _node(source: str, index: int, item: str | _NodeEntry, default_port: int) -> Node:
    where = f"{source}: nodes[{index}]"
    if isinstance(item, str):
        item = _NodeEntry(host=item)
    try:
        host, port = parse_address(item.host, 0)
    except ValueError as error:
        raise ConfigError(f"{where}: {error}") from None
    if port and item.port is not None:
        raise ConfigError(f"{where}.port: is {item.port}, and host has one, too ({port}); give it once")
    if not port:
        port = default_port if item.port is None else item.port
    if not 0 < port < 65536:
        raise ConfigError(f"{where}.port: {port} is not between 1 and 65535")
    if not 0 < item.weight < float("inf"):
        raise ConfigError(f"{where}.weight: {item.weight} must be above 0")
    if item.max_leases is not None and item.max_leases < 1:
        raise ConfigError(f"{where}.max_leases: must be at least 1, is {item.max_leases}; to take it out, drain it")
    return Node(
        host=host,
        port=port,
        weight=item.weight,
        web=item.web,
        metrics=item.metrics,
        exporter=item.exporter,
        max_leases=item.max_leases,
    )
