"""The configuration as it is used: checked, with its defaults filled in. Made by `parse`."""

# No postponed annotations here: msgspec would compile each of them anew in every process, which is most of what
# importing this file would cost.
from functools import cached_property
from typing import Literal

import msgspec

from airflow_provider_impala_lb.core.config.address import DEFAULT_PORT, format_address, parse_address
from airflow_provider_impala_lb.core.config.store_url import StoreUrl
from airflow_provider_impala_lb.errors import ConfigError

PolicyName = Literal["least_loaded", "round_robin", "weighted_random", "power_of_two"]
"""The policies of this version; another name is an error that lists them. What each computes: `core.rules.policy`."""
AuthMechanism = Literal["NOSASL", "PLAIN", "LDAP", "GSSAPI"]
"""How a session logs in."""
WebAuth = Literal["none", "digest", "basic", "bearer"]
"""How a coordinator's web server wants a login."""

MAX_WAIT = 300.0
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


class Node(msgspec.Struct, frozen=True, forbid_unknown_fields=True, dict=True):
    """A coordinator: where it listens for HiveServer2, how large it is beside the others, and who tells of its load.

    :param host: name or address, in its canonical form.
    :param port: of HiveServer2; default 21050.
    :param weight: how large it is beside the others, above 0; default 1.
    :param web: URL of its web server, e.g. ``http://host:25000``; None (default): it has none.
    :param max_leases: how many scripts it may run at once; None (default): the cluster's ``max_leases_per_node``.
    :param metrics: URL of its metrics port, which asks for no login (``--metrics_webserver_port``); None (default): it
        has none.
    :param exporter: URL of the host's Prometheus node_exporter, e.g. ``http://host:9100/metrics``; None (default): it
        has none.
    :param joined: when it was found, seconds since the epoch; 0 (default): it is listed, or was there from the start.
    """

    host: str
    port: int = DEFAULT_PORT
    weight: float = 1.0
    web: str | None = None
    max_leases: int | None = None
    metrics: str | None = None
    exporter: str | None = None
    joined: float = 0.0

    @cached_property
    def address(self) -> str:
        """``host:port``, the name by which the state, XCom and the command line know the node."""
        return format_address(self.host, self.port)


class NodeSource(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """Where the coordinators are found, instead of being listed. Either ``dns`` or ``backends``.

    :param dns: a name in DNS, for all its A and AAAA records; or, if it begins with ``_``, for its SRV records, which
        have ports.
    :param backends: URL of a coordinator's web server, whose ``/backends`` page names all of them.
    :param port: of HiveServer2, where the source tells none; default the configuration's ``port``.
    :param web_port: with ``dns``, of the coordinators' web servers, which speak ``http``; None (default): not known.
    :param nameserver: with ``dns``, whom to ask, as ``address`` or ``address:port``; None (default): the host's own.
    :param refresh: seconds between two looks, by one process for all; default 30.
    """

    dns: str | None = None
    backends: str | None = None
    port: int = DEFAULT_PORT
    web_port: int | None = None
    nameserver: str | None = None
    refresh: float = 30.0

    @property
    def name(self) -> str:
        """What to call it in a message."""
        return f"DNS name {self.dns}" if self.dns else f"{self.backends}/backends"


class SessionConfig(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """How sessions are opened.

    :param user: whom the session belongs to; default the connection's login, else the operating system's user.
    :param password_file: a file with the password, which nobody but its owner and group may read; a password given
        otherwise (the Airflow connection's) counts before it, it before the environment's. None (default): no file.
    :param auth_mechanism: how to log in; default ``NOSASL``.
    :param database: the session's; None (default): the server's default one.
    :param query_options: set for the whole session when it is opened, as ``SET`` would; default none.
    :param open_timeout: seconds for TCP, login and OpenSession together: a full coordinator accepts and stays silent.
        Default 10.
    :param rpc_timeout: seconds for one call of the protocol, e.g. the planning of a statement. Not a query's time
        limit. Default 300.
    :param reconnect_timeout: seconds a query may be without its client; it sets ``QUERY_TIMEOUT_S``, so that a query
        whose client has died ends by itself. Default 600.
    :param use_ssl: speak TLS; default False.
    :param ca_cert: PEM file of the authority that signed the servers' certificates; None (default): the system's.
    :param verify_cert: with ``use_ssl``, check the server's certificate; default True.
    :param kerberos_service_name: with GSSAPI; default ``impala``.
    :param krb_host: with GSSAPI, the host name in the servers' principal; None (default): each node's own.
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


class LoadConfig(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """How nodes report, and from which headroom on they get less. The formula: `core.rules.headroom`.

    :param floor: a node whose free share of a single resource is below this gets nothing; default 0.1. A number is for
        every resource but ``heap`` (see :data:`DEFAULT_WEIGHTS`); a mapping changes only the resources it names.
    :param busy: T: a node with this headroom or less takes nothing new; default 0.2.
    :param overloaded: H: one with this headroom or less also gives work away; default 0.1.
    :param weights: of each resource in the headroom. A mapping changes only the resources it names.
    :param refresh: seconds between two reports of a node; default 10.
    :param web_auth: how the coordinators' web servers want a login: ``digest`` where Impala has
        ``--webserver_password_file``, ``basic`` for ``--webserver_require_ldap``, ``bearer`` for a JWT or OAuth token.
        The password or token itself comes from the environment's ``IMPALA_LB_WEB_PASSWORD``. Default ``none``.
    :param web_user: the login's name, for ``digest`` and ``basic``.
    :param ca_cert: PEM file of the authority that signed the certificates of https URLs; None (default): the system's.
    :param verify_cert: check them, and the names of their hosts; default True.
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
        """The least free share of this resource with which a node still gets work.

        :param resource: its name.
        """
        if isinstance(self.floor, dict) and resource in self.floor:
            return self.floor[resource]
        if resource == "heap":
            return 0.0
        return DEFAULT_FLOOR if isinstance(self.floor, dict) else self.floor

    def weight_of(self, resource: str) -> float:
        """This resource's weight in the headroom; 0 for one that neither we nor the configuration know.

        :param resource: its name.
        """
        return self.weights.get(resource, 0.0)


class Config(msgspec.Struct, frozen=True, dict=True):
    """A checked configuration. Made by `parse.load` or `parse.parse`.

    :param nodes: the coordinators, in the order in which they were listed.
    :param name: of the cluster; default ``impala``.
    :param deployment: whose scripts these are, where several Airflows share the cluster's state; None (default): it has
        only one.
    :param lock_file: an absolute path, the same on every host; None (default): the state is kept in ``store``, or in
        this process's memory.
    :param policy: how one of the candidates is chosen; default ``least_loaded``.
    :param store: the Redis that keeps the state; None (default): the lock file does.
    :param mirror: the Redis that session records are copied to; None (default): none.
    :param max_leases: how many scripts may run at once on all nodes together; None (default): no limit.
    :param max_leases_per_node: and on each node; None (default): no limit.
    :param max_wait: seconds to wait for a node while all are busy or full; default 300.
    :param load: how nodes report their load; None (default): they are not asked.
    :param load_is_auto: nobody has configured ``load``: nodes are asked where their pages answer without a login, one
        that does not answer is asked less and less often, and no script waits for headroom. Default False.
    :param session: how sessions are opened.
    :param source: where nodes are found; None (default): they are listed.
    :param gone: nodes that were found lately, and are not found any more: work that is on them can be reached, and
        nothing new goes there. Default none.
    """

    nodes: tuple[Node, ...]
    name: str = "impala"
    deployment: str | None = None
    lock_file: str | None = None
    policy: PolicyName = "least_loaded"
    store: StoreUrl | None = None
    mirror: StoreUrl | None = None
    max_leases: int | None = None
    max_leases_per_node: int | None = None
    max_wait: float = MAX_WAIT
    load: LoadConfig | None = None
    load_is_auto: bool = False
    session: SessionConfig = SessionConfig()
    source: NodeSource | None = None
    gone: tuple[Node, ...] = ()

    @cached_property
    def addresses(self) -> tuple[str, ...]:
        """The nodes as ``host:port``, in their order."""
        return tuple(node.address for node in self.nodes)

    @cached_property
    def order(self) -> dict[str, int]:
        """Each address's index in the list of nodes."""
        return {address: index for index, address in enumerate(self.addresses)}

    @cached_property
    def _gone_by_address(self) -> dict[str, Node]:
        return {node.address: node for node in self.gone}

    @cached_property
    def has_pages(self) -> bool:
        """Whether any node has an address at which it tells its load."""
        return any(node.web or node.metrics or node.exporter for node in self.nodes)

    @cached_property
    def has_lease_limit(self) -> bool:
        """Whether anything limits how many scripts run at once."""
        limits = (self.max_leases, self.max_leases_per_node, *(node.max_leases for node in self.nodes))
        return any(limit is not None for limit in limits)

    @cached_property
    def slots(self) -> int:
        """How many scripts may run at once; where nothing limits them, one on each node."""
        if self.max_leases is not None:
            return self.max_leases
        return max(1, sum(self.lease_limit(node) or 1 for node in self.nodes))

    @cached_property
    def report_seconds(self) -> float:
        """How long a report is good for: three times ``load.refresh``; 0 without ``load``."""
        return 3 * self.load.refresh if self.load else 0.0

    def lease_limit(self, node: Node) -> int | None:
        """How many scripts may run on this node at once; None: no limit.

        :param node: one of this configuration.
        """
        return self.max_leases_per_node if node.max_leases is None else node.max_leases

    def owner_of(self, work: str) -> str:
        """The name by which all who share the cluster's state know some work of this deployment.

        :param work: its name here, e.g. ``dag/run/task``; one that is complete already stays as it is.
        :returns: ``deployment:dag/run/task``, or ``work`` without a deployment; "" for nobody's.
        """
        prefix = f"{self.deployment}:" if self.deployment else ""
        return work if not work or work.startswith(prefix) else prefix + work

    def canonical(self, address: str) -> str:
        """The name by which this configuration has a node.

        :param address: ``host`` or ``host:port``, in any spelling.
        :raises ConfigError: it does not list this node.
        """
        try:
            host, port = parse_address(address)
        except ValueError as error:
            raise ConfigError(f"{error}; nodes of {self.name}: {', '.join(self.addresses)}") from None
        found = format_address(host, port)
        if found not in self.order and self.node(found) is None:
            raise ConfigError(
                f"{address!r} is not a node of {self.name}, so nothing is sent to it; "
                f"its nodes: {', '.join(self.addresses)}"
            )
        return found

    def node(self, address: str) -> Node | None:
        """The node of this address, or None if the configuration does not list it.

        :param address: ``host:port``, as in :attr:`addresses`.
        """
        index = self.order.get(address)
        if index is not None:
            return self.nodes[index]
        return self._gone_by_address.get(address)
