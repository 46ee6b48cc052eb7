"""Everyday SQL, through impyla, on a coordinator without a lag."""

from __future__ import annotations

import datetime
import uuid
from collections.abc import Callable, Iterator
from decimal import Decimal
from pathlib import Path
from typing import Any

import pytest
from impala.error import HiveServer2Error, OperationalError
from impala.hiveserver2 import HiveServer2Cursor

from airflow_provider_impala_lb.sandbox import Sandbox
from tests.support.sandbox import Open, rows

DAY = datetime.datetime


@pytest.fixture
def cursor(plain: Sandbox, open_cursor: Open) -> Iterator[HiveServer2Cursor]:
    """In a database of its own, with ``t`` (a int, b string): (1, x), (2, y), (2, y)."""
    cursor = open_cursor(plain.nodes[0])
    database = f"d_{uuid.uuid4().hex[:8]}"
    rows(cursor, f"create database {database}")
    rows(cursor, f"use {database}")
    rows(cursor, "create table t (a int, b string) stored as parquet")
    rows(cursor, "insert into t values (1, 'x'), (2, 'y'), (2, 'y')")
    yield cursor
    rows(cursor, "use default")
    rows(cursor, f"drop database {database} cascade")


@pytest.mark.parametrize(
    ("expression", "value"),
    [
        ("nvl(null, 1)", 1),
        ("ifnull(null, 2)", 2),
        ("isnull(null, 3)", 3),
        ("zeroifnull(null)", 0),
        ("coalesce(null, null, 4)", 4),
        ("from_unixtime(0)", "1970-01-01 00:00:00"),
        ("from_unixtime(0, 'yyyy/MM/dd HH:mm')", "1970/01/01 00:00"),
        ("unix_timestamp('2020-01-01')", 1577836800),
        ("unix_timestamp('2020/01/02', 'yyyy/MM/dd')", 1577923200),
        ("unix_timestamp() > 1600000000", True),
        ("to_timestamp('2020/01/02', 'yyyy/MM/dd')", DAY(2020, 1, 2)),
        ("from_timestamp(cast('2020-01-02' as timestamp), 'yyyy-MM')", "2020-01"),
        ("regexp_like('aBc', 'b', 'i')", True),
        ("to_date('2020-05-17 10:00:00')", "2020-05-17"),
        ("date_trunc('month', '2020-05-17')", DAY(2020, 5, 1)),
        ("trunc(cast('2020-05-17 10:11:12' as timestamp), 'MM')", DAY(2020, 5, 1)),
        ("year('2020-05-17')", 2020),
        ("hour('2020-05-17 13:14:00')", 13),
        ("dayofweek('2020-05-17')", 1),
        ("datediff('2020-05-17', '2020-05-10')", 7),
        ("date_add('2020-01-01', 3)", DAY(2020, 1, 4)),
        ("date_sub('2020-01-05', interval 1 day)", DAY(2020, 1, 4)),
        ("days_add('2020-01-01', 1)", DAY(2020, 1, 2)),
        ("cast('2020-01-01' as timestamp) + interval 3 days", DAY(2020, 1, 4)),
        ("add_months('2020-01-31', 1)", DAY(2020, 2, 29)),
        ("extract(year from '2020-01-01')", 2020),
        ("extract('2020-01-01', 'year')", 2020),
        ("concat('a', 'b', 'c')", "abc"),
        ("concat_ws('-', 'a', 'b')", "a-b"),
        ("split_part('a,b,c', ',', 2)", "b"),
        ("regexp_replace('aXbX', 'X', '-')", "a-b-"),
        ("regexp_extract('abc123', '([0-9]+)', 1)", "123"),
        ("initcap('hello world')", "Hello World"),
        ("instr('hello', 'l')", 3),
        ("cast('x' as int)", None),
        ("cast(1.5 as string)", "1.5"),
        ("cast('1.25' as decimal(9,2))", Decimal("1.25")),
        ("7 / 2", 3.5),
        ("7 div 2", 3),
        ("2 <=> null", False),
        ("'abc' rlike 'b'", True),
        ("effective_user()", "ann"),
        ("typeof(1)", "TINYINT"),
        ("length(uuid())", 36),
        ("pid() > 0 and now() is not null and version() like 'impalad%'", True),
        ("if(1 = 1, 'y', 'n')", "y"),
        ("'it\\'s; ok'", "it's; ok"),
        ('"double"', "double"),
        ("cast('2020-01-02' as date)", datetime.date(2020, 1, 2)),
    ],
)
def test_expression(cursor: HiveServer2Cursor, expression: str, value: Any) -> None:
    assert rows(cursor, f"select {expression} as v") == [(value,)]


@pytest.mark.parametrize(
    ("sql", "expected"),
    [
        ("select count(*), count(distinct a), sum(a), min(b), ndv(a), appx_median(a) from t", [(3, 2, 5, "x", 2, 2)]),
        ("select group_concat(b, '|') from t", [("x|y|y",)]),
        ("select group_concat(distinct b, '|') from t", [("x|y",)]),
        ("select a, row_number() over (partition by b order by a) from t order by 1, 2", [(1, 1), (2, 1), (2, 2)]),
        ("with x as (select a from t), y as (select a + 1 b from x) select max(b) from y", [(3,)]),
        ("with t as (select a * 10 a from t) select max(a) from t", [(20,)]),
        ("select t1.a from t t1 join t t2 on t1.a = t2.a where t1.a = 1", [(1,)]),
        ("select t.* from t left anti join (select 1 a) u on t.a = u.a limit 1", [(2, "y")]),
        ("select a from t where exists (select 1 from t u where u.a = t.a) order by a limit 1", [(1,)]),
        ("values (1, 'a'), (2, 'b')", [(1, "a"), (2, "b")]),
        ("select straight_join t.a from t join [broadcast] t u on t.a = u.a where t.a = 1", [(1,)]),
        ("/* label; */ select /* +STRAIGHT_JOIN */ a -- x; y\n from t where a = 1;", [(1,)]),
        ("select x from (select null x union all select 1) s order by x", [(1,), (None,)]),
        ("select x from (select null x union all select 1) s order by x desc", [(None,), (1,)]),
        ("select sleep(1)", [(True,)]),
    ],
)
def test_query(cursor: HiveServer2Cursor, sql: str, expected: list[tuple[Any, ...]]) -> None:
    assert rows(cursor, sql) == expected


def test_names_of_columns_are_lower_case_texts(cursor: HiveServer2Cursor) -> None:
    rows(cursor, "select A, COUNT(*), a + 1, Max(b) AS Big from T group by a")
    assert [column[0] for column in cursor.description] == ["a", "count(*)", "a + 1", "big"]


def test_types_come_back(cursor: HiveServer2Cursor) -> None:
    columns = {
        "b": ("boolean", True),
        "t": ("tinyint", -8),
        "s": ("smallint", 300),
        "i": ("int", 70000),
        "l": ("bigint", 2**40),
        "f": ("float", 0.5),
        "d": ("double", 1e300),
        "x": ("decimal(18,3)", Decimal("-1.250")),
        "c": ("string", "žlutý\n'kůň'"),
        "v": ("varchar(10)", "v"),
        "ts": ("timestamp", DAY(2020, 1, 2, 3, 4, 5, 678900)),
        "dt": ("date", datetime.date(1969, 12, 31)),
    }
    rows(cursor, f"create table types ({', '.join(f'{n} {k}' for n, (k, _) in columns.items())}) stored as parquet")
    values = "true, -8, 300, 70000, 1099511627776, 0.5, 1e300, -1.25, 'žlutý\\n\\'kůň\\'', 'v'"
    rows(cursor, f"insert into types values ({values}, '2020-01-02 03:04:05.6789', cast('1969-12-31' as date))")
    rows(cursor, f"insert into types values ({', '.join(['null'] * len(columns))})")
    found = rows(cursor, "select * from types order by i")
    assert found == [tuple(value for _, value in columns.values()), (None,) * len(columns)]
    assert [column[1] for column in cursor.description] == [
        "BOOLEAN", "TINYINT", "SMALLINT", "INT", "BIGINT", "FLOAT", "DOUBLE", "DECIMAL", "STRING", "STRING",
        "TIMESTAMP", "DATE",
    ]  # fmt: skip
    assert cursor.description[7][4:6] == (18, 3)


def test_many_rows_in_batches(cursor: HiveServer2Cursor) -> None:
    rows(cursor, "create table big as select 1 n union all select null")
    for _ in range(13):
        rows(cursor, "insert into big select * from big")
    cursor.set_arraysize(1000)
    found = rows(cursor, "select n from big")
    assert len(found) == 2**14 and found.count((None,)) == 2**13


def test_partitions(cursor: HiveServer2Cursor) -> None:
    rows(cursor, "create table p (v string) partitioned by (y int, m string) stored as parquet")
    cursor.execute("insert into p partition (y=2020, m='a') values ('x')")
    assert cursor.rowcount == 1
    cursor.execute("insert into p partition (y, m) select 'y', 2021, 'b' union all select 'w', 2020, 'a'")
    assert cursor.rowcount == 2
    rows(cursor, "insert overwrite p partition (y=2020, m='a') select 'new'")
    rows(cursor, "insert overwrite table p partition (y=2021, m) select 'newer', 'b'")
    rows(cursor, "insert into p partition (y=2022, m) select 'none', cast(null as string)")
    assert rows(cursor, "select * from p order by v") == [
        ("new", 2020, "a"),
        ("newer", 2021, "b"),
        ("none", 2022, None),
    ]
    assert [row[:2] for row in rows(cursor, "show partitions p")] == [
        ("2020", "a"),
        ("2021", "b"),
        ("2022", "NULL"),
        ("Total", ""),
    ]


@pytest.fixture
def landing(plain: Sandbox) -> Path:
    """Where files land for this cluster's tables."""
    directory = plain.directory / f"landing_{uuid.uuid4().hex}"
    directory.mkdir()
    return directory


def test_csv_and_text_tables(cursor: HiveServer2Cursor, landing: Path) -> None:
    (landing / "1.csv").write_text("a,b,d\n1,x,1.5\n2,,NA\n3\n")
    rows(
        cursor,
        "create external table csv (a int, b string, d double) row format delimited fields terminated by ',' "
        f"stored as textfile location '{landing}' tblproperties ('skip.header.line.count'='1')",
    )
    assert rows(cursor, "select * from csv order by a") == [(1, "x", 1.5), (2, "", None), (3, None, None)]
    (landing / "2.csv").write_text("a,b,d\n4,y,2\n")
    assert rows(cursor, "select count(*) from csv") == [(3,)]
    rows(cursor, "refresh csv")
    assert rows(cursor, "select count(*) from csv") == [(4,)]
    rows(cursor, "drop table csv")
    assert (landing / "1.csv").exists()
    rows(cursor, "create table txt (a int, b string)")
    cursor.execute("insert into txt values (1, 'a'), (2, null)")
    assert cursor.rowcount == 2
    assert rows(cursor, "select * from txt order by a") == [(1, "a"), (2, None)]


def test_load_data(cursor: HiveServer2Cursor, landing: Path) -> None:
    (landing / "x.csv").write_text("7,seven\n")
    rows(cursor, "create table l (a int, b string) row format delimited fields terminated by ',' stored as textfile")
    rows(cursor, f"load data inpath '{landing}/x.csv' into table l")
    assert rows(cursor, "select * from l") == [(7, "seven")]
    assert not (landing / "x.csv").exists()


def test_insert_into_listed_columns_and_itself(cursor: HiveServer2Cursor) -> None:
    rows(cursor, "insert into table t (b, a) /* +SHUFFLE */ select 'q', 6")
    rows(cursor, "insert overwrite t select * from t where a > 1")
    assert rows(cursor, "select a, b from t order by a") == [(2, "y"), (2, "y"), (6, "q")]
    rows(cursor, "with w as (select 8 a, 'w' b) insert into t select * from w")
    rows(cursor, "insert into t select 9, null")
    assert rows(cursor, "select count(*), count(b) from t") == [(5, 4)]


def test_views_and_shapes(cursor: HiveServer2Cursor) -> None:
    rows(cursor, "create view v (x) as select a from t where a > 1")
    rows(cursor, "create table like_t like t")
    assert rows(cursor, "create table c stored as parquet as select x, count(*) from v group by x") == [
        ("Inserted 1 row(s)",)
    ]
    assert rows(cursor, "describe c") == [("x", "int", ""), ("_c1", "bigint", "")]
    assert rows(cursor, "show tables") == [("c",), ("like_t",), ("t",), ("v",)]
    assert rows(cursor, "show tables like 'l*|v'") == [("like_t",), ("v",)]
    rows(cursor, "drop view v")
    rows(cursor, "alter table c rename to c2")
    rows(cursor, "alter table c2 add columns (z string)")
    assert rows(cursor, "select * from c2") == [(2, 2, None)]
    assert rows(cursor, "truncate table t") == [("Table has been truncated.",)]
    assert rows(cursor, "select count(*) from t") == [(0,)]
    assert "CREATE TABLE" in rows(cursor, "show create table c2")[0][0]
    assert any("SCAN HDFS" in line for (line,) in rows(cursor, "explain select * from t"))


def test_compute_stats(cursor: HiveServer2Cursor) -> None:
    assert rows(cursor, "show table stats t")[0][0] == -1
    assert rows(cursor, "compute stats t") == [("Updated 1 partition(s) and 2 column(s).",)]
    assert rows(cursor, "show table stats t")[0][:2] == (3, 1)


@pytest.mark.parametrize(
    ("sql", "message"),
    [
        ("select * from nosuch", "^AnalysisException: Could not resolve table reference: 'nosuch'"),
        ("select * from no.such", "^AnalysisException: Could not resolve table reference: 'no.such'"),
        ("select nosuch from t", "^AnalysisException: Could not resolve column/field reference: 'nosuch'"),
        ("select nosuch(1)", r"^AnalysisException: default.nosuch\(\) unknown"),
        ("use nosuch", "^AnalysisException: Database does not exist: nosuch"),
        ("drop table nosuch", "^AnalysisException: Table does not exist: "),
        ("create table t (a int)", "^AnalysisException: Table already exists: "),
        ("insert into t values (1)", r"has more columns \(2\) than the SELECT / VALUES clause returns \(1\)"),
        ("insert into t values ('x', 'y')", "is incompatible with source expressions"),
        ("select 1; select 2", "^ParseException: Syntax error in line 1:\nselect 1; select 2\n          \\^"),
        ("select 1;;", "^ParseException: Syntax error in line 1"),
        ("selec 1", "^ParseException: Syntax error in line 1:\nselec 1\n\\^"),
        ("select\n 'abc", "^ParseException: Syntax error in line 2"),
        ("-- nothing", "^ParseException: "),
        ("unset mem_limit", "^ParseException: "),
        ("set var:x=1", "^ParseException: "),
        ("set nosuch=1", "^Invalid query option: nosuch"),
        ("drop database default", "^AnalysisException: Cannot drop"),
    ],
)
def test_refused_before_it_runs(cursor: HiveServer2Cursor, sql: str, message: str) -> None:
    with pytest.raises(HiveServer2Error, match=message.replace("^", "^Query [0-9a-f:]{33} failed:\n", 1)):
        cursor.execute(sql)


def test_fails_while_it_runs(cursor: HiveServer2Cursor) -> None:
    with pytest.raises(OperationalError, match="UDF ERROR"):
        cursor.execute("select cast(b as decimal(9,2)) from t")
    with pytest.raises(OperationalError, match="is not empty"):
        rows(cursor, "create database e")
        cursor.execute("create table e.x (a int)")
        cursor.execute("drop database e")
    rows(cursor, "drop database if exists e cascade")
    assert rows(cursor, "select 1") == [(1,)]


def test_options(cursor: HiveServer2Cursor) -> None:
    rows(cursor, "SET MEM_LIMIT=1g")
    assert ("MEM_LIMIT", "1g", "REGULAR") in rows(cursor, "set")
    rows(cursor, "unset all")
    assert ("MEM_LIMIT", "0", "REGULAR") in rows(cursor, "set all")
    with pytest.raises(HiveServer2Error, match="Invalid query option: nosuch"):
        cursor.execute("select 1", configuration={"nosuch": "1"})


def fetched(cursor: HiveServer2Cursor, call: Callable[[], None]) -> list[tuple[Any, ...]]:
    call()
    return list(cursor.fetchall())


def test_metadata_calls(plain: Sandbox, cursor: HiveServer2Cursor) -> None:
    database = rows(cursor, "select current_database()")[0][0]
    assert database in [row[0] for row in fetched(cursor, cursor.get_databases)]
    assert cursor.table_exists("t", database_name=database) and not cursor.table_exists("nosuch")
    assert cursor.get_table_schema("t", database_name=database) == [("a", "INT"), ("b", "STRING")]
    assert fetched(cursor, cursor.get_functions)
    assert not [entry for entry in plain.nodes[0].journal() if entry.get("sql") in ("schemas", "columns", "functions")]
    assert (database, "t") in [row[1:3] for row in fetched(cursor, lambda: cursor.get_tables(database))]
