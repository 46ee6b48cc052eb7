"""The single seam between logic and concurrency: one policy code serves every store."""

from __future__ import annotations

from collections.abc import Callable
from typing import Protocol, TypeVar

from airflow_provider_impala_lb.core.state.state import State

Result = TypeVar("Result")


class Store(Protocol):
    """A place for the state that all workers of a cluster share."""

    @property
    def where(self) -> str:
        """What to call this store in a message: a path or an address, never with a password."""
        ...

    @property
    def one_clock(self) -> bool:
        """Whether ``now`` is the same clock on every host that shares this store."""
        ...

    def transact(self, change: Callable[[State, float], Result]) -> Result:
        """Run ``change(state, now)`` while nobody else does, and keep what it did to ``state``.

        ``change`` only computes: no I/O, no waiting; it may be called again on a fresh state. If it raises, the state
        stays as it was. ``now`` is the store's clock, in seconds since the epoch.

        :raises StateUnavailable: the store cannot be reached in time; ``change`` had no effect, unless the message
            says *outcome unknown*: then it may have had it, once.
        :raises ConfigError: the store is not one this package may use; nothing was changed.
        """
        ...

    def read(self) -> tuple[State, float]:
        """A recent state and the store's clock, without waiting for anybody. May be some seconds old."""
        ...
