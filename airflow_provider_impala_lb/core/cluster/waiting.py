"""One who waits for a node: he looks at the queue without the lock, and asks under it when it may be his turn."""

from __future__ import annotations

import random
import time
from collections.abc import Callable

import msgspec

from airflow_provider_impala_lb.core.cluster.discovery import Discovery
from airflow_provider_impala_lb.core.cluster.load_reports import LoadReports
from airflow_provider_impala_lb.core.cluster.shared_state import SharedState
from airflow_provider_impala_lb.core.rules import queue
from airflow_provider_impala_lb.core.rules.placement import Placed, Request, Wait, place
from airflow_provider_impala_lb.core.state.state import State
from airflow_provider_impala_lb.core.timing import Deadline
from airflow_provider_impala_lb.errors import ConfigError, NoNodeAvailable, StateUnavailable

DEAD_SECONDS = 1.0
"""The first of the queue asks so often, so that somebody on his host looks for the leases of dead processes."""
_DEAD_SHARE = 0.1
_NOW = Deadline(0)
_LOOK_SHARE, _LOOK_PAUSE = 50, 1.0
"""Where a look is slow, a pause is at least so many times as long; or so many seconds, if that is less."""


class Waiter:
    """Asks again and again for one request. The state is changed only by questions; looks cost the others nothing.

    :param shared: the cluster's state.
    :param reports: asked for the nodes' load while one waits, if that is due.
    :param discovery: and for the nodes themselves.
    :param request: with a ticket; changed: its ticket is as it stands in the queue.
    :param ask: asks under the lock.
    :param rng: for the pauses, and for the policies that draw by lot.
    """

    def __init__(
        self,
        shared: SharedState,
        reports: LoadReports,
        discovery: Discovery,
        request: Request,
        ask: Callable[[Request], Placed | Wait],
        rng: random.Random,
    ) -> None:
        self.request = request
        self._shared, self._reports, self._discovery, self._ask, self._rng = shared, reports, discovery, ask, rng
        self._wait: Wait | None = None
        self._ask_due = _NOW
        self._noted = time.monotonic()
        self._waited = self._rate = self._look_cost = 0.0

    @property
    def waited(self) -> float:
        """Seconds since the ticket was drawn, also while the state is out of reach."""
        return self._waited + time.monotonic() - self._noted

    @property
    def pause(self) -> float:
        """Seconds until the next :meth:`step`, see `queue.pause`; drawn by lot within a third, so that those who wait
        do not look all at once."""
        position = self._wait.position if self._wait else 1
        pause = queue.pause(position, self._shared.config.slots, self._rate)
        return max(pause, min(_LOOK_SHARE * self._look_cost, _LOOK_PAUSE)) * self._rng.uniform(0.7, 1.0)

    def ask_next(self) -> None:
        """Make the next :meth:`step` a question, whatever a look would say."""
        self._ask_due = _NOW

    def step(self) -> Placed | Wait:
        """Look, and ask if there is a reason.

        :raises StateUnavailable: the question found the state out of reach, which it may have changed.
        :raises NoNodeAvailable: as `place`.
        :raises ConfigError: the store belongs to another cluster.
        """
        due = self._wait is None or self._ask_due.passed()
        if self._wait is None or due or self._has_reason(self._wait):
            self.request.renew = due
            try:
                found = self._ask(self.request)
            except StateUnavailable:
                self.request.resent = True
                raise
            if isinstance(found, Placed):
                return found
            self.request.ticket = found.ticket
            if due:
                self._ask_due = Deadline(found.ticket.asks_again or queue.ASK_SECONDS)
            self._note(found.position, found.waited)
            self._wait = found
        return self._wait

    def _has_reason(self, wait: Wait) -> bool:
        """Whether to ask: by the state as it was a moment ago, one could go, or has lost one's place, or there is
        something to be noted that is nobody else's to note."""
        start = time.monotonic()
        try:
            state, now = self._shared.read(records=False)
        except StateUnavailable:
            return False  # what is out of reach is not free
        except ConfigError:
            return True  # to be said by the question
        cost = time.monotonic() - start  # also of a machine that is busy; a mount is slow each time
        self._look_cost = min(cost, 1.5 * self._look_cost) if self._look_cost else min(cost, 0.001)
        ticket = self.request.ticket
        assert ticket is not None
        if not queue.is_there(state, ticket):
            return True
        position = queue.position(state, ticket)
        self._note(position, now - ticket.since)
        wait.position = position
        self._reports.begin_probe_if_due(state)
        self._discovery.begin_if_due(state)
        return self._is_something_to_end(state, now, position) or self._may_go(state, now, position)

    def _is_something_to_end(self, state: State, now: float, position: int) -> bool:
        """Whether leases or tickets have lapsed. The further behind, the less often one looks for dead processes."""
        host = state.hosts.get(self._shared.host)
        sought = now - host.dead_sought if host is not None else DEAD_SECONDS
        if not 0 <= sought < max(DEAD_SECONDS, min(_DEAD_SHARE * position, queue.LONGEST_PAUSE)):
            return True
        if len(state.leases) and state.head.has_lapsed(state.leases.extent.due, now):
            return True
        has_lapsed = self._shared.has_lapsed(state, now)
        return any(queue.is_over(state, now, each, has_lapsed) for each in state.head.waiting)

    def _may_go(self, state: State, now: float, position: int) -> bool:
        """Whether one could have a node, or a slot has just become free for somebody who is to be called. Only few ask
        for the same slot: those whose turn it may be, and, should those be dead, now and then one of the others."""
        free = queue.free_slots(self._shared.config, state)
        if position > free + queue.FIRST and self._rng.random() > queue.FIRST / position:
            return False
        mine = self.request
        assert mine.ticket is not None
        copy = msgspec.structs.replace(
            mine,
            lease=msgspec.structs.replace(mine.lease) if mine.lease is not None else None,
            ticket=msgspec.structs.replace(mine.ticket),
            prefer=mine.ticket.only or mine.prefer,  # where a session key is lies in the records
        )
        try:
            found = place(self._shared.config, state, now, copy, self._rng)
        except NoNodeAvailable:
            return True
        if isinstance(found, Placed) or found.ticket.only != mine.ticket.only:
            return True  # or to be among those who wait for another node, as when the one that he waits for is drained
        return any(each.called == now for each in state.head.waiting)

    def _note(self, position: int, waited: float) -> None:
        now = time.monotonic()
        passed, moved = now - self._noted, (self._wait.position if self._wait else position) - position
        self._rate = max(moved / passed if passed > 0 else 0.0, self._rate / 2)
        self._noted, self._waited = now, waited
