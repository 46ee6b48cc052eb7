"""A script goes from one process to another, which goes on in its session."""

import pytest

from airflow_provider_impala_lb.core.state.model import Attempt
from airflow_provider_impala_lb.errors import StatementFailed
from airflow_provider_impala_lb.impala.hs2.ids import print_id
from airflow_provider_impala_lb.impala.script.handover_message import Deferred
from airflow_provider_impala_lb.impala.sql.splitter import split
from airflow_provider_impala_lb.stores.factory import open_journals
from tests.support.resumed_scripts import OWNER, executed, resumed
from tests.support.scripts import changed, run, script_run


def test_a_resumed_script_that_is_handed_over_before_its_next_statement_goes_on_in_its_new_session(pair):
    """The journal still had the session of the attempt before, with the secret of this one."""
    script = "INSERT INTO t SELECT 1; INSERT INTO missing SELECT 2"
    with pytest.raises(StatementFailed):
        resumed(pair, script, attempt=Attempt(1, 1000.0))
    run(changed(pair), "CREATE TABLE missing (n INT)")
    with pytest.raises(Deferred) as deferred:
        resumed(pair, script, attempt=Attempt(2, 2000.0), hand_over_after=0.0)
    handover = deferred.value.handover
    balancer = changed(pair)
    journals = open_journals(balancer.config)
    done = script_run(balancer, split(script), owner=OWNER, resume=True, journals=journals).go_on(handover)
    assert (done.node, len(done.statements)) == (handover.node, 2)
    assert done.session == print_id(bytes.fromhex(handover.guid))
    assert [end for end in executed(pair) if end[1] == "FINISHED"] == [
        ("INSERT INTO t SELECT 1", "FINISHED"),
        ("INSERT INTO missing SELECT 2", "FINISHED"),
    ]
