"""What an earlier attempt of a task has left running through a hook is ended before the next one runs anything.

A task may have several hooks at work, also in processes of its own making: only what names an earlier attempt is ended.
"""

from __future__ import annotations

import time
from logging import Logger
from typing import TYPE_CHECKING

from airflow_provider_impala_lb.balancer import Balancer
from airflow_provider_impala_lb.impala.journal.identity import RunIdentity

if TYPE_CHECKING:
    from airflow_provider_impala_lb.impala.previous.late_leftovers import LateLeftovers


def end_earlier_attempts(balancer: Balancer, identity: RunIdentity, log: Logger) -> LateLeftovers | None:
    """End the sessions of earlier attempts, and see them ended.

    :param balancer: of the hook.
    :param identity: the task, and which attempt of it runs; without an attempt nothing is known of others.
    :param log: for people.
    :returns: ends what is found later; None: this is the first attempt.
    :raises StillRunning: one could not be seen to end, so nothing is to be run beside it.
    :raises Superseded: a later attempt has begun.
    :raises ConfigError: another run has work of this name there, as of another Airflow.
    """
    attempt = identity.attempt
    if attempt is None or attempt.number < 2:  # nothing is before a first one
        return None
    owner = balancer.config.owner_of(identity.owner)
    left = balancer.cluster.fencing.fence_earlier(owner, attempt=attempt, has_parts=True)
    # Here: what it takes to open a session is a third of the time that a DAG file's import takes.
    from airflow_provider_impala_lb.impala.previous.late_leftovers import LateLeftovers
    from airflow_provider_impala_lb.impala.previous.leftover_sessions import LeftoverSessions

    beside = identity.tags.get("try", "")
    sessions = LeftoverSessions(balancer.cluster, balancer.sessions, time.sleep, log, beside=beside)
    if left is None:
        sessions.end_unrecorded(owner, is_known=False, unrecorded="of what hooks run only the balancer's state tells")
    else:
        sessions.end(owner, left)
    return LateLeftovers(sessions)
