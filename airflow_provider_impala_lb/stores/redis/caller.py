"""A client of a Redis that asks again until it is answered, or out of time; shared by all that is kept there."""

from __future__ import annotations

import os
import random
import time
from collections.abc import Callable
from typing import TYPE_CHECKING, Any, TypeVar

from airflow_provider_impala_lb.core.config.store_url import StoreUrl
from airflow_provider_impala_lb.errors import ConfigError, StateUnavailable
from airflow_provider_impala_lb.stores.redis import client as redis_client

if TYPE_CHECKING:
    from redis import Redis
    from redis.cluster import RedisCluster

Answer = TypeVar("Answer")

DEADLINE = 5.0
APPLIED_MS = 60_000
"""A commit's id is known this long: far longer than it is sent again, or can be on its way."""


class RedisCaller:
    """:param deadline: seconds to try, in all. :param where: what to call it in a message."""

    COMMANDS = "EVAL, TIME, GET, SET, DEL, EXISTS, HGET, HMGET, HSET"
    """What a user has to be allowed."""
    PAUSE_AFTER_FAILURE = 0.1

    def __init__(self, url: StoreUrl, password: str | None, deadline: float, *, where: str) -> None:
        redis_client.require_driver()
        self.where = where
        self._url = url
        self._password = password
        self._deadline = deadline
        self._client: tuple[int, Redis | RedisCluster] | None = None
        self._inherited: tuple[int, Redis | RedisCluster] | None = None

    def _try(self, start: float, call: Callable[[Any], Answer], changes: bool = False) -> Answer:
        """What ``call`` answers, tried until there is no time left for one more.

        :param changes: whether it makes a difference if it was executed and its answer lost.
        """
        unknown = False
        while True:
            try:
                return call(self._connected())
            except redis_client.failures() as error:
                self._client = None  # a new one looks the name, the master and the slots up again
                correct = redis_client.to_correct(error, self.COMMANDS) or redis_client.wrong_file(self._url)
                if correct:
                    raise ConfigError(f"store {self.where}: {correct}") from error
                unknown = unknown or (changes and not redis_client.is_refusal(error))
                waited = time.monotonic() - start
                if waited + redis_client.TIMEOUT > self._deadline:
                    outcome = "; outcome unknown: it may have been noted all the same" if unknown else ""
                    raise StateUnavailable(f"{self.where}: tried for {waited:.1f} s: {error}{outcome}") from error
            time.sleep(random.uniform(0.5, 1.0) * self.PAUSE_AFTER_FAILURE)

    def _connected(self) -> Redis | RedisCluster:
        """This process's client. A child makes its own: in the parent's, a lock that another thread held at the fork
        would never be free, and a socket would serve both. The parent's is kept, unused: to collect it is to close it,
        which waits for the same lock (redis-py, ConnectionPool._checkpid: 5 s)."""
        known = self._client
        if known is None or known[0] != os.getpid():
            self._inherited = known or self._inherited
            known = self._client = os.getpid(), redis_client.connect(self._url, self._password)
        return known[1]
