"""Where the journals of scripts are kept: small documents that decide whether a statement is run again.

Apart from the state (store.py), which is soft: a reset of that delays something, a lost or older journal would run an
INSERT twice. So here nothing heals by itself: what cannot be read is an error, and only what was never written, or was
removed, is absent.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple, Protocol

from airflow_provider_impala_lb.core.ports import Result

Change = Callable[[bytes | None, float], tuple[Result, bytes | None]]
"""From a document, or None if there is none, and the store's clock: a result, and the document to keep or None."""


class Swept(NamedTuple):
    """What a sweep did. ``damaged``: a line for each document that cannot be read; those stay where they are."""

    removed: int
    damaged: list[str]


class JournalStore(Protocol):
    """A document for each key, shared by all hosts. A key is any text; a document has at most 512 KiB."""

    @property
    def where(self) -> str:
        """What to call this place in a message: a path or an address, never with a password."""
        ...

    def change(self, key: str, fn: Change[Result]) -> Result:
        """Run ``fn(document or None, now)`` while nobody else does for this key, and keep what it returns.

        ``fn`` returns its result and the new document, None to remove it. It only computes, and may be called again on
        a newer document. ``now`` is the store's clock, in seconds since the epoch. The new document is durable when
        this returns. If ``fn`` raises, nothing changes.

        :raises StateUnavailable: not reachable in time; ``fn`` had no effect, unless the message says *outcome
            unknown*: then it may have had it, once.
        :raises JournalDamaged: there is a document, and it cannot be read: never treated as absent.
        :raises ConfigError: this place may not be used, or the document is too large; nothing was changed.
        """
        ...

    def read(self, key: str) -> bytes | None:
        """A recent document, to look at; it may be some seconds old. What is decided by it belongs into `change`.

        Raises as `change`.
        """
        ...

    def keys(self) -> list[str]:
        """The keys that have a document, in no order; without those whose document is damaged, which `sweep` names."""
        ...

    def sweep(self, wanted: Callable[[str, bytes, float], bool]) -> Swept:
        """Remove each document for which ``wanted(key, document, now)`` is False. Safe beside `change`.

        Reads every document: for once a day. ``wanted`` only computes, and may be called again.
        """
        ...

    def durability(self) -> str | None:
        """What this place may lose although `change` has returned, as a sentence for a log; None if nothing."""
        ...
