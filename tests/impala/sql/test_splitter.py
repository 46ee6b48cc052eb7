"""The splitter: the rules of the server's lexer, and what must hold for any text at all."""

from __future__ import annotations

import contextlib
import json
import re
import time
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from airflow_provider_impala_lb.errors import ScriptError
from airflow_provider_impala_lb.impala.sql.splitter import split

# What Impala's own scanner makes of each input: the text between its semicolon tokens.
CASES = {case["name"]: case for case in json.loads((Path(__file__).parent / "splitter_cases.json").read_text())}
# The scanner goes on after a quote or a comment without an end; no server can run what is left, so we refuse.
# In 18 the apostrophe within the hint opens a string, which leaves the last quote of the script without its pair.
REFUSED = {
    "18_hint_with_apostrophe": (1, 34),
    "21_unterminated_block": (1, 10),
    "48_string_with_newline_escape": (1, 8),
}


def sqls(text: str) -> list[str]:
    return [statement.sql for statement in split(text)]


def refusal(text: str) -> ScriptError:
    with pytest.raises(ScriptError) as caught:
        split(text, name="etl.sql")
    return caught.value


@pytest.mark.parametrize("name", sorted(CASES.keys() - REFUSED.keys()))
def test_splits_as_the_server_does(name):
    expected = [part.strip() for part in CASES[name]["server_split"]]
    assert sqls(CASES[name]["sql"]) == [part for part in expected if part]


@pytest.mark.parametrize("name", REFUSED)
def test_refuses_what_no_server_can_run(name):
    error = refusal(CASES[name]["sql"])
    assert (error.line, error.column) == REFUSED[name]


@pytest.mark.parametrize(
    ("text", "line", "column"),
    [
        ("select 1;\n  select 'abc; select 2", 2, 10),
        ("select 1;\r\n\r\nselect `a", 3, 8),
        ('\rselect "a\\', 2, 8),
        ("select 1;\n /* more", 2, 2),
        ("select 1 /*/", 1, 10),
        ("select /* + x", 1, 8),
        ("select 'a\\\nb'", 1, 8),
        ("\ufeffselect '", 1, 8),
    ],
)
def test_error_names_where_it_began(text, line, column):
    error = refusal(text)
    assert (error.line, error.column) == (line, column)
    assert str(error).startswith(f"etl.sql, line {line}, column {column}: ")


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("", []),
        (";;select 1;;;select 2;", ["select 1", "select 2"]),
        ("select 1; -- trailing\n/* more */", ["select 1"]),
        ("-- only; this", []),
        ("select 1; -- ${var:gone}", ["select 1"]),
        ("\ufeffselect 1", ["select 1"]),
        ("/* why */ select 1", ["/* why */ select 1"]),
        ("-- don't;\nselect 1", ["-- don't;\nselect 1"]),
        ("select 1 -- why", ["select 1 -- why"]),
        ("select 1 # a;b\n; select 2", ["select 1 # a", "b", "select 2"]),
        ("select $$a;b$$", ["select $$a", "b$$"]),
        ("select '\\\\'; select 2", ["select '\\\\'", "select 2"]),
        ("select '\\\u2028;'; select 2", ["select '\\\u2028;'", "select 2"]),
        ("select \x00\xa01", ["select \x00\xa01"]),
        # No blanks to Impala's lexer; impala-shell drops them around a statement, too (sqlparse.split).
        ("\xa0select 1\xa0", ["select 1"]),
        ("select 1;\x0bselect 2\u3000 ; \x1c", ["select 1", "select 2"]),
        ("\f\t select 1\f\r\n;\xa0", ["select 1"]),
        ("values(1); select 2", ["values(1)", "select 2"]),
    ],
)
def test_statements_and_what_is_between_them(text, expected):
    assert sqls(text) == expected


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("insert into t /* +SHUFFLE */ select 1;", ["insert into t /* +SHUFFLE */ select 1"]),
        ("select -- +straight_join\n 1; select 2", ["select -- +straight_join\n 1", "select 2"]),
        # A hint of this form ends at its line end: without one the server finds a syntax error.
        ("select * from t -- +x\n; select 2", ["select * from t -- +x\n", "select 2"]),
        ("select * from t -- +x", ["select * from t -- +x\n"]),
        ("select * -- +x\n from t\n;", ["select * -- +x\n from t"]),
        # Its content is SQL to the lexer.
        ("select /* +x('*/;') */ 1; select 2", ["select /* +x('*/;') */ 1", "select 2"]),
        ("select 1 --+ ';'\n; select 2", ["select 1 --+ ';'\n", "select 2"]),
        # No hints: over two lines, a tab before the +, or first in the statement.
        ("select /* + a;\n don't */ 1; select 2", ["select /* + a;\n don't */ 1", "select 2"]),
        ("select --\t+ don't;\n1", ["select --\t+ don't;\n1"]),
        ("select 1;\n-- + don't; forget\n/* + don't */", ["select 1"]),
        ("-- + don't;\nselect 1", ["select 1"]),
    ],
)
def test_hints(text, expected):
    assert sqls(text) == expected


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        # ``*/`` is one token, so no comment begins with its ``/``.
        ("select /*+straight_join*/* from t", ["select /*+straight_join*/* from t"]),
        (
            "select /* +straight_join */* from t; drop table x /* really */; select 1",
            ["select /* +straight_join */* from t", "drop table x /* really */", "select 1"],
        ),
        ("select a*/*;*/b", ["select a*/*", "*/b"]),
        ("select 'a\\\r\nb'", ["select 'a\\\r\nb'"]),
        # No statement begins with a hint.
        ("-- + end_date\nalter table t add columns (a int);", ["alter table t add columns (a int)"]),
        ("-- why\n/* +x */ -- because\nselect 1", ["-- why\n -- because\nselect 1"]),
        # Byte order marks of included files.
        ("select 1;\n\ufeffselect 2", ["select 1", "select 2"]),
        ("select 1;\n-- a\n\ufeff-- b\n\ufeff select '\ufeff'", ["select 1", "-- a\n-- b\n select '\ufeff'"]),
        (
            '/* {"app": "dbt"} */\n create table x as\nSELECT 1\n  ;\n  ',
            ['/* {"app": "dbt"} */\n create table x as\nSELECT 1'],
        ),
        ("/**\n1. a\n**/\n-- selet *\n\nselect 1;\n-- else\nselect 2;", None),
    ],
)
def test_as_the_scanner_reads_it(text, expected):
    assert sqls(text) == (expected or ["/**\n1. a\n**/\n-- selet *\n\nselect 1", "-- else\nselect 2"])


MARK = "-- impala-lb: safe to repeat"


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        (f"select 1; {MARK}\nselect 2;", [f"select 1 {MARK}", "select 2"]),
        (f"select 1;{MARK}", [f"select 1 {MARK}"]),
        (f"select 1; /* x */ {MARK}\n-- y\nselect 2", [f"select 1 {MARK}", "/* x */ \n-- y\nselect 2"]),
        ("select 1; /* impala-lb: safe to repeat */\n", ["select 1 /* impala-lb: safe to repeat */"]),
        (f"select 1;\n{MARK}\nselect 2;", ["select 1", f"{MARK}\nselect 2"]),
        (f"{MARK}\nselect 2;", [f"{MARK}\nselect 2"]),
        (f"select 1; {MARK}\n; {MARK}\n;select 2", [f"select 1 {MARK}", "select 2"]),
        (f"select 1; set var:x=1; {MARK}\nselect 2;", ["select 1", "select 2"]),
        (f"select 1; {MARK} not\nselect 2", ["select 1", f"{MARK} not\nselect 2"]),
    ],
)
def test_a_mark_behind_the_semicolon_is_of_the_statement_before(text, expected):
    assert sqls(text) == expected


def test_a_mark_between_two_statements_on_one_line_is_refused():
    error = refusal("select 1; /* impala-lb: safe to repeat */ select 2")
    assert (error.line, error.column) == (1, 11)
    assert "between two statements on one line" in str(error)


@pytest.mark.parametrize("word", ["and b > 20", "OR b", "where a", "group by a", "limit 1", "join t"])
def test_the_second_half_of_a_statement_is_noticed_before_the_first_one_runs(word):
    error = refusal(f"delete from k where a > 1000;\n  {word}")
    assert (error.line, error.column) == (2, 3)
    assert "is the ';' before it one too many?" in str(error)


@pytest.mark.parametrize("end", ["\n", "\r", "\r\n"])
def test_line_is_where_the_sql_begins(end):
    text = end.join(["", "-- a;", "/* b", "*/ select 'x", "y'; select 2", ";", "", "select", "3"])
    assert [statement.line for statement in split(text)] == [4, 5, 8]


@pytest.mark.parametrize(
    "text",
    [
        "select '" + "x" * 5_000_000 + "'",
        "select '" + "\\'" * 1_000_000 + "'",
        "select '" + "x" * 5_000_000,
        "select '" + "\\" * 2_000_001,
        "select /*" + "*" * 2_000_000,
        "select " + "/*+" * 300_000 + "*/",
        "select " + "/*+" * 300_000,
        "select " + "--+" * 300_000,
        "a/*+;" * 300_000 + "*/",
        pytest.param("select /*+;" * 300_000 + "*/", marks=pytest.mark.slow),  # as the one before it, and twice as long
        "select " + "x" * 100_000 + ";/* impala-lb: safe to repeat */\n" * 100_000,
        "select " + "${var:" * 300_000,
        "set a=" + " " * 1_000_000 + "'",
        "unset a" + " " * 1_000_000 + "!",
        "--\n" * 300_000,
        ";" * 300_000,
    ],
    ids=lambda text: text[:12].strip(),
)
def test_takes_time_in_proportion(text):
    started = time.perf_counter()
    with contextlib.suppress(ScriptError):
        split(text)
    # Each takes some tenths of a second at most; what grows with the square takes minutes.
    assert time.perf_counter() - started < 10


# Properties

blank = st.sampled_from([" ", "\n", "\r\n", "\r", "\t"])
inside = st.text("ab;'\"`-/+*\n \\", max_size=6)
comment = st.one_of(
    inside.map(lambda text: "/* " + re.sub("[/+]", "", text) + "*/"),
    inside.map(lambda text: "--" + re.sub(r"[+\n]", "", text) + "\n"),
)
sql_token = st.one_of(
    st.sampled_from(["select", "1", "(", ")", ",", "t.begin", "end", "a-b", "a/b", "*", "é"]),
    inside.map(lambda text: "'" + re.sub(r"[\\']", r"\\\g<0>", text) + "'"),
    inside.map(lambda text: '"' + re.sub(r'[\\"]', r"\\\g<0>", text) + '"'),
    inside.map(lambda text: "`" + re.sub(r"[\\`]", r"\\\g<0>", text) + "`"),
    st.sampled_from(["/* +SHUFFLE */", "--+x\n", "-- +straight_join\r\n", "/*+ a, b(3) */"]),
)


@st.composite
def statements(draw):
    lead = draw(st.lists(st.one_of(comment, blank), max_size=3))
    rest = draw(st.lists(st.one_of(sql_token, comment, blank), max_size=8))
    return "".join(lead), " ".join(["select", *rest])


def kept(lead: str, sql: str) -> str:
    hint_ends_it = re.search(r"--[ ]*\+[a-z_]+\s*\Z", sql)
    return (lead + sql).strip() + ("\n" if hint_ends_it else "")


@settings(deadline=None)
@given(st.lists(statements(), max_size=6))
def test_what_was_joined_comes_apart_again(parts):
    text = ";".join(lead + sql for lead, sql in parts)
    assert sqls(text) == [kept(lead, sql) for lead, sql in parts]
    begins, offset = [], 0
    for lead, sql in parts:
        begins.append(len(re.split("\r\n|\r|\n", text[: offset + len(lead)])))
        offset += len(lead) + len(sql) + 1
    assert [statement.line for statement in split(text)] == begins


def read_by_the_letter(text: str) -> list[str] | None:
    """The rules once more, one character at a time; None where a script is refused."""
    parts, start, at, sql = [], 0, 0, False
    left_out = ""  # of the comments before the SQL: those that the server would take for hints
    while at < len(text):
        here = text[at]
        if here == ";":
            parts += [left_out + text[start:at]] if sql else []
            start, sql, left_out = at + 1, False, ""
        elif here in "'\"`":
            sql = True
            at += 1
            while at < len(text) and text[at] != here:
                if text[at : at + 2] == "\\\n":
                    return None
                at += 2 if text[at] == "\\" else 1
            if at >= len(text):
                return None
        elif text.startswith("--", at):
            begin, is_hint = at, re.match(r"-- *\+", text[at:])
            if not (sql and is_hint):
                while at + 1 < len(text) and text[at + 1] not in "\r\n":
                    at += 1
                if not sql and is_hint:
                    left_out, start = left_out + text[start:begin], at + 1
            else:
                at += 1
        elif text.startswith("/*", at):
            end = text.find("*/", at + 2)
            if end < 0:
                return None
            body = text[at + 2 : end]
            is_hint = body.lstrip(" ").startswith("+") and not re.search("[\r\n]", body)
            if not sql and is_hint:
                left_out, start = left_out + text[start:at], end + 2
            at = text.index("+", at) if sql and is_hint else end + 1
        elif text.startswith("*/", at):  # a token of its own: what follows is not the * of a /*
            sql = True
            at += 1
        elif not here.isspace():
            sql = True
        at += 1
    return parts + ([left_out + text[start:]] if sql else [])


# Runs of what matters, so that few letters make strings, comments and hints that do and do not end.
tricky = st.lists(
    st.sampled_from(["'", '"', "`", "\\", ";", ";", "--", "-", "/*", "*/", "/", "*", "+", " ", "\n", "\r", "a", "\t"]),
    max_size=30,
).map("".join)


@settings(max_examples=1000, deadline=None)
@given(tricky)
def test_agrees_with_the_rules_read_one_character_at_a_time(text):
    expected = read_by_the_letter(text)
    if expected is None:
        with pytest.raises(ScriptError):
            split(text)
        return
    got = sqls(text)
    assert [sql.strip() for sql in got] == [part.strip() for part in expected]
    assert "+" in text or all(sql.strip() in text for sql in got)
    if "+" not in text:  # a ``;`` within a hint is one to the scanner, too: then no part is whole
        assert [split(sql)[0].sql for sql in got] == got


@settings(deadline=None)
@given(st.text(), st.dictionaries(st.text(max_size=3), st.text(max_size=5), max_size=2))
def test_raises_nothing_else_on_any_text(text, variables):
    try:
        parts = split(text, variables)
    except ScriptError as error:
        assert error.line >= 1 and error.column >= 1
    else:
        assert all(part.sql for part in parts)
