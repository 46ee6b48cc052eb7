"""Which Redis server answers, and whether what was written to another one, or before its restart, is the newest here.

What it reports of itself in INFO:

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

SERVER_LUA = """
local function reported(section, form) return string.match(redis.call('INFO', section), form) or '-' end
local function replicas() return select(2, string.gsub(redis.call('INFO', 'replication'), 'state=online', '')) end
local function server()
  return table.concat({reported('server', 'run_id:(%w+)'), reported('replication', 'master_replid:(%w+)'),
    reported('replication', 'master_replid2:(%w+)'), reported('persistence', 'aof_enabled:(%d)'),
    reported('server', 'uptime_in_seconds:(%d+)'), redis.call('TIME')[1]}, ' ')
end
"""
"""For a Lua script: ``server()``, as `RedisServer.parse` reads it, and ``replicas()``, how many are online."""


class RedisServer(NamedTuple):
    """What a server reported of itself.

    :ivar run: its process, INFO's ``run_id``.
    :ivar history: of its data, ``master_replid``.
    :ivar before: the history that this one follows, ``master_replid2``.
    :ivar appends: whether it keeps an append-only file.
    :ivar started: when it was started, in seconds since the epoch, by its own clock.
    :ivar at: when it reported this, likewise.
    """

    run: str
    history: str
    before: str
    appends: bool
    started: float
    at: float

    @classmethod
    def parse(cls, report: bytes) -> RedisServer:
        """Read a report.

        :param report: as ``server()`` of `SERVER_LUA` returns it.
        """
        run, history, before, appends, uptime, at = report.decode().split(" ")
        return cls(run, history, before, appends == "1", float(at) - float(uptime if uptime != "-" else 0), float(at))

    def took_over_from(self, then: RedisServer) -> bool:
        """Whether this server was a replica of another one and has become the primary.

        :param then: the other one, as it was then.
        """
        return self.before == then.history and self.run != then.run and not self._started_after(then)

    def may_be_behind(self, then: RedisServer, replicas: int) -> str | None:
        """Why a document that was written to another server may be an older one here; None if it is the newest.

        :param then: the other one, as it was then.
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
