"""``stick_to`` in every form that people write: it sticks and sets the dependency, or an error says what to write."""

import re
from datetime import datetime

import pytest
from airflow.providers.common.compat.sdk import DAG, AirflowFailException, task, task_group
from airflow.providers.common.sql.hooks.handlers import fetch_all_handler
from airflow.providers.common.sql.operators.generic_transfer import GenericTransfer
from airflow.providers.common.sql.operators.sql import SQLExecuteQueryOperator

from airflow_provider_impala_lb.hooks.impala_lb import ImpalaLBHook
from airflow_provider_impala_lb.operators.impala_lb import ImpalaLBOperator
from tests.support.stick_forms import MAPPED_READERS, READERS, UPSTREAM

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


def test_the_scheduler_reads_what_was_written():
    """Each form is serialized: the scheduler knows the DAG by that alone."""
    try:
        from airflow.serialization.serialized_objects import DagSerialization as Serialization
    except ImportError:
        from airflow.serialization.serialized_objects import SerializedDAG as Serialization

    with DAG("forms", start_date=datetime(2026, 1, 1), schedule=None) as dag:
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


@pytest.mark.slow
def test_each_form_reads_what_was_loaded_a_moment_ago(run_dag, cluster):
    """And the checks, sensors and transfers: they fail by themselves where rows are missing."""
    make_tables()
    run = run_dag("stick_forms")
    assert {name: state for name, state in run.states.items() if state != "success"} == {"no": "skipped"}
    found = {name: run.xcom(name) for name in READERS}
    assert {name: [list(row) for row in rows] for name, rows in found.items()} == {name: [[1]] for name in READERS}
    for name, count in MAPPED_READERS.items():
        assert [[list(row) for row in run.xcom(name, map_index=n)] for n in range(count)] == [[[1]]] * count, name
    node = on_node(cluster, run.run.run_id)
    for name, upstream in UPSTREAM.items():
        assert node[name] == node[upstream], name
    for n in range(3):
        assert run.xcom("twins", "impala_host", n) == run.xcom("loads", "impala_host", n)
    assert count_rows(run.run.run_id, 9) == 1


def make_tables():
    ImpalaLBHook().run("SET SYNC_DDL=1; DROP TABLE IF EXISTS stuck_rows; CREATE TABLE stuck_rows (r STRING, n INT)")


def count_rows(run_id, n):
    read = f"REFRESH stuck_rows; SELECT count(*) FROM stuck_rows WHERE r = '{run_id}' AND n = {n}"
    return ImpalaLBHook().run(read, handler=fetch_all_handler)[0][0]


def on_node(cluster, run_id):
    """Where each task ran its statements, by the coordinators' own journals; a set for one that ran on several."""
    found = {}
    for node in cluster.nodes:
        for entry in node.journal():
            label = re.search(r"dag=stick_forms task=(\S+) run=(\S+)", entry.get("sql", ""))
            if label and label[2] == run_id and "stuck_copy" not in entry["sql"]:
                found.setdefault(label[1], set()).add(node.address)
    return {name: nodes.pop() if len(nodes) == 1 else frozenset(nodes) for name, nodes in found.items()}


WRONG = {
    "beside": "nothing makes task 'beside' wait for 'load'",
    "beside_mapped": "nothing makes task 'beside_mapped' wait for 'load'",
    "beside_kwargs": "Write load >> beside_kwargs in the DAG, or stick to the operator's XCom",
    "beside_template": "nothing makes task 'beside_template' wait for 'load'",
    "hook_beside": 'load >> hook_beside in the DAG, or stick to the operator\'s XCom, <operator>.output["impala_host"]',
    "hook_operator": "nothing makes task 'hook_operator' wait for 'load'",
    "early": "task 'slow' has not finished (",
    "of_sql": "task 'sql' is a SQLExecuteQueryOperator, which leaves no host to stick to: make it an ImpalaLBOperator",
    "of_nothing": "task 'nothing' (_PythonDecoratedOperator) has run and left no host: stick to an ImpalaLBOperator",
    "of_a_missing_one": "'laod' is neither a task of DAG stick_wrong nor host:port; its tasks: after_skipped, beside",
    "hook_itself": "'hook_itself' is this task itself",
    "hook_rows": "is no host:port; of a task that ran a script it is the XCom impala_host: write <operator>.output[",
    "hook_missing_template": "it was rendered to nothing: the XCom is not there. Write the id of the task to stick to",
    "hook_unknown": "hook_params: stik_to is unknown; allowed: schema, session_key, stick_to",
}


@pytest.mark.slow
def test_what_does_not_stick_is_an_error_that_says_what_to_write(run_dag, capfd):
    run = run_dag("stick_wrong")
    states = run.states
    output = capfd.readouterr()
    said = " ".join((output.out + output.err).split())
    assert {name for name, state in states.items() if state == "failed"} == set(WRONG)
    assert {name: text for name, text in WRONG.items() if text not in said} == {}
    after = ("after_skipped", "template_of_skipped", "hook_after_skipped")
    assert [states[name] for name in after] == ["success"] * 3
    text = "skipped has left no host (skipped): an ordinary pick instead"
    count = sum(" ".join(stream.split()).count(text) for stream in output)
    assert count and count % 3 == 0, count  # once for each; dag.test() of Airflow 2.11.0 prints each line twice


def test_readers_whose_node_takes_no_more_move_and_read_all(run_dag, cluster):
    ImpalaLBHook().run("SET SYNC_DDL=1; DROP TABLE IF EXISTS stuck_moved; CREATE TABLE stuck_moved (r STRING)")
    run = run_dag("stick_moves")
    assert set(run.states.values()) == {"success"}, run.states
    host = run.xcom("load", "impala_host")
    assert run.xcom("ours", "impala_host") != host
    assert [list(row) for row in run.xcom("ours")] == [[1]]
    assert run.xcom("frame") == 1
    refreshed = [
        entry["sql"] for node in cluster.nodes for entry in node.journal() if "stuck_moved`" in entry.get("sql", "")
    ]
    assert len([sql for sql in refreshed if "metadata_sync=" in sql and "REFRESH" in sql]) == 4


def test_a_hook_with_a_session_key_stays_on_its_node(cluster):
    hooks = [ImpalaLBHook(session_key="together") for _ in range(2)]
    for number in range(2):  # with the keys of the connection's extra, which common-sql adds
        params = {"session_key": "together"}
        operator = SQLExecuteQueryOperator(task_id=f"t{number}", sql="SELECT 1", hook_params=params, **CONN)
        hooks.append(operator.get_db_hook())
    nodes = []
    for hook in hooks:
        hook.run("SELECT 1")
        nodes.append(hook.host)
        with hook.get_conn() as connection:
            nodes.append(connection.pick.node)
    assert len(set(nodes)) == 1


def test_a_hook_outside_of_a_task_takes_a_host_only(cluster):
    host = cluster.nodes[1].address
    hook = ImpalaLBHook(stick_to=host)
    hook.run("SELECT 1")
    assert hook.host == host
    with hook.get_conn() as connection:
        assert connection.pick.node == host
    with pytest.raises(AirflowFailException, match="'load' is taken for a task id, but no task runs here"):
        ImpalaLBHook(stick_to="load").get_first("SELECT 1")


def test_a_hook_goes_on_where_it_has_changed_something(cluster):
    """What it wrote is not known elsewhere for seconds. Without a change each run is placed anew."""
    for _ in range(3):
        hook = ImpalaLBHook()
        hook.run("DROP TABLE IF EXISTS hook_steps; CREATE TABLE hook_steps (a INT)")
        hook.insert_rows("hook_steps", [(1,)])
        assert hook.get_first("SELECT count(*) FROM hook_steps") == (1,)
    hook, nodes = ImpalaLBHook(), set()
    for _ in range(9):
        hook.get_first("SELECT 1")
        nodes.add(hook.host)
    assert len(nodes) > 1


def test_a_group_is_no_task(dag):
    @task_group
    def group():
        ours("load")

    with pytest.raises(TypeError, match="allowed: an ImpalaLBOperator"):
        ours("t", stick_to=group())
