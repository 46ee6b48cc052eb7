"""The state in Redis: read, changed here by the pure Python code that serves every store, then compared and set.

One hash ``{name}:state`` holds the state and the id of the commit that made it. A commit replaces both if that id is
still the one that was read; else somebody came between, and all is done again. The braces put all keys of a cluster of
ours into one slot of a Redis Cluster (redis.io, "Redis cluster specification", hash tags), as scripts require.

* A lost answer: a commit's id is also kept as a key of its own, so that the same commit may be sent again: it is
  applied once, and says so each time (redis-py#261, #977: a command whose answer was lost may have been executed).
* Ids are random, not counted: after a FLUSHALL or a failover a number would come back, and with it an old commit.
* Scripts go as text with EVAL, about 500 bytes: Redis caches them by their digest, and there is no NOSCRIPT to handle
  after a restart or failover, nor a SCRIPT LOAD that needs all masters of a cluster.
* Whoever reads sets the lock hint, a key that expires (``{name}:turn``), and others wait while it is there. It only
  spares them vain work (sixteen processes back to back: docs/design.md); nothing is wrong if it expires early.
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
from airflow_provider_impala_lb.core.timing import Backoff
from airflow_provider_impala_lb.errors import StateUnavailable
from airflow_provider_impala_lb.stores.redis.client import APPLIED_MS, DEADLINE, RedisClient, failures

log = getLogger(__name__)

_COMMANDS = "EVAL, TIME, GET, SET, DEL, EXISTS, HGET, HMGET, HSET"
_HINT_MS = 100
"""The lock hint lasts this long at most. It is needed for two round trips; of a process that was killed it stays."""
_FIRST_PAUSE, _LONGEST_PAUSE = 0.0005, 0.004

# KEYS: state, lock hint. ARGV: my id in the hint ("" to look without one), how long it may last in ms.
_READ = """
if ARGV[1] ~= '' then
  local holder = redis.call('GET', KEYS[2])
  if holder and holder ~= ARGV[1] then return {} end
  redis.call('SET', KEYS[2], ARGV[1], 'PX', ARGV[2])
end
local kept, now = redis.call('HMGET', KEYS[1], 'commit', 'state'), redis.call('TIME')
return {now[1], now[2], kept[1], kept[2]}
"""
# KEYS: state, lock hint, applied. ARGV: my id in the hint, the commit that was read, mine, the new state, ms to
# remember it.
_COMMIT = """
if redis.call('EXISTS', KEYS[3]) == 1 then return 1 end
if (redis.call('HGET', KEYS[1], 'commit') or '') ~= ARGV[2] then return 0 end
redis.call('HSET', KEYS[1], 'commit', ARGV[3], 'state', ARGV[4])
redis.call('SET', KEYS[3], '1', 'PX', ARGV[5])
if redis.call('GET', KEYS[2]) == ARGV[1] then redis.call('DEL', KEYS[2]) end
return 1
"""
# KEYS: lock hint. ARGV: my id in it.
_UNLOCK = "if redis.call('GET', KEYS[1]) == ARGV[1] then redis.call('DEL', KEYS[1]) end"


class RedisStore:
    """The state in a Redis server, one behind sentinels, or a Redis Cluster.

    :param url: of the server, of sentinels, or of a cluster's nodes.
    :param name: the configuration's, which makes the keys its own.
    :param password: if the URL has none; default none.
    :param deadline: seconds to try, in all; default 5.
    :ivar where: the URL without its password, and the key.
    :ivar one_clock: True: the server's.
    :raises ConfigError: redis-py is not installed.
    """

    one_clock = True

    def __init__(self, url: StoreUrl, name: str, *, password: str | None = None, deadline: float = DEADLINE) -> None:
        self._keys = [f"{{{name}}}:state", f"{{{name}}}:turn"]
        self.where = f"{url} {self._keys[0]}"
        self._client = RedisClient(url, password, deadline, where=self.where, commands=_COMMANDS)
        self._applied = f"{{{name}}}:applied:"
        self._warned = False

    def transact(self, change: Callable[[State, float], Result]) -> Result:
        """See `Store.transact`.

        :param change: gets the state and the time; called again if it was computed on a stale state.
        """
        start = time.monotonic()
        me = uuid.uuid4().hex
        backoff = Backoff(_FIRST_PAUSE, _LONGEST_PAUSE, growth=1.5)
        while True:
            found = self._read(start, me)
            if found is not None:
                now, commit, record = found
                state, renewed = load_or_reset(f"store {self.where}", record)
                try:
                    result = change(state, now)
                except BaseException:
                    self._unlock(me)
                    raise
                if self._commit(start, me, commit, encode(state)):
                    break
            waited = time.monotonic() - start
            if waited >= self._client.deadline:
                raise StateUnavailable(f"{self.where}: others came first for {waited:.1f} s")
            pause = backoff.next()
            time.sleep(random.uniform(pause / 2, pause))
        if renewed and not self._warned:
            self._warned = True
            log.warning("%s: the state in it was unreadable; it was started anew, and heals by itself", self.where)
        return result

    def read(self, *, records: bool = True) -> tuple[State, float]:
        """See `Store.read`.

        :param records: as there.
        """
        found = self._read(time.monotonic(), "")
        assert found is not None  # who does not set the hint does not wait for it
        now, _, record = found
        state = load_or_reset(f"store {self.where}", record)[0]
        return state if records else State(state.head), now

    def _read(self, start: float, me: str) -> tuple[float, bytes, bytes] | None:
        """The server's clock, the last commit's id, the record; None while the lock hint is another's.

        :param me: my id in the hint; "" to look without one.
        """
        answer = self._client.ask(start, lambda client: client.eval(_READ, 2, *self._keys, me, str(_HINT_MS)))
        if not answer:
            return None
        seconds, micros, commit, record = answer
        return int(seconds) + int(micros) / 1e6, commit or b"", record or b""

    def _commit(self, start: float, me: str, commit: bytes, record: bytes) -> bool:
        """Whether it was applied. Sent again, unchanged, until an answer arrives."""
        mine = uuid.uuid4().hex
        keys = [*self._keys, self._applied + mine]
        return bool(
            self._client.ask(
                start,
                lambda client: client.eval(_COMMIT, 3, *keys, me, commit, mine, record, str(APPLIED_MS)),
                changes=True,
            )
        )

    def _unlock(self, me: str) -> None:
        with suppress(*failures()):  # it also ends by itself
            self._client.connected().eval(_UNLOCK, 1, self._keys[1], me)
