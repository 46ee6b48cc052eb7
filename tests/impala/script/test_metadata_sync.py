"""A script moves to another coordinator: what the one before wrote is known there when it begins."""

import logging
import re
import threading
import time

import pytest

from airflow_provider_impala_lb import Balancer
from airflow_provider_impala_lb.core.stop_request import Cancelled
from airflow_provider_impala_lb.impala.hs2 import reconnecting_client
from airflow_provider_impala_lb.impala.hs2.ids import StatementError
from airflow_provider_impala_lb.impala.script import metadata_sync
from airflow_provider_impala_lb.impala.script.metadata_sync import MOST_REFRESHED, make_visible
from airflow_provider_impala_lb.impala.script.upstream import Upstream
from airflow_provider_impala_lb.impala.sql.classification import classify
from airflow_provider_impala_lb.impala.sql.effects import WrittenTables
from airflow_provider_impala_lb.impala.sql.splitter import split
from airflow_provider_impala_lb.impala.statement.failure_rules import classify_failure
from airflow_provider_impala_lb.sandbox import Sandbox
from tests.support.scripts import statements_on

LAG = 3.0


@pytest.fixture(scope="module")
def lagging():
    """Three coordinators that hear of each other's changes after 1.5 to 3 s."""
    with Sandbox(nodes=3, lag=LAG) as cluster:
        yield cluster


DATABASE = "barrier"


@pytest.fixture(scope="module")
def tables(lagging):
    """Tables that all coordinators know, with the row 1; each test takes one of its own."""
    names = [f"t{number}" for number in range(20)]
    with Balancer.from_config(lagging.config).sessions.open(lagging.nodes[0].address) as session:
        session.execute(f"CREATE DATABASE {DATABASE}")
        for number, name in enumerate(names):
            clause = "PARTITIONED BY (p INT) " if number % 2 else ""
            session.execute(f"CREATE TABLE {DATABASE}.{name} (a INT) {clause}STORED AS PARQUET")
            session.execute(f"INSERT INTO {DATABASE}.{name} {'PARTITION (p=1) ' if number % 2 else ''}VALUES (1)")
        session.execute("SET SYNC_DDL=1")
        session.execute(f"CREATE VIEW {DATABASE}.last AS SELECT 1 a")
    return {"plain": names[::2], "partitioned": names[1::2]}


@pytest.fixture
def table(tables):
    return tables["plain"].pop()


@pytest.fixture
def name():
    """Nobody has it yet."""
    return f"n{time.time_ns()}"


@pytest.fixture
def at(lagging, tables):
    """``at(0)``: a session on a coordinator."""
    balancer = Balancer.from_config(lagging.config)
    opened = []

    def open_there(number, database=DATABASE, **options):
        session = balancer.sessions.open(lagging.nodes[number].address, database=database, options=options)
        opened.append(session)
        return session

    yield open_there
    for session in opened:
        session.close()


def rows(session, sql):
    session.execute(sql)
    return session.fetch(lambda cursor: cursor.fetchall(), session.cursor)


def run_on(session, script, database=DATABASE, **start):
    """Run a script, and return what its upstream entry says."""
    tables = WrittenTables(database, **start)
    for statement in split(script):
        session.execute(statement.sql)
        session.finish()
        tables.note(classify(statement.sql).effects)
    return Upstream(
        host=session.node.address,
        ended=time.time(),
        published=tables.published,
        written=tables.written,
        dropped=tables.dropped,
        complete=tables.complete,
    )


class Sleeps:
    """Sleeps, and remembers for how long."""

    def __init__(self):
        self.seconds = []

    def __call__(self, seconds):
        self.seconds.append(seconds)
        time.sleep(seconds)


def sent_on(node):
    """The barrier's statements, without their labels."""
    return [sql.split("*/ ", 1)[1] for sql in statements_on(node) if "metadata_sync=" in sql]


@pytest.fixture
def sent(lagging):
    """What the barrier has sent to node 1 since the test began."""
    before = len(sent_on(lagging.nodes[1]))
    return lambda: sent_on(lagging.nodes[1])[before:]


def test_rows_are_silently_missing_without_it_and_there_with_it(at, table, sent):
    here, there, sleeps = at(0), at(1), Sleeps()
    upstream = run_on(here, f"INSERT INTO {table} VALUES (2)")
    assert rows(there, f"SELECT a FROM {table} ORDER BY a") == [(1,)]  # no error: just not all of them
    make_visible(there, upstream, sleep=sleeps)
    assert rows(there, f"SELECT a FROM {table} ORDER BY a") == [(1,), (2,)]
    assert sent() == [f"REFRESH `{DATABASE}`.`{table}`"]
    assert sleeps.seconds == []


def test_a_new_table(at, name, sent):
    here, there, sleeps = at(0), at(1), Sleeps()
    upstream = run_on(here, f"CREATE TABLE {name} AS SELECT 1 a")
    with pytest.raises(StatementError, match="Could not resolve table reference"):
        there.execute(f"SELECT a FROM {name}")
    make_visible(there, upstream, sleep=sleeps)
    assert rows(there, f"SELECT a FROM {name}") == [(1,)]
    assert [sql.split()[0] for sql in sent()] == ["REFRESH", "INVALIDATE", "REFRESH"]
    assert sleeps.seconds == []


def test_a_new_partition(at, tables):
    here, there, table = at(0), at(1), tables["partitioned"].pop()
    upstream = run_on(here, f"INSERT INTO {table} PARTITION (p=2) VALUES (2)")
    assert rows(there, f"SELECT a, p FROM {table} ORDER BY a") == [(1, 1)]
    make_visible(there, upstream)
    assert rows(there, f"SELECT a, p FROM {table} ORDER BY a") == [(1, 1), (2, 2)]


def test_an_overwritten_table(at, table):
    here, there = at(0), at(1)
    upstream = run_on(here, f"INSERT OVERWRITE {table} VALUES (7)")
    with pytest.raises(StatementError, match="Failed to open HDFS file"):
        rows(there, f"SELECT a FROM {table}")
    make_visible(there, upstream)
    assert rows(there, f"SELECT a FROM {table}") == [(7,)]


def test_a_view_new_and_altered(at, name):
    here, there = at(0), at(1)
    upstream = run_on(here, f"CREATE VIEW {name} AS SELECT 2 b")
    with pytest.raises(StatementError, match="Could not resolve"):
        there.execute(f"SELECT b FROM {name}")
    make_visible(there, upstream)
    assert rows(there, f"SELECT b FROM {name}") == [(2,)]
    upstream = run_on(here, f"DROP VIEW {name}; CREATE VIEW {name} AS SELECT 3 b")
    assert rows(there, f"SELECT b FROM {name}") == [(2,)]
    make_visible(there, upstream)
    assert rows(there, f"SELECT b FROM {name}") == [(3,)]


def test_a_table_made_anew_under_its_name(at, table, name):
    here, there = at(0), at(1)
    script = f"CREATE TABLE {name} AS SELECT 5 a, 6 b; DROP TABLE {table}; ALTER TABLE {name} RENAME TO {table}"
    make_visible(there, run_on(here, script))
    assert rows(there, f"SELECT a, b FROM {table}") == [(5, 6)]


def test_a_dropped_table_is_waited_for_since_no_statement_brings_the_news(at, table, sent):
    here, there, sleeps = at(0), at(1), Sleeps()
    upstream = run_on(here, f"DROP TABLE {table}")
    with pytest.raises(StatementError, match="TableNotFoundException"):
        there.execute(f"INVALIDATE METADATA {table}")
    with pytest.raises(StatementError, match="already exists"):
        there.execute(f"CREATE TABLE {table} (b INT)")
    make_visible(there, upstream, sleep=sleeps)
    there.execute(f"CREATE TABLE {table} (b INT)")
    assert sleeps.seconds
    assert max(sleeps.seconds) <= 0.5
    assert set(sent()) == {f"REFRESH `{DATABASE}`.`{table}`"}


def test_what_was_dropped_and_made_anew_by_somebody_else_is_refreshed(at, table):
    here, there, sleeps = at(0), at(1), Sleeps()
    upstream = run_on(here, f"DROP TABLE {table}")
    here.execute(f"CREATE TABLE {table} AS SELECT 9 a")
    make_visible(there, upstream, sleep=sleeps)
    assert rows(there, f"SELECT a FROM {table}") == [(9,)]
    assert sleeps.seconds == []


def test_a_new_database_is_waited_for_since_no_statement_brings_it(at, name, sent):
    here, there, sleeps = at(0), at(1), Sleeps()
    upstream = run_on(here, f"CREATE DATABASE {name}; USE {name}; CREATE TABLE t AS SELECT 4 a")
    assert (upstream.written, upstream.complete) == ([name, f"{name}.t"], True)
    there.execute(f"INVALIDATE METADATA {name}.t")
    with pytest.raises(StatementError, match="Could not resolve"):
        there.execute(f"SELECT a FROM {name}.t")
    make_visible(there, upstream, sleep=sleeps)
    assert rows(there, f"SELECT a FROM {name}.t") == [(4,)]
    assert sum(sleeps.seconds) < LAG + 1
    assert not any("INVALIDATE" in sql for sql in sent())


def test_a_dropped_database(at, name):
    here, there = at(0), at(1)
    run_on(here, f"SET SYNC_DDL=1; CREATE DATABASE {name}; SET SYNC_DDL=0")
    upstream = run_on(here, f"DROP DATABASE {name} CASCADE")
    with pytest.raises(StatementError, match="already exists"):
        there.execute(f"CREATE DATABASE {name}")
    make_visible(there, upstream)
    with pytest.raises(StatementError, match="Database does not exist"):
        there.execute(f"USE {name}")


def test_nothing_is_sent_when_all_was_published(at, table, sent):
    here, there, sleeps = at(0, SYNC_DDL="1"), at(1), Sleeps()
    make_visible(there, run_on(here, f"INSERT INTO {table} VALUES (2)", sync_ddl=True), sleep=sleeps)
    assert rows(there, f"SELECT a FROM {table} ORDER BY a") == [(1,), (2,)]
    assert (sent(), sleeps.seconds) == ([], [])


def test_nothing_is_sent_when_nothing_was_changed_or_nothing_moves(at, sent):
    there, sleeps = at(1), Sleeps()
    make_visible(there, run_on(at(0), "SELECT 1; SET MEM_LIMIT=1g"), sleep=sleeps)
    make_visible(there, Upstream(host=there.node.address, written=["x.y"]), sleep=sleeps)
    assert (sent(), sleeps.seconds) == ([], [])


def waits(at, upstream, caplog):
    """The wait that the barrier asked for, and its line in the log."""
    caplog.set_level(logging.INFO)
    seconds = []
    make_visible(at(1), upstream, sleep=seconds.append)
    return seconds, next(record for record in caplog.records if record.levelname == "WARNING").getMessage()


def test_an_incomplete_list_means_the_fixed_wait(at, sent, caplog):
    upstream = Upstream(host="a:1", ended=time.time() - 4, written=["x.y"], complete=False)
    seconds, line = waits(at, upstream, caplog)
    assert seconds == [pytest.approx(10, abs=0.5)]
    assert "not known in full" in line
    assert "rows would silently be missing" in line
    assert sent() == []


@pytest.mark.parametrize("since_the_end", [None, -3600, 0, 10, 3600])
def test_the_fixed_wait_is_ten_seconds_whatever_the_other_clock_says(at, caplog, since_the_end):
    """It ended just now, by a clock that may be behind."""
    ended = None if since_the_end is None else time.time() - since_the_end
    seconds, _ = waits(at, Upstream(ended=ended), caplog)
    assert seconds == [pytest.approx(10, abs=0.5)]


def test_a_long_list_means_the_fixed_wait(at, sent, caplog):
    names = [f"x.t{number}" for number in range(MOST_REFRESHED + 1)]
    seconds, line = waits(at, Upstream(ended=time.time(), written=names, complete=True), caplog)
    assert seconds == [pytest.approx(10, abs=0.5)]
    assert "101 tables" in line
    assert sent() == []


def test_tables_are_refreshed_however_long_ago_the_upstream_says_it_ended(at, table, sent):
    here, there = at(0), at(1)
    upstream = run_on(here, f"INSERT INTO {table} VALUES (2)")
    upstream.ended = time.time() - 86400
    make_visible(there, upstream)
    assert rows(there, f"SELECT a FROM {table} ORDER BY a") == [(1,), (2,)]
    assert len(sent()) == 1


def test_names_that_are_never_known_cost_the_fixed_wait_and_are_named(at, caplog, monkeypatch):
    monkeypatch.setattr(metadata_sync, "MOVE_SECONDS", 1.0)
    upstream = Upstream("a:1", time.time(), False, [f"{DATABASE}_never"], [], True)
    seconds, line = waits(at, upstream, caplog)
    assert f"not known here yet: {DATABASE}_never" in line
    assert seconds
    assert max(seconds) <= 0.5


def test_a_table_that_is_gone_everywhere_costs_nothing(at, sent):
    sleeps = Sleeps()
    make_visible(at(1), Upstream("a:1", time.time(), False, [f"{DATABASE}.never"], [], True), sleep=sleeps)
    assert [sql.split()[0] for sql in sent()] == ["REFRESH", "INVALIDATE"]
    assert sleeps.seconds == []


def test_after_ten_seconds_of_refreshing_the_rest_has_had_its_time(at, sent, monkeypatch):
    monkeypatch.setattr(metadata_sync, "MOVE_SECONDS", 0.0)
    make_visible(at(1), Upstream("a:1", time.time(), False, [f"{DATABASE}.t"], [], True))
    assert sent() == []


def test_a_refresh_that_is_refused_for_another_reason_means_the_fixed_wait(at, caplog):
    """On Impala as a rule a missing privilege, which the practice coordinators do not have: a parse error stands in."""
    caplog.set_level(logging.INFO)
    there, seconds = at(1), []
    upstream = Upstream("a:1", time.time(), False, [f"{DATABASE}.`t"], [], True)
    make_visible(there, upstream, sleep=seconds.append)
    assert seconds == [pytest.approx(10, abs=0.5)]
    line = next(record for record in caplog.records if record.levelname == "WARNING").getMessage()
    assert "ParseException" in line


def test_the_statements_have_labels_that_say_whose_barrier_it_is(at, table, lagging):
    upstream = run_on(at(0), f"INSERT INTO {table} VALUES (2)")
    make_visible(at(1), upstream, tags={"dag": "d", "task": "x"})
    label = [sql for sql in statements_on(lagging.nodes[1]) if "metadata_sync=" in sql][-1]
    host = re.escape(upstream.host)
    assert re.match(rf"/\* lb:[0-9a-f]{{16}} 1/1 metadata_sync={host} dag=d task=x \*/ REFRESH", label)


def test_the_sessions_database_stays_and_its_cursor_is_free(at, name):
    there = at(1)
    make_visible(there, run_on(at(0), f"CREATE DATABASE {name}"))
    assert rows(there, "SELECT current_database()") == [(DATABASE,)]


def test_check_stops_it_before_anything_is_sent(at, sent):
    def check():
        raise RuntimeError("told to stop")

    with pytest.raises(RuntimeError, match="told to stop"):
        make_visible(at(1), Upstream("a:1", time.time(), False, [f"{DATABASE}.t"], [], True), check=check)
    assert sent() == []


def test_a_cancelled_session_stops_it(at):
    there = at(1)
    upstream = Upstream("a:1", None, False, [f"{DATABASE}_never"], [], True)
    threading.Timer(0.3, there.cancel, ["the task was stopped"]).start()
    with pytest.raises(Cancelled):
        make_visible(there, upstream)


def test_a_coordinator_that_shuts_down_is_told_apart():
    with Sandbox(nodes=1, lag=0) as cluster:
        with Balancer.from_config(cluster.config).sessions.open(cluster.nodes[0].address) as session:
            cluster.nodes[0].drain()
            with pytest.raises(StatementError) as caught:
                make_visible(session, Upstream("a:1", time.time(), False, ["default.t"], [], True))
        assert classify_failure(str(caught.value), classify("REFRESH"), accepted=False).verdict == "refused"


def test_a_coordinator_that_is_gone_is_told_apart_within_seconds(monkeypatch):
    monkeypatch.setattr(reconnecting_client, "REFUSED_SECONDS", 0.5)
    with Sandbox(nodes=1, lag=0) as cluster:
        session = Balancer.from_config(cluster.config).sessions.open(cluster.nodes[0].address)
        cluster.nodes[0].kill()
        with session, pytest.raises(StatementError, match="so it was not sent"):
            make_visible(session, Upstream("a:1", time.time(), False, ["default.t"], [], True))


def test_a_refresh_with_sync_ddl_that_is_not_broadcast_in_time_is_good_enough_here():
    with Sandbox(nodes=2, lag=20, flags={"max_wait_time_for_sync_ddl_s": 0.1}) as cluster:
        balancer = Balancer.from_config(cluster.config)
        here, there = (
            balancer.sessions.open(node.address, options={"SYNC_DDL": value})
            for node, value in zip(cluster.nodes, "01", strict=True)
        )
        with here, there:
            upstream, sleeps = run_on(here, "CREATE TABLE t AS SELECT 1 a", "default"), Sleeps()
            make_visible(there, upstream, sleep=sleeps)
            assert rows(there, "SELECT a FROM t") == [(1,)]
            assert "ERROR" in [entry.get("state") for entry in cluster.nodes[1].journal()]
            assert sleeps.seconds == []


@pytest.mark.parametrize(
    ("value", "expected"),
    [
        (None, Upstream()),
        ("host:1", Upstream()),
        ({}, Upstream()),
        ({"host": 3, "ended": "x", "published": "yes", "written": "t", "dropped": {}, "complete": 1}, Upstream()),
        ({"host": "h:1", "ended": True, "complete": True}, Upstream("h:1")),
        (
            {"host": "h:1", "ended": 5, "published": True, "written": ["a.b"], "dropped": [], "complete": True},
            Upstream("h:1", 5.0, True, ["a.b"], [], True, []),
        ),
        (
            {"host": "h:1", "written": ["a.b", "a.c"], "dropped": [], "complete": True, "unpublished": ["a.c"]},
            Upstream("h:1", None, False, ["a.b", "a.c"], [], True, ["a.c"]),
        ),
        (
            {"written": ["a.b", "a.b`; drop table c", 3, "a.b.c", "a b", ""], "dropped": [], "complete": True},
            Upstream(written=["a.b"], complete=False),
        ),
        (
            {"written": ["d", "d.t"], "dropped": ["x"], "complete": True, "newer": 1},
            Upstream(written=["d", "d.t"], dropped=["x"], complete=True),
        ),
    ],
)
def test_what_an_xcom_holds(value, expected):
    assert Upstream.of(value) == expected


def test_it_goes_through_a_dict_unchanged():
    upstream = Upstream("h:1", 5.0, True, ["a.b"], ["a.c"], True, [])
    assert Upstream.of(upstream.as_dict()) == upstream
