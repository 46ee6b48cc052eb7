"""``publish``: at a script's end every coordinator has heard of what it changed; or what is known."""

import json
import time
import urllib.request

import pytest

from airflow_provider_impala_lb.impala.script.handover_message import Deferred, Handover
from airflow_provider_impala_lb.impala.sql.splitter import split
from airflow_provider_impala_lb.sandbox import Sandbox
from airflow_provider_impala_lb.stores.factory import open_journals
from tests.support.scripts import changed, only, rows_of, run, script_run, sent, statements_on

LAG = 3.0


@pytest.fixture(scope="module")
def lagging():
    with Sandbox(nodes=3, lag=LAG) as cluster:
        yield cluster


@pytest.fixture
def table(lagging):
    """All coordinators know it, with the row 0."""
    name = f"t{time.time_ns()}"
    run(changed(lagging), f"SET SYNC_DDL=1; CREATE TABLE {name} AS SELECT 0 a")
    return name


def seen_by(cluster, sql):
    """The rows, for each coordinator."""
    return [sorted(run(only(cluster, node), sql, handler=rows_of).results[0]) for node in cluster.nodes]


def options_of(node, query_id):
    with urllib.request.urlopen(f"{node.web}/query_profile?query_id={query_id}", timeout=5) as page:
        text = page.read().decode()
    return next(line for line in text.splitlines() if "Query Options" in line)


def barriers_on(node):
    return [sql.split("*/ ", 1)[1] for sql in statements_on(node) if "metadata_sync=" in sql]


def moves(cluster, upstream, sql):
    """A script that should have stuck to the first coordinator, which takes no more: its run, and the barrier's SQL."""
    balancer = changed(cluster, lock_file=str(cluster.directory / f"{time.time_ns()}.tmp"))
    balancer.drain(upstream.host)
    before = {node.address: len(barriers_on(node)) for node in cluster.nodes}
    done = run(balancer, sql, prefer=upstream.host, upstream=upstream, handler=rows_of)
    assert done.node != upstream.host
    node = next(node for node in cluster.nodes if node.address == done.node)
    return done, barriers_on(node)[before[done.node] :]


@pytest.mark.slow
def test_without_it_the_others_do_not_see_the_rows(lagging, table):
    done = run(only(lagging, lagging.nodes[0]), f"INSERT INTO {table} VALUES (1)")
    assert seen_by(lagging, f"SELECT a FROM {table}") == [[(0,), (1,)], [(0,)], [(0,)]]
    assert not done.left.published


def test_with_it_they_do_at_once_and_a_move_needs_no_refresh(lagging, table):
    script = f"CREATE TABLE {table}_b AS SELECT 5 b; INSERT INTO {table} VALUES (1); SELECT 1"
    done = run(only(lagging, lagging.nodes[0]), script, publish=30.0)
    assert seen_by(lagging, f"SELECT a, b FROM {table} CROSS JOIN {table}_b") == [[(0, 5), (1, 5)]] * 3
    assert done.left.published
    moved, barrier = moves(lagging, sent(done), f"SELECT a FROM {table}")
    assert sorted(moved.results[0]) == [(0,), (1,)]
    assert barrier == []


def seen_to_the_end(cluster, table, script):
    """What others see as soon as a script has ended that is published."""
    node = cluster.nodes[0]
    done = run(only(cluster, node), script, publish=30.0)
    return done, seen_by(cluster, f"SELECT count(*) FROM {table}")


@pytest.mark.slow
def test_a_last_change_that_changed_nothing_hides_none_of_those_before_it(lagging, table):
    script = f"CREATE TABLE {table}_c (a INT); INSERT INTO {table}_c SELECT a FROM {table} WHERE a > 99"
    done, seen = seen_to_the_end(lagging, f"{table}_c", script)
    assert seen == [[(0,)]] * 3
    assert (done.left.published, done.left.unpublished) == (True, [])


@pytest.mark.slow
def test_rows_before_a_last_insert_of_none_are_published_by_a_refresh(lagging, table):
    before = len(statements_on(lagging.nodes[0]))
    script = f"INSERT INTO {table} VALUES (1); INSERT INTO {table} SELECT a FROM {table} WHERE a > 99; SELECT 1"
    done, seen = seen_to_the_end(lagging, table, script)
    assert seen == [[(2,)]] * 3
    assert (done.left.published, done.left.unpublished) == (True, [])
    texts = [sql.partition("*/ ")[2].split()[0] for sql in statements_on(lagging.nodes[0])[before:]]
    assert texts[:4] == ["INSERT", "INSERT", "REFRESH", "SELECT"]


@pytest.mark.slow
def test_it_is_said_which_tables_could_not_be_published(log):
    """Nothing can be sent that would let the others hear of a table that is there no more."""
    with Sandbox(nodes=2, lag=2) as cluster:
        balancer = only(cluster, cluster.nodes[0])
        run(balancer, "CREATE TABLE t (a INT); CREATE TABLE u (a INT)")
        changes = "INSERT INTO u VALUES (1); INSERT INTO t VALUES (1); INSERT INTO t SELECT 1 a WHERE false"
        script = f"{changes}; DROP TABLE IF EXISTS t"
        done = run(balancer, f"{script}; DROP TABLE IF EXISTS t", publish=30.0)
        left = sent(done)
        assert (left.published, left.unpublished) == (False, ["default.t"])
        assert (left.written, left.dropped) == (["default.u"], ["default.t"])
        said = [record.getMessage() for record in log.records if "may not be known to all" in record.getMessage()]
        assert len(said) == 1 and said[0].startswith("default.t may not be known to all coordinators yet: ")


@pytest.mark.slow
def test_who_goes_on_with_a_script_knows_what_is_published(lagging, table):
    balancer = only(lagging, lagging.nodes[0])
    keys = {"publish": 30.0, "journals": open_journals(balancer.config), "owner": f"{table}/r/k"}
    script = split(f"INSERT INTO {table} VALUES (1); CREATE TABLE {table}_e (a INT); SELECT sleep(4000)")
    with pytest.raises(Deferred) as caught:
        script_run(balancer, script, hand_over_after=5.0, **keys).run()
    handover = Handover.unpacked(json.loads(json.dumps(caught.value.handover.packed())))
    assert handover.query and handover.unpublished == []
    before = len(statements_on(lagging.nodes[0]))
    done = script_run(balancer, script, **keys).go_on(handover)
    assert (done.left.published, done.left.unpublished) == (True, [])
    assert not any("REFRESH" in sql for sql in statements_on(lagging.nodes[0])[before:])


@pytest.mark.slow
def test_only_the_last_change_of_a_table_waits(lagging, table):
    node = lagging.nodes[0]
    script = f"INSERT INTO {table} VALUES (1); INSERT INTO {table} VALUES (2); SELECT 1; SET MEM_LIMIT=1g"
    done = run(only(lagging, node), script, publish=30.0)
    with_it = ["SYNC_DDL=1" in options_of(node, statement.query_id) for statement in done.statements]
    assert with_it == [False, True, False, False]


@pytest.mark.slow
def test_a_script_that_changes_nothing_waits_for_nothing(lagging):
    node = lagging.nodes[0]
    done = run(only(lagging, node), "SELECT 1; SET MEM_LIMIT=1g", publish=30.0)
    assert not any("SYNC_DDL=1" in options_of(node, statement.query_id) for statement in done.statements)
    assert done.left.published  # there is nothing that anybody could miss


@pytest.mark.slow
@pytest.mark.parametrize("how", [{"publish": 30.0}, {"query_options": {"SYNC_DDL": "1"}}])
@pytest.mark.parametrize(
    "sql", ["INSERT INTO t VALUES (1)", pytest.param("INSERT OVERWRITE t SELECT 1", marks=pytest.mark.slow)]
)
def test_done_but_not_broadcast_in_time_counts_as_done_and_not_as_published(how, sql, log):
    """``max_wait_time_for_sync_ddl_s``: "... but its effects may have not been broadcast to all the coordinators"."""
    with Sandbox(nodes=2, lag=20, flags={"max_wait_time_for_sync_ddl_s": 0.2}) as cluster:
        run(changed(cluster), "CREATE TABLE t (a INT)")
        done = run(only(cluster, cluster.nodes[0]), f"SET MEM_LIMIT=1g; {sql}", **how)
        assert [statement.number for statement in done.statements] == [1, 2]
        said = [record.getMessage() for record in log.records if "is done, with a warning" in record.getMessage()]
        assert len(said) == 1 and "may have not been broadcast" in said[0]
        assert not done.left.published
        name = sql.split()[2]
        moved, barrier = moves(cluster, sent(done), f"SELECT a FROM {name}")
        assert moved.results[0] == [(1,)]
        assert f"REFRESH `default`.`{name}`" in barrier
        assert sum(sql in text for text in statements_on(cluster.nodes[0])) == 1


@pytest.mark.slow
@pytest.mark.since("4.4", "its timeline does not tell what is done")
@pytest.mark.parametrize(
    "sql", ["INSERT INTO t VALUES (1)", pytest.param("CREATE TABLE u (a INT)", marks=pytest.mark.slow)]
)
def test_a_broadcast_that_takes_too_long_is_not_waited_for_and_the_statement_is_done(sql, log):
    with Sandbox(nodes=2, lag=60) as cluster:
        node = cluster.nodes[0]
        balancer = only(cluster, node)
        run(balancer, "CREATE TABLE t (a INT)")
        done = run(balancer, f"SELECT 1; {sql}; SELECT 2", publish=0.5)
        assert [statement.number for statement in done.statements] == [1, 2, 3]
        assert done.seconds < 30
        assert not done.left.published
        said = [text for record in log.records if "is done, with a warning" in (text := record.getMessage())]
        assert len(said) == 1 and "publish_timeout: it is done" in said[0]
        name = sql.split()[2]
        assert run(balancer, f"SELECT count(*) FROM {name}", handler=rows_of).results[0] == [(int("INSERT" in sql),)]
        assert balancer.status()["leases"] == []


@pytest.mark.slow
@pytest.mark.parametrize("sql", ["INSERT INTO {} SELECT 1", "CREATE TABLE {}_new AS SELECT 1 a"])
def test_the_time_for_the_broadcast_does_not_run_while_the_statement_is_at_work(lagging, table, sql):
    """It stands at 100 % of its scan ranges while it writes, or, being DDL, has no progress at all."""
    node, sql = lagging.nodes[0], sql.format(table)
    with node.delay("finalising", 6 * LAG, sql=sql):
        done = run(only(lagging, node), sql, publish=2 * LAG)
    assert done.statements[0].seconds > 6 * LAG
    assert done.left.published


@pytest.mark.slow
def test_a_version_whose_timeline_does_not_tell_is_waited_for(log):
    """Up to Impala 4.2: only ``statement_timeout`` ends the wait, since nothing says that the statement is done."""
    with Sandbox(nodes=2, lag=8, version="4.1") as cluster:
        done = run(only(cluster, cluster.nodes[0]), "CREATE TABLE t (a INT)", publish=0.5)
        assert done.left.published and done.seconds > 3
