"""What the balancer needs and others give: where the state lies, where journals lie, a mirror, and how nodes are asked.

Journals are apart from the state, which is soft: a reset of that delays something, a lost or older journal would run an
INSERT twice. So there nothing heals by itself: what cannot be read is an error, and only what was never written, or was
removed, is absent.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import NamedTuple, Protocol, TypeVar

from airflow_provider_impala_lb.core.config.model import Node, NodeSource
from airflow_provider_impala_lb.core.state.load_report import ExporterCounters, ProbeResult
from airflow_provider_impala_lb.core.state.model import SessionRecord
from airflow_provider_impala_lb.core.state.state import State

Result = TypeVar("Result")

Prober = Callable[[Sequence[Node], Mapping[str, str], Mapping[str, ExporterCounters]], Mapping[str, ProbeResult | str]]
"""Asks these nodes for their load, all at once, in about a second; gets the addresses that their coordinators name for
their pages, and the counters of the last time. All these and the answers are by ``host:port`` of the node; a text says
why one did not answer. Never raises."""

NodeFinder = Callable[[NodeSource], dict[str, str]]
"""Asks a source for the nodes: the URL of each one's web server, or "", by ``host:port``. Raises a `ConfigError` that
says why it cannot."""


class Store(Protocol):
    """A place for the state that all workers of a cluster share: the single seam between logic and concurrency."""

    @property
    def where(self) -> str:
        """What to call this store in a message: a path or an address, never with a password."""
        ...

    @property
    def one_clock(self) -> bool:
        """Whether ``now`` is the same clock on every host that shares this store."""
        ...

    def transact(self, change: Callable[[State, float], Result]) -> Result:
        """Run ``change(state, now)`` while nobody else does, and keep what it did to ``state``.

        :param change: gets the state and the store's clock, in seconds since the epoch. It only computes: no I/O, no
            waiting; it may be called again on a fresh state. If it raises, the state stays as it was.
        :returns: what ``change`` returned.
        :raises StateUnavailable: the store cannot be reached in time; ``change`` had no effect, unless the message
            says *outcome unknown*: then it may have had it, once.
        :raises ConfigError: the store is not one this package may use; nothing was changed.
        """
        ...

    def read(self, *, records: bool = True) -> tuple[State, float]:
        """A recent state and the store's clock, without waiting for anybody. May be some seconds old.

        :param records: default True; with False only the head is to be looked at, and there seem to be no records.
        :raises StateUnavailable: the store cannot be reached in time.
        :raises ConfigError: the store is not one this package may use.
        """
        ...


Change = Callable[[bytes | None, float], tuple[Result, bytes | None]]
"""From a document, or None if there is none, and the store's clock: a result, and the document to keep or None."""


class Swept(NamedTuple):
    """What a sweep did.

    :ivar removed: how many documents it removed.
    :ivar damaged: a line for each document that cannot be read; those stay where they are.
    """

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

        The new document is durable when this returns.

        :param key: any text.
        :param fn: gets the document, or None if there is none, and the store's clock in seconds since the epoch;
            returns its result and the new document, None to remove it. It only computes, and may be called again on a
            newer document. If it raises, nothing changes.
        :returns: the result of ``fn``.
        :raises StateUnavailable: not reachable in time; ``fn`` had no effect, unless the message says *outcome
            unknown*: then it may have had it, once.
        :raises JournalDamaged: there is a document, and it cannot be read: never treated as absent.
        :raises ConfigError: this place may not be used, or the document is too large; nothing was changed.
        """
        ...

    def read(self, key: str) -> bytes | None:
        """A recent document, to look at; None if there is none. It may be some seconds old, and what is decided by it
        belongs into `change`.

        :param key: any text.
        :raises StateUnavailable: as `change`.
        :raises JournalDamaged: as `change`.
        :raises ConfigError: as `change`.
        """
        ...

    def keys(self) -> list[str]:
        """The keys that have a document, in no order; without those whose document is damaged, which `sweep` names.

        :raises StateUnavailable: not reachable in time.
        """
        ...

    def sweep(self, wanted: Callable[[str, bytes, float], bool]) -> Swept:
        """Remove the documents that nobody wants. Safe beside `change`. Reads every document: for once a day.

        :param wanted: gets a key, its document and the store's clock in seconds since the epoch. It only computes, and
            may be called again.
        :raises StateUnavailable: not reachable in time.
        """
        ...

    def durability(self) -> str | None:
        """What this place may lose although `change` has returned, as a sentence for a log; None if nothing."""
        ...


class Mirror(Protocol):
    """A second home of session records, written behind the work's back. No method raises."""

    def copy(self, key: str, record: SessionRecord) -> None:
        """Send a copy soon; a copy that is later (by ``at``) stays.

        :param key: the session key.
        :param record: what to copy.
        """
        ...

    def find(self, key: str) -> SessionRecord | None:
        """The copy, or None if there is none or the mirror is away.

        :param key: the session key.
        """
        ...

    def flush(self, seconds: float) -> bool:
        """Wait for what is under way. False if not all of it arrived in time.

        :param seconds: to wait at most.
        """
        ...
