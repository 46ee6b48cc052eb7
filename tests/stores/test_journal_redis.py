"""What a Redis does to journals: answers lost, servers killed, restarted, emptied, followed by others."""

import threading
import time
from contextlib import suppress

import pytest

from airflow_provider_impala_lb.core.store_url import parse_store
from airflow_provider_impala_lb.errors import ConfigError, JournalDamaged, StateUnavailable
from airflow_provider_impala_lb.stores import redis_client, redis_server
from airflow_provider_impala_lb.stores.envelope import name_of
from airflow_provider_impala_lb.stores.journal_redis import RedisJournals
from tests.stores.servers import eventually
from tests.stores.test_journals import bump, put
from tests.stores.test_redis_faults import (  # noqa: F401
    closes,
    delivers_late,
    loses_the_request,
    once,
    relay,
    stays_silent,
)
from tests.stores.test_redis_topologies import watched  # noqa: F401

KEY = "dag/task/run"
HASH = "{wh}:journal:" + name_of(KEY)


def journals_of(server, deadline=5.0):
    return RedisJournals(parse_store(getattr(server, "url", server)), "wh", deadline=deadline)


@pytest.mark.parametrize("fault", [closes, stays_silent, loses_the_request, delivers_late])
def test_a_commit_whose_answer_is_lost_is_applied_once(redis, relay, fault):  # noqa: F811
    journals = journals_of(relay)
    assert journals.change(KEY, bump) == 1
    relay.fault = once(fault)
    assert journals.change(KEY, bump) == 2
    assert relay.commits == 3
    for request, server in relay.kept:
        server.sendall(request)
        assert server.recv(100) == b":1\r\n"  # applied, it says; by the second sending
    assert journals_of(redis).read(KEY) == b"2"
    assert journals.change(KEY, bump) == 3


@pytest.mark.parametrize("meanwhile", ["changed", "removed"])
def test_a_commit_lost_for_good_arrives_late_and_changes_nothing(redis, relay, meanwhile):  # noqa: F811
    journals = journals_of(relay, deadline=0.4)
    others = journals_of(redis)
    if meanwhile == "changed":
        journals.change(KEY, bump)
    relay.fault = delivers_late
    with pytest.raises(StateUnavailable, match="outcome unknown"):
        journals.change(KEY, bump)
    others.change(KEY, put(b"10"))
    if meanwhile == "removed":
        others.change(KEY, put(None))
    for request, server in relay.kept:
        server.sendall(request)
        assert server.recv(100) == b":0\r\n"
    assert others.read(KEY) == (b"10" if meanwhile == "changed" else None)


def test_an_outcome_that_cannot_be_known_in_time_is_said_to_be_unknown(redis, relay):  # noqa: F811
    journals = journals_of(relay, deadline=1.0)
    journals.change(KEY, bump)
    relay.fault = closes
    with pytest.raises(StateUnavailable, match=r"127\.0\.0\.1.*tried for 0\.\d s.*outcome unknown"):
        journals.change(KEY, bump)
    assert relay.commits > 3
    assert journals_of(redis).read(KEY) == b"2"


def test_a_server_that_is_away_is_named_and_nothing_was_changed(start_redis, tmp_path):
    server = start_redis(tmp_path)
    journals = journals_of(server, deadline=redis_client.TIMEOUT + 0.5)
    server.kill()
    for action in (
        lambda: journals.change(KEY, bump),
        lambda: journals.read(KEY),
        journals.keys,
        lambda: journals.sweep(lambda *found: False),
        journals.durability,
    ):
        with pytest.raises(StateUnavailable, match=rf"redis://127\.0\.0\.1:{server.port}/0 .*refused") as caught:
            action()
        assert "outcome unknown" not in str(caught.value)


def test_a_killed_server_that_syncs_each_write_has_all_that_was_acknowledged(start_redis, tmp_path):
    server = start_redis(tmp_path, appendonly="yes", appendfsync="always")
    journals = journals_of(server)
    assert journals.durability() is None
    known, ended = [0] * 4, threading.Event()

    def work(slot):
        while not ended.is_set():
            with suppress(StateUnavailable):
                known[slot] = journals.change(f"key {slot}", bump)

    threads = [threading.Thread(target=work, args=(slot,)) for slot in range(4)]
    for thread in threads:
        thread.start()
    for _ in range(4):
        before = list(known)
        eventually(lambda before=before: all(now > then + 3 for now, then in zip(known, before, strict=True)), 30)
        server.kill()
        server.start()
    ended.set()
    for thread in threads:
        thread.join()
    assert [int(journals.read(f"key {slot}")) for slot in range(4)] == known


def test_a_server_started_again_from_a_snapshot_has_old_ones_that_are_not_trusted(start_redis, tmp_path):
    server = start_redis(tmp_path, save='""')
    journals = journals_of(server)
    for key in ("old", "removed later"):
        journals.change(key, bump)
    server.cli("SAVE")
    journals.change("old", bump)  # statement 2 is sent
    journals.change("new", bump)
    server.kill()
    server.start()
    for action in (lambda: journals.change("old", bump), lambda: journals.read("old")):
        with pytest.raises(
            JournalDamaged, match="was started again since it was written, and kept no append-only file"
        ):
            action()
    assert journals.read("new") is None
    assert journals.keys() == []
    assert len(journals.sweep(lambda *found: False).damaged) == 2
    assert journals.change("new", bump) == 1
    assert "keeps no append-only file (appendonly no)" in journals.durability()


def test_a_server_that_was_emptied_has_none(redis):
    journals = journals_of(redis)
    journals.change(KEY, bump)
    redis.cli("FLUSHALL")
    assert journals.read(KEY) is None
    assert journals.change(KEY, bump) == 1


def test_what_is_removed_leaves_nothing_for_ever(redis):
    journals = journals_of(redis)
    journals.change(KEY, bump)
    assert redis.cli("TTL", HASH) == "-1"
    journals.change(KEY, put(None))
    assert 86_000 < int(redis.cli("TTL", HASH)) <= 86_400
    journals.change(KEY, bump)
    assert redis.cli("TTL", HASH) == "-1"


def test_only_the_journals_of_this_cluster_are_found(redis):
    names = ["w*", "w[h]", "wh", "w?", "w\\h", "w-h"]
    for name in names:
        RedisJournals(parse_store(redis.url), name).change(name, put(b"x"))
    for name in names:
        journals = RedisJournals(parse_store(redis.url), name)
        assert journals.keys() == [name]
        assert journals.sweep(lambda *found: False) == (1, [])


def test_a_damaged_one_is_an_error_and_stays(redis):
    journals = journals_of(redis)
    journals.change(KEY, put(b"document"))
    document = redis.cli("HGET", HASH, "document")
    redis.cli("HSET", HASH, "document", document.replace("document", "Document"))
    for action in (lambda: journals.change(KEY, put(b"x")), lambda: journals.read(KEY)):
        with pytest.raises(JournalDamaged, match=rf"{HASH}: this journal cannot be trusted: its checksum is wrong"):
            action()
    swept = journals.sweep(lambda *found: False)
    assert (swept.removed, len(swept.damaged)) == (0, 1)
    assert redis.cli("EXISTS", HASH) == "1"
    redis.cli("SET", HASH, "something else")
    with pytest.raises(ConfigError, match="its keys hold something else"):
        journals.change(KEY, put(b"x"))


def test_what_a_user_must_be_allowed(redis):
    commands = RedisJournals.COMMANDS.lower().split(", ")
    allowed = " ".join(f"+{command}" for command in commands)
    redis.cli("ACL", "SETUSER", "journal", "on", ">pw", "~{wh}:*", "-@all", *allowed.split())
    url = redis.url.replace("redis://", "redis://journal:pw@")
    try:
        journals = journals_of(url)
        assert journals.change(KEY, bump) == 1
        assert journals.sweep(lambda *found: True) == (0, [])
        redis.cli("CONFIG", "SET", "appendonly", "yes")
        assert "appendfsync unknown: CONFIG is not permitted" in journals.durability()
        redis.cli("CONFIG", "SET", "maxmemory-policy", "allkeys-lru")
        assert "removes journals when its memory is full (maxmemory-policy allkeys-lru)" in journals.durability()
        for command in ("info", "hset", "eval"):
            redis.cli("ACL", "SETUSER", "journal", f"-{command}")
            with pytest.raises(ConfigError, match=r"the user may not do what is needed: EVAL, .* INFO, WAIT"):
                journals.change(KEY, bump)
            redis.cli("ACL", "SETUSER", "journal", f"+{command}")
    finally:
        redis.cli("ACL", "DELUSER", "journal")
        redis.cli("CONFIG", "SET", "appendonly", "no")
        redis.cli("CONFIG", "SET", "maxmemory-policy", "noeviction")


@pytest.fixture
def pair(start_redis, tmp_path, monkeypatch):
    """A primary and a replica, both started long ago."""
    monkeypatch.setattr(redis_server, "CLOCKS_DIFFER", -1.5)
    primary = start_redis(tmp_path)
    replica = start_redis(tmp_path)
    return primary, replica


def follow(replica, primary):
    replica.cli("REPLICAOF", "127.0.0.1", primary.port)
    eventually(lambda: "master_link_status:up" in replica.cli("INFO", "replication"))
    eventually(lambda: "state=online" in primary.cli("INFO", "replication"))


def test_what_is_acknowledged_is_at_the_replica(pair):
    primary, replica = pair
    follow(replica, primary)
    journals = journals_of(primary)
    for number in range(1, 30):
        assert journals.change(KEY, bump) == number
        assert replica.cli("HGET", HASH, "document").endswith(f"run{number}")


def test_a_replica_that_is_silent_is_an_unknown_outcome_and_what_it_has_is_the_newest(pair, monkeypatch):
    monkeypatch.setattr(redis_client, "TIMEOUT", 0.4)
    primary, replica = pair
    follow(replica, primary)
    journals = journals_of(primary, deadline=2.0)
    assert journals.change(KEY, bump) == 1
    replica.pause()
    try:
        with pytest.raises(StateUnavailable, match=r"0 of 1 replicas have confirmed it; outcome unknown"):
            journals.change(KEY, bump)
    finally:
        replica.kill()
    eventually(lambda: "connected_slaves:0" in primary.cli("INFO", "replication"))
    # Nor without it: it may come back and take over.
    with pytest.raises(StateUnavailable, match=r"0 of 1 replicas have confirmed it; outcome unknown"):
        journals.change(KEY, bump)
    assert journals.change("begun without a replica", bump) == 1
    replica.start()
    follow(replica, primary)
    assert journals.change(KEY, bump) in (3, 4)


def test_a_replica_that_takes_over_has_the_newest(pair):
    primary, replica = pair
    follow(replica, primary)
    journals_of(primary).change(KEY, bump)
    primary.kill()
    replica.cli("REPLICAOF", "NO", "ONE")
    assert journals_of(replica).read(KEY) == b"1"
    assert journals_of(replica).change(KEY, bump) == 2


def test_a_replica_cut_off_between_two_commits_is_not_trusted(pair):
    primary, replica = pair
    journals = journals_of(primary)
    journals.change(KEY, bump)
    follow(replica, primary)
    replica.cli("REPLICAOF", "NO", "ONE")  # as by a partition, and then elected
    eventually(lambda: "connected_slaves:0" in primary.cli("INFO", "replication"))
    assert journals.change(KEY, bump) == 2
    assert replica.cli("HGET", HASH, "document").endswith("run1")  # the old one
    for action in (lambda: journals_of(replica).change(KEY, bump), lambda: journals_of(replica).read(KEY)):
        with pytest.raises(JournalDamaged, match="another Redis server has taken over since it was written"):
            action()


def test_a_primary_restarted_from_a_snapshot_is_no_replica_that_takes_over(pair, monkeypatch):
    """It names its old history as the one before, as such a replica does."""
    primary, replica = pair
    follow(replica, primary)
    journals = journals_of(primary)
    journals.change(KEY, bump)
    primary.cli("SAVE")
    journals.change(KEY, bump)
    time.sleep(3)  # what is between the write and the start has to exceed what clocks may differ by
    primary.kill()
    primary.start()
    with pytest.raises(JournalDamaged, match="was started again since it was written"):
        journals.read(KEY)


def test_failovers_lose_nothing_that_was_acknowledged(watched, monkeypatch):  # noqa: F811
    monkeypatch.setattr(redis_server, "CLOCKS_DIFFER", -1.5)
    url, primary, replica, _ = watched
    journals = journals_of(url)
    known, failed = 0, 0

    def work(until):
        nonlocal known, failed
        while time.monotonic() < until or not until:
            try:
                now = journals.change(KEY, bump)
                assert known < now <= known + failed + 1
                known, failed = now, 0
                if not until:
                    return
            except StateUnavailable as error:
                failed += "outcome unknown" in str(error)

    work(time.monotonic() + 1)
    primary.kill()
    work(0)  # until the other has taken over
    assert "role:master" in replica.cli("INFO", "replication")
    work(time.monotonic() + 1)
    assert known > 20


def test_failover_under_load_by_command(watched, monkeypatch):  # noqa: F811
    monkeypatch.setattr(redis_server, "CLOCKS_DIFFER", -1.5)
    url, primary, replica, sentinels = watched
    journals = journals_of(url)
    known, failed, ended = 0, 0, threading.Event()
    wrong = []

    def work():
        nonlocal known, failed
        while not ended.is_set():
            try:
                now = journals.change(KEY, bump)
                if not known < now <= known + failed + 1:
                    wrong.append((known, failed, now))
                known, failed = now, 0
            except StateUnavailable as error:
                failed += "outcome unknown" in str(error)
            except JournalDamaged as error:
                wrong.append(error)
                return

    thread = threading.Thread(target=work)
    thread.start()
    try:
        for new in (replica, primary):
            before = known
            eventually(lambda before=before: known > before + 50 or wrong, 30)
            eventually(lambda: sentinels[0].cli("SENTINEL", "FAILOVER", "main") == "OK", 30)
            eventually(lambda new=new: "role:master" in new.cli("INFO", "replication") or wrong, 30)
            before = known
            eventually(lambda before=before: known > before + 50 or wrong, 60)
    finally:
        ended.set()
        thread.join()
    assert wrong == []
