"""Session data go along with a session key: database and SET options, replayed at every session opened for it."""

import pytest

from airflow_provider_impala_lb.errors import StatementFailed
from airflow_provider_impala_lb.impala.sql.classification import classify
from airflow_provider_impala_lb.impala.sql.effects import SessionData, still_set
from tests.support.scripts import changed, run


@pytest.mark.parametrize(
    ("script", "database", "options"),
    [
        (["USE dwh", "SET mem_limit=4g", "SELECT 1"], "dwh", {"MEM_LIMIT": "4g"}),
        (["-- first\nuse `my db`", 'SET REQUEST_POOL="root.etl"'], "my db", {"REQUEST_POOL": "root.etl"}),
        (["SET a=1", "SET b = 'x y'", 'SET a=""'], None, {"B": "x y"}),
        (["SET a=1", "UNSET ALL"], None, {}),
        (["SET", "SET ALL", "/* set c=1 */ select 'set d=1'"], None, {}),
    ],
)
def test_what_a_session_has_set_is_read_off_its_statements(script, database, options):
    data = SessionData()
    for sql in script:
        data.note(classify(sql).effects)
    assert (data.database, data.options) == (database, options)


@pytest.mark.parametrize(
    ("script", "numbers"),
    [
        (["USE a", "SELECT 1", "USE default"], [3]),
        (["SET a=1", "SET b=2", "USE d", "SET A=''", "USE e"], [2, 4, 5]),
        (["USE d", "SET a=1", "UNSET ALL", "SET b=1"], [1, 3, 4]),
        (["SET a=1", "UNSET ALL", "UNSET ALL"], [3]),
        (["SET a=1", "SET", "SET ALL", "select 'set a=2'"], [1]),
    ],
)
def test_which_statements_a_new_session_repeats(script, numbers):
    assert still_set(classify(sql).effects for sql in script) == numbers


@pytest.fixture
def lb(cluster, tmp_path):
    lb = changed(cluster, lock_file=str(tmp_path / "lock"))
    run(lb, "CREATE DATABASE IF NOT EXISTS dwh")
    return lb


def where_and_limit(lb, **options):
    """Node, database and MEM_LIMIT of a new session of the key."""
    done = run(
        lb, "SELECT current_database(); SET", handler=lambda cursor: cursor.fetchall(), session_key="k", **options
    )
    limit = {row[0]: row[1] for row in done.results[1]}.get("MEM_LIMIT")
    return done.node, done.results[0][0][0], limit


def test_the_next_session_of_the_key_has_what_the_last_one_set(lb):
    first = run(lb, "USE dwh; SET MEM_LIMIT=3g", session_key="k").node
    assert where_and_limit(lb) == (first, "dwh", "3g")
    assert run(lb, "SELECT current_database()", handler=lambda c: c.fetchall()).results == [[("default",)]]


def test_it_goes_along_to_another_node(lb):
    first = run(lb, "USE dwh; SET MEM_LIMIT=3g", session_key="k").node
    lb.drain(first)
    node, database, limit = where_and_limit(lb)
    assert node != first
    assert (database, limit) == ("dwh", "3g")


def test_the_authors_own_options_win_and_the_last_close_wins(lb):
    run(lb, "USE dwh; SET MEM_LIMIT=3g", session_key="k")
    assert where_and_limit(lb, query_options={"MEM_LIMIT": "5g"}, database="default")[1:] == ("default", "5g")
    assert where_and_limit(lb)[1:] == ("dwh", "3g")  # what its author gave was that script's own
    run(lb, 'USE default; SET MEM_LIMIT=""', session_key="k")
    assert where_and_limit(lb)[1] == "default"
    assert where_and_limit(lb)[2] != "3g"


def test_what_was_set_before_a_failure_is_recorded_too(lb):
    with pytest.raises(StatementFailed):
        run(lb, "SET MEM_LIMIT=2g; SELECT nonsense", session_key="k")
    assert where_and_limit(lb)[2] == "2g"


def test_status_shows_the_sessions_data(lb):
    node = run(lb, "USE dwh; SET MEM_LIMIT=3g", session_key="k").node
    assert lb.status()["sessions"] == [
        {"key": "k", "node": node, "database": "dwh", "options": {"MEM_LIMIT": "3g"}},
    ]
