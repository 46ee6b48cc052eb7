"""Parameters: where a marker is one, the text of each value, and that no value is ever anything but one value."""

from __future__ import annotations

import math
from collections import OrderedDict
from datetime import date, datetime, time, timedelta, timezone
from decimal import Decimal
from enum import Enum
from uuid import UUID

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from airflow_provider_impala_lb import Balancer
from airflow_provider_impala_lb.errors import ScriptError
from airflow_provider_impala_lb.impala.sql.lexer import tokens
from airflow_provider_impala_lb.impala.sql.parameters import bind, bind_script, literal
from airflow_provider_impala_lb.impala.sql.splitter import split
from tests.support.scripts import rows_of, run

VALUES = {"?": ["x"], "%s": ["x"], ":1": ["x"], ":name": {"name": "x"}, "%(name)s": {"name": "x"}}


def refusal(sql, parameters, line=1):
    with pytest.raises(ScriptError) as caught:
        bind(sql, parameters, line=line)
    return str(caught.value)


@pytest.mark.parametrize(
    ("sql", "parameters", "expected"),
    [
        ("SELECT ?, ?", [1, "x"], "SELECT 1, 'x'"),
        ("SELECT %s, %s", (1, "x"), "SELECT 1, 'x'"),
        ("SELECT :2, :1, :2", [1, "x"], "SELECT 'x', 1, 'x'"),
        ("SELECT :a, :b, :a", {"a": 1, "b": "x"}, "SELECT 1, 'x', 1"),
        ("SELECT %(a b)s, %(c)s", {"a b": 1, "c": "x"}, "SELECT 1, 'x'"),
        ("SELECT ?", iter([1]), "SELECT 1"),
        # Values are not looked at again.
        ("SELECT ?, ?", ["?", "%s"], "SELECT '?', '%s'"),
        ("SELECT :a, :b", {"a": ":b", "b": "%(a)s"}, "SELECT ':b', '%(a)s'"),
        # Where parameters are given a %% outside of strings is a %.
        ("SELECT a %% 2, '%%', %s", ["x"], "SELECT a % 2, '%%', 'x'"),
        # A value runs into nothing.
        ("SELECT 5-%s", [-1], "SELECT 5- -1"),
        ("SELECT a%s", ["x"], "SELECT a 'x'"),
        ("SELECT 'a'?'b'", ["x"], "SELECT 'a' 'x' 'b'"),
        ("SELECT x IN ?", [(1, "b")], "SELECT x IN (1, 'b')"),
        # None are given: the statement is not looked at.
        ("SELECT a %% 2, '%s", [], "SELECT a %% 2, '%s"),
        ("SELECT ?", None, "SELECT ?"),
        ("SELECT ?", {}, "SELECT ?"),
        # A dict may serve more than one statement.
        ("SELECT 1", {"a": 1}, "SELECT 1"),
        ("SELECT :a", OrderedDict(a=1, b=object()), "SELECT 1"),
    ],
)
def test_where_a_value_goes(sql, parameters, expected):
    assert bind(sql, parameters) == expected


@pytest.mark.parametrize("marker", VALUES)
@pytest.mark.parametrize(
    "sql",
    [
        # Strings, comments, hints and quoted names reach the server as they are written.
        "SELECT cast('2024-01-01 10:20:30' AS TIMESTAMP), @",
        "SELECT 'http://h/a?b=1', @",
        "SELECT from_unixtime(@, 'HH:mm:ss')",
        "SELECT s LIKE 'a%' AND '%s%(name)s' = @",
        "SELECT 'see note:1', '%:name%', @",
        "SELECT 'it\\'s ?', \"it's :1\", `?:1%s`, @",
        "-- why? :1 %s :name\nSELECT /* ? */ @ -- %(name)s ?",
        "SELECT /* +a(?, 'b') */ 1, -- +:1 ?\n@",
        # Signs that are other operators, or those of other dialects.
        "SELECT a % b, a %b, a%2, a %(b + 1), a %(b) s, @",
        "SELECT j:a.b, x::int, j:1, `j`:name, f(x):name, @",
        "SELECT a %size, a %suffix, x.%s_y, @",
    ],
)
def test_what_is_no_marker(sql, marker):
    assert bind(sql.replace("@", marker), VALUES[marker]) == sql.replace("@", "'x'")


def test_a_list_goes_to_each_statement_that_has_markers():
    script = split("SET MEM_LIMIT=1g; SELECT * FROM t WHERE d = %s; REFRESH t; DELETE FROM k WHERE d = ?")
    bound = bind_script([(each.line, each.sql) for each in script], ["2024-01-01"])
    assert bound == [
        "SET MEM_LIMIT=1g",
        "SELECT * FROM t WHERE d = '2024-01-01'",
        "REFRESH t",
        "DELETE FROM k WHERE d = '2024-01-01'",
    ]


def test_a_name_that_stands_in_a_string_only_is_warned_of(caplog):
    sql = "SELECT '%(day)s', '%(n)s', :n"
    assert bind(sql, {"day": "s3cret", "n": 1, "other": 2}) == "SELECT '%(day)s', '%(n)s', 1"
    (record,) = caplog.records
    assert record.getMessage().startswith("%(day)s stands in a string")


@pytest.mark.parametrize(
    ("sql", "parameters", "says"),
    [
        ("SELECT ?", [1, 2], "it has 1 markers for 2 parameters"),
        ("SELECT %s, %s, %s", [1], "it has 3 markers for 1 parameters"),
        ("SELECT :1, :3", [1, 2], "no parameter 3 among 2"),
        ("SELECT :0", [1], "numbers begin with 1"),
        ("SELECT :1, :1", [1, 2, 3], "the highest number of a marker is :1, for 3 parameters: 2 are left over"),
        (f"SELECT :{'1' * 4301}", [1], "a marker of a number of 4301 digits"),
        ("SELECT 1, '?'", [1], "no marker for its 1 parameters"),
        ("SELECT :a", {"b": "s3cret"}, "no parameter 'a' (given: b)"),
        ("SELECT ?, %s", [1, 2], "markers of two styles, ? and %s"),
        ("SELECT :a, %(a)s", {"a": 1}, "markers of two styles, :name and %(name)s"),
        ("SELECT ?", {"a": 1}, "the marker ? does not go with a dict"),
        ("SELECT :a", [1], "the marker :a does not go with a list"),
        ("SELECT %s", "s3cret", "parameters are a str"),
        ("SELECT %s", {1}, "parameters are a set"),
        ("SELECT 'a", [1], "has no end"),
    ],
)
def test_what_does_not_fit_is_refused_and_says_what_is_allowed(sql, parameters, says):
    text = refusal(sql, parameters)
    assert says in text
    assert "s3cret" not in text
    if "no end" not in says and "left over" not in says:
        assert "a list or tuple goes with ?, %s or :1, a dict with :name or %(name)s" in text


def test_numbers_count_over_the_script():
    script = [(1, "SELECT :1"), (2, "SELECT :2, :1"), (3, "SELECT 1")]
    assert bind_script(script, ["a", "b"]) == ["SELECT 'a'", "SELECT 'b', 'a'", "SELECT 1"]


def test_a_statement_that_has_no_utf8_is_refused_before_any_is_sent():
    with pytest.raises(ScriptError, match=r"lone surrogate, '\\ud800'") as caught:
        bind_script([(1, "INSERT INTO t VALUES (1)"), (2, "INSERT INTO t\nVALUES ('\ud800')")], None)
    assert caught.value.line == 3


def test_many_names_that_a_large_statement_does_not_have(caplog):
    """The text is gone through once for all of them, not for each: which took a minute."""
    sql = "INSERT INTO t VALUES (:a, '%(n7)s', '" + "x" * 1_000_000 + "')"
    bind(sql, {"a": 1, **{f"n{number}": 1 for number in range(100_000)}})
    assert [record.getMessage()[:6] for record in caplog.records] == ["%(n7)s"]


def test_the_error_names_the_line_of_the_script():
    script = split("SELECT :a;\n\n-- about it\nSELECT\n  1,\n  :missing")
    with pytest.raises(ScriptError) as caught:
        bind_script([(each.line, each.sql) for each in script], {"a": 1})
    assert caught.value.line == 6


class Colour(str, Enum):
    RED = "red"


UTC = timezone.utc
TEXTS = [
    (None, "NULL"),
    (True, "TRUE"),
    (False, "FALSE"),
    (0, "0"),
    (-(2**63), "-9223372036854775808"),
    (10**38 - 1, "9" * 38),
    (1.5, "1.5"),
    (1e-7, "1e-07"),
    (-1e300, "-1e+300"),
    (math.nan, "CAST('NaN' AS DOUBLE)"),
    (math.inf, "CAST('Infinity' AS DOUBLE)"),
    (-math.inf, "CAST('-Infinity' AS DOUBLE)"),
    (Decimal("1.50"), "1.50"),
    (Decimal("1E+5"), "100000"),
    (Decimal("-0.00000001"), "-0.00000001"),
    (Decimal("9" * 38), "9" * 38),
    ("", "''"),
    ("it's", "'it\\'s'"),
    ("a\\", "'a\\\\'"),
    ('a\nb\r\0\x1a\t"%_;--/*', "'a\nb\r\0\x1a\t\"%_;--/*'"),
    ("żółć \U0001f600", "'żółć \U0001f600'"),
    (Colour.RED, "'red'"),
    (b"\x00\xff'", "CAST(UNHEX('00FF27') AS BINARY)"),
    (bytearray(b""), "CAST(UNHEX('') AS BINARY)"),
    (date(2024, 1, 31), "'2024-01-31'"),
    (datetime(2024, 1, 31, 12), "'2024-01-31 12:00:00'"),
    (datetime(2024, 1, 31, 12, 0, 0, 1), "'2024-01-31 12:00:00.000001'"),
    (datetime(2024, 1, 31, 12, tzinfo=UTC), "'2024-01-31 12:00:00'"),
    (datetime(2024, 1, 31, 23, tzinfo=timezone(timedelta(hours=-2))), "'2024-02-01 01:00:00'"),
    (time(12, 0, 0, 1), "'12:00:00.000001'"),
    (UUID(int=1), "'00000000-0000-0000-0000-000000000001'"),
    ([1, "a'b", None], "(1, 'a\\'b', NULL)"),
    ((date(2024, 1, 31),), "('2024-01-31')"),
]


@pytest.mark.parametrize(("value", "text"), TEXTS, ids=[text[:30] for _, text in TEXTS])
def test_each_type_has_one_text(value, text):
    assert literal(value) == text
    assert bind("SELECT ?", [value]) == f"SELECT {text}"


def test_numbers_of_numpy_are_numbers():
    numpy = pytest.importorskip("numpy")
    values = [numpy.int64(3), numpy.float32(0.5), numpy.bool_(True), numpy.float64("nan")]
    assert list(map(literal, values)) == ["3", "0.5", "TRUE", "CAST('NaN' AS DOUBLE)"]


def test_nothing_of_pandas_is_null_and_its_times_keep_their_nanoseconds():
    pandas = pytest.importorskip("pandas")
    assert literal(pandas.NaT) == literal(pandas.NA) == "NULL"
    assert literal(pandas.Timestamp("2024-01-31 12:00", tz="Europe/Berlin")) == "'2024-01-31 11:00:00'"
    moment = pandas.Timestamp("2024-01-31 12:00:00.000000001", tz="Europe/Berlin")
    assert literal(moment) == "'2024-01-31 11:00:00.000000001'"
    assert literal(pandas.Timestamp("2024-01-31 12:00:00.5")) == "'2024-01-31 12:00:00.500000'"
    assert "is a Series" in refusal("SELECT ?", [pandas.Series([7])])
    with pytest.raises(ValueError, match="a Timedelta"):
        literal(pandas.Timedelta(1, "s"))


@pytest.mark.parametrize(
    ("text", "unit", "written"),
    [
        ("2024-01-31T12:00:00", "ns", "'2024-01-31 12:00:00'"),
        ("2024-01-31T12:00:00.123456789", "ns", "'2024-01-31 12:00:00.123456789'"),
        ("2024-01-31T12:00:00.000001", "ns", "'2024-01-31 12:00:00.000001'"),
        ("1970-01-31T12:00:00.000001", "ps", "'1970-01-31 12:00:00.000001'"),
        ("2024-01-31T12:00:00.5", "us", "'2024-01-31 12:00:00.500000'"),
        ("2024-01-31T12:00:00", "s", "'2024-01-31 12:00:00'"),
        ("2024-01-31T12", "h", "'2024-01-31 12:00:00'"),
        ("2024-01-31", "D", "'2024-01-31'"),
        ("2024-01", "M", "'2024-01-01'"),
        ("NaT", "ns", "NULL"),
    ],
)
def test_a_time_of_numpy_is_a_time_in_any_unit(text, unit, written):
    numpy = pytest.importorskip("numpy")
    assert literal(numpy.datetime64(text, unit)) == written


def test_what_of_numpy_is_no_one_value_has_no_text():
    numpy = pytest.importorskip("numpy")
    pair = numpy.array([(1, 2)], dtype=[("a", int), ("b", int)])[0]
    for value, what in [
        (numpy.timedelta64(5, "ns"), "a timedelta64"),
        (numpy.array([7]), "a ndarray"),
        (numpy.array(7), "a ndarray"),
        (numpy.complex128(1), "a complex"),
        (pair, "a void"),
        (numpy.datetime64("2024-01-01T00:00:00.0000000001", "ps"), "a datetime64 of less than a nanosecond"),
        (numpy.datetime64("12024-01-01", "s"), "a datetime64 out of the years 1 to 9999"),
        (numpy.datetime64(2**62, "Y"), "a datetime64 out of the years 1 to 9999"),
    ]:
        assert what in refusal("SELECT ?", [value])


def test_a_number_that_python_does_not_print_is_refused():
    assert "parameter 1 is a number of more than 38 digits" in refusal("SELECT ?", [10**5000])


OUTSIDE = "1'), ('x"


@pytest.mark.parametrize(
    ("base", "arguments", "overridden", "text"),
    [
        (int, (1,), ["__format__", "__str__", "__repr__"], "1"),
        (float, (1.5,), ["__repr__", "__format__"], "1.5"),
        (Decimal, ("1.50",), ["__format__", "__str__", "is_finite"], "1.50"),
        (str, ("it's",), ["__str__", "replace", "encode"], "'it\\'s'"),
        (bytes, (b"1",), ["hex"], "CAST(UNHEX('31') AS BINARY)"),
        (bytearray, (b"1",), ["hex"], "CAST(UNHEX('31') AS BINARY)"),
        (date, (2024, 1, 31), ["isoformat", "__str__"], "'2024-01-31'"),
        (datetime, (2024, 1, 31), ["isoformat", "replace", "astimezone"], "'2024-01-31 00:00:00'"),
        (time, (12,), ["isoformat", "__str__"], "'12:00:00'"),
        (UUID, ("0" * 32,), ["__str__", "__format__"], "'00000000-0000-0000-0000-000000000000'"),
    ],
)
def test_a_subclass_cannot_write_what_it_likes(base, arguments, overridden, text):
    hostile_class = type("Hostile", (base,), {name: lambda *_, **__: OUTSIDE for name in overridden})
    assert literal(hostile_class(*arguments)) == text


@pytest.mark.parametrize(
    ("value", "what"),
    [
        (object(), "a object"),
        ({"s3cret": 1}, "a dict"),
        ({1}, "a set"),
        (timedelta(1), "a timedelta"),
        (10**38, "a number of more than 38 digits"),
        (
            datetime(1, 1, 1, tzinfo=timezone(timedelta(hours=5))),
            "a datetime that in UTC is out of the years 1 to 9999",
        ),
        (Decimal("1E-39"), "a Decimal of more than 38 digits"),
        (Decimal("1E+999999"), "a Decimal of more than 38 digits"),
        (Decimal("NaN"), "a Decimal that is no number"),
        ("s3cret\ud800", "no UTF-8"),
        ([], "an empty list"),
        ([[1]], "a list of lists"),
        (time(1, tzinfo=UTC), "a time with a time zone"),
    ],
)
def test_what_has_no_text_is_refused_without_saying_the_value(value, what):
    text = refusal("SELECT ?", [value])
    assert what in text
    assert "s3cret" not in text
    assert "parameter 'a' is" in refusal("SELECT :a", {"a": value})


# No value is anything but one value.

hostile = st.text(st.sampled_from("'\"`\\;-/*+ \n\r\0\x1a%?:s1aé\u2028\ufeffn0u"), max_size=12) | st.text(
    st.characters(exclude_categories=["Cs"])
)


@settings(deadline=None)
@given(hostile)
def test_a_string_is_one_token_whatever_is_in_it(value):
    text = bind("SELECT ?, 2", [value])
    found = list(tokens(text))
    assert [token.kind for token in found] == ["word", "string", "sign", "number"]
    assert unescaped(found[1].text) == value
    assert [each.sql for each in split(text)] == [text]


def unescaped(text: str) -> str:
    """As Impala does (``Hive3MetastoreShimBase.unescapeSQLString``): here no escape is left but of these two."""
    result, at = "", 1
    while at < len(text) - 1:
        if text[at] == "\\":
            at += 1
            assert text[at] in "\\'"
        result += text[at]
        at += 1
    return result


@settings(deadline=None)
@given(
    st.lists(hostile, min_size=1, max_size=4),
    st.sampled_from(["?", "%s"]),
    st.sampled_from(["", "-", "a", "1", "'x'"]),
    st.sampled_from(["", "-", "'x'"]),
)
def test_values_beside_anything_stay_apart(values, marker, before, behind):
    sql = "SELECT " + ", ".join(f"{before}{marker}{behind}" for _ in values)
    strings = [token.text for token in tokens(bind(sql, values)) if token.kind == "string" and token.text != "'x'"]
    assert [unescaped(text) for text in strings] == [value for value in values if literal(value) != "'x'"]


@settings(max_examples=30, deadline=None)
@given(st.lists(hostile, min_size=1, max_size=5))
def test_the_server_reads_back_what_was_given(cluster, values):
    done = run(
        Balancer.from_config(cluster.config),
        f"SELECT {', '.join('?' * len(values))}",
        parameters=values,
        handler=rows_of,
    )
    assert done.results == [[tuple(values)]]


@pytest.mark.parametrize(
    ("value", "read"),
    [
        (None, None),
        (True, True),
        (-(2**63) + 1, -(2**63) + 1),
        (1.5, 1.5),
        (1e300, 1e300),
        (math.inf, math.inf),
        (-math.inf, -math.inf),
        (Decimal("1.50"), Decimal("1.50")),
        (Decimal("12345678901234567890.123456789"), Decimal("12345678901234567890.123456789")),
        (b"a\0\xff'", b"a\0\xff'"),
        (UUID(int=1), str(UUID(int=1))),
        (Colour.RED, "red"),
    ],
)
def test_other_values_are_read_back(cluster, balancer, value, read):
    ((found,),) = run(balancer, "SELECT ?", parameters=[value], handler=rows_of).results[0]
    if isinstance(read, float):
        found = float(found)
    assert found == read


def test_times_and_what_is_no_number_are_read_back(cluster, balancer):
    moment = datetime(2024, 1, 31, 23, 30, 0, 5, tzinfo=timezone(timedelta(hours=-2)))
    sql = "SELECT CAST(? AS TIMESTAMP), CAST(? AS DATE), ?, 2 IN ?"
    (row,) = run(balancer, sql, parameters=[moment, date(2024, 1, 31), math.nan, [1, 2]], handler=rows_of).results[0]
    assert row[:2] == (datetime(2024, 2, 1, 1, 30, 0, 5), date(2024, 1, 31))
    assert math.isnan(row[2])
    assert row[3] is True


@pytest.mark.parametrize("odd", [math.nan, math.inf, -math.inf])
def test_what_is_no_number_leaves_the_values_beside_it_as_they_are(cluster, balancer, odd):
    sql = "SELECT ? UNION ALL SELECT ? UNION ALL SELECT ?"
    rows = run(balancer, sql, parameters=[0.1, odd, 16777217.0], handler=rows_of).results[0]
    assert [repr(value) for (value,) in rows] == ["0.1", repr(odd), "16777217.0"]
    ((value,),) = run(balancer, "SELECT COALESCE(?, ?)", parameters=[0.1, odd], handler=rows_of).results[0]
    assert value == 0.1
