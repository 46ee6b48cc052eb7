"""The hook: Airflow connections as configurations, DB-API, and what common-sql builds on it."""

import json
import math
import weakref
from datetime import date

import pytest
from airflow.providers.common.sql.hooks.handlers import fetch_all_handler

from airflow_provider_impala_lb.errors import ConfigError, NoNodeAvailable, ScriptError, StatementFailed
from airflow_provider_impala_lb.get_provider_info import get_provider_info
from airflow_provider_impala_lb.hooks import insert_statements
from airflow_provider_impala_lb.hooks.impala_lb import ImpalaLBHook
from airflow_provider_impala_lb.impala.hs2.connection_failure import NodeRefused


@pytest.fixture
def connection(monkeypatch):
    def define(conn_id, **fields):
        monkeypatch.setenv(f"AIRFLOW_CONN_{conn_id.upper()}", json.dumps({"conn_type": "impala_lb", **fields}))
        return ImpalaLBHook(conn_id)

    return define


def test_a_connection_is_a_configuration(connection):
    hook = connection(
        "wh",
        host="c1:21050, c2",
        port=21051,
        login="etl",
        password="s3cret",
        schema="dwh",
        extra={
            "lock_file": "/nas/l",
            "policy": "round_robin",
            "session": {"auth_mechanism": "LDAP"},
            "config_file": "",
        },
    )
    config = hook.balancer.config
    assert (config.name, config.addresses, config.policy) == ("wh", ("c1:21050", "c2:21051"), "round_robin")
    assert (config.session.user, config.session.database, config.session.auth_mechanism) == ("etl", "dwh", "LDAP")
    assert hook.balancer.sessions.password == "s3cret"
    assert "s3cret" not in repr(config)


def test_nodes_in_the_extra_may_say_more_about_those_in_host(connection):
    nodes = [{"host": "c1", "weight": 2}, "c2"]
    hook = connection("wh", host="c2,c1", extra={"lock_file": "/nas/l", "nodes": nodes})
    assert [node.weight for node in hook.balancer.config.nodes] == [2, 1]
    with pytest.raises(ConfigError, match="host names c3:21050, but nodes in extra lists c1:21050, c2:21050"):
        _ = connection("wh2", host="c3", extra={"lock_file": "/nas/l", "nodes": nodes}).balancer


def test_a_store_may_be_a_redis_connection(connection, monkeypatch):
    redis = {"conn_type": "redis", "host": "r", "login": "u", "password": "s3cret:/@", "extra": {"db": 3, "ssl": True}}
    monkeypatch.setenv("AIRFLOW_CONN_STATE", json.dumps(redis))
    config = connection("wh", host="c1,c2", extra={"store_conn_id": "state"}).balancer.config
    assert (str(config.store), config.store.user, config.store.password) == ("rediss://r:6379/3", "u", "s3cret:/@")
    assert "s3cret" not in repr(config)
    for extra, says in (({"store": "redis://h"}, "store is there too"), ({"lock_file": "/l"}, "must be a connection")):
        if "lock_file" in extra:
            monkeypatch.setenv("AIRFLOW_CONN_STATE", '{"conn_type": "http", "host": "h", "password": "s3cret"}')
        with pytest.raises(ConfigError, match=says):
            _ = connection("wh3", host="c1,c2", extra={"store_conn_id": "state", **extra}).balancer


@pytest.mark.parametrize(
    ("ssl", "scheme"), [("false", "redis"), ("False", "redis"), ("0", "redis"), (False, "redis"), ("true", "rediss")]
)
def test_ssl_of_a_redis_connection_may_be_a_text(connection, monkeypatch, ssl, scheme):
    monkeypatch.setenv("AIRFLOW_CONN_STATE", json.dumps({"conn_type": "redis", "host": "r", "extra": {"ssl": ssl}}))
    assert str(connection("wh", host="c1,c2", extra={"store_conn_id": "state"}).balancer.config.store).startswith(
        f"{scheme}://"
    )
    monkeypatch.setenv("AIRFLOW_CONN_STATE", '{"conn_type": "redis", "host": "r", "extra": {"ssl": "maybe"}}')
    with pytest.raises(ConfigError, match="connection state: ssl: is 'maybe', must be true or false"):
        _ = connection("wh2", host="c1,c2", extra={"store_conn_id": "state"}).balancer


def test_an_empty_section_in_the_extra_is_one_with_its_defaults(connection):
    for section, filled in ((None, True), ({}, True), (False, False), ("off", False)):
        config = connection("wh", host="c1", login="me", extra={"load": section, "session": None}).balancer.config
        assert (config.load is not None, config.session.user) == (filled, "me")
    assert connection("wh", host="c1", extra={"load": ""}).balancer.config.load is None  # as a form saves it


def test_the_login_of_the_web_pages_may_be_a_connection(connection, monkeypatch):
    web = {"conn_type": "http", "login": "lb", "password": "s3cret"}
    monkeypatch.setenv("AIRFLOW_CONN_WEB", json.dumps(web))
    extra = {"lock_file": "/l", "web_conn_id": "web", "load": {"web_auth": "digest"}}
    balancer = connection("wh", host="c1,c2", extra=extra).balancer
    assert (balancer.config.load.web_user, balancer.sessions.web_password) == ("lb", "s3cret")
    assert "s3cret" not in repr(balancer.config)
    with pytest.raises(ConfigError, match="web_conn_id: is of no use without load"):
        _ = connection("wh2", host="c1", extra={"web_conn_id": "web"}).balancer


def test_a_config_file_holds_all_but_login_and_database(connection, cluster):
    hook = connection("wh", login="me", schema="d", extra={"config_file": str(cluster.config_file)})
    assert hook.balancer.config.addresses == tuple(node.address for node in cluster.nodes)
    assert (hook.balancer.config.session.user, hook.balancer.config.session.database) == ("me", "d")
    with pytest.raises(
        ConfigError, match="config_file: the file holds all keys, but the connection also has host, policy"
    ):
        _ = connection("wh2", host="h", extra={"config_file": "/x", "policy": "round_robin"}).balancer


def test_a_plain_impala_connection_is_a_cluster_of_one(monkeypatch, cluster):
    node = cluster.nodes[0]
    fields = {"conn_type": "impala", "host": node.host, "port": node.port}
    fields |= {"login": cluster.user, "password": cluster.password}
    fields["extra"] = {"auth_mechanism": "PLAIN", "timeout": 30}
    monkeypatch.setenv("AIRFLOW_CONN_IMPALA_DEFAULT", json.dumps(fields))
    hook = ImpalaLBHook("impala_default")
    assert hook.get_first("SELECT effective_user()") == (cluster.user,)
    assert hook.balancer.config.session.rpc_timeout == 30


def test_a_password_that_is_not_used_is_one_warning(connection, caplog):
    hook = connection("wh", host="c1", password="s3cret")
    for _ in range(2):
        _ = hook.balancer
    assert caplog.text.count("password is not used by auth_mechanism NOSASL") == 1
    assert "s3cret" not in caplog.text


def test_records_types_and_lineage_facts(cluster):
    hook = ImpalaLBHook()
    assert hook.get_records("SELECT 1, 'a', CAST('2026-01-02' AS DATE), CAST(1.5 AS DECIMAL(5,2))")[0][:2] == (1, "a")
    assert hook.get_first("SELECT CAST('2026-01-02' AS DATE)") == (date(2026, 1, 2),)
    assert hook.run("SELECT 1; SELECT 2", handler=lambda cursor: cursor.fetchall()) == [(2,)]
    assert len(hook.query_ids) == 2
    assert hook.host in {node.address for node in cluster.nodes}
    assert hook.descriptions[0][0][1] in ("TINYINT", "INT")
    assert hook.run("SELECT 1") is None
    assert hook.split_sql_string("select /* +SHUFFLE */ 1; select ';'") == ["select /* +SHUFFLE */ 1", "select ';'"]


def test_a_data_frame(cluster):
    frame = ImpalaLBHook().get_df("SELECT 1 AS a, 'x' AS b UNION ALL SELECT 2, 'y' ORDER BY a")
    assert frame.to_dict("list") == {"a": [1, 2], "b": ["x", "y"]}


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


def test_a_list_goes_to_the_statements_that_have_markers(cluster):
    hook = ImpalaLBHook()
    sql = "SET MEM_LIMIT=1g; SELECT %s, '10:20:30 a% why?'; SELECT 2"
    rows = hook.run(sql, parameters=iter(["x"]), handler=fetch_all_handler, return_last=False)
    assert rows[1:] == [[("x", "10:20:30 a% why?")], [(2,)]]
    assert hook.get_first("SELECT from_unixtime(%(x)s, 'HH:mm:ss'), 5 % 3", {"x": 1}) == ("00:00:01", 2)
    with hook.get_conn() as connection, connection.cursor() as cursor:
        cursor.execute("SELECT '?', ?", ["it's"])
        assert cursor.fetchall() == [("?", "it's")]
        with pytest.raises(ScriptError, match="it has 1 markers for 2 parameters"):
            cursor.execute("SELECT '?', ?", [1, 2])


def test_rows_that_are_not_returned_are_not_kept(cluster):
    hook, alive = ImpalaLBHook(), []

    class Rows(list):
        pass

    def handler(cursor):
        alive.append(weakref.ref(rows := Rows(cursor.fetchall())))
        assert sum(each() is not None for each in alive) == 1
        return rows

    assert hook.run("SELECT 1; SELECT 2; SELECT 3", handler=handler) == [(3,)]
    assert len(alive) == 3


def test_a_script_of_comments_only_has_nothing_to_run(cluster):
    assert ImpalaLBHook().run("-- nothing\n/* at all */", handler=lambda cursor: cursor.fetchall()) is None
    assert ImpalaLBHook().run("-- nothing", split_statements=False) is None
    with pytest.raises(ScriptError, match="holds no statement"):
        ImpalaLBHook().run(" ;\n")


def test_a_connection_holds_a_lease_until_it_is_closed(cluster):
    hook = ImpalaLBHook()
    connection = hook.get_conn()
    assert [lease["node"] for lease in hook.balancer.status()["leases"]] == [connection.pick.node]
    cursor = connection.cursor()
    second = connection.cursor()
    cursor.execute("SET MEM_LIMIT=5g")
    second.execute("SELECT 1;")
    assert second.fetchone() == (1,)
    assert list(second) == []
    assert cursor.session.id != second.session.id
    with pytest.raises(StatementFailed, match="nope"):
        cursor.execute("SELECT * FROM nope")
    connection.close()
    assert hook.balancer.status()["leases"] == []


def test_the_test_button_tells_of_every_coordinator(connection, cluster):
    good = ImpalaLBHook().test_connection()
    assert good == (True, "; ".join(["shared state: ok", *(f"{node.address}: ok" for node in cluster.nodes)]))
    node = cluster.nodes[0]
    extra = {"lock_file": str(cluster.directory / "other.tmp"), "session": {"auth_mechanism": "PLAIN"}}
    login = {"login": cluster.user, "password": cluster.password}
    ok, text = connection("wh", host=f"{node.address},127.0.0.1:1", extra=extra, **login).test_connection()
    assert not ok
    assert f"{node.address}: ok" in text
    assert "127.0.0.1:1: connection refused" in text
    assert connection("bad", extra={"x": 1}).test_connection()[0] is False


def test_the_test_button_tries_the_lock_files_directory(connection, cluster, tmp_path):
    node = cluster.nodes[0]

    def tried(lock_file):
        extra = {"lock_file": str(lock_file), "session": {"auth_mechanism": "PLAIN"}}
        login = {"login": cluster.user, "password": cluster.password}
        return connection("wh", host=node.address, extra=extra, **login).test_connection()

    ok, text = tried(tmp_path / "typo" / "lock.tmp")
    assert not ok and f"lock_file {tmp_path}/typo/lock.tmp: its directory is not there" in text
    assert f"{node.address}: ok" in text
    assert tried(tmp_path / "lock.tmp")[0] and list(tmp_path.iterdir()) == []  # the workers' user makes it
    (tmp_path / "lock.tmp").write_text("something else\n" * 9)
    ok, text = tried(tmp_path / "lock.tmp")
    assert not ok and "holds something else" in text


def test_when_no_node_answers_the_connection_says_why(connection, tmp_path):
    hook = connection("wh", host="127.0.0.1:1,127.0.0.1:2", extra={"lock_file": str(tmp_path / "l")})
    with pytest.raises(NoNodeAvailable) as caught:
        hook.get_conn()
    assert list(caught.value.reasons) == ["127.0.0.1:1", "127.0.0.1:2"]
    assert hook.balancer.status()["leases"] == []
    with pytest.raises(NodeRefused):
        hook.balancer.sessions.open("127.0.0.1:1")


def test_airflow_knows_the_provider(cluster):
    from airflow.providers_manager import ProvidersManager

    manager = ProvidersManager()
    assert "airflow-provider-impala-lb" in manager.providers
    hook = manager.hooks["impala_lb"]
    assert hook is not None
    assert hook.hook_name == "Impala (balanced)"
    assert get_provider_info()["connection-types"][0]["connection-type"] == "impala_lb"
    assert set(ImpalaLBHook.get_ui_field_behaviour()) == {"hidden_fields", "relabeling", "placeholders"}


def test_the_columns_of_a_table_need_no_sqlalchemy(cluster):
    hook = ImpalaLBHook()
    hook.run("SET SYNC_DDL=1; CREATE TABLE described (`order` INT, s STRING) PARTITIONED BY (`date` STRING)")
    assert hook.dialect.get_column_names("default.described") == ["order", "s", "date"]
    assert hook.dialect.get_column_names("`described`", "default", lambda column: column["type"] == "int") == ["order"]
    assert hook.get_table_schema("described", "default")[0] == {"name": "order", "type": "int"}
    assert hook.dialect.get_primary_keys("described") is None
    hook.insert_rows("described", [(1, "a", "2026")], target_fields=["order", "`s`", "date"])
    with pytest.raises(StatementFailed, match="no_such_table"):
        hook.dialect.get_column_names("no_such_table")


@pytest.mark.parametrize(
    "use",
    [
        lambda hook: hook.get_uri(),
        lambda hook: hook.sqlalchemy_url,
        lambda hook: hook.get_sqlalchemy_engine(),
        lambda hook: hook.inspector,
    ],
)
def test_there_is_no_sqlalchemy_dialect(cluster, use):
    with pytest.raises(ConfigError, match="connection impala_lb_default: no SQLAlchemy dialect here"):
        use(ImpalaLBHook())


NESTED = (
    "session=%7B%22rpc_timeout%22%3A%20%2230%22%2C%20%22query_options%22%3A%20%7B%22MEM_LIMIT%22%3A%20%221g%22%7D%7D"
)


@pytest.mark.parametrize(
    ("conn", "seen"),
    [
        ("impala://u:p@h:21050/db?use_ssl=true&timeout=30", {"use_ssl": True, "rpc_timeout": 30.0}),
        ("impala://h?use_ssl=false&verify_cert=0&timeout=1.5", {"use_ssl": False, "rpc_timeout": 1.5}),
        ({"conn_type": "impala", "host": "h", "extra": {"use_ssl": "true"}}, {"use_ssl": True}),
        ({"conn_type": "impala", "host": "h", "extra": {"use_ssl": "1", "timeout": "30"}}, {"rpc_timeout": 30.0}),
        (f"impala-lb://h/db?{NESTED}", {"rpc_timeout": 30.0, "query_options": {"MEM_LIMIT": "1g"}}),
        ({"conn_type": "impala_lb", "host": "h", "extra": {"session": {"use_ssl": "False"}}}, {"use_ssl": False}),
    ],
)
def test_texts_are_taken_for_what_is_wanted(monkeypatch, conn, seen):
    """Airflow 2.11 makes texts of all values in a URI; some people write them so in JSON."""
    monkeypatch.setenv("AIRFLOW_CONN_TEXTS", conn if isinstance(conn, str) else json.dumps(conn))
    session = ImpalaLBHook("texts").balancer.config.session
    assert {key: getattr(session, key) for key in seen} == seen


def test_other_texts_are_taken_too(connection):
    nodes = '[{"host": "c1", "weight": "2"}, "c2"]'
    load = '{"refresh": "5", "weights": {"cpu": "2"}, "floor": {"cpu": "0.05"}}'
    extra = {"nodes": nodes, "max_leases": "7", "lock_file": "/l", "load": load, "max_wait": "1.5", "node_count": "2"}
    config = connection("texts", extra=extra).balancer.config
    assert ([node.weight for node in config.nodes], config.max_leases, config.max_wait) == ([2, 1], 7, 1.5)
    assert (config.load.refresh, config.load.weights["cpu"], config.load.floor["cpu"]) == (5, 2, 0.05)


@pytest.mark.parametrize(
    ("extra", "says"),
    [
        ({"use_ssl": "perhaps"}, "session.use_ssl: .*'perhaps'"),
        ({"timeout": "soon"}, "session.rpc_timeout: .*'soon'"),
        ({"session": "{'rpc_timeout': 3}"}, "session: "),
    ],
)
def test_a_text_that_is_something_else_is_named(monkeypatch, extra, says):
    monkeypatch.setenv("AIRFLOW_CONN_TEXTS", json.dumps({"conn_type": "impala", "host": "h", "extra": extra}))
    with pytest.raises(ConfigError, match=f"connection texts: {says}"):
        _ = ImpalaLBHook("texts").balancer


def test_the_text_false_is_no_tls_to_redis(connection, monkeypatch):
    monkeypatch.setenv("AIRFLOW_CONN_STATE", "redis://u:p@r:6379?ssl=false&db=3")
    assert str(connection("wh", host="c1,c2", extra={"store_conn_id": "state"}).balancer.config.store) == (
        "redis://r:6379/3"
    )


@pytest.mark.parametrize("conn_type", ["impala", "impala_lb"])
@pytest.mark.parametrize(
    ("extra", "says"),
    [
        (
            {"use_http_transport": True, "http_path": "cliservice", "auth_mechanism": "LDAP"},
            "use_http_transport, http_path: HiveServer2 over HTTP is not supported here",
        ),
        ({"use_http_transport": "true", "jwt": "s3cret", "auth_mechanism": "JWT"}, "jwt: .*over HTTP is not supported"),
        ({"use_ldap": True}, "use_ldap: .*auth_mechanism"),
        ({"retries": 3}, "retries: .*reconnect_timeout"),
    ],
)
def test_what_only_the_official_provider_can_do_is_named(monkeypatch, conn_type, extra, says):
    fields = {"conn_type": conn_type, "host": "h", "port": 28000, "extra": extra}
    monkeypatch.setenv("AIRFLOW_CONN_OFFICIAL", json.dumps(fields))
    with pytest.raises(ConfigError, match=f"connection official: .*{says}") as caught:
        _ = ImpalaLBHook("official").balancer
    assert "allowed:" not in str(caught.value) and "s3cret" not in str(caught.value)


def test_what_is_switched_off_is_not_missed(monkeypatch):
    extra = {"use_http_transport": False, "use_ldap": "false", "http_path": ""}
    monkeypatch.setenv("AIRFLOW_CONN_OFFICIAL", json.dumps({"conn_type": "impala", "host": "h", "extra": extra}))
    assert ImpalaLBHook("official").balancer.config.addresses == ("h:21050",)
