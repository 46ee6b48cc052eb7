"""Redis as it is run: behind sentinels, as a cluster, with TLS."""

import subprocess
import time

import pytest

from airflow_provider_impala_lb import Balancer
from airflow_provider_impala_lb.errors import ConfigError, StateUnavailable
from airflow_provider_impala_lb.stores.redis import client as redis_client
from tests.support.servers import eventually, make_cluster


def balancer_of(url, **options):
    return Balancer.from_config({"name": "wh", "nodes": ["a", "b", "c"], "store": url, **options})


def unreachable(url):
    balancer = balancer_of(url)
    balancer.cluster.store._client.deadline = redis_client.TIMEOUT + 0.1
    with pytest.raises(StateUnavailable) as caught:
        balancer.status()
    return str(caught.value)


@pytest.mark.parametrize("how", ["killed", "stopped"])
def test_a_failover_holds_nobody_up_longer_than_the_deadline(watched, how):
    url, primary, replica, sentinels = watched
    sentinels[0].kill()  # and one sentinel is away: two are enough
    balancer = balancer_of(url)
    for _ in range(30):
        balancer.get_host()
    primary.kill() if how == "killed" else primary.pause()
    slowest = 0.0
    until = time.monotonic() + 30
    while True:
        start = time.monotonic()
        why = balancer.pick().why  # within the deadline by the new primary, or else by the last copy, and it says so
        slowest = max(slowest, time.monotonic() - start)
        if "out of reach" not in why and "role:master" in replica.cli("INFO", "replication"):
            break
        assert time.monotonic() < until
    assert slowest < 7.5
    assert sum(node["picks"] for node in balancer.status()["nodes"]) >= 1  # may have gone back a little
    start = time.monotonic()
    balancer.get_host()
    assert time.monotonic() - start < 1


def test_a_primary_that_is_demoted_is_left_for_the_new_one(watched):
    url, primary, replica, sentinels = watched
    balancer = balancer_of(url)
    balancer.get_host()
    sentinels[0].cli("SENTINEL", "FAILOVER", "main")
    eventually(lambda: "role:master" in replica.cli("INFO", "replication"), 20)
    primary.cli("REPLICAOF", "127.0.0.1", replica.port)  # as the sentinels do some seconds later
    assert "out of reach" not in balancer.pick().why


def test_sentinels_may_want_a_password_of_their_own(start_redis, tmp_path, monkeypatch):
    primary = start_redis(tmp_path)
    options = {"sentinel monitor main": f"127.0.0.1 {primary.port} 1", "requirepass": "s3cret"}
    sentinel = start_redis(tmp_path, sentinel=True, **options)
    url = f"redis+sentinel://127.0.0.1:{sentinel.port}/main"
    assert "No master found for 'main'" in unreachable(url)
    monkeypatch.setenv("IMPALA_LB_SENTINEL_PASSWORD", "s3cret")
    assert balancer_of(url).get_host()


def test_an_unknown_service_is_named(start_redis, tmp_path):
    sentinel = start_redis(tmp_path, sentinel=True)
    assert "No master found for 'other'" in unreachable(f"redis+sentinel://127.0.0.1:{sentinel.port}/other")


@pytest.fixture
def cluster(start_redis, tmp_path):
    return make_cluster(start_redis, tmp_path)


def test_a_cluster_keeps_all_keys_of_ours_in_one_slot(cluster):
    balancer = balancer_of(f"redis+cluster://127.0.0.1:{cluster[1].port}", policy="round_robin")
    assert [balancer.get_host() for _ in range(6)] == [f"{node}:21050" for node in "abcabc"]
    keys = [node.cli("KEYS", "*").split() for node in cluster]
    holder = next(index for index, found in enumerate(keys) if found)
    assert [bool(found) for found in keys].count(True) == 1
    assert len({cluster[holder].cli("CLUSTER", "KEYSLOT", key) for key in keys[holder]}) == 1
    cluster[holder].pause()
    start = time.monotonic()
    try:
        assert "out of reach" in balancer.pick().why
        assert time.monotonic() - start < 10
    finally:
        cluster[holder].go_on()
    eventually(lambda: "out of reach" not in balancer.pick().why, 20)


def test_a_slot_that_moves_is_followed(cluster):
    balancer = balancer_of(f"redis+cluster://127.0.0.1:{cluster[1].port}", policy="round_robin")
    balancer.get_host()
    holder = next(node for node in cluster if node.cli("KEYS", "*"))
    other = next(node for node in cluster if node is not holder)
    slot = holder.cli("CLUSTER", "KEYSLOT", "{wh}:state")
    ids = {node: node.cli("CLUSTER", "MYID") for node in (holder, other)}
    other.cli("CLUSTER", "SETSLOT", slot, "IMPORTING", ids[holder])
    holder.cli("CLUSTER", "SETSLOT", slot, "MIGRATING", ids[other])
    keys = holder.cli("KEYS", "*").split()
    holder.cli("MIGRATE", "127.0.0.1", other.port, "", 0, 5000, "KEYS", *keys)
    for node in (other, holder):
        node.cli("CLUSTER", "SETSLOT", slot, "NODE", ids[other])
    assert [balancer.get_host() for _ in range(3)] == [f"{node}:21050" for node in "bca"]


def test_a_server_that_is_no_cluster_is_an_error_of_the_configuration(redis):
    with pytest.raises(ConfigError, match="does not have what the URL says"):
        balancer_of(redis.url.replace("redis:", "redis+cluster:")).get_host()
    with pytest.raises(ConfigError, match="does not have what the URL says"):
        balancer_of(redis.url + "/99").get_host()


def test_tls(start_redis, tmp_path):
    key, certificate = tmp_path / "key.pem", tmp_path / "cert.pem"
    command = "req -x509 -newkey rsa:2048 -nodes -days 2 -subj /CN=localhost -addext subjectAltName=IP:127.0.0.1"
    subprocess.run(
        ["openssl", *command.split(), "-keyout", str(key), "-out", str(certificate)], check=True, capture_output=True
    )
    server = start_redis(
        tmp_path,
        tls_port="here",
        tls_cert_file=certificate,
        tls_key_file=key,
        tls_ca_cert_file=certificate,
        tls_auth_clients="no",
    )
    url = f"rediss://127.0.0.1:{server.port}"
    assert "out of reach" not in balancer_of(f"{url}?ssl_ca_certs={certificate}").pick().why
    assert "certificate verify failed" in unreachable(url)
    for option in ("ssl_ca_certs", "ssl_certfile"):
        with pytest.raises(ConfigError, match=rf"{option}: /nosuch\.pem: No such file or directory \(on this host"):
            balancer_of(f"{url}?{option}=/nosuch.pem").get_host()
    with pytest.raises(ConfigError, match="ssl_ca_certs: .*key.pem: holds no certificate in PEM form"):
        balancer_of(f"{url}?ssl_ca_certs={key}").get_host()
