"""redis-py, imported only when a store is in Redis: how to connect, and what its failures mean."""

from __future__ import annotations

import errno
import os
import ssl
from typing import TYPE_CHECKING, Any

from airflow_provider_impala_lb.core.config.store_url import StoreUrl
from airflow_provider_impala_lb.errors import ConfigError

if TYPE_CHECKING:
    from redis import Redis
    from redis.cluster import RedisCluster

TIMEOUT = 2.0
"""Seconds for one connect, and for one answer."""
_HEALTH_CHECK = 30
"""A connection idle for this many seconds is tried with PING first."""


def require_driver() -> None:
    """:raises ConfigError: redis-py is not installed."""
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


def connect(url: StoreUrl, password: str | None, timeout: float = TIMEOUT) -> Redis | RedisCluster:
    """A client, whose pool threads may share. Only a cluster's connects here; the others at their first command.

    :param timeout: seconds for one connect, and for one answer.
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
        asking = {**options, "username": None, "password": os.environ.get("IMPALA_LB_SENTINEL_PASSWORD")}
        asking["socket_connect_timeout"] = asking["socket_timeout"] = timeout / 4  # there are several to ask
        sentinel = Sentinel(url.hosts, sentinel_kwargs={**asking, **tls}, **options, **tls)  # type: ignore[no-untyped-call]
        master: Redis = sentinel.master_for(url.service, db=url.db)  # type: ignore[no-untyped-call]
        return master
    host, port = url.hosts[0]
    return Redis(host=host, port=port, db=url.db, **options, **tls)


def to_correct(error: BaseException, commands: str = "EVAL") -> str | None:
    """What somebody has to change before this can work, or None if it may get well by itself.

    :param commands: what is needed.
    """
    from redis.exceptions import AuthenticationError, AuthenticationWrongNumberOfArgsError, NoPermissionError

    causes = [error]
    while causes[-1].__cause__:  # a cluster's client wraps what its nodes say
        causes.append(causes[-1].__cause__)
    text = str(error)
    if any(isinstance(cause, AuthenticationError | AuthenticationWrongNumberOfArgsError) for cause in causes):
        return (
            f"the server refuses the login ({text}); the password goes into the URL or the environment's "
            "IMPALA_LB_STORE_PASSWORD"
        )
    if isinstance(error, NoPermissionError) or "executing the script can't run this command" in text:
        return f"the user may not do what is needed: {commands} ({text})"
    if "WRONGTYPE" in text:
        return "its keys hold something else; give this cluster another name, or another database"
    if "DB index is out of range" in text or "Cluster mode is not enabled" in text:
        return f"the server does not have what the URL says ({text})"
    return None


def wrong_file(url: StoreUrl) -> str | None:
    """Which of the URL's files this host does not have, or may not read; None: none. Looked at when a connection has
    failed: redis-py says no more than that."""
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
    """True if the server said no: the command had no effect. Else its answer may have been lost on the way."""
    from redis.exceptions import ResponseError

    return isinstance(error, ResponseError)
