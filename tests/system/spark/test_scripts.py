"""Whole scripts on a server that nobody here wrote: one session each, results, errors, stickiness."""

import json
import subprocess
import sys

import pytest

from airflow_provider_impala_lb.errors import StatementFailed
from tests.system.spark.scripts import run


def failure(balancer, script, node=None):
    with pytest.raises(StatementFailed) as caught:
        run(balancer, script, node)
    return caught.value


def test_a_script_is_one_session_on_one_server(balancer, servers, log):
    done = run(
        balancer,
        """
        DROP TABLE IF EXISTS one;
        CREATE TABLE one (a INT, s STRING) USING parquet;
        INSERT INTO one VALUES (1, 'it\\'s;'), (2, NULL);
        INSERT INTO one SELECT a + 2, s FROM one;
        CREATE TEMPORARY VIEW sums AS SELECT sum(a) AS total FROM one;
        SELECT total FROM sums;
        SELECT a, s FROM one ORDER BY a;
        SET kept=yes;
        SET kept
        """,
    )
    assert done.node in {node.address for node in servers.nodes}
    # Spark announces a result set for DDL and DML too; there is nothing in it.
    rows = [(1, "it's;"), (2, None), (3, "it's;"), (4, None)]
    assert done.results == [[], [], [], [], [], [(10,)], rows, [("kept", "yes")], [("kept", "yes")]]
    assert len({statement.query_id for statement in done.statements}) == 9
    assert {statement.rows for statement in done.statements} == {None}  # it does not tell how many were modified
    assert balancer.status()["leases"] == []
    # What was not asked for is no warning: GetLog and CloseImpalaOperation are unknown to it.
    assert [record.getMessage() for record in log.records if record.levelname != "INFO"] == []

    node = servers.node(done.node)
    gone = failure(balancer, "SELECT total FROM sums", node)
    assert "TABLE_OR_VIEW_NOT_FOUND" in gone.reason
    assert run(balancer, "SET kept", node).results == [[("kept", "<undefined>")]]


def test_a_script_without_a_handler_leaves_no_statement_open(balancer, servers, log):
    done = run(balancer, "SELECT 1; CREATE TABLE IF NOT EXISTS quiet (a INT) USING parquet; SELECT 2", handler=None)
    assert len(done.statements) == 3
    assert [record.getMessage() for record in log.records if record.levelname != "INFO"] == []


def test_many_rows_arrive_whole(balancer, servers):
    (rows,) = run(balancer, "SELECT id, CAST(id AS STRING) FROM range(25000) ORDER BY id").results
    assert rows == [(n, str(n)) for n in range(25000)]


def test_the_session_is_of_the_user_and_in_the_database(balancer, servers):
    run(balancer, "CREATE DATABASE IF NOT EXISTS mart")
    done = run(
        balancer, "SELECT current_user(), current_database()", database="mart", query_options={"mem_limit": "1g"}
    )
    assert done.results == [[("etl", "mart")]]


@pytest.mark.parametrize(
    ("sql", "outcome", "says"),
    [
        # It accepts a statement before it has read it: all of these have a query id.
        ("INSERT INTO nowhere VALUES (1)", "not started", "TABLE_OR_VIEW_NOT_FOUND"),
        ("INSERT INTO failing SELECT nope", "not started", "UNRESOLVED_COLUMN"),
        ("INSERT INTO failing VALUES 1 2 3", "user error", "PARSE_SYNTAX_ERROR"),
        ("INSERT INTO failing SELECT raise_error('boom')", "unknown", "boom"),
        ("SELECT raise_error('boom')", "not started", "boom"),
        # Not from its analyzer: it may come from the middle of a command.
        ("DROP TABLE nowhere", "unknown", "TABLE_OR_VIEW_NOT_FOUND"),
    ],
)
def test_errors_say_truly_whether_the_statement_ran(balancer, servers, sql, outcome, says):
    node = servers.nodes[0]
    run(balancer, "CREATE TABLE IF NOT EXISTS failing (a INT) USING parquet", node)
    error = failure(balancer, f"SELECT 1;\n{sql};\nSELECT 2", node)
    assert (error.outcome, error.number, error.line) == (outcome, 2, 2)
    assert error.query_id
    assert says in error.reason
    assert "\tat " not in str(error)
    assert len(str(error).splitlines()) < 20
    assert "1 after it not sent" in str(error)
    assert run(balancer, "SELECT * FROM failing", node).results == [[]]


def test_other_servers_do_not_see_new_rows(balancer, servers, cached_everywhere):
    """Why scripts stick to a server: the others keep what they know of a table, and silently miss the rest."""
    count = f"SELECT count(*) FROM {cached_everywhere}"
    first, *others = servers.nodes
    run(balancer, f"INSERT INTO {cached_everywhere} VALUES (3)", first)
    assert run(balancer, count, first).results == [[(3,)]]
    for other in others:
        assert run(balancer, count, other).results == [[(2,)]]
        assert run(balancer, f"UNCACHE TABLE {cached_everywhere}; {count}", other).results == [[], [(3,)]]


def test_a_session_keeps_what_it_knows_of_a_table_until_it_is_refreshed(balancer, servers):
    first, second, _ = servers.nodes
    run(
        balancer,
        "DROP TABLE IF EXISTS known; CREATE TABLE known (a INT) USING parquet; INSERT INTO known VALUES (1), (2)",
        first,
    )

    def insert_elsewhere(done):
        if done.number == 1:
            run(balancer, "INSERT INTO known VALUES (3)", first)

    count = "SELECT count(*) FROM known"
    done = run(balancer, f"{count}; {count}; REFRESH TABLE known; {count}", second, on_statement=insert_elsewhere)
    assert done.results == [[(2,)], [(2,)], [], [(3,)]]


def test_the_command_line(config, servers, tmp_path):
    (tmp_path / "lb.yml").write_text(json.dumps(config))
    (tmp_path / "x.sql").write_text("CREATE OR REPLACE TEMPORARY VIEW v AS SELECT ${var:n} AS n;\nSELECT n FROM v;\n")

    def lb(*arguments):
        command = [sys.executable, "-m", "airflow_provider_impala_lb.cli", "--config", str(tmp_path / "lb.yml")]
        return subprocess.run([*command, *arguments], capture_output=True, text=True, timeout=60)

    done = lb("run", str(tmp_path / "x.sql"), "--var", "n=7")
    assert done.returncode == 0, done.stderr
    assert "2/2  line 2  query " in done.stdout
    checked = lb("doctor")
    assert checked.returncode == 0, checked.stdout + checked.stderr
    assert all(node.address in checked.stdout for node in servers.nodes)


def test_each_script_moves_on(balancer, servers):
    hosts = [run(balancer, "SELECT 1").node for _ in range(6)]
    assert hosts[:3] == hosts[3:]
    assert set(hosts) == {node.address for node in servers.nodes}
