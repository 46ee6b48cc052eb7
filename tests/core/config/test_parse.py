import re
import traceback
from math import inf, nan

import pytest

from airflow_provider_impala_lb import Balancer
from airflow_provider_impala_lb.core.config.address import parse_address
from airflow_provider_impala_lb.core.config.model import LoadConfig, Node
from airflow_provider_impala_lb.core.config.parse import load, parse
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
        ({"nodes": ["a:70000"]}, "nodes[0]", "port 70000 is not between 1 and 65535"),
        ({"nodes": [{"host": "a", "port": 70000}]}, "nodes[0].port", "70000"),
        ({"nodes": [{"host": "a", "port": 0}]}, "nodes[0].port", "0 is not between 1 and 65535"),
        ({"nodes": ["a:0"]}, "nodes[0]", "port 0 is not between 1 and 65535"),
        ({"nodes": ["a"], "port": 0}, "port", "0 is not between 1 and 65535"),
        ({"nodes": ["a"], "port": -1}, "port", "-1 is not between"),
        ({"nodes": [{"host": "a:1", "port": 2}]}, "nodes[0].port", "is 2, and host has one, too (1)"),
        ({"nodes": ["etl:s3cret@a"]}, "nodes[0]", "(value not shown) is not host, host:port"),
        ({"nodes": ["a"], "name": ""}, "name", "is empty"),
        ({"nodes": ["a"], "name": " "}, "name", "is empty"),
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
        ({"nodes": ["a"], "session": {"open_timeout": 0}}, "session.open_timeout", "is 0, must be 0.5 or more"),
        ({"nodes": ["a"], "load": "on"}, "load", "must be auto, off, or a mapping of its keys (value not shown)"),
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


@pytest.mark.parametrize("value", [nan, inf, -inf, -1.0, 1e12, 1e308])
@pytest.mark.parametrize(
    "key", ["max_wait", "session.open_timeout", "session.rpc_timeout", "session.reconnect_timeout", "load.refresh"]
)
def test_a_time_that_cannot_be_meant(key, value):
    section, _, name = key.rpartition(".")
    raw = {"nodes": ["a"], section: {name: value}} if section else {"nodes": ["a"], name: value}
    with pytest.raises(
        ConfigError, match=rf"^config: {key}: is {re.escape(f'{value:g}')}, must be .* and at most \d+ seconds \(\w+"
    ):
        parse(raw)


@pytest.mark.parametrize("seconds", [nan, inf, -1.0, 0.0, 1e308])
def test_a_lease_is_not_held_for_ever(seconds, tmp_path):
    balancer = Balancer.from_config({"nodes": ["a"], "lock_file": str(tmp_path / "lock")})
    with pytest.raises(
        ConfigError, match=rf"hold: is {re.escape(f'{seconds:g}')}, must be above 0 and at most 2592000 seconds"
    ):
        balancer.hold(seconds)
    assert balancer.status()["leases"] == []


@pytest.mark.parametrize(
    "spellings",
    [
        ("impala-1", "Impala-1", "IMPALA-1.", "impala-1:21050", {"host": "Impala-1", "port": 21050}),
        ("[::1]", "[0:0::1]", "[0:0:0:0:0:0:0:1]:21050", "[::0001]"),
        ("[fd00::a]", "[FD00::A]", "[fd00:0::000a]:21050"),
        ("127.0.0.1", "127.0.0.1:21050", "[::ffff:127.0.0.1]", "[::FFFF:7f00:1]"),
    ],
)
def test_one_node_has_one_spelling(spellings, tmp_path):
    """In the list, and wherever a node is named: by operators of the cluster, by XCom, in stick_to."""
    lock = str(tmp_path / "lock")
    for spelling in spellings[1:]:
        with pytest.raises(ConfigError, match="listed more than once"):
            parse({"nodes": [spellings[0], spelling], "lock_file": lock})
    balancers = [Balancer.from_config({"nodes": [spelling, "other"], "lock_file": lock}) for spelling in spellings]
    assert len({balancer.config.addresses for balancer in balancers}) == 1
    named = [spelling for spelling in spellings if isinstance(spelling, str)]
    assert {balancers[0].config.canonical(spelling) for spelling in named} == {balancers[0].config.addresses[0]}
    balancers[0].drain(named[1])
    assert {balancers[-1].get_host() for _ in range(4)} == {"other:21050"}
    assert [node["state"] for node in balancers[0].status()["nodes"]] == ["drain", "ready"]
    balancers[0].ready(named[-1])
    assert balancers[0].acquire(prefer=named[-1]).node == balancers[0].config.addresses[0]


@pytest.mark.parametrize(
    "text", ["127.1", "0x7f000001", "010.0.0.1", "10.0.0.256", "2130706433", "[:::]", "..", "[1.2.3.4]"]
)
def test_an_address_that_has_several_spellings_or_is_none_is_refused(text):
    with pytest.raises(ConfigError, match=r"is neither a name nor an address like 10\.0\.0\.11 or \[fd00::11\]"):
        parse({"nodes": [text]})


def test_an_empty_section_is_one_with_its_defaults(tmp_path):
    path = tmp_path / "c.yml"
    path.write_text("nodes: [a]\nsession:\nload:\n")
    assert load(path) == parse({"nodes": ["a"], "session": {}, "load": {}})
    assert load(path).load is not None
    for off in ("off", "false", '"off"'):
        path.write_text(f"nodes: [a]\nload: {off}\n")
        assert load(path).load is None
    assert parse({"nodes": ["a"], "load": "false"}, from_text=True).load is None  # a connection's URI
    for auto in (parse({"nodes": ["a"]}), parse({"nodes": ["a"], "load": "auto"})):
        assert (auto.load, auto.load_is_auto) == (LoadConfig(), True)
    assert not load(path).load_is_auto and not parse({"nodes": ["a"], "load": {}}).load_is_auto


@pytest.mark.parametrize(
    ("text", "says"),
    [
        ("nodes: [a]\nmax_leases: 1\nname: x\nmax_leases: 9\n", "line 4: max_leases is there already, in line 2"),
        ("nodes: [a]\nsession: {user: x, user: y}\n", "line 2: user is there already, in line 2"),
        ("nodes:\n  - {host: a,\n     host: b}\n", "line 3: host is there already, in line 2"),
        ("nodes: [a]\nmax_leases: 010\n", "line 2: 010 is another number in YAML than it looks; write it without"),
        ("nodes: [a]\nmax_wait: 1:30\n", "line 2: 1:30 is another number in YAML than it looks"),
        ("nodes: [a]\nmax_wait: 1:30.5\n", "line 2: 1:30.5 is another number in YAML than it looks"),
    ],
)
def test_what_can_be_read_in_two_ways_is_refused_with_its_line(tmp_path, text, says):
    path = tmp_path / "c.yml"
    path.write_text(text)
    with pytest.raises(ConfigError) as caught:
        load(path)
    assert str(caught.value).startswith(f"{path}: {says}")


def test_numbers_and_merges_that_are_clear(tmp_path):
    path = tmp_path / "c.yml"
    path.write_text(
        "nodes:\n  - &first {host: a, port: 21051}\n  - {<<: *first, host: b}\nmax_leases: 1_0\nmax_wait: 0\n"
        "lock_file: /l\nsession: {rpc_timeout: 1.5e+2, open_timeout: 0.5}\n"
    )
    config = load(path)
    assert (config.addresses, config.max_leases, config.session.rpc_timeout) == (("a:21051", "b:21051"), 10, 150.0)


@pytest.mark.parametrize(
    "line",
    [
        'store: "redis://u:{}@h',
        "store: 'redis://u:{}@h'x",
        "store: [redis://u:{}@h",
        "store: redis://u:{}@h: x",
        "store: *{}",
        "store: !{} x",
        "store: !{}!x y",
        "store: !{}'y x",
        "store: !!python/object:{} x",
        "\tstore: {}",
        "store: &{}",
        "? {{store: {}}}\n: x",
        "store: {}\x07",
        "password: {}\npassword: {}",
        "store: %{}",
        "store: @{}",
        "store: `{}",
    ],
)
def test_no_error_about_a_file_shows_what_is_in_it(tmp_path, line):
    path = tmp_path / "secret.yml"
    path.write_text("name: x\n" + line.format("s3cret", "s3cret") + "\nnodes: [a]\n")
    with pytest.raises(ConfigError) as caught:
        load(path)
    told = "".join(traceback.format_exception(caught.value)) + str(caught.value.__context__)
    told += str(caught.value.__cause__)
    assert "s3cret" not in told, told
    assert str(path) in str(caught.value)


def test_a_syntax_error_names_its_place(tmp_path):
    path = tmp_path / "bad.yml"
    path.write_text("name: x\nnodes: [a\nstore: file\n")
    with pytest.raises(
        ConfigError, match=r"bad\.yml: is not YAML: line 3, column 6: expected ',' or '\]', but got ':'"
    ):
        load(path)
    path.write_bytes(b"name: x\nnodes: [\xe4]\n")
    with pytest.raises(ConfigError, match=r"bad\.yml: line 2: is not UTF-8"):
        load(path)


def test_a_shared_store_needs_no_lock_file():
    config = parse({"nodes": ["a", "b"], "store": "redis://h"})
    assert (config.lock_file, str(config.store)) == (None, "redis://h:6379/0")
