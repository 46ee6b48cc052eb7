"""SQL reaches no file outside of the cluster's directory, but in directories that were allowed by name."""

from __future__ import annotations

import os
import stat
from collections.abc import Iterator
from pathlib import Path

import pytest
from impala.error import HiveServer2Error, OperationalError
from impala.hiveserver2 import HiveServer2Cursor

from airflow_provider_impala_lb.sandbox import Sandbox
from tests.support.sandbox import Open, rows

SECRET = "1,top secret\n"
TEXT = "(a int, b string) row format delimited fields terminated by ',' stored as textfile"


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("confinement")


@pytest.fixture(scope="module")
def outside(place: Path) -> Path:
    (place / "outside").mkdir()
    (place / "outside" / "x.csv").write_text(SECRET)
    return place / "outside"


@pytest.fixture(scope="module")
def cluster(place: Path, outside: Path) -> Iterator[Sandbox]:
    (place / "allowed").mkdir()
    with Sandbox(nodes=1, lag=0, directory=place / "cluster", users=None, allow=[place / "allowed"]) as cluster:
        os.symlink(outside, cluster.warehouse / "link")
        os.symlink(outside / "x.csv", cluster.warehouse / "file.csv")
        yield cluster


@pytest.fixture
def cursor(cluster: Sandbox, open_cursor: Open) -> Iterator[HiveServer2Cursor]:
    cursor = open_cursor(cluster.nodes[0])
    rows(cursor, f"create table own {TEXT}")
    yield cursor
    rows(cursor, "drop table own")


@pytest.mark.parametrize(
    "statement",
    [
        "create external table t {TEXT} location '{outside}'",
        "create external table t {TEXT} location 'file://{outside}'",
        "create external table t {TEXT} location 'FILE:{outside}'",
        "create external table t {TEXT} location 'file://localhost{outside}'",
        "create external table t {TEXT} location 'hdfs://host{outside}'",
        "create external table t {TEXT} location '{cluster}/warehouse/../../outside'",
        "create external table t {TEXT} location '{cluster}/warehouse/link'",
        "create external table t {TEXT} location '{cluster}/warehouse/link/below'",
        "create external table t {TEXT} location '{cluster}'",
        "create external table t {TEXT} location '{cluster}/private'",
        "create external table t {TEXT} location '{cluster}/catalog.log'",
        "create external table t {TEXT} location '{cluster}/tmp/node1'",
        "create external table t {TEXT} location '/etc'",
        "create table t {TEXT} location '{outside}'",
        "create table t stored as parquet location '{outside}' as select 1 a",
        "create table `../../outside/t` (a int)",
        "create table `x/../../../outside/t` stored as parquet as select 1 a",
        "load data inpath '{outside}/x.csv' into table own",
        "load data inpath '{outside}' into table own",
        "load data inpath 'file:{outside}/x.csv' into table own",
        "load data inpath '{cluster}/private/web.json' into table own",
        "load data inpath '{cluster}/catalog.log' into table own",
        "load data inpath '{cluster}/../outside/x.csv' into table own",
        "load data inpath '{cluster}/warehouse/link/x.csv' into table own",
        "load data inpath '{cluster}/warehouse/file.csv' into table own",
        "select * from '{outside}/x.csv'",
        "select * from `{outside}/x.csv`",
        "select * from read_csv('{outside}/x.csv')",
        "select * from read_text('{outside}/x.csv')",
        "select * from glob('{outside}/*')",
        "select * from own lateral view read_csv('{outside}/x.csv') v as x",
        "select read_text('{outside}/x.csv')",
        "select getenv('HOME')",
        "select current_setting('temp_directory')",
        "select * from duckdb_settings()",
        "select * from query('select 1')",
        "copy own to '{outside}/y.csv'",
        "attach '{outside}/db' as db",
        "install httpfs",
        "load httpfs",
        "pragma database_list",
        "set allowed_directories = '/'",
        "set enable_external_access = true",
        "export database '{outside}'",
        "insert into `{outside}/x.csv` values (1, 'b')",
        "insert overwrite local directory '{outside}' select 1",
    ],
)  # fmt: skip
def test_nothing_outside(cluster: Sandbox, cursor: HiveServer2Cursor, outside: Path, statement: str) -> None:
    sql = (
        statement.replace("{TEXT}", TEXT)
        .replace("{outside}", str(outside))
        .replace("{cluster}", str(cluster.directory))
    )
    with pytest.raises((HiveServer2Error, OperationalError)) as caught:
        rows(cursor, sql)
    assert "top secret" not in str(caught.value)
    assert [path.name for path in outside.iterdir()] == ["x.csv"] and (outside / "x.csv").read_text() == SECRET
    assert rows(cursor, "select * from own") == []


def test_links_in_a_table(cluster: Sandbox, cursor: HiveServer2Cursor, outside: Path) -> None:
    """A file or a partition's directory that is a link is where it leads to."""
    os.symlink(outside / "x.csv", cluster.warehouse / "own" / "y.csv")
    with pytest.raises((HiveServer2Error, OperationalError), match="reads and writes files in its own directory only"):
        rows(cursor, "refresh own")
    rows(cursor, "create table p (b string) partitioned by (a int)")
    rows(cursor, "insert into p partition (a=1) values ('x')")
    os.symlink(outside, cluster.warehouse / "p" / "a=2")
    for sql in (
        "insert into p partition (a=2) values ('x')",
        f"load data inpath '{cluster.directory}/loaded' into table p partition (a=2)",
        "refresh p",
    ):
        (cluster.directory / "loaded").mkdir(exist_ok=True)
        with pytest.raises((HiveServer2Error, OperationalError), match="reads and writes files"):
            rows(cursor, sql)
    assert [path.name for path in outside.iterdir()] == ["x.csv"]


def test_what_is_allowed(cluster: Sandbox, cursor: HiveServer2Cursor, place: Path) -> None:
    for directory in (place / "allowed" / "in", cluster.directory / "landing"):
        directory.mkdir()
        (directory / "x.csv").write_text(SECRET)
        rows(cursor, f"create external table t {TEXT} location '{directory}'")
        assert rows(cursor, "select b from t") == [("top secret",)]
        rows(cursor, "insert into t values (2, 'z')")
        assert rows(cursor, "select count(*) from t") == [(2,)]
        rows(cursor, "drop table t")
        assert (directory / "x.csv").exists()
        rows(cursor, f"load data inpath '{directory}/x.csv' into table own")
    assert rows(cursor, "select count(*) from own") == [(2,)]


def test_a_text_that_looks_like_a_tables_place(cursor: HiveServer2Cursor) -> None:
    assert rows(cursor, "select '__sandbox_table_0__', count(*) from own") == [("__sandbox_table_0__", 0)]


def test_nobody_else_may_look(cluster: Sandbox, cursor: HiveServer2Cursor) -> None:
    rows(cursor, "insert into own values (1, 'x')")
    paths = [cluster.directory, *cluster.directory.rglob("*")]
    loose = [
        path
        for path in paths
        if not path.is_symlink()
        and path.name not in ("landing", "loaded")
        and stat.S_IMODE(path.lstat().st_mode) & 0o077
    ]
    assert not loose
