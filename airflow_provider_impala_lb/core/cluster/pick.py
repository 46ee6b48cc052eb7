"""A chosen node, and what its user reports of it afterwards."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from logging import getLogger
from types import TracebackType

from airflow_provider_impala_lb.core.cluster.lease_keeper import LeaseHandle
from airflow_provider_impala_lb.core.cluster.shared_state import SharedState
from airflow_provider_impala_lb.core.rules.ejection import Failure, end_trial, note_failure, note_success
from airflow_provider_impala_lb.core.rules.placement import Placed
from airflow_provider_impala_lb.core.state.model import AVOID_SECONDS, Avoid, Cause, Lease
from airflow_provider_impala_lb.core.state.state import State

log = getLogger(__name__)


class NodeFeedback:
    """What became of the work that was sent to a node, noted for the picks of all. No method raises.

    :param shared: the cluster's state.
    :param node: ``host:port``.
    :param lease: whose work it is; its id is the token of a trial.
    :param doubted: something was held against the node as it was picked.
    :param trial: it is the node's trial; default False.
    """

    def __init__(self, shared: SharedState, node: str, lease: Lease, *, doubted: bool, trial: bool = False) -> None:
        self._shared, self._node, self._lease = shared, node, lease
        self._doubted, self._trial = doubted, trial

    def accepted(self) -> None:
        """A session has opened and its first statement was accepted. Ends what was held against the node."""
        if self._doubted:
            self._doubted = False
            begun, host, node = self._lease.taken, self._shared.host, self._node
            self._note(lambda state, now: note_success(state, now, node, host, begun))

    def refused(self, cause: Cause, reason: str) -> None:
        """The node did not take the work.

        :param cause: ``"failure"``, ``"overload"`` or ``"shutdown"``.
        :param reason: in words.
        """
        failure = Failure(self._shared.host, cause, reason, self._lease.id)
        config, node = self._shared.config, self._node
        follows: list[str] = []
        self._note(lambda state, now: follows.append(note_failure(config, state, now, node, failure)))
        if follows:
            log.warning("%s did not take the work (%s): %s", node, reason, follows[-1])

    def not_tried(self) -> None:
        """The work has not come as far as the node, for a reason of this host: the node's trial is another one's."""
        if self._trial:
            self._trial = False
            self._note(lambda state, now: end_trial(state.node(self._node), self._lease.id))

    def failed(self) -> None:
        """The work failed here: the same owner's next pick goes elsewhere, if there is another node."""
        owner = self._lease.owner
        if not owner:
            return

        def change(state: State, now: float) -> None:
            state.avoid.put(owner, Avoid(node=self._node, expires=now + AVOID_SECONDS), now + AVOID_SECONDS)

        self._note(change)

    def _note(self, change: Callable[[State, float], object]) -> None:
        self._shared.try_to_note(f"the work on {self._node}", change)


class Pick:
    """A chosen node. With a lease, it weighs on the node until the ``with`` block (or :meth:`release`) ends.

    :param placed: which node, and what spoke for it.
    :param lease: None (default): a pick without one.
    :param feedback: notes what becomes of the work there; None (default): nothing is noted.
    :param session_key: of the pick; None (default): it has none.
    :ivar node: the node's name in the state and on the command line, ``host:port``.
    :ivar host: where to connect, ``host:port``.
    :ivar lease: the lease's id, or None for a pick without one.
    :ivar database: for a pick with a session key: the database in use at the end of the key's last session.
    :ivar options: and what had been set in it by SET. Both are to be replayed when a session is opened.
    :ivar session_key: as given.
    """

    def __init__(
        self,
        placed: Placed,
        lease: LeaseHandle | None = None,
        feedback: NodeFeedback | None = None,
        *,
        session_key: str | None = None,
    ) -> None:
        self.node = self.host = placed.node
        self.lease = lease.id if lease else None
        self.session_key = session_key
        self.database = placed.session.database if placed.session else None
        self.options: Mapping[str, str] = placed.session.options if placed.session else {}
        self._placed, self._lease, self._feedback = placed, lease, feedback

    @property
    def why(self) -> str:
        """What spoke for this node, how the other candidates compare, and which were left out for what."""
        return self._placed.explanation

    @property
    def scores(self) -> Mapping[str, str]:
        """What spoke for each candidate, by ``host:port``; empty if the node was asked for by name or by its key."""
        return self._placed.scores() if self._placed.scores else {}

    @property
    def left_out(self) -> Mapping[str, str]:
        """Why each node that was not considered was not, by ``host:port``."""
        return {address: left.reason for address, left in self._placed.left_out.items()}

    def note(
        self,
        *,
        session: str | None = None,
        other_sessions: Sequence[str] = (),
        query: str | None = None,
        web: str | None = None,
    ) -> None:
        """Keep the ids of the session and of the running query with the lease, for whoever has to clean up.

        :param session: the session's id; None (default): as before.
        :param other_sessions: with ``session``: ids of others that are open here, too; default none.
        :param query: the id of the statement running last; None (default): as before.
        :param web: with ``session``: where the node's pages are, ``host:port``, as its coordinator names it; None
            (default): as before.
        :raises Superseded: with ``session``: a later attempt has taken the work over, and nothing may be run any more.
        """
        if self._lease:
            self._lease.note(session=session, other_sessions=other_sessions, query=query, web=web)

    def see_noted(self) -> None:
        """Try once more to note the lease, if the state has been out of reach since the pick.

        :raises Superseded: a later attempt has taken the work over.
        """
        if self._lease:
            self._lease.see_noted()

    def accepted(self) -> None:
        """Note that a session has opened and its first statement was accepted: a trial of the node has succeeded."""
        if self._feedback:
            self._feedback.accepted()

    def refused(self, cause: Cause, reason: str) -> None:
        """Note that the node did not take the work.

        :param cause: ``"failure"``, ``"overload"`` or ``"shutdown"``.
        :param reason: in words.
        """
        if self._feedback:
            self._feedback.refused(cause, reason)

    def not_tried(self) -> None:
        """Note that the work has not come as far as the node: for a reason of this host, which says nothing of it."""
        if self._feedback:
            self._feedback.not_tried()

    def failed(self) -> None:
        """Note that the work failed here: the same owner's next pick goes elsewhere, if there is another node."""
        if self._feedback:
            self._feedback.failed()

    def hand_over(self) -> Lease | None:
        """Keep the lease in the state for another process, which goes on with it (`Picker.adopt`).

        :returns: the lease; None if there is none, or this process does not renew it.
        :raises StateUnavailable: it was not noted, and this process has it still.
        :raises Superseded: a later attempt has taken the work over.
        """
        return self._lease.hand_over() if self._lease else None

    def forget(self) -> None:
        """Stop renewing the lease, and leave it in the state: another process has taken the work over."""
        if self._lease:
            self._lease.forget()

    def release(self, *, left_running: bool = False) -> None:
        """End the lease; a second call does nothing. In a forked child it does nothing: the lease is the parent's.

        :param left_running: what ran under it was not seen to end: the owner's next attempt ends that first; default
            False.
        """
        if self._lease:
            self._lease.release(left_running=left_running)

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
