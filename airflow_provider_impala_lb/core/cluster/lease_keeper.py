"""Leases that live as long as their script: renewed by one thread, put back if they are gone."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Sequence
from contextlib import suppress
from logging import getLogger
from math import inf

import msgspec

from airflow_provider_impala_lb.core.cluster.discovery import Discovery
from airflow_provider_impala_lb.core.cluster.lease_options import LeaseListener
from airflow_provider_impala_lb.core.cluster.load_reports import LoadReports
from airflow_provider_impala_lb.core.cluster.shared_state import SharedState
from airflow_provider_impala_lb.core.forks import renew_in_children
from airflow_provider_impala_lb.core.rules.headroom import MOVE_WITHIN
from airflow_provider_impala_lb.core.rules.supersession import (
    Rival,
    fence_late,
    is_fenced,
    is_overtaken,
    note_leftover,
    rivalry,
    superseded,
)
from airflow_provider_impala_lb.core.state.model import (
    HAND_OVER_SECONDS,
    LEASE_SECONDS,
    RENEW_SECONDS,
    Lease,
    LeftoverSession,
)
from airflow_provider_impala_lb.core.state.state import State
from airflow_provider_impala_lb.core.timing import Deadline
from airflow_provider_impala_lb.errors import ConfigError, StateUnavailable, Superseded

log = getLogger(__name__)

RELEASE_SECONDS = 5.0
"""Pause between two attempts to release a lease whose end could not be noted."""
NOTE_SECONDS = 5.0
"""A query's id reaches the state within this time. Not at once: 200 scripts of short statements would otherwise keep
the lock of a slow NAS busy with nothing else."""
LINGER_SECONDS = 1.0
"""The thread waits this long for another lease: to begin a thread takes as long as to take one."""
_NEVER = Deadline(inf)


class _Held(msgspec.Struct):
    """A lease of this process, whom to tell what becomes of it, and what was done and reported already."""

    lease: Lease
    listener: LeaseListener
    fenced_earlier: bool = False
    sessions_told: int = 0
    sessions_noted: int = 0
    move_reported: bool = False
    overload_reported: bool = False
    web: str = ""


class LeaseKeeper:
    """Renews this process's leases until they are released. The thread runs while there are any, and a second longer.

    With ``load`` in the configuration it also asks for the nodes' load while scripts run and nothing is picked; so it
    does for the nodes, where they are found.

    :param shared: the cluster's state; with each renewal this host notes in it that it is there.
    :param reports: of the nodes' load.
    :param discovery: of the nodes.
    """

    def __init__(self, shared: SharedState, reports: LoadReports, discovery: Discovery) -> None:
        self._shared = shared
        self._note_host = shared.note_host
        self._reports, self._discovery = reports, discovery
        config = shared.config
        self._look_seconds = min(
            config.load.refresh if config.load else inf, config.source.refresh if config.source else inf
        )
        self._fenced: dict[str, str] = {}
        self.forget_parent()
        renew_in_children(self)

    def forget_parent(self) -> None:
        """This process is a child: it has no leases yet, and its parent renews and releases its own."""
        self._held: dict[str, _Held] = {}
        self._unreleased: dict[str, Callable[[State, float], None]] = {}
        self._mutex = threading.Lock()
        self._wake = threading.Event()
        self._note_due = _NEVER
        self._thread: threading.Thread | None = None
        self._lacked_thread = False

    def add(self, lease: Lease, listener: LeaseListener) -> None:
        """Renew this lease from now on.

        :param lease: as it is in the state.
        :param listener: whom to tell what becomes of it.
        """
        self._keep(_Held(lease, listener))

    def _keep(self, held: _Held) -> None:
        with self._mutex:
            self._held[held.lease.id] = held
            self._begin()

    def _begin(self) -> None:
        """Begin the thread, if it does not run, and can be had. With the mutex."""
        if self._thread is not None:
            return
        thread = threading.Thread(target=self._run, name="impala-lb-leases", daemon=True)
        try:
            thread.start()
        except RuntimeError as error:  # no more threads for this process
            if not self._lacked_thread:
                log.warning(
                    "Leases are renewed only when a statement begins, until a thread can be started (%s): that of a "
                    "statement that runs for more than %g s lapses meanwhile",
                    error,
                    LEASE_SECONDS,
                )
            self._lacked_thread = True
        else:
            self._thread = thread

    def holds(self, lease_id: str) -> bool:
        """Whether this process (not the one it was forked from) renews the lease.

        :param lease_id: its id.
        """
        return lease_id in self._held

    def see_noted(self, lease_id: str) -> None:
        """Try to note a lease, or a session of it, that has not come into the state yet, so that a later attempt finds
        it, and this one what earlier ones have left. Nothing if it has, or is of no attempt, or is not renewed here.

        :param lease_id: its id.
        :raises Superseded: a later attempt has taken the work over.
        """
        held = self._held.get(lease_id)
        if held is None:
            self._check_fenced(lease_id)
        elif held.lease.attempt is not None and not (held.fenced_earlier and held.sessions_noted == held.sessions_told):
            self._renew_now(held.lease)

    def note(
        self,
        lease_id: str,
        *,
        session: str | None = None,
        other_sessions: Sequence[str] = (),
        query: str | None = None,
        web: str | None = None,
    ) -> None:
        """Keep the ids of what runs under the lease.

        A session's is written at once, since whoever has to clean up needs it; a query's after some seconds
        (`NOTE_SECONDS`), however many there were meanwhile.

        :param lease_id: its id.
        :param session: the session's id; None (default): as before.
        :param other_sessions: with ``session``: ids of others that are open under the lease, too; default none.
        :param query: the id of the statement running last; None (default): as before.
        :param web: with ``session``: where its coordinator says that its pages are; None (default): as before.
        :raises Superseded: with ``session``: a later attempt has taken the work over, and nothing may be run any more.
        """
        with self._mutex:
            held = self._held.get(lease_id)
            if held is None:
                if session is not None:
                    self._check_fenced(lease_id)
                return
            if session is not None:
                held.lease.session, held.lease.other_sessions = session, list(other_sessions)
                held.web = web or held.web
                held.sessions_told += 1
            held.lease.query = query or held.lease.query
            self._begin()  # should there have been no thread for it before
            if session is None and self._thread is not None:
                if self._note_due is _NEVER:  # more notes may come: one transaction for all of them
                    self._note_due = Deadline(NOTE_SECONDS)
                    self._wake.set()
                return
        self._renew_now(held.lease)

    def hand_over(self, lease_id: str) -> Lease | None:
        """Stop renewing a lease, and keep it in the state for another process to :meth:`adopt`, for a while.

        :param lease_id: its id.
        :returns: the lease; None if this process does not renew it.
        :raises StateUnavailable: it was not noted; the lease is still renewed here.
        :raises Superseded: a later attempt has taken the work over.
        """
        held = self._held.get(lease_id)
        if held is None:
            self._check_fenced(lease_id)
            return None
        lease = msgspec.structs.replace(held.lease, holder=None)

        def change(state: State, now: float) -> None:
            self._note_host(state, now)
            if state.end_lease(lease.id) is None and is_overtaken(state, lease):
                raise superseded(lease.owner, "there is nothing to hand over")
            lease.expires = now + HAND_OVER_SECONDS
            state.lease(lease)

        with self._mutex:
            self._held.pop(lease_id, None)
        try:
            self._shared.transact(change)
        except Superseded:
            raise
        except BaseException:
            self._keep(held)
            raise
        return lease

    def adopt(self, lease: Lease, listener: LeaseListener) -> None:
        """Renew a lease that another process has handed over; one that is gone is put back.

        :param lease: as it was handed over, with this process for its holder.
        :param listener: whom to tell what becomes of it.
        :raises Superseded: a later attempt has taken the work over.
        """
        self.add(lease, listener)
        self._renew_now(lease)

    def forget(self, lease_id: str) -> None:
        """Stop renewing the lease; it stays in the state.

        :param lease_id: its id.
        """
        with self._mutex:
            self._held.pop(lease_id, None)

    def drop(self, lease_id: str, *, left_running: bool = False) -> None:
        """End the lease, here and in the state. Never raises: what cannot be ended now is ended as soon as the state is
        in reach, by this process if that still runs, else by its expiry.

        :param lease_id: its id.
        :param left_running: what ran under it was not seen to end, and is noted for the owner's next attempt; default
            False.
        """

        def change(state: State, now: float) -> None:
            self._note_host(state, now)  # of a short script the second word, and so the first that others can go by
            ended = state.end_lease(lease_id)
            # What a later attempt has fenced is known to it, and may have been seen to end.
            if left_running and (ended or held) is not None and not is_fenced(state, lease_id):
                note_leftover(state, now, held.lease if held is not None else ended)  # type: ignore[arg-type]

        with self._mutex:
            held = self._held.pop(lease_id, None)
            last = not self._held
        if last:
            self._wake.set()
        try:
            self._shared.transact(change)
        except (StateUnavailable, ConfigError) as error:
            log.warning("A lease could not be released now, but will be once the shared state is in reach: %s", error)
            with self._mutex:
                self._unreleased[lease_id] = change
                self._begin()
            self._wake.set()
            if held is not None and self._shared.snapshot is not None:
                self._shared.snapshot.forget_lease(held.lease)

    def _release_late(self) -> None:
        """Release what could not be released.

        :raises StateUnavailable: it still cannot.
        """
        late = dict(self._unreleased)
        if late:
            self._shared.transact(lambda state, now: [change(state, now) for change in late.values()])
        with self._mutex:
            for lease_id in late:
                self._unreleased.pop(lease_id, None)

    def renew(self) -> list[Lease]:
        """Renew all leases in one transaction. Returns those that were gone and had to be put back.

        :raises StateUnavailable: the store cannot be reached.
        :raises ConfigError: the store may not be used.
        """
        with self._mutex:
            holds = list(self._held.values())
            told = [held.sessions_told for held in holds]
            self._note_due = _NEVER
        fenced: list[str] = []
        left: list[tuple[_Held, dict[str, LeftoverSession] | Rival]] = []

        def change(state: State, now: float) -> list[Lease]:
            self._note_host(state, now)
            gone = []
            fenced.clear()
            left.clear()
            for held, number in zip(holds, told, strict=True):
                lease = held.lease
                if lease.id not in self._held:
                    continue  # released or handed over meanwhile: what that notes, or has noted, is to stay
                there = state.end_lease(lease.id)
                if there is not None:
                    lease.move = there.move
                elif is_overtaken(state, lease):
                    fenced.append(lease.id)
                    continue
                else:
                    state.leftovers.drop(lease.id)
                    gone.append(lease)
                if there is None or not held.fenced_earlier:
                    left.append((held, fence_late(state, now, lease)))
                lease.expires = now + LEASE_SECONDS
                state.lease(lease)
                if there is None or number != held.sessions_noted:  # by now another one may have named a newer one
                    self._reports.learn(state, lease.node, held.web)
            return gone

        gone = self._shared.transact(change) if holds else []
        for held, number in zip(holds, told, strict=True):
            held.sessions_noted = number
        for held, found in left:
            _report_left(held, found)
            held.fenced_earlier = True
        for lease_id in fenced:
            self._report_fenced(lease_id)
        self._report_moves()
        return gone

    def _renew_now(self, lease: Lease) -> None:
        """Renew all leases; a failure is reported by the next renewal.

        :raises Superseded: this one has been fenced.
        """
        with suppress(StateUnavailable, ConfigError):
            self.renew()
        self._check_fenced(lease.id)

    def _check_fenced(self, lease_id: str) -> None:
        if lease_id in self._fenced:
            raise superseded(self._fenced[lease_id])

    def _report_fenced(self, lease_id: str) -> None:
        with self._mutex:
            held = self._held.pop(lease_id, None)
            if held is not None:
                self._fenced[lease_id] = held.lease.owner
        if held is not None and held.listener.on_fenced:
            held.listener.on_fenced()

    def _report_moves(self) -> None:
        for held in list(self._held.values()):
            if held.lease.move and held.listener.on_move and not held.move_reported:
                held.move_reported = held.overload_reported = True
                held.listener.on_move(held.lease.move)

    def _look_at_load(self) -> None:
        """Ask for the load if it is due, and tell the scripts here what it means for them."""
        self._discovery.look_if_due()
        state = self._reports.probe_if_due()
        if state is None:
            return
        for held in list(self._held.values()):
            found = state.leases.get(held.lease.id)
            if found is not None and found.move:
                held.lease.move = found.move
            self._report_overload(held, state)
        self._report_moves()

    @staticmethod
    def _report_overload(held: _Held, state: State) -> None:
        """Only of what stays on the node: what can be moved is told to move."""
        node = state.nodes.get(held.lease.node)
        if node is None or node.summary is None or node.summary.level != "overloaded":
            return
        if held.overload_reported or held.listener.on_overload is None:
            return
        if held.listener.on_move is None:
            reason = "it is not declared restartable"
        elif node.summary.at - held.lease.taken > MOVE_WITHIN:
            reason = f"it has run for more than {MOVE_WITHIN:g} s, too long to be begun anew"
        else:
            return
        held.overload_reported = True
        held.listener.on_overload(f"headroom {node.summary.headroom:.2f}; {reason}")

    def _run(self) -> None:
        unreachable = False
        renewal, look, release = Deadline(RENEW_SECONDS), Deadline(self._look_seconds), Deadline(RELEASE_SECONDS)
        while True:
            pauses = [renewal.remaining, look.remaining, self._note_due.remaining]
            self._wake.wait(min(*pauses, release.remaining) if self._unreleased else min(pauses))
            self._wake.clear()
            if not self._held and not self._unreleased:
                time.sleep(min(LINGER_SECONDS, renewal.remaining))
            with self._mutex:
                if not self._held and not self._unreleased:
                    self._thread = None
                    return
            try:
                if look.passed():
                    look = Deadline(self._look_seconds)
                    self._look_at_load()
                if renewal.passed() or self._note_due.passed():
                    renewal = Deadline(RENEW_SECONDS)
                    for lease in self.renew():
                        log.warning(
                            "The lease of %s on %s was gone from the shared state (reset, or out of reach for %g s); "
                            "the script still runs, so the lease was put back",
                            lease.owner or lease.id,
                            lease.node,
                            LEASE_SECONDS,
                        )
                    unreachable = False
                if self._unreleased and release.passed():
                    release = Deadline(RELEASE_SECONDS)
                    with suppress(StateUnavailable, ConfigError):  # as was said when they could not be released
                        self._release_late()
            except (StateUnavailable, ConfigError) as error:
                if not unreachable:
                    log.warning("Leases cannot be renewed for now, the scripts go on: %s", error)
                unreachable = True
            except Exception:  # else this thread would end, and with it all leases of this process in two minutes
                log.exception("Leases could not be renewed, which is tried again in %g s", RENEW_SECONDS)


def _report_left(held: _Held, found: dict[str, LeftoverSession] | Rival) -> None:
    owner, attempt, on_left = held.lease.owner, held.lease.attempt, held.listener.on_left
    if on_left is not None and isinstance(found, Rival) and attempt is not None:
        on_left({}, rivalry(owner, attempt, found))
    elif on_left is not None and found and not isinstance(found, Rival):
        on_left(found, None)


class LeaseHandle:
    """One lease, for the pick that has it.

    :param keeper: renews it.
    :param lease_id: its id.
    :ivar id: the lease's id.
    """

    def __init__(self, keeper: LeaseKeeper, lease_id: str) -> None:
        self.id = lease_id
        self._keeper = keeper

    def note(
        self,
        *,
        session: str | None = None,
        other_sessions: Sequence[str] = (),
        query: str | None = None,
        web: str | None = None,
    ) -> None:
        """As `LeaseKeeper.note`.

        :param session: as there.
        :param other_sessions: as there.
        :param query: as there.
        :param web: as there.
        :raises Superseded: as there.
        """
        self._keeper.note(self.id, session=session, other_sessions=other_sessions, query=query, web=web)

    def see_noted(self) -> None:
        """As `LeaseKeeper.see_noted`.

        :raises Superseded: as there.
        """
        self._keeper.see_noted(self.id)

    def hand_over(self) -> Lease | None:
        """As `LeaseKeeper.hand_over`.

        :raises StateUnavailable: as there.
        :raises Superseded: as there.
        """
        return self._keeper.hand_over(self.id)

    def forget(self) -> None:
        """As `LeaseKeeper.forget`."""
        self._keeper.forget(self.id)

    def release(self, *, left_running: bool = False) -> None:
        """End the lease, unless it has ended, or is another process's.

        :param left_running: as `LeaseKeeper.drop`.
        """
        if self._keeper.holds(self.id):
            self._keeper.drop(self.id, left_running=left_running)
