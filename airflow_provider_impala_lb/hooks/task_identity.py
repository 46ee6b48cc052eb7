"""Which task runs, and which attempt of it: for labels, leases, journals and places in the queue."""

from __future__ import annotations

import os
import time
from collections.abc import Mapping
from typing import TYPE_CHECKING

from airflow_provider_impala_lb.core.state.model import Attempt
from airflow_provider_impala_lb.impala.journal.identity import RunIdentity

if TYPE_CHECKING:
    from airflow.providers.common.compat.sdk import Context


def tags(context: Context) -> dict[str, str]:
    """The running task, as its statements' labels name it.

    :param context: Airflow's, of the task.
    :returns: ``try``, ``dag``, ``task``, ``run`` and ``map``; the last is "" for a task that is not mapped.
    """
    ti = context["ti"]
    map_index = getattr(ti, "map_index", -1)
    return {
        "try": str(ti.try_number),  # first: no long name cuts it off
        "dag": ti.dag_id,
        "task": ti.task_id,
        "run": ti.run_id,
        "map": str(map_index) if map_index is not None and map_index >= 0 else "",
    }


def tags_from_environment() -> dict[str, str]:
    """The running task by the variables that Airflow exports for it; for hooks outside of this package's operator.

    :returns: as :func:`tags`, without ``map``, and without what no variable names.
    """
    names = {"try": "TRY_NUMBER", "dag": "DAG_ID", "task": "TASK_ID", "run": "DAG_RUN_ID"}
    found = {tag: os.environ.get(f"AIRFLOW_CTX_{name}", "") for tag, name in names.items()}
    return {tag: value for tag, value in found.items() if value}


def identity(context: Context | None) -> RunIdentity:
    """Who runs what a hook outside of this package's operator runs.

    :param context: Airflow's, of the task that runs in this process; None: it is not known here.
    """
    if context is None or "ti" not in context:
        found = tags_from_environment()
        return RunIdentity(owner=owner(found), tags=found)
    found = tags(context)
    return RunIdentity(owner=owner(found), tags=found, attempt=attempt(context))


def owner(tags: Mapping[str, str]) -> str:
    """Whom a lease and a journal belong to, the same for each attempt of a task.

    :param tags: of :func:`tags` or :func:`tags_from_environment`.
    :returns: ``dag/run/task[map index]``, as far as known; "" for nothing.
    """
    known = [tags[key] for key in ("dag", "run", "task") if tags.get(key)]
    return "/".join(known) + (f"[{tags['map']}]" if tags.get("map") else "")


def ticket(tags: Mapping[str, str]) -> str:
    """The name of an attempt's place in the queue, the same in whatever process it comes back.

    :param tags: of :func:`tags`.
    """
    return f"{owner(tags)} try {tags.get('try', '')}"


def attempt(context: Context) -> Attempt:
    """Which attempt of its work the running task is.

    Clearing a task raises its ``max_tries``; a run that is cleared when it is over, or deleted and made again, has
    another start (``clear_task_instances`` of Airflow 2.11 to 3.3).

    :param context: Airflow's, of the task.
    """
    ti, run = context["ti"], context.get("dag_run")
    began = ti.start_date.timestamp() if ti.start_date else time.time()  # a DAG's own tests may not start it
    if run is None:
        return Attempt(ti.try_number, began)
    return Attempt(
        ti.try_number,
        began,
        generation=f"{run.start_date} {ti.max_tries}",
        run=run.start_date.timestamp() if run.start_date else 0.0,
        clears=getattr(run, "clear_number", None) or 0,
    )
