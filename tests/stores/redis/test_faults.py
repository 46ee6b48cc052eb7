"""What a Redis does to us: answers lost, a server stopped, killed, emptied."""

import random
import threading
import time
from contextlib import suppress

import pytest

from airflow_provider_impala_lb import Balancer
from airflow_provider_impala_lb.core.config.store_url import parse_store
from airflow_provider_impala_lb.errors import StateUnavailable
from airflow_provider_impala_lb.stores.redis import client as redis_client
from airflow_provider_impala_lb.stores.redis.store import RedisStore
from tests.support.redis_places import store_of
from tests.support.redis_relay import closes, delivers_late, loses_the_request, once, stays_silent
from tests.support.servers import eventually
from tests.support.store_changes import bump, count


@pytest.mark.parametrize("fault", [closes, stays_silent, loses_the_request, delivers_late])
def test_a_commit_whose_answer_is_lost_is_applied_once(redis, relay, fault):
    store = RedisStore(parse_store(relay.url), "wh")
    assert store.transact(bump) == 1
    relay.fault = once(fault)
    assert store.transact(bump) == 2
    assert relay.commits == 3
    for request, server in relay.kept:
        server.sendall(request)
        assert server.recv(100) == b":1\r\n"  # applied, it says; by the second sending
    assert count(store_of(redis)) == 2
    assert store.transact(bump) == 3


def test_a_commit_lost_for_good_arrives_late_and_changes_nothing(redis, relay):
    """Others moved on meanwhile: the late commit finds another id than the one it was made from."""
    store = RedisStore(parse_store(relay.url), "wh", deadline=0.4)
    store.transact(bump)
    relay.fault = delivers_late
    with pytest.raises(StateUnavailable, match="outcome unknown"):
        store.transact(bump)
    assert store_of(redis).transact(bump) == 2
    for request, server in relay.kept:
        server.sendall(request)
        assert server.recv(100) == b":0\r\n"
    assert count(store_of(redis)) == 2


def test_an_outcome_that_cannot_be_known_in_time_is_said_to_be_unknown(redis, relay):
    store = RedisStore(parse_store(relay.url), "wh", deadline=1.0)
    store.transact(bump)
    relay.fault = closes
    with pytest.raises(StateUnavailable, match=r"127\.0\.0\.1.*tried for 0\.\d s.*outcome unknown"):
        store.transact(bump)
    assert relay.commits > 3
    assert count(store_of(redis)) == 2  # executed each time, applied once


def test_a_primary_that_became_a_replica_is_left_for_the_one_its_address_means_now(redis, relay, start_redis, tmp_path):
    """As with a name in the DNS that a managed service moves: the old connection lives on, and says READONLY."""
    old = start_redis(tmp_path)
    relay.server_port = old.port
    store = RedisStore(parse_store(relay.url), "wh")
    store.transact(bump)
    old.cli("REPLICAOF", "127.0.0.1", redis.port)
    eventually(lambda: "master_link_status:up" in old.cli("INFO", "replication"))
    relay.server_port = redis.port
    assert store.transact(bump) == 1
    assert count(store_of(redis)) == 1


def test_a_stopped_server_is_no_hang_and_picks_go_on(redis, caplog):
    balancer = Balancer.from_config({"nodes": ["a", "b"], "store": redis.url})
    balancer.get_host()
    redis.pause()
    try:
        start = time.monotonic()
        assert "out of reach" in balancer.pick().why
        assert time.monotonic() - start < 5
    finally:
        redis.go_on()
    assert sum("Picking without the shared state" in record.message for record in caplog.records) == 1
    assert "out of reach" not in balancer.pick().why


def test_a_server_that_is_not_there_is_named_with_the_time_tried(start_redis, tmp_path):
    server = start_redis(tmp_path)
    store = RedisStore(parse_store(server.url), "wh", deadline=redis_client.TIMEOUT + 0.5)
    server.kill()
    start = time.monotonic()
    for action in (lambda: store.transact(bump), store.read):
        with pytest.raises(
            StateUnavailable, match=rf"redis://127\.0\.0\.1:{server.port}/0 .*tried for 0\.\d s.*refused"
        ):
            action()
    assert time.monotonic() - start < 3


def test_a_killed_server_that_syncs_each_write_comes_back_with_every_committed_pick(start_redis, tmp_path):
    server = start_redis(tmp_path, appendonly="yes", appendfsync="always")
    store = store_of(server)
    known, ended = 0, threading.Event()

    def pick():
        nonlocal known
        with suppress(StateUnavailable):
            while not ended.is_set():
                known = store.transact(bump)

    threads = [threading.Thread(target=pick) for _ in range(4)]
    for thread in threads:
        thread.start()
    rng = random.Random(1)
    for _ in range(3):
        time.sleep(rng.uniform(0.1, 0.3))
        server.kill()
        server.start()  # on the same port, while all of them try
    ended.set()
    for thread in threads:
        thread.join()
    assert known > 10
    assert known <= count(store) <= known + 4


def test_an_emptied_server_starts_anew_and_live_leases_come_back(redis):
    balancer = Balancer.from_config({"nodes": ["a", "b"], "store": redis.url, "policy": "least_loaded"})
    with balancer.acquire("script") as pick:
        redis.cli("FLUSHALL")
        assert balancer.status()["leases"] == []
        assert [lease.id for lease in balancer.cluster.leases.renew()] == [pick.lease]  # as its thread does every 30 s
        assert [lease["node"] for lease in balancer.status()["leases"]] == [pick.node]
        assert balancer.pick().node != pick.node
    assert balancer.status()["leases"] == []


def test_a_server_without_room_says_so(start_redis, tmp_path):
    server = start_redis(tmp_path)
    store = RedisStore(parse_store(server.url), "wh", deadline=redis_client.TIMEOUT + 0.3)
    store.transact(bump)

    def fills(state, now):
        server.cli("CONFIG", "SET", "maxmemory", "1")
        return bump(state, now)

    with pytest.raises(StateUnavailable, match="maxmemory") as caught:
        store.transact(fills)
    assert "outcome unknown" not in str(caught.value)  # it was refused
    server.cli("CONFIG", "SET", "maxmemory", "0")
    assert eventually(lambda: store.transact(bump)) == 2
