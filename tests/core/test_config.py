import pytest

from airflow_provider_impala_lb.core.address import parse_address
from airflow_provider_impala_lb.core.config import Node, load, parse
from airflow_provider_impala_lb.errors import ConfigError

LOCK = "/nas/impala/node_in_use.tmp"


def test_the_documented_file_is_read(tmp_path):
    path = tmp_path / "impala_lb.yml"
    path.write_text(
        """
name: warehouse
lock_file: /nas/impala/node_in_use.tmp
node_count: 3
port: 21050
nodes:
  - 10.0.0.11
  - 10.0.0.12:21051
  - {host: impala-13, port: 21052, weight: 2, web: "http://impala-13:25000"}
policy: round_robin
store: file
session: {auth_mechanism: LDAP, database: dwh, query_options: {MEM_LIMIT: 2g, MT_DOP: 4}, open_timeout: 5}
"""
    )
    config = load(path)
    assert config.name == "warehouse"
    assert config.addresses == ("10.0.0.11:21050", "10.0.0.12:21051", "impala-13:21052")
    assert config.nodes[2] == Node("impala-13", 21052, 2.0, "http://impala-13:25000")
    assert config.policy == "round_robin"
    assert config.session.query_options == {"MEM_LIMIT": "2g", "MT_DOP": 4}
    assert (config.session.open_timeout, config.session.rpc_timeout, config.session.reconnect_timeout) == (5, 300, 600)


@pytest.mark.parametrize(
    ("raw", "key", "says"),
    [
        ({"nodes": ["a"], "polcy": "x"}, "polcy", "did you mean policy?"),
        ({"nodes": ["a"], "session": {"opentimeout": 1}}, "session.opentimeout", "did you mean open_timeout?"),
        (
            {"nodes": [{"host": "a", "wieght": 2}]},
            "nodes[0].wieght",
            "allowed: host, port, weight, web, max_leases, metrics, exporter",
        ),
        ({"nodes": ["a"], "policy": "random"}, "policy", "'random' is not one of least_loaded, round_robin"),
        ({"nodes": ["a"], "session": {"auth_mechanism": "X"}}, "session.auth_mechanism", "NOSASL, PLAIN, LDAP, GSSAPI"),
        ({"nodes": ["a"], "port": "x"}, "port", "expected `int`, got `str` ('x')"),
        ({"nodes": ["a", "b:port"], "lock_file": LOCK}, "nodes[1]", "'b:port' is not host, host:port or [v6]:port"),
        ({"nodes": ["a:70000"]}, "nodes[0].port", "70000"),
        ({"nodes": [{"host": "a", "weight": 0}]}, "nodes[0].weight", "must be above 0"),
        ({"nodes": ["a", "a:21050"], "lock_file": LOCK}, "nodes", "a:21050 listed more than once"),
        ({"nodes": ["a"], "node_count": 2}, "node_count", "is 2, but nodes lists 1"),
        ({"nodes": ["a", "b"]}, "lock_file", "is missing"),
        ({"nodes": ["a", "b"]}, "lock_file", "or a shared store instead (store: redis://host)"),
        ({"nodes": ["a", "b"], "store": "redis://h", "name": "{x}"}, "name", "names keys in Redis"),
        ({"nodes": ["a", "b"], "store": "mysql://h"}, "store", "is not one of file, redis://"),
        ({"nodes": ["a"], "lock_file": "here.tmp"}, "lock_file", "absolute path"),
        ({"nodes": []}, "nodes", "at least one"),
        ({}, "nodes", "is missing"),
        ({"nodes": ["a"], "session": {"open_timeout": 0}}, "session.open_timeout", "above 0"),
    ],
)
def test_an_error_names_the_source_the_key_and_what_is_allowed(raw, key, says):
    with pytest.raises(ConfigError) as caught:
        parse(raw, source="impala_lb.yml")
    text = str(caught.value)
    assert text.startswith(f"impala_lb.yml: {key}"), text
    assert says in text


def test_a_value_that_may_hold_a_secret_is_not_shown():
    with pytest.raises(ConfigError) as caught:
        parse({"nodes": ["a"], "store": "redis://:s3cret@host/x"})
    assert "s3cret" not in str(caught.value)
    with pytest.raises(ConfigError) as caught:
        parse({"nodes": ["a"], "password": "s3cret"})
    assert "password: unknown key" in str(caught.value)
    assert "s3cret" not in str(caught.value)


def test_a_file_that_is_not_there_or_not_yaml_is_named(tmp_path):
    with pytest.raises(ConfigError, match=r"nowhere\.yml: cannot be read: No such file"):
        load(tmp_path / "nowhere.yml")
    (tmp_path / "bad.yml").write_text("nodes: [a\n")
    with pytest.raises(ConfigError, match=r"bad\.yml: is not YAML"):
        load(tmp_path / "bad.yml")
    (tmp_path / "list.yml").write_text("- a\n")
    with pytest.raises(ConfigError, match=r"list\.yml: must be a mapping"):
        load(tmp_path / "list.yml")


@pytest.mark.parametrize(
    ("text", "expected"),
    [("h", ("h", 21050)), (" h:1 ", ("h", 1)), ("[::1]:5", ("::1", 5)), ("[fe80::1]", ("fe80::1", 21050))],
)
def test_addresses(text, expected):
    assert parse_address(text) == expected


@pytest.mark.parametrize("text", ["", "a b", "a:b", "http://a", "a,b", "::1", "user@h"])
def test_not_addresses(text):
    with pytest.raises(ValueError, match="is not host"):
        parse_address(text)


def test_a_shared_store_needs_no_lock_file():
    config = parse({"nodes": ["a", "b"], "store": "redis://h"})
    assert (config.lock_file, str(config.store)) == (None, "redis://h:6379/0")
