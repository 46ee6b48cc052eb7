"""A chosen node, and what its user says of it afterwards."""

from __future__ import annotations

from collections.abc import Mapping
from types import TracebackType
from typing import TYPE_CHECKING

from airflow_provider_impala_lb.core.rules.ejection import note_failure, note_success
from airflow_provider_impala_lb.core.rules.placement import Placed
from airflow_provider_impala_lb.core.state.state import AVOID_SECONDS, Avoid, Cause, Lease, State

if TYPE_CHECKING:
    from airflow_provider_impala_lb.core.cluster.picker import Picker


class Pick:
    """A chosen node. With a lease, it weighs on the node until the ``with`` block (or :meth:`release`) ends.

    :ivar node: the node's name in the state and on the command line, ``host:port``.
    :ivar host: where to connect, ``host:port``.
    :ivar lease: the lease's id, or None for a pick without one.
    :ivar database: for a pick with a session key: the database in use at the end of the key's last session.
    :ivar options: and what had been set in it by SET. Both are to be replayed when a session is opened.
    """

    def __init__(
        self,
        placed: Placed,
        picker: Picker | None = None,
        *,
        lease: str | None = None,
        owner: str = "",
        session_key: str | None = None,
    ) -> None:
        self.node = self.host = placed.node
        self.lease = lease
        self.session_key = session_key
        self.database = placed.session.database if placed.session else None
        self.options: Mapping[str, str] = placed.session.options if placed.session else {}
        self._placed = placed
        self._trial = placed.trial
        self._picker, self._owner = picker, owner

    @property
    def why(self) -> str:
        """What spoke for this node, how the other candidates compare, and which were left out for what."""
        return self._placed.why

    @property
    def scores(self) -> Mapping[str, str]:
        """What spoke for each candidate, by ``host:port``; empty if the node was asked for by name or by its key."""
        return self._placed.scores() if self._placed.scores else {}

    @property
    def left_out(self) -> Mapping[str, str]:
        """Why each node that was not considered was not, by ``host:port``."""
        return {address: left.why for address, left in self._placed.left_out.items()}

    def note(self, *, session: str | None = None, query: str | None = None) -> None:
        """Keep the ids of the session and of the running query with the lease, for whoever has to clean up."""
        if self._picker and self.lease:
            self._picker.keeper.note(self.lease, session=session, query=query)

    def accepted(self) -> None:
        """Say that a session has opened and its first statement was accepted. Ends the node's trial, if this was it."""
        if self._picker and self.lease and self._trial:
            self._trial, token = False, self.lease
            self._picker.tell(self.node, lambda state, now: note_success(state.node(self.node), token))

    def refused(self, cause: Cause, why: str) -> None:
        """Say that the node did not take the work: ``"failure"``, ``"overload"`` or ``"shutdown"``."""
        if self._picker and self.lease:
            token = self.lease
            self._picker.tell(self.node, lambda state, now: note_failure(state.node(self.node), now, cause, why, token))

    def failed(self) -> None:
        """Say that the work failed here: the same owner's next pick goes elsewhere, if there is another node."""
        if self._picker and self._owner:
            owner = self._owner

            def change(state: State, now: float) -> None:
                state.avoid.put(owner, Avoid(node=self.node, expires=now + AVOID_SECONDS), now + AVOID_SECONDS)

            self._picker.tell(self.node, change)

    def hand_over(self) -> Lease | None:
        """Keep the lease in the state for another process, which goes on with it (`Picker.adopt`).

        :raises StateUnavailable: it was not noted, and this process has it still.
        :raises Superseded: a later try has taken the work over.
        """
        if self._picker and self.lease:
            return self._picker.keeper.hand_over(self.lease)
        return None

    def forget(self) -> None:
        """Stop renewing the lease, and leave it in the state: another process has taken the work over."""
        if self._picker and self.lease:
            self._picker.keeper.forget(self.lease)

    def release(self) -> None:
        """End the lease; a second call does nothing. In a forked child it does nothing: the lease is the parent's."""
        if self._picker and self.lease and self._picker.keeper.holds(self.lease):
            self._picker.keeper.drop(self.lease)

    def __enter__(self) -> Pick:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.release()

    def __repr__(self) -> str:
        return f"<Pick {self.node}: {self.why}>"
