"""The configuration: a YAML file, a dict or an Airflow connection's extra, checked strictly before anything runs."""

from __future__ import annotations

import difflib
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Literal, get_args

import msgspec

from airflow_provider_impala_lb.core.address import DEFAULT_PORT, format_address, parse_address
from airflow_provider_impala_lb.core.load_config import LoadConfig, WebAuth, check_url, checked_load, in_clear_text
from airflow_provider_impala_lb.core.store_url import StoreUrl, parse_store
from airflow_provider_impala_lb.errors import ConfigError

# The policies of this version; a name that is not here is an error that lists them.
Policy = Literal["least_loaded", "round_robin"]
AuthMechanism = Literal["NOSASL", "PLAIN", "LDAP", "GSSAPI"]


class Node(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """A coordinator: where it listens for HiveServer2, how large it is beside the others, and who tells of its load.

    :param web: URL of its web server, e.g. ``http://host:25000``.
    :param metrics: URL of its metrics port, which asks for no login (``--metrics_webserver_port``).
    :param exporter: URL of the host's Prometheus node_exporter, e.g. ``http://host:9100/metrics``.
    """

    host: str
    port: int = DEFAULT_PORT
    weight: float = 1.0
    web: str | None = None
    metrics: str | None = None
    exporter: str | None = None

    @property
    def address(self) -> str:
        """``host:port``, the name by which the state, XCom and the command line know the node."""
        return format_address(self.host, self.port)


class SessionConfig(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """How sessions are opened. All times are in seconds.

    :param user: whom the session belongs to; default the connection's login, else the operating system's user.
    :param query_options: set for the whole session when it is opened, as ``SET`` would.
    :param open_timeout: for TCP, login and OpenSession together: a full coordinator accepts and stays silent.
    :param rpc_timeout: for one call of the protocol, e.g. the planning of a statement. Not a query's time limit.
    :param reconnect_timeout: how long a query may be without its client; it sets ``QUERY_TIMEOUT_S``, so that
        a query whose client has died ends by itself.
    :param verify_cert: with ``use_ssl``, check the server's certificate (with ``ca_cert``, else the system's).
    """

    user: str | None = None
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


class Config(msgspec.Struct, frozen=True):
    """A checked configuration. Made by :func:`load` or :func:`parse`.

    :param store: the Redis that keeps the state; None: the lock file does.
    :param load: None: nodes are not asked for their load.
    """

    nodes: tuple[Node, ...]
    name: str = "impala"
    lock_file: str | None = None
    policy: Policy = "least_loaded"
    store: StoreUrl | None = None
    session: SessionConfig = SessionConfig()
    load: LoadConfig | None = None

    @property
    def addresses(self) -> tuple[str, ...]:
        return tuple(node.address for node in self.nodes)

    def node(self, address: str) -> Node | None:
        """The node of this ``host:port``, or None if the configuration does not list it."""
        return next((node for node in self.nodes if node.address == address), None)


class _NodeEntry(msgspec.Struct, forbid_unknown_fields=True):
    """A node as it is written; ``port`` falls back on the cluster's."""

    host: str
    port: int | None = None
    weight: float = 1.0
    web: str | None = None
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
    session: SessionConfig = SessionConfig()
    load: LoadConfig | None = None


def load(path: str | Path) -> Config:
    """Read a YAML file. :raises ConfigError: unreadable, not YAML, or anything :func:`parse` refuses."""
    import yaml

    try:
        raw = yaml.safe_load(Path(path).read_text(encoding="utf-8"))
    except OSError as error:
        raise ConfigError(f"{path}: cannot be read: {error.strerror or error}") from error
    except (yaml.YAMLError, UnicodeDecodeError) as error:
        raise ConfigError(f"{path}: is not YAML: {error}") from error
    return parse(raw, source=str(path))


def parse(raw: Any, *, source: str = "config") -> Config:
    """Check a configuration given as a mapping.

    :param source: what to call it in an error: the file's path, or the connection's id.
    :raises ConfigError: names the source, the key, the value, and what is allowed.
    """
    if not isinstance(raw, Mapping):
        raise ConfigError(f"{source}: must be a mapping of keys to values, is {type(raw).__name__}")
    try:
        entry = msgspec.convert(dict(raw), _File)
    except msgspec.ValidationError as error:
        raise ConfigError(f"{source}: {_explain(str(error), raw)}") from None
    nodes = tuple(_node(source, index, item, entry.port) for index, item in enumerate(entry.nodes))
    try:
        store = parse_store(entry.store)
    except ValueError as error:
        raise ConfigError(f"{source}: store: (value not shown) {error}") from None
    _cross_check(source, entry, nodes, store)
    load = checked_load(source, entry.load) if entry.load else None
    _check_web(source, nodes, load)
    return Config(
        nodes=nodes,
        name=entry.name,
        lock_file=entry.lock_file,
        policy=entry.policy,
        store=store,
        session=entry.session,
        load=load,
    )


def _cross_check(source: str, entry: _File, nodes: tuple[Node, ...], store: StoreUrl | None) -> None:
    if not nodes:
        raise ConfigError(f"{source}: nodes: must list at least one coordinator, as host or host:port")
    addresses = [node.address for node in nodes]
    twice = sorted({address for address in addresses if addresses.count(address) > 1})
    if twice:
        raise ConfigError(f"{source}: nodes: {', '.join(twice)} listed more than once; each node may appear once")
    if entry.node_count is not None and entry.node_count != len(nodes):
        raise ConfigError(f"{source}: node_count: is {entry.node_count}, but nodes lists {len(nodes)}")
    if store and not re.fullmatch(r"[^{}]+", entry.name):
        raise ConfigError(
            f"{source}: name: {entry.name!r} names keys in Redis: it must not be empty, nor hold {{ or }}"
        )
    if len(nodes) > 1 and entry.lock_file is None and store is None:
        raise ConfigError(
            f"{source}: lock_file: is missing; {len(nodes)} nodes are balanced only if all workers share a state. "
            "Name a file in a directory that every host mounts (a default in /tmp would be shared by nobody), or a "
            "shared store instead (store: redis://host)"
        )
    if entry.lock_file is not None and not Path(entry.lock_file).is_absolute():
        raise ConfigError(f"{source}: lock_file: {entry.lock_file!r} must be an absolute path, the same on every host")
    for key in ("open_timeout", "rpc_timeout", "reconnect_timeout"):
        if getattr(entry.session, key) <= 0:
            raise ConfigError(f"{source}: session.{key}: must be above 0 seconds, is {getattr(entry.session, key)}")


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
        host, port = parse_address(item.host, item.port or default_port)
    except ValueError as error:
        raise ConfigError(f"{where}: {error}") from None
    if not 0 < port < 65536:
        raise ConfigError(f"{where}.port: {port} is not between 1 and 65535")
    if not 0 < item.weight < float("inf"):
        raise ConfigError(f"{where}.weight: {item.weight} must be above 0")
    return Node(host=host, port=port, weight=item.weight, web=item.web, metrics=item.metrics, exporter=item.exporter)


def _explain(message: str, raw: Any) -> str:
    """msgspec's text as key, value and what is allowed. Values of keys that may hold a secret are not shown."""
    problem, _, place = message.partition(" - at ")
    path = place.strip("`").removeprefix("$").removeprefix(".")
    unknown = re.search(r"unknown field `(.+?)`", problem)
    if unknown:
        key = unknown[1]
        owner = {"": _File, "session": SessionConfig, "load": LoadConfig}.get(path, _NodeEntry)
        allowed = list(owner.__struct_fields__)
        near = difflib.get_close_matches(key, allowed, 1)
        hint = f" (did you mean {near[0]}?)" if near else ""
        return f"{path + '.' if path else ''}{key}: unknown key{hint}; allowed: {', '.join(allowed)}"
    missing = re.search(r"missing required field `(.+?)`", problem)
    if missing:
        return f"{path + '.' if path else ''}{missing[1]}: is missing"
    shown = "(value not shown)" if re.search(r"password|secret|token|store", path) else repr(_at(raw, path))
    choices = {"policy": Policy, "session.auth_mechanism": AuthMechanism, "load.web_auth": WebAuth}
    allowed_values = choices.get(path)
    if allowed_values is not None:
        return f"{path}: {shown} is not one of {', '.join(get_args(allowed_values))}"
    return f"{path or 'config'}: {problem[0].lower()}{problem[1:]} ({shown})"


def _at(raw: Any, path: str) -> Any:
    for key, index in re.findall(r"([^.\[\]]+)|\[(\d+)\]", path):
        try:
            raw = raw[int(index)] if index else raw[key]
        except (KeyError, IndexError, TypeError):
            return "?"
    return raw
