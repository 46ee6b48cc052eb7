"""What all workers share, as records: nodes, leases, tickets, session keys, reports.

Times are by the store's clock, in seconds since the epoch, unless it says otherwise.
"""

from __future__ import annotations

from typing import Literal

import msgspec

from airflow_provider_impala_lb.core.process_identity import ProcessIdentity
from airflow_provider_impala_lb.core.state.load_report import ExporterCounters
from airflow_provider_impala_lb.core.state.record_log import Extent

LEASE_SECONDS = 120.0
"""A lease lives this long past its last renewal."""
RENEW_SECONDS = LEASE_SECONDS / 4
"""Pause between two renewals: three may fail before a live lease ends."""
UNLEASED_SECONDS = 30.0
"""A pick without a lease weighs on its node this long; else every shell script would go to the same idle node."""
SESSION_SECONDS = 24 * 3600.0
"""A session key is forgotten this long after its last use."""
AVOID_SECONDS = 3600.0
"""A task's failure is remembered this long, for its retry."""
LEFTOVER_SECONDS = 24 * 3600.0
"""What a dead try may have left running is remembered this long, for its retry."""
HAND_OVER_SECONDS = 300.0
"""A lease that one process hands to another one waits this long for it: a deferred task's trigger, or its worker."""
_BUCKET_SECONDS = 5.0
"""Unleased picks are counted in buckets of this width, so that a burst of them does not make the state grow."""

Cause = Literal["failure", "overload", "shutdown"]
"""Why a node did not take work. Overload is not failure."""
Level = Literal["ready", "busy", "overloaded"]
"""What a node's reports say: above T, at or under T (or a share under its floor), at or under H."""


class Attempt(msgspec.Struct, frozen=True, omit_defaults=True):
    """A try.

    :param number: from 1. :param began: ``time.time()`` of its host.
    :param generation: the same for a try and its retries, another one when the work is asked for anew; "": not known.
    """

    number: int
    began: float
    generation: str = ""

    def is_before(self, other: Attempt) -> bool:
        """Whether this try has been followed by the other. By number and time, both: a run that is deleted and made
        again under its old name counts its tries from 1 again, and the clocks of two hosts may differ."""
        return self.number < other.number and self.began < other.began

    def repeats(self, other: Attempt) -> bool:
        """Whether this is a retry of the other, rather than the same work asked for anew."""
        return self.generation != "" and self.generation == other.generation and other.is_before(self)


class Lease(msgspec.Struct, omit_defaults=True):
    """A running script's claim on a node.

    :param expires: by the store's clock, seconds since the epoch.
    :param session: HS2 session id, ``query`` the id of the statement running last: what a later try has to end if
        this one dies. Never the session's secret.
    :param movable: the script may be interrupted and begun again elsewhere.
    :param move: why it shall do so now; "" while nobody asks for it.
    """

    id: str
    node: str
    owner: str
    expires: float
    taken: float
    host: str
    holder: ProcessIdentity | None = None
    session: str | None = None
    query: str | None = None
    movable: bool = False
    move: str = ""


class Ejection(msgspec.Struct, omit_defaults=True):
    """Why a node is left out. ``until`` by the store's clock; ``trial`` the token of the pick that tries it."""

    cause: Cause
    why: str
    until: float
    trial: str = ""
    trial_until: float = 0.0


class LoadSummary(msgspec.Struct, array_like=True):
    """What of a node's last report every pick needs. Times by the store's clock.

    :param queries: registered on the node when it was asked, whoever they belong to; -1: it did not say.
    :param leases: this cluster's leases on it at that time. Leases that leaked are in both, so they cancel out.
    :param headroom: P, 0 to 1; -1: it reported no share.
    :param low: the share that was under its floor, or "".
    :param seen: the level this report alone would mean; a node's level follows when two in a row agree.
    """

    at: float
    queries: float
    leases: int
    headroom: float
    level: Level
    seen: Level
    low: str = ""
    quiescing: bool = False


class NodeState(msgspec.Struct, omit_defaults=True):
    """``picks`` counts every pick handed out; ``leases`` those that live; ``recent`` the picks without a lease, as
    [bucket's end, count]; ``drained`` is an operator's word; ``failures`` and ``quiet_since``: see core/health.py."""

    picks: int = 0
    leases: int = 0
    recent: list[tuple[float, int]] = []
    drained: bool = False
    failures: int = 0
    quiet_since: float = 0.0
    ejection: Ejection | None = None
    summary: LoadSummary | None = None


class SessionRecord(msgspec.Struct, omit_defaults=True):
    """A session key stays on ``node`` until ``expires``, and its data go wherever it goes.

    :param broken: why it left its last node, until it is placed again (``node`` is that node).
    :param database: the one in use at the end of the key's last session, ``options`` what was set in it by SET.
    :param at: when the data were recorded, by the store's clock; of two copies the later one holds.
    """

    node: str
    expires: float
    broken: str = ""
    database: str | None = None
    options: dict[str, str] = {}
    at: float = 0.0


class Avoid(msgspec.Struct):
    """The node that failed a task last; its retry goes elsewhere if it can, until ``expires``."""

    node: str
    expires: float


class LeftoverSession(msgspec.Struct, omit_defaults=True):
    """What a lease that lapsed, or was taken over, leaves behind until ``expires``: see core/orphans.py.

    :param at: when that was. :param fenced: a later try of ``owner`` has taken over; the lease's process must stop.
    :param ended: what ran has been seen to end. :param attempt: this is no lease's: ``owner`` has come to this try.
    """

    owner: str
    node: str
    session: str
    query: str
    at: float
    expires: float
    fenced: bool = False
    ended: bool = False
    attempt: Attempt | None = None


class LastReport(msgspec.Struct, omit_defaults=True):
    """What a node reported last, whole: free shares (0 to 1) by name, or why it could not be asked.

    :param failed: why it did not answer the last time; the rest is then older. :param missing: what of it did not.
    :param counters: what the next probe needs to turn its own into rates.
    """

    at: float
    shares: dict[str, float] = {}
    queries: float | None = None
    sessions: int | None = None
    queued: int | None = None
    failed: str = ""
    missing: dict[str, str] = {}
    counters: ExporterCounters | None = None


class HostNote(msgspec.Struct, omit_defaults=True):
    """What a host last said: a digest of its node list (lists that differ are worth a warning), and when.

    :param dead_sought: when it last looked for leases of processes that are gone.
    :param clocks: where no clock is common: the others' ``seen`` as this host found it, and its own time then.
    """

    nodes: str
    seen: float
    dead_sought: float = 0.0
    clocks: dict[str, tuple[float, float]] = {}


class Ticket(msgspec.Struct, omit_defaults=True):
    """A place in the line of those who wait for a node. First come, first served.

    :param until: the ticket lapses then, unless its owner asks again.
    :param asks_again: after how many seconds that will
        be; 0: soon, as its place in the line says.
    :param exclude: nodes it cannot use. :param only: the one node it waits for; "": any.
    """

    id: str
    owner: str
    host: str
    since: float
    until: float
    asks_again: float = 0.0
    exclude: list[str] = []
    only: str = ""
    holder: ProcessIdentity | None = None


class ProbeClaim(msgspec.Struct, array_like=True):
    """Who asks the nodes for their load at present, for the whole fleet, and until when nobody else does."""

    token: str
    until: float


class Head(msgspec.Struct, omit_defaults=True):
    """``last`` is the node picked last, the point from which round robin goes on."""

    format: int = 0  # set by `encode`: a default equal to FORMAT would be left out, and read back as the reader's own
    cluster: str = ""
    last: str = ""
    nodes: dict[str, NodeState] = {}
    hosts: dict[str, HostNote] = {}
    waiting: list[Ticket] = []
    probe: ProbeClaim | None = None
    extents: list[Extent] = []


def count_unleased(node: NodeState, now: float) -> None:
    """Note one pick without a lease."""
    end = (now + UNLEASED_SECONDS) // _BUCKET_SECONDS * _BUCKET_SECONDS + _BUCKET_SECONDS
    if node.recent and node.recent[-1][0] >= end:
        last, count = node.recent[-1]
        node.recent[-1] = (last, count + 1)
    else:
        node.recent.append((end, 1))


def forget_unleased(node: NodeState, before: float) -> None:
    """Picks without a lease that are older than this moment: a report has seen what they started."""
    node.recent = [(end, count) for end, count in node.recent if end - UNLEASED_SECONDS > before]
