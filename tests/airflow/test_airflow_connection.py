"""An Airflow connection as a configuration: which keys it takes, in which form, and what is an error."""

import json

import pytest

from airflow_provider_impala_lb.errors import ConfigError
from airflow_provider_impala_lb.hooks.impala_lb import ImpalaLBHook


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
    assert connection("wh", host="c1", extra={"load": ""}).balancer.config.load_is_auto  # as a form saves it


def test_the_login_of_the_web_pages_may_be_a_connection(connection, monkeypatch):
    web = {"conn_type": "http", "login": "lb", "password": "s3cret"}
    monkeypatch.setenv("AIRFLOW_CONN_WEB", json.dumps(web))
    extra = {"lock_file": "/l", "web_conn_id": "web", "load": {"web_auth": "digest"}}
    balancer = connection("wh", host="c1,c2", extra=extra).balancer
    assert (balancer.config.load.web_user, balancer.sessions.web_password) == ("lb", "s3cret")
    assert "s3cret" not in repr(balancer.config)
    with pytest.raises(ConfigError, match="web_conn_id: is of no use without a section load"):
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


def test_nodes_that_are_found(connection):
    extra = {"nodes": {"dns": "c.example", "port": "443"}, "lock_file": "/nas/x"}
    config = connection("found", extra=extra).balancer.config
    assert (config.nodes, config.source.name, config.source.port) == ((), "DNS name c.example", 443)
    with pytest.raises(ConfigError, match=r"host names c1, but nodes in extra are found by DNS name c\.example"):
        _ = connection("both", host="c1", extra=extra).balancer


def test_a_connection_whose_nodes_cannot_be_found_is_not_well(connection, tmp_path):
    nodes = {"dns": "there-is-none.invalid"}
    hook = connection("none", extra={"nodes": nodes, "lock_file": str(tmp_path / "node_in_use.tmp")})
    well, text = hook.test_connection()
    assert not well and "No coordinator of none is known: DNS name there-is-none.invalid" in text
