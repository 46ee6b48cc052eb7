"""The configuration: a YAML file, a dict or an Airflow connection's extra, checked strictly before anything runs.

Types, unknown keys and missing ones are msgspec's to find (`_explained` says it in the author's words); what else must
hold is checked here, section by section. What YAML itself gets wrong is told by `yaml_file`.
"""

# No postponed annotations here: msgspec would compile each of them anew in every process, which is most of what
# importing this file would cost.
import os.path
import re
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any, get_args

import msgspec

from airflow_provider_impala_lb.core.config.address import DEFAULT_PORT, parse_address
from airflow_provider_impala_lb.core.config.model import (
    DEFAULT_WEIGHTS,
    MAX_WAIT,
    AuthMechanism,
    Config,
    LoadConfig,
    Node,
    NodeSource,
    PolicyName,
    SessionConfig,
    WebAuth,
)
from airflow_provider_impala_lb.core.config.store_url import StoreUrl, parse_store
from airflow_provider_impala_lb.core.config.value_limits import (
    DAY,
    WEEK,
    check_port,
    check_seconds,
    check_url,
    in_clear_text,
)
from airflow_provider_impala_lb.core.config.yaml_file import read_yaml
from airflow_provider_impala_lb.core.text import shown, shown_name
from airflow_provider_impala_lb.errors import ConfigError

if TYPE_CHECKING:
    from pathlib import Path


class _NodeEntry(msgspec.Struct, forbid_unknown_fields=True):
    """A node as it is written; ``port`` falls back on the cluster's."""

    host: str
    port: int | None = None
    weight: float = 1.0
    web: str | None = None
    max_leases: int | None = None
    metrics: str | None = None
    exporter: str | None = None


class _SourceEntry(msgspec.Struct, forbid_unknown_fields=True):
    """`NodeSource` as it is written; ``port`` falls back on the cluster's."""

    dns: str | None = None
    backends: str | None = None
    port: int | None = None
    web_port: int | None = None
    nameserver: str | None = None
    refresh: float = 30.0


class _File(msgspec.Struct, forbid_unknown_fields=True):
    """The keys of the file, before its cross-checks."""

    nodes: list[str | _NodeEntry] | _SourceEntry
    name: str = "impala"
    deployment: str | None = None
    lock_file: str | None = None
    node_count: int | None = None
    port: int = DEFAULT_PORT
    policy: PolicyName = "least_loaded"
    store: str = "file"
    mirror: str | None = None
    max_leases: int | None = None
    max_leases_per_node: int | None = None
    max_wait: float = MAX_WAIT
    session: SessionConfig = SessionConfig()
    load: LoadConfig | None = None


_SECTIONS: dict[str, type[msgspec.Struct]] = {
    "": _File,
    "nodes": _SourceEntry,
    "session": SessionConfig,
    "load": LoadConfig,
}
_CHOICES = {"policy": PolicyName, "session.auth_mechanism": AuthMechanism, "load.web_auth": WebAuth}
# least (None: above 0), most, reason
_SECONDS: dict[str, tuple[float | None, float, str]] = {
    "open_timeout": (0.5, 600.0, "in less no coordinator answers; for so long a silent one holds up each script"),
    "rpc_timeout": (None, DAY, "the planning of one statement"),
    "reconnect_timeout": (
        None,
        WEEK,
        "it is QUERY_TIMEOUT_S, too: so long a query without its client holds its memory",
    ),
}


def load(path: "str | Path") -> Config:
    """Read a YAML file.

    :param path: of the file.
    :raises ConfigError: unreadable, not YAML, or anything :func:`parse` refuses.
    """
    return parse(read_yaml(path), source=str(path))


def parse(raw: Any, *, source: str = "config", from_text: bool = False) -> Config:
    """Check a configuration given as a mapping.

    :param raw: the file's keys and values.
    :param source: what to call it in an error: the file's path, or the connection's id; default ``config``.
    :param from_text: a number or truth value may be its text (``"30"``, ``"true"``), as in a connection's URI; default
        False.
    :raises ConfigError: names the source, the key, the value, and what is allowed.
    """
    if not isinstance(raw, Mapping):
        raise ConfigError(f"{source}: must be a mapping of keys to values, is {type(raw).__name__}")
    raw = dict(raw)
    for section in ("session", "load"):
        if section in raw and raw[section] is None:  # `load:` and no more is as `load: {}`
            raw[section] = {}
    load_is_auto = raw.get("load", "auto") == "auto"
    if load_is_auto:
        raw["load"] = {}
    elif raw["load"] in (False, "off") or (from_text and raw["load"] in ("false", "False")):
        del raw["load"]
    elif not isinstance(raw["load"], Mapping):
        raise ConfigError(f"{source}: load: must be auto, off, or a mapping of its keys (value not shown)")
    try:
        entry = msgspec.convert(raw, _File, strict=not from_text)
    except msgspec.ValidationError as error:
        raise ConfigError(f"{source}: {_explained(str(error), raw)}") from None
    check_port(f"{source}: port", entry.port)
    listed = entry.nodes if isinstance(entry.nodes, list) else []
    nodes = tuple(_node(f"{source}: nodes[{index}]", item, entry.port) for index, item in enumerate(listed))
    store = _store(source, "store", entry.store)
    mirror = _store(source, "mirror", entry.mirror) if entry.mirror else None
    found_at = None
    if isinstance(entry.nodes, _SourceEntry):
        found_at = _source(source, entry, entry.nodes)
    else:
        _check_nodes(source, entry, nodes)
    _check_state(source, entry, len(nodes), store, mirror)
    check_deployment(source, entry.deployment)
    _check_numbers(source, entry)
    load = _load(source, entry.load) if entry.load else None
    _check_urls(source, nodes, load)
    return Config(
        nodes=nodes,
        name=entry.name,
        deployment=entry.deployment,
        lock_file=entry.lock_file,
        policy=entry.policy,
        store=store,
        mirror=mirror,
        max_leases=entry.max_leases,
        max_leases_per_node=entry.max_leases_per_node,
        max_wait=entry.max_wait,
        session=entry.session,
        load=load,
        load_is_auto=load_is_auto,
        source=found_at,
    )


def check_deployment(source: str, name: str | None) -> None:
    """Whether this can be the name of a deployment: others read it before a colon.

    :param source: what to call the configuration in an error.
    :param name: of the deployment; None: it has none.
    :raises ConfigError: it cannot.
    """
    if name is not None and not (isinstance(name, str) and re.fullmatch(r"[A-Za-z0-9_][A-Za-z0-9_.-]{0,63}", name)):
        raise ConfigError(
            f"{source}: deployment: is {shown(name)}, must be a name of up to 64 letters, digits and _ . -; leave it "
            "out where only one Airflow uses the cluster's state"
        )


def _node(where: str, item: str | _NodeEntry, default_port: int) -> Node:
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
    check_port(f"{where}.port", port)
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


def _source(source: str, entry: _File, found_at: _SourceEntry) -> NodeSource:
    where = f"{source}: nodes"
    if (found_at.dns is None) == (found_at.backends is None):
        raise ConfigError(f"{where}: must be a list, or have either dns (a name) or backends (a coordinator's URL)")
    if entry.node_count is not None:
        raise ConfigError(f"{source}: node_count: is {entry.node_count}, but nodes are found; leave it out")
    if found_at.dns is not None and not re.fullmatch(r"[A-Za-z0-9_]([A-Za-z0-9_.-]{0,251}[A-Za-z0-9.])?", found_at.dns):
        raise ConfigError(f"{where}.dns: {shown(found_at.dns)} is not a name in DNS, e.g. impala-coordinators.example")
    if found_at.backends is not None:
        check_url(f"{where}.backends", found_at.backends)
        if entry.load and in_clear_text(found_at.backends, entry.load.web_auth):
            raise ConfigError(
                f"{where}.backends: {shown(found_at.backends)} with load.web_auth {entry.load.web_auth} would send the "
                "secret in clear text; allowed: an https:// URL, or another load.web_auth"
            )
        for key in ("web_port", "nameserver"):
            if getattr(found_at, key) is not None:
                raise ConfigError(f"{where}.{key}: is for dns only")
    if found_at.nameserver is not None:
        import ipaddress

        try:
            host, _ = parse_address(found_at.nameserver, 53)
            ipaddress.ip_address(host)
        except ValueError:
            raise ConfigError(
                f"{where}.nameserver: {shown(found_at.nameserver)} is not an IP address (with a port: 10.0.0.2:53)"
            ) from None
    port = entry.port if found_at.port is None else found_at.port
    check_port(f"{where}.port", port)
    if found_at.web_port is not None:
        check_port(f"{where}.web_port", found_at.web_port)
    check_seconds(f"{where}.refresh", found_at.refresh, 3600.0, "a new node is not found sooner", least=1)
    return NodeSource(
        dns=found_at.dns,
        backends=found_at.backends.rstrip("/") if found_at.backends else None,
        port=port,
        web_port=found_at.web_port,
        nameserver=found_at.nameserver,
        refresh=found_at.refresh,
    )


def _store(source: str, key: str, text: str) -> StoreUrl | None:
    try:
        store = parse_store(text)
    except ValueError as error:
        raise ConfigError(f"{source}: {key}: (value not shown) {error}") from None
    if store is None and key == "mirror":
        raise ConfigError(f"{source}: mirror: is a Redis URL, as store can be, or is left out")
    return store


def _load(source: str, load: LoadConfig) -> LoadConfig:
    """The section as it is used, with the default of every weight it does not name."""
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
                raise ConfigError(f"{source}: load.{key}: {shown(name)} is not the name of a resource: a-z and _ only")
    weights = {**DEFAULT_WEIGHTS, **load.weights}
    if not any(weights.values()):
        raise ConfigError(f"{source}: load.weights: are all 0; at least one must be above 0")
    check_seconds(f"{source}: load.refresh", load.refresh, 3600.0, "a report counts for three times as long", least=1)
    if load.web_auth in ("digest", "basic") and not load.web_user:
        raise ConfigError(f"{source}: load.web_user: is missing; load.web_auth {load.web_auth} needs a login")
    return msgspec.structs.replace(load, weights=weights)


def _check_nodes(source: str, entry: _File, nodes: tuple[Node, ...]) -> None:
    if not nodes:
        raise ConfigError(f"{source}: nodes: must list at least one coordinator, as host or host:port")
    addresses = [node.address for node in nodes]
    twice = sorted({address for address in addresses if addresses.count(address) > 1})
    if twice:
        raise ConfigError(f"{source}: nodes: {', '.join(twice)} listed more than once; each node may appear once")
    if entry.node_count is not None and entry.node_count != len(nodes):
        raise ConfigError(f"{source}: node_count: is {entry.node_count}, but nodes lists {len(nodes)}")


def _check_state(source: str, entry: _File, count: int, store: StoreUrl | None, mirror: StoreUrl | None) -> None:
    """Where the state is kept, and under which name."""
    if not entry.name.strip():
        raise ConfigError(f"{source}: name: is empty; leave it out, or give the cluster a name")
    if (store or mirror) and not re.fullmatch(r"[^{}]+", entry.name):
        raise ConfigError(
            f"{source}: name: {shown(entry.name)} names keys in Redis: it must not be empty, nor hold {{ or }}"
        )
    if count != 1 and entry.lock_file is None and store is None:
        raise ConfigError(
            f"{source}: lock_file: is missing; {count or 'found'} nodes are balanced only if all workers share a "
            "state. Name a file in a directory that every host mounts (a default in /tmp would be shared by nobody), "
            "or a shared store instead (store: redis://host)"
        )
    if entry.lock_file is not None and not os.path.isabs(entry.lock_file):
        raise ConfigError(
            f"{source}: lock_file: {shown(entry.lock_file)} must be an absolute path, the same on every host"
        )


def _check_numbers(source: str, entry: _File) -> None:
    for key in ("max_leases", "max_leases_per_node"):
        if (limit := getattr(entry, key)) is not None and limit < 1:
            raise ConfigError(f"{source}: {key}: must be at least 1, is {limit}; leave it out for no limit")
    check_seconds(f"{source}: max_wait", entry.max_wait, WEEK, "a task that waits longer is lost", least=0)
    for key, (least, most, reason) in _SECONDS.items():
        check_seconds(f"{source}: session.{key}", getattr(entry.session, key), most, reason, least=least)


def _check_urls(source: str, nodes: tuple[Node, ...], load: LoadConfig | None) -> None:
    for index, node in enumerate(nodes):
        for key in ("web", "metrics", "exporter"):
            url = getattr(node, key)
            if url is not None:
                check_url(f"{source}: nodes[{index}].{key}", url)
        if load and node.web and in_clear_text(node.web, load.web_auth):
            raise ConfigError(
                f"{source}: nodes[{index}].web: {node.web!r} with load.web_auth {load.web_auth} would send the secret "
                "in clear text; allowed: an https:// URL, or another load.web_auth"
            )


def _check(source: str, key: str, value: float, holds: bool, allowed: str) -> None:
    if not holds:
        raise ConfigError(f"{source}: {key}: is {value}, must be {allowed}")


def _explained(message: str, raw: Any) -> str:
    """msgspec's text in the author's words. Values of keys that may hold a secret are not shown."""
    problem, _, place = message.partition(" - at ")
    path = place.strip("`").removeprefix("$").removeprefix(".")
    unknown = re.search(r"unknown field `(.+?)`", problem)
    if unknown:
        import difflib

        key = unknown[1]
        allowed = list(_SECTIONS.get(path, _NodeEntry).__struct_fields__)
        near = difflib.get_close_matches(key, allowed, 1)
        hint = f" (did you mean {near[0]}?)" if near else ""
        name = key if near else shown_name(key)
        return f"{path + '.' if path else ''}{name}: unknown key{hint}; allowed: {', '.join(allowed)}"
    missing = re.search(r"missing required field `(.+?)`", problem)
    if missing:
        return f"{path + '.' if path else ''}{missing[1]}: is missing"
    # what is no section has no value that could be meant, and may be a password
    value = "value not shown" if "`object`" in problem else shown(_value_at(raw, path), path)
    if path in _CHOICES:
        return f"{path}: {value} is not one of {', '.join(get_args(_CHOICES[path]))}"
    return f"{path or 'config'}: {problem[0].lower()}{problem[1:]} ({value})"


def _value_at(raw: Any, path: str) -> Any:
    for key, index in re.findall(r"([^.\[\]]+)|\[(\d+)\]", path):
        try:
            raw = raw[int(index)] if index else raw[key]
        except (KeyError, IndexError, TypeError):
            return "?"
    return raw
