"""Fencing: a later attempt of some work takes over, and earlier ones run nothing more."""

from __future__ import annotations

from collections.abc import Iterable
from logging import getLogger

from airflow_provider_impala_lb.core.cluster.shared_state import SharedState
from airflow_provider_impala_lb.core.process_identity import this_process
from airflow_provider_impala_lb.core.rules import supersession
from airflow_provider_impala_lb.core.state.model import Attempt, Lease, LeftoverSession
from airflow_provider_impala_lb.core.state.state import State
from airflow_provider_impala_lb.errors import StateUnavailable

log = getLogger(__name__)


class Fencing:
    """Of the attempts of all work on one cluster, by their owners.

    :param shared: the cluster's state.
    """

    def __init__(self, shared: SharedState) -> None:
        self._shared = shared

    def fence_earlier(
        self, owner: str, lease_id: str = "", attempt: Attempt | None = None, *, has_parts: bool = False
    ) -> dict[str, LeftoverSession] | None:
        """End the leases of earlier attempts at this work, so that a process that still has one runs nothing more.

        Leases of this very process stay.

        :param owner: whose work it is, e.g. ``dag/run/task``.
        :param lease_id: the one that will be taken for this attempt (`Picker.acquire`); until then it can be superseded
            by an attempt that begins meanwhile. "" (default): it cannot.
        :param attempt: which attempt this is; None (default): not known.
        :param has_parts: the attempt may have several leases, also other processes': only those that name an earlier
            one are ended. False (default): all but this process's.
        :returns: what they may have left running, by lease id, until :meth:`note_ended` says that it has ended. None:
            the store is out of reach (one warning), and nothing is known.
        :raises Superseded: a later one has begun before, and this one was stopped meanwhile.
        :raises ConfigError: another run has work of this name there, as of another Airflow.
        """
        me = this_process()

        def is_mine(each: Lease | LeftoverSession) -> bool:
            if has_parts:
                return each.attempt is None or attempt is None or not each.attempt.is_before(attempt)
            return isinstance(each, Lease) and each.holder is not None and each.holder == me

        def change(state: State, now: float) -> dict[str, LeftoverSession] | supersession.Rival:
            if attempt is not None:
                rival = supersession.find_rival(state, now, owner, attempt)
                if rival is not None:
                    return rival
                supersession.begin_attempt(state, now, owner, attempt)
            found = supersession.fence_earlier(state, now, owner, is_mine)
            if lease_id:
                supersession.announce(state, now, owner, lease_id, attempt)
            return found

        try:
            found = self._shared.transact(change)
        except StateUnavailable as error:
            log.warning(
                "Whether an earlier attempt of %s has left something running cannot be known now: %s", owner, error
            )
            return None
        if isinstance(found, supersession.Rival):
            assert attempt is not None
            raise supersession.rivalry(owner, attempt, found)
        return found

    def withdraw(self, lease_id: str) -> None:
        """Take back an announcement: no such lease will be taken. Never raises: it lapses, too.

        :param lease_id: as given to :meth:`fence_earlier`.
        """

        def change(state: State, now: float) -> None:
            state.leftovers.drop(lease_id)

        self._shared.try_to_note("an attempt", change)

    def note_ended(self, lease_ids: Iterable[str]) -> None:
        """Note that nothing of these runs any more. Never raises: then the next attempt looks again.

        :param lease_ids: of what :meth:`fence_earlier` returned.
        """
        ids = list(lease_ids)
        if ids:
            self._shared.try_to_note("an earlier attempt", lambda state, now: supersession.note_ended(state, ids))
