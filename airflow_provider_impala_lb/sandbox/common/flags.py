"""The flags of a coordinator: the names and defaults are Impala's."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, fields


@dataclass(frozen=True)
class Flags:
    """All times are in seconds unless the name says otherwise; fractions are allowed.

    :param fe_service_threads: connections served at once; one more is accepted and left without an answer.
    :param accepted_client_cnxn_timeout: milliseconds after which such a connection is closed.
    :param idle_session_timeout: 0: never.
    :param disconnected_session_timeout: how long a session is kept after its last connection has gone; 0 or less: it is
        closed with it, which is all that Impala up to 3.2 knows.
    :param idle_query_timeout: upper bound for QUERY_TIMEOUT_S, 0: none.
    :param max_hs2_sessions_per_user: -1: no limit.
    :param max_wait_time_for_sync_ddl_s: the catalog service's, 0: no limit. A statement with SYNC_DDL whose news takes
        longer than this to reach every coordinator ends in an error, although it is done.
    :param shutdown_grace_period_s: how long a coordinator that shuts down waits at least.
    :param shutdown_deadline_s: how long it waits at most.
    :param stress_metadata_loading_pause_injection_ms: milliseconds that each statement is planned longer, as the first
        one is that needs a large table.
    """

    fe_service_threads: int = 64
    accepted_client_cnxn_timeout: float = 300000
    idle_session_timeout: float = 0
    disconnected_session_timeout: float = 900
    idle_query_timeout: float = 0
    max_hs2_sessions_per_user: int = -1
    max_wait_time_for_sync_ddl_s: float = 0
    shutdown_grace_period_s: float = 120
    shutdown_deadline_s: float = 3600
    stress_metadata_loading_pause_injection_ms: float = 0

    @property
    def sync_ddl_limit(self) -> float:
        return self.max_wait_time_for_sync_ddl_s if self.max_wait_time_for_sync_ddl_s > 0 else math.inf

    @classmethod
    def of(cls, values: Mapping[str, float]) -> Flags:
        """:raises ValueError: an unknown name; the message lists the known ones."""
        known = [field.name for field in fields(cls)]
        unknown = sorted(set(values) - set(known))
        if unknown:
            raise ValueError(f"Unknown flag {unknown[0]!r}. Known: {', '.join(known)}.")
        return cls(**values)  # type: ignore[arg-type]
