"""What a worker leaves to a trigger and takes from it, beside the arguments and the event that Airflow carries."""

from __future__ import annotations

import time
from collections.abc import Sequence
from typing import Any

from airflow_provider_impala_lb.core.timing import Deadline
from airflow_provider_impala_lb.errors import StateUnavailable
from airflow_provider_impala_lb.hooks.impala_lb import ImpalaLBHook
from airflow_provider_impala_lb.impala.sql.splitter import Statement

_PAUSE = 0.5
"""Seconds between two attempts to read a journal that is out of reach."""


def pack(script: Sequence[Statement], parameters: Any) -> str:
    """A script for a trigger's arguments, with its parameters bound.

    :param script: its statements.
    :param parameters: as for `ImpalaLBHook.run`.
    :raises ScriptError: a parameter does not fit.
    """
    from airflow_provider_impala_lb.impala.script.handover_message import pack_script
    from airflow_provider_impala_lb.impala.sql.parameters import bind_script

    return pack_script(script, bind_script([(each.line, each.sql) for each in script], parameters))


def handed_over(hook: ImpalaLBHook, owner: str) -> str | None:
    """The script that a trigger has left for its worker, as :func:`pack` gives it; None: it is not there.

    :param hook: of the task.
    :param owner: whose it is.
    :raises StateUnavailable: it cannot be asked for.
    """
    from airflow_provider_impala_lb.impala.journal.answers import text_of

    journals, balancer = hook.journals, hook.balancer
    deadline, sealed = Deadline(balancer.config.session.reconnect_timeout), ""
    while journals is not None:
        try:
            sealed = text_of(journals, balancer.config.owner_of(owner))
            break
        except StateUnavailable:
            if deadline.passed(_PAUSE):
                raise
        time.sleep(_PAUSE)
    packed = balancer.sessions.sealer.open(sealed) if sealed else None
    return packed.decode() if packed is not None else None


def end_journal(hook: ImpalaLBHook, owner: str, epoch: int) -> None:
    """Note in its journal that a script, which a trigger has run to its end, has come to its end for its task too.

    :param hook: of the task.
    :param owner: whose journal it is.
    :param epoch: of the process that ran it, in the journal.
    :raises StateUnavailable: it could not be noted.
    """
    from airflow_provider_impala_lb.impala.journal.answers import finish

    journals = hook.journals
    if journals is not None:
        finish(journals, hook.balancer.config.owner_of(owner), epoch)
