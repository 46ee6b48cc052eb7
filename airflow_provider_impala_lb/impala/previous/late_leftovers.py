"""What earlier attempts have left, found only when this one is at work: the state was out of reach before."""

from __future__ import annotations

import threading
from collections.abc import Callable, Mapping

from airflow_provider_impala_lb.core.state.model import LeftoverSession
from airflow_provider_impala_lb.errors import ConfigError
from airflow_provider_impala_lb.impala.previous.leftover_sessions import LeftoverSessions


class LateLeftovers:
    """Of one piece of work.

    :param sessions: ends them.
    """

    def __init__(self, sessions: LeftoverSessions) -> None:
        self._sessions = sessions
        self._found: dict[str, LeftoverSession] = {}
        self._rival: ConfigError | None = None
        self._ending, self._noting = threading.Lock(), threading.Lock()

    def found(self, left: Mapping[str, LeftoverSession], rival: ConfigError | None) -> None:
        """From another thread, see `LeaseListener`.

        :param left: as by `Fencing.fence_earlier`, by lease id.
        :param rival: another run has work of this name there; None: none has.
        """
        with self._noting:
            self._found, self._rival = {**self._found, **left}, rival or self._rival

    def end(self, owner: str, beside: str, pause: Callable[[float], None]) -> None:
        """End what was :meth:`found`, if anything was: before each statement, and at the end.

        :param owner: whose it is.
        :param beside: the attempt that is at work by now, as in the tag ``try``.
        :param pause: waits so many seconds, or raises.
        :raises StillRunning: one could not be seen to end; it is looked for again the next time.
        :raises ConfigError: another run has work of this name.
        """
        if self._rival is not None:
            raise self._rival
        if not self._found:
            return
        with self._ending:  # whoever comes second waits, too
            found, self._sessions.beside, self._sessions.pause = dict(self._found), beside, pause
            if found:
                self._sessions.end(owner, found)
                with self._noting:
                    self._found = {lease_id: each for lease_id, each in self._found.items() if lease_id not in found}
