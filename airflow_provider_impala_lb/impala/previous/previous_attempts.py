"""Before an attempt runs anything: what earlier ones left is ended, or waited for, and what they did is known."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from logging import Logger

from airflow_provider_impala_lb.core.cluster.cluster import Cluster
from airflow_provider_impala_lb.core.cluster.pick import Pick
from airflow_provider_impala_lb.core.cluster.picker import new_id
from airflow_provider_impala_lb.core.state.model import LeftoverSession
from airflow_provider_impala_lb.errors import ImpalaLBError, JournalDamaged, StateUnavailable, StillRunning
from airflow_provider_impala_lb.impala.hs2.session_factory import SessionFactory
from airflow_provider_impala_lb.impala.journal.document import Begun, Record
from airflow_provider_impala_lb.impala.journal.identity import RunIdentity
from airflow_provider_impala_lb.impala.journal.journal import Journal
from airflow_provider_impala_lb.impala.previous.late_leftovers import LateLeftovers
from airflow_provider_impala_lb.impala.previous.leftover_sessions import LeftoverSessions
from airflow_provider_impala_lb.impala.previous.statement_in_doubt import StatementInDoubt
from airflow_provider_impala_lb.impala.sql.classification import Classification
from airflow_provider_impala_lb.impala.sql.splitter import Statement


class PreviousAttempts:
    """Of one script.

    :param cluster: where leases are noted.
    :param sessions: opens sessions on the nodes.
    :param identity: whose they are, and which attempt begins.
    :param script: the script's statements, each with its kind.
    :param pause: waits so many seconds, or raises.
    :param log: for people.
    :ivar in_doubt: finds out what became of a statement.
    :ivar late: what is found only after :meth:`end`.
    """

    def __init__(
        self,
        cluster: Cluster,
        sessions: SessionFactory,
        identity: RunIdentity,
        script: Sequence[tuple[Statement, Classification]],
        pause: Callable[[float], None],
        log: Logger,
    ) -> None:
        self._cluster, self._identity, self._script, self._log = cluster, identity, script, log
        self._fenced: dict[str, LeftoverSession] | None = {}
        self._unrecorded = "the configuration has neither a lock_file nor a store"
        beside = "" if identity.one_at_a_time else identity.tags.get("try", "")
        self._leftovers = LeftoverSessions(cluster, sessions, pause, log, beside=beside)
        self.late = LateLeftovers(self._leftovers)
        self.in_doubt = StatementInDoubt(sessions, script, pause, log)

    def fence(self) -> str:
        """End the leases of earlier attempts, so that a process that still has one runs nothing more.

        :returns: the id of the lease that this attempt will take, by which it can be fenced itself until then.
        :raises Superseded: a later one has begun before.
        :raises ConfigError: another run has work of this name there, as of another Airflow.
        """
        announced = new_id()
        self._fenced = self._cluster.fencing.fence_earlier(self._identity.owner, announced, self._identity.attempt)
        return announced

    def end_late(self, pause: Callable[[float], None]) -> None:
        """End what was found only after :meth:`end`; before each statement.

        :param pause: waits so many seconds, or raises.
        :raises StillRunning: as :meth:`end`.
        :raises ConfigError: as :meth:`fence`.
        """
        self.late.end(self._identity.owner, self._identity.tags.get("try", ""), pause)

    def end_last(self, pick: Pick) -> None:
        """Once the script is done: whoever is found only now runs nothing more after it. Never raises.

        :param pick: of the script.
        """
        try:
            pick.see_noted()
            self.end_late(time.sleep)
        except ImpalaLBError as error:
            self._log.warning("The script is done. %s", error)

    def begin(self, journal: Journal, *, resume: bool) -> Begun | None:
        """Begin an attempt in the journal; a statement in doubt is settled there.

        :param journal: of this attempt.
        :param resume: go on where an earlier attempt stopped.
        :returns: what is there; None: it cannot be used, and only sessions would be kept there.
        :raises StatementFailed: a statement is in doubt.
        :raises ImpalaLBError: as `Journal.begin`.
        """
        if journal.outcomes and (may_lose := journal.durability()):
            self._log.warning("%s", may_lose)
        try:
            begun = journal.begin(resume=resume)
        except (StateUnavailable, JournalDamaged) as error:
            if journal.outcomes:
                raise
            self._log.warning("What this attempt of %s begins cannot be noted: %s", journal.key, error)
            self._unrecorded = str(error)
            return None
        message = begun.message
        if begun.record.intent is not None:
            self.in_doubt.resolve_intent(journal, begun.record)
            begun.record.done, message = journal.renew()
        if message:
            self._log.warning("%s: %s", journal.key, message)
        return begun

    def end(self, journal: Journal | None, begun: Begun | None) -> None:
        """End what earlier attempts have left running, and see it ended. After :meth:`fence`.

        :param journal: of this attempt; None: there is none.
        :param begun: as by :meth:`begin`.
        :raises StillRunning: something could not be seen to end, or is not known.
        """
        owner, attempt = self._identity.owner, self._identity.attempt
        kept = begun.record.sessions if begun is not None else []

        def note(session: str) -> None:
            if journal is not None and any(each.session == session for each in kept):
                journal.session_ended(session)

        self._leftovers.end(owner, self._fenced or {}, kept, on_ended=note)
        if attempt is None or attempt.number < 2 or (begun is not None and not begun.record.unseen):
            return
        if all(statement.changes_nothing for _, statement in self._script):
            return  # the next one may do more, and looks then
        config = self._cluster.config
        shared = config.lock_file is not None or config.store is not None
        is_known, unrecorded = shared and self._fenced is not None, "" if begun is not None else self._unrecorded
        all_told = self._leftovers.end_unrecorded(owner, is_known=is_known, unrecorded=unrecorded)
        if all_told and journal is not None and begun is not None:
            journal.seen()  # from here on there is a record of all that may be left

    def close(self, journal: Journal, record: Record) -> None:
        """Close the sessions of a script that goes on in a new one. Whoever may still have one sends nothing more: the
        journal is not its own any more.

        :param journal: of this attempt.
        :param record: what it says; no statement is in doubt.
        """
        try:
            self._leftovers.end(self._identity.owner, {}, record.sessions, on_ended=journal.session_ended)
        except StillRunning as error:
            self._log.info("%s", error)


def done_before(begun: Begun | None) -> Record | None:
    """The record to go on from; None: nothing of the script is done.

    :param begun: as by `PreviousAttempts.begin`.
    """
    return begun.record if begun is not None and begun.record.done else None
