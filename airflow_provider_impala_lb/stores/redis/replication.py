"""Which Redis server answers, and whether what was written to another one, or before its restart, is the newest here.

What it says of itself in INFO:

* ``run_id``: this process. ``master_replid``: the history of its data; a replica that takes over begins a new one and
  keeps the old one's name as ``master_replid2``. So does a primary that is started again from a snapshot (Redis 7,
  loadDataFromDisk), whose data may be an hour old: only the time of its start tells it from a replica that took over.
* A primary also begins a new history when its first replica comes, and when it has had none for ``repl-backlog-ttl``;
  then without an old one's name (replication.c, changeReplicationId and clearReplicationId2).
"""

from __future__ import annotations

from typing import NamedTuple

CLOCKS_DIFFER = 60.0
"""Seconds by which the clocks of servers may differ."""
_NONE = "0" * 40

SAID = """
local function said(section, form) return string.match(redis.call('INFO', section), form) or '-' end
local function replicas() return select(2, string.gsub(redis.call('INFO', 'replication'), 'state=online', '')) end
local function server()
  return table.concat({said('server', 'run_id:(%w+)'), said('replication', 'master_replid:(%w+)'),
    said('replication', 'master_replid2:(%w+)'), said('persistence', 'aof_enabled:(%d)'),
    said('server', 'uptime_in_seconds:(%d+)'), redis.call('TIME')[1]}, ' ')
end
"""
"""For a Lua script: ``server()``, as `RedisServer.parse` reads it, and ``replicas()``, how many are online."""


class RedisServer(NamedTuple):
    """``appends``: whether it keeps an append-only file. ``started`` and ``at``, when it said so, by its own clock."""

    run: str
    history: str
    before: str
    appends: bool
    started: float
    at: float

    @classmethod
    def parse(cls, said: bytes) -> RedisServer:
        run, history, before, appends, uptime, at = said.decode().split(" ")
        return cls(run, history, before, appends == "1", float(at) - float(uptime if uptime != "-" else 0), float(at))

    def took_over_from(self, then: RedisServer) -> bool:
        """Whether this was a replica of the server ``then`` and has become the primary."""
        return self.before == then.history and self.run != then.run and not self._started_after(then)

    def may_be_behind(self, then: RedisServer, replicas: int) -> str | None:
        """Why a document may be an older one here, that was written to the server ``then``; None if it is the newest.

        :param replicas: how many of its replicas had received it.
        """
        if self.run == then.run and (self.history == then.history or self.before in (_NONE, "-")):
            return None
        if self._started_after(then):
            if self.appends and then.appends:
                return None
            return "its Redis was started again since it was written, and kept no append-only file, so it may be old"
        if replicas and self.took_over_from(then):
            return None
        return "another Redis server has taken over since it was written, and may not have received what came after it"

    def _started_after(self, then: RedisServer) -> bool:
        """Whether it may have been."""
        return self.started > then.at - CLOCKS_DIFFER
