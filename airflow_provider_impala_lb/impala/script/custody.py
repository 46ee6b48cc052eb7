"""Whose a script is: this process's, or another one's that goes on with it."""

from __future__ import annotations

import time
from logging import Logger
from typing import TYPE_CHECKING

from airflow_provider_impala_lb.core.cluster.pick import Pick
from airflow_provider_impala_lb.errors import Superseded
from airflow_provider_impala_lb.impala.script.handover import Deferred, Handover

if TYPE_CHECKING:
    from airflow_provider_impala_lb.impala.script.execution import Execution


class Custody:
    """Of one script, by this process. The methods may be called from any thread.

    :param after: let go of it after so many seconds; None: only when asked to.
    :ivar key: seals the session's secret in the journal. Without one nobody could go on with the script.
    """

    def __init__(self, owner: str, after: float | None) -> None:
        self.key = ""
        self._owner, self._after = owner, after
        self._started = time.monotonic()
        self._leave = self._keep = self._superseded = False

    @property
    def seconds(self) -> float:
        """For so long it has been this process's."""
        return time.monotonic() - self._started

    def leave(self) -> None:
        """Another process is to go on, as soon as may be."""
        self._leave = True

    def keep(self) -> None:
        """Whatever else is asked: it was cancelled, and ends here."""
        self._keep = True

    def lose(self) -> None:
        """A later try has taken over. What runs is that one's to wait for, or to end."""
        self._superseded = True

    def is_over(self) -> bool:
        """Whether to let go of the script now. :raises Superseded: it is somebody else's."""
        if self._superseded:
            raise Superseded(f"Another try of {self._owner} has taken over: this one runs nothing more")
        if self._keep or not self.key:
            return False
        return self._leave or (self._after is not None and self.seconds >= self._after)

    def hand_over(self, execution: Execution, pick: Pick, log: Logger, epoch: int) -> Deferred | None:
        """Leave the session to whoever goes on. None: it would not be there any more, and the script stays here.

        :raises StateUnavailable: nobody could find the lease. :raises Superseded: a later try has taken over.
        """
        session, done = execution.session, execution.done
        if session is None:  # between two nodes
            return None
        if self._after is not None and not session.outlives_connections():
            log.warning(
                "%s ends a session with its connection, so nobody else could go on with the script: it runs here",
                pick.node,
            )
            self._after = None
            return None
        try:
            lease = pick.hand_over()
        except Superseded:
            session.detach()
            raise
        assert lease is not None
        guid, secret = session.handle
        under_way = execution.submitted
        handover = Handover(
            node=pick.node,
            why=done.why,
            guid=guid.hex(),
            secret=secret.hex(),
            epoch=epoch,
            lease=lease,
            key=self.key,
            query=(session.query_id or "") if under_way is not None else "",
            submitted=time.time() - (time.monotonic() - under_way) if under_way is not None else 0.0,
            seconds=done.seconds,
        )
        session.detach()
        return Deferred(handover, finished=session.has_ended)
