"""The hook's insert_rows: how rows become statements, and what is refused before anything is sent."""

import json
import math

import pytest

from airflow_provider_impala_lb.errors import ScriptError, StatementFailed
from airflow_provider_impala_lb.hooks import insert_statements
from airflow_provider_impala_lb.hooks.impala_lb import ImpalaLBHook


def test_rows_are_inserted_many_to_a_statement(cluster):
    hook = ImpalaLBHook()
    hook.run("DROP TABLE IF EXISTS many; SET SYNC_DDL=1; CREATE TABLE many (a INT, s STRING, d DOUBLE)")
    rows = [(n, f"it's ?; :1 %s {n}", None if n % 2 else n / 2) for n in range(25)]
    hook.insert_rows("many", iter(rows), target_fields=["a", "s", "d"], commit_every=10)
    inserts = [
        entry["sql"] for node in cluster.nodes for entry in node.journal() if "INSERT INTO many" in entry.get("sql", "")
    ]
    assert len(inserts) == 3
    hook.run("INVALIDATE METADATA many")
    with hook.get_conn() as connection, connection.cursor() as cursor:
        cursor.execute("REFRESH many")
        cursor.execute("SELECT a, s, d FROM many ORDER BY a")
        assert cursor.fetchall() == rows
    with pytest.raises(ValueError, match="Impala has no REPLACE"):
        hook.insert_rows("many", rows, replace=True)


def test_rows_that_cannot_be_inserted_say_which_are_in_the_table(cluster):
    hook = ImpalaLBHook()
    hook.run("DROP TABLE IF EXISTS partly; SET SYNC_DDL=1; CREATE TABLE partly (a INT)")
    rows = [(1,), (2,), (3,), (4,), ("private",), (6,), (7,)]
    with pytest.raises(StatementFailed) as caught:
        hook.insert_rows("partly", rows, commit_every=2)
    text = str(caught.value)
    assert (caught.value.number, caught.value.total) == (3, 4)
    assert "statements 1 to 2 are done, 1 after it not sent" in text
    assert "It was: INSERT INTO partly, rows 5 to 6" in text
    assert "done: 2 (rows 3 to 4, query " in text
    hook.run("INVALIDATE METADATA partly")
    with hook.get_conn() as connection, connection.cursor() as cursor:
        cursor.execute("REFRESH partly")
        cursor.execute("SELECT a FROM partly ORDER BY a")
        assert cursor.fetchall() == [(1,), (2,), (3,), (4,)]


def test_rows_are_cut_by_their_width_and_their_size(cluster, monkeypatch):
    """Impala takes 250,000 expressions in a statement, and 16 MiB."""
    hook = ImpalaLBHook()
    hook.run("DROP TABLE IF EXISTS wide; SET SYNC_DDL=1; CREATE TABLE wide (a INT, b INT, s STRING)")
    monkeypatch.setattr(insert_statements, "MOST_VALUES", 10)
    monkeypatch.setattr(insert_statements, "MOST_BYTES", 220)
    rows = [(n, n, "x" * 200 if n == 7 else "é") for n in range(10)]
    hook.insert_rows("wide", rows)
    inserts = [
        entry["sql"] for node in cluster.nodes for entry in node.journal() if "INTO wide" in entry.get("sql", "")
    ]
    assert [sql.count("(") for sql in inserts] == [3, 3, 1, 1, 2]
    with hook.get_conn() as connection, connection.cursor() as cursor:
        cursor.execute("INVALIDATE METADATA wide")
        cursor.execute("SELECT a, b, s FROM wide ORDER BY a")
        assert cursor.fetchall() == rows
    assert insert_statements._chunks([], 1, 1000, 220) == []
    assert insert_statements._chunks(["(1)"] * 5, 100, 0, 220) == [(n, n + 1) for n in range(5)]


def inserts_of(cluster):
    return [entry["sql"] for node in cluster.nodes for entry in node.journal() if "INSERT" in entry.get("sql", "")]


def test_what_is_no_number_changes_no_value_beside_it(cluster):
    hook = ImpalaLBHook()
    hook.run("DROP TABLE IF EXISTS odd; SET SYNC_DDL=1; CREATE TABLE odd (d DOUBLE)")
    rows = [(0.1,), (math.nan,), (16777217.0,), (-math.inf,)]
    hook.insert_rows("odd", rows)
    assert sorted(map(repr, hook.get_records("SELECT d FROM odd"))) == sorted(map(repr, rows))


def test_a_row_over_the_limit_is_named_before_anything_is_sent(cluster, connection, monkeypatch):
    before = inserts_of(cluster)
    rows = [("s3cret",), ("é" * 9 * 1024 * 1024,)]
    with pytest.raises(ScriptError, match="row 2 is 18874372 bytes in SQL.*nothing was inserted") as caught:
        ImpalaLBHook().insert_rows("t", rows, commit_every=1)
    assert "s3cret" not in str(caught.value)
    definition = json.loads(cluster.connection)
    extra = definition["extra"]
    extra = json.loads(extra) if isinstance(extra, str) else extra
    extra["session"] = {**extra.get("session", {}), "query_options": {"max_statement_length_bytes": "2048"}}
    monkeypatch.setenv("AIRFLOW_CONN_SHORT", json.dumps({**definition, "extra": extra}))
    hook = ImpalaLBHook("short")
    hook.run("DROP TABLE IF EXISTS short; SET SYNC_DDL=1; CREATE TABLE short (s STRING)")
    with pytest.raises(ScriptError, match="row 3 is 2004 bytes.*MAX_STATEMENT_LENGTH_BYTES"):
        hook.insert_rows("short", [("a",), ("b",), ("x" * 2000,)])
    assert inserts_of(cluster) == before
    hook.insert_rows("short", [("a",), ("b" * 1000,), ("c" * 1000,)])
    assert len(inserts_of(cluster)) == len(before) + 2
    assert insert_statements._most_statement_bytes({"Max_Statement_Length_Bytes": "1.5mb"}) == 1536 * 1024


@pytest.mark.parametrize(
    "cell",
    [[1], (1, 2), []],
)
def test_a_list_is_no_cell(cluster, cell):
    before = inserts_of(cluster)
    with pytest.raises(ScriptError, match=f"row 2, column 1 is a {type(cell).__name__}.*nothing was inserted"):
        ImpalaLBHook().insert_rows("t", [(1,), (cell,)])
    assert inserts_of(cluster) == before


@pytest.mark.parametrize(
    ("rows", "fields", "says"),
    [
        ([(1, 2), (3, 4), (5,)], None, "row 3 has 1 values, the first one has 2"),
        ([(1,), (2,)], ["a", "b"], "row 1 has 1 values, target_fields has 2"),
        ([()], None, "row 1 has no values"),
        ([("a", "b"), {"s3cret": 1, "t": 2}], None, "row 2 is a dict"),
        ([("a", "b"), "xy"], None, "row 2 is a str"),
        ([1], None, "row 1 is a int"),
    ],
)
def test_what_is_no_row_of_the_same_columns_is_refused(cluster, rows, fields, says):
    before = inserts_of(cluster)
    with pytest.raises(ScriptError, match=says) as caught:
        ImpalaLBHook().insert_rows("t", rows, target_fields=fields, commit_every=1)
    assert "s3cret" not in str(caught.value)
    assert inserts_of(cluster) == before


@pytest.mark.parametrize(
    "names",
    [
        {"target_fields": ["`a`) select 666 --"]},
        {"target_fields": ["a`) select 666 -- "]},
        {"target_fields": ["a\\"]},
        {"target_fields": ["a\n"]},
        {"target_fields": ["`"]},
        {"target_fields": [""]},
        {"target_fields": [1]},
        {"target_fields": "ba"},
        {"table": "t SELECT 666 --"},
        {"table": "t (a)"},
        {"table": "`t"},
        {"table": "`a``b`"},
        {"table": "t."},
        {"table": ""},
        {"table": '"db"."t"'},
        {"table": None},
    ],
)
def test_what_is_no_name_is_refused(cluster, names):
    before = inserts_of(cluster)
    wrong = next(iter(names.values()))
    with pytest.raises(ScriptError, match="is no name of a|it must be a list") as caught:
        ImpalaLBHook().insert_rows(**{"table": "t", "rows": [(1,)], **names})
    assert ascii(wrong[0] if isinstance(wrong, list) else wrong) in str(caught.value)
    assert inserts_of(cluster) == before
    if "table" in names:
        with pytest.raises(ScriptError, match="is no name of a table"):
            ImpalaLBHook().get_table_schema(wrong)


@pytest.mark.parametrize("table", ["named", "default.named", "`named`", "`default`.`named`", "default.`named`"])
def test_a_table_may_have_its_database_and_backticks(cluster, table):
    hook = ImpalaLBHook()
    hook.run("DROP TABLE IF EXISTS named; SET SYNC_DDL=1; CREATE TABLE named (a INT)")
    hook.insert_rows(table, [(1,)], target_fields=iter(["`a`"]))
    assert hook.get_records(f"SELECT a FROM {table}") == [(1,)]
    assert hook._changed.written == ["default.named"]


def test_a_value_without_a_text_is_named_before_anything_is_sent(cluster):
    hook = ImpalaLBHook()
    before = sum(len(node.journal()) for node in cluster.nodes)
    with pytest.raises(ScriptError, match="row 3, column 2 is a dict.*nothing was inserted") as caught:
        hook.insert_rows("t", [(1, 2), (3, 4), (5, {"s3cret": 1})], commit_every=1)
    assert "s3cret" not in str(caught.value)
    assert sum(len(node.journal()) for node in cluster.nodes) == before
