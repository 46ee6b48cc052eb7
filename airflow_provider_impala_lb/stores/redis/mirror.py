"""Session records copied to a Redis behind the work's back, and read from there by who has no other copy.

The copy is made by a thread, so a pick does not wait for it, and a record may be lost that was written in the moment in
which its process was killed or the mirror went away: then the key is placed anew, without its data. What arrives late
does not replace what is later: each placement and each recording moves a record's expiry, and the later one stays.
"""

from __future__ import annotations

import os
import threading
import time
from logging import getLogger
from typing import Any

import msgspec

from airflow_provider_impala_lb.core.config.store_url import StoreUrl
from airflow_provider_impala_lb.core.state.model import SessionRecord
from airflow_provider_impala_lb.stores.redis import client as redis_client

log = getLogger(__name__)

VARIABLE = "IMPALA_LB_MIRROR_PASSWORD"
"""The environment's variable with the password, if the URL has none."""
TIMEOUT = 0.5
"""Seconds for one connect, and for one answer: the first pick of a key waits for it."""
AWAY_SECONDS = 30.0
"""A mirror that did not answer is not asked for so long."""
_IDLE_SECONDS = 5.0

# KEYS: the record. ARGV: its expiry, the record, seconds to keep it.
_COPY = """
local there = redis.call('HGET', KEYS[1], 'expires')
if there and tonumber(there) > tonumber(ARGV[1]) then return 0 end
redis.call('HSET', KEYS[1], 'expires', ARGV[1], 'record', ARGV[2])
redis.call('EXPIRE', KEYS[1], ARGV[3])
return 1
"""


class RedisMirror:
    """A second home of session records, in a Redis.

    :param url: of the server, of sentinels, or of a cluster's nodes.
    :param name: the configuration's, which makes the keys its own.
    :param password: if the URL has none; default none.
    :ivar where: the URL without its password, and the keys.
    :raises ConfigError: redis-py is not installed.
    """

    def __init__(self, url: StoreUrl, name: str, *, password: str | None = None) -> None:
        redis_client.require_driver()
        self.where = f"{url} {{{name}}}:session:*"
        self._url, self._password = url, password
        self._prefix = f"{{{name}}}:session:"
        self._inherited: Any = None
        self._begin()

    def _begin(self) -> None:
        self._pid = os.getpid()
        self._client: Any = None
        self._away_until = float("-inf")
        self._warned = False
        self._pending: dict[str, SessionRecord] = {}
        self._changed = threading.Condition()
        self._thread: threading.Thread | None = None
        self._sending = False

    def copy(self, key: str, record: SessionRecord) -> None:
        """See `Mirror.copy`. Of several copies of one key only the last is sent.

        :param key: the session key.
        :param record: what to copy.
        """
        self._check_pid()
        with self._changed:
            self._pending[key] = msgspec.structs.replace(record)
            if self._thread is None:
                thread = threading.Thread(target=self._run, name="impala-lb-mirror", daemon=True)
                try:
                    thread.start()
                    self._thread = thread
                except RuntimeError as error:  # no more threads for this process: the next copy tries again
                    self._warn(f"until a later one: {error}")
            self._changed.notify_all()

    def find(self, key: str) -> SessionRecord | None:
        """See `Mirror.find`.

        :param key: the session key.
        """
        self._check_pid()
        try:
            if time.monotonic() < self._away_until:
                return None
            record = self._connected().hget(self._prefix + key, "record")
            return msgspec.json.decode(record, type=SessionRecord) if record else None
        except redis_client.failures() as error:
            self._failed(error)
        except msgspec.DecodeError as error:
            log.warning("%s: the copy of session key %r cannot be read: %s", self.where, key, error)
        return None

    def flush(self, seconds: float) -> bool:
        """See `Mirror.flush`.

        :param seconds: to wait at most.
        """
        self._check_pid()
        with self._changed:
            if self._thread is None and self._pending:  # no thread could be started
                return False
            return self._changed.wait_for(lambda: not self._pending and not self._sending, seconds)

    def _run(self) -> None:
        while True:
            with self._changed:
                if not self._changed.wait_for(lambda: self._pending, _IDLE_SECONDS):
                    self._thread = None
                    return
                records, self._pending, self._sending = self._pending, {}, True
            try:
                for key, record in records.items():
                    self._send(key, record)
            finally:
                with self._changed:
                    self._sending = False
                    self._changed.notify_all()

    def _send(self, key: str, record: SessionRecord) -> None:
        if time.monotonic() < self._away_until:
            return
        seconds = max(1, int(record.expires - time.time()))
        try:
            self._connected().eval(
                _COPY, 1, self._prefix + key, repr(record.expires), msgspec.json.encode(record), str(seconds)
            )
            self._warned = False
        except redis_client.failures() as error:
            self._failed(error)

    def _failed(self, error: Exception) -> None:
        self._client = None
        self._away_until = time.monotonic() + AWAY_SECONDS
        remedy = redis_client.to_correct(error, "EVAL, HGET, HSET, EXPIRE", VARIABLE)
        self._warn(f"{AWAY_SECONDS:g} s until the next attempt: {remedy or error}")

    def _warn(self, message: str) -> None:
        """Once, until a copy has been made."""
        if not self._warned:
            self._warned = True
            log.warning("mirror %s: session records are not copied for now, %s", self.where, message)

    def _connected(self) -> Any:
        if self._client is None:
            self._client = redis_client.connect(
                self._url, self._password, TIMEOUT, sentinel_variable="IMPALA_LB_MIRROR_SENTINEL_PASSWORD"
            )
        return self._client

    def _check_pid(self) -> None:
        if self._pid != os.getpid():
            self._inherited = self._client  # kept, unused: to close it would wait for a lock of the parent's threads
            self._begin()
