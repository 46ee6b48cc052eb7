"""The host that a running task's ``stick_to`` names: looked up at run time, in XComs and the states of other tasks.

What ``stick_to`` may be in a DAG file, and the dependency that it sets, is `operators/parse_stick_to.py`. Airflow 3
gives a running task no database: states of other tasks come through its supervisor
(``RuntimeTaskInstance.get_task_states``), as XComs do. Airflow 2 reads both from the database.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from logging import Logger
from typing import TYPE_CHECKING, Any, NamedTuple

from airflow.providers.common.compat.sdk import (
    AirflowFailException,
    BaseOperator,
    MappedOperator,
    XComArg,
    get_current_context,
)

from airflow_provider_impala_lb.impala.script.upstream import Upstream

if TYPE_CHECKING:
    from airflow.providers.common.compat.sdk import DAG, Context

XCOM_HOST = "impala_host"
"""XCom key: the node a task ran on, ``host:port``; there before its first statement."""
XCOM_RUN = "impala_run"
"""XCom key: how a script ended: ``host``, ``why`` (this node), ``session``, ``seconds``, ``statements``, ``resumed``
(those that an earlier attempt had done) and ``rows`` (counts), ``query_ids`` (the last 100). And for a sticky task that
has to move, what the other coordinators may not know yet: ``ended`` (seconds since the epoch; ``ended_at``: the same as
a date, in UTC), ``published``, ``written`` and ``dropped`` (names of tables), ``complete`` (nothing else was changed),
and ``unpublished`` (those of them that others may not know; None: that is not known)."""
XCOM_RESULT = "return_value"
"""Airflow's own XCom key."""

_FINISHED = ("success", "failed", "skipped", "upstream_failed", "removed")
_COMMON_SQL = "airflow.providers.common.sql."


class StickTo(NamedTuple):
    """A ``stick_to`` as a running task has it.

    :ivar value: a host, a task id, an operator, or what an XCom held; templates are rendered.
    :ivar key: the XCom of the upstream task that holds its host; default ``impala_host``.
    :ivar template_of: the task whose XCom the template was that ``value`` comes from; None: not known, or none.
    """

    value: Any
    key: str = XCOM_HOST
    template_of: str | None = None


class StickyHost(NamedTuple):
    """A host to stick to.

    :ivar host: ``host:port``; None: there is none, so an ordinary pick.
    :ivar upstream: what its task changed there; None: not known.
    :ivar task_id: that task; None: not known, since ``stick_to`` was a host.
    """

    host: str | None = None
    upstream: Upstream | None = None
    task_id: str | None = None


def resolve(
    stick_to: StickTo, context: Context | None, log: Logger, *, dag: DAG | None = None, check: bool = True
) -> StickyHost:
    """The host that ``stick_to`` names.

    :param stick_to: what was written in the DAG file, with its templates rendered.
    :param context: of the task that runs; None outside of one: then only a host can be meant.
    :param log: is told where an upstream has left no host.
    :param dag: the running task's; default the context's.
    :param check: see that the upstream task has finished, and that the one that runs waits for it; default True.
    :raises AirflowFailException: it leads nowhere, or the upstream has not finished; the text says what to write.
    """
    value, key, template_of = stick_to
    if isinstance(value, XComArg):  # where the field is no template
        key, value = _unresolved(value)
    if isinstance(value, (BaseOperator, MappedOperator)):
        value = value.task_id
    text = value.strip() if isinstance(value, str) else None
    if text and "{{" in text:
        raise _wrong(f"{text!r} is no template here, where common-sql renders none: write the task id")
    if text in ("", "None"):  # as a template renders an XCom that is missing
        text = value = None
    named = text is not None and ":" not in text
    if not named and template_of is None:
        if value is None:
            raise _wrong("it was rendered to nothing: the XCom is not there. Write the id of the task to stick to")
        return StickyHost(_one_host(value))
    if context is None:
        raise _wrong(
            f"{text!r} is taken for a task id, but no task runs here whose DAG could be asked: write host:port"
        )
    upstream = _Upstream(context, dag or context.get("dag"), str(text) if named else str(template_of))
    if check:
        upstream.check()
    host = upstream.host(key) if named else _one_host(value)
    if host is None:
        upstream.check_that_it_may_have_none()
        log.warning("%s has left no host (%s): an ordinary pick instead", upstream.task_id, upstream.described)
        return StickyHost(task_id=upstream.task_id)
    return StickyHost(host, upstream.changes(host), upstream.task_id)


def running_task() -> Context | None:
    """The context of the task that runs in this process; None: in a trigger, or outside of Airflow."""
    try:
        return get_current_context()
    except Exception:  # RuntimeError on Airflow 3, AirflowException on Airflow 2
        return None


class _Upstream:
    """A task to stick to, as the one that runs sees it."""

    def __init__(self, context: Context, dag: DAG | None, name: str) -> None:
        self._ti, self._dag = context["ti"], dag
        self._me: str = self._ti.task_id
        self.task_id = name if self._dag is None else self._resolve(self._dag, name)
        if self.task_id == self._me:
            raise _wrong(f"{name!r} is this task itself")
        index = getattr(self._ti, "map_index", -1)
        self._index: int = -1 if index is None else index
        self._states = _states(context, self.task_id)

    def _resolve(self, dag: DAG, name: str) -> str:
        """The id in the DAG: as it is, or else within the running task's group, or in one around it."""
        groups = self._me.split(".")[:-1]
        for depth in (0, *range(len(groups), 0, -1)):
            task_id = ".".join([*groups[:depth], name])
            if dag.has_task(task_id):
                return task_id
        raise _wrong(
            f"{name!r} is neither a task of DAG {dag.dag_id} nor host:port; its tasks: "
            f"{', '.join(sorted(dag.task_ids))}"
        )

    @property
    def _twin(self) -> bool | None:
        """Whether it is mapped as the running task is, and its instance of the same index is meant. None: unknown."""
        if self._index < 0:
            return False
        return None if self._states is None else self._index in self._states

    @property
    def _meant(self) -> dict[int, str | None]:
        states = self._states or {}
        return {self._index: states[self._index]} if self._twin else states

    @property
    def described(self) -> str:
        """The state it is in."""
        states = sorted({state or "not begun" for state in self._meant.values()})
        return ", ".join(states) or "it is not part of this run"

    def check(self) -> None:
        """:raises AirflowFailException: it leaves no host, has not finished, or nobody waits for it."""
        if self._dag is not None:
            kind = kind_of(self._dag.get_task(self.task_id))
            if kind is not None and leaves_no_host(kind):
                raise _wrong(no_host_text(self.task_id, kind))
        how = (
            f"Write {self.task_id} >> {self._me} in the DAG, or stick to the operator's XCom, "
            f'<operator>.output["{XCOM_HOST}"], which makes the task wait'
        )
        if self._dag is not None and not _is_before(self._dag, self.task_id, self._me):
            raise _wrong(
                f"nothing makes task {self._me!r} wait for {self.task_id!r}, so it may run before that has written "
                f"all. {how}"
            )
        if any(state not in _FINISHED for state in self._meant.values()):
            raise _wrong(
                f"task {self.task_id!r} has not finished ({self.described}), so it has not written all. {how}, and "
                "give this task a trigger_rule by which it does (all_success, all_done, none_failed, ...)"
            )

    def host(self, key: str) -> str | None:
        host = _one_host(self._pull(key))
        if host is None and key == XCOM_HOST:  # a task of one's own that returns a host
            result = self._pull(XCOM_RESULT)
            host = result if isinstance(result, str) and ":" in result else None
        return host

    def check_that_it_may_have_none(self) -> None:
        """Skipped and failed tasks, and those that a user has marked, have none.

        :raises AirflowFailException: it has run well, and is of a kind that never has one.
        """
        if self._dag is None or not self._meant or set(self._meant.values()) != {"success"}:
            return
        kind = kind_of(self._dag.get_task(self.task_id))
        if kind is not None and not getattr(kind, "leaves_host", False):
            raise _wrong(
                f"task {self.task_id!r} ({kind.__name__}) has run and left no host: stick to an ImpalaLBOperator, or "
                "to a task that returns host:port"
            )

    def changes(self, host: str) -> Upstream | None:
        """What it changed on ``host``; None: not known."""
        runs = self._pull(XCOM_RUN)
        changes = [
            Upstream.of(run)
            for run in ([runs] if isinstance(runs, Mapping) else runs or [])
            if isinstance(run, Mapping) and run.get("host") == host
        ]
        if not changes or (not isinstance(runs, Mapping) and len(changes) < len(self._meant)):
            return None
        last = max(changes, key=lambda each: each.ended or 0.0)
        return last.after(each for each in changes if each is not last)

    def _pull(self, key: str) -> Any:
        if self._twin is not False:
            value = self._ti.xcom_pull(task_ids=self.task_id, key=key, map_indexes=self._index)
            if self._twin or value is not None:
                return value
        return self._ti.xcom_pull(task_ids=self.task_id, key=key)


def kind_of(task: Any) -> type | None:
    """An operator's class.

    :param task: an operator, also a mapped one.
    :returns: the class; None: it is not known here.
    """
    kind = getattr(task, "operator_class", type(task))
    return kind if isinstance(kind, type) else None


def leaves_no_host(kind: type) -> bool:
    """Whether operators of this class never push ``impala_host``: those of common-sql, which know no node.

    :param kind: an operator's class.
    """
    return not getattr(kind, "leaves_host", False) and any(
        base.__module__.startswith(_COMMON_SQL) for base in kind.mro()
    )


def no_host_text(task_id: str, kind: type) -> str:
    """What to say of a task that leaves no host.

    :param task_id: of it.
    :param kind: its class.
    """
    return (
        f"task {task_id!r} is a {kind.__name__}, which leaves no host to stick to: make it an ImpalaLBOperator, or "
        "give both tasks the same session_key (there: hook_params={'session_key': ...})"
    )


def _states(context: Context, task_id: str) -> dict[int, str | None] | None:
    """The state of each instance of a task in this run, by its map index; -1: it is not mapped. None: not known."""
    ti: Any = context["ti"]
    if hasattr(ti, "get_task_states"):  # Airflow 3
        states = ti.get_task_states(dag_id=ti.dag_id, task_ids=[task_id], run_ids=[ti.run_id]).get(ti.run_id) or {}
        # The name of a mapped one is "<task id>_<map index>" (the execution API's get_task_instance_states).
        return {
            -1 if name == task_id else int(name.removeprefix(f"{task_id}_")): state for name, state in states.items()
        }
    run: Any = context.get("dag_run")
    if not hasattr(run, "fetch_task_instances"):
        return None
    return {
        other.map_index: None if other.state is None else str(other.state)
        for other in run.fetch_task_instances(ti.dag_id, ti.run_id, [task_id])
    }


def _is_before(dag: DAG, task_id: str, me: str) -> bool:
    """Whether ``me`` is downstream of ``task_id``, directly or through others."""
    seen: set[str] = set()
    remaining = [me] if dag.has_task(me) else []
    while remaining:
        for upstream in dag.get_task(remaining.pop()).upstream_task_ids - seen:
            seen.add(upstream)
            remaining.append(upstream)
    return task_id in seen


def _unresolved(argument: XComArg) -> tuple[str, Any]:
    """The key and the operator of an XComArg that nobody has resolved."""
    operator, key = getattr(argument, "operator", None), getattr(argument, "key", XCOM_HOST)
    if operator is None:
        raise _wrong(f"{argument!r} cannot be resolved here: write the task id")
    return XCOM_HOST if getattr(kind_of(operator), "leaves_host", False) else key, operator


def _one_host(value: Any) -> str | None:
    """A host from a template or an XCom. Those of a mapped upstream count if they are all the same."""
    if value is None or isinstance(value, str):
        text = (value or "").strip()
        return text if text not in ("", "None") else None
    if isinstance(value, Sequence):
        if any(not isinstance(host, str) for host in value if host is not None):
            raise _not_a_host(value)
        hosts = {host for host in value if host is not None}
        if len(hosts) <= 1:
            return hosts.pop() if hosts else None
        raise _wrong(
            f"the upstream was mapped and ran on {len(hosts)} hosts ({', '.join(sorted(hosts))}): name one of them"
        )
    raise _not_a_host(value)


def _not_a_host(value: Any) -> AirflowFailException:
    return _wrong(
        f"a {type(value).__name__} is no host:port; of a task that ran a script it is the XCom "
        f'{XCOM_HOST}: write <operator>.output["{XCOM_HOST}"], or the task id'
    )


def _wrong(text: str) -> AirflowFailException:
    return AirflowFailException(f"stick_to: {text}")
