"""Journals in this process only: for tests."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable
from contextlib import suppress

from airflow_provider_impala_lb.core.ports import Change, Result, Swept
from airflow_provider_impala_lb.errors import JournalDamaged
from airflow_provider_impala_lb.stores.journals.document import name_of, seal, unseal


class MemoryJournals:
    """Keeps the sealed documents, as the others do. :param clock: returns seconds since the epoch."""

    where = "memory of this process"

    def __init__(self, clock: Callable[[], float] = time.time) -> None:
        self._clock = clock
        self._mutex = threading.Lock()
        self._envelopes: dict[str, bytes] = {}

    def change(self, key: str, fn: Change[Result]) -> Result:
        with self._mutex:
            result, document = fn(self._document(key), self._clock())
            if document is None:
                self._envelopes.pop(name_of(key), None)
            else:
                self._envelopes[name_of(key)] = seal(self.where, key, document)
            return result

    def read(self, key: str) -> bytes | None:
        with self._mutex:
            return self._document(key)

    def keys(self) -> list[str]:
        found = []
        with self._mutex:
            for name, envelope in self._envelopes.items():
                with suppress(JournalDamaged):
                    found.append(unseal(self.where, name, envelope)[0])
        return found

    def sweep(self, wanted: Callable[[str, bytes, float], bool]) -> Swept:
        removed, damaged = 0, []
        with self._mutex:
            for name, envelope in list(self._envelopes.items()):
                try:
                    key, document = unseal(self.where, name, envelope)
                except JournalDamaged as error:
                    damaged.append(str(error))
                    continue
                if not wanted(key, document, self._clock()):
                    del self._envelopes[name]
                    removed += 1
        return Swept(removed, damaged)

    def durability(self) -> str | None:
        return "Journals in memory end with their process"

    def _document(self, key: str) -> bytes | None:
        envelope = self._envelopes.get(name_of(key))
        return None if envelope is None else unseal(self.where, name_of(key), envelope)[1]
