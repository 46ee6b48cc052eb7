"""Where an upstream task ran, for a task that is to stick to it."""

from __future__ import annotations

from collections.abc import Sequence
from logging import Logger
from typing import TYPE_CHECKING, Any, NamedTuple

from airflow.providers.common.compat.sdk import AirflowException, AirflowFailException

from airflow_provider_impala_lb.impala.barrier import Upstream

if TYPE_CHECKING:
    from airflow.providers.common.compat.sdk import DAG, Context

XCOM_HOST = "impala_host"
"""The node a task ran on, ``host:port``; there before its first statement."""
XCOM_RUN = "impala_run"
"""How a script ended: ``host``, ``why`` (this node), ``session``, ``seconds``, ``statements``, ``resumed`` (those that
an earlier try had done) and ``rows`` (counts), ``query_ids`` (the last 100). And for a sticky task that has to move,
what the other coordinators may not have heard of: ``ended`` (seconds since the epoch), ``published``, ``written`` and
``dropped`` (names of tables), ``complete`` (nothing else was changed)."""


class Stuck(NamedTuple):
    """A host to stick to, what its task changed there, and that task's id; each None if not known."""

    host: str | None = None
    upstream: Upstream | None = None
    task_id: str | None = None


def find(stick_to: Any, task_id: str | None, context: Context, dag: DAG | None, log: Logger) -> Stuck:
    """Where ``stick_to`` leads.

    :param stick_to: rendered: a host, a task id, or an XCom's value; None if that is missing.
    :param task_id: whose it is, as far as that is known.
    :raises AirflowFailException: a task id that ``dag`` does not have, or the hosts of a mapped upstream.
    """
    if stick_to is None:
        if task_id:
            _say_no_host(task_id, log)
        return Stuck()
    if not isinstance(stick_to, str) or ":" in stick_to:
        host = _one_host(stick_to)
    else:
        task_id = stick_to
        if dag is not None and not dag.has_task(task_id):
            raise AirflowFailException(
                f"stick_to: {task_id!r} is neither a task of DAG {dag.dag_id} nor host:port; "
                f"its tasks: {', '.join(sorted(dag.task_ids))}"
            )
        host = _one_host(_pull(context, task_id, XCOM_HOST))
    if host is None:
        _say_no_host(task_id or str(stick_to), log)
        return Stuck(task_id=task_id)
    run = _pull(context, task_id, XCOM_RUN) if task_id else None
    return Stuck(host, Upstream.of(run) if isinstance(run, dict) and run.get("host") == host else None, task_id)


def _pull(context: Context, task_id: str, key: str) -> Any:
    ti = context["ti"]
    map_index = getattr(ti, "map_index", -1)
    if map_index is not None and map_index >= 0:  # mapped side by side with its upstream: its own twin's host
        twin = ti.xcom_pull(task_ids=task_id, key=key, map_indexes=map_index)
        if twin is not None:
            return twin
    return ti.xcom_pull(task_ids=task_id, key=key)


def _one_host(value: Any) -> str | None:
    """A host from a template or an XCom. Those of a mapped upstream count if they are all the same."""
    if value is None or isinstance(value, str):
        text = (value or "").strip()
        return text if text not in ("", "None") else None
    if isinstance(value, Sequence):
        hosts = {host for host in value if host is not None}
        if len(hosts) <= 1:
            return hosts.pop() if hosts else None
        raise AirflowFailException(
            f"stick_to: the upstream was mapped and ran on {len(hosts)} hosts ({', '.join(sorted(hosts))}): "
            "name one of them"
        )
    raise AirflowException(f"stick_to: {value!r} is not a host:port")


def _say_no_host(upstream: str, log: Logger) -> None:
    log.warning("%s has left no host (skipped, or it never picked one): an ordinary pick instead", upstream)
