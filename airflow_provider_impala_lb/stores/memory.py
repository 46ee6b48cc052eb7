"""The state, and journals, in this process only: for tests, and for a cluster of one node, where there is nothing to
share."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable
from contextlib import suppress

from airflow_provider_impala_lb.core.ports import Change, Result, Swept
from airflow_provider_impala_lb.core.state.state import State, decode, encode
from airflow_provider_impala_lb.errors import JournalDamaged
from airflow_provider_impala_lb.stores.journals.document import name_of, unwrap, wrap


class MemoryStore:
    """Keeps the encoded state, as the other stores do, so that a change that raises leaves nothing behind.

    :param clock: returns seconds since the epoch; default this host's.
    :ivar where: "memory of this process".
    :ivar one_clock: True.
    """

    where = "memory of this process"
    one_clock = True

    def __init__(self, clock: Callable[[], float] = time.time) -> None:
        self._clock = clock
        self._mutex = threading.Lock()
        self._record = encode(State())

    def transact(self, change: Callable[[State, float], Result]) -> Result:
        """See `Store.transact`.

        :param change: gets the state and the time; called again if it was computed on a stale state.
        """
        with self._mutex:
            state = decode(self._record)
            result = change(state, self._clock())
            self._record = encode(state)
            return result

    def read(self) -> tuple[State, float]:
        """See `Store.read`."""
        return decode(self._record), self._clock()


class MemoryJournals:
    """Keeps the wrapped documents, as the other places do.

    :param clock: returns seconds since the epoch; default this host's.
    :ivar where: "memory of this process".
    """

    where = "memory of this process"

    def __init__(self, clock: Callable[[], float] = time.time) -> None:
        self._clock = clock
        self._mutex = threading.Lock()
        self._envelopes: dict[str, bytes] = {}

    def change(self, key: str, fn: Change[Result]) -> Result:
        """See `JournalStore.change`.

        :param key: any text.
        :param fn: gets the document and the time; returns its result, and the document to keep.
        """
        with self._mutex:
            result, document = fn(self._document(key), self._clock())
            if document is None:
                self._envelopes.pop(name_of(key), None)
            else:
                self._envelopes[name_of(key)] = wrap(self.where, key, document)
            return result

    def read(self, key: str) -> bytes | None:
        """See `JournalStore.read`.

        :param key: any text.
        """
        with self._mutex:
            return self._document(key)

    def keys(self) -> list[str]:
        """See `JournalStore.keys`."""
        keys = []
        with self._mutex:
            for name, envelope in self._envelopes.items():
                with suppress(JournalDamaged):
                    keys.append(unwrap(self.where, name, envelope)[0])
        return keys

    def sweep(self, wanted: Callable[[str, bytes, float], bool]) -> Swept:
        """See `JournalStore.sweep`.

        :param wanted: whether to keep a document, given its key, itself and the time.
        """
        removed, bad = 0, []
        with self._mutex:
            for name, envelope in list(self._envelopes.items()):
                try:
                    key, document = unwrap(self.where, name, envelope)
                except JournalDamaged as error:
                    bad.append(str(error))
                    continue
                if not wanted(key, document, self._clock()):
                    del self._envelopes[name]
                    removed += 1
        return Swept(removed, bad)

    def durability(self) -> str | None:
        """See `JournalStore.durability`."""
        return "Journals in memory end with their process"

    def _document(self, key: str) -> bytes | None:
        envelope = self._envelopes.get(name_of(key))
        return None if envelope is None else unwrap(self.where, name_of(key), envelope)[1]
