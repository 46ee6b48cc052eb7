"""The lexer: Java's letters, numbers, signs of two characters, hints; and that it reads no further than it is asked."""

from __future__ import annotations

import unicodedata

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from airflow_provider_impala_lb.impala.sql.lexer import Reader, ScriptSyntaxError, begin_of_sql, mentions_of, tokens


def kinds(sql):
    return [(kind, text) for kind, text, *_ in tokens(sql)]


@pytest.mark.parametrize(
    ("sql", "expected"),
    [
        ("Select A1", [("word", "select"), ("word", "a1")]),
        ("db1.2020_sales", [("word", "db1"), ("sign", "."), ("word", "2020_sales")]),
        ("2020_sales 1e6 1e6x 1.5e-3 .5 1. 1e+5", None),
        ("t.1e6x", [("word", "t"), ("sign", "."), ("word", "1e6x")]),
        (
            "a&&b||c!=d",
            [(k, t) for k, t in zip(["word", "sign"] * 4, ["a", "&&", "b", "||", "c", "!=", "d"], strict=False)],
        ),
        ("`A b `", [("name", "a b")]),
        ("'a''b'", [("string", "'a'"), ("string", "'b'")]),
        ("'a\\\r\nb'", [("string", "'a\\\r\nb'")]),
        # Java's letters: currency, combining marks, letter numbers, what is ignorable; not at the beginning.
        ("€a \u2167 _x $y", [("word", "€a"), ("word", "\u2177"), ("word", "_x"), ("word", "$y")]),
        (
            "se\u00adlect a\u0301 x\ufeff y\0",
            [("word", text) for text in ("se\u00adlect", "a\u0301", "x\ufeff", "y\0")],
        ),
        ("\u00adx", [("unexpected", "\u00ad"), ("word", "x")]),
        ("\ufeffselect", [("unexpected", "\ufeff"), ("word", "select")]),
        ("a\u2039select", [("word", "a"), ("unexpected", "\u2039"), ("word", "select")]),
        ("a²", [("word", "a"), ("unexpected", "²")]),  # a number to Python's \w, no letter to Java
        ("a\U0001d44e", [("word", "a"), ("unexpected", "\U0001d44e")]),  # two surrogates to Java
        ("a\xa0b\x0bc", [("word", "a"), ("unexpected", "\xa0"), ("word", "b"), ("unexpected", "\x0b"), ("word", "c")]),
        ("a # b", [("word", "a"), ("unexpected", "#"), ("word", "b")]),
        ("\u0661\u0662x", [("word", "\u0661\u0662x")]),  # digits of any script
        # Comments and hints.
        ("a -- b", [("word", "a"), ("comment", "-- b")]),
        ("a -- + b\nc", [("word", "a"), ("hint", "-- + b\n"), ("word", "c")]),
        ("a --\t+ b\nc", [("word", "a"), ("comment", "--\t+ b"), ("word", "c")]),
        ("/*+x*/* /", [("hint", "/*+x*/"), ("sign", "*"), ("sign", "/")]),
        ("/* +x /* note */ y */ z", [("hint", "/* +x /* note */ y */"), ("word", "z")]),
        ("/* +x('*/') */ z", [("hint", "/* +x('*/') */"), ("word", "z")]),
        # A second beginning is no second hint: the first end is that of both.
        ("/*+a /*+b */ 1 */", [("hint", "/*+a /*+b */"), ("number", "1"), ("sign", "*/")]),
        ("/*+a --+b */ 1", [("hint", "/*+a --+b */"), ("number", "1")]),
        ("/*+ " * 1000 + "*/ 1", [("hint", "/*+ " * 1000 + "*/"), ("number", "1")]),
        ("-- +a /*+ b */ --+ c\n1", [("hint", "-- +a /*+ b */ --+ c\n"), ("number", "1")]),
        # A comment takes its line end with it: the hint goes on to the next one.
        ("-- +a -- b\r\nc\nd", [("hint", "-- +a -- b\r\nc\n"), ("word", "d")]),
        ("-- +a --\nc", [("hint", "-- +a --\nc")]),
        ("/* + x\n*/ z", [("comment", "/* + x\n*/"), ("word", "z")]),
        ("a*/*b", [("word", "a"), ("sign", "*/"), ("sign", "*"), ("word", "b")]),
        ("/*/ x */", [("comment", "/*/ x */")]),
    ],
)
def test_tokens(sql, expected):
    if expected is None:
        assert kinds(sql) == [("word", "2020_sales"), ("number", "1e6"), ("word", "1e6x")] + [
            ("number", text) for text in ("1.5e-3", ".5", "1.", "1e+5")
        ]
    else:
        assert kinds(sql) == expected


@pytest.mark.parametrize("sql", ["'a", "`a", "/* a", "/* + a", "/* +a '*/ b", "'a\\\nb'"])
def test_what_has_no_end_is_refused(sql):
    with pytest.raises(ScriptSyntaxError):
        kinds(sql)


def test_a_reader_passes_over_hints_and_reads_no_further_than_it_is_asked():
    reader = Reader("/* c */ insert [shuffle] straight_join -- +x\n into db . t (a, ')') select 'never ends")
    assert reader.take("insert") == "insert"
    assert not reader.take_all("into", "u")
    assert reader.take("into")
    assert reader.path() == ("db", "t")
    assert reader.parentheses()
    assert reader.here.text == "select"
    with pytest.raises(ScriptSyntaxError):
        reader.next()  # it looks one token ahead
    with pytest.raises(ScriptSyntaxError):
        Reader("select 'never ends").skip_to("from")


def test_a_name_that_is_not_understood_is_none():
    assert Reader("a\u2039").path() == ()
    assert Reader("a\u2039 from").skip_to("from") is None


def test_where_the_sql_begins():
    assert begin_of_sql(" -- a\n/* b */ /* +c */ select") == 23
    assert begin_of_sql(" -- a\n") == 6


pieces = st.sampled_from(
    ["a", "1", "e", ".", "+", "-", "*", "/", "'x'", "`y`", " ", "\n", "€", "\u0301", "\u2039", "\\", "$"]
)


@settings(deadline=None)
@given(st.lists(pieces, max_size=12).map("".join))
def test_tokens_cover_the_text_and_leave_out_nothing_but_blanks(sql):
    position = 0
    try:
        for token in tokens(sql):
            assert sql[position : token.start].strip(" \t\f\r\n") == ""
            assert token.end > token.start
            position = token.end
            if token.kind == "word":
                assert any(
                    unicodedata.category(char) in ("Lu", "Ll", "Sc", "Pc") for char in sql[token.start : token.end]
                )
    except ScriptSyntaxError:
        return
    assert sql[position:].strip(" \t\f\r\n") == ""


@pytest.mark.parametrize(
    ("sql", "expected"),
    [
        ("select t, at, ta, t_, $t, 'a t', \"t\" -- t\n, /* t */ d.t", ["t", "t"]),
        ("select T, `T `, `at`, /*+ t */ `t`", ["T", "`T `", "`t`"]),
        ("select \u00e9t, t\u00e9, \u2039t, \u00adt", ["t", "t"]),
        ("select 1.5t, 1e+5t, a5t, t5t", ["t", "t"]),
    ],
)
def test_mentions_of_a_name(sql, expected):
    found = list(mentions_of("t", sql))
    assert [sql[at : at + len(text)] for at, text in zip(found, expected, strict=True)] == expected


@settings(deadline=None, max_examples=500)
@given(
    st.sampled_from(["t", "k1", "\u00e9"]),
    st.lists(
        st.sampled_from(
            [
                "t",
                "T",
                "k1",
                "K1",
                "\u212a1",
                "\u00e9",
                "\u00c9",
                "a",
                "_",
                "5",
                ".",
                "'",
                "`",
                "`t`",
                "`K1 `",
                " ",
                "\n",
            ]
        )
        | pieces
        | st.sampled_from(["--", "/*", "*/", "+", "\\", "\0", "\u0661", "\U0001d44e"]),
        max_size=14,
    ).map("".join),
)
def test_mentions_leave_out_none_that_the_tokens_have(name, sql):
    try:
        expected = {token.start for token in tokens(sql) if token.kind in ("word", "name") and token.text == name}
    except ScriptSyntaxError:
        return
    found = set(mentions_of(name, sql))
    assert expected <= found
    assert all(any(map(str.isdigit, sql[:at])) for at in found - expected)
