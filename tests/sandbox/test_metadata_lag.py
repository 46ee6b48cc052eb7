"""Metadata reach the other coordinators late, by rounds, unless somebody asks for them."""

from __future__ import annotations

import time
import uuid
from pathlib import Path

import pytest
from impala.error import HiveServer2Error, OperationalError

from airflow_provider_impala_lb.sandbox import Sandbox
from airflow_provider_impala_lb.sandbox.common.catalog import CatalogObject, create_catalog
from airflow_provider_impala_lb.sandbox.common.metadata_lag import CoordinatorCatalog
from tests.support.sandbox import Open, page, rows


@pytest.fixture
def table() -> str:
    return f"t_{uuid.uuid4().hex[:8]}"


def wait_for(answer: object, ask: object, limit: float = 4.0) -> float:
    began = time.monotonic()
    while time.monotonic() - began < limit:
        try:
            if ask() == answer:  # type: ignore[operator]
                return time.monotonic() - began
        except HiveServer2Error:
            pass
        time.sleep(0.02)
    raise AssertionError(f"never became {answer}")


def test_unknown_elsewhere_then_known(pair: Sandbox, open_cursor: Open, table: str) -> None:
    here, there = (open_cursor(node) for node in pair.nodes)
    rows(here, f"create table {table} stored as parquet as select 1 a")
    made = time.monotonic()
    assert rows(here, f"select * from {table}") == [(1,)]
    with pytest.raises(HiveServer2Error, match=f"AnalysisException: Could not resolve table reference: '{table}'"):
        there.execute(f"select * from {table}")
    wait_for([(1,)], lambda: rows(there, f"select * from {table}"))
    assert 0.35 < time.monotonic() - made < 1.5


def test_new_rows_are_silently_missing_then_there(pair: Sandbox, open_cursor: Open, table: str) -> None:
    here, there = (open_cursor(node) for node in pair.nodes)
    rows(here, f"create table {table} (a int) stored as parquet")
    wait_for([(0,)], lambda: rows(there, f"select count(*) from {table}"))
    rows(here, f"insert into {table} values (1), (2)")
    assert rows(here, f"select count(*) from {table}") == [(2,)]
    assert rows(there, f"select count(*) from {table}") == [(0,)]
    wait_for([(2,)], lambda: rows(there, f"select count(*) from {table}"))


def test_refresh_and_invalidate_bring_the_current_state(pair: Sandbox, open_cursor: Open, table: str) -> None:
    here, there = (open_cursor(node) for node in pair.nodes)
    rows(here, f"create table {table} stored as parquet as select 1 a")
    with pytest.raises(HiveServer2Error, match="Table does not exist"):
        there.execute(f"refresh {table}")
    rows(there, f"invalidate metadata {table}")
    assert rows(there, f"select * from {table}") == [(1,)]
    rows(here, f"insert into {table} values (2)")
    assert rows(there, f"select count(*) from {table}") == [(1,)]
    rows(there, f"refresh {table}")
    assert rows(there, f"select count(*) from {table}") == [(2,)]
    rows(here, f"create table {table}_b as select 1 b")
    rows(there, "invalidate metadata")
    assert rows(there, f"select * from {table}_b") == [(1,)]


def test_no_statement_brings_a_database_or_a_table_into_one_that_is_not_known(
    pair: Sandbox, open_cursor: Open, table: str
) -> None:
    """The coordinator passes over the catalog service's answer (``ImpaladCatalog.addTable``)."""
    here, there = (open_cursor(node) for node in pair.nodes)
    rows(here, f"create database db_{table}")
    rows(here, f"create table db_{table}.t stored as parquet as select 1 a")
    with pytest.raises(HiveServer2Error, match=f"Database does not exist: db_{table}"):
        there.execute(f"refresh db_{table}.t")
    rows(there, f"invalidate metadata db_{table}.t")
    with pytest.raises(HiveServer2Error, match="Could not resolve"):
        there.execute(f"select * from db_{table}.t")
    wait_for([(1,)], lambda: rows(there, f"select * from db_{table}.t"))


@pytest.mark.parametrize("statement", ["refresh {}", "invalidate metadata {}"])
def test_no_statement_brings_the_news_that_a_table_was_dropped(
    pair: Sandbox, open_cursor: Open, table: str, statement: str
) -> None:
    """The catalog service answers with an error, which takes nothing away (``CatalogOpExecutor.execResetMetadata``)."""
    here, there = (open_cursor(node) for node in pair.nodes)
    rows(here, f"create table {table} stored as parquet as select 1 a")
    rows(there, f"invalidate metadata {table}")
    rows(here, f"drop table {table}")
    with pytest.raises(OperationalError, match=f"TableNotFoundException: Table not found: default.{table}"):
        rows(there, statement.format(table))
    assert (table,) in rows(there, "show tables")
    wait_for(False, lambda: (table,) in rows(there, "show tables"))


@pytest.mark.parametrize("statement", ["create table {} stored as parquet as select 1 a", "insert into {} values (1)"])
def test_sync_ddl_waits_for_everybody(pair: Sandbox, open_cursor: Open, table: str, statement: str) -> None:
    here, there = (open_cursor(node) for node in pair.nodes)
    if statement.startswith("insert"):
        rows(here, f"create table {table} (a int) stored as parquet")
    rows(here, "set sync_ddl=1")
    began = time.monotonic()
    rows(here, statement.format(table))
    # CREATE TABLE AS SELECT waits twice: for the table, and for its rows.
    assert 0.4 < time.monotonic() - began < (2.5 if "select" in statement else 1.5)
    assert rows(there, f"select * from {table}") == [(1,)]


@pytest.mark.parametrize(
    "statement", ["create table {}_new stored as parquet as select 2 a", "insert into {} values (2)", "drop table {}"]
)
def test_sync_ddl_gives_up_although_the_change_is_done(open_cursor: Open, table: str, statement: str) -> None:
    with Sandbox(nodes=2, lag=20.0, flags={"max_wait_time_for_sync_ddl_s": 0.2}, users=None) as cluster:
        here, there = (open_cursor(node) for node in cluster.nodes)
        rows(here, f"create table {table} (a int) stored as parquet")
        rows(there, f"invalidate metadata {table}")
        rows(here, "set sync_ddl=1")
        said = (
            "Couldn't retrieve the catalog topic update for the SYNC_DDL operation .* The operation has been "
            "successfully executed but its effects may have not been broadcast to all the coordinators."
        )
        with pytest.raises(OperationalError, match=said):
            rows(here, statement.format(table))
        tables = [name for (name,) in rows(here, "show tables")]
        assert tables == ([] if "drop" in statement else [table, f"{table}_new"] if "new" in statement else [table])
        if "insert" in statement:
            assert rows(here, f"select a from {table}") == [(2,)]
        assert [name for (name,) in rows(there, "show tables")] == [table]
        ends = {entry["sql"]: entry["state"] for entry in cluster.nodes[0].journal() if "sql" in entry}
        assert ends[statement.format(table)] == "ERROR"


def test_sync_ddl_within_its_time_and_without_a_limit(open_cursor: Open, table: str) -> None:
    for limit in (30, 0):
        with Sandbox(nodes=2, lag=1.0, flags={"max_wait_time_for_sync_ddl_s": limit}, users=None) as cluster:
            here, there = (open_cursor(node) for node in cluster.nodes)
            rows(here, "set sync_ddl=1")
            rows(here, f"create table {table} stored as parquet as select 1 a")
            assert rows(there, f"select a from {table}") == [(1,)]


def test_version_moves_by_rounds_not_by_own_ddl(pair: Sandbox, open_cursor: Open, table: str) -> None:
    here = open_cursor(pair.nodes[0])

    def version(number: int) -> int:
        return int(page(pair.nodes[number], "/jsonmetrics")["catalog.curr-version"])

    time.sleep(1.1)  # whatever other tests did has arrived
    before = version(0)
    rows(here, f"create table {table} (a int)")
    assert version(0) == before
    wait_for(True, lambda: version(0) > before)
    assert version(1) == version(0)
    services = {page(node, "/jsonmetrics")["catalog.curr-serviceid"] for node in pair.nodes}
    assert len(services) == 1


def test_a_stale_coordinator_loses_nobodys_rows(pair: Sandbox, open_cursor: Open, table: str) -> None:
    here, there = (open_cursor(node) for node in pair.nodes)
    rows(here, f"create table {table} (a int) stored as parquet")
    rows(there, f"invalidate metadata {table}")
    rows(here, f"insert into {table} values (1)")
    rows(there, f"insert into {table} values (2)")
    assert rows(there, f"select a from {table} order by a") == [(1,), (2,)]  # its INSERT brought the current table
    assert rows(here, f"select a from {table}") == [(1,)]
    rows(here, f"refresh {table}")
    assert rows(here, f"select a from {table} order by a") == [(1,), (2,)]


@pytest.mark.parametrize("change", ["insert overwrite {} select 9", "drop table {}", "truncate table {}"])
def test_files_removed_elsewhere_fail_the_read(pair: Sandbox, open_cursor: Open, table: str, change: str) -> None:
    here, there = (open_cursor(node) for node in pair.nodes)
    rows(here, f"create table {table} stored as parquet as select 1 a")
    rows(there, f"invalidate metadata {table}")
    rows(here, change.format(table))
    with pytest.raises(OperationalError, match=r"Failed to open HDFS file .*\nError\(2\): No such file or directory"):
        rows(there, f"select * from {table}")


def test_create_what_exists_elsewhere(pair: Sandbox, open_cursor: Open, table: str) -> None:
    here, there = (open_cursor(node) for node in pair.nodes)
    rows(here, f"create table {table} as select 1 a")
    with pytest.raises(OperationalError, match="AlreadyExistsException"):
        rows(there, f"create table {table} (a int)")
    rows(there, f"create table if not exists {table} (a int)")
    assert rows(there, f"select * from {table}") == [(1,)]


def test_no_lag(plain: Sandbox, tmp_path: Path, open_cursor: Open) -> None:
    with Sandbox(nodes=2, lag=0, directory=tmp_path, users=None) as cluster:
        here, there = (open_cursor(node) for node in cluster.nodes)
        rows(here, "create table t as select 1 a")
        assert rows(there, "select * from t") == [(1,)]
        first, second = (page(node, "/jsonmetrics")["catalog.curr-version"] for node in cluster.nodes)
        assert first == second == 3  # the table, and its rows


def test_a_change_is_gathered_one_round_before_it_arrives(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """With a clock of our own: made in round 0, gathered when round 1 begins, seen elsewhere when round 2 begins."""
    create_catalog(tmp_path, lag=2.0)
    here, there = CoordinatorCatalog(tmp_path), CoordinatorCatalog(tmp_path)
    now = here.epoch
    monkeypatch.setattr("airflow_provider_impala_lb.sandbox.common.metadata_lag.time.time", lambda: now)
    now = here.epoch + 0.3
    with here.change() as change:
        change.put(CatalogObject("default", "t"))
    assert "default.t" in here.view()
    assert here.version == there.version == 1
    assert here.seconds_until_everywhere() == pytest.approx(1.7)
    for moment, shown in ((0.4, False), (1.0, False), (1.99, False), (2.0, True)):
        now = here.epoch + moment
        assert ("default.t" in there.view()) is shown, moment
        assert here.version == there.version == (2 if shown else 1)


def test_a_torn_last_line_is_nobodys_change(tmp_path: Path) -> None:
    create_catalog(tmp_path, lag=0)
    with open(tmp_path / "catalog.log", "a") as log:
        log.write('{"t": 1, "op": "put", "key": "default.torn", "obj')
    catalog = CoordinatorCatalog(tmp_path)
    assert list(catalog.view()) == ["default"]
    with catalog.change() as change:
        change.put(CatalogObject("default", "t"))
    assert sorted(CoordinatorCatalog(tmp_path).view()) == ["default", "default.t"]
