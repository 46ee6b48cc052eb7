"""Admission control: in each pool so many statements run, so many wait, the others are refused.

Each coordinator counts its own only; Impala's know of each other's by the statestore, 0.1 s late.
"""

from __future__ import annotations

import threading
import time
from collections import Counter, deque
from collections.abc import Mapping
from dataclasses import dataclass, field

from airflow_provider_impala_lb.sandbox.common.errors import Refused, StatementCancelled
from airflow_provider_impala_lb.sandbox.common.flags import Flags

DEFAULT_POOL = "default-pool"
_LOOK = 0.01


def pool_of(options: Mapping[str, str]) -> str:
    """Where a statement wants to run.

    :param options: its query options.
    """
    return options.get("REQUEST_POOL", DEFAULT_POOL)


@dataclass
class _Pool:
    running: set[str] = field(default_factory=set)
    queue: deque[str] = field(default_factory=deque)


@dataclass
class Admission:
    """What became of one statement's admission.

    :ivar query_id: as printed.
    :ivar pool: where it wants to run.
    :ivar cancelled: ends its waiting.
    :ivar trivial: it needs no place; default False.
    :ivar queued: it had to wait; default False.
    :ivar reason: why; default empty.
    """

    query_id: str
    pool: str
    cancelled: threading.Event
    trivial: bool = False
    queued: bool = False
    reason: str = ""


class AdmissionController:
    """The pools of one coordinator. Safe for threads.

    :param flags: the limits, the same for every pool.
    :ivar admitted: statements admitted since the start, by pool.
    :ivar rejected: refused at once, by pool.
    :ivar timed_out: refused after they had waited, by pool.
    """

    def __init__(self, flags: Flags) -> None:
        self._flags = flags
        self._pools: dict[str, _Pool] = {}
        self._lock = threading.Lock()
        self.admitted: Counter[str] = Counter()
        self.rejected: Counter[str] = Counter()
        self.timed_out: Counter[str] = Counter()

    def submit(self, asked: Admission) -> None:
        """Wait until the statement may run (``AdmissionController::SubmitForAdmission``, ``WaitOnQueued``).

        :param asked: the statement; what became of it is noted in it.
        :raises Refused: the pool runs nothing, its queue is full, or it waited too long.
        :raises StatementCancelled: it was cancelled while it waited.
        """
        limit, most_queued = self._flags.default_pool_max_requests, self._flags.default_pool_max_queued
        with self._lock:
            pool = self._pools.setdefault(asked.pool, _Pool())
            if asked.trivial:
                self.admitted[asked.pool] += 1
                return
            if limit == 0:
                self._refuse(asked.pool, "disabled by requests limit set to 0")
            if self._admit(asked, pool):
                return
            if len(pool.queue) >= most_queued:
                self._refuse(asked.pool, f"queue full, limit={most_queued}, num_queued={len(pool.queue)}.")
            asked.queued = True
            pool.queue.append(asked.query_id)
        self._wait(asked, pool)

    def _refuse(self, pool: str, reason: str) -> None:
        self.rejected[pool] += 1
        raise Refused(f"Rejected query from pool {pool}: {reason}")

    def _admit(self, asked: Admission, pool: _Pool) -> bool:
        """Whether it runs now (``AdmissionController::CanAdmitRequest``)."""
        limit = self._flags.default_pool_max_requests
        if pool.queue and pool.queue[0] != asked.query_id:
            if asked.query_id not in pool.queue:
                asked.reason = f"queue is not empty (size {len(pool.queue)}); queued queries are executed first."
            return False
        if 0 <= limit <= len(pool.running):
            asked.reason = f"number of running queries {len(pool.running)} is at or over limit {limit}."
            return False
        pool.running.add(asked.query_id)
        self.admitted[asked.pool] += 1
        return True

    def _wait(self, asked: Admission, pool: _Pool) -> None:
        limit = self._flags.queue_wait_timeout_ms
        end = time.monotonic() + limit / 1000
        try:
            while True:
                with self._lock:
                    if self._admit(asked, pool):
                        return
                if time.monotonic() >= end:
                    self.timed_out[asked.pool] += 1
                    raise Refused(
                        f"Admission for query exceeded timeout {limit:.0f}ms in pool {asked.pool}. Queued reason: "
                        f"{asked.reason} Additional Details: Not Applicable"
                    )
                if asked.cancelled.wait(_LOOK):
                    raise StatementCancelled()
        finally:
            with self._lock:
                pool.queue.remove(asked.query_id)

    def release(self, asked: Admission) -> None:
        """The statement needs its place no more.

        :param asked: one that has none, or gave it back, is left alone.
        """
        with self._lock:
            if asked.pool in self._pools:
                self._pools[asked.pool].running.discard(asked.query_id)

    def counts(self) -> dict[str, tuple[int, int]]:
        """For each pool that was used: how many run, and how many wait."""
        with self._lock:
            return {name: (len(pool.running), len(pool.queue)) for name, pool in self._pools.items()}
