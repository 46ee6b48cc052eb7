"""The flags of a coordinator: the names and defaults are Impala's."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, fields


@dataclass(frozen=True)
class Flags:
    """Impala's flags. All times are in seconds unless the name says otherwise; fractions are allowed.

    :ivar fe_service_threads: connections served at once, default 64; one more is accepted and left without an answer.
    :ivar accepted_client_cnxn_timeout: milliseconds after which such a connection is closed; default 300000.
    :ivar idle_session_timeout: default 0: never.
    :ivar disconnected_session_timeout: how long a session is kept after its last connection has gone, default 900; 0 or
        less: it is closed with it, which is all that Impala up to 3.2 knows.
    :ivar idle_query_timeout: upper bound for QUERY_TIMEOUT_S; default 0: none.
    :ivar max_hs2_sessions_per_user: default -1: no limit.
    :ivar max_wait_time_for_sync_ddl_s: the catalog service's; default 0: no limit. A statement with SYNC_DDL whose
        change takes longer than this to reach every coordinator ends in an error, although it is done.
    :ivar query_log_size: how many statements the page ``/queries`` keeps that were closed; default None:
        as Impala's version has it, 200 since 4.4; -1: all.
    :ivar query_log_size_in_bytes: how many bytes of them; default 2 GB, -1: all.
    :ivar query_stmt_size: after how many characters ``/queries`` cuts a statement, from 4.0 on; default 250; 0: never.
    :ivar default_pool_max_requests: statements that run at once in a pool of this coordinator; default -1: no limit.
    :ivar default_pool_max_queued: statements that wait for that; default 200.
    :ivar queue_wait_timeout_ms: how long they wait, milliseconds; default 60000.
    :ivar shutdown_grace_period_s: how long a coordinator that shuts down waits at least; default 120.
    :ivar shutdown_deadline_s: how long it waits at most; default 3600.
    :ivar stress_metadata_loading_pause_injection_ms: milliseconds that each statement is planned longer, as the first
        one is that needs a large table; default 0.
    """

    fe_service_threads: int = 64
    accepted_client_cnxn_timeout: float = 300000
    idle_session_timeout: float = 0
    disconnected_session_timeout: float = 900
    idle_query_timeout: float = 0
    max_hs2_sessions_per_user: int = -1
    max_wait_time_for_sync_ddl_s: float = 0
    query_log_size: int | None = None
    query_log_size_in_bytes: int = 2 << 30
    query_stmt_size: int = 250
    default_pool_max_requests: int = -1
    default_pool_max_queued: int = 200
    queue_wait_timeout_ms: float = 60000
    shutdown_grace_period_s: float = 120
    shutdown_deadline_s: float = 3600
    stress_metadata_loading_pause_injection_ms: float = 0

    @property
    def sync_ddl_limit(self) -> float:
        """Seconds that SYNC_DDL waits at most; infinite without a limit."""
        return self.max_wait_time_for_sync_ddl_s if self.max_wait_time_for_sync_ddl_s > 0 else math.inf

    @classmethod
    def of(cls, values: Mapping[str, float]) -> Flags:
        """The flags with some of them set.

        :param values: by Impala's name.
        :raises ValueError: an unknown name; the message lists the known ones.
        """
        known = [field.name for field in fields(cls)]
        unknown = sorted(set(values) - set(known))
        if unknown:
            raise ValueError(f"Unknown flag {unknown[0]!r}. Known: {', '.join(known)}.")
        return cls(**values)  # type: ignore[arg-type]
