"""Wait in the balancer's queue without a worker slot."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import AsyncIterator
from typing import Any

from airflow.triggers.base import BaseTrigger, TriggerEvent
from asgiref.sync import sync_to_async

from airflow_provider_impala_lb.balancer import Balancer
from airflow_provider_impala_lb.core.cluster.waiting import Waiter
from airflow_provider_impala_lb.core.rules.placement import Wait
from airflow_provider_impala_lb.errors import NoNodeAvailable

RESUME_SECONDS = 60.0
"""Seconds: how long the task may take to be resumed. Its place in the queue is kept three times as long."""


class NodeTrigger(BaseTrigger):
    """Fires when it is the ticket's turn, or when it has waited long enough: the task then takes what there is.

    It takes no lease, since whoever holds one must renew it: the place in the queue is kept for the task. Airflow keeps
    these arguments in its database, and the class by its path.

    :param conn_id: the connection; its secrets are read where the trigger runs and are no part of it.
    :param ticket: the name of the place in the queue, see :func:`~..hooks.task_identity.ticket`.
    :param owner: who waits, ``dag/run/task[map]``; shown by status.
    :param session_key: picks with the same key stay on one node; None: none.
    :param prefer: the sticky host, ``host:port``; None: there is none.
    :param wait: seconds to wait in all, since the ticket was drawn; None: the configuration's ``max_wait``.
    """

    def __init__(
        self,
        conn_id: str,
        ticket: str,
        owner: str,
        session_key: str | None = None,
        prefer: str | None = None,
        wait: float | None = None,
    ) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self.conn_id, self.ticket, self.owner = conn_id, ticket, owner
        self.session_key, self.prefer, self.wait = session_key, prefer, wait
        self._asking = threading.Lock()

    def serialize(self) -> tuple[str, dict[str, Any]]:
        """The class's path and the arguments, as Airflow keeps them."""
        keys = ("conn_id", "ticket", "owner", "session_key", "prefer", "wait")
        return f"{type(self).__module__}.{type(self).__qualname__}", {key: getattr(self, key) for key in keys}

    async def run(self) -> AsyncIterator[TriggerEvent]:
        """One event, ``{"ticket": ...}``, when the task is to go on."""
        # Connections come over the triggerer's own loop, which sync_to_async's thread can reach and others cannot.
        balancer = await sync_to_async(self._balancer)()
        try:
            # A thread: where nodes are found, the first process that wants one looks for them.
            limit, waiter = await asyncio.to_thread(self._begin, balancer)
        except NoNodeAvailable:  # its task finds out the same, and says it
            yield TriggerEvent({"ticket": self.ticket})  # type: ignore[no-untyped-call]
            return
        while True:
            # A thread: no file, lock or socket of a store on the event loop.
            wait = await asyncio.to_thread(self._ask, balancer, waiter)
            if wait is None or waiter.waited >= limit:
                break
            await asyncio.sleep(min(waiter.pause, max(0.05, limit - waiter.waited)))
        yield TriggerEvent({"ticket": self.ticket})  # type: ignore[no-untyped-call]

    async def on_kill(self) -> None:
        """The task was marked or cleared by a user (Airflow 3.3): it leaves the queue."""
        balancer = await sync_to_async(self._balancer)()
        await asyncio.to_thread(self._leave_queue, balancer)

    def _begin(self, balancer: Balancer) -> tuple[float, Waiter]:
        """Seconds to wait at most, and who waits."""
        limit = balancer.config.max_wait if self.wait is None else self.wait
        return limit, balancer.cluster.picker.waiter(
            balancer.config.owner_of(self.ticket),
            balancer.config.owner_of(self.owner),
            session_key=self.session_key,
            prefer=self.prefer,
            asks_again=RESUME_SECONDS,
        )

    def _ask(self, balancer: Balancer, waiter: Waiter) -> Wait | None:
        with self._asking:
            return balancer.cluster.picker.ask(waiter)

    def _leave_queue(self, balancer: Balancer) -> None:
        with self._asking:  # a thread that asks does not end with `run`, and would stand in the queue again
            balancer.cluster.picker.leave_queue(balancer.config.owner_of(self.ticket))

    def _balancer(self) -> Balancer:
        from airflow_provider_impala_lb.hooks.impala_lb import ImpalaLBHook

        return ImpalaLBHook(self.conn_id).balancer
