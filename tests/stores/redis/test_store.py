import os
import subprocess
import sys
import threading
import time
import traceback

import pytest

from airflow_provider_impala_lb import Balancer
from airflow_provider_impala_lb.core.config.store_url import parse_store
from airflow_provider_impala_lb.errors import ConfigError, StateUnavailable
from airflow_provider_impala_lb.stores.redis import client as redis_client
from airflow_provider_impala_lb.stores.redis.store import RedisStore
from tests.support.redis_places import store_of
from tests.support.store_changes import bump, count

SECRET = "s3cret:/@#"
IN_URL = "s3cret%3A%2F%40%23"


def test_what_is_written_is_read(redis):
    store = store_of(redis)
    assert count(store) == 0
    assert [store.transact(bump) for _ in range(3)] == [1, 2, 3]
    assert store_of(redis).transact(bump) == 4
    assert count(store) == 4


def test_clusters_have_keys_of_their_own(redis):
    store_of(redis, "one").transact(bump)
    assert count(store_of(redis, "two")) == 0
    keys = redis.cli("KEYS", "*").split()
    assert sorted(key.partition(":applied:")[0] for key in keys) == ["{one}", "{one}:state"]


def test_a_change_that_raises_leaves_the_state_as_it_was_and_nobody_waiting(redis):
    store = store_of(redis)
    store.transact(bump)

    def fails(state, now):
        state.node("a").picks = 99
        raise KeyError("x")

    with pytest.raises(KeyError):
        store.transact(fails)
    assert redis.cli("EXISTS", "{wh}:turn") == "0"
    assert store.transact(bump) == 2


def test_the_clock_is_the_servers(redis, monkeypatch):
    store = store_of(redis)
    real = time.time()
    monkeypatch.setattr(time, "time", lambda: real + 3600)
    assert abs(store.transact(lambda state, now: now) - real) < 5
    assert abs(store.read()[1] - real) < 5


def test_a_commit_between_read_and_commit_is_not_lost(redis):
    """The turn is only a courtesy: without it, compare-and-set alone keeps every update."""
    store, other = store_of(redis), store_of(redis)
    calls = []

    def slow(state, now):
        if not calls:
            redis.cli("DEL", "{wh}:turn")
            other.transact(bump)
        calls.append(now)
        return bump(state, now)

    assert store.transact(slow) == 2
    assert len(calls) == 2
    assert count(store) == 2


def test_a_turn_that_nobody_ends_ends_by_itself(redis):
    store = store_of(redis)
    redis.cli("SET", "{wh}:turn", "of a killed process", "PX", "100")
    start = time.monotonic()
    store.transact(bump)
    assert time.monotonic() - start < 1


def test_a_turn_that_never_ends_is_no_hang(redis):
    store = RedisStore(parse_store(redis.url), "wh", deadline=0.3)
    redis.cli("SET", "{wh}:turn", "somebody's")
    with pytest.raises(StateUnavailable, match=rf"127\.0\.0\.1:{redis.port}.*others came first for 0\.\d s"):
        store.transact(bump)
    assert count(store) == 0  # reading waits for nobody


def test_an_unreadable_state_starts_anew_with_one_warning(redis, caplog):
    store = store_of(redis)
    store.transact(bump)
    redis.cli("HSET", "{wh}:state", "state", "damage")
    assert count(store) == 0
    assert store.transact(bump) == 1
    redis.cli("HSET", "{wh}:state", "state", "damage")
    assert store.transact(bump) == 1
    assert sum("started anew" in record.message for record in caplog.records) == 1


def test_a_state_of_a_newer_version_is_refused(redis):
    redis.cli("HSET", "{wh}:state", "state", '{"format":99}')
    with pytest.raises(ConfigError, match=r"newer version .*format 99"):
        store_of(redis).transact(bump)


def test_a_key_that_holds_something_else_is_refused_and_left_alone(redis):
    redis.cli("SET", "{wh}:state", "precious")
    for action in (lambda: store_of(redis).transact(bump), store_of(redis).read):
        with pytest.raises(ConfigError, match="hold something else"):
            action()
    assert redis.cli("GET", "{wh}:state") == "precious"


def test_scripts_that_the_server_forgot_are_no_matter(redis):
    store = store_of(redis)
    store.transact(bump)
    redis.cli("SCRIPT", "FLUSH")
    assert store.transact(bump) == 2


def test_a_child_uses_no_socket_of_its_parent(redis):
    store = store_of(redis)
    store.transact(bump)
    before = redis.cli("CLIENT", "LIST").count("cmd=eval")
    child = os.fork()
    if child == 0:
        try:
            store.transact(bump)
            time.sleep(20)  # connected, until it is counted
        finally:
            os._exit(0)
    try:
        while count(store) < 2:
            time.sleep(0.01)
        assert redis.cli("CLIENT", "LIST").count("cmd=eval") == before + 1
    finally:
        os.kill(child, 9)
        os.waitpid(child, 0)
    assert store.transact(bump) == 3  # the child's end did not shut the parent's socket


def test_a_child_forked_while_another_thread_connects_is_no_deadlock(redis):
    """A pool's lock that is held at the fork stays locked in the child for ever: redis-py waits 5 s, then gives up."""
    store = store_of(redis)
    store.transact(bump)
    pool = store._client.connected().connection_pool
    locks = [getattr(pool, name) for name in ("_lock", "_fork_lock") if hasattr(pool, name)]
    holding, done = threading.Event(), threading.Event()

    def hold():
        for lock in locks:
            lock.acquire()
        holding.set()
        done.wait()
        for lock in reversed(locks):
            lock.release()

    thread = threading.Thread(target=hold, daemon=True)
    thread.start()
    holding.wait()
    start = time.monotonic()
    child = os.fork()
    if child == 0:
        status = 1
        try:
            store.transact(bump)
            status = 0
        finally:
            os._exit(status)
    try:
        assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 0
        assert time.monotonic() - start < 2
    finally:
        done.set()
        thread.join()


def test_without_redis_py_the_error_says_what_to_install(monkeypatch):
    monkeypatch.setitem(sys.modules, "redis", None)
    with pytest.raises(ConfigError, match=r"pip install 'airflow-provider-impala-lb\[redis\]'"):
        Balancer.from_config({"nodes": ["a", "b"], "store": "redis://h"})


def test_doctor_reads_the_state(redis, tmp_path):
    config = tmp_path / "config.yml"
    config.write_text(f"nodes: ['127.0.0.1:1', '127.0.0.1:2']\nstore: redis://:{IN_URL}@127.0.0.1:{redis.port}\n")
    command = [sys.executable, "-m", "airflow_provider_impala_lb.cli", "--config", str(config), "doctor"]
    said = subprocess.run(command, capture_output=True, text=True).stdout
    assert "refuses the login" in said  # this server wants none
    config.write_text(config.read_text().replace(f":{IN_URL}@", ""))
    assert f"ok       state: {redis.url}/0" in subprocess.run(command, capture_output=True, text=True).stdout


def test_redis_py_is_imported_only_for_a_store_in_redis():
    code = (
        "import sys; from airflow_provider_impala_lb import Balancer;"
        "Balancer.from_config({'nodes': ['a']}).get_host(); sys.exit('redis' in sys.modules)"
    )
    assert subprocess.run([sys.executable, "-c", code]).returncode == 0


@pytest.fixture
def guarded(start_redis, tmp_path):
    return start_redis(tmp_path, requirepass=f'"{SECRET}"')


def test_a_password_in_the_url_or_the_environment(guarded, monkeypatch):
    config = {"nodes": ["a", "b"], "store": f"redis://:{IN_URL}@127.0.0.1:{guarded.port}"}
    assert Balancer.from_config(config).get_host()
    monkeypatch.setenv("IMPALA_LB_STORE_PASSWORD", "wrong")
    assert Balancer.from_config(config).get_host()  # the URL's wins
    monkeypatch.setenv("IMPALA_LB_STORE_PASSWORD", SECRET)
    assert Balancer.from_config({**config, "store": guarded.url}).get_host()


@pytest.mark.parametrize("password", ["", ":wrong-s3cret@"])
def test_a_bad_or_missing_password_is_an_error_of_the_configuration(guarded, password):
    balancer = Balancer.from_config({"nodes": ["a", "b"], "store": f"redis://{password}127.0.0.1:{guarded.port}"})
    with pytest.raises(ConfigError, match=rf"127\.0\.0\.1:{guarded.port}.*refuses the login.*IMPALA_LB_STORE_PASSWORD"):
        balancer.get_host()


def test_a_password_is_never_shown(guarded, caplog, monkeypatch):
    caplog.set_level("DEBUG")
    monkeypatch.setattr(redis_client, "TIMEOUT", 0.2)
    balancer = Balancer.from_config({"nodes": ["a", "b"], "store": f"redis://:{IN_URL}@127.0.0.1:{guarded.port}"})
    balancer.get_host()
    shown = [repr(balancer.config), str(balancer.config), repr(balancer.cluster.store), balancer.cluster.store.where]
    shown += [str(balancer.status()), guarded.cli("-a", SECRET, "--no-auth-warning", "HGETALL", "{impala}:state")]
    guarded.cli("-a", SECRET, "--no-auth-warning", "CONFIG", "SET", "requirepass", "changed")
    bad = Balancer.from_config({"nodes": ["a", "b"], "store": f"redis://:{IN_URL}@127.0.0.1:{guarded.port}"})
    for failing in (bad, balancer):
        failing.cluster.store._client.deadline = 0.5
        try:
            failing.get_host()
        except ConfigError:
            shown.append(traceback.format_exc())
        guarded.kill()
    shown += [record.getMessage() for record in caplog.records]
    assert any("refuses the login" in text for text in shown)
    assert any("Picking without the shared state" in text for text in shown)
    assert not [text for text in shown if "s3cret" in text]


def test_the_doctor_tries_to_write(redis):
    """A user that may read and not write: status works, and no worker's pick would."""
    from airflow_provider_impala_lb.doctor.run import run_checks

    redis.cli("ACL", "SETUSER", "reader", "on", ">pw", "~*", "+@read", "+@connection", "+eval", "+time")
    try:
        url = redis.url.replace("redis://", "redis://reader:pw@")
        balancer = Balancer.from_config({"name": "c", "nodes": ["127.0.0.1:1"], "store": url})
        found = {check.name: check for check in run_checks(lambda: balancer, None, listen=False)}
        assert found["state"].verdict == "failed"
        assert "may not do what is needed" in found["state"].message
        assert "pw" not in found["state"].message
    finally:
        redis.cli("ACL", "DELUSER", "reader")
    healthy = Balancer.from_config({"name": "c", "nodes": ["127.0.0.1:1"], "store": redis.url})
    assert {check.name: check.verdict for check in run_checks(lambda: healthy, None, listen=False)}["state"] == "ok"
