"""What a task pushes to XCom about its script: where it runs, before its first statement; how it ended, at its end."""

from __future__ import annotations

from collections.abc import Mapping
from contextlib import suppress
from logging import Logger
from typing import TYPE_CHECKING, Any

from airflow.providers.common.compat.sdk import AirflowException, AirflowFailException

from airflow_provider_impala_lb.hooks.resolve_stick_to import XCOM_HOST, XCOM_RUN
from airflow_provider_impala_lb.impala.script.plan import counted

if TYPE_CHECKING:
    from airflow.providers.common.compat.sdk import Context


class RunXComs:
    """The XComs of one task. It remembers the host that was pushed last, which need not be pushed again."""

    def __init__(self) -> None:
        self._pushed: str | None = None

    def push_host(self, context: Context, host: str, *, goes_on: bool) -> None:
        """Push ``impala_host``, before the first statement on a node.

        :param context: Airflow's, of the task.
        :param host: ``host:port``.
        :param goes_on: another process has begun with the script.
        :raises AirflowException: it could not be pushed; nothing more is to be run.
        """
        if host == self._pushed:  # a new session there
            return
        try:
            context["ti"].xcom_push(key=XCOM_HOST, value=host)
        except Exception as error:
            begun = goes_on or self._pushed is not None
            more = "nothing more was run" if begun else "nothing was run by this attempt"
            raise AirflowException(
                f"{XCOM_HOST} could not be pushed to XCom ({type(error).__name__}: {error}); {more}"
            ) from error
        self._pushed = host

    def push_end(self, context: Context, run: Mapping[str, Any], log: Logger) -> None:
        """Push ``impala_run``, and the host where another process has moved the script. The log gets one line of it.

        :param context: Airflow's, of the task.
        :param run: as of `ScriptDone.summary`.
        :param log: of the task.
        :raises AirflowFailException: dependent tasks would be led to another node than the one it ended on.
        """
        ti, host = context["ti"], run["host"]
        if host != self._pushed:  # or another process pushed it
            try:
                ti.xcom_push(key=XCOM_HOST, value=host)
            except Exception as error:
                problem = f"{counted(run['statements'])} ran to the end on {host}, but {XCOM_HOST} could not be pushed"
                if _stored_host(ti) != host:
                    raise AirflowFailException(f"{problem} to XCom: {type(error).__name__}: {error}") from error
                warn_after_end(log, "%s again (it is there already): %s", problem, error)
        try:
            ti.xcom_push(key=XCOM_RUN, value=run)
        except Exception as error:
            warn_after_end(
                log,
                "%s could not be pushed to XCom (a sticky task that has to move waits longer): %s: %s",
                XCOM_RUN,
                type(error).__name__,
                error,
            )
        with suppress(Exception):
            log.info("%s on %s in %.2f s", counted(run["statements"]), host, run["seconds"])


def warn_after_end(log: Logger, text: str, *values: Any) -> None:
    """Log a warning about something that went wrong after the end of the script, which undoes nothing. Never raises.

    :param log: of the task.
    :param text: a format, as of `logging`.
    :param values: for it.
    """
    with suppress(Exception):
        log.warning(text, *values)


def _stored_host(ti: Any) -> Any:
    with suppress(Exception):
        return ti.xcom_pull(task_ids=ti.task_id, key=XCOM_HOST, map_indexes=ti.map_index)
    return None
