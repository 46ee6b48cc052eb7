"""Fencing: a later attempt of some work takes over, and earlier ones run nothing more."""

from __future__ import annotations

from collections.abc import Iterable
from logging import getLogger

from airflow_provider_impala_lb.core.cluster.shared_state import SharedState
from airflow_provider_impala_lb.core.process_identity import this_process
from airflow_provider_impala_lb.core.rules.supersession import begin, claim, settled, take_over
from airflow_provider_impala_lb.core.state.model import Attempt, LeftoverSession
from airflow_provider_impala_lb.core.state.state import State
from airflow_provider_impala_lb.errors import StateUnavailable

log = getLogger(__name__)


class Fencing:
    """Of the attempts of all work on one cluster, by their owners."""

    def __init__(self, shared: SharedState) -> None:
        self._shared = shared

    def fence_earlier(
        self, owner: str, lease_id: str = "", attempt: Attempt | None = None
    ) -> dict[str, LeftoverSession]:
        """End the leases of earlier tries of this work, so that a process that still has one runs nothing more.

        :param lease_id: the one that will be taken for this try (`Picker.acquire`); until then it can be superseded by
            a try that begins meanwhile. "": it cannot.
        :param attempt: which try this is, if that is known.
        :raises Superseded: a later one has begun before, and this one was stopped meanwhile.

        Returns what they may have left running, by lease id, until :meth:`note_ended` says that it has ended. Leases of
        this very process stay. Never raises for a store out of reach: then nothing is known, and the log says so.
        """
        me = this_process()

        def change(state: State, now: float) -> dict[str, LeftoverSession]:
            if attempt is not None:
                begin(state, now, owner, attempt)
            found = take_over(state, now, owner, lambda lease: lease.holder is not None and lease.holder == me)
            if lease_id:
                claim(state, now, owner, lease_id)
            return found

        try:
            return self._shared.transact(change)
        except StateUnavailable as error:
            log.warning("Whether an earlier try of %s has left something running cannot be known now: %s", owner, error)
            return {}

    def withdraw(self, lease_id: str) -> None:
        """No lease of this id, given to :meth:`fence_earlier`, will be taken. Never raises: it lapses, too."""

        def change(state: State, now: float) -> None:
            state.leftovers.drop(lease_id)

        self._shared.try_to_note("an attempt", change)

    def note_ended(self, lease_ids: Iterable[str]) -> None:
        """Say that nothing of these runs any more. Never raises: then the next try looks again."""
        ids = list(lease_ids)
        if ids:
            self._shared.try_to_note("an earlier attempt", lambda state, now: settled(state, ids))
