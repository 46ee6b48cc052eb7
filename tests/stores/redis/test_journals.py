"""What a Redis does to journals: answers lost, servers killed, restarted, emptied."""

import threading
from contextlib import suppress

import pytest

from airflow_provider_impala_lb.core.config.store_url import parse_store
from airflow_provider_impala_lb.errors import ConfigError, JournalDamaged, StateUnavailable
from airflow_provider_impala_lb.stores.redis import client as redis_client
from airflow_provider_impala_lb.stores.redis.journals import COMMANDS, RedisJournals
from tests.support.redis_places import HASH, journals_of
from tests.support.redis_relay import closes, delivers_late, loses_the_request, once, stays_silent
from tests.support.servers import eventually
from tests.support.store_changes import KEY, bump_document, put


@pytest.mark.parametrize("fault", [closes, stays_silent, loses_the_request, delivers_late])
def test_a_commit_whose_answer_is_lost_is_applied_once(redis, relay, fault):
    journals = journals_of(relay)
    assert journals.change(KEY, bump_document) == 1
    relay.fault = once(fault)
    assert journals.change(KEY, bump_document) == 2
    assert relay.commits == 3
    for request, server in relay.kept:
        server.sendall(request)
        assert server.recv(100) == b":1\r\n"  # applied, it says; by the second sending
    assert journals_of(redis).read(KEY) == b"2"
    assert journals.change(KEY, bump_document) == 3


@pytest.mark.parametrize("meanwhile", ["changed", "removed"])
def test_a_commit_lost_for_good_arrives_late_and_changes_nothing(redis, relay, meanwhile):
    journals = journals_of(relay, deadline=0.4)
    others = journals_of(redis)
    if meanwhile == "changed":
        journals.change(KEY, bump_document)
    relay.fault = delivers_late
    with pytest.raises(StateUnavailable, match="outcome unknown"):
        journals.change(KEY, bump_document)
    others.change(KEY, put(b"10"))
    if meanwhile == "removed":
        others.change(KEY, put(None))
    for request, server in relay.kept:
        server.sendall(request)
        assert server.recv(100) == b":0\r\n"
    assert others.read(KEY) == (b"10" if meanwhile == "changed" else None)


def test_an_outcome_that_cannot_be_known_in_time_is_said_to_be_unknown(redis, relay):
    journals = journals_of(relay, deadline=1.0)
    journals.change(KEY, bump_document)
    relay.fault = closes
    with pytest.raises(StateUnavailable, match=r"127\.0\.0\.1.*tried for 0\.\d s.*outcome unknown"):
        journals.change(KEY, bump_document)
    assert relay.commits > 3
    assert journals_of(redis).read(KEY) == b"2"


def test_a_server_that_is_away_is_named_and_nothing_was_changed(start_redis, tmp_path):
    server = start_redis(tmp_path)
    journals = journals_of(server, deadline=redis_client.TIMEOUT + 0.5)
    server.kill()
    for action in (
        lambda: journals.change(KEY, bump_document),
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
                known[slot] = journals.change(f"key {slot}", bump_document)

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
        journals.change(key, bump_document)
    server.cli("SAVE")
    journals.change("old", bump_document)  # statement 2 is sent
    journals.change("new", bump_document)
    server.kill()
    server.start()
    for action in (lambda: journals.change("old", bump_document), lambda: journals.read("old")):
        with pytest.raises(
            JournalDamaged, match="was started again since it was written, and kept no append-only file"
        ):
            action()
    assert journals.read("new") is None
    assert journals.keys() == []
    assert len(journals.sweep(lambda *found: False).damaged) == 2
    assert journals.change("new", bump_document) == 1
    assert "keeps no append-only file (appendonly no)" in journals.durability()


def test_a_server_that_was_emptied_has_none(redis):
    journals = journals_of(redis)
    journals.change(KEY, bump_document)
    redis.cli("FLUSHALL")
    assert journals.read(KEY) is None
    assert journals.change(KEY, bump_document) == 1


def test_what_is_removed_leaves_nothing_for_ever(redis):
    journals = journals_of(redis)
    journals.change(KEY, bump_document)
    assert redis.cli("TTL", HASH) == "-1"
    journals.change(KEY, put(None))
    assert 86_000 < int(redis.cli("TTL", HASH)) <= 86_400
    journals.change(KEY, bump_document)
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
    commands = COMMANDS.lower().split(", ")
    allowed = " ".join(f"+{command}" for command in commands)
    redis.cli("ACL", "SETUSER", "journal", "on", ">pw", "~{wh}:*", "-@all", *allowed.split())
    url = redis.url.replace("redis://", "redis://journal:pw@")
    try:
        journals = journals_of(url)
        assert journals.change(KEY, bump_document) == 1
        assert journals.sweep(lambda *found: True) == (0, [])
        redis.cli("CONFIG", "SET", "appendonly", "yes")
        assert "appendfsync unknown: CONFIG is not permitted" in journals.durability()
        redis.cli("CONFIG", "SET", "maxmemory-policy", "allkeys-lru")
        assert "removes journals when its memory is full (maxmemory-policy allkeys-lru)" in journals.durability()
        for command in ("info", "hset", "eval"):
            redis.cli("ACL", "SETUSER", "journal", f"-{command}")
            with pytest.raises(ConfigError, match=r"the user may not do what is needed: EVAL, .* INFO, WAIT"):
                journals.change(KEY, bump_document)
            redis.cli("ACL", "SETUSER", "journal", f"+{command}")
    finally:
        redis.cli("ACL", "DELUSER", "journal")
        redis.cli("CONFIG", "SET", "appendonly", "no")
        redis.cli("CONFIG", "SET", "maxmemory-policy", "noeviction")
