"""``stick_to`` in every form that people write: it sticks and sets the dependency, or an error says what to write."""

import re
from datetime import datetime

import pytest
from airflow.providers.common.compat.sdk import DAG, task, task_group
from airflow.providers.common.sql.operators.generic_transfer import GenericTransfer
from airflow.providers.common.sql.operators.sql import SQLExecuteQueryOperator

from airflow_provider_impala_lb.operators.impala_lb import ImpalaLBOperator

CONN = {"conn_id": "impala_lb_default"}


@pytest.fixture
def dag():
    with DAG("forms", start_date=datetime(2026, 1, 1), schedule=None) as dag:
        yield dag


def ours(task_id, **options):
    return ImpalaLBOperator(task_id=task_id, sql="SELECT 1", **options)


def mapped(task_id, **options):
    return ImpalaLBOperator.partial(task_id=task_id, **options).expand(sql=["SELECT 1", "SELECT 2"])


@task
def pick_host():
    return "h:21050"


SINGLE = {
    "operator": lambda up: up,
    "output": lambda up: up.output,
    "its key": lambda up: up.output["impala_host"],
}


@pytest.mark.parametrize("make", [ours, mapped], ids=["plain", "mapped"])
@pytest.mark.parametrize("upstream", [ours, mapped], ids=["of a plain one", "of a mapped one"])
@pytest.mark.parametrize("form", SINGLE)
def test_each_form_sets_the_dependency(dag, make, upstream, form):
    up = upstream("load")
    down = make("report", stick_to=SINGLE[form](up))
    assert down.upstream_task_ids == {"load"}
    assert up.downstream_task_ids == {"report"}
    if make is ours:
        assert down.stick_to == "load"


@pytest.mark.parametrize("make", [ours, mapped], ids=["plain", "mapped"])
def test_a_task_that_returns_a_host_sets_the_dependency(dag, make):
    assert make("report", stick_to=pick_host()).upstream_task_ids == {"pick_host"}


def test_what_is_mapped_over_sets_the_dependencies(dag):
    a, b, c, d = (ours(name) for name in "abcd")
    down = ImpalaLBOperator.partial(task_id="x", sql="SELECT 1").expand(stick_to=[a, b.output, "c", "h:1"])
    assert down.upstream_task_ids == {"a", "b"}
    each = [{"stick_to": c, "sql": "SELECT 1"}, {"stick_to": d.output["impala_host"], "sql": "SELECT 2"}, {"sql": "S"}]
    other = ImpalaLBOperator.partial(task_id="y").expand_kwargs(each)
    assert other.upstream_task_ids == {"c", "d"}
    hosts = ImpalaLBOperator.partial(task_id="z", sql="SELECT 1").expand(stick_to=pick_host())
    assert hosts.upstream_task_ids == {"pick_host"}


def test_within_groups_and_as_setup_and_teardown(dag):
    @task_group
    def group():
        load = ours("load")
        return ours("report", stick_to=load)

    group()
    assert dag.get_task("group.report").upstream_task_ids == {"group.load"}
    create = ours("create").as_setup()
    drop = ours("drop", stick_to=create).as_teardown(setups=create)
    assert drop.upstream_task_ids == {"create"}
    assert drop.is_teardown


def test_the_scheduler_reads_what_was_written(dag):
    """Each form is serialized: the scheduler knows the DAG by that alone."""
    try:
        from airflow.serialization.serialized_objects import DagSerialization as Serialization
    except ImportError:
        from airflow.serialization.serialized_objects import SerializedDAG as Serialization

    up, many = ours("up"), mapped("many")
    for number, form in enumerate(SINGLE.values()):
        ours(f"plain_{number}", stick_to=form(up))
        mapped(f"mapped_{number}", stick_to=form(many))
    ours("text", stick_to="up")
    ours("host", stick_to=pick_host())
    ImpalaLBOperator.partial(task_id="over", sql="SELECT 1").expand(stick_to=[up, "up"])
    ImpalaLBOperator.partial(task_id="kwargs", sql="SELECT 1").expand_kwargs([{"stick_to": up}, {"stick_to": "up"}])
    read = Serialization.from_dict(Serialization.to_dict(dag))
    for name in dag.task_ids:
        assert read.get_task(name).upstream_task_ids == dag.get_task(name).upstream_task_ids


REFUSED = {
    "common-sql's operator": (
        lambda it: ours("t", stick_to=it.sql),
        "'sql' is a SQLExecuteQueryOperator, which leaves",
    ),
    "its output": (
        lambda it: mapped("t", stick_to=it.sql.output),
        "make it an ImpalaLBOperator, or give both tasks the same session_key",
    ),
    "a transfer": (lambda it: ours("t", stick_to=it.transfer), "GenericTransfer, which leaves no host"),
    "another key": (lambda it: ours("t", stick_to=it.up.output["impala_run"]), "write stick_to=<the operator>"),
    "rows": (lambda it: ours("t", stick_to=it.up.output.map(str)), "made of rows, not of a host"),
    "a list": (lambda it: ours("t", stick_to=[it.up]), "stick_to is a list; allowed: an ImpalaLBOperator"),
    "a function": (lambda it: ours("t", stick_to=pick_host), "allowed: an ImpalaLBOperator"),
    "itself": (lambda it: ours("t", stick_to="t"), "'t' is this task itself"),
    "itself, mapped": (lambda it: mapped("t", stick_to="t"), "'t' is this task itself"),
    "rows to map over": (lambda it: over(it.up.output), "write partial(stick_to=<the operator>)"),
    "a key to map over": (lambda it: over(it.up.output["impala_host"]), "write partial(stick_to=<the operator>)"),
    "one of several": (lambda it: over([it.up, it.sql]), "leaves no host"),
    "a number": (
        lambda it: ImpalaLBOperator.partial(task_id="t").expand_kwargs([{"sql": "S", "stick_to": 3}]),
        "stick_to is a int",
    ),
    "hook_params": (lambda it: ours("t", hook_params={"stick_to": "up"}), "write stick_to=..."),
    "a key there": (lambda it: ours("t", hook_params={"session_key": "up"}), "write session_key=..."),
}


def over(stick_to):
    return ImpalaLBOperator.partial(task_id="t", sql="SELECT 1").expand(stick_to=stick_to)


class It:
    """Tasks that are there already."""

    def __init__(self):
        self.up = ours("up")
        self.sql = SQLExecuteQueryOperator(task_id="sql", sql="SELECT 1", **CONN)
        ends = {"source_conn_id": "a", "destination_conn_id": "b"}
        self.transfer = GenericTransfer(task_id="transfer", sql="", destination_table="t", **ends)


@pytest.mark.parametrize("wrong", REFUSED)
def test_what_can_never_stick_is_refused_when_the_file_is_read(dag, wrong):
    make, text = REFUSED[wrong]
    with pytest.raises((TypeError, ValueError), match=re.escape(text)):
        make(It())


def test_a_group_is_no_task(dag):
    @task_group
    def group():
        ours("load")

    with pytest.raises(TypeError, match="allowed: an ImpalaLBOperator"):
        ours("t", stick_to=group())
