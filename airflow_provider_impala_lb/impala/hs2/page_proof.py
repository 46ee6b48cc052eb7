"""What makes a copy of a coordinator's page a proof. See `statement.protocol`.

The witness was seen before a statement was sent; the marker is sent after its session was closed.
"""

from __future__ import annotations

import time
from logging import getLogger
from typing import Any, Protocol

from airflow_provider_impala_lb.core.timing import Deadline
from airflow_provider_impala_lb.impala.hs2.ids import StatementError
from airflow_provider_impala_lb.impala.sql.label import Label
from airflow_provider_impala_lb.impala.web.debug_pages import DebugPages, ProbeFailed, Query

log = getLogger(__name__)

WITNESS_SECONDS = 60.0
"""An older witness is replaced before the next statement that changes something: it leaves the page with time."""
WITNESS_TAGS = {"for": "the log of this coordinator"}
PAGE_SECONDS = 1.0
"""For a page that is asked for before a statement is sent, which waits for it; and for each call of a session for a
witness."""
_LOOK_PAUSE = 0.05


class MarkerSession(Protocol):
    """A session for a marker."""

    def execute(self, sql: str) -> Any:
        """Run a statement to its end.

        :param sql: the statement, with its label.
        """

    def close(self) -> None:
        """Close it. Never raises."""


class OpenSession(Protocol):
    """Opens another session on the same coordinator."""

    def __call__(self, seconds: float | None = None, /) -> MarkerSession:
        """Open it, or raise.

        :param seconds: as of `Login.limited`; default as configured.
        """


class PageProof:
    """For the statements of one session.

    :param pages: of its coordinator; None: there are none.
    :param open_session: opens another session on the same coordinator, or raises.
    :ivar witness: id of a query that was seen among the completed ones; "": none was.
    """

    def __init__(self, pages: DebugPages | None, open_session: OpenSession) -> None:
        self.witness = ""
        self._pages, self._open_session = pages, open_session
        self._next_look: Deadline | None = None
        self._marker: MarkerSession | None = None
        self._chained = False
        self._has_sent_witness = False

    def see_witness(self) -> None:
        """Note a query that is among the completed ones now, unless one was noted just before. As long as the page
        shows that, it shows all that has ended since. On a coordinator that has just been started a statement is run
        for it. Never raises: without one less can be proved."""
        if self._pages is None or (self._next_look is not None and not self._next_look.passed()):
            return
        try:
            completed = self._completed(self._pages)
        except ProbeFailed as error:
            log.debug("No witness on %s: %s", self._pages.url, error)
        else:
            if not completed:  # this very statement will be one
                return
            self.witness = completed[0].id
        self._next_look = Deadline(WITNESS_SECONDS)

    def _completed(self, pages: DebugPages) -> list[Query]:
        """What has ended on it.

        :raises ProbeFailed: the page does not tell.
        """
        queries = pages.queries(PAGE_SECONDS)
        if queries.completed or not queries.kept or self._has_sent_witness:
            return queries.completed
        self._has_sent_witness = True
        try:
            session = self._open_session(PAGE_SECONDS)
            try:
                session.execute(f"{Label.new(1, 1, WITNESS_TAGS)} SET")  # as for `mark`
            finally:
                session.close()
        except Exception as error:
            log.debug("No statement for a witness on %s: %s", pages.url, error)
            return []
        deadline = Deadline(PAGE_SECONDS)
        while not (completed := pages.queries(PAGE_SECONDS).completed) and not deadline.passed(_LOOK_PAUSE):
            time.sleep(_LOOK_PAUSE)  # a thread of its own archives it
        return completed

    def open_marker(self) -> None:
        """Open the session for markers, before the statement's session is closed.

        :raises ImpalaLBError: it cannot be opened.
        """
        if self._pages is not None:
            self._marker = self._marker or self._open_session()
            self._chained = True

    def mark(self, label: Label) -> bool:
        """Send a marker, which the page shows from then on. Its session stays open for the next one.

        :param label: by which it is found.
        :returns: it was sent in the session of :meth:`open_marker`; False: that is gone, or was never opened.
        :raises ImpalaLBError: no session can be opened.
        :raises StatementError: it was refused.
        """
        # SET is registered and archived as any statement is, and asks neither the catalog nor admission.
        sql = f"{label} SET"
        if self._marker is not None:
            try:
                self._marker.execute(sql)
                return self._chained
            except StatementError as error:
                log.info("The session for a marker is gone: %s", error)
                self.close()
        self._marker, self._chained = self._open_session(), False
        self._marker.execute(sql)
        return False

    def close(self) -> None:
        """Close the session for markers. Never raises."""
        marker, self._marker = self._marker, None
        if marker is not None:
            marker.close()
