"""The witness: seen among what has ended on a coordinator; where nothing has, run for it."""

import time

import pytest

from airflow_provider_impala_lb.impala.hs2 import page_proof
from airflow_provider_impala_lb.impala.hs2.page_proof import PageProof
from airflow_provider_impala_lb.sandbox import Sandbox
from tests.support.scripts import changed, statements_on, wait_for


@pytest.fixture
def cluster():
    with Sandbox(nodes=1, lag=0) as cluster:
        yield cluster


@pytest.fixture
def node(cluster):
    return cluster.nodes[0]


@pytest.fixture
def session(cluster, node):
    with changed(cluster).sessions.open(node.address) as session:
        yield session


def test_on_a_coordinator_that_has_just_been_started_a_statement_is_run_for_it(node, session):
    session.proof.see_witness()
    (shown,) = session.pages.queries().completed
    assert session.proof.witness == shown.id and shown.text.endswith("*/ SET")
    assert session.pages.sessions() == {session.id}


def test_on_any_other_it_is_what_has_ended_there(node, session):
    session.execute("SELECT 1")
    session.operation.finish()
    wait_for(lambda: session.pages.queries().completed)  # a thread of its own archives it
    session.proof.see_witness()
    assert session.proof.witness and statements_on(node) == ["SELECT 1"]


def test_where_no_ended_statement_is_kept_none_is_run():
    with Sandbox(nodes=1, lag=0, flags={"query_log_size": 0}) as cluster:
        with changed(cluster).sessions.open(cluster.nodes[0].address) as session:
            session.proof.see_witness()
        assert session.proof.witness == "" and statements_on(cluster.nodes[0]) == []


@pytest.mark.since("4.0", "who closes a statement archives it")
def test_one_that_is_not_shown_in_time_is_not_waited_for(node, session):
    start = time.monotonic()
    with node.hold("archiving"):
        session.proof.see_witness()
        session.proof.see_witness()  # and is not run once more
    assert session.proof.witness == ""
    assert time.monotonic() - start < 2 * page_proof.PAGE_SECONDS
    assert len(session.pages.queries().queries) == 1


def test_a_coordinator_that_opens_no_other_session_is_not_waited_for(node, session):
    asked = []

    def refuses(seconds=None):
        asked.append(seconds)
        raise OSError("it is full")

    proof = PageProof(session.pages, refuses)
    proof.see_witness()
    assert (proof.witness, asked) == ("", [page_proof.PAGE_SECONDS])
    session.execute("SELECT 1")
    session.operation.finish()
    wait_for(lambda: session.pages.queries().completed)  # a thread of its own archives it
    proof.see_witness()
    assert proof.witness == session.query_id and len(asked) == 1


def test_another_session_that_gets_no_answer_takes_no_longer_than_it_may(node, session):
    start = time.monotonic()
    with node.hold("planning"), session.open_another(0.5) as other, pytest.raises(Exception, match="timed out"):
        other.execute("SELECT 1")
    assert time.monotonic() - start < 6
