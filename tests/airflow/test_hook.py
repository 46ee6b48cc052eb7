"""The hook: DB-API, and what common-sql builds on it."""

import weakref
from datetime import date

import pytest
from airflow.providers.common.sql.hooks.handlers import fetch_all_handler

from airflow_provider_impala_lb.errors import ConfigError, NoNodeAvailable, ScriptError, StatementFailed
from airflow_provider_impala_lb.get_provider_info import get_provider_info
from airflow_provider_impala_lb.hooks.impala_lb import ImpalaLBHook
from airflow_provider_impala_lb.impala.hs2.connection_failure import NodeRefused


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
