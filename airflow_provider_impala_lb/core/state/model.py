"""What all workers share, as records: nodes, leases, tickets, session keys, what the nodes reported.

Moments are by the store's clock, in seconds since the epoch, time spans in seconds, unless it says otherwise. The
fields are the keys in the encoded state: a change of one, but for a new one with a default, is a change of `FORMAT`.
"""

# No postponed annotations here: msgspec would compile each of them anew in every process, which is most of what
# importing this file would cost.
from typing import Literal

import msgspec

from airflow_provider_impala_lb.core.state.record_log import Extent

LEASE_SECONDS = 120.0
"""A lease lives this long past its last renewal."""
RENEW_SECONDS = LEASE_SECONDS / 4
"""Pause between two renewals: three may fail before a live lease ends."""
SILENCE_SECONDS = 1.5 * RENEW_SECONDS
"""Where there are leases, somebody notes something more often than this; else the state was out of reach for all."""
UNLEASED_SECONDS = 30.0
"""A pick without a lease weighs on its node this long; else every shell script would go to the same idle node."""
SESSION_SECONDS = 24 * 3600.0
"""A session key is forgotten this long after its last use."""
AVOID_SECONDS = 3600.0
"""A task's failure is remembered this long, for its retry."""
LEFTOVER_SECONDS = 30 * 24 * 3600.0
"""What a dead attempt may have left running is remembered this long, for its retry, unless it was seen to end."""
HAND_OVER_SECONDS = 300.0
"""A lease that one process hands to another one waits this long for it: a deferred task's trigger, or its worker."""
_BUCKET_SECONDS = 5.0
"""Unleased picks are counted in buckets of this width, so that a burst of them does not make the state grow."""

Cause = Literal["failure", "overload", "shutdown"]
"""Why a node did not take work. Overload is not failure."""
Level = Literal["ready", "busy", "overloaded"]
"""What a node's reports say: above T, at or under T (or a share under its floor), at or under H."""


class Attempt(msgspec.Struct, frozen=True, omit_defaults=True):
    """One attempt at some work, and how it is told from the others of the same work.

    :param number: from 1.
    :param began: ``time.time()`` of its host.
    :param generation: the same for an attempt and its retries, another one when the work is asked for anew; "": not
        known.
    :param run: when the run of the DAG that it belongs to began, by the scheduler's clock; 0: not known.
    :param clears: how often that run had been cleared.
    """

    number: int
    began: float
    generation: str = ""
    run: float = 0.0
    clears: int = 0

    def is_before(self, other: "Attempt") -> bool:
        """Whether this attempt has been followed by the other.

        Within one run of a DAG by number alone, since the clocks of two hosts may differ. Else by number and time,
        both: a run that is deleted and made again under its old name counts its attempts from 1 again.

        :param other: an attempt at the same work.
        """
        if self.run and (self.run, self.clears) == (other.run, other.clears):
            return self.number < other.number
        return self.number < other.number and self.began < other.began

    def repeats(self, other: "Attempt") -> bool:
        """Whether this is a retry of the other, rather than the same work asked for anew.

        :param other: an attempt at the same work.
        """
        return self.generation != "" and self.generation == other.generation and other.is_before(self)

    def may_be_work_of(self, other: "Attempt", *, disputed: bool) -> bool:
        """Whether this and the other may be attempts at one Airflow's work: two Airflows may have a run of one name.

        Airflow gives a run another beginning when it is cleared after its end, and counts that
        (``clear_task_instances`` of Airflow 2.11 to 3.3); the attempts of its tasks go on counting. So of two attempts
        whose runs began at different times the one of the later beginning is of more clears and a higher number, or
        they are not of the same run: it is another Airflow's, or was deleted and made again.

        :param other: an attempt of the same owner.
        :param disputed: attempts of two runs were seen under this owner: then only the same beginning counts.
        """
        if not self.run or not other.run or self.run == other.run:
            return True
        older, newer = (self, other) if self.run < other.run else (other, self)
        return not disputed and older.clears < newer.clears and older.number < newer.number


class ProcessIdentity(msgspec.Struct, frozen=True):
    """A process. A pid alone is reused; with the boot, pid namespace and start time it is not.

    :param boot: the kernel's boot id.
    :param namespace: of pids, as /proc names it.
    :param pid: within the namespace.
    :param start: clock ticks from the boot to its start.
    """

    boot: str
    namespace: str
    pid: int
    start: int


class Lease(msgspec.Struct, omit_defaults=True):
    """A running script's claim on a node. Most of its fields are keys of ``status``, too.

    :param id: its name, unique in the cluster.
    :param node: ``host:port``.
    :param owner: who runs the script, e.g. ``dag/run/task``; "" if nobody said.
    :param expires: the lease ends then, unless it is renewed.
    :param taken: when it was taken.
    :param host: the host that renews it.
    :param holder: the process that renews it; None: nobody does, or it is being handed over.
    :param session: HS2 session id: what a later attempt has to end if this one dies. Never the session's secret.
    :param other_sessions: of other sessions under it that are open, too.
    :param query: HS2 id of the statement running last.
    :param movable: the script may be interrupted and begun again elsewhere.
    :param move: why it shall do so now; "" while nobody asks for it.
    :param attempt: which attempt of ``owner`` has it; None: not known.
    """

    id: str
    node: str
    owner: str
    expires: float
    taken: float
    host: str
    holder: ProcessIdentity | None = None
    session: str | None = None
    other_sessions: list[str] = []
    query: str | None = None
    movable: bool = False
    move: str = ""
    attempt: Attempt | None = None


class Suspicion(msgspec.Struct, array_like=True, omit_defaults=True):
    """A host that a node has failed leaves it out, by itself: see `core.rules.ejection`.

    :param cause: what kind of refusal it was.
    :param failures: in a row, of this host.
    :param at: the last one.
    :param until: the host does not pick the node before this moment; then one of its picks tries it.
    :param reason: in words.
    :param ended: the host has worked there since: what is kept is how often the node has failed it.
    :param reached: the host had worked there between this failure and the one before.
    :param trial: the token of the pick that tries it; "": nobody does yet.
    :param trial_until: the trial is over then, whatever has become of it.
    """

    cause: Cause
    failures: int
    at: float
    until: float
    reason: str
    ended: bool = False
    reached: bool = False
    trial: str = ""
    trial_until: float = 0.0


class Ejection(msgspec.Struct, omit_defaults=True):
    """Why a node is left out by all, and until when: see `core.rules.ejection`.

    :param cause: what kind of refusal it was.
    :param reason: in words.
    :param until: nobody picks the node before this moment; then one pick tries it.
    :param at: the last failure: work that was begun later and was accepted ends the ejection.
    :param by: the hosts that said so.
    :param trial: the token of the pick that tries it; "": nobody does yet.
    :param trial_until: the trial is over then, whatever has become of it.
    """

    cause: Cause
    reason: str
    until: float
    at: float = 0.0
    by: list[str] = []
    trial: str = ""
    trial_until: float = 0.0


class LoadSummary(msgspec.Struct, array_like=True):
    """What of a node's last report every pick needs.

    :param at: when the node was asked.
    :param queries: registered on the node when it was asked, whoever they belong to; -1: it did not say.
    :param leases: this cluster's leases on it at that time. Leases that leaked are in both, so they cancel out.
    :param headroom: P, 0 to 1; -1: it reported no share.
    :param level: the node's level, from this report and those before it.
    :param reported_level: the level this report alone would mean; a node's level follows when two in a row agree.
    :param short_share: the name of the share that was under its floor, or "".
    :param quiescing: it shuts down: it runs what it has, and takes nothing new.
    """

    at: float
    queries: float
    leases: int
    headroom: float
    level: Level
    reported_level: Level
    short_share: str = ""
    quiescing: bool = False


class NodeState(msgspec.Struct, omit_defaults=True):
    """The numbers of one node.

    :param picks: every pick handed out.
    :param used: when it was picked last; of a drained one, when it was last known to be one of a configuration.
    :param leases: those that live.
    :param recent: the picks without a lease, as [bucket's end, count].
    :param drained: an operator took it out.
    :param failures: in a row that more than one host has seen, see `core.rules.ejection`.
    :param quiet_since: from when on the time without a failure counts: the end of the last cool-down.
    :param ejection: why it is left out by all; None: it is not.
    :param suspicions: by host, what only that one has seen.
    :param worked: when the work was begun that was accepted last while some host said that the node fails.
    :param summary: of its last report; None: it never reported.
    :param web: ``host:port`` of its web pages, as its coordinator named it when a session was opened; "": not known.
    :param unanswered: how often in a row it has not told its load when it was asked.
    :param asked_again: with ``load: auto``: nobody asks it before this moment.
    """

    picks: int = 0
    used: int = 0
    leases: int = 0
    recent: list[tuple[float, int]] = []
    drained: bool = False
    failures: int = 0
    quiet_since: float = 0.0
    ejection: Ejection | None = None
    suspicions: dict[str, Suspicion] = {}
    worked: float = 0.0
    summary: LoadSummary | None = None
    web: str = ""
    unanswered: int = 0
    asked_again: float = 0.0

    def count_unleased(self, now: float) -> None:
        """Note one pick without a lease.

        :param now: the store's clock.
        """
        end = (now + UNLEASED_SECONDS) // _BUCKET_SECONDS * _BUCKET_SECONDS + _BUCKET_SECONDS
        if self.recent and self.recent[-1][0] >= end:
            last, count = self.recent[-1]
            self.recent[-1] = (last, count + 1)
        else:
            self.recent.append((end, 1))

    def forget_unleased(self, before: float) -> None:
        """Drop the picks without a lease that a report has seen.

        :param before: they were made before this moment.
        """
        self.recent = [(end, count) for end, count in self.recent if end - UNLEASED_SECONDS > before]


class SessionRecord(msgspec.Struct, omit_defaults=True):
    """A session key stays on ``node`` until ``expires``, and its data go wherever it goes.

    :param node: ``host:port``.
    :param expires: the key is forgotten then.
    :param unplaced_reason: why it left its last node, until it is placed again (``node`` is that node).
    :param database: the one in use at the end of the key's last session.
    :param options: what was set in that session by SET.
    :param at: when the data were recorded; of two copies the later one holds.
    """

    node: str
    expires: float
    unplaced_reason: str = ""
    database: str | None = None
    options: dict[str, str] = {}
    at: float = 0.0


class Avoid(msgspec.Struct):
    """The node that failed a task last; its retry goes elsewhere if it can.

    :param node: ``host:port``.
    :param expires: it is avoided until then.
    """

    node: str
    expires: float


class LeftoverSession(msgspec.Struct, omit_defaults=True):
    """What a lease that lapsed, or was fenced, leaves behind: see `core.rules.supersession`.

    Some records of this kind are no lease's, and have no ``node``: of an attempt that was announced and has no lease
    yet, of the latest attempt at some work, and of an owner under which two runs were seen.

    :param owner: who ran it.
    :param node: ``host:port``.
    :param session: HS2 session id, or "".
    :param other_sessions: of other sessions that were open under the lease, too.
    :param query: HS2 id of the statement running last, or "".
    :param at: when the lease ended.
    :param expires: the record is forgotten then.
    :param fenced: a later attempt of ``owner`` has taken over; the lease's process must stop.
    :param ended: what ran has been seen to end.
    :param attempt: whose it is; None: not known.
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
    other_sessions: list[str] = []


class HostNote(msgspec.Struct, omit_defaults=True):
    """What a host noted last.

    :param nodes: a digest of its node list: lists that differ are worth a warning.
    :param seen: when that was.
    :param dead_sought: when it last looked for leases of processes that are gone.
    :param boot: where the clock is the host's own: which boot of which kernel ``seen`` is of; "": not known.
    :param uptime: with ``boot``: seconds from that boot to ``seen``.
    :param turn: where no clock is common, as the rest: grows with each word of any host.
    :param watched: seconds that all hosts together had counted at its last word; see `core.rules.clock_agreement`.
    :param silent: seconds counted since.
    :param spared: nothing that it dated lapses before this moment, by its clock: that was set, or its machine stopped.
    :param spared_before: the ``spared`` before this one, as `Head.spared_before`.
    """

    nodes: str
    seen: float
    dead_sought: float = 0.0
    boot: str = ""
    uptime: float = 0.0
    turn: int = 0
    watched: float = 0.0
    silent: float = 0.0
    spared: float = 0.0
    spared_before: float = 0.0


class Ticket(msgspec.Struct, omit_defaults=True):
    """A place in the queue of those who wait for a node. First come, first served.

    :param id: its name; the owner may come back to it as another process.
    :param owner: who waits, e.g. ``dag/run/task``.
    :param host: where.
    :param since: when it was drawn.
    :param until: it lapses then, unless its owner asks again.
    :param number: grows with each ticket that is drawn, from 1; 0: it has none yet.
    :param asks_again: after how many seconds that will be; 0: soon, as its position in the queue says.
    :param exclude: nodes it cannot use.
    :param only: the one node it waits for; "": any.
    :param holder: the process that waits; None: nobody does meanwhile.
    :param called: since when a free slot has been kept for it; 0: none is; negative: none is to be, since it did not
        take one at that moment.
    :param away: it has lapsed, and only its place is remembered.
    """

    id: str
    owner: str
    host: str
    since: float
    until: float
    number: int = 0
    asks_again: float = 0.0
    exclude: list[str] = []
    only: str = ""
    holder: ProcessIdentity | None = None
    called: float = 0.0
    away: bool = False


class ProbeClaim(msgspec.Struct, array_like=True):
    """Who asks the nodes for their load at present, for the whole fleet.

    :param token: names the one who asks; "": nobody does, and the next one is due at ``until``.
    :param until: nobody else asks before this moment.
    """

    token: str
    until: float


class FoundNode(msgspec.Struct, frozen=True, omit_defaults=True):
    """A node that was found.

    :param web: URL of its web server; "": not known.
    :param joined: when it was found first; 0: with the first of all.
    :param gone: since when it has not been found; 0: it is there.
    """

    web: str = ""
    joined: float = 0.0
    gone: float = 0.0


class FoundNodes(msgspec.Struct, omit_defaults=True):
    """What a configuration's source of nodes told, and whose turn it is to ask it.

    :param nodes: by ``host:port``.
    :param source: which one it was.
    :param at: when it told something; 0: never.
    :param due: nobody asks before this moment.
    :param token: of the process that asks at present; "": nobody does.
    :param problem: why what it told last does not count, or that it did not answer; "": all is well.
    """

    nodes: dict[str, FoundNode] = {}
    source: str = ""
    at: float = 0.0
    due: float = 0.0
    token: str = ""
    problem: str = ""


class Head(msgspec.Struct, omit_defaults=True):
    """What every transaction reads.

    :param format: the version of the encoded state, set by `state.encode_head`. Its default is 0, since one equal to
        `state.FORMAT` would be left out, and read back as the reader's own.
    :param cluster: the configuration's ``name``.
    :param born: when this state began empty; 0: it has not been used yet.
    :param lost: it began in place of another one, which was lost: see :meth:`is_incomplete`.
    :param last: the node picked last, the point from which round robin goes on.
    :param nodes: by ``host:port``.
    :param hosts: by their names.
    :param waiting: the first of the queue, in their order; the others are `State.tickets`.
    :param behind: how many of those wait for any node, under "", and for a single one, under its ``host:port``.
    :param drawn: the number of the ticket drawn last.
    :param spared: no lease and no ticket lapses before this moment: for a while nobody could reach the state, so nobody
        could renew any.
    :param spared_before: the ``spared`` before this one. What lapsed before that has not been renewed by whoever could.
    :param probe: whose turn it is to ask the nodes for their load; None: nobody ever did.
    :param found: the nodes, where they are found; None: nobody has looked.
    :param extents: for each kind of records, how many there are and where.
    """

    format: int = 0
    cluster: str = ""
    born: float = 0.0
    lost: bool = False
    last: str = ""
    nodes: dict[str, NodeState] = {}
    hosts: dict[str, HostNote] = {}
    waiting: list[Ticket] = []
    behind: dict[str, int] = {}
    drawn: int = 0
    spared: float = 0.0
    spared_before: float = 0.0
    probe: ProbeClaim | None = None
    found: FoundNodes | None = None
    extents: list[Extent] = []

    @property
    def last_seen(self) -> float:
        """The store's clock when a host was noted last."""
        return max((host.seen for host in self.hosts.values()), default=0.0)

    def is_incomplete(self, now: float) -> bool:
        """Whether scripts may run that are not known: another state was lost, and their leases are not renewed yet.

        :param now: the store's clock.
        """
        return self.lost and 0 <= now - self.born < SILENCE_SECONDS

    def has_lapsed(self, ends: float, now: float) -> bool:
        """Whether what was to end at that moment has lapsed.

        :param ends: of a lease, or a ticket.
        :param now: the store's clock.
        """
        return ends <= now and (now >= self.spared or ends <= self.spared_before)
