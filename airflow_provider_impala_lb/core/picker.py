"""The balancer's order of work: one transaction for each pick."""

from __future__ import annotations

import hashlib
import os
import random
import time
import uuid
from collections.abc import Collection, Mapping
from logging import getLogger
from types import TracebackType
from typing import Any

import msgspec

from airflow_provider_impala_lb.core.address import parse_address
from airflow_provider_impala_lb.core.config import Config, Node
from airflow_provider_impala_lb.core.holder import is_dead, this_process
from airflow_provider_impala_lb.core.lease import Keeper
from airflow_provider_impala_lb.core.policy import choose, load_of
from airflow_provider_impala_lb.core.state import (
    LEASE_SECONDS,
    SESSION_SECONDS,
    HostNote,
    Lease,
    SessionRecord,
    State,
    count_unleased,
    reap,
)
from airflow_provider_impala_lb.core.store import Store
from airflow_provider_impala_lb.errors import ConfigError, NoNodeAvailable, StateUnavailable

log = getLogger(__name__)

_LOOK_FOR_DEAD_EVERY = 1.0
_HOST_NOTE_SECONDS = 600.0


class Pick:
    """A chosen node. With a lease, it weighs on the node until the ``with`` block (or :meth:`release`) ends.

    :ivar node: the node's name in the state and on the command line, ``host:port``.
    :ivar host: where to connect, ``host:port``.
    :ivar why: what spoke for this node, and which were left out for what.
    :ivar lease: the lease's id, or None for a pick without one.
    """

    def __init__(self, node: str, why: str, keeper: Keeper | None = None, lease: str | None = None) -> None:
        self.node = self.host = node
        self.why = why
        self.lease = lease
        self._keeper = keeper

    def note(self, *, session: str | None = None, query: str | None = None) -> None:
        """Keep the ids of the session and of the running query with the lease, for whoever has to clean up."""
        if self._keeper and self.lease:
            self._keeper.note(self.lease, session=session, query=query)

    def release(self) -> None:
        """End the lease; a second call does nothing. In a forked child it does nothing: the lease is the parent's."""
        if self._keeper and self.lease and self._keeper.holds(self.lease):
            self._keeper.drop(self.lease)

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
        self._keeper = Keeper(store)
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
        :raises NoNodeAvailable: every node is excluded.
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
        reap(state, now, frozenset())
        load = load_of(state)
        leases = sorted(state.leases.values(), key=lambda lease: lease.taken)
        return {
            "cluster": self.config.name,
            "policy": self.config.policy,
            "nodes": [
                {
                    "node": node.address,
                    "state": "ready",
                    "leases": sum(lease.node == node.address for lease in leases),
                    "load": load.get(node.address, 0),
                    "headroom": None,
                    "picks": state.nodes[node.address].picks if node.address in state.nodes else 0,
                    "weight": node.weight,
                    "web": node.web,
                }
                for node in self.config.nodes
            ],
            "leases": [
                {
                    **{key: value for key, value in msgspec.to_builtins(lease).items() if key != "holder"},
                    "age": round(now - lease.taken, 1),
                    "expires_in": round(lease.expires - now, 1),
                    "pid": lease.holder.pid if lease.holder else None,
                }
                for lease in leases
            ],
            "sessions": [{"key": key, "node": record.node} for key, record in sorted(state.sessions.items())],
        }

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

        def change(state: State, now: float) -> tuple[str, str, State]:
            nonlocal differs
            self._check_cluster(state)
            differs = self._note_host(state, now)
            reap(state, now, dead)
            node, why = self._place(state, now, session_key, prefer, excluded)
            self._record(state, now, node, lease)
            return node, why, state

        try:
            dead = self._dead_leases()
            node, why, self._copy = self.store.transact(change)
        except StateUnavailable as error:
            self._say("unreachable", f"Picking without the shared state, outside any limit: {error}")
            node, why = self._pick_alone(lease, session_key, prefer, excluded)
        else:
            self._said.discard("unreachable")
        if differs:
            self._say(
                "differs",
                f"{self.store.where}: another host balances a different list of nodes; each uses its own",
            )
        if lease is None:
            return Pick(node, why)
        self._keeper.add(lease)
        return Pick(node, why, self._keeper, lease.id)

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
        session_key: str | None,
        prefer: str | None,
        excluded: Mapping[str, str],
    ) -> tuple[str, str]:
        """Which node, and why. Notes the session key's node; all else is noted by the caller."""
        candidates = [node for node in self.config.nodes if node.address not in excluded]
        if not candidates:
            raise NoNodeAvailable(
                f"No coordinator of {self.config.name} is left to try",
                {address: excluded[address] for address in self.config.addresses},
            )
        names = {node.address for node in candidates}
        record = state.sessions.get(session_key) if session_key else None
        if prefer in names:
            assert prefer is not None
            node, why = prefer, "asked for by name"
        elif record is not None and record.node in names:
            node, why = record.node, f"session key {session_key!r} is on it"
        else:
            best, scores = choose(self.config.policy, self.config, candidates, state)
            node = best.address
            why = f"{self.config.policy}: {scores[node]}, best of {len(candidates)}"
            state.last = node
        if session_key:
            state.sessions[session_key] = SessionRecord(node=node, expires=now + SESSION_SECONDS)
        if excluded:
            why += "; left out: " + ", ".join(f"{address} ({reason})" for address, reason in excluded.items())
        return node, why

    @staticmethod
    def _record(state: State, now: float, node: str, lease: Lease | None) -> None:
        state.node(node).picks += 1
        if lease is None:
            count_unleased(state.node(node), now)
            return
        lease.node, lease.taken, lease.expires = node, now, now + LEASE_SECONDS
        state.leases[lease.id] = lease

    def _pick_alone(
        self, lease: Lease | None, session_key: str | None, prefer: str | None, excluded: Mapping[str, str]
    ) -> tuple[str, str]:
        """Without the store: by the last copy, else at random. The lease reaches the state once that is back."""
        state, now = self._copy, time.time()
        if state is None:
            # At random, by giving the turn to a node drawn by lot: a fresh process has no idea of the others' picks.
            state = State(last=self._rng.choice(self.config.addresses))
        node, why = self._place(state, now, session_key, prefer, excluded)
        self._record(state, now, node, lease)
        return node, f"{why}; the shared state was out of reach"

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
