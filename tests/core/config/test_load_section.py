import pytest

from airflow_provider_impala_lb.core.config.model import Node
from airflow_provider_impala_lb.core.config.parse import parse
from airflow_provider_impala_lb.errors import ConfigError


def load_of(**keys):
    return parse({"nodes": ["a"], "load": keys}).load


@pytest.mark.parametrize("load", [parse({"nodes": ["a"]}).load, parse({"nodes": ["a"], "load": {}}).load])
def test_the_documented_defaults_hold(load):
    assert (load.floor, load.busy, load.overloaded, load.refresh) == (0.10, 0.20, 0.10, 10.0)
    assert (load.web_auth, load.web_user, load.ca_cert, load.verify_cert) == ("none", None, None, True)
    everything = ("cpu", "memory", "disk", "processes", "connections", "admission")
    assert load.weights == {**dict.fromkeys(everything, 1.0), "heap": 0.0}


def test_a_mapping_changes_only_what_it_names():
    load = load_of(weights={"cpu": 3, "heap": 1, "gpu": 2}, floor={"memory": 0.3})
    assert [load.weight_of(name) for name in ("cpu", "memory", "heap", "gpu", "never_heard_of")] == [3, 1, 1, 2, 0]
    assert [load.floor_of(name) for name in ("memory", "cpu", "heap")] == [0.3, 0.1, 0.0]
    load = load_of(floor=0.25)
    assert [load.floor_of(name) for name in ("memory", "cpu", "heap")] == [0.25, 0.25, 0.0]
    assert load_of(floor={"heap": 0.05}).floor_of("heap") == 0.05
    assert load_of().weights == load_of(weights={}).weights


def test_a_node_says_where_its_load_is_told():
    entry = {
        "host": "a",
        "web": "http://a:25000",
        "metrics": "http://a:25010/",
        "exporter": "http://[::1]:9100/metrics",
    }
    (node,) = parse({"nodes": [entry]}).nodes
    assert node == Node("a", web="http://a:25000", metrics="http://a:25010/", exporter="http://[::1]:9100/metrics")


@pytest.mark.parametrize(
    ("load", "key", "says"),
    [
        ({"busy": 0.1}, "load.overloaded", "is 0.1, must be 0 or more, and below load.busy (0.1)"),
        ({"overloaded": 0.3}, "load.overloaded", "is 0.3"),
        ({"overloaded": -0.1}, "load.overloaded", "is -0.1"),
        ({"busy": 1}, "load.busy", "is 1.0, must be above 0 and below 1"),
        ({"busy": float("nan")}, "load.busy", "is nan"),
        ({"floor": 1.5}, "load.floor", "is 1.5, must be a share within 0 and 1"),
        ({"floor": {"cpu": -1}}, "load.floor.cpu", "is -1"),
        ({"floor": {"C P U": 0.1}}, "load.floor", "'C P U' is not the name of a resource"),
        ({"floor": "low"}, "load.floor", "'low'"),
        ({"weights": {"cpu": -1}}, "load.weights.cpu", "is -1.0, must be within 0 and 1e6"),
        ({"weights": {"cpu": float("inf")}}, "load.weights.cpu", "is inf"),
        ({"weights": {"cpu": "much"}}, "load.weights", "much"),
        (
            {"weights": dict.fromkeys(["cpu", "memory", "disk", "processes", "connections", "admission"], 0)},
            "load.weights",
            "all 0",
        ),
        ({"refresh": 0.5}, "load.refresh", "is 0.5, must be 1 or more and at most 3600 seconds"),
        ({"refresh": float("inf")}, "load.refresh", "is inf"),
        ({"web_auth": "kerberos"}, "load.web_auth", "'kerberos' is not one of none, digest, basic, bearer"),
        ({"web_auth": "digest"}, "load.web_user", "is missing; load.web_auth digest needs a login"),
        ({"web_auth": "basic", "web_user": ""}, "load.web_user", "is missing"),
        ({"bussy": 0.3}, "load.bussy", "did you mean busy?"),
    ],
)
def test_an_error_names_the_source_the_key_the_value_and_what_is_allowed(load, key, says):
    with pytest.raises(ConfigError) as caught:
        parse({"nodes": ["a"], "load": load}, source="impala_lb.yml")
    text = str(caught.value)
    assert text.startswith(f"impala_lb.yml: {key}"), text
    assert says in text


@pytest.mark.parametrize(
    "url",
    ["impala-13:25000", "ftp://a", "http://", "http:///x", "http://a:port", "http://a:0", "http://a?x=1", "", "/x"],
)
@pytest.mark.parametrize("key", ["web", "metrics", "exporter"])
def test_what_is_no_url_is_refused(url, key):
    with pytest.raises(ConfigError, match=rf"nodes\[0\]\.{key}: .* is not a URL like http://host:25000"):
        parse({"nodes": [{"host": "a", key: url}]})


@pytest.mark.parametrize(
    "url", ["http://ann:s3cret@a:25000", "https://s3cret@a", "http://a:s3cret@b:c:d", "ann:s3cret@a", "http://[s3cret@"]
)
def test_a_login_in_a_url_is_refused_and_not_shown(url):
    with pytest.raises(ConfigError, match="nodes\\[0\\].web: .value not shown.") as caught:
        parse({"nodes": [{"host": "a", "web": url}]})
    assert "s3cret" not in str(caught.value)


@pytest.mark.parametrize("auth", ["basic", "bearer"])
def test_a_secret_is_not_sent_in_clear_text(auth):
    load = {"web_auth": auth, "web_user": "ann"}
    with pytest.raises(ConfigError, match=rf"nodes\[1\]\.web: 'http://b:25000' with load\.web_auth {auth} .* https://"):
        parse(
            {
                "lock_file": "/nas/x",
                "nodes": [{"host": "a", "web": "https://a"}, {"host": "b", "web": "http://b:25000"}],
                "load": load,
            }
        )
    # Neither digest, which sends a hash, nor what asks for no login, nor this machine itself.
    parse({"nodes": [{"host": "a", "web": "http://a:25000"}], "load": {**load, "web_auth": "digest"}})
    parse({"nodes": [{"host": "a", "metrics": "http://a", "exporter": "http://a", "web": "https://a"}], "load": load})
    for loopback in ("http://127.0.0.1:1", "http://127.9.9.9", "http://[::1]:1", "http://localhost"):
        parse({"nodes": [{"host": "a", "web": loopback}], "load": load})
