"""A practice cluster: its shared directory, its coordinators, and the configuration that finds them."""

from __future__ import annotations

import json
import secrets
import shutil
import signal
import tempfile
import threading
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from types import TracebackType
from typing import Any, Literal

from airflow_provider_impala_lb.errors import ImpalaLBError
from airflow_provider_impala_lb.sandbox.common.catalog import create_catalog
from airflow_provider_impala_lb.sandbox.common.confinement import PRIVATE
from airflow_provider_impala_lb.sandbox.common.flags import Flags
from airflow_provider_impala_lb.sandbox.common.node_settings import NodeSettings
from airflow_provider_impala_lb.sandbox.common.private_files import make_private, write_private
from airflow_provider_impala_lb.sandbox.common.versions import HEAD, Behaviour
from airflow_provider_impala_lb.sandbox.common.web_access import WebAccess
from airflow_provider_impala_lb.sandbox.node_process import SandboxNode


class Sandbox:
    """Coordinators on 127.0.0.1, each a process of its own, over one warehouse directory. A context manager.

    No coordinator outlives the process that made the Sandbox, however that one ends.

    :param nodes: how many coordinators; default 3.
    :param lag: seconds until every coordinator shows what another one changed (at least half of it); default 2; 0: at
        once.
    :param directory: where the catalog, the tables and the journals live. One that has them already is used as it is.
        None (default): a new temporary one, removed at the end.
    :param users: login -> password: clients must use SASL PLAIN. ``random`` (default): one login, :attr:`user`, with a
        password made now, :attr:`password`; :attr:`config` and :attr:`connection` carry both. None: NOSASL, anybody on
        this machine (for clients without SASL).
    :param flags: Impala's flags for every coordinator, see
        :class:`airflow_provider_impala_lb.sandbox.common.flags.Flags`; default None: the defaults there.
    :param web_auth: the login that the web pages want: ``digest``, ``basic``, ``bearer`` or ``none`` (default).
    :param web_users: login -> password for it; for ``bearer`` the passwords are the tokens. Default None.
    :param web_certificate: PEM file with a certificate and its key: the web pages are at https then. Default None.
    :param metrics_port: a second web port on each node, with the metrics only, which wants no login; default False.
    :param allow: directories beside the cluster's own whose files SQL may read, move and write (``LOCATION``,
        ``LOAD DATA``). Default none: a table can be nowhere else.
    :param version: of Impala, as which it behaves where a client can tell: ``3.4``, ``4.0``, ``4.1``, ``4.4``, ``4.5``
        or ``HEAD`` (default).
    :param admins: users who may end everybody's statements by KILL QUERY; others only their own. Default none.
    :raises ValueError: a parameter with a value it cannot have; the message names it.
    :ivar nodes: the coordinators; empty while the cluster does not run.
    """

    def __init__(
        self,
        nodes: int = 3,
        lag: float = 2.0,
        directory: str | Path | None = None,
        users: Mapping[str, str] | Literal["random"] | None = "random",
        flags: Mapping[str, float] | None = None,
        *,
        web_auth: str = "none",
        web_users: Mapping[str, str] | None = None,
        web_certificate: str | Path | None = None,
        metrics_port: bool = False,
        allow: Sequence[str | Path] = (),
        version: str = HEAD,
        admins: Sequence[str] = (),
    ) -> None:
        if nodes < 1:
            raise ValueError(f"nodes={nodes}: at least 1.")
        if lag < 0:
            raise ValueError(f"lag={lag}: 0 or more seconds.")
        if isinstance(users, str) and users != "random":
            raise ValueError(f"users={users!r}: a mapping of logins to passwords, 'random', or None.")
        if users is not None and not users:
            raise ValueError("users={}: at least one login, or None for no authentication.")
        self._flags = dict(flags or {})
        Flags.of(self._flags)
        self._version, self._admins = Behaviour(version).version, list(admins)
        self._count, self._lag = nodes, lag
        if users == "random":
            users = {"sandbox": secrets.token_urlsafe(18)}
        self._users: dict[str, str] | None = dict(users) if users else None
        self._allow = [str(Path(directory).absolute()) for directory in allow]
        certificate = str(Path(web_certificate).absolute()) if web_certificate else None
        self._access = WebAccess(web_auth, dict(web_users or {}), certificate, metrics_port)
        self._own_directory = directory is None
        self._wanted = None if directory is None else Path(directory).absolute()
        self._directory: Path | None = None
        self.nodes: list[SandboxNode] = []

    @property
    def directory(self) -> Path:
        """Where everything of the cluster is."""
        assert self._directory is not None, "not started"
        return self._directory

    @property
    def warehouse(self) -> Path:
        """Where the files of the tables are."""
        return self.directory / "warehouse"

    def __enter__(self) -> Sandbox:
        self.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.stop()

    def start(self) -> None:
        """Start all coordinators, side by side, and wait until all serve.

        :raises ImpalaLBError: one did not start; all are ended then.
        """
        if self.nodes:
            raise ImpalaLBError("This sandbox runs already.")
        self._directory = self._wanted or Path(tempfile.mkdtemp(prefix="impala-sandbox-"))
        try:
            make_private(self.directory)
            make_private(self.warehouse)
            make_private(self._private)
            create_catalog(self.directory, self._lag)
            web = self._private / "web.json"
            self._access.write(web)
            settings = NodeSettings(
                "",
                str(self.directory),
                self._flags,
                self._allow,
                self._write_users(),
                str(web),
                self._version,
                self._admins,
            )
            self.nodes = [
                SandboxNode(replace(settings, name=f"node{number}"), self._access)
                for number in range(1, self._count + 1)
            ]
            for node in self.nodes:
                node.spawn()
            for node in self.nodes:
                node.wait_ready()
            write_private(self.config_file, _yaml(self.config))
        except BaseException:
            self.stop()
            raise

    def stop(self) -> None:
        """End all coordinators; remove the directory if the sandbox made it."""
        for node in self.nodes:
            node.stop()
        self.nodes = []
        if self._own_directory and self._directory is not None:
            shutil.rmtree(self._directory, ignore_errors=True)

    def _write_users(self) -> str | None:
        if self._users is None:
            return None
        path = self._private / "users.json"
        write_private(path, json.dumps(self._users))
        write_private(self._private / "password", str(self.password))
        return str(path)

    @property
    def _private(self) -> Path:
        """Where no table can be."""
        return self.directory / PRIVATE

    @property
    def user(self) -> str | None:
        """The login of :attr:`config` and :attr:`connection`, the first of ``users``; None without one."""
        return next(iter(self._users)) if self._users else None

    @property
    def password(self) -> str | None:
        """The password of :attr:`user`."""
        return self._users[self.user] if self._users and self.user else None

    @property
    def config(self) -> dict[str, Any]:
        """The balancer's configuration of this cluster. The password is not in it: it names the file that has it."""
        nodes: list[dict[str, Any]] = [
            {
                "host": node.host,
                "port": node.port,
                "web": node.web,
                **({"metrics": node.metrics} if node.metrics else {}),
            }
            for node in self.nodes
        ]
        login: dict[str, Any] = {"auth_mechanism": "NOSASL"}
        if self._users:
            login = {
                "auth_mechanism": "PLAIN",
                "user": self.user,
                "password_file": str(self._private / "password"),
            }
        return {
            "name": "sandbox",
            "lock_file": str(self.directory / "node_in_use.tmp"),
            "nodes": nodes,
            "session": {**login, "database": "default"},
        }

    @property
    def config_file(self) -> Path:
        """:attr:`config` as YAML."""
        return self.directory / "impala_lb.yml"

    @property
    def connection(self) -> str:
        """JSON for a variable ``AIRFLOW_CONN_<ID>``: a connection of type ``impala_lb``, as the first of ``users``."""
        config = self.config
        nodes = config.pop("nodes")
        config["session"].pop("password_file", None)  # the connection has it itself
        fields = {
            "conn_type": "impala_lb",
            "host": ",".join(f"{node['host']}:{node['port']}" for node in nodes),
            "login": self.user,
            "password": self.password,
            "schema": "default",
            "extra": {**config, "nodes": nodes},
        }
        return json.dumps({key: value for key, value in fields.items() if value is not None})


def _yaml(config: Mapping[str, Any]) -> str:
    import yaml

    return yaml.safe_dump(dict(config), sort_keys=False)


def serve(
    nodes: int = 3,
    lag: float = 2.0,
    directory: str | Path | None = None,
    *,
    login: bool = True,
    allow: Sequence[str | Path] = (),
) -> int:
    """Run a cluster in the foreground until SIGTERM or SIGINT. To be called in the main thread.

    When all coordinators serve, one JSON line goes to standard output::

        {"config": "<YAML file>", "user", "password", "nodes": [{"host", "port", "web", "pid", "journal"}]}

    :param nodes: how many coordinators; default 3.
    :param lag: as in :class:`Sandbox`, seconds; default 2.
    :param directory: as in :class:`Sandbox`; default None.
    :param login: default True; False: NOSASL, for clients without SASL; user and password are null then.
    :param allow: as in :class:`Sandbox`; default none.
    :returns: the exit code.
    """
    over = threading.Event()
    before = {number: signal.signal(number, lambda *_: over.set()) for number in (signal.SIGTERM, signal.SIGINT)}
    try:
        with Sandbox(nodes, lag, directory, "random" if login else None, allow=allow) as cluster:
            nodes_shown = [
                {
                    "host": node.host,
                    "port": node.port,
                    "web": node.web,
                    "pid": node.pid,
                    "journal": str(node.journal_file),
                }
                for node in cluster.nodes
            ]
            login_shown = {"user": cluster.user, "password": cluster.password}
            print(json.dumps({"config": str(cluster.config_file), **login_shown, "nodes": nodes_shown}), flush=True)
            # The kernel may hand the signal to another thread; Python's handler runs when this one next wakes up.
            while not over.wait(0.2):
                pass
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
    return 0
