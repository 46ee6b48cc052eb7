"""What impala-shell does before it sends: variables, SET, UNSET, and the commands no server knows."""

from __future__ import annotations

import contextlib

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from airflow_provider_impala_lb.errors import ScriptError
from airflow_provider_impala_lb.impala.sql.splitter import Statement, split


def sqls(text: str, variables: dict[str, str] | None = None) -> list[str]:
    return [statement.sql for statement in split(text, variables)]


def refusal(text: str, variables: dict[str, str] | None = None) -> ScriptError:
    with pytest.raises(ScriptError) as caught:
        split(text, variables)
    return caught.value


def test_variables_are_put_in_as_they_are():
    variables = {"Day": r"2024\n", "empty": ""}
    assert sqls("select '${var:day}' /* ${HIVEVAR:DAY} */", variables) == [r"select '2024\n' /* 2024\n */"]
    assert sqls("-- ${var:day}\nselect 1${var:empty}", variables) == ["-- 2024\\n\nselect 1"]
    assert sqls(r"select '\${var:day}', '${other}', '${env:x}'") == [r"select '\${var:day}', '${other}', '${env:x}'"]


def test_value_is_neither_split_nor_replaced_again():
    assert sqls("select ${var:a}; select 2", {"a": "1; '${var:b}"}) == ["select 1; '${var:b}", "select 2"]


def test_statement_that_is_nothing_but_an_empty_variable_is_left_out():
    assert sqls("${var:a} ; select 1", {"a": " "}) == ["select 1"]
    assert sqls("${var:a} ; select 1", {"a": "-- no step today"}) == ["select 1"]


def test_set_var_is_for_the_statements_after_it():
    script = """
        -- where from
        SET VAR:db = prod; set hivevar:tab=${var:DB}.t;
        select * from ${var:tab}; Unset var:tab; unset var:never;
        select '${var:tab}'"""
    error = refusal(script, {"tab": "other"})
    assert (error.line, error.column) == (5, 17)
    assert "unknown variable 'tab' (known: DB)" in str(error)
    assert split(script.rpartition(";")[0]) == [Statement(4, "select * from prod.t")]


def test_unknown_variable_in_a_comment_before_the_sql():
    error = refusal("select 1;\n\n-- ${var:x}\nselect 2")
    assert (error.line, error.column) == (3, 4)
    assert "(known: none)" in str(error)


def test_comments_before_set_go_before_variables_are_replaced():
    assert sqls("-- uses ${var:nope}\nSET VAR:x=1;\nselect ${var:x};") == ["select 1"]
    assert sqls("/* ${var:nope} */ unset mem_limit") == ['/* ${var:nope} */ SET mem_limit=""']


@pytest.mark.parametrize("text", ["set var:x", "SET VAR:", "set hivevar:=1"])
def test_set_var_needs_a_name_and_a_value(text):
    assert "SET VAR:name=value" in str(refusal(text))


def test_callers_variables_are_not_touched():
    variables = {"a": "1"}
    split("set var:a=2; set var:b=3", variables)
    assert variables == {"a": "1"}


@pytest.mark.parametrize(
    ("text", "sent"),
    [
        ("set mem_limit=2g", "set mem_limit=2g"),
        ("SET mem_limit = 2.5 -- why", "SET mem_limit = 2.5 -- why"),
        ("set request_pool='root.etl'", "set request_pool='root.etl'"),
        ("set", "set"),
        ("set all", "set all"),
        ("set debug_action=a b", "set debug_action=a b"),
        # impala-shell takes these spellings, the server's grammar does not.
        ("set request_pool=root.etl", 'SET request_pool="root.etl"'),
        ("/* c */ set mem_limit = 80% -- why", '/* c */ SET mem_limit="80%" -- why'),
        ("set x=", 'SET x=""'),
        ("set x=-1", 'SET x="-1"'),
        ("-- back\nunset mem_limit", '-- back\nSET mem_limit=""'),
        ("UNSET mem_limit /* why */", 'SET mem_limit="" /* why */'),
        ("UNSET ALL", "UNSET ALL"),
        ("unset a b", "unset a b"),
        ("DESC db.t", "describe db.t"),
        ("desc formatted t", "describe formatted t"),
        ("description", "description"),
        ("load data inpath 'x' into table t", "load data inpath 'x' into table t"),
        ("set live_progress=1", None),
        ("unset Verbose", None),
        ("SET PROFILE_FORMAT=json", None),
        ("set profile_output=/data/p", None),
    ],
)
def test_what_is_sent_for_commands_of_both(text, sent):
    assert sqls(text) == ([] if sent is None else [sent])


@pytest.mark.parametrize(
    ("command", "advice"),
    [
        ("source other.sql", ".sql files"),
        ("SRC other.sql", ".sql files"),
        ("!ls", "task of its own"),
        ("shell ls", "task of its own"),
        ("connect host:21050", "the balancer picks"),
        ("profile", "task log"),
        ("Summary all", "task log"),
        ("history", "remove it"),
        ("help select", "remove it"),
        ("? select", "remove it"),
        ("tip", "remove it"),
        ("version", "version()"),
        ("@1", "write the statement out"),
        ("rerun 1", "write the statement out"),
        ("set output_file=/tmp/x", "result"),
        (":shutdown('host')", "on purpose"),
        ("/* quick */ : shutdown()", "on purpose"),
    ],
)
def test_commands_of_impala_shell_are_refused(command, advice):
    error = refusal(f"select 1;\n\n  {command};")
    assert error.line == 3
    assert advice in str(error)
    assert refusal("${var:c}", {"c": command}).line == 1


@pytest.mark.parametrize("end", ["quit", "EXIT;", "-- done\nquit ;\n-- really", "/* + */ exit\n;"])
def test_quit_at_the_end_asks_for_nothing(end):
    assert sqls(f"select 1;\n{end}") == ["select 1"]
    assert sqls("select 1; ${var:end}", {"end": end.rstrip("; ")}) == ["select 1"]


@pytest.mark.parametrize("end", ["quit", "exit"])
def test_quit_before_the_end_is_refused(end):
    error = refusal(f"select 1;\n {end};\nselect 2")
    assert (error.line, error.column) == (2, 2)
    assert "ends where" in str(error)


@pytest.mark.parametrize("text", ["select profile, summary from history", "select 1 /*;\nquit;\n*/", "sources"])
def test_their_words_elsewhere_are_sql(text):
    assert sqls(text) == [text]


commands = st.sampled_from(
    ["set ", "unset ", "var:", "a", "=", "${var:a}", "${var:", "}", "\\", "'", " ", ";", "--", "\n", ":", "%", "x.y"]
)


@settings(deadline=None)
@given(st.lists(commands, max_size=12).map("".join))
def test_commands_raise_nothing_else_either(text):
    with contextlib.suppress(ScriptError):
        split(text, {"a": "b;"})
