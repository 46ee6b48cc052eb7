"""What ends a statement by itself: the client that asks for no rows, the time of execution
(``ImpalaServer::ExpireQueries``)."""

from __future__ import annotations

import threading
from collections.abc import Callable

from airflow_provider_impala_lb.sandbox.common import query_options
from airflow_provider_impala_lb.sandbox.common.errors import Refused
from airflow_provider_impala_lb.sandbox.coordinator.operation import Operation, Services
from airflow_provider_impala_lb.sandbox.coordinator.statements import Statements


class TimeLimits:
    """The limits of one coordinator's statements. One thread at a time.

    :param services: flags and version.
    :param statements: to be looked at.
    :ivar expired: how many statements were ended.
    """

    def __init__(self, services: Services, statements: Statements) -> None:
        self._services, self._statements = services, statements
        self.expired = 0

    def check(self, operation: Operation, now: float) -> None:
        """End a statement that is over a limit. It is in error at once; its threads end later.

        :param operation: a registered one; while its session does not know it, no limit counts.
        :param now: seconds since 1970.
        """
        if not self._statements.is_inflight(operation):
            return
        if self._is_idle(operation, now):
            return
        limit = query_options.seconds(operation.options, "EXEC_TIME_LIMIT_S")
        since = operation.inflight_since
        if self._services.behaviour.limits_execution_only:
            since = operation.executing_since
        if limit and since is not None and now - since >= limit and not self._is_over(operation):
            self._cancel(operation, f"Query {operation.id} expired due to execution time limit of {limit}s000ms")

    def _is_idle(self, operation: Operation, now: float) -> bool:
        """QUERY_TIMEOUT_S counts only while nothing is done for its client: from its start to its first rows, or its
        end, it is active, whatever the client does; after that only a fetch counts
        (``ClientRequestState::MarkActive``)."""
        own, flag = query_options.seconds(operation.options, "QUERY_TIMEOUT_S"), self._services.flags.idle_query_timeout
        timeout = min(own or flag, flag or own)
        since = operation.idle_since()
        if not timeout or since is None or now - since < timeout:
            return False
        reason = operation.error or (
            f"Query {operation.id} expired due to client inactivity (timeout is {_span(timeout)})"
        )
        if self._services.behaviour.idle_query_is_unregistered:
            self._unregister(operation, reason)
        elif not self._is_over(operation):
            self._cancel(operation, reason)
        return not self._is_over(operation)

    def _unregister(self, operation: Operation, reason: str) -> None:
        try:
            driver = self._statements.driver(operation.guid)
        except Refused:
            return  # somebody does it already
        self.expired += 1
        in_background(lambda: self._statements.unregister_quietly(driver, reason, interrupted=True))

    def _is_over(self, operation: Operation) -> bool:
        return operation.state == "ERROR" or operation.all_rows_returned

    def _cancel(self, operation: Operation, reason: str) -> None:
        self.expired += 1
        operation.cancel(reason)


def in_background(call: Callable[[], None]) -> None:
    """To end a statement may take as long as it runs: not in the thread that looks at all (``CancelFromThreadPool``).

    :param call: does it.
    """
    threading.Thread(target=call, name="cancellation", daemon=True).start()


def _span(seconds: float) -> str:
    """As ``PrettyPrinter`` prints a time: ``1s000ms``."""
    return f"{int(seconds)}s{int(seconds % 1 * 1000):03d}ms"
