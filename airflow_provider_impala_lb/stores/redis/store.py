"""The state in Redis: read, changed here by the pure Python code that serves every store, then compared and set.

One hash ``{name}:state`` holds the head, each kind of records, and the id of the commit that made them. A commit
replaces what it changed if that id is still the one that was read; else somebody came between, and all is done again.
Records come along as long as they are few; else they are read when one is asked for, and what is only added travels
alone. The braces put all keys of a cluster of ours into one slot of a Redis Cluster (redis.io, "Redis cluster
specification", hash tags), as scripts require.

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
import threading
import time
import uuid
from collections.abc import Callable
from contextlib import suppress
from logging import getLogger
from typing import NamedTuple

from airflow_provider_impala_lb.core.config.store_url import StoreUrl
from airflow_provider_impala_lb.core.forks import renew_in_children
from airflow_provider_impala_lb.core.ports import Result
from airflow_provider_impala_lb.core.state.loading import load_or_reset
from airflow_provider_impala_lb.core.state.record_log import Extent
from airflow_provider_impala_lb.core.state.state import KINDS, State, encode_head
from airflow_provider_impala_lb.core.timing import Backoff
from airflow_provider_impala_lb.errors import StateContended
from airflow_provider_impala_lb.stores.redis.client import APPLIED_MS, DEADLINE, RedisClient, failures

log = getLogger(__name__)

_COMMANDS = "EVAL, TIME, GET, SET, DEL, EXISTS, HGET, HMGET, HSET, HSTRLEN"
_HINT_MS = 100
"""The lock hint lasts this long at most. It is needed for two round trips; of a process that was killed it stays."""
_FIRST_PAUSE, _LONGEST_PAUSE = 0.0005, 0.004

_FEW_BYTES = 16384
"""So many bytes of records come with the head: they cost less than one more question."""
_ALL, _NONE = 1 << 60, -1

# KEYS: state, lock hint. ARGV: my id in the hint ("" to look without one), how long it may last in ms, the most bytes
# of records that are wanted, the number of their kinds. Returns the time, the commit, the head, and the records if they
# are so few.
_READ = """
if ARGV[1] ~= '' then
  local holder = redis.call('GET', KEYS[2])
  if holder and holder ~= ARGV[1] then return {} end
  redis.call('SET', KEYS[2], ARGV[1], 'PX', ARGV[2])
end
local found = redis.call('HMGET', KEYS[1], 'commit', 'state')
local now, bytes, names = redis.call('TIME'), 0, {}
for kind = 1, tonumber(ARGV[4]) do
  names[kind] = 'records.' .. (kind - 1)
  bytes = bytes + redis.call('HSTRLEN', KEYS[1], names[kind])
end
local answer = {now[1], now[2], found[1], found[2]}
if bytes <= tonumber(ARGV[3]) then
  local texts = redis.call('HMGET', KEYS[1], unpack(names))
  for kind = 1, #names do answer[4 + kind] = texts[kind] or '' end
end
return answer
"""
# KEYS: state. ARGV: the commit that was read, a kind of records. Returns those; nothing if there was another commit.
_RECORDS = """
if (redis.call('HGET', KEYS[1], 'commit') or '') ~= ARGV[1] then return {} end
return {redis.call('HGET', KEYS[1], 'records.' .. ARGV[2]) or ''}
"""
# KEYS: state, lock hint, applied. ARGV: my id in the hint, the commit that was read, mine, ms to remember it, the new
# head; then for each kind of records that changed: its number, 'set' or 'add', the bytes.
_COMMIT = """
if redis.call('EXISTS', KEYS[3]) == 1 then return 1 end
if (redis.call('HGET', KEYS[1], 'commit') or '') ~= ARGV[2] then return 0 end
redis.call('HSET', KEYS[1], 'commit', ARGV[3], 'state', ARGV[5])
for at = 6, #ARGV, 3 do
  local name, text = 'records.' .. ARGV[at], ARGV[at + 2]
  if ARGV[at + 1] == 'add' then text = (redis.call('HGET', KEYS[1], name) or '') .. text end
  redis.call('HSET', KEYS[1], name, text)
end
redis.call('SET', KEYS[3], '1', 'PX', ARGV[4])
if redis.call('GET', KEYS[2]) == ARGV[1] then redis.call('DEL', KEYS[2]) end
return 1
"""
# KEYS: lock hint. ARGV: my id in it.
_UNLOCK = "if redis.call('GET', KEYS[1]) == ARGV[1] then redis.call('DEL', KEYS[1]) end"


class _Overtaken(Exception):
    """Records were asked for, and are those of another commit by now."""


class _Found(NamedTuple):
    """:ivar now: the server's clock, seconds since the epoch.
    :ivar commit: the id of the last one; b"": there was none.
    :ivar state: as of `load_or_reset`.
    """

    now: float
    commit: bytes
    state: tuple[State, bool]


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
        self.forget_parent()
        renew_in_children(self)

    def forget_parent(self) -> None:
        """This process is a child: the threads that waited or were at work were its parent's."""
        self._turn = threading.Lock()  # one thread at a time: each that tries again and again takes the others' time

    def transact(self, change: Callable[[State, float], Result]) -> Result:
        """See `Store.transact`.

        :param change: gets the state and the time; called again if it was computed on a stale state.
        """
        start, turn = time.monotonic(), self._turn
        if not turn.acquire(timeout=self._client.deadline):
            raise StateContended(f"{self.where}: other threads came first for {time.monotonic() - start:.1f} s")
        try:
            return self._transact(start, change)
        finally:
            turn.release()

    def _transact(self, start: float, change: Callable[[State, float], Result]) -> Result:
        me = uuid.uuid4().hex
        backoff = Backoff(_FIRST_PAUSE, _LONGEST_PAUSE, growth=1.5)
        while True:
            found = self._read(start, me, _FEW_BYTES)
            if found is not None:
                state, renewed = found.state
                try:
                    result = change(state, found.now)
                    if self._commit(start, me, found.commit, state):
                        break
                except _Overtaken:
                    pass
                except BaseException:
                    self._unlock(me)
                    raise
            waited = time.monotonic() - start
            if waited >= self._client.deadline:
                raise StateContended(f"{self.where}: others came first for {waited:.1f} s")
            pause = backoff.next()
            time.sleep(random.uniform(pause / 2, pause))
        state.close()
        if renewed and not self._warned:
            self._warned = True
            log.warning("%s: the state in it was unreadable; it was started anew, and heals by itself", self.where)
        return result

    def read(self, *, records: bool = True) -> tuple[State, float]:
        """See `Store.read`.

        :param records: as there.
        """
        found = self._read(time.monotonic(), "", _ALL if records else _NONE)
        assert found is not None  # who does not set the hint does not wait for it
        state, _ = found.state
        return state if records else State(state.head), found.now

    def _read(self, start: float, me: str, most: int) -> _Found | None:
        """What the server has; None while the lock hint is another's.

        :param me: my id in the hint; "" to look without one.
        :param most: bytes of records that come along; if there are more they are read when they are asked for.
        """
        arguments = (me, str(_HINT_MS), str(most), str(KINDS))
        answer = self._client.ask(start, lambda client: client.eval(_READ, 2, *self._keys, *arguments))
        if not answer:
            return None
        seconds, micros, commit, head, *texts = answer

        def read(kind: int, extent: Extent) -> bytes:
            return texts[kind] if texts else self._records(start, commit or b"", kind)

        state = load_or_reset(f"store {self.where}", head or b"", read)
        return _Found(int(seconds) + int(micros) / 1e6, commit or b"", state)

    def _records(self, start: float, commit: bytes, kind: int) -> bytes:
        """:raises _Overtaken: there was another commit meanwhile."""
        answer = self._client.ask(start, lambda client: client.eval(_RECORDS, 1, self._keys[0], commit, str(kind)))
        if not answer:
            raise _Overtaken
        return bytes(answer[0])

    def _commit(self, start: float, me: str, commit: bytes, state: State) -> bool:
        """Whether it was applied. Sent again, unchanged, until an answer arrives."""
        mine = uuid.uuid4().hex
        changes: list[str | bytes] = []
        for kind, records in enumerate(state.records):
            extent = records.extent
            if records.rewritten or (records.added and not extent.length):
                text = records.text
                changes += [str(kind), "set", text]
                extent.length = len(text)
            elif added := records.added:
                changes += [str(kind), "add", added]
                extent.length += len(added)
        keys = [*self._keys, self._applied + mine]
        arguments = [me, commit, mine, str(APPLIED_MS), encode_head(state), *changes]
        return bool(self._client.ask(start, lambda client: client.eval(_COMMIT, 3, *keys, *arguments), changes=True))

    def _unlock(self, me: str) -> None:
        with suppress(*failures()):  # it also ends by itself
            self._client.connected().eval(_UNLOCK, 1, self._keys[1], me)
