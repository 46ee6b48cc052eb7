"""CREATE TABLE AS SELECT is two steps: where the second may have failed, the first has left its table. No repeat."""

import pytest

from airflow_provider_impala_lb.errors import ScriptError, StatementFailed
from airflow_provider_impala_lb.sandbox import Sandbox
from tests.support.scripts import changed, run, statements_on


def test_executed_but_not_broadcast_says_nothing_of_its_rows():
    """The text may be that of either step."""
    with Sandbox(nodes=2, lag=20.0, flags={"max_wait_time_for_sync_ddl_s": 0.2}) as cluster:
        with pytest.raises(StatementFailed, match="without its rows") as failed:
            run(changed(cluster), "CREATE TABLE IF NOT EXISTS made AS SELECT 1 a; SELECT 1", publish=10)
        assert (failed.value.number, failed.value.outcome) == (1, "unknown")
        with pytest.raises(StatementFailed, match="without its rows") as failed:
            run(changed(cluster), "SET SYNC_DDL=1; CREATE TABLE IF NOT EXISTS twice AS SELECT 1 a; DROP TABLE twice")
        assert (failed.value.number, failed.value.outcome) == (2, "unknown")
        sent = [sql for node in cluster.nodes for sql in statements_on(node) if "EXISTS twice" in sql]
        assert len(sent) == 1
        # Of one step only, it is done.
        done = run(changed(cluster), "SET SYNC_DDL=1; CREATE TABLE plain (a INT)")
        assert len(done.statements) == 2


def test_a_comment_that_it_may_be_repeated_is_refused_before_anything_is_sent(cluster, balancer):
    before = [len(node.journal()) for node in cluster.nodes]
    script = "DROP TABLE IF EXISTS made;\n\nCREATE TABLE made AS SELECT 1; -- impala-lb: safe to repeat\nSELECT 1"
    with pytest.raises(ScriptError, match="line 3.*not safe to repeat") as caught:
        run(balancer, script)
    assert caught.value.line == 3
    assert [len(node.journal()) for node in cluster.nodes] == before
