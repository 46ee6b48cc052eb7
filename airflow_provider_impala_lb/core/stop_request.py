"""Why one run of a script is to stop: asked for by any thread, checked by the run's own thread where it may stop."""

from __future__ import annotations

import threading

from airflow_provider_impala_lb.core import timing
from airflow_provider_impala_lb.errors import Superseded

_LOOK_SECONDS = 0.1


class Cancelled(Exception):
    """The run was told to stop; the text says why."""


class HandedOver(Exception):
    """The script is under way, and another process goes on with it."""


class StopRequest:
    """One for each run. Four kinds, by what is to become of the script:

    * ``cancel``: it ends here, and what runs is cancelled on its coordinator. The first reason stays.
    * ``fence``: a later attempt has taken over; what runs is that one's to wait for, or to end.
    * ``move``: it goes on, or begins anew, on another node.
    * ``hand_over``: it goes on in another process. Not once it was cancelled.

    All methods may be called from any thread. None of these four raises.

    :ivar cancelled: why it was cancelled; None: it was not.
    :ivar fenced: why it was fenced; None: it was not.
    :ivar move_reason: why it is to move; None: it is not.
    """

    def __init__(self) -> None:
        self._mutex = threading.RLock()  # a signal handler may interrupt its own thread in here
        self.cancelled: str | None = None
        self.fenced: str | None = None
        self.move_reason: str | None = None
        self._interrupts = False
        self._hand_over = False

    def cancel(self, reason: str) -> None:
        """End it here.

        :param reason: e.g. "the task was killed".
        """
        with self._mutex:
            if self.cancelled is None:
                self.cancelled = reason

    def fence(self, reason: str) -> None:
        """Run nothing more: another attempt does.

        :param reason: a sentence that names the work, for `Superseded`.
        """
        with self._mutex:
            if self.fenced is None:
                self.fenced = reason

    def move(self, reason: str, *, interrupt: bool) -> None:
        """Leave the node.

        :param reason: why, for the log.
        :param interrupt: also the statement that is under way, rather than before the next one.
        """
        with self._mutex:
            self.move_reason, self._interrupts = reason, interrupt

    def moved(self) -> None:
        """The script has left the node: the request to move is met."""
        with self._mutex:
            self.move_reason, self._interrupts = None, False

    def hand_over(self) -> None:
        """Go on in another process, as soon as may be."""
        with self._mutex:
            self._hand_over = True

    @property
    def wants_hand_over(self) -> bool:
        """Whether another process is to go on, and nothing else was asked for."""
        return self._hand_over and self.cancelled is None

    def check_cancelled(self) -> None:
        """Look whether the script is to end.

        :raises Cancelled: it was cancelled.
        """
        if self.cancelled is not None:
            raise Cancelled(self.cancelled)

    def check_moved(self) -> None:
        """Look whether the next statement is to be run elsewhere.

        :raises Cancelled: it is to move, now or before the next statement.
        """
        if self.move_reason is not None:
            raise Cancelled(f"to move: {self.move_reason}")

    def check(self) -> None:
        """Look whether what is under way is to stop.

        :raises Cancelled: it was cancelled, or is interrupted to move.
        """
        self.check_cancelled()
        if self._interrupts:
            self.check_moved()

    def check_fenced(self) -> None:
        """Look whether anything more may be run.

        :raises Superseded: a later attempt has taken over.
        """
        if self.fenced is not None:
            raise Superseded(self.fenced)

    def sleep(self, seconds: float) -> None:
        """Wait, and look every 0.1 s.

        :param seconds: how long.
        :raises Cancelled: as :meth:`check`.
        """
        timing.sleep(seconds, self.check, _LOOK_SECONDS)
        self.check()
