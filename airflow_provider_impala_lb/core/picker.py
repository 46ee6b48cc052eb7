"""The balancer's order of work: one transaction for each pick."""

from __future__ import annotations

import hashlib
import os
import random
import time
import uuid
from collections.abc import Callable, Collection, Mapping
from logging import getLogger
from types import TracebackType
from typing import Any

import msgspec

from airflow_provider_impala_lb.core.address import parse_address
from airflow_provider_impala_lb.core.admission import admit
from airflow_provider_impala_lb.core.config import Config, Node
from airflow_provider_impala_lb.core.health import begin_trial, note_failure, note_success
from airflow_provider_impala_lb.core.holder import is_dead, this_process
from airflow_provider_impala_lb.core.lease import Keeper
from airflow_provider_impala_lb.core.policy import choose
from airflow_provider_impala_lb.core.state import (
    AVOID_SECONDS,
    LEASE_SECONDS,
    SESSION_SECONDS,
    Avoid,
    Cause,
    HostNote,
    Lease,
    SessionRecord,
    State,
    count_unleased,
    reap,
)
from airflow_provider_impala_lb.core.status import describe
from airflow_provider_impala_lb.core.store import Store
from airflow_provider_impala_lb.errors import ConfigError, StateUnavailable

log = getLogger(__name__)

_LOOK_FOR_DEAD_EVERY = 1.0
_HOST_NOTE_SECONDS = 600.0


class Placed(msgspec.Struct):
    """What one transaction decided. ``trial``: this pick tries a node for the whole fleet."""

    node: str
    why: str
    left_out: dict[str, str]
    trial: bool = False


class Pick:
    """A chosen node. With a lease, it weighs on the node until the ``with`` block (or :meth:`release`) ends.

    :ivar node: the node's name in the state and on the command line, ``host:port``.
    :ivar host: where to connect, ``host:port``.
    :ivar why: what spoke for this node, and which were left out for what.
    :ivar lease: the lease's id, or None for a pick without one.
    :ivar left_out: why each node that was not considered was not, by ``host:port``.
    """

    def __init__(self, placed: Placed, picker: Picker | None = None, lease: str | None = None, owner: str = "") -> None:
        self.node = self.host = placed.node
        self.why = placed.why
        self.left_out = placed.left_out
        self.lease = lease
        self._trial = placed.trial
        self._picker, self._owner = picker, owner

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
            self._picker.tell(
                self.node,
                lambda state, now: state.avoid.update({owner: Avoid(node=self.node, expires=now + AVOID_SECONDS)}),
            )

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


class Picker:
    """Picks coordinators for all workers that share ``store``.

    If the store cannot be reached, it picks by the last copy it read, else at random, and says so once: the balancer
    must never be why work fails.

    :param rng: for the picks without a store.
    """

    def __init__(self, config: Config, store: Store, rng: random.Random | None = None) -> None:
        self.config = config
        self.store = store
        self._rng = rng or random.Random()
        self.keeper = Keeper(store)
        self._host = os.uname().nodename
        self._nodes_digest = hashlib.sha256(" ".join(config.addresses).encode()).hexdigest()[:16]
        self._copy: State | None = None
        self._looked = float("-inf")
        self._said: set[str] = set()

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
        """One pick without a lease; it weighs on its node for 30 s. Parameters and errors as :meth:`acquire`."""
        return self._pick(None, session_key, prefer, exclude)

    def acquire(
        self,
        owner: str = "",
        session_key: str | None = None,
        prefer: str | None = None,
        exclude: Collection[str] | Mapping[str, str] = (),
    ) -> Pick:
        """A pick with a lease, renewed until it is released. Use it in a ``with`` block.

        :param owner: who asks, e.g. ``dag/run/task``; shown by status.
        :param session_key: picks with the same key stay on one node.
        :param prefer: a node (``host:port``) to keep if it is not excluded.
        :param exclude: nodes not to pick; a mapping gives each one's reason, for ``why`` and errors.
        :raises NoNodeAvailable: every node is excluded or drained.
        :raises ConfigError: ``prefer`` is not a node of this configuration, or the store belongs to another cluster.
        """
        lease = Lease(
            id=uuid.uuid4().hex,
            node="",
            owner=owner,
            expires=0.0,
            taken=0.0,
            host=self._host,
            holder=this_process(),
        )
        return self._pick(lease, session_key, prefer, exclude)

    def status(self) -> dict[str, Any]:
        """The cluster as JSON-ready values: ``cluster``, ``policy``, ``nodes``, ``leases``, ``sessions``.

        :raises StateUnavailable: the store cannot be read.
        """
        state, now = self.store.read()
        self._check_cluster(state)
        return describe(self.config, state, now)

    def drain(self, node: str) -> None:
        """Take a node out: no new work; what runs there finishes. Until :meth:`ready`.

        :raises ConfigError: not a node of this configuration. :raises StateUnavailable: it was not noted.
        """
        self._set_drained(self.known(node), True)

    def ready(self, node: str) -> None:
        """Put a node back, also one that is out for its failures. Errors as :meth:`drain`."""
        self._set_drained(self.known(node), False)

    def _set_drained(self, address: str, drained: bool) -> None:
        def change(state: State, now: float) -> None:
            self._check_cluster(state)
            state.cluster = self.config.name
            record = state.node(address)
            record.drained = drained
            if not drained:
                record.failures, record.out = 0, None

        self.store.transact(change)

    def tell(self, node: str, change: Callable[[State, float], None]) -> None:
        """Note what became of a pick. Never raises: it is not worth the work it is about."""
        try:
            self.store.transact(change)
        except (StateUnavailable, ConfigError) as error:
            log.warning("What became of the work on %s could not be noted for the others: %s", node, error)

    def _pick(
        self,
        lease: Lease | None,
        session_key: str | None,
        prefer: str | None,
        exclude: Collection[str] | Mapping[str, str],
    ) -> Pick:
        excluded = dict(exclude) if isinstance(exclude, Mapping) else dict.fromkeys(exclude, "excluded")
        if prefer is not None:
            prefer = self.known(prefer)
        differs = False

        def change(state: State, now: float) -> tuple[Placed, State]:
            nonlocal differs
            self._check_cluster(state)
            differs = self._note_host(state, now)
            reap(state, now, dead)
            return self._place(state, now, lease, session_key, prefer, excluded), state

        try:
            dead = self._dead_leases()
            placed, self._copy = self.store.transact(change)
        except StateUnavailable as error:
            self._say("unreachable", f"Picking without the shared state, outside any limit: {error}")
            placed = self._pick_alone(lease, session_key, prefer, excluded)
        else:
            self._said.discard("unreachable")
        if differs:
            self._say(
                "differs",
                f"{self.store.where}: another host balances a different list of nodes; each uses its own",
            )
        if lease is None:
            return Pick(placed)
        self.keeper.add(lease)
        return Pick(placed, self, lease.id, lease.owner)

    def known(self, address: str) -> str:
        """``address`` in the form of the configuration. :raises ConfigError: it does not list this node."""
        try:
            host, port = parse_address(address)
        except ValueError as error:
            raise ConfigError(f"{error}; nodes of {self.config.name}: {', '.join(self.config.addresses)}") from None
        found = Node(host=host, port=port).address
        if found not in self.config.addresses:
            raise ConfigError(
                f"{address!r} is not a node of {self.config.name}, so nothing is sent to it; "
                f"its nodes: {', '.join(self.config.addresses)}"
            )
        return found

    def _place(
        self,
        state: State,
        now: float,
        lease: Lease | None,
        session_key: str | None,
        prefer: str | None,
        excluded: Mapping[str, str],
    ) -> Placed:
        """Steps 2 to 5: keep what should stay, admit, choose, note."""
        avoid = state.avoid.get(lease.owner) if lease and lease.owner else None
        admitted = admit(self.config, state, now, excluded, avoid.node if avoid else "")
        names = {node.address for node in admitted.candidates}
        record = state.sessions.get(session_key) if session_key else None
        if prefer is not None and (prefer in names or prefer == (avoid.node if avoid else None)):
            node, why = prefer, "asked for by name"
        elif record is not None and record.node in names:
            node, why = record.node, f"session key {session_key!r} is on it"
        else:
            best, scores = choose(self.config.policy, self.config, admitted.candidates, state)
            node = best.address
            why = f"{self.config.policy}: {scores[node]}, best of {len(admitted.candidates)}"
            state.last = node
        if admitted.anyway:
            why = f"all others are out, and it is due soonest: {why}"
        if session_key:
            state.sessions[session_key] = SessionRecord(node=node, expires=now + SESSION_SECONDS)
        if admitted.left_out:
            why += "; left out: " + ", ".join(f"{name} ({reason})" for name, reason in admitted.left_out.items())
        state.node(node).picks += 1
        token = lease.id if lease else uuid.uuid4().hex
        trial = begin_trial(state.node(node), now, token, self.config.session.open_timeout)
        if lease is None:
            count_unleased(state.node(node), now)
        else:
            lease.node, lease.taken, lease.expires = node, now, now + LEASE_SECONDS
            state.leases[lease.id] = lease
        return Placed(node, why + (" (on trial)" if trial else ""), admitted.left_out, trial)

    def _pick_alone(
        self, lease: Lease | None, session_key: str | None, prefer: str | None, excluded: Mapping[str, str]
    ) -> Placed:
        """Without the store: by the last copy, else at random. The lease reaches the state once that is back."""
        state = self._copy
        if state is None:
            # At random, by giving the turn to a node drawn by lot: a fresh process has no idea of the others' picks.
            state = State(last=self._rng.choice(self.config.addresses))
        placed = self._place(state, time.time(), lease, session_key, prefer, excluded)
        placed.why += "; the shared state was out of reach"
        return placed

    def _check_cluster(self, state: State) -> None:
        if state.cluster and state.cluster != self.config.name:
            raise ConfigError(
                f"lock_file {self.store.where}: belongs to cluster {state.cluster!r}, and this configuration's name "
                f"is {self.config.name!r}; each cluster needs a lock file of its own"
            )

    def _note_host(self, state: State, now: float) -> bool:
        """True if another host said a different node list within the last 10 minutes."""
        state.cluster = self.config.name
        state.hosts = {host: note for host, note in state.hosts.items() if now - note.seen < _HOST_NOTE_SECONDS}
        differs = any(note.nodes != self._nodes_digest for host, note in state.hosts.items() if host != self._host)
        state.hosts[self._host] = HostNote(nodes=self._nodes_digest, seen=now)
        return differs

    def _dead_leases(self) -> frozenset[str]:
        """Leases whose process on this host is gone. Looked up outside the transaction, at most once a second."""
        if time.monotonic() - self._looked < _LOOK_FOR_DEAD_EVERY:
            return frozenset()
        self._looked = time.monotonic()
        state, _ = self.store.read()
        return frozenset(lease.id for lease in state.leases.values() if is_dead(lease.holder))

    def _say(self, what: str, text: str) -> None:
        if what not in self._said:
            self._said.add(what)
            log.warning("%s", text)
