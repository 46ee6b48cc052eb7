"""Journals in Redis: read, changed here, compared and set; and an older one is never taken for the newest.

Each is a hash ``{name}:journal:<hash of the key>``: the wrapped document, the id of the commit that made it, and what
was known of the server then. Compare and set, and a lost answer, as in store.py; without a lock hint, since those who
share a journal are few. A removed document leaves its commit's id for a day, so that no commit that arrives late finds
the same nothing again.

Redis answers a commit before anything else has it: replicas hear of it later, the append-only file may be synced later,
or there is none. Who went by an older document would run statements again. So:

* **Replicas.** ``WAIT`` tells how many have received a commit (redis.io, "WAIT"). All that are online must, and at
  least one if the document's previous commit had one; else the outcome is unknown. So whichever of them takes over has
  it, and a primary that is cut off from its replicas confirms nothing of what it began with them: to guess that they
  are gone for good would be to write what those who elect another one never see. Who has taken over may be alone.
* **Who has it now** is compared with who had it then: replication.py. A document that may be an older one is damaged.
* **Gone altogether** (FLUSHALL, eviction, a restart without any file) is absent: who knows that there was one must take
  that for an unknown outcome.

Limits. WAIT means received, not synced: if all lose power at once, the last second may be gone with ``appendfsync
everysec``, and an older document be there (`durability` says so). Of several replicas, one that was away during a
commit may be chosen although others have it: if those are out of reach, or lower in priority (give them equal ones).
A backup that somebody puts back is not noticed.
"""

from __future__ import annotations

import random
import re
import time
import uuid
from collections.abc import Callable
from contextlib import suppress
from functools import partial
from typing import TYPE_CHECKING, Any, NamedTuple

from airflow_provider_impala_lb.core.config.store_url import StoreUrl
from airflow_provider_impala_lb.core.ports import Change, Result, Swept
from airflow_provider_impala_lb.core.timing import Backoff
from airflow_provider_impala_lb.errors import ConfigError, JournalDamaged, StateUnavailable
from airflow_provider_impala_lb.stores.journals.document import damaged, name_of, unwrap, wrap
from airflow_provider_impala_lb.stores.redis import client as redis_client
from airflow_provider_impala_lb.stores.redis.client import APPLIED_MS, DEADLINE, RedisClient
from airflow_provider_impala_lb.stores.redis.replication import SERVER_LUA, RedisServer

if TYPE_CHECKING:
    from redis import Redis

COMMANDS = "EVAL, TIME, GET, SET, EXISTS, HGET, HMGET, HSET, PEXPIRE, PERSIST, SCAN, INFO, WAIT"
"""What a user has to be allowed."""
_REMOVED_MS = 86_400_000
_FIRST_PAUSE, _LONGEST_PAUSE = 0.0005, 0.02

# KEYS: the journal.
_READ = f"""
{SERVER_LUA}
local kept = redis.call('HMGET', KEYS[1], 'commit', 'document', 'replicas', 'server')
return {{kept[1], kept[2], kept[3], kept[4], server(), replicas(), redis.call('TIME')}}
"""
# KEYS: the journal, applied. ARGV: the commit that was read, mine, the new document, ms to remember it, replicas that
# are to have it, ms to remember a removal. It writes in any case: WAIT counts from this connection's last write.
_COMMIT = f"""
{SERVER_LUA}
if redis.call('EXISTS', KEYS[2]) == 0 then
  if (redis.call('HGET', KEYS[1], 'commit') or '') ~= ARGV[1] then return 0 end
  redis.call('HSET', KEYS[1], 'commit', ARGV[2], 'document', ARGV[3], 'replicas', ARGV[5], 'server', server())
  if ARGV[3] == '' then redis.call('PEXPIRE', KEYS[1], ARGV[6]) else redis.call('PERSIST', KEYS[1]) end
end
redis.call('SET', KEYS[2], '1', 'PX', ARGV[4])
return 1
"""
_REPLICAS = f"{SERVER_LUA} return replicas()"


class _Found(NamedTuple):
    """What was read.

    :ivar now: the server's clock, in seconds since the epoch.
    :ivar commit: the id of the commit that made it.
    :ivar envelope: the wrapped document; b"" if there is none.
    :ivar online: how many replicas are there now.
    :ivar least: how many must have the next commit, even if fewer are there then.
    """

    now: float
    commit: bytes
    envelope: bytes
    online: int
    least: int


class _TooFew(OSError):
    """Not all replicas that should have a commit have confirmed it."""


class RedisJournals:
    """The journals in a Redis server, one behind sentinels, or a Redis Cluster.

    :param url: of the server, of sentinels, or of a cluster's nodes.
    :param name: the configuration's, which makes the keys its own.
    :param password: if the URL has none; default none.
    :param deadline: seconds to try, in all; default 5.
    :ivar where: the URL without its password, and the keys.
    :raises ConfigError: redis-py is not installed.
    """

    def __init__(self, url: StoreUrl, name: str, *, password: str | None = None, deadline: float = DEADLINE) -> None:
        self._prefix = f"{{{name}}}:journal:"
        self.where = f"{url} {self._prefix}*"
        self._url = url
        self._client = RedisClient(url, password, deadline, where=self.where, commands=COMMANDS)
        self._applied = f"{{{name}}}:applied:"

    def change(self, key: str, fn: Change[Result]) -> Result:
        """See `JournalStore.change`.

        :param key: any text.
        :param fn: gets the document and the time; returns its result, and the document to keep.
        """
        start = time.monotonic()
        name = name_of(key)
        backoff = Backoff(_FIRST_PAUSE, _LONGEST_PAUSE, growth=1.5)
        while True:
            found = self._read(start, name)
            result, document = fn(self._unwrap(name, found.envelope)[1] if found.envelope else None, found.now)
            # Also if nothing changes: only a commit proves that this server is the one that has the newest.
            if self._commit(start, name, found, b"" if document is None else wrap(self.where, key, document)):
                return result
            waited = time.monotonic() - start
            if waited >= self._client.deadline:
                raise StateUnavailable(f"{self.where}: others came first for {waited:.1f} s")
            pause = backoff.next()
            time.sleep(random.uniform(pause / 2, pause))

    def read(self, key: str) -> bytes | None:
        """See `JournalStore.read`.

        :param key: any text.
        """
        found = self._read(time.monotonic(), name_of(key))
        return self._unwrap(name_of(key), found.envelope)[1] if found.envelope else None

    def keys(self) -> list[str]:
        """See `JournalStore.keys`."""
        keys = []
        for name in self._names():
            with suppress(JournalDamaged):
                found = self._read(time.monotonic(), name)
                if found.envelope:
                    keys.append(self._unwrap(name, found.envelope)[0])
        return keys

    def sweep(self, wanted: Callable[[str, bytes, float], bool]) -> Swept:
        """See `JournalStore.sweep`.

        :param wanted: whether to keep a document, given its key, itself and the time.
        """
        removed, bad = 0, []
        for name in self._names():
            try:
                found = self._read(time.monotonic(), name)
                if not found.envelope:
                    continue
                key, document = self._unwrap(name, found.envelope)
                if wanted(key, document, found.now):
                    continue

                def swept(document: bytes | None, now: float, key: str = key) -> tuple[bool, bytes | None]:
                    drop = document is not None and not wanted(key, document, now)
                    return drop, None if drop else document

                removed += self.change(key, swept)
            except (JournalDamaged, ConfigError) as error:
                bad.append(str(error))
        return Swept(removed, bad)

    def durability(self) -> str | None:
        """See `JournalStore.durability`.

        :raises StateUnavailable: it could not be asked.
        :raises ConfigError: it could not be asked, and somebody has to change something.
        """
        start = time.monotonic()
        info = self._client.ask(start, lambda client: self._direct(client).info("persistence"))
        info |= self._client.ask(start, lambda client: self._direct(client).info("memory"))
        synced = self._client.ask(start, lambda client: _setting(self._direct(client), "appendfsync"))
        loses = []
        if not info.get("aof_enabled"):
            loses.append(
                "keeps no append-only file (appendonly no): after its restart it is unknown which statements ran, and "
                "a script that was running then stops with an unknown outcome instead of guessing"
            )
        elif synced != "always":
            loses.append(
                f"may not sync each write (appendfsync {synced or 'unknown: CONFIG is not permitted'}): after a loss "
                "of power a journal may be some seconds older, and a statement may be run twice; with always it cannot"
            )
        if str(info.get("maxmemory_policy", "")).startswith("allkeys"):
            loses.append(
                f"removes journals when its memory is full (maxmemory-policy {info['maxmemory_policy']}); "
                "volatile-* and noeviction do not"
            )
        return f"{self.where}: this Redis {'; and it '.join(loses)}" if loses else None

    def _at(self, name: str) -> str:
        return f"{self._url} {self._prefix}{name}"

    def _unwrap(self, name: str, envelope: bytes) -> tuple[str, bytes]:
        return unwrap(self._at(name), name, envelope)

    def _read(self, start: float, name: str) -> _Found:
        """:raises JournalDamaged: it may be an older one."""
        answer = self._client.ask(start, lambda client: self._direct(client).eval(_READ, 1, self._prefix + name))
        commit, envelope, replicas, report_then, report, online, (seconds, micros) = answer
        had, here = int(replicas or 0), RedisServer.parse(report)
        then = RedisServer.parse(report_then) if report_then else here
        if envelope and (reason := here.may_be_behind(then, had)):
            raise damaged(self._at(name), reason)
        # Alone is only who has taken over: one that was started again has a replica that may take over yet.
        least = 1 if online or (had and not here.took_over_from(then)) else 0
        return _Found(int(seconds) + int(micros) / 1e6, commit or b"", envelope or b"", int(online), least)

    def _commit(self, start: float, name: str, found: _Found, envelope: bytes) -> bool:
        """Whether it was applied. Sent again until it is answered and confirmed."""
        mine = uuid.uuid4().hex
        keys = [self._prefix + name, self._applied + mine]
        needed: int | None = found.online

        def commit(client: Any) -> bool:
            nonlocal needed
            direct = self._direct(client)
            if needed is None:  # one may have gone meanwhile
                needed = int(direct.eval(_REPLICAS, 0))
            wanted, needed = max(needed, found.least), None
            with direct.pipeline(transaction=False) as pipe:  # both on one connection
                pipe.eval(_COMMIT, 2, *keys, found.commit, mine, envelope, APPLIED_MS, wanted, _REMOVED_MS)
                if wanted:
                    pipe.wait(wanted, int(redis_client.TIMEOUT * 500))
                applied, *confirmed = pipe.execute(raise_on_error=False)
            for answer in (applied, *confirmed):
                if isinstance(answer, Exception):
                    raise answer
            if applied and confirmed and confirmed[0] < wanted:
                raise _TooFew(f"{confirmed[0]} of {wanted} replicas have confirmed it")
            return bool(applied)

        return self._client.ask(start, commit, changes=True)

    def _direct(self, client: Any) -> Redis:
        """The server that holds the journals: of a cluster it is one, since their keys have one hash tag."""
        if self._url.kind == "cluster":
            client = client.get_redis_connection(client.get_node_from_key(self._prefix))
        direct: Redis = client
        return direct

    def _names(self) -> set[str]:
        start = time.monotonic()
        pattern = re.sub(r"([\[\]*?\\^-])", r"\\\1", self._prefix) + "*"
        names: set[str] = set()
        cursor = 0
        while True:
            cursor, found = self._client.ask(start, partial(self._scan, cursor, pattern))
            names.update(key.decode().removeprefix(self._prefix) for key in found)
            if not cursor:
                return names

    def _scan(self, cursor: int, pattern: str, client: Any) -> tuple[int, list[bytes]]:
        return self._direct(client).scan(cursor, pattern, 1000)  # type: ignore[return-value]


def _setting(client: Redis, name: str) -> str:
    """A setting; "" if it is not said."""
    from redis.exceptions import ResponseError

    try:
        return str(client.config_get(name).get(name, ""))
    except ResponseError:  # a managed service has no CONFIG, or this user may not
        return ""
