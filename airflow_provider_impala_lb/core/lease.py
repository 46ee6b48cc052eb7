"""Leases that live as long as their script: renewed by one thread, put back if they are gone."""

from __future__ import annotations

import os
import threading
import time
from contextlib import suppress
from logging import getLogger

from airflow_provider_impala_lb.core.state import LEASE_SECONDS, RENEW_SECONDS, Lease, State
from airflow_provider_impala_lb.core.store import Store
from airflow_provider_impala_lb.errors import ConfigError, StateUnavailable

log = getLogger(__name__)

NOTE_SECONDS = 5.0
"""A query's id reaches the state within this time. Not at once: 200 scripts of short statements would otherwise keep
the lock of a slow NAS busy with nothing else."""


class Keeper:
    """Renews this process's leases until they are released. The thread runs only while there are any."""

    def __init__(self, store: Store) -> None:
        self._store = store
        self._leases: dict[str, Lease] = {}
        self._mutex = threading.Lock()
        self._wake = threading.Event()
        self._noted = False
        self._thread: threading.Thread | None = None
        self._pid = os.getpid()

    def add(self, lease: Lease) -> None:
        """Renew this lease from now on."""
        with self._mutex:
            if self._pid != os.getpid():  # a fork: the parent renews its own, and its thread is not here
                self._leases, self._thread, self._pid = {}, None, os.getpid()
            self._leases[lease.id] = lease
            if self._thread is None:
                self._thread = threading.Thread(target=self._run, name="impala-lb-leases", daemon=True)
                self._thread.start()

    def holds(self, lease_id: str) -> bool:
        """Whether this process (not the one it was forked from) renews the lease."""
        return self._pid == os.getpid() and lease_id in self._leases

    def note(self, lease_id: str, *, session: str | None = None, query: str | None = None) -> None:
        """Keep the ids of what runs under the lease. A session's is written at once, since whoever has to clean up
        needs it; a query's after some seconds (`NOTE_SECONDS`), however many there were meanwhile."""
        with self._mutex:
            lease = self._leases.get(lease_id)
            if lease is None:
                return
            lease.session = session or lease.session
            lease.query = query or lease.query
            self._noted = session is None
        if session is None:
            self._wake.set()
            return
        with suppress(StateUnavailable, ConfigError):  # the next renewal tells
            self.renew()

    def drop(self, lease_id: str) -> None:
        """End the lease, here and in the state. Never raises: what cannot be ended now ends by its expiry."""
        with self._mutex:
            self._leases.pop(lease_id, None)
        self._wake.set()
        try:
            self._store.transact(lambda state, now: state.leases.pop(lease_id, None))
        except (StateUnavailable, ConfigError) as error:
            log.warning("A lease could not be released now, it ends by itself within %g s: %s", LEASE_SECONDS, error)

    def renew(self) -> list[Lease]:
        """Renew all leases in one transaction. Returns those that were gone and had to be put back."""
        with self._mutex:
            mine = list(self._leases.values())
            self._noted = False

        def change(state: State, now: float) -> list[Lease]:
            gone = [lease for lease in mine if lease.id not in state.leases]
            for lease in mine:
                lease.expires = now + LEASE_SECONDS
                state.leases[lease.id] = lease
            return gone

        gone = self._store.transact(change) if mine else []
        # One that was released while it was being renewed would otherwise be back until its expiry.
        late = [lease.id for lease in mine if lease.id not in self._leases]
        if late:
            self._store.transact(lambda state, now: [state.leases.pop(id, None) for id in late] and None)
        return [lease for lease in gone if lease.id not in late]

    def _run(self) -> None:
        unreachable = False
        due = time.monotonic() + RENEW_SECONDS
        while True:
            self._wake.wait(max(0.0, due - time.monotonic()))
            self._wake.clear()
            with self._mutex:
                if not self._leases:
                    self._thread = None
                    return
                noted = self._noted
            if noted:
                time.sleep(NOTE_SECONDS)  # more notes may come: one transaction for all of them
            elif time.monotonic() < due:
                continue
            try:
                for lease in self.renew():
                    log.warning(
                        "The lease of %s on %s was gone from the shared state (reset, or out of reach for %g s); "
                        "the script still runs, so the lease was put back",
                        lease.owner or lease.id,
                        lease.node,
                        LEASE_SECONDS,
                    )
                unreachable = False
            except (StateUnavailable, ConfigError) as error:
                if not unreachable:
                    log.warning("Leases cannot be renewed for now, the scripts go on: %s", error)
                unreachable = True
            due = time.monotonic() + RENEW_SECONDS
