"""The state in this process only: for tests, and for a cluster of one node, where there is nothing to share."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable

from airflow_provider_impala_lb.core.forks import renew_in_children
from airflow_provider_impala_lb.core.ports import Result
from airflow_provider_impala_lb.core.state.state import State, decode, encode


class MemoryStore:
    """Keeps the encoded state, as the other stores do, so that a change that raises leaves nothing behind.

    :param clock: returns seconds since the epoch; default this host's.
    :ivar where: "memory of this process".
    :ivar one_clock: True.
    """

    where = "memory of this process"
    one_clock = True

    def __init__(self, clock: Callable[[], float] = time.time) -> None:
        self._clock = clock
        self._record = encode(State())
        self.forget_parent()
        renew_in_children(self)

    def forget_parent(self) -> None:
        """This process is a child: a thread of its parent's may have had the lock."""
        self._mutex = threading.Lock()

    def transact(self, change: Callable[[State, float], Result]) -> Result:
        """See `Store.transact`.

        :param change: gets the state and the time; called again if it was computed on a stale state.
        """
        with self._mutex:
            state = decode(self._record)
            result = change(state, self._clock())
            self._record = encode(state)
            return result

    def read(self, *, records: bool = True) -> tuple[State, float]:
        """See `Store.read`.

        :param records: as there.
        """
        state = decode(self._record)
        return state if records else State(state.head), self._clock()
