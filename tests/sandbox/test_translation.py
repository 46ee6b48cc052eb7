"""Functions in functions, types in comparisons, and what the practice cluster has not: said, never guessed."""

from __future__ import annotations

import datetime
import random
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from impala.error import HiveServer2Error, OperationalError
from impala.hiveserver2 import HiveServer2Cursor

from airflow_provider_impala_lb.sandbox import Sandbox
from airflow_provider_impala_lb.sandbox.sql.functions import AGGREGATES, MACROS
from tests.support.sandbox import Open, rows


@pytest.fixture
def cursor(plain: Sandbox, open_cursor: Open) -> HiveServer2Cursor:
    return open_cursor(plain.nodes[0])


def value(cursor: HiveServer2Cursor, expression: str) -> Any:
    return rows(cursor, f"select {expression}")[0][0]


@pytest.mark.parametrize(
    ("expression", "expected"),
    [
        ("nvl(regexp_replace('a-b-c', '-', ''), 'x')", "abc"),
        ("from_unixtime(unix_timestamp('20240501', 'yyyyMMdd'), 'yyyy-MM-dd')", "2024-05-01"),
        ("from_timestamp(date_sub('2024-03-01', 1), 'yyyyMMdd')", "20240229"),
        ("from_timestamp(add_months(trunc('2024-03-31', 'MM'), -1), 'yyyyMM')", "202402"),
        ("from_timestamp(add_months(trunc(cast('2024-03-31 10:00:00' as timestamp), 'MM'), -1), 'yyyyMM')", "202402"),
        ("datediff(date_sub(to_date(now()), 1), to_date(now()))", -1),
        ("cast(date_add(to_date('2024-02-28 10:00:00'), 2) as string)", "2024-03-01 00:00:00"),
        ("cast(date_add(cast('2024-02-28' as date), 2) as string)", "2024-03-01"),
        ("concat(upper(substr('hello', 1, 1)), lower(substr('HELLO', 2)))", "Hello"),
        ("cast(nvl(nullif(trim('  '), ''), '7') as int) + 1", 8),
        ("if(nvl(null, 1) = 1, regexp_extract(concat('a', '12'), '([0-9]+)', 1), 'no')", "12"),
        ("case when coalesce(null, instr('abc', 'b')) > 1 then strleft(upper('abc'), 2) else '' end", "AB"),
        ("coalesce(cast(null as string), concat('a', cast(1 as string), cast(true as string)))", "a11"),
        ("round(cast('2.5' as double) / nullif(0, 0), 2)", None),
        ("year(last_day(add_months('2023-12-31', 2)))", 2024),
    ],
)
def test_functions_in_functions(cursor: HiveServer2Cursor, expression: str, expected: Any) -> None:
    assert value(cursor, expression) == expected


# A function of one text that gives a text, and of one moment that gives a moment, each with what it does to a sample.
TEXTS = ["upper({})", "lower({})", "trim({})", "ltrim({})", "rtrim({})", "reverse({})", "initcap({})",
         "substr({}, 2)", "strleft({}, 3)", "strright({}, 3)", "lpad({}, 6, 'xy')", "rpad({}, 6, 'xy')",
         "repeat({}, 2)", "regexp_replace({}, 'b', '<>')", "replace({}, 'a', 'zz')", "concat({}, '-', {})",
         "nvl({}, 'n')", "coalesce({}, 'n')", "if({} = 'abc', 'yes', {})", "nullif({}, 'q')", "split_part({}, '-', 1)",
         "translate({}, 'ab', 'ba')", "cast({} as varchar(5))", "cast({} as string)", "decode({}, 'abc', 'x', {})",
         "regexp_extract({}, '[a-z]+', 0)", "case when {} like 'a%' then {} else 'other' end",
         "from_timestamp(cast('2024-02-03' as timestamp), 'yyyy-MM-dd') || {}", "concat_ws('+', {}, 'e')"]  # fmt: skip
MOMENTS = ["date_add({}, 3)", "date_sub({}, 40)", "add_months({}, 5)", "months_sub({}, 7)", "years_add({}, 1)",
           "hours_add({}, 30)", "minutes_sub({}, 5)", "trunc({}, 'MM')", "trunc({}, 'YYYY')", "date_trunc('week', {})",
           "last_day({})", "next_day({}, 'friday')", "{} + interval 3 days", "{} - interval 2 months",
           "nvl({}, now())", "greatest({}, cast('2001-01-01' as timestamp))", "from_unixtime(unix_timestamp({}))",
           "to_date({})", "cast({} as string)", "cast({} as timestamp)", "coalesce(null, {})",
           "if({} > '2000-01-01', {}, '2000-01-01')", "to_timestamp(from_timestamp({}, 'yyyy/MM/dd'), 'yyyy/MM/dd')",
           "cast(cast({} as date) as timestamp)"]  # fmt: skip


@pytest.mark.slow
def test_nesting_is_composing_by_hand(cursor: HiveServer2Cursor) -> None:
    """Of random functions, one within the other: the same as one after the other, by way of literals."""
    chance = random.Random(7)
    places = ["select {} v", "select v from (select {} v) s", "with w as (select {} v) select v from w",
              "values ({})", "select max({})", "select {} v group by {}", "select {} v order by {}",
              "select s.v from (select 1 x) o, (select {} v) s where s.v = {}"]  # fmt: skip
    for _ in range(60):
        functions, literal, kind = chance.choice(
            [(TEXTS, "'abc-d'", "string"), (MOMENTS, "'2023-11-30 04:05:06'", "timestamp")]
        )
        chosen = [chance.choice(functions) for _ in range(chance.randint(2, 4))]
        literal = literal if kind == "string" else f"cast({literal} as timestamp)"
        nested, by_hand = literal, literal
        for function in chosen:
            try:
                found = value(cursor, f"cast({function.replace('{}', by_hand)} as string)")
            except HiveServer2Error:  # no such function of this type, or not here: then nested neither
                with pytest.raises(HiveServer2Error):
                    value(cursor, function.replace("{}", nested))
                continue
            nested = function.replace("{}", nested)
            kind_now = value(cursor, f"typeof({function.replace('{}', by_hand)})")
            by_hand = "null" if found is None else "'" + found.replace("'", "\\'") + "'"
            by_hand = f"cast({by_hand} as {kind_now})"
        place = chance.choice(places)
        if place.startswith("select s.v") and found is None:
            place = places[0]
        got = rows(cursor, place.replace("{}", f"cast({nested} as string)"))
        assert got == [(found,)], (place, nested)


SOURCE = """(select '2024-01-31' d, 1 n, cast('2024-02-03' as date) t
    union all select '2024-01-30', 2, cast('2024-02-01' as date)) s"""


@pytest.mark.parametrize(
    ("sql", "expected"),
    [
        (
            "select to_date(max(d)), cast(max(t) as string), year(min(t)), upper(max(concat(d, 'x'))) from {s}",
            [("2024-01-31", "2024-02-03", 2024, "2024-01-31X")],
        ),
        ("select n, datediff(t, lag(t) over (order by t)) from {s} order by n", [(1, 2), (2, None)]),
        ("select count(*) from {s} having max(d) = '2024-01-31' and max(t) > '2024-02-02'", [(2,)]),
        ("select round(sum(n) / count(*), 1), cast(sum(n) as string), nvl(sum(n), 0) + 1 from {s}", [(1.5, "3", 4)]),
        ("select date_add(max(t), cast(max(n) as int)) from {s}", [(datetime.date(2024, 2, 5),)]),
        (
            "select trunc(t, 'MM') m, from_timestamp(max(t), 'dd') from {s} group by trunc(t, 'MM') "
            "order by date_add(max(t), 1)",
            [(datetime.date(2024, 2, 1), "03")],
        ),
        (
            "select n, sum(sum(n)) over (order by n), cast(rank() over (order by max(d)) as string) "
            "from {s} group by n order by n",
            [(1, 1, "2"), (2, 3, "1")],
        ),
        (
            "select lower(trim(upper(nvl(d, 'x')))) k, count(*) from {s} group by lower(trim(upper(nvl(d, 'x')))) "
            "order by lower(trim(upper(nvl(d, 'x'))))",
            [("2024-01-30", 1), ("2024-01-31", 1)],
        ),
    ],
)
def test_of_many_rows(cursor: HiveServer2Cursor, sql: str, expected: list[Any]) -> None:
    """The types of aggregates and windows are known, too; an expression is the same in SELECT and GROUP BY."""
    assert rows(cursor, sql.replace("{s}", SOURCE)) == expected


def test_nested_everywhere(cursor: HiveServer2Cursor) -> None:
    rows(cursor, "drop table if exists nest")
    rows(cursor, "create table nest (k string, d string, n int) stored as parquet")
    rows(
        cursor,
        "insert into nest values (lower(concat('A', 'b')), to_date(date_add('2024-01-31', 1)), 1 + length('ab'))",
    )
    rows(cursor, "insert into nest select upper(k), to_date(add_months(d, 1)), n div 2 from nest")
    sql = """
        with w as (select upper(trim(k)) k, add_months(trunc(d, 'MM'), 1) m, n from nest where year(to_date(d)) = 2024)
        select nvl(lower(k), 'none'), from_timestamp(max(m), 'yyyy-MM'), sum(zeroifnull(n))
        from (select * from w where datediff(m, '2024-01-01') between 1 and 400) s
        group by nvl(lower(k), 'none') having count(nullif(k, '')) = 2
        order by length(concat(nvl(lower(k), 'none'), 'x'))
    """
    assert rows(cursor, sql) == [("ab", "2024-04", 4)]
    rows(cursor, "drop table nest")


@pytest.mark.parametrize(
    ("where", "count"),
    [
        ("d = cast('2001-01-12' as date)", 1),
        ("d between cast('2001-01-12' as date) and cast('2001-01-12' as date) + interval 30 days", 2),
        ("d > date_sub(cast('2001-02-12' as timestamp), 7)", 1),
        ("d in (cast('2001-01-12' as date), cast('2001-03-01' as date))", 2),
        ("d < now()", 3),
        ("cast('2001-02-01' as timestamp) <= d", 2),
        ("dt = '2001-01-12'", 1),
        ("dt >= d", 3),
        ("ts <> d", 0),
        ("ts between d and '2001-02-01'", 2),
        ("ts >= dt", 3),
    ],
)
def test_a_string_beside_a_moment(cursor: HiveServer2Cursor, where: str, count: int) -> None:
    source = (
        "(select d, cast(d as date) dt, cast(d as timestamp) ts from "
        "(select '2001-01-12' d union all select '2001-02-01' union all select '2001-03-01') x) t"
    )
    assert rows(cursor, f"select count(*) from {source} where {where}") == [(count,)]


@pytest.mark.parametrize(
    ("expression", "expected"),
    [
        ("5 % 0", None),
        ("5 div 0", None),
        ("1 / 0", float("inf")),
        ("-1 / 0", float("-inf")),
        ("cast(1.5 as double) % 0", None),
        ("10.0 / 3", 3.333333),
        ("7 / 2", 3.5),
        ("-7 div 2", -3),
        ("cast('1.5' as int)", None),
        ("cast(cast(1.7 as double) as int)", 1),
        ("cast(1.7 as int)", 2),
        ("cast(300 as tinyint)", 44),
        ("cast(3.0e0 as string)", "3"),
        ("cast(true as string)", "1"),
        ("cast(cast('2020-01-01 00:00:00.5' as timestamp) as string)", "2020-01-01 00:00:00.500000000"),
        ("concat('a', null)", None),
        ("greatest(1, null)", None),
        ("least(3, 2)", 2),
        ("true || false", True),
        ("'a' || 'b'", "ab"),
        ("'a%' like 'a\\\\%'", True),
        ("add_months('1999-02-28', 12)", "2000-02-29 00:00:00"),
        ("cast('2001-02-28' as timestamp) + interval 1 month", "2001-03-28 00:00:00"),
        ("length('\u00fcn\u00ef')", 5),
    ],
)
def test_daily_idioms(cursor: HiveServer2Cursor, expression: str, expected: Any) -> None:
    found = value(cursor, expression)
    assert (str(found) if isinstance(expected, str) else found) == expected


def test_char_as_a_result(cursor: HiveServer2Cursor) -> None:
    sql = "select cast('a' as char(3)), cast('abcd' as char(3)) c union all select cast(null as char(3)), 'x'"
    assert rows(cursor, sql) == [("a  ", "abc"), (None, "x")]


def test_letters_and_bytes(cursor: HiveServer2Cursor) -> None:
    """Bytes by default; a part of a text that is not ASCII could be no text, so it is refused."""
    with pytest.raises(OperationalError, match="the practice cluster does not have this: functions that count bytes"):
        rows(cursor, "select substr('\u00fcn\u00ef', 2, 1)")
    assert value(cursor, "upper('\u00fcn')") == "\u00fcN"
    rows(cursor, "set utf8_mode=true")
    expected = [(3, "n", "\u00dcN", "\u00efn\u00fc")]
    assert (
        rows(
            cursor, "select length(x), substr(x, 2, 1), upper('\u00fcn'), reverse(x) from (select '\u00fcn\u00ef' x) t"
        )
        == expected
    )
    rows(cursor, "set utf8_mode=false")


@pytest.mark.parametrize(
    ("sql", "message"),
    [
        ("select 1 limit 1 offset 1", "OFFSET requires an ORDER BY clause: LIMIT 1 OFFSET 1"),
        ("select * from (select 1 a limit 1 offset 1) t", "OFFSET requires an ORDER BY clause: LIMIT 1 OFFSET 1"),
        ("select cast(1.0 as decimal(4,2)) / 0", "UDF ERROR: Cannot divide decimal by zero"),
        ("select get_json_object('{}', '$.a')", r"get_json_object\(\): the practice cluster does not have this"),
        ("select nvl(conv('a', 1, 2), 'x')", r"conv\(\): the practice cluster does not have this"),
        ("select nosuch(1)", r"default.nosuch\(\) unknown"),
        ("select other.f(1)", "the practice cluster does not have this"),
        ("select list_sort(1)", r"default.list_sort\(\) unknown"),
        ("select im_range(now())", r"default.im_range\(\) unknown"),
        ("select moment(now())", r"default.moment\(\) unknown"),
        ("select length(cast('a' as char(3)))", "the practice cluster does not have this"),
        ("select 1 where cast('a' as char(3)) = 'a'", "the practice cluster does not have this"),
        ("select x from (select cast('a' as char(3)) x) t where x = 'a'", "the practice cluster does not have this"),
        (
            "select cast('2020-01-01 00:00:00.123456789' as timestamp)",
            "the practice cluster does not have this: nanoseconds",
        ),
        ("select concat('a', 1)", "No matching function"),
        (
            "create table k (id int primary key) partition by hash(id) partitions 3 stored as kudu",
            "not supported by the sandbox",
        ),
        ("comment on table t is 'c'", "not supported by the sandbox"),
        ("refresh functions default", "not supported by the sandbox"),
        ("optimize table t", "not supported by the sandbox"),
        ("create table i (a int, d timestamp) partitioned by spec (bucket(3,a)) stored by iceberg", "not supported by"),
        ("create function f location '/x' symbol='y'", "not supported by the sandbox"),
    ],
)
def test_refused_in_one_line(cursor: HiveServer2Cursor, sql: str, message: str) -> None:
    with pytest.raises((HiveServer2Error, OperationalError), match=message) as caught:
        rows(cursor, sql)
    said = str(caught.value).split("failed:\n")[1].strip()
    assert "ParseException" not in said and "\n" not in said


def test_words_in_a_comment_are_no_clause(cursor: HiveServer2Cursor) -> None:
    rows(cursor, "create table commented (a int comment 'the primary key, stored as kudu') comment 'x stored by y'")
    rows(cursor, "drop table commented")


def test_no_name_of_ours_is_a_function_of_theirs() -> None:
    assert not set(AGGREGATES) & set(MACROS)


EVERY_MACRO = """
import os, sys, pathlib
from airflow_provider_impala_lb.sandbox.sql.engine import Engine
from airflow_provider_impala_lb.sandbox.sql.functions import macro_statements
engine = Engine(pathlib.Path(sys.argv[1]), [])
for name in macro_statements():
    engine.cursor(name).close()
print("made", flush=True)
os._exit(0)  # as a coordinator ends: DuckDB says much at exit
"""


def test_every_macro_can_be_made(tmp_path: Path) -> None:
    """Each is made when a statement first uses it: so one that is broken would not show before."""
    done = subprocess.run([sys.executable, "-c", EVERY_MACRO, str(tmp_path)], capture_output=True, text=True)
    assert done.stdout == "made\n", done.stderr
