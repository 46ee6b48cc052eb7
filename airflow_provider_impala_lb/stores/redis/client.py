"""redis-py, imported only when something is kept in Redis: how to connect, ask again, and what its failures mean."""

from __future__ import annotations

import errno
import os
import random
import ssl
import time
from collections.abc import Callable
from typing import TYPE_CHECKING, Any, TypeVar

from airflow_provider_impala_lb.core.config.store_url import StoreUrl
from airflow_provider_impala_lb.errors import ConfigError, StateUnavailable

if TYPE_CHECKING:
    from redis import Redis
    from redis.cluster import RedisCluster

Answer = TypeVar("Answer")

DEADLINE = 5.0
"""Seconds in which one question has to be answered, all attempts together."""
APPLIED_MS = 60_000
"""A commit's id is known this long: far longer than it is sent again, or can be on its way."""
TIMEOUT = 2.0
"""Seconds for one connect, and for one answer."""
_HEALTH_CHECK = 30
"""A connection idle for this many seconds is tried with PING first."""
_PAUSE_AFTER_FAILURE = 0.1


class RedisClient:
    """Asks a Redis until it is answered, or out of time.

    :param url: of the server, of sentinels, or of a cluster's nodes.
    :param password: if the URL has none; None: none.
    :param deadline: seconds in which one question has to be answered, all attempts together.
    :param where: what to call in a message what is kept there.
    :param commands: which a user has to be allowed, for a message.
    :ivar url: as given.
    :ivar deadline: as given.
    :raises ConfigError: redis-py is not installed.
    """

    def __init__(self, url: StoreUrl, password: str | None, deadline: float, *, where: str, commands: str) -> None:
        require_driver()
        self.url = url
        self.deadline = deadline
        self._password = password
        self._where = where
        self._commands = commands
        self._client: tuple[int, Redis | RedisCluster] | None = None
        self._inherited: tuple[int, Redis | RedisCluster] | None = None

    def ask(self, start: float, question: Callable[[Any], Answer], changes: bool = False) -> Answer:
        """What ``question`` returns, called again until there is no time left for one more.

        :param start: when the deadline began to run, by the monotonic clock.
        :param question: asks the server, given redis-py's client.
        :param changes: whether it makes a difference if it was executed and its answer lost; default False.
        :raises StateUnavailable: not answered in time; the message says so if with ``changes`` the outcome is unknown.
        :raises ConfigError: somebody has to change something before it can work.
        """
        unknown = False
        while True:
            try:
                return question(self.connected())
            except failures() as error:
                self._client = None  # a new one looks the name, the master and the slots up again
                remedy = to_correct(error, self._commands) or wrong_file(self.url)
                if remedy:
                    raise ConfigError(f"store {self._where}: {remedy}") from error
                unknown = unknown or (changes and not is_refusal(error))
                waited = time.monotonic() - start
                if waited + TIMEOUT > self.deadline:
                    outcome = "; outcome unknown: it may have been noted all the same" if unknown else ""
                    raise StateUnavailable(f"{self._where}: tried for {waited:.1f} s: {error}{outcome}") from error
            time.sleep(random.uniform(0.5, 1.0) * _PAUSE_AFTER_FAILURE)

    def connected(self) -> Redis | RedisCluster:
        """This process's client. A child makes its own: in the parent's, a lock that another thread held at the fork
        would never be free, and a socket would serve both. The parent's is kept, unused: to collect it is to close it,
        which waits for the same lock (redis-py, ConnectionPool._checkpid: 5 s)."""
        known = self._client
        if known is None or known[0] != os.getpid():
            self._inherited = known or self._inherited
            known = self._client = os.getpid(), connect(self.url, self._password)
        return known[1]


def require_driver() -> None:
    """Check that redis-py can be imported.

    :raises ConfigError: it is not installed.
    """
    try:
        import redis  # noqa: F401
    except ModuleNotFoundError:
        raise ConfigError(
            "store: needs redis-py, which is not installed; install it with: "
            "pip install 'airflow-provider-impala-lb[redis]'"
        ) from None


def failures() -> tuple[type[Exception], ...]:
    """What redis-py raises when a server is away, refuses, or its cluster is not whole."""
    from redis.exceptions import RedisClusterException, RedisError

    return (RedisError, RedisClusterException, OSError)


def connect(
    url: StoreUrl,
    password: str | None,
    timeout: float = TIMEOUT,
    *,
    sentinel_variable: str = "IMPALA_LB_SENTINEL_PASSWORD",
) -> Redis | RedisCluster:
    """A client, whose pool threads may share. Only a cluster's connects here; the others at their first command.

    :param url: of the server, of sentinels, or of a cluster's nodes.
    :param password: if the URL has none; None: none.
    :param timeout: seconds for one connect, and for one answer; default `TIMEOUT`.
    :param sentinel_variable: the environment's variable with the sentinels' password; default the store's.
    """
    from redis import Redis
    from redis.backoff import NoBackoff
    from redis.cluster import ClusterNode, RedisCluster
    from redis.retry import Retry
    from redis.sentinel import Sentinel

    options: dict[str, Any] = {
        "username": url.user,
        "password": url.password or password,
        "socket_connect_timeout": timeout,
        "socket_timeout": timeout,
        "health_check_interval": _HEALTH_CHECK,
        # Its own retries would go on past the deadline, with a sentinel's old master (redis-py#3560), and hide that
        # a command may have been executed although its answer was lost (redis-py#261, #977).
        "retry": Retry(NoBackoff(), 0),
        "protocol": 2,
    }
    tls: dict[str, Any] = {"ssl": True, "ssl_check_hostname": True, **dict(url.tls_files)} if url.tls else {}
    if url.kind == "cluster":
        nodes = [ClusterNode(host, port) for host, port in url.hosts]  # type: ignore[no-untyped-call]
        return RedisCluster(startup_nodes=nodes, **options, **tls)
    if url.kind == "sentinel":
        # Sentinels are not told the servers' password: one that wants none refuses the connection for it. One that
        # wants its own (``requirepass`` in sentinel.conf) gets it from the environment.
        to_sentinel = {**options, "username": None, "password": os.environ.get(sentinel_variable)}
        to_sentinel["socket_connect_timeout"] = to_sentinel["socket_timeout"] = timeout / 4  # there are several to ask
        sentinel = Sentinel(url.hosts, sentinel_kwargs={**to_sentinel, **tls}, **options, **tls)  # type: ignore[no-untyped-call]
        master: Redis = sentinel.master_for(url.service, db=url.db)  # type: ignore[no-untyped-call]
        return master
    host, port = url.hosts[0]
    return Redis(host=host, port=port, db=url.db, **options, **tls)


def to_correct(error: BaseException, commands: str = "EVAL", variable: str = "IMPALA_LB_STORE_PASSWORD") -> str | None:
    """What somebody has to change before this can work, or None if it may get well by itself.

    :param error: what redis-py raised.
    :param commands: which are needed; default EVAL.
    :param variable: the environment's, with the server's password; default the store's.
    """
    from redis.exceptions import AuthenticationError, AuthenticationWrongNumberOfArgsError, NoPermissionError

    causes = [error]
    while causes[-1].__cause__:  # a cluster's client wraps what its nodes say
        causes.append(causes[-1].__cause__)
    text = str(error)
    if any(isinstance(cause, AuthenticationError | AuthenticationWrongNumberOfArgsError) for cause in causes):
        return f"the server refuses the login ({text}); the password goes into the URL or the environment's {variable}"
    if isinstance(error, NoPermissionError) or "executing the script can't run this command" in text:
        return f"the user may not do what is needed: {commands} ({text})"
    if "WRONGTYPE" in text:
        return "its keys hold something else; give this cluster another name, or another database"
    if "DB index is out of range" in text or "Cluster mode is not enabled" in text:
        return f"the server does not have what the URL says ({text})"
    return None


def wrong_file(url: StoreUrl) -> str | None:
    """Which of the URL's files this host does not have, or may not read; None: none. Looked at when a connection has
    failed: redis-py says no more than that.

    :param url: of the server.
    """
    for key, path in url.tls_files:
        try:
            if key == "ssl_ca_certs":
                ssl.create_default_context(cafile=path)
            else:
                with open(path, "rb"):
                    pass
        except ssl.SSLError:
            return f"{key}: {path}: holds no certificate in PEM form"
        except OSError as error:
            if error.errno not in (errno.EMFILE, errno.ENFILE, errno.ENOMEM):
                return f"{key}: {path}: {error.strerror} (on this host, {os.uname().nodename})"
    return None


def is_refusal(error: BaseException) -> bool:
    """Whether the server refused: the command had no effect. Else its answer may have been lost on the way.

    :param error: what redis-py raised.
    """
    from redis.exceptions import ResponseError

    return isinstance(error, ResponseError)
