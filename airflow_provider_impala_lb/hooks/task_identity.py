"""Which task runs, and which try of it: for labels, leases, journals and places in the line."""

from __future__ import annotations

import time
from collections.abc import Mapping
from typing import TYPE_CHECKING

from airflow_provider_impala_lb.core.state.model import Attempt
from airflow_provider_impala_lb.hooks.impala_lb import owner

if TYPE_CHECKING:
    from airflow.providers.common.compat.sdk import Context


def tags(context: Context) -> dict[str, str]:
    """``dag``, ``task``, ``run``, ``try`` and ``map``; the last is "" for a task that is not mapped."""
    ti = context["ti"]
    map_index = getattr(ti, "map_index", -1)
    return {
        "dag": ti.dag_id,
        "task": ti.task_id,
        "run": ti.run_id,
        "try": str(ti.try_number),
        "map": str(map_index) if map_index is not None and map_index >= 0 else "",
    }


def attempt(context: Context) -> Attempt:
    """Which try this is. Clearing a task raises its ``max_tries``; a run that is cleared when it is over, or deleted
    and made again, has another start (``clear_task_instances`` of Airflow 2.11 to 3.3)."""
    ti, run = context["ti"], context.get("dag_run")
    began = ti.start_date.timestamp() if ti.start_date else time.time()  # a DAG's own tests may not start it
    return Attempt(ti.try_number, began, f"{run.start_date} {ti.max_tries}" if run is not None else "")


def ticket(tags: Mapping[str, str]) -> str:
    """The name of a try's place in the line, the same in whatever process it comes back."""
    return f"{owner(tags)} try {tags.get('try', '')}"
