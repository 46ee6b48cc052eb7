"""The state in Redis: read, changed here by the pure Python code that serves every store, then compared and set.

One hash ``{name}:state`` holds the state and the id of the commit that made it. A commit replaces both if that id is
still the one that was read; else somebody came between, and all is done again. The braces put all keys of a cluster of
ours into one slot of a Redis Cluster (redis.io, "Redis cluster specification", hash tags), as scripts require.

* A lost answer: a commit's id is also kept as a key of its own, so that the same commit may be sent again: it is
  applied once, and says so each time (redis-py#261, #977: a command whose answer was lost may have been executed).
* Ids are random, not counted: after a FLUSHALL or a failover a number would come back, and with it an old commit.
* Scripts go as text with EVAL, about 500 bytes: Redis caches them by their digest, and there is no NOSCRIPT to handle
  after a restart or failover, nor a SCRIPT LOAD that needs all masters of a cluster.
* Whoever reads takes the turn, a key that expires, and others wait while it is there. It only spares them vain work
  (sixteen processes back to back: docs/design.md); nothing is wrong if it expires early.
"""

from __future__ import annotations

import random
import time
import uuid
from collections.abc import Callable
from contextlib import suppress
from logging import getLogger

from airflow_provider_impala_lb.core.config.store_url import StoreUrl
from airflow_provider_impala_lb.core.ports import Result
from airflow_provider_impala_lb.core.state.loading import load_or_reset
from airflow_provider_impala_lb.core.state.state import State, encode
from airflow_provider_impala_lb.errors import StateUnavailable
from airflow_provider_impala_lb.stores.redis import client as redis_client
from airflow_provider_impala_lb.stores.redis.caller import APPLIED_MS, DEADLINE, RedisCaller

log = getLogger(__name__)

_TURN_MS = 100
"""A turn lasts this long at most. It is needed for two round trips; one that was killed holds the others up so long."""

# KEYS: state, turn. ARGV: my turn's id ("" to look without one), how long it may last in ms.
_READ = """
if ARGV[1] ~= '' then
  local holder = redis.call('GET', KEYS[2])
  if holder and holder ~= ARGV[1] then return {} end
  redis.call('SET', KEYS[2], ARGV[1], 'PX', ARGV[2])
end
local kept, now = redis.call('HMGET', KEYS[1], 'commit', 'state'), redis.call('TIME')
return {now[1], now[2], kept[1], kept[2]}
"""
# KEYS: state, turn, applied. ARGV: my turn's id, the commit that was read, mine, the new state, ms to remember it.
_COMMIT = """
if redis.call('EXISTS', KEYS[3]) == 1 then return 1 end
if (redis.call('HGET', KEYS[1], 'commit') or '') ~= ARGV[2] then return 0 end
redis.call('HSET', KEYS[1], 'commit', ARGV[3], 'state', ARGV[4])
redis.call('SET', KEYS[3], '1', 'PX', ARGV[5])
if redis.call('GET', KEYS[2]) == ARGV[1] then redis.call('DEL', KEYS[2]) end
return 1
"""
# KEYS: turn. ARGV: my turn's id.
_LEAVE = "if redis.call('GET', KEYS[1]) == ARGV[1] then redis.call('DEL', KEYS[1]) end"


class RedisStore(RedisCaller):
    """The state of the cluster ``name`` in a Redis server, one behind sentinels, or a Redis Cluster.

    :param password: if the URL has none.
    :param deadline: seconds to try, in all.
    """

    one_clock = True  # the server's
    FIRST_PAUSE = 0.0005
    LONGEST_PAUSE = 0.004

    def __init__(self, url: StoreUrl, name: str, *, password: str | None = None, deadline: float = DEADLINE) -> None:
        self._keys = [f"{{{name}}}:state", f"{{{name}}}:turn"]
        super().__init__(url, password, deadline, where=f"{url} {self._keys[0]}")
        self._applied = f"{{{name}}}:applied:"
        self._warned = False

    def transact(self, change: Callable[[State, float], Result]) -> Result:
        start = time.monotonic()
        turn = uuid.uuid4().hex
        pause = self.FIRST_PAUSE
        while True:
            found = self._read(start, turn)
            if found is not None:
                now, commit, record = found
                state, unreadable = load_or_reset(f"store {self.where}", record)
                try:
                    result = change(state, now)
                except BaseException:
                    self._leave(turn)
                    raise
                if self._commit(start, turn, commit, encode(state)):
                    break
            waited = time.monotonic() - start
            if waited >= self._deadline:
                raise StateUnavailable(f"{self.where}: others came first for {waited:.1f} s")
            time.sleep(random.uniform(pause / 2, pause))
            pause = min(pause * 1.5, self.LONGEST_PAUSE)
        if unreadable and not self._warned:
            self._warned = True
            log.warning("%s: the state in it was unreadable; it was started anew, and heals by itself", self.where)
        return result

    def read(self) -> tuple[State, float]:
        found = self._read(time.monotonic(), "")
        assert found is not None  # who does not want the turn does not wait for it
        now, _, record = found
        return load_or_reset(f"store {self.where}", record)[0], now

    def _read(self, start: float, turn: str) -> tuple[float, bytes, bytes] | None:
        """The server's clock, the last commit's id, the record; None while it is another's turn."""
        found = self._try(start, lambda client: client.eval(_READ, 2, *self._keys, turn, str(_TURN_MS)))
        if not found:
            return None
        seconds, micros, commit, record = found
        return int(seconds) + int(micros) / 1e6, commit or b"", record or b""

    def _commit(self, start: float, turn: str, commit: bytes, record: bytes) -> bool:
        """Whether it was applied. Sent again, unchanged, until an answer arrives."""
        mine = uuid.uuid4().hex
        keys = [*self._keys, self._applied + mine]
        return bool(
            self._try(
                start,
                lambda client: client.eval(_COMMIT, 3, *keys, turn, commit, mine, record, str(APPLIED_MS)),
                changes=True,
            )
        )

    def _leave(self, turn: str) -> None:
        with suppress(*redis_client.failures()):  # it also ends by itself
            self._connected().eval(_LEAVE, 1, self._keys[1], turn)
