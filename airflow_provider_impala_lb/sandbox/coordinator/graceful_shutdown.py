"""The graceful shutdown of a coordinator (``:shutdown()``, SIGRTMIN): when it ends, what clients hear until then."""

from __future__ import annotations

import threading
import time

from airflow_provider_impala_lb.sandbox.common.flags import Flags


class GracefulShutdown:
    """Begins at most once. Until it ends, clients get no new sessions and statements. Safe for threads.

    :param flags: the coordinator's.
    """

    def __init__(self, flags: Flags) -> None:
        self._flags = flags
        self._lock = threading.Lock()
        self._began: float | None = None
        self._deadline = 0.0

    @property
    def begun(self) -> bool:
        """Has it begun?"""
        return self._began is not None

    def begin(self, deadline: float | None = None) -> None:
        """Begin it, or bring its deadline forward.

        :param deadline: seconds from now; it counts if it is sooner than the one that holds. None (default): the
            flag's.
        """
        with self._lock:
            now = time.time()
            if self._began is None:
                self._began, self._deadline = now, now + self._flags.shutdown_deadline_s
            if deadline is not None:
                self._deadline = min(self._deadline, now + deadline)

    def status(self, registered: int, executing: int) -> str:
        """Impala's line for a shutdown that has begun.

        :param registered: how many statements the coordinator has.
        :param executing: how many of them run.
        """
        now = time.time()
        grace = max(0.0, self._grace_end - now)
        deadline = max(0.0, self._deadline - now)
        return (
            f"shutdown grace period left: {_span(grace)}, deadline left: {_span(deadline)}, queries registered on "
            f"coordinator: {registered}, queries executing: {executing}, fragment instances: {executing}"
        )

    def is_over(self, registered: int, now: float) -> bool:
        """Has the grace period ended with nothing registered, or the deadline passed?

        :param registered: how many statements the coordinator has.
        :param now: seconds since 1970.
        """
        if self._began is None:
            return False
        return (not registered and now >= self._grace_end) or now >= self._deadline

    @property
    def _grace_end(self) -> float:
        assert self._began is not None, "not begun"
        return self._began + self._flags.shutdown_grace_period_s


def _span(seconds: float) -> str:
    """Impala's way: ``1m58s``, ``12s340ms``, ``0ms``."""
    whole = int(seconds)
    if whole >= 3600:
        return f"{whole // 3600}h{whole % 3600 // 60}m"
    if whole >= 60:
        return f"{whole // 60}m{whole % 60}s"
    milliseconds = int((seconds - whole) * 1000)
    return f"{whole}s{milliseconds:03d}ms" if whole else f"{milliseconds}ms"
