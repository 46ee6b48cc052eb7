"""Replicas of a Redis that take over: what was acknowledged is there, or what is there is not trusted."""

import subprocess
import threading
import time
from contextlib import suppress

import pytest

from airflow_provider_impala_lb.errors import JournalDamaged, StateUnavailable
from airflow_provider_impala_lb.stores.redis import client as redis_client
from airflow_provider_impala_lb.stores.redis import replication as redis_server
from tests.support.redis_places import HASH, journals_of
from tests.support.servers import eventually
from tests.support.store_changes import KEY, bump_document


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
        assert journals.change(KEY, bump_document) == number
        assert replica.cli("HGET", HASH, "document").endswith(f"run{number}")


def test_a_replica_that_is_silent_is_an_unknown_outcome_and_what_it_has_is_the_newest(pair, monkeypatch):
    monkeypatch.setattr(redis_client, "TIMEOUT", 0.4)
    primary, replica = pair
    follow(replica, primary)
    journals = journals_of(primary, deadline=2.0)
    assert journals.change(KEY, bump_document) == 1
    replica.pause()
    try:
        with pytest.raises(StateUnavailable, match=r"0 of 1 replicas have confirmed it; outcome unknown"):
            journals.change(KEY, bump_document)
    finally:
        replica.kill()
    eventually(lambda: "connected_slaves:0" in primary.cli("INFO", "replication"))
    # Nor without it: it may come back and take over.
    with pytest.raises(StateUnavailable, match=r"0 of 1 replicas have confirmed it; outcome unknown"):
        journals.change(KEY, bump_document)
    assert journals.change("begun without a replica", bump_document) == 1
    replica.start()
    follow(replica, primary)
    assert journals.change(KEY, bump_document) in (3, 4)


def test_a_replica_that_takes_over_has_the_newest(pair):
    primary, replica = pair
    follow(replica, primary)
    journals_of(primary).change(KEY, bump_document)
    primary.kill()
    replica.cli("REPLICAOF", "NO", "ONE")
    assert journals_of(replica).read(KEY) == b"1"
    assert journals_of(replica).change(KEY, bump_document) == 2


@pytest.mark.parametrize("begun", ["before there was one", "when one had left"])
def test_a_replica_cut_off_between_two_commits_is_not_trusted(pair, begun):
    primary, replica = pair
    journals = journals_of(primary)
    if begun == "when one had left":  # then the primary's history goes on
        follow(replica, primary)
        replica.cli("REPLICAOF", "NO", "ONE")
        eventually(lambda: "connected_slaves:0" in primary.cli("INFO", "replication"))
    journals.change(KEY, bump_document)
    follow(replica, primary)
    replica.cli("REPLICAOF", "NO", "ONE")  # as by a partition, and then elected
    eventually(lambda: "connected_slaves:0" in primary.cli("INFO", "replication"))
    assert journals.change(KEY, bump_document) == 2
    assert replica.cli("HGET", HASH, "document").endswith("run1")  # the old one
    for action in (lambda: journals_of(replica).change(KEY, bump_document), lambda: journals_of(replica).read(KEY)):
        with pytest.raises(JournalDamaged, match="another Redis server has taken over since it was written"):
            action()


def test_a_primary_restarted_from_a_snapshot_is_no_replica_that_takes_over(pair, monkeypatch):
    """It names its old history as the one before, as such a replica does."""
    primary, replica = pair
    follow(replica, primary)
    journals = journals_of(primary)
    journals.change(KEY, bump_document)
    primary.cli("SAVE")
    journals.change(KEY, bump_document)
    time.sleep(3)  # what is between the write and the start has to exceed what clocks may differ by
    primary.kill()
    primary.start()
    with pytest.raises(JournalDamaged, match="was started again since it was written"):
        journals.read(KEY)


def test_a_primary_that_was_started_again_waits_for_its_replica(pair, monkeypatch):
    """It has all there was, by its append-only file; but until the replica is back, that one may take over without."""
    monkeypatch.setattr(redis_client, "TIMEOUT", 0.4)
    primary, replica = pair
    primary.cli("CONFIG", "SET", "appendonly", "yes")
    eventually(lambda: "aof_rewrite_in_progress:0" in primary.cli("INFO", "persistence"))
    primary.cli("CONFIG", "SET", "appendfsync", "always")
    primary.cli("CONFIG", "REWRITE")
    follow(replica, primary)
    journals = journals_of(primary, deadline=2.0)
    assert journals.change(KEY, bump_document) == 1
    replica.pause()
    time.sleep(3)  # longer than what clocks may differ by here
    primary.kill()
    primary.start()
    assert journals.read(KEY) == b"1"
    with pytest.raises(StateUnavailable, match=r"0 of 1 replicas have confirmed it; outcome unknown"):
        journals.change(KEY, bump_document)
    replica.go_on()
    eventually(lambda: "state=online" in primary.cli("INFO", "replication"))
    assert journals.change(KEY, bump_document) == 3


def test_failovers_lose_nothing_that_was_acknowledged(watched, monkeypatch):
    monkeypatch.setattr(redis_server, "CLOCKS_DIFFER", -1.5)
    url, primary, replica, _ = watched
    journals = journals_of(url)
    known, failed = 0, 0

    def work(until):
        nonlocal known, failed
        while time.monotonic() < until or not until:
            try:
                now = journals.change(KEY, bump_document)
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


def is_primary(server):
    """False also while it hangs up on everybody, as in the middle of a failover."""
    with suppress(subprocess.CalledProcessError):
        return "role:master" in server.cli("INFO", "replication")
    return False


def test_failover_under_load_by_command(watched, monkeypatch):
    monkeypatch.setattr(redis_server, "CLOCKS_DIFFER", -1.5)
    url, primary, replica, sentinels = watched
    journals = journals_of(url)
    known, failed, ended = 0, 0, threading.Event()
    wrong = []

    def work():
        nonlocal known, failed
        while not ended.is_set():
            try:
                now = journals.change(KEY, bump_document)
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
            eventually(lambda new=new: is_primary(new) or wrong, 30)
            before = known
            eventually(lambda before=before: known > before + 50 or wrong, 60)
    finally:
        ended.set()
        thread.join()
    assert wrong == []
