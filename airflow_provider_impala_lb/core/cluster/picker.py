"""The balancer for its users: one transaction for each pick, and what happens around it."""

from __future__ import annotations

import os
import random
import time
from collections.abc import Callable, Collection, Mapping
from logging import getLogger

import msgspec

from airflow_provider_impala_lb.core.cluster.lease_keeper import LeaseHandle, LeaseKeeper
from airflow_provider_impala_lb.core.cluster.lease_options import LeaseListener, LeaseOptions
from airflow_provider_impala_lb.core.cluster.load_reports import LoadReports
from airflow_provider_impala_lb.core.cluster.pick import NodeFeedback, Pick
from airflow_provider_impala_lb.core.cluster.session_keys import SessionKeys
from airflow_provider_impala_lb.core.cluster.shared_state import SharedState
from airflow_provider_impala_lb.core.process_identity import is_dead, this_process
from airflow_provider_impala_lb.core.rules import queue as line
from airflow_provider_impala_lb.core.rules.admission import LeftOut
from airflow_provider_impala_lb.core.rules.expiry import reap
from airflow_provider_impala_lb.core.rules.placement import Placed, Request, Wait, place
from airflow_provider_impala_lb.core.rules.supersession import check_attempt, check_claim
from airflow_provider_impala_lb.core.state.model import LEASE_SECONDS, Head, Lease, Ticket
from airflow_provider_impala_lb.core.state.state import State
from airflow_provider_impala_lb.core.timing import DAY, check_seconds
from airflow_provider_impala_lb.errors import MustWait, NoNodeAvailable, StateUnavailable

__all__ = ["Pick", "Picker"]

log = getLogger(__name__)

LONGEST_HOLD = 30 * DAY
_LOOK_FOR_DEAD_EVERY = 1.0


class _LookFirst(Exception):
    """Nobody on this host has looked for leases of dead processes lately: to be done outside the transaction."""

    def __init__(self, state: State) -> None:
        super().__init__()
        self.state = state


class _Free(Exception):
    """There is a node, and only that was the question: the transaction changes nothing."""


class Picker:
    """Picks coordinators for all workers that share the state.

    If the store cannot be reached, it picks by the last copy it read, else at random, and says so once: the balancer
    must never be why work fails.

    :param leases: renews the leases of picks.
    :param reports: asked for the nodes' load after a pick, if that is due.
    :param session_keys: what session keys bring along.
    :param rng: for the policies that draw by lot, and for the picks without a store; default a new one.
    """

    def __init__(
        self,
        shared: SharedState,
        leases: LeaseKeeper,
        reports: LoadReports,
        session_keys: SessionKeys,
        rng: random.Random | None = None,
    ) -> None:
        self._shared, self._leases, self._reports, self._session_keys = shared, leases, reports, session_keys
        self._config = shared.config
        self._rng = rng or random.Random()
        self._said: set[str] = set()
        self._alone = 0

    def get_host(self) -> str:
        """The next node as ``host:port``; every call moves on."""
        return self.pick().host

    def pick(
        self,
        *,
        session_key: str | None = None,
        prefer: str | None = None,
        exclude: Collection[str] | Mapping[str, str] = (),
    ) -> Pick:
        """One pick without a lease; it weighs on its node until a report covers it, or 30 s. It never waits, and
        ``max_leases`` does not bind it, since nobody could say when it ends. Parameters and errors as :meth:`acquire`.
        """
        request = self._request(None, session_key, prefer, exclude)
        placed = self._try(request)
        assert isinstance(placed, Placed)
        return Pick(placed, session_key=session_key)

    def acquire(
        self,
        owner: str = "",
        session_key: str | None = None,
        prefer: str | None = None,
        exclude: Collection[str] | Mapping[str, str] = (),
        options: LeaseOptions | None = None,
    ) -> Pick:
        """A pick with a lease, renewed until it is released. Use it in a ``with`` block.

        While every node is busy or full it waits, first come first served among all workers of all hosts.

        :param owner: who asks, e.g. ``dag/run/task``; shown by status.
        :param session_key: picks with the same key stay on one node.
        :param prefer: a node (``host:port``) to keep if it may take work.
        :param exclude: nodes not to pick; a mapping gives each one's reason, for ``why`` and errors.
        :param options: how to wait, and what to be told of; default `LeaseOptions()`.
        :raises Superseded: a later attempt of ``owner`` has taken over since.
        :raises NoNodeAvailable: every node is excluded, drained or full; the message says how many, and why each.
        :raises MustWait: with ``options.queue.asks_again``: come back later.
        :raises ConfigError: ``prefer`` is not a node of this configuration, or the store belongs to another cluster.
        """
        options = options or LeaseOptions()
        queue = options.queue
        lease = self._lease(owner, options.announced_id)
        lease.movable = options.listener.on_move is not None
        request = self._request(lease, session_key, prefer, exclude)
        request.claimed, request.attempt = bool(options.announced_id), options.attempt
        request.ticket = self._ticket(queue.ticket or lease.id, owner, queue.asks_again)
        wait = self._config.max_wait if queue.wait is None else queue.wait
        placed = self._wait_for(request, wait, here=queue.asks_again is None, meanwhile=options.while_waiting)
        self._leases.add(lease, options.listener)
        return self._picked(placed, lease, session_key)

    def adopt(self, lease: Lease, listener: LeaseListener | None = None) -> Pick:
        """Go on with a lease that another process has handed over.

        :raises Superseded: a later try of its owner has taken over.
        :raises ConfigError: its node is not of this configuration any more.
        """
        node = self._config.canonical(lease.node)
        mine = msgspec.structs.replace(lease, holder=this_process(), host=self._shared.host)
        self._leases.adopt(mine, listener or LeaseListener())
        placed = Placed(node=node, reason="it was begun there", left_out={})
        return self._picked(placed, lease)

    def hold(self, seconds: float, owner: str = "", session_key: str | None = None, wait: float | None = None) -> Pick:
        """A pick with a lease that nobody renews: it ends after ``seconds``, or by :meth:`release`. For programs that
        do not go on running here. Errors as :meth:`acquire`."""
        check_seconds("hold", seconds, LONGEST_HOLD, "a lease that nobody ends counts on its node for so long")
        lease = self._lease(owner)
        lease.holder = None  # the process that asks is gone long before its work ends
        request = self._request(lease, session_key, None, ())
        request.lasts = seconds
        request.ticket = self._ticket(lease.id, owner, None)
        placed = self._wait_for(request, self._config.max_wait if wait is None else wait, here=True)
        return self._picked(placed, lease, session_key)

    def ask(
        self,
        ticket: str,
        owner: str = "",
        session_key: str | None = None,
        prefer: str | None = None,
        *,
        asks_again: float,
    ) -> Wait | None:
        """Is it this ticket's turn? None if it is, or if there is nothing to wait for: no node at all, or no shared
        state; nothing is taken then, and :meth:`acquire` tells. Else the place in the line is kept, as by `acquire`
        with ``asks_again``. Other parameters as there.
        """
        request = self._request(self._lease(owner), session_key, prefer, ())
        request.patient, request.ticket = True, self._ticket(ticket, owner, asks_again)
        try:
            placed = self._try(request, only_ask=True)
        except (_Free, NoNodeAvailable):
            return None
        return placed if isinstance(placed, Wait) else None

    def leave_queue(self, ticket: str) -> None:
        """Leave the queue. Never raises: a ticket also lapses by itself."""
        self._shared.try_to_note("the place in the queue", lambda state, now: line.leave_queue(state, ticket))

    def _picked(self, placed: Placed, lease: Lease, session_key: str | None = None) -> Pick:
        feedback = NodeFeedback(self._shared, placed.node, lease, on_trial=placed.trial)
        return Pick(placed, LeaseHandle(self._leases, lease.id), feedback, session_key=session_key)

    def _lease(self, owner: str, lease_id: str = "") -> Lease:
        name = lease_id or new_id()
        return Lease(
            id=name, node="", owner=owner, expires=0.0, taken=0.0, host=self._shared.host, holder=this_process()
        )

    def _ticket(self, name: str, owner: str, asks_again: float | None) -> Ticket:
        """:param asks_again: None: this process waits, and the ticket ends with it."""
        return Ticket(
            id=name,
            owner=owner,
            host=self._shared.host,
            since=0.0,
            until=0.0,
            asks_again=asks_again or 0.0,
            holder=this_process() if asks_again is None else None,
        )

    def _request(
        self,
        lease: Lease | None,
        session_key: str | None,
        prefer: str | None,
        exclude: Collection[str] | Mapping[str, str],
    ) -> Request:
        return Request(
            token=lease.id if lease else "",
            lease=lease,
            session_key=session_key,
            prefer=None if prefer is None else self._config.canonical(prefer),
            excluded=dict(exclude) if isinstance(exclude, Mapping) else dict.fromkeys(exclude, "excluded"),
            lasts=LEASE_SECONDS,
        )

    def _wait_for(
        self, request: Request, wait: float, *, here: bool, meanwhile: Callable[[], None] | None = None
    ) -> Placed:
        """Try until a node is free; after ``wait`` seconds take a busy one, or raise."""
        start = time.monotonic()
        request.patient = wait > 0
        said = False
        assert request.ticket is not None
        try:
            while True:
                placed = self._try(request)
                if isinstance(placed, Placed):
                    return placed
                if placed.waited >= wait:
                    request.patient = False
                elif not here:
                    raise MustWait(placed.position, placed.waited, wait, _words(placed.left_out))
                else:
                    if not said:
                        self._say_waiting(placed, wait)
                        said = True
                    pause = min(placed.pause * self._rng.uniform(0.7, 1.0), max(0.01, wait - placed.waited))
                    self._sleep(pause, meanwhile)
        except MustWait:
            raise
        except BaseException as error:
            self._leave_queue(request.ticket)
            if isinstance(error, NoNodeAvailable) and said:
                waited = time.monotonic() - start
                raise NoNodeAvailable(f"{error.summary}; waited {waited:.0f} s", error.reasons) from None
            raise

    @staticmethod
    def _sleep(seconds: float, meanwhile: Callable[[], None] | None) -> None:
        end = time.monotonic() + seconds
        while (left := end - time.monotonic()) > 0:
            if meanwhile:
                meanwhile()
            time.sleep(min(left, 0.2))

    def _say_waiting(self, placed: Wait, wait: float) -> None:
        log.info(
            "All %d nodes of %s are busy or full: waiting up to %g s, as number %d in the line (%s)",
            len(self._config.nodes),
            self._config.name,
            wait,
            placed.position,
            ", ".join(f"{address}: {why}" for address, why in _words(placed.left_out).items()),
        )

    def _leave_queue(self, ticket: Ticket) -> None:
        """Also a place that another process took under this name, of which this one has not seen anything."""
        state = self._shared.copy
        if ticket.asks_again or (state is not None and any(each.id == ticket.id for each in state.head.waiting)):
            self.leave_queue(ticket.id)

    def _try(self, request: Request, *, only_ask: bool = False) -> Placed | Wait:
        """One transaction. :raises _Free: with ``only_ask``, when it could have had a node."""
        differs = False
        dead: frozenset[str] | None = None

        def change(state: State, now: float) -> tuple[Placed | Wait, State]:
            nonlocal differs
            differs = self._shared.note_host(state, now, nodes=True)
            note = state.hosts[self._shared.host]
            if dead is None and (state.leases.extent.count or state.head.waiting):
                if now - note.dead_sought >= _LOOK_FOR_DEAD_EVERY or now < note.dead_sought:
                    raise _LookFirst(_loaded(state))
            elif dead is not None:
                note.dead_sought = now
            reap(state, now, dead or frozenset(), self._shared.may_expire(state, now))
            owner = request.ticket.owner if request.ticket else ""
            if request.attempt:
                check_attempt(state, owner, request.attempt)
            if request.claimed:
                check_claim(state, owner, request.token)
            placed = place(self._config, state, now, request, self._rng)
            if request.claimed and isinstance(placed, Placed):
                state.leftovers.drop(request.token)
            if only_ask and isinstance(placed, Placed):
                raise _Free
            return placed, state

        if request.session_key:
            request.known = self._session_keys.elsewhere(request.session_key, self._shared.copy)
        try:
            try:
                placed, self._shared.copy = self._shared.transact(change)
            except _LookFirst as first:
                dead = _dead(first.state)
                placed, self._shared.copy = self._shared.transact(change)
        except StateUnavailable as error:
            self._say("unreachable", f"Picking without the shared state, outside any limit: {error}")
            return self._pick_alone(request)
        if self._alone:
            log.info("The shared state is in reach again; %d picks were made without it", self._alone)
            self._alone = 0
        self._said.discard("unreachable")
        if differs:
            self._say(
                "differs",
                f"{self._shared.store.where}: another host balances a different list of nodes; each uses its own",
            )
        if isinstance(placed, Placed) and placed.session and request.session_key:
            self._session_keys.copy(request.session_key, placed.session)
        self._reports.begin_probe_if_due(self._shared.copy)
        return placed

    def _pick_alone(self, request: Request) -> Placed:
        """Without the store: by the last copy, else at random. The lease reaches the state once that is back."""
        state = self._shared.copy
        if state is None:
            # At random, by giving the turn to a node drawn by lot: a fresh process has no idea of the others' picks.
            state = State(Head(last=self._rng.choice(self._config.addresses)))
        self._alone += 1
        alone, request.patient = self._config.without_limits, False
        placed = place(alone, state, time.time(), request, self._rng)
        assert isinstance(placed, Placed)
        placed.remarks += ("the shared state was out of reach",)
        return placed

    def _say(self, what: str, text: str) -> None:
        if what not in self._said:
            self._said.add(what)
            log.warning("%s", text)


def new_id() -> str:
    """128 random bits; a UUID takes five times as long."""
    return os.urandom(16).hex()


def _words(left_out: Mapping[str, LeftOut]) -> dict[str, str]:
    return {address: left.why for address, left in left_out.items()}


def _loaded(state: State) -> State:
    """The state with its leases read, which cannot be done any more once the transaction is over."""
    _ = state.leases.text
    return state


def _dead(state: State) -> frozenset[str]:
    """Leases and tickets whose process on this host is gone."""
    held = [(lease.id, lease.holder) for _, lease in state.leases.items()]
    held += [(ticket.id, ticket.holder) for ticket in state.head.waiting]
    verdicts = {holder: is_dead(holder) for holder in {holder for _, holder in held}}
    return frozenset(name for name, holder in held if verdicts[holder])
