"""Which tables a script's statements change, read off their text."""

import json
from pathlib import Path

import pytest

from airflow_provider_impala_lb.impala.sql.classification import classify
from airflow_provider_impala_lb.impala.sql.effects import MOST_NAMES, WrittenTables, to_broadcast
from airflow_provider_impala_lb.impala.sql.lexer import tokens
from airflow_provider_impala_lb.impala.sql.splitter import split

NOTHING = []
UNKNOWN = [(None, "unknown")]

CASES = [
    # rows
    ("INSERT INTO t VALUES (1)", [("dwh.t", "data")]),
    ("insert into table t select 1", [("dwh.t", "data")]),
    ("INSERT INTO other.T (a, b) SELECT a, b FROM x.y", [("other.t", "data")]),
    ("INSERT OVERWRITE t SELECT 1", [("dwh.t", "data")]),
    ("INSERT OVERWRITE TABLE `Other`.`t` PARTITION (p=1) SELECT 1", [("other.t", "data")]),
    ("INSERT /* +SHUFFLE */ INTO t SELECT * FROM u", [("dwh.t", "data")]),
    ("INSERT -- +NOSHUFFLE\nINTO t SELECT * FROM u", [("dwh.t", "data")]),
    ("INSERT INTO t PARTITION (p) [SHUFFLE] SELECT * FROM u", [("dwh.t", "data")]),
    ("INSERT INTO default.t SELECT 1", [("default.t", "data")]),
    ("INSERT INTO other . t SELECT 1", [("other.t", "data")]),
    ("INSERT INTO db1.2020_sales SELECT 1", [("db1.2020_sales", "data")]),
    ("INSERT INTO 2020_sales SELECT 1", [("dwh.2020_sales", "data")]),
    ("INSERT OVERWRITE db.1\u00e9table SELECT 1", [("db.1\u00e9table", "data")]),
    ("INSERT OVERWRITE db.1e5\u00e9 SELECT 1", [("db.1e5\u00e9", "data")]),
    ("INSERT INTO db.1e+5\u00e9 SELECT 1", UNKNOWN),
    ("INSERT INTO -- +a -- b\n c,\n t SELECT 1", [("dwh.t", "data")]),
    ("INSERT INTO db.15 SELECT 1", UNKNOWN),
    ("INSERT INTO `\x01t ` SELECT 1", [("dwh.t", "data")]),
    ("INSERT INTO `t\xa0` SELECT 1", UNKNOWN),
    ("WITH x AS (SELECT 1), y (a) AS (SELECT 2) INSERT INTO t SELECT * FROM x", [("dwh.t", "data")]),
    ("WITH x AS (SELECT 'insert into n') UPSERT INTO t SELECT * FROM x", [("dwh.t", "data")]),
    ("UPSERT INTO TABLE k (a) VALUES (1)", [("dwh.k", "data")]),
    ("UPDATE k SET a = 1 WHERE b = 2", [("dwh.k", "data")]),
    ("UPDATE other.k SET a = 1", [("other.k", "data")]),
    ("UPDATE x SET x.a = u.a FROM other.k x JOIN u ON x.b = u.b", [("other.k", "data")]),
    ("UPDATE k SET a = extract(year FROM b) WHERE c = 1", [("dwh.k", "data")]),
    ("DELETE k WHERE a = 1", [("dwh.k", "data")]),
    ("DELETE FROM k", [("dwh.k", "data")]),
    ("DELETE FROM other.k WHERE a IN (SELECT a FROM u)", [("other.k", "data")]),
    ("DELETE k FROM k JOIN u ON k.a = u.a WHERE u.b = 1", [("dwh.k", "data")]),
    ("DELETE k FROM other.k LEFT JOIN u ON k.a = u.a", [("other.k", "data")]),
    ("DELETE x FROM u, other.k AS x WHERE x.a = u.a", [("other.k", "data")]),
    ("DELETE k FROM one.k y INNER JOIN two.z AS k ON k.a = y.a", [("two.z", "data")]),
    ("DELETE `x` FROM (SELECT 1) s JOIN /* +BROADCAST */ k x ON true", [("dwh.k", "data")]),
    ("DELETE x FROM (SELECT * FROM k x) y", UNKNOWN),
    (
        "MERGE INTO other.t AS x USING u ON x.a = u.a WHEN MATCHED THEN DELETE WHEN NOT MATCHED THEN INSERT VALUES (1)",
        [("other.t", "data")],
    ),
    ("LOAD DATA INPATH '/into table x' INTO TABLE t", [("dwh.t", "data")]),
    ("LOAD DATA INPATH '/a' OVERWRITE INTO TABLE other.t PARTITION (p=1)", [("other.t", "data")]),
    ("TRUNCATE t", [("dwh.t", "data")]),
    ("TRUNCATE TABLE IF EXISTS other.t", [("other.t", "data")]),
    ("OPTIMIZE TABLE t", [("dwh.t", "data")]),
    # what others wrote, known here from now on and elsewhere later
    ("REFRESH t", [("dwh.t", "data")]),
    ("REFRESH other.t PARTITION (p=1)", [("other.t", "data")]),
    ("REFRESH FUNCTIONS other", UNKNOWN),
    ("REFRESH AUTHORIZATION", NOTHING),
    ("INVALIDATE METADATA other.t", [("other.t", "definition")]),
    ("INVALIDATE METADATA", UNKNOWN),
    # definitions
    ("CREATE TABLE t (a INT, insert_into STRING)", [("dwh.t", "definition")]),
    ("CREATE EXTERNAL TABLE IF NOT EXISTS other.t LIKE u LOCATION '/x'", [("other.t", "definition")]),
    ("CREATE TABLE t LIKE PARQUET '/x/y' STORED AS PARQUET", [("dwh.t", "definition")]),
    ("CREATE TABLE t STORED AS PARQUET AS SELECT * FROM u", [("dwh.t", "definition")]),
    ("CREATE /* +SHUFFLE */ TABLE t PARTITIONED BY (p) AS SELECT 1, 2", [("dwh.t", "definition")]),
    ("CREATE VIEW IF NOT EXISTS v AS SELECT * FROM u", [("dwh.v", "definition")]),
    ("CREATE OR REPLACE VIEW other.v AS SELECT 1", [("other.v", "definition")]),
    ("ALTER TABLE t ADD IF NOT EXISTS PARTITION (p=1)", [("dwh.t", "definition")]),
    ("ALTER TABLE other.t DROP COLUMN a", [("other.t", "definition")]),
    ("ALTER TABLE t RECOVER PARTITIONS", [("dwh.t", "definition")]),
    ("ALTER TABLE t RENAME TO other.u", [("dwh.t", "dropped"), ("other.u", "definition")]),
    ("ALTER VIEW other.v RENAME TO w", [("other.v", "dropped"), ("dwh.w", "definition")]),
    ("ALTER VIEW v AS SELECT 1", [("dwh.v", "definition")]),
    ("ALTER DATABASE d SET OWNER USER u", [("d", "definition")]),
    ("COMMENT ON TABLE t IS 'drop table u'", [("dwh.t", "definition")]),
    ("COMMENT ON COLUMN other.t.a IS NULL", [("other.t", "definition")]),
    ("COMMENT ON COLUMN t.a IS NULL", [("dwh.t", "definition")]),
    ("COMMENT ON DATABASE d IS 'x'", [("d", "definition")]),
    ("CREATE DATABASE d", [("d", "definition")]),
    ("CREATE SCHEMA IF NOT EXISTS `D` COMMENT 'x'", [("d", "definition")]),
    ("DROP TABLE t", [("dwh.t", "dropped")]),
    ("DROP TABLE IF EXISTS other.t PURGE", [("other.t", "dropped")]),
    ("DROP VIEW IF EXISTS v", [("dwh.v", "dropped")]),
    ("DROP DATABASE IF EXISTS d CASCADE", [("d", "dropped")]),
    # not tables
    ("CREATE FUNCTION f LOCATION '/x' SYMBOL='y'", UNKNOWN),
    ("CREATE AGGREGATE FUNCTION IF NOT EXISTS f(int) RETURNS int LOCATION '/x' UPDATE_FN='y'", UNKNOWN),
    ("DROP FUNCTION IF EXISTS f(int)", UNKNOWN),
    ("DROP AGGREGATE FUNCTION f(int)", UNKNOWN),
    ("CREATE DATA SOURCE s LOCATION '/x' CLASS 'y' API_VERSION 'V1'", UNKNOWN),
    ("COPY TESTCASE TO '/x' SELECT 1", UNKNOWN),
    ("FROBNICATE TABLE t", UNKNOWN),
    ("`insert` INTO t", UNKNOWN),
    ("CREATE ROLE r", NOTHING),
    ("DROP ROLE r", NOTHING),
    ("GRANT SELECT ON TABLE t TO ROLE r", NOTHING),
    ("REVOKE INSERT ON TABLE t FROM ROLE r", NOTHING),
    ("COMPUTE INCREMENTAL STATS t", NOTHING),
    ("DROP INCREMENTAL STATS t PARTITION (p=1)", NOTHING),
    ("DROP STATS t", NOTHING),
    # reading
    ("SELECT 'insert into t select 1', `insert into t` FROM u -- insert into t", NOTHING),
    ("SELECT \"a\\\"; drop table t\", 'it\\'s' FROM u /* drop table t */", NOTHING),
    ("(SELECT 1) UNION (SELECT 2)", NOTHING),
    ("WITH x AS (SELECT 1) SELECT * FROM x", NOTHING),
    ("WITH `insert` AS (SELECT 1) SELECT * FROM `insert`", NOTHING),
    ("WITH x AS (SELECT 1) (SELECT * FROM x) LIMIT 1", NOTHING),
    ("VALUES (1)", NOTHING),
    ("EXPLAIN INSERT INTO t SELECT 1", NOTHING),
    ("SHOW CREATE TABLE t", NOTHING),
    ("DESCRIBE FORMATTED t", NOTHING),
    ("SET MEM_LIMIT=1g", NOTHING),
    ("USE d", NOTHING),
    ("KILL QUERY '1:2'", NOTHING),
    ("-- only a comment", NOTHING),
    ("", NOTHING),
    # words that are no names, and names that look like something else
    ("UPDATE price SET changed = new IS DISTINCT FROM price.price", [("dwh.price", "data")]),
    ("UPDATE t SET f = a IS NOT DISTINCT FROM b WHERE c", [("dwh.t", "data")]),
    ("UPDATE x SET f = a IS DISTINCT FROM b FROM other.k x", [("other.k", "data")]),
    ("DELETE k FROM a JOIN STRAIGHT_JOIN k ON a.id = k.id", [("dwh.k", "data")]),
    ("INSERT STRAIGHT_JOIN INTO t SELECT 1", [("dwh.t", "data")]),
    ("CREATE straight_join TABLE t AS SELECT 1", [("dwh.t", "definition")]),
    ("UPSERT STRAIGHT_JOIN INTO t SELECT 1", [("dwh.t", "data")]),
    ("WITH \u20acselect AS (SELECT 1 x) INSERT INTO t SELECT * FROM \u20acselect", [("dwh.t", "data")]),
    ("WITH select\u00ad AS (SELECT 1 x) INSERT INTO t SELECT * FROM select\u00ad", [("dwh.t", "data")]),
    ("WITH a\u0301select AS (SELECT 1 x) INSERT INTO t SELECT 1", [("dwh.t", "data")]),
    ("WITH optimize AS (SELECT 1 x) INSERT INTO t SELECT * FROM optimize", [("dwh.t", "data")]),
    ("UPDATE a SET x = 1 FROM other.t 'a'", [("other.t", "data")]),
    ('UPDATE a SET x = 1 FROM other.t AS "A"', [("other.t", "data")]),
    ("INSERT /* +shuffle /* note */ */ INTO t SELECT 1", [("dwh.t", "data")]),
    ("INSERT /*+shuffle*/INTO t SELECT 1", [("dwh.t", "data")]),
    # not understood is not "nothing"
    ("WITH a\u2039select AS (SELECT 1) INSERT INTO t SELECT 1", UNKNOWN),
    ("WITH a\U0001d44eselect AS (SELECT 1) INSERT INTO t SELECT 1", UNKNOWN),
    ("WITH RECURSIVE a b AS (SELECT 1) SELECT 1", UNKNOWN),
    ("WITH a AS (SELECT 1) UPDATE t SET x = 1", UNKNOWN),
    ("INSERT INTO t\u2039 SELECT 1", UNKNOWN),
    ("UPDATE t SET a\u2039 = b FROM c t", UNKNOWN),
    # broken, or names that no metastore takes
    ("INSERT INTO t SELECT 'never ends", [("dwh.t", "data")]),  # no server runs it
    ("INSERT INTO t /* never ends", UNKNOWN),
    ("INSERT INTO", UNKNOWN),
    ("INSERT t SELECT 1", UNKNOWN),
    ("INSERT INTO `a.b` SELECT 1", UNKNOWN),
    ("INSERT INTO `a\\`;drop table b` SELECT 1", UNKNOWN),
    ("INSERT INTO a.b.c SELECT 1", UNKNOWN),
    ("DROP DATABASE a.b", UNKNOWN),
    ("ALTER TABLE t RENAME TO `a b`", [("dwh.t", "dropped"), (None, "unknown")]),
]


def written_by(sql, database="default"):
    return [(change.name(database), change.action) for change in classify(sql).effects.changes]


@pytest.mark.parametrize(("sql", "expected"), CASES)
def test_what_a_statement_changes(sql, expected):
    assert written_by(sql, "DWH") == expected


@pytest.mark.parametrize(("sql", "expected"), [case for case in CASES if "never ends" not in case[0]])
def test_comments_labels_and_line_ends_change_nothing(sql, expected):
    noise = " /* lb:0 1/2 dag=insert into n' */ -- drop table `n\n"
    noisy = noise + noise.join(
        f"`{text}`" if kind == "name" else text for kind, text, *_ in tokens(sql) if kind not in ("comment", "hint")
    )
    if "1.2020" in sql or ". t" in sql:
        noisy = noisy.replace(f"{noise}.{noise}", ".")
    assert written_by(noisy + noise, "dwh") == expected


def test_the_database_is_impalas_default_unless_said():
    assert written_by("INSERT INTO t SELECT 1") == [("default.t", "data")]


def test_the_splitters_hard_cases():
    """Nobody knows what the one with a function changes, nor the broken ones."""
    changes = [
        change.name("default")
        for case in json.loads((Path(__file__).parent / "splitter_cases.json").read_text())
        for sql in case["server_split"]
        for change in classify(sql).effects.changes
    ]
    assert set(changes) == {None, *(f"default.{name}" for name in "cdtv")}
    assert changes.count(None) == 5


def test_many_escapes_are_no_burden():
    sql = "INSERT INTO t SELECT '" + "\\'" * 200_000 + "'"
    assert written_by(sql) == [("default.t", "data")]


def noted(script, **start):
    tables = WrittenTables(**start)
    for statement in split(script):
        tables.note(classify(statement.sql).effects)
    return tables


def test_a_script_is_followed_through_use():
    tables = noted(
        """
        -- no USE yet
        INSERT INTO a SELECT 1;
        USE dwh;
        INSERT INTO a SELECT 1; INSERT OVERWRITE a SELECT 2;
        use `Mart`; CREATE TABLE b AS SELECT * FROM dwh.a;
        SELECT * FROM b
        """,
        database="stage",
    )
    assert tables.written == ["stage.a", "dwh.a", "mart.b"]
    assert (tables.dropped, tables.complete, tables.more) == ([], True, False)


def test_the_latest_action_on_a_name_wins():
    tables = noted("DROP TABLE IF EXISTS t; CREATE TABLE t AS SELECT 1; CREATE TABLE tmp (a INT); DROP TABLE tmp")
    assert (tables.written, tables.dropped) == (["default.t"], ["default.tmp"])
    tables = noted("CREATE TABLE t_new AS SELECT 1; DROP TABLE t; ALTER TABLE t_new RENAME TO t")
    assert (tables.written, tables.dropped) == (["default.t"], ["default.t_new"])


def test_a_dropped_database_takes_its_tables_along():
    tables = noted("CREATE DATABASE d; CREATE TABLE d.t (a INT); CREATE TABLE dd.t (a INT); DROP DATABASE d CASCADE")
    assert (tables.written, tables.dropped) == (["dd.t"], ["d"])


def test_what_is_not_known_leaves_the_list_incomplete():
    assert not noted("INSERT INTO t SELECT 1; CREATE FUNCTION f LOCATION '/x' SYMBOL='y'").complete
    assert noted("SELECT 1; SET a=b; SHOW TABLES").complete


def test_the_list_is_capped():
    whole = noted(";".join(f"INSERT INTO t{number} SELECT 1" for number in range(MOST_NAMES)))
    assert (len(whole.written), whole.complete, whole.more) == (MOST_NAMES, True, False)
    whole.note(classify("INSERT INTO t0 SELECT 1").effects)
    assert whole.complete
    whole.note(classify("INSERT INTO one_more SELECT 1").effects)
    assert (len(whole.written), whole.complete, whole.more) == (MOST_NAMES, False, True)


@pytest.mark.parametrize(
    ("script", "published"),
    [
        ("SELECT 1", True),  # there is nothing to publish
        ("INSERT INTO t SELECT 1", False),
        ("SET SYNC_DDL=1; INSERT INTO t SELECT 1; DROP TABLE u", True),
        ("SET sync_ddl = 'true'; INSERT INTO t SELECT 1", True),
        ("INSERT INTO t SELECT 1; SET SYNC_DDL=1; CREATE TABLE u (a INT)", False),
        ("SET SYNC_DDL=1; INSERT INTO t SELECT 1; SET SYNC_DDL=0; INSERT INTO t SELECT 1", False),
        ("SET SYNC_DDL=1; SET `sync_ddl`=0; INSERT INTO t SELECT 1", False),
        ("SET SYNC_DDL=` TRUE `; INSERT INTO t SELECT 1", True),
        ("SET SYNC_DDL=1; SET ``=0; INSERT INTO t SELECT 1", True),
        ("SET ` Sync_DDL `=1; INSERT INTO t SELECT 1", True),
        ("SET SYNC_DDL=1; UNSET SYNC_DDL; INSERT INTO t SELECT 1", False),
        ("SET SYNC_DDL=1; UNSET ALL; INSERT INTO t SELECT 1", False),
        ("SET SYNC_DDL=1; SET MEM_LIMIT=0; FROBNICATE t", True),
    ],
)
def test_published_is_what_was_all_made_with_sync_ddl(script, published):
    assert noted(script).published is published


def test_published_from_the_sessions_options_and_not_when_the_broadcast_failed():
    tables = noted("INSERT INTO t SELECT 1", sync_ddl=True)
    assert tables.published
    tables.note(classify("INSERT INTO t SELECT 1").effects, broadcast=False)
    assert not tables.published


def with_publish(script, rows):
    """What a script leaves whose statements are sent as `to_broadcast` says; ``rows`` that each has written."""
    effects = [classify(statement.sql).effects for statement in split(script)]
    synced = to_broadcast(effects, "default")
    tables = WrittenTables("default")
    for number, each in enumerate(effects, 1):
        tables.note(each, synced=number in synced, rows=rows[number - 1])
    return sorted(synced), tables.unpublished


@pytest.mark.parametrize(
    ("script", "rows", "synced", "unpublished"),
    [
        ("CREATE TABLE t (a INT)", [None], [1], []),
        ("INSERT INTO t SELECT 1", [1], [1], []),
        ("INSERT INTO t SELECT 1 WHERE false", [0], [1], []),  # there is nothing to hear of
        # The last one of each table; it stands for those before it.
        ("INSERT INTO t SELECT 1; INSERT INTO t SELECT 2", [1, 1], [2], []),
        ("INSERT INTO t SELECT 1; INSERT INTO u SELECT 1; SELECT 1", [1, 1, None], [1, 2], []),
        ("INSERT INTO t SELECT 1; USE d; INSERT INTO t SELECT 1", [1, None, 1], [1, 3], []),
        # Unless it has written nothing.
        ("INSERT INTO t SELECT 1; INSERT INTO t SELECT 2", [1, 0], [2], ["default.t"]),
        ("INSERT INTO t SELECT 1; INSERT INTO t SELECT 2", [1, None], [2], ["default.t"]),
        ("INSERT INTO t SELECT 1; LOAD DATA INPATH '/x' INTO TABLE t", [1, None], [2], []),
        # Rows may be Kudu's, and nobody waits for those: who has to hear of the table itself, hears by another one.
        ("CREATE TABLE IF NOT EXISTS t (a INT); INSERT INTO t SELECT 1", [None, 1], [1, 2], []),
        (
            "ALTER TABLE t ADD COLUMNS (b INT); ALTER TABLE t DROP COLUMN c; UPSERT INTO t SELECT 1",
            [None, None, 1],
            [2, 3],
            [],
        ),
        ("CREATE TABLE t (a INT); INSERT INTO t SELECT 1; DROP TABLE t", [None, 1, None], [3], []),
        ("DROP TABLE IF EXISTS t; CREATE TABLE t AS SELECT 1", [None, 1], [2], []),
        (
            "CREATE TABLE IF NOT EXISTS t AS SELECT 1; CREATE TABLE IF NOT EXISTS t AS SELECT 1",
            [0, 0],
            [2],
            ["default.t"],
        ),
        ("DROP TABLE t; DROP TABLE IF EXISTS t", [None, None], [1, 2], []),
        ("DROP TABLE IF EXISTS t; DROP TABLE IF EXISTS t", [None, None], [2], ["default.t"]),
        ("INSERT INTO t SELECT 1; ALTER TABLE t RECOVER PARTITIONS", [1, None], [1, 2], []),
        ("ALTER TABLE a RENAME TO b", [None], [1], []),
        ("CREATE DATABASE d; CREATE TABLE d.t (a INT); DROP DATABASE d CASCADE", [None] * 3, [2, 3], []),
        ("INSERT INTO d.t SELECT 1; INSERT INTO d.t SELECT 1; DROP DATABASE d CASCADE", [1, 0, None], [2, 3], []),
        (
            "CREATE FUNCTION f LOCATION '/x' SYMBOL='y'; CREATE FUNCTION g LOCATION '/x' SYMBOL='y'",
            [None] * 2,
            [1, 2],
            [],
        ),
        ("REFRESH t", [None], [1], []),
        ("INVALIDATE METADATA", [None], [1], []),
        ("COMPUTE STATS t; SELECT 1", [None, None], [], []),
    ],
)
def test_what_is_sent_with_sync_ddl_to_be_published(script, rows, synced, unpublished):
    assert with_publish(script, rows) == (synced, unpublished)


@pytest.mark.parametrize(
    ("first", "last", "rows", "unpublished"),
    [
        ("CREATE TABLE t (a INT)", "INSERT OVERWRITE t SELECT 1", 1, []),  # neither Kudu nor HBase
        ("CREATE TABLE t (a INT)", "INSERT INTO t (a) PARTITION (p=1) SELECT 1", 1, []),
        ("CREATE TABLE t (a INT)", "INSERT OVERWRITE t SELECT 1", 0, ["default.t"]),
        ("CREATE TABLE t (a INT)", "INSERT INTO t (a) SELECT 1", 1, ["default.t"]),
        ("CREATE TABLE t (a INT)", "DELETE FROM t", 1, ["default.t"]),
        ("INSERT INTO t SELECT 1", "DELETE FROM t", 1, []),
        ("CREATE TABLE t (a INT)", "TRUNCATE t", None, []),
        ("CREATE TABLE t (a INT)", "TRUNCATE TABLE IF EXISTS t", None, ["default.t"]),
        ("CREATE TABLE t (a INT)", "ALTER TABLE t ADD IF NOT EXISTS PARTITION (p=1)", None, ["default.t"]),
        ("CREATE TABLE t (a INT)", "ALTER TABLE t ADD COLUMNS (b INT)", None, []),
        ("CREATE TABLE t (a INT)", "CREATE VIEW IF NOT EXISTS t AS SELECT 1", None, ["default.t"]),
        ("CREATE TABLE t (a INT)", "COMMENT ON TABLE t IS 'x'", None, []),
        ("CREATE TABLE t (a INT)", "INSERT INTO u SELECT 1", 1, ["default.t"]),
    ],
)
def test_which_one_with_sync_ddl_stands_for_an_earlier_one_without(first, last, rows, unpublished):
    tables = noted(first)
    tables.note(classify(last).effects, synced=True, rows=rows)
    assert tables.unpublished == unpublished
    assert tables.published is not bool(unpublished)


def test_what_is_not_published_and_has_no_name():
    tables = noted("INSERT INTO t SELECT 1; CREATE FUNCTION f LOCATION '/x' SYMBOL='y'")
    assert (tables.published, tables.unpublished) == (False, None)
    many = noted(";".join(f"INSERT INTO t{number} SELECT 1" for number in range(MOST_NAMES + 1)))
    assert (many.published, many.unpublished) == (False, None)
