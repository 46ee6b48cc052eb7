"""Which statements may be sent again when nobody knows whether they ran."""

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from airflow_provider_impala_lb.impala.sql import lexer
from airflow_provider_impala_lb.impala.sql.classification import classify, excerpt

SAFE = [
    "SELECT 1",
    "(SELECT 1) UNION ALL (SELECT 2)",
    "WITH x AS (SELECT 1) SELECT * FROM x",
    "VALUES (1)",
    "SHOW TABLES",
    "DESCRIBE t",
    "EXPLAIN INSERT INTO t SELECT 1",
    "SET MEM_LIMIT=1g",
    "UNSET ALL",
    "USE d",
    "REFRESH t",
    "INVALIDATE METADATA t",
    "COMPUTE INCREMENTAL STATS t",
    "TRUNCATE TABLE t",
    "TRUNCATE IF EXISTS t",
    "INSERT OVERWRITE t PARTITION (p=1) SELECT rand(), uuid(), now() FROM u",
    "INSERT /* +SHUFFLE */ OVERWRITE TABLE dwh.t PARTITION (p=1) SELECT * FROM u",
    "INSERT OVERWRITE t PARTITION (p=cast('1' AS INT), q='a,b') /* +SHUFFLE */ SELECT * FROM u",
    "INSERT OVERWRITE t PARTITION (p=-1, q=DATE '2026-01-31', r=NULL, `s`=true) SELECT 1",
    "INSERT OVERWRITE t PARTITION (p=cast(-1.5 AS DECIMAL(3, 1)), q=('a')) SELECT 1",
    "INSERT OVERWRITE t PARTITION (p=1) VALUES (1)",
    "INSERT OVERWRITE t PARTITION (p=1) SELECT n FROM v",  # v may be a view over t: only the catalog knows
    "WITH x AS (SELECT * FROM u) INSERT OVERWRITE t PARTITION (p=1) SELECT * FROM x",
    "INSERT OVERWRITE t PARTITION (p=1) SELECT 't' FROM u -- t",
    "WITH a AS (SELECT 1 x) (SELECT * FROM a)",
    "EXPLAIN CREATE TABLE t AS SELECT 1",
    "CREATE TABLE IF NOT EXISTS t (`as` INT) STORED AS PARQUET",
    "CREATE EXTERNAL TABLE IF NOT EXISTS t LIKE u",
    "CREATE VIEW IF NOT EXISTS v AS SELECT 1",
    "CREATE DATABASE IF NOT EXISTS d",
    "CREATE FUNCTION IF NOT EXISTS f LOCATION '/x' SYMBOL='y'",
    "DROP TABLE IF EXISTS t",
    "DROP VIEW IF EXISTS v",
    "DROP DATABASE IF EXISTS d CASCADE",
    "DROP AGGREGATE FUNCTION IF EXISTS f(int)",
    "ALTER TABLE t ADD IF NOT EXISTS PARTITION (p=1) PARTITION (p=2)",
    "ALTER TABLE dwh.t DROP IF EXISTS PARTITION (p<3) PURGE",
    "ALTER TABLE t ADD IF NOT EXISTS PARTITION (p='now()') LOCATION '/a/b' CACHED IN 'pool' WITH REPLICATION = 3",
    "ALTER TABLE t DROP IF EXISTS PARTITION (p IN ('a', 'b') AND (q BETWEEN 1 AND 3 OR NOT (q IS NULL)))",
    "ALTER TABLE t DROP IF EXISTS PARTITION (day < cast('2026-01-31' AS DATE))",
    "ALTER TABLE k ADD IF NOT EXISTS RANGE PARTITION VALUE = 3",
    "ALTER TABLE k ADD IF NOT EXISTS RANGE PARTITION (1, 'a') <= VALUES < (2, 'b')",
    "-- impala-lb: safe to repeat\nINSERT INTO t SELECT 1",
    "/* lb:0123456789abcdef 1/2 dag=d */ /* impala-lb: safe to repeat */ UPSERT INTO k VALUES (1)",
    "INSERT INTO t -- Impala-LB:  safe to repeat\r\nSELECT 1",
    "INSERT INTO t SELECT 1 --impala-lb: safe to repeat",
]

UNSAFE = [
    "INSERT INTO t SELECT 1",
    "UPSERT INTO k SELECT 1",
    "UPDATE k SET a = a + 1",
    "DELETE FROM k",
    "MERGE INTO t USING u ON t.a = u.a WHEN MATCHED THEN DELETE",
    "LOAD DATA INPATH '/x' OVERWRITE INTO TABLE t",
    "WITH x AS (SELECT 1) INSERT INTO t SELECT * FROM x",
    # it reads what it writes
    "INSERT OVERWRITE t PARTITION (p=1) SELECT a + 1 FROM t",
    "INSERT OVERWRITE t PARTITION (p=1) SELECT * FROM u JOIN dwh.`T` x ON true",
    "WITH x AS (SELECT * FROM t) INSERT OVERWRITE t PARTITION (p=1) SELECT * FROM x",
    "INSERT OVERWRITE t PARTITION (p=1) SELECT * FROM `t\x01`",  # Java trims it
    "INSERT OVERWRITE t PARTITION (p=1) SELECT * FROM `\x1f t`",
    "INSERT OVERWRITE t PARTITION (p=1) SELECT n + 1 FROM v t",  # the alias says that v is a view over it
    # the second run may be of other partitions
    "INSERT OVERWRITE t PARTITION (m=cast(now() as string)) SELECT 1",
    "INSERT OVERWRITE t PARTITION (m=to_date(now())) SELECT 1",
    "INSERT OVERWRITE t PARTITION (m=current_date()) SELECT 1",
    "INSERT OVERWRITE t PARTITION (m=unix_timestamp()) SELECT 1",
    "INSERT OVERWRITE t PARTITION (p=1, m=-(1 + unix_timestamp /* x */ ( ))) SELECT 1",
    "INSERT OVERWRITE t PARTITION (m=`now` ()) SELECT 1",
    "INSERT OVERWRITE t PARTITION (m=db.cast()) SELECT 1",
    "INSERT OVERWRITE t PARTITION (m=if(true, 1, 2)) SELECT 1",  # in doubt
    "INSERT OVERWRITE t PARTITION (m=(select 1)) SELECT 1",
    "INSERT OVERWRITE t PARTITION (m=cast('26-01' as date format 'Y-MM')) SELECT 1",  # of this decade
    "INSERT OVERWRITE t PARTITION (m=cast(cast(0 as timestamp) as string)) SELECT 1",  # the host's time zone
    "ALTER TABLE t ADD IF NOT EXISTS PARTITION (day=to_date(now()))",
    "ALTER TABLE t ADD IF NOT EXISTS PARTITION (day='a') PARTITION (day=current_date())",
    "ALTER TABLE t DROP IF EXISTS PARTITION (day < to_date(now()))",
    "ALTER TABLE t DROP IF EXISTS PARTITION (day IN ('a', cast(now() AS STRING))) PURGE",
    "ALTER TABLE k ADD IF NOT EXISTS RANGE PARTITION VALUE = unix_timestamp()",
    "ALTER TABLE k DROP IF EXISTS RANGE PARTITION unix_timestamp() <= VALUES",
    # on an Iceberg table it replaces the partitions that the rows name
    "INSERT OVERWRITE t SELECT * FROM u",
    "INSERT OVERWRITE t VALUES (1)",
    "WITH \u20acselect AS (SELECT 1 x) INSERT INTO t SELECT * FROM \u20acselect",
    "WITH a\u2039select AS (SELECT 1 x) INSERT INTO t SELECT 1",
    # another run may leave partitions of the first one
    "INSERT OVERWRITE t PARTITION (p) SELECT a, p FROM u",
    "INSERT OVERWRITE t PARTITION (p=1, q) SELECT a, q FROM u",
    "INSERT OVERWRITE t PARTITION (q, p=1) SELECT a, q FROM u",
    "INSERT OVERWRITE t PARTITION (p=f(1, 2), q) SELECT a, q FROM u",
    "INSERT OVERWRITE t (a, p) SELECT a, p FROM u",
    # the table may be there without its rows
    "CREATE TABLE IF NOT EXISTS t AS SELECT 1",
    "CREATE TABLE IF NOT EXISTS t STORED AS PARQUET AS SELECT 1",
    "CREATE TABLE IF NOT EXISTS t PARTITIONED BY (p) AS WITH x AS (SELECT 1, 2 p) SELECT * FROM x",
    "CREATE TABLE IF NOT EXISTS t AS (SELECT 1)",
    "CREATE TABLE IF NOT EXISTS t AS VALUES (1)",
    "CREATE TABLE t AS SELECT 1",
    "-- impala-lb: safe to repeat\nCREATE TABLE IF NOT EXISTS t AS SELECT 1",
    "CREATE /* +SHUFFLE */ EXTERNAL TABLE IF NOT EXISTS t STORED AS ORC LOCATION '/as select' AS /* x */ SELECT 1",
    # the second fails, or does something else
    "CREATE TABLE t (a INT)",
    "CREATE VIEW v AS SELECT 1",
    "DROP TABLE t",
    "DROP STATS t",
    "ALTER TABLE t ADD PARTITION (p=1)",
    "ALTER TABLE t DROP PARTITION (p=1)",
    "ALTER TABLE t ADD COLUMNS (a INT)",
    "ALTER TABLE t ADD IF NOT EXISTS COLUMNS (a INT)",
    "ALTER TABLE t RENAME TO u",
    "ALTER VIEW v AS SELECT 1",
    "COMMENT ON TABLE t IS 'x'",
    "GRANT SELECT ON TABLE t TO ROLE r",
    "KILL QUERY '1:2'",
    ":shutdown()",
    "FROBNICATE t",
    # no such promise
    "INSERT INTO t SELECT '-- impala-lb: safe to repeat'",
    "INSERT INTO t SELECT 1 -- not impala-lb: safe to repeat",
    "INSERT INTO t SELECT 1 -- impala-lb: safe to repeat? no",
    "INSERT INTO t SELECT 'never ends -- impala-lb: safe to repeat",
]


@pytest.mark.parametrize("sql", SAFE)
def test_safe_to_repeat(sql):
    assert classify(sql).safe_to_repeat


@pytest.mark.parametrize("sql", UNSAFE)
def test_not_safe_to_repeat(sql):
    assert not classify(sql).safe_to_repeat


@pytest.mark.parametrize(
    ("sql", "reads"),
    [
        ("INSERT OVERWRITE t SELECT * FROM u", False),
        ("INSERT OVERWRITE TABLE dwh.t PARTITION (p=1) SELECT 't', `tt` FROM dwh.u /* t */", False),
        ("INSERT OVERWRITE t SELECT * FROM T", True),
        ("INSERT OVERWRITE t SELECT * FROM other.t", True),  # in doubt
        ("INSERT OVERWRITE dwh.t SELECT * FROM t", True),
        ("INSERT OVERWRITE t SELECT u.t FROM u", True),  # in doubt
        ("WITH x AS (SELECT * FROM `t`) INSERT OVERWRITE t SELECT * FROM x", True),
        ("SELECT 1", True),
        ("INSERT OVERWRITE t SELECT 'never ends", True),
    ],
)
def test_whether_the_query_mentions_the_target(sql, reads):
    assert classify(sql).reads_own_target is reads


@pytest.mark.parametrize(
    ("begin", "end"),
    [
        ("insert into t values ", ""),
        ("insert into t values ", " -- impala-lb: safe to repeat"),
        ("insert into t values ", ", ('-- impala-lb: safe to repeat')"),
        ("insert overwrite t partition (p=1) values ", ""),
        ("insert overwrite sales partition (p=1) values ", ", ('sales')"),
    ],
)
def test_values_are_not_read_one_by_one(begin, end, monkeypatch):
    calls = []
    token_at = lexer.token_at
    monkeypatch.setattr(lexer, "token_at", lambda text, position: calls.append(position) or token_at(text, position))

    def tokens_read(rows):
        calls.clear()
        found = classify(begin + ", ".join(["(1, 'a that', -2.5e3, NULL)"] * rows) + end)
        assert found.safe_to_repeat is (end.startswith(" --") or "overwrite" in begin)
        assert found.effects.changes
        return len(calls)

    assert tokens_read(200) == tokens_read(100)


@pytest.mark.parametrize(
    ("sql", "kind"),
    [
        ("SELECT 'insert', `update` FROM merge -- delete", "query"),
        ("/* lb:1 */ ((SELECT 1))", "query"),
        ("WITH a AS (SELECT 'insert into t') SELECT * FROM a", "query"),
        ("WITH 'a' (x, y) AS (SELECT ')'), b AS (VALUES (1)) (SELECT 1)", "query"),
        ("EXPLAIN DELETE FROM t", "query"),
        ("WITH a AS (SELECT 1) INSERT INTO t SELECT 1", "dml"),
        ("OPTIMIZE TABLE t", "dml"),
        ("SET a=1", "session"),
        ("INVALIDATE METADATA", "metadata"),
        ("COMPUTE STATS t", "stats"),
        ("CREATE TABLE t (a INT) STORED AS PARQUET TBLPROPERTIES ('as'='select')", "ddl"),
        ("CREATE TABLE t LIKE PARQUET '/x' COMMENT 'as select'", "ddl"),
        ("CREATE VIEW v AS SELECT 1", "ddl"),
        ("CREATE TABLE t AS SELECT 1", "ctas"),
        (
            "create /* +x */ external table if not exists t primary key (a) stored as kudu as with x as (select 1)",
            "ctas",
        ),
        ("CREATE OR REPLACE TABLE t USING parquet AS (SELECT 1)", "ctas"),
        ("FROBNICATE t", "unknown"),
        ("", "unknown"),
        ("SELECT /* no end", "unknown"),
        ("SELECT 1, /* no end", "query"),  # no more is read
        ("/* no end", "unknown"),
    ],
)
def test_kinds(sql, kind):
    found = classify(sql)
    assert found.kind == kind
    assert found.reads_only is (kind == "query")
    assert found.session_only is (kind == "session")
    assert found.changes_nothing is (kind in ("query", "session", "metadata", "stats"))


words = st.one_of(
    st.sampled_from(["select", "insert", "into", "overwrite", "table", "t", "as", "with", "create", "if not exists"]),
    st.sampled_from(
        ["from", "update", "set", "delete", "use", "partition", "straight_join", "distinct", "€", "\u2039"]
    ),
    st.sampled_from(["(", ")", ",", ".", "=", "'x'", "`y`", "'", "/*", "*/", "-- +", "\n", "[", "]", ";"]),
)


@settings(deadline=None)
@given(st.lists(words, max_size=12).map(" ".join) | st.text())
def test_any_text_is_classified(sql):
    found = classify(sql)
    effects = found.effects
    assert found.safe_to_repeat in (True, False)
    assert not (found.kind == "ctas" and found.safe_to_repeat)
    assert not (found.kind in ("query", "session", "stats") and effects.changes)
    if found.kind == "dml":
        assert effects.changes


@pytest.mark.parametrize(
    ("sql", "expected"),
    [
        ("/* why */ (select  1\n\tfrom t)", "select 1 from t)"),
        ("select '\x1b[2J', '\0', '\u202egpj', '\ud800'", r"select '\x1b[2J', '\x00', '\u202egpj', '\ud800'"),
        ("select 'é名'", "select 'é名'"),
        ("select " + "\x1b" * 100, "select " + r"\x1b" * 17 + r"\x..."),
    ],
)
def test_an_excerpt_is_one_line_that_a_terminal_shows_and_does_not_obey(sql, expected):
    assert excerpt(sql) == expected
