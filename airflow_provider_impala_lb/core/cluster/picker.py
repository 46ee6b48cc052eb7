"""Picks nodes: one transaction for each pick, and what happens around it."""

from __future__ import annotations

import os
import random
import threading
import time
from collections.abc import Callable, Collection, Mapping
from contextlib import suppress
from logging import getLogger

import msgspec

from airflow_provider_impala_lb.core import timing
from airflow_provider_impala_lb.core.cluster.discovery import Discovery
from airflow_provider_impala_lb.core.cluster.lease_keeper import LeaseHandle, LeaseKeeper
from airflow_provider_impala_lb.core.cluster.lease_options import LeaseListener, LeaseOptions
from airflow_provider_impala_lb.core.cluster.load_reports import LoadReports
from airflow_provider_impala_lb.core.cluster.pick import NodeFeedback, Pick
from airflow_provider_impala_lb.core.cluster.session_keys import SessionKeys
from airflow_provider_impala_lb.core.cluster.shared_state import SharedState
from airflow_provider_impala_lb.core.cluster.waiting import Waiter
from airflow_provider_impala_lb.core.config.model import Config
from airflow_provider_impala_lb.core.config.value_limits import DAY, check_seconds
from airflow_provider_impala_lb.core.forks import renew_in_children
from airflow_provider_impala_lb.core.process_identity import is_dead, this_process
from airflow_provider_impala_lb.core.rules.admission import Caller, LeftOut
from airflow_provider_impala_lb.core.rules.expiry import end_expired
from airflow_provider_impala_lb.core.rules.placement import Placed, Request, Wait, place
from airflow_provider_impala_lb.core.rules.queue import dequeue
from airflow_provider_impala_lb.core.rules.retention import MOST_KEY_CHARACTERS
from airflow_provider_impala_lb.core.rules.supersession import check_announced, check_attempt
from airflow_provider_impala_lb.core.state.model import LEASE_SECONDS, Lease, Ticket
from airflow_provider_impala_lb.core.state.state import State
from airflow_provider_impala_lb.errors import (
    ConfigError,
    MustWait,
    NoNodeAvailable,
    StateContended,
    StateUnavailable,
)

log = getLogger(__name__)

LONGEST_HOLD = 30 * DAY
_SEEK_DEAD_EVERY = 1.0
_WAITING_FOR_STATE = "Waiting for the shared state, since max_leases is hard and nobody knows how many scripts run"


class _SeekDeadFirst(Exception):
    """Nobody on this host has looked for leases of dead processes lately: to be done outside the transaction."""

    def __init__(self, state: State) -> None:
        super().__init__()
        self.state = state


class _Free(Exception):
    """There is a node, and only that was the question: the transaction changes nothing."""


class Picker:
    """Picks nodes for all workers that share the state.

    While the store cannot be reached, who can wait waits for it where ``max_leases`` limits how many may run: that is
    hard. Else it picks by the last state it saw, within its limits, or at random, and says so once: the balancer must
    never be why work fails.

    :param shared: the cluster's state.
    :param leases: renews the leases of picks.
    :param reports: asked for the nodes' load after a pick, if that is due.
    :param session_keys: what session keys bring along.
    :param discovery: finds the nodes, where they are not listed.
    :param rng: for the policies that draw by lot, and for the picks without a store; default a new one.
    """

    def __init__(
        self,
        shared: SharedState,
        leases: LeaseKeeper,
        reports: LoadReports,
        session_keys: SessionKeys,
        discovery: Discovery,
        rng: random.Random | None = None,
    ) -> None:
        self._shared, self._leases, self._reports, self._session_keys = shared, leases, reports, session_keys
        self._discovery = discovery
        self._rng = rng or random.Random()
        renew_in_children(self)
        self._warned: set[str] = set()
        self._picked_alone = 0
        self._alone = threading.Lock()

    def forget_parent(self) -> None:
        """This process is a child: it draws lots of its own."""
        self._rng.seed()
        self._alone = threading.Lock()

    @property
    def _config(self) -> Config:
        return self._shared.config

    def pick(
        self,
        *,
        session_key: str | None = None,
        prefer: str | None = None,
        exclude: Collection[str] | Mapping[str, str] = (),
    ) -> Pick:
        """One pick without a lease; it weighs on its node until a report covers it, or 30 s.

        It never waits, and ``max_leases`` does not bind it, since nobody could say when it ends.

        :param session_key: as :meth:`acquire`.
        :param prefer: as :meth:`acquire`.
        :param exclude: as :meth:`acquire`.
        :raises NoNodeAvailable: as :meth:`acquire`.
        :raises ConfigError: as :meth:`acquire`.
        """
        request = self._request(None, session_key, prefer, exclude)
        try:
            placed = self._ask(request)
        except StateUnavailable as error:
            placed = self._pick_alone(request, error)
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

        :param owner: who asks, e.g. ``dag/run/task``; shown by status. Default "".
        :param session_key: picks with the same key stay on one node; None (default): it has none.
        :param prefer: a node (``host:port``) to keep if it may take work; None (default): any.
        :param exclude: nodes not to pick; a mapping gives each one's reason, for `Pick.why` and errors. Default none.
        :param options: how to wait, and what to be told of; default `LeaseOptions()`.
        :raises Superseded: a later attempt of ``owner`` has taken over since.
        :raises NoNodeAvailable: every node is excluded, drained or full; the message says how many, and why each.
        :raises MustWait: with ``options.queue.asks_again``: come back later.
        :raises ConfigError: ``prefer`` is not a node of this configuration, ``session_key`` is no text, or the store
            belongs to another cluster.
        """
        options = options or LeaseOptions()
        queue = options.queue
        lease = self._lease(owner, options.announced_id)
        lease.attempt = options.attempt
        lease.movable = options.listener.on_move is not None
        request = self._request(lease, session_key, prefer, exclude)
        request.announced, request.attempt = bool(options.announced_id), options.attempt
        request.ticket = self._ticket(queue.ticket or lease.id, owner, queue.asks_again)
        wait = self._config.max_wait if queue.wait is None else queue.wait
        placed = self._wait_for(request, wait, here=queue.asks_again is None, meanwhile=options.while_waiting)
        self._leases.add(lease, options.listener)
        return self._picked(placed, lease, session_key)

    def adopt(self, lease: Lease, listener: LeaseListener | None = None) -> Pick:
        """Go on with a lease that another process has handed over.

        :param lease: as `Pick.hand_over` returned it.
        :param listener: whom to tell what becomes of it; default nobody.
        :raises Superseded: a later attempt of its owner has taken over.
        :raises ConfigError: its node is not of this configuration any more.
        """
        node = self._config.canonical(lease.node)
        mine = msgspec.structs.replace(lease, holder=this_process(), host=self._shared.host)
        self._leases.adopt(mine, listener or LeaseListener())
        placed = Placed(node=node, reason="it was begun there", left_out={})
        return self._picked(placed, lease)

    def hold(self, seconds: float, owner: str = "", session_key: str | None = None, wait: float | None = None) -> Pick:
        """A pick with a lease that nobody renews. For programs that do not go on running here.

        :param seconds: the lease ends after so long, or by `Admin.release`; at most 30 days.
        :param owner: as :meth:`acquire`.
        :param session_key: as :meth:`acquire`.
        :param wait: seconds to wait at most; None (default): the configuration's ``max_wait``.
        :raises NoNodeAvailable: as :meth:`acquire`.
        :raises ConfigError: ``seconds`` cannot be meant, or as :meth:`acquire`.
        """
        check_seconds("hold", seconds, LONGEST_HOLD, "a lease that nobody ends counts on its node for so long")
        lease = self._lease(owner)
        lease.holder = None  # the process that asks is gone long before its work ends
        request = self._request(lease, session_key, None, ())
        request.lease_seconds = seconds
        request.caller = request.caller._replace(reports=False)
        request.ticket = self._ticket(lease.id, owner, None)
        placed = self._wait_for(request, self._config.max_wait if wait is None else wait, here=True)
        return self._picked(placed, lease, session_key)

    def waiter(
        self,
        ticket: str,
        owner: str = "",
        session_key: str | None = None,
        prefer: str | None = None,
        *,
        asks_again: float,
    ) -> Waiter:
        """For :meth:`ask`: one who waits for his turn, and takes nothing.

        :param ticket: the name of the place in the queue; it is kept as by :meth:`acquire`.
        :param owner: as :meth:`acquire`.
        :param session_key: as :meth:`acquire`.
        :param prefer: as :meth:`acquire`.
        :param asks_again: seconds until the one who is to take the node asks, once it is his turn.
        :raises ConfigError: as :meth:`acquire`.
        :raises NoNodeAvailable: no node is known, where they are found.
        """
        request = self._request(self._lease(owner), session_key, prefer, ())
        request.may_wait, request.ticket = True, self._ticket(ticket, owner, asks_again)
        return self._waiter(request, only_ask=True)

    def ask(self, waiter: Waiter) -> Wait | None:
        """Is it this one's turn?

        :param waiter: of :meth:`waiter`.
        :returns: None if it is, or if there is nothing to wait for: no node at all, or no shared state where nothing
            limits how many may run; nothing is taken then, and :meth:`acquire` tells. Else how it stands in the queue.
        :raises ConfigError: as :meth:`acquire`.
        """
        try:
            placed = waiter.step()
        except (_Free, NoNodeAvailable):
            return None
        except StateUnavailable as error:
            if not self._config.has_lease_limit:
                return None
            self._warn("unreachable", f"{_WAITING_FOR_STATE}: {error}")
            assert waiter.request.ticket is not None
            return Wait(0, waiter.waited, {}, waiter.request.ticket)
        return placed if isinstance(placed, Wait) else None

    def leave_queue(self, ticket: str) -> None:
        """Leave the queue. Never raises: a ticket also lapses by itself.

        :param ticket: the name of the place.
        """
        self._shared.try_to_note("the place in the queue", lambda state, _: dequeue(state, ticket))

    def _picked(self, placed: Placed, lease: Lease, session_key: str | None = None) -> Pick:
        feedback = NodeFeedback(self._shared, placed.node, lease, doubted=placed.doubted, trial=placed.trial)
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
        """:raises ConfigError: the session key is no text, or ``prefer`` no node of this configuration."""
        self._discovery.ensure_nodes()
        if session_key is not None and not _is_text(session_key):
            raise ConfigError(f"session_key: is {session_key!r}, must be a text")  # others could not read the state
        if session_key is not None and len(session_key) > MOST_KEY_CHARACTERS:
            raise ConfigError(
                f"session_key: has {len(session_key)} characters, at most {MOST_KEY_CHARACTERS} are allowed"
            )
        return Request(
            token=lease.id if lease else "",
            lease=lease,
            session_key=session_key,
            prefer=None if prefer is None else self._config.canonical(prefer),
            excluded=dict(exclude) if isinstance(exclude, Mapping) else dict.fromkeys(exclude, "excluded"),
            lease_seconds=LEASE_SECONDS,
            caller=Caller(self._shared.host, reports=lease is not None),
        )

    def _wait_for(
        self, request: Request, wait: float, *, here: bool, meanwhile: Callable[[], None] | None = None
    ) -> Placed:
        """Ask until a node is free; after ``wait`` seconds take a busy one, or raise.

        :param here: in this process, however often it has to ask; else :class:`MustWait`, unless the state is away:
            then nobody can keep a place in the queue; or unless it came too late for the slot that was kept for it:
            that would go on for ever where it takes longer to come back than a slot is kept.
        """
        request.may_wait = wait > 0
        waiter = self._waiter(request)
        logged = was_away = False
        try:
            while True:
                try:
                    placed = waiter.step()
                except StateUnavailable as error:
                    if wait <= 0 or not self._config.has_lease_limit:
                        return self._pick_alone(request, error)
                    if waiter.waited >= wait:
                        raise self._nobody_knows(error) from error
                    self._warn("unreachable", f"{_WAITING_FOR_STATE}, up to {wait:g} s: {error}")
                    pause, was_away = self._rng.uniform(0.5, 1.0), True
                else:
                    if isinstance(placed, Placed):
                        return placed
                    if waiter.waited >= wait:
                        request.may_wait = False
                        waiter.ask_next()
                        continue
                    if placed.late:
                        here = True
                        request.ticket = msgspec.structs.replace(
                            placed.ticket, asks_again=0.0, holder=this_process(), host=self._shared.host
                        )
                        waiter.ask_next()
                    if not here:
                        raise MustWait(placed.position, placed.waited, wait, _reasons(placed.left_out))
                    if not logged:
                        self._log_waiting(placed, wait)
                        logged = True
                    pause = waiter.pause
                timing.sleep(min(pause, max(0.01, wait - waiter.waited)), meanwhile)
        except MustWait:
            raise
        except BaseException as error:
            assert request.ticket is not None
            if request.ticket.number or request.ticket.asks_again or request.resent:
                self.leave_queue(request.ticket.id)
            if request.resent:  # the state may have the lease all the same, and nobody else knows its id
                self._leases.drop(request.token)
            if isinstance(error, NoNodeAvailable) and wait > 0 and (logged or was_away or waiter.waited >= 1):
                raise NoNodeAvailable(f"{error.summary}; waited {waiter.waited:.0f} s", error.reasons) from None
            raise

    def _waiter(self, request: Request, *, only_ask: bool = False) -> Waiter:
        def ask(request: Request) -> Placed | Wait:
            return self._ask(request, only_ask=only_ask)

        return Waiter(self._shared, self._reports, self._discovery, request, ask, self._rng)

    def _nobody_knows(self, error: StateUnavailable) -> NoNodeAvailable:
        return NoNodeAvailable(
            f"No coordinator of {self._config.name} may be taken while the shared state is out of reach, since nobody "
            f"knows how many scripts run and max_leases is hard: {error}"
        )

    def _log_waiting(self, placed: Wait, wait: float) -> None:
        log.info(
            "None of the %d nodes of %s is free: waiting up to %g s, as number %d in the queue (%s)",
            len(self._config.nodes),
            self._config.name,
            wait,
            placed.position,
            ", ".join(f"{address}: {reason}" for address, reason in _reasons(placed.left_out).items()),
        )

    def _ask(self, request: Request, *, only_ask: bool = False) -> Placed | Wait:
        """One pick's transaction.

        :raises _Free: with ``only_ask``, when it could have had a node.
        :raises StateUnavailable: the state is out of reach.
        """
        if request.session_key:
            request.known = self._session_keys.find_in_mirror(request.session_key)
        try:
            placed, lists_differ = self._decide(request, None, only_ask)
        except _SeekDeadFirst as first:
            placed, lists_differ = self._decide(request, _dead(first.state), only_ask)
        if self._picked_alone or "unreachable" in self._warned:
            log.info("The shared state is in reach again; %d picks were made without it", self._picked_alone)
            self._picked_alone = 0
        self._warned.discard("unreachable")
        if lists_differ:
            self._warn(
                "differs",
                f"{self._shared.store.where}: another host balances a different list of nodes; each uses its own",
            )
        if isinstance(placed, Placed) and placed.session and request.session_key:
            self._session_keys.copy(request.session_key, placed.session)
        if self._shared.snapshot is not None:
            self._reports.begin_probe_if_due(self._shared.snapshot)
            self._discovery.begin_if_due(self._shared.snapshot)
        return placed

    def _decide(self, request: Request, dead: frozenset[str] | None, only_ask: bool) -> tuple[Placed | Wait, bool]:
        """The decision, and whether another host's list of nodes differs.

        :param dead: leases and tickets whose process is gone; None: they have not been looked for.
        :raises _SeekDeadFirst: with None, when it is time to.
        :raises NoNodeAvailable: what was found out on the way, and whose time was over, is noted all the same.
        """

        def change(state: State, now: float) -> tuple[Placed | Wait | NoNodeAvailable, bool, State]:
            lists_differ = self._shared.note_host(state, now, nodes=True)
            note = state.hosts[self._shared.host]
            if dead is not None:
                note.dead_sought = now
            elif (len(state.leases) or state.head.waiting) and not 0 <= now - note.dead_sought < _SEEK_DEAD_EVERY:
                if _may_be_of(state, self._shared.host):
                    raise _SeekDeadFirst(_with_leases_read(state))
                note.dead_sought = now  # a pod that has just begun has nobody to look for
            if request.resent:
                state.end_lease(request.token)
            end_expired(state, now, dead or frozenset(), self._shared.has_lapsed(state, now))
            owner = request.ticket.owner if request.ticket else ""
            if request.attempt:
                check_attempt(state, owner, request.attempt)
            if request.announced:
                check_announced(state, owner, request.token)
            try:
                placed = place(self._shared.config_of(state), state, now, request, self._rng)
            except NoNodeAvailable as error:
                return error, lists_differ, state
            if request.announced and isinstance(placed, Placed):
                state.leftovers.drop(request.token)
            if only_ask and isinstance(placed, Placed):
                raise _Free
            return placed, lists_differ, state

        placed, lists_differ, self._shared.snapshot = self._shared.transact(change)
        if isinstance(placed, NoNodeAvailable):
            raise placed
        return placed, lists_differ

    def _pick_alone(self, request: Request, error: StateUnavailable) -> Placed:
        """Without the store, within the limits by what was last known. The lease reaches the state once that is back.

        :raises NoNodeAvailable: every node is full, as far as is known.
        """
        self._warn("unreachable", f"Picking without the shared state, by what was last known of it: {error}")
        request.may_wait, request.spread = False, True
        with self._alone:  # each pick counts for the next one, whichever thread makes it
            if not self._picked_alone and isinstance(error, StateContended):
                with suppress(StateUnavailable, ConfigError):
                    self._shared.snapshot = self._shared.read()[0]
            state = self._shared.snapshot = self._shared.snapshot or State()
            self._picked_alone += 1
            placed = place(self._config, state, time.time(), request, self._rng)
        assert isinstance(placed, Placed)
        placed.remarks += ("the shared state was out of reach",)
        return placed

    def _warn(self, subject: str, message: str) -> None:
        """Once for each subject."""
        if subject not in self._warned:
            self._warned.add(subject)
            log.warning("%s", message)


def new_id() -> str:
    """128 random bits; a UUID takes five times as long."""
    return os.urandom(16).hex()


def _reasons(left_out: Mapping[str, LeftOut]) -> dict[str, str]:
    return {address: left.reason for address, left in left_out.items()}


def _is_text(key: object) -> bool:
    """Not what a shell gives that is no UTF-8, which Python has as surrogates."""
    try:
        return isinstance(key, str) and key.encode() is not None
    except UnicodeEncodeError:
        return False


def _may_be_of(state: State, host: str) -> bool:
    """Whether a lease, or a ticket of the first, may be of a process of this host."""
    return state.leases.may_hold(host) or any(ticket.host == host for ticket in state.head.waiting)


def _with_leases_read(state: State) -> State:
    """The state with its leases read, which cannot be done any more once the transaction is over."""
    _ = state.leases.text
    return state


def _dead(state: State) -> frozenset[str]:
    """Leases and tickets whose process on this host is gone."""
    held = [(lease.id, lease.holder) for lease in state.leases.values()]
    held += [(ticket.id, ticket.holder) for ticket in state.head.waiting]
    verdicts = {holder: is_dead(holder) for holder in {holder for _, holder in held}}
    return frozenset(name for name, holder in held if verdicts[holder])
