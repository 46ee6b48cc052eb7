"""Session records in a second home: for a host that has lost the first, or is new."""

import os
import time

import pytest

from airflow_provider_impala_lb import Balancer
from airflow_provider_impala_lb.core.config.store_url import parse_store
from airflow_provider_impala_lb.core.state.model import SessionRecord
from airflow_provider_impala_lb.stores.redis import mirror as module
from airflow_provider_impala_lb.stores.redis.mirror import RedisMirror

NODES = [f"n{i}" for i in range(8)]


@pytest.fixture
def mirrored(redis, tmp_path):
    def make(lock="lock", **keys):
        return Balancer.from_config(
            {"name": "c", "nodes": NODES, "lock_file": str(tmp_path / lock), "mirror": redis.url, **keys}
        )

    return make


def test_a_host_that_lost_the_local_copy_reads_the_records_from_the_mirror(mirrored, tmp_path):
    lb = mirrored()
    hosts = {key: lb.pick(session_key=key).host for key in ("a", "b", "c")}
    lb.cluster.session_keys.remember("a", hosts["a"], "dwh", {"MEM_LIMIT": "4g"})
    assert lb.cluster.session_keys.mirror.flush(5)
    os.unlink(tmp_path / "lock")
    again = mirrored()
    pick = again.pick(session_key="a")
    assert (pick.host, pick.database, pick.options) == (hosts["a"], "dwh", {"MEM_LIMIT": "4g"})
    assert "session key 'a' is on it" in pick.why
    for key in ("b", "c"):
        assert again.pick(session_key=key).host == hosts[key]


def test_what_a_session_leaves_has_arrived_when_its_script_ends(mirrored, redis, monkeypatch):
    """Its process may be gone a moment later."""
    send = RedisMirror._send

    def slowly(self, key, record):
        time.sleep(0.3)
        send(self, key, record)

    monkeypatch.setattr(RedisMirror, "_send", slowly)
    mirrored().cluster.session_keys.remember("k", "n1:21050", "dwh", {"MEM_LIMIT": "4g"})
    assert RedisMirror(parse_store(redis.url), "c").find("k").database == "dwh"


def test_another_host_with_a_lock_file_of_its_own_knows_the_keys_too(mirrored):
    one, other = mirrored("one"), mirrored("other")
    host = one.pick(session_key="k").host
    one.cluster.session_keys.mirror.flush(5)
    assert other.pick(session_key="k").host == host


def test_a_move_reaches_the_mirror(mirrored, tmp_path):
    lb = mirrored()
    first = lb.pick(session_key="k").host
    lb.drain(first)
    second = lb.pick(session_key="k").host
    assert second != first
    lb.cluster.session_keys.mirror.flush(5)
    os.unlink(tmp_path / "lock")
    assert mirrored().pick(session_key="k").host == second


def test_the_local_copy_wins(mirrored):
    one, other = mirrored("one"), mirrored("other")
    host = one.pick(session_key="k").host
    one.cluster.session_keys.mirror.flush(5)
    elsewhere = [f"{node}:21050" for node in NODES if f"{node}:21050" != host]
    assert other.pick(session_key="k", exclude=[host]).host in elsewhere
    assert one.pick(session_key="k").host == host


def test_what_arrives_late_does_not_replace_what_is_later(redis):
    mirror = RedisMirror(parse_store(redis.url), "c")
    later = time.time() + 1000
    mirror.copy("k", SessionRecord(node="new", expires=later))
    assert mirror.flush(5)
    mirror.copy("k", SessionRecord(node="old", expires=later - 1))
    assert mirror.flush(5)
    assert mirror.find("k").node == "new"
    assert mirror.find("unknown") is None


def test_records_expire_in_the_mirror_too(redis):
    mirror = RedisMirror(parse_store(redis.url), "c")
    mirror.copy("k", SessionRecord(node="n", expires=time.time() + 100))
    mirror.flush(5)
    assert 90 < int(redis.cli("TTL", "{c}:session:k")) <= 100


def test_a_mirror_that_is_away_costs_one_short_try_and_one_warning(mirrored, redis, caplog, monkeypatch):
    monkeypatch.setattr(module, "AWAY_SECONDS", 600.0)
    lb = mirrored(mirror="redis://127.0.0.1:1")
    start = time.monotonic()
    for key in ("a", "b", "c"):
        host = lb.pick(session_key=key).host
        assert lb.pick(session_key=key).host == host
    assert time.monotonic() - start < 5
    lb.cluster.session_keys.mirror.flush(5)
    said = [record.message for record in caplog.records if "session records are not copied for now" in record.message]
    assert len(said) == 1


def test_a_silent_mirror_is_given_up_soon(mirrored, tmp_path, start_redis):
    (tmp_path / "r").mkdir()
    silent = start_redis(tmp_path / "r")
    lb = mirrored(mirror=silent.url)
    lb.pick(session_key="first")
    lb.cluster.session_keys.mirror.flush(5)
    silent.pause()
    start = time.monotonic()
    for number in range(12):
        lb.pick(session_key=f"key {number}")
    assert time.monotonic() - start < 4  # each would cost half a second
    silent.go_on()


def test_a_child_makes_a_mirror_connection_of_its_own(mirrored):
    lb = mirrored()
    lb.pick(session_key="k")
    lb.cluster.session_keys.mirror.flush(5)
    pid = os.fork()
    if pid == 0:
        status = 1
        try:
            host = lb.pick(session_key="child").host
            lb.cluster.session_keys.mirror.flush(5)
            status = 0 if lb.cluster.session_keys.mirror.find("child").node == host else 2
        finally:
            os._exit(status)
    assert os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]) == 0
    assert lb.cluster.session_keys.mirror.find("child") is not None


def test_a_password_is_in_no_text(redis, caplog):
    mirror = RedisMirror(parse_store("redis://:s3cret@127.0.0.1:1"), "c")
    mirror.find("k")
    assert "s3cret" not in mirror.where + repr(mirror) + caplog.text
