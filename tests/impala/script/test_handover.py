"""A script goes from one process to another, which goes on in its session."""

import pytest

from airflow_provider_impala_lb.core.state.model import Attempt
from airflow_provider_impala_lb.errors import ImpalaLBError, StatementFailed
from airflow_provider_impala_lb.impala.hs2.session import Session
from airflow_provider_impala_lb.impala.script import handover as handing_over
from airflow_provider_impala_lb.impala.script.handover_message import Deferred
from airflow_provider_impala_lb.impala.sql.splitter import split
from airflow_provider_impala_lb.sandbox import Sandbox
from airflow_provider_impala_lb.stores.factory import open_journals
from tests.support.resumed_scripts import OWNER, executed, resumed
from tests.support.scripts import changed, run, script_run


def begun(cluster, script, **options):
    """A script that may be handed over, and is not begun yet."""
    balancer = changed(cluster, policy="round_robin")
    journals = open_journals(balancer.config)
    options = {"hand_over_after": 60.0, **options}
    return script_run(balancer, split(script), owner=OWNER, one_at_a_time=True, journals=journals, **options)


def go_on(cluster, script, handover, **options):
    """As a trigger does."""
    balancer = changed(cluster)
    journals = open_journals(balancer.config)
    return script_run(balancer, split(script), owner=OWNER, journals=journals, **options).go_on(handover)


def well(cluster):
    return [sql for sql, state in executed(cluster) if state == "FINISHED"]


def handed_over_after_the_first(cluster, script, **options):
    first = begun(cluster, script, on_statement=lambda _: first.hand_over(), **options)
    with pytest.raises(Deferred) as deferred:
        first.run()
    return deferred.value.handover


def test_a_resumed_script_that_is_handed_over_before_its_next_statement_goes_on_in_its_new_session(pair):
    """The journal still had the session of the attempt before, with the secret of this one."""
    script = "INSERT INTO t SELECT 1; INSERT INTO missing SELECT 2"
    with pytest.raises(StatementFailed):
        resumed(pair, script, attempt=Attempt(1, 1000.0))
    run(changed(pair), "CREATE TABLE missing (n INT)")
    with pytest.raises(Deferred) as deferred:
        resumed(pair, script, attempt=Attempt(2, 2000.0), hand_over_after=0.0)
    handover = deferred.value.handover
    done = go_on(pair, script, handover, resume=True)
    assert (done.node, len(done.statements)) == (handover.node, 2)
    assert done.session == handover.session
    assert well(pair) == ["INSERT INTO t SELECT 1", "INSERT INTO missing SELECT 2"]


def test_what_was_done_before_it_was_handed_over_is_not_done_again_where_its_node_is_gone(pair):
    script = "INSERT INTO t SELECT 1; INSERT INTO t SELECT 2"
    handover = handed_over_after_the_first(pair, script)
    next(node for node in pair.nodes if node.address == handover.node).kill()
    with pytest.raises(StatementFailed, match="statement 1 is done") as failed:
        go_on(pair, script, handover)
    assert (failed.value.number, failed.value.outcome) == (2, "not started")
    assert well(pair) == ["INSERT INTO t SELECT 1"]


def test_with_resume_the_rest_of_it_runs_elsewhere(pair):
    script = "INSERT INTO t SELECT 1; INSERT INTO t SELECT 2"
    handover = handed_over_after_the_first(pair, script, resume=True)
    next(node for node in pair.nodes if node.address == handover.node).kill()
    done = go_on(pair, script, handover, resume=True)
    assert done.node != handover.node
    assert well(pair) == ["INSERT INTO t SELECT 1", "INSERT INTO t SELECT 2"]


def test_who_goes_on_with_it_asks_the_page_that_the_coordinator_named(pair, monkeypatch):
    """``nodes`` has no ``web``, and a session that is taken over is not told where the page is."""
    nodes = [{"host": node["host"], "port": node["port"]} for node in pair.config["nodes"]]
    monkeypatch.setattr(Sandbox, "config", {**pair.config, "nodes": nodes})
    script = "INSERT INTO t SELECT 1; INSERT INTO t SELECT 2"
    pages, attach = [], Session.attach

    def noting(*args, **keys):
        pages.append(keys.get("pages"))
        return attach(*args, **keys)

    monkeypatch.setattr(Session, "attach", noting)
    handover = handed_over_after_the_first(pair, script)
    go_on(pair, script, handover)
    assert pages[-1] is not None and pages[-1].url == next(
        node.web for node in pair.nodes if node.address == handover.node
    )


def test_a_statement_that_is_under_way_is_not_taken_for_the_query_before_it(pair):
    """Rows are wanted, and those of a query at the script's end are fetched once more: not while a statement behind it
    runs."""
    script = "INSERT INTO t SELECT 1; SELECT n FROM t; INSERT INTO t SELECT 2 WHERE sleep(5000); SELECT n FROM t"
    first = begun(pair, script, hand_over_after=2)
    with pytest.raises(Deferred) as deferred:
        first.run()
    assert deferred.value.handover.query
    with pytest.raises(Deferred) as with_rows:
        go_on(pair, script, deferred.value.handover, hand_over_rows=True)
    done = go_on(
        pair, script, with_rows.value.handover, handler=lambda cursor: cursor.description and cursor.fetchall()
    )
    assert sorted(done.results[-1]) == [(1,), (2,)]
    assert well(pair) == ["INSERT INTO t SELECT 1", "INSERT INTO t SELECT 2 WHERE sleep(5000)"]


def test_one_that_is_cancelled_while_it_is_handed_over_is_not_handed_over(pair, monkeypatch):
    outlives = handing_over._outlives_connections

    def cancelled_meanwhile(session):
        found = outlives(session)
        first.cancel("the task was killed")
        return found

    monkeypatch.setattr(handing_over, "_outlives_connections", cancelled_meanwhile)
    first = begun(pair, "INSERT INTO t SELECT 1; INSERT INTO t SELECT 2", on_statement=lambda _: first.hand_over())
    with pytest.raises(ImpalaLBError, match="the task was killed"):
        first.run()
    assert well(pair) == ["INSERT INTO t SELECT 1"]


def test_the_row_of_ddl_is_not_left_for_another_process_to_fetch(pair):
    """It waits there with a limit (QUERY_TIMEOUT_S), and one that has run out cannot be told from one that failed."""
    script = "INSERT INTO t SELECT 1; CREATE TABLE u (n INT)"
    handover = handed_over_after_the_first(pair, script, query_options={"QUERY_TIMEOUT_S": "1"})
    assert len(go_on(pair, script, handover, hand_over_rows=True).statements) == 2
    assert well(pair) == ["INSERT INTO t SELECT 1"]
    assert len(executed(pair, "CREATE TABLE u")) == 1
