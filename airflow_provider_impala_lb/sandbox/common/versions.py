"""How Impala's versions differ, where a client can tell. Each rule was read in the source of the release."""

from __future__ import annotations

from dataclasses import dataclass

HEAD = "HEAD"
NUMBERS = {"3.4": "3.4.0", "4.0": "4.0.0", "4.1": "4.1.0", "4.4": "4.4.0", "4.5": "4.5.0", HEAD: "5.0.0"}
"""The versions that a practice cluster can behave as, oldest first, and the number each reports."""


@dataclass(frozen=True)
class Behaviour:
    """What a version does.

    :ivar version: one of :data:`NUMBERS`.
    """

    version: str = HEAD

    def __post_init__(self) -> None:
        if self.version not in NUMBERS:
            raise ValueError(f"version={self.version!r}: one of {', '.join(NUMBERS)}.")

    def _since(self, version: str) -> bool:
        order = list(NUMBERS)
        return order.index(self.version) >= order.index(version)

    @property
    def banner(self) -> str:
        """What ``version()`` and the pages give."""
        number = NUMBERS[self.version]
        return f"impalad version {number}-SANDBOX RELEASE (build practice cluster, DuckDB underneath)"

    @property
    def archives_in_background(self) -> bool:
        """A pool of threads writes the query log, and then takes the statement off the list in flight. Up to 3.4
        whoever unregisters does it, the other way round: meanwhile the statement is nowhere
        (``ImpalaServer::UnregisterQuery``)."""
        return self._since("4.0")

    @property
    def query_log_size(self) -> int:
        """The default of the flag of this name."""
        return {"3.4": 25, "4.0": 100, "4.1": 100}.get(self.version, 200)

    @property
    def query_log_has_bytes(self) -> bool:
        """There is ``--query_log_size_in_bytes``."""
        return self._since("4.4")

    @property
    def page_cuts_statements(self) -> bool:
        """``/queries`` cuts statements (``--query_stmt_size``)."""
        return self._since("4.0")

    @property
    def completed_wait_for_nothing(self) -> bool:
        """``waiting`` and ``executing`` on ``/queries`` are false of what was closed."""
        return self._since("4.4")

    @property
    def async_ddl(self) -> bool:
        """DDL runs after ExecuteStatement has answered (``ENABLE_ASYNC_DDL_EXECUTION``)."""
        return self._since("4.1")

    @property
    def admits_trivial_queries(self) -> bool:
        """``SELECT 1`` is admitted at once, however full its pool is (``TrivialQueryChecker``)."""
        return self._since("4.4")

    @property
    def retries_queries(self) -> bool:
        """There is RETRY_FAILED_QUERIES."""
        return self._since("4.0")

    @property
    def limits_execution_only(self) -> bool:
        """EXEC_TIME_LIMIT_S counts from the start on the executors (``Coordinator::StartBackendExec``); before, from
        when the session knows the statement, with the time in the queue, and of DDL, too
        (``ImpalaServer::SetQueryInflight``)."""
        return self._since(HEAD)

    @property
    def idle_query_is_unregistered(self) -> bool:
        """QUERY_TIMEOUT_S takes the statement away; before, it only cancels it, and never one that has failed
        (``ImpalaServer::ExpireQuery``, ``ClientRequestState::WaitInternal``)."""
        return self._since("4.4")

    @property
    def ends_dml_at_its_end(self) -> bool:
        """The ``end_time`` of what has no rows is its end (``ClientRequestState::Wait``); before, of DML the end of its
        writing, before the catalog is told (``Coordinator::HandleExecStateTransition``)."""
        return self._since("4.4")

    @property
    def shows_catalog_updates(self) -> bool:
        """The timeline says when what the catalog service has changed was taken over, before SYNC_DDL waits for other
        coordinators (``ImpalaServer::ProcessCatalogUpdateResult``; since 4.3)."""
        return self._since("4.4")

    @property
    def kill_query(self) -> bool:
        """There is KILL QUERY."""
        return self._since("4.5")

    @property
    def names_query_in_error(self) -> bool:
        """Errors of a statement begin with ``Query <id> failed:`` (``QUERY_ERROR_FORMAT``)."""
        return self._since("4.5")

    @property
    def cancels_planning(self) -> bool:
        """KILL QUERY and ``/cancel_query`` work on a statement that its session does not know yet, and keep the
        error for whoever asks later; before, they answer ``Query not yet running`` (``ClientRequestState::Cancel``,
        ``ImpalaServer::GetInterruptedStatus``)."""
        return self._since(HEAD)

    @property
    def loses_what_it_cannot_cancel(self) -> bool:
        """With that answer the statement is hidden from clients for ever, and never unregistered: it stays in flight
        on the page (``QueryDriver::Finalize`` sets ``finalized_`` first)."""
        return self.version in ("4.0", "4.1")

    def cancelled_by_page(self, address: str) -> str:
        """The error of a statement that ``/cancel_query`` has ended.

        :param address: who asked, ``host:port``.
        """
        who = f"user: 'anonymous' at {address}" if self._since("4.1") else f"client at {address}"
        return f"Cancelled from Impala's debug web interface by {who}"

    def unknown_handle(self, query_id: str) -> str:
        """The error for a handle that means nothing.

        :param query_id: as printed.
        """
        if self._since("4.0"):
            return f"Invalid or unknown query handle: {query_id}."
        return f"Invalid query handle: {query_id}"
