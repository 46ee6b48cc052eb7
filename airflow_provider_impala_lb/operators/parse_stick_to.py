"""``stick_to`` as people write it in a DAG file: what it refers to, and the dependency that it sets, at parse time.

The host that it comes to when the task runs is found by `hooks/resolve_stick_to.py`.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import TYPE_CHECKING, Any, NamedTuple

from airflow.providers.common.compat.sdk import BaseOperator, MappedOperator, XComArg

from airflow_provider_impala_lb.hooks.resolve_stick_to import (
    XCOM_HOST,
    XCOM_RESULT,
    kind_of,
    leaves_no_host,
    no_host_text,
)

if TYPE_CHECKING:
    from airflow.sdk.definitions.mappedoperator import OperatorPartial
else:
    try:
        from airflow.sdk.definitions.mappedoperator import OperatorPartial
    except ImportError:  # Airflow 2
        from airflow.models.mappedoperator import OperatorPartial

Operator = BaseOperator | MappedOperator
_ALLOWED = "allowed: an ImpalaLBOperator (or its .output), a task id, host:port, an XComArg of a task that returns one"


class Reference(NamedTuple):
    """What a ``stick_to`` refers to.

    :ivar stick_to: a task id, a host, a template, or an XComArg that Airflow resolves; None: nothing.
    :ivar upstream: the operator to depend on; None: none, or an XComArg, which sets its dependencies by itself.
    :ivar key: the XCom of the task that holds its host.
    :ivar template_of: the task whose XCom a template pulls; None: it cannot be read from the template.
    """

    stick_to: str | XComArg | None = None
    upstream: Operator | None = None
    key: str = XCOM_HOST
    template_of: str | None = None


def refer(stick_to: Any, task: Any) -> Reference:
    """What a ``stick_to`` refers to.

    :param stick_to: as written in the DAG file; None: nothing.
    :param task: whose it is; anything with its ``task_id``.
    :raises ValueError: it can lead nowhere; the text says what to write.
    :raises TypeError: it is nothing that can be stuck to; the text says what to write.
    """
    if stick_to is None:
        return Reference()
    if isinstance(stick_to, str):
        if stick_to == task.task_id:
            raise ValueError(f"stick_to: {stick_to!r} is this task itself")
        return Reference(stick_to, template_of=_task_of_template(stick_to, task) if "{{" in stick_to else None)
    if isinstance(stick_to, (BaseOperator, MappedOperator)):
        return _to_operator(stick_to, XCOM_HOST, task)
    if not isinstance(stick_to, XComArg):
        raise TypeError(f"stick_to is a {type(stick_to).__name__}; {_ALLOWED}")
    if (operator := getattr(stick_to, "operator", None)) is not None:
        return _to_operator(operator, str(getattr(stick_to, "key", XCOM_RESULT)), task)
    for operator, _ in stick_to.iter_references():  # of what map(), zip() or concat() give
        if getattr(kind_of(operator), "leaves_host", False):
            raise TypeError(f"stick_to: {stick_to!r} is made of rows, not of a host: write stick_to=<the operator>")
        _to_operator(operator, XCOM_RESULT, task)
    return Reference(stick_to)


def _to_operator(operator: Any, key: str, task: Any) -> Reference:
    kind, task_id = kind_of(operator), operator.task_id
    if task_id == task.task_id:
        raise ValueError(f"stick_to: {task_id!r} is this task itself")
    if kind is not None and leaves_no_host(kind):
        raise ValueError(f"stick_to: {no_host_text(task_id, kind)}")
    if not getattr(kind, "leaves_host", False):
        return Reference(task_id, operator, key)
    if key not in (XCOM_HOST, XCOM_RESULT):
        raise ValueError(f"stick_to: the XCom {key!r} of {task_id!r} is no host: write stick_to=<the operator>")
    return Reference(task_id, operator)


class _Named(NamedTuple):
    task_id: str


class StickyPartial(OperatorPartial):
    """What ``ImpalaLBOperator.partial`` returns. Operators as ``stick_to`` set the dependency, as XComArgs do."""

    @classmethod
    def of(cls, partial: Callable[..., OperatorPartial], kwargs: dict[str, Any]) -> StickyPartial:
        """Airflow's own partial operator, with the dependency that its ``stick_to`` sets.

        :param partial: BaseOperator's ``partial``.
        :param kwargs: what the DAG file gives it.
        :raises ValueError: as :func:`refer`.
        :raises TypeError: as :func:`refer`.
        """
        made = partial(**kwargs)
        made._expand_called = True  # else Airflow warns that it was never mapped
        reference = refer(made.kwargs.get("stick_to"), _Named(made.kwargs["task_id"]))
        if reference.upstream is not None:
            # A MappedOperator depends on the XComArgs among its arguments.
            made.kwargs["stick_to"] = XComArg(reference.upstream, reference.key)
        return cls(operator_class=made.operator_class, kwargs=made.kwargs, params=made.params)

    def expand(self, **mapped_kwargs: Any) -> MappedOperator:
        """As Airflow's; each ``stick_to`` that is mapped over sets its dependency.

        :param mapped_kwargs: lists, or XComArgs that give them.
        :raises ValueError: as :func:`refer`.
        :raises TypeError: as :func:`refer`; or ``stick_to`` is mapped over rows.
        """
        upstream: list[Operator] = []
        if "stick_to" in mapped_kwargs:
            mapped_kwargs["stick_to"] = self._each(mapped_kwargs["stick_to"], upstream)
        return _after(super().expand(**mapped_kwargs), upstream)

    def expand_kwargs(self, kwargs: Any, *, strict: bool = True) -> MappedOperator:
        """As Airflow's; each ``stick_to`` in it sets its dependency.

        :param kwargs: a list of mappings, or an XComArg that gives one.
        :param strict: as Airflow's: what ``partial`` has already is an error; default True.
        :raises ValueError: as :func:`refer`.
        :raises TypeError: as :func:`refer`.
        """
        upstream: list[Operator] = []
        if isinstance(kwargs, Sequence) and not isinstance(kwargs, str):
            kwargs = [
                {**each, "stick_to": self._one(each["stick_to"], upstream)}
                if isinstance(each, Mapping) and "stick_to" in each
                else each
                for each in kwargs
            ]
        return _after(super().expand_kwargs(kwargs, strict=strict), upstream)

    def _each(self, stick_to: Any, upstream: list[Operator]) -> Any:
        """What is mapped over: a list, or the list that a task returns."""
        if isinstance(stick_to, XComArg):
            for operator, _ in stick_to.iter_references():
                if getattr(kind_of(operator), "leaves_host", False):
                    raise TypeError(
                        f"expand(stick_to=...): {stick_to!r} is made of rows, not of hosts: to stick each to the one "
                        "of the same index, write partial(stick_to=<the operator>)"
                    )
            return stick_to
        if isinstance(stick_to, Sequence) and not isinstance(stick_to, str):
            return [self._one(each, upstream) for each in stick_to]
        return stick_to

    def _one(self, stick_to: Any, upstream: list[Operator]) -> Any:
        reference = refer(stick_to, _Named(self.kwargs["task_id"]))
        if reference.upstream is None:
            return stick_to
        upstream.append(reference.upstream)
        return reference.stick_to if reference.key == XCOM_HOST else stick_to


def _after(task: MappedOperator, upstream: Sequence[Operator]) -> MappedOperator:
    for each in upstream:
        task.set_upstream(each)
    return task


def _task_of_template(template: str, task: Any) -> str | None:
    """The task of the same DAG run whose XCom it pulls, if it pulls one, and that is in its text."""
    from jinja2 import Environment, TemplateSyntaxError, nodes

    try:
        calls = list(Environment(autoescape=True).parse(template).find_all(nodes.Call))
    except TemplateSyntaxError:
        return None  # Airflow says so when it renders it
    pulls = [call for call in calls if isinstance(call.node, nodes.Getattr) and call.node.attr == "xcom_pull"]
    if len(pulls) != 1:
        return None
    given = {argument.key: argument.value for argument in pulls[0].kwargs}
    task_id = given.get("task_ids", pulls[0].args[0] if pulls[0].args else None)
    dag_id = given.get("dag_id")
    if "run_id" in given or "include_prior_dates" in given or len(pulls[0].args) > 1:
        return None
    if dag_id is not None and not (isinstance(dag_id, nodes.Const) and dag_id.value == getattr(task, "dag_id", None)):
        return None
    return task_id.value if isinstance(task_id, nodes.Const) and isinstance(task_id.value, str) else None
