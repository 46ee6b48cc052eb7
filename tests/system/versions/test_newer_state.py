"""A state that a later version has written: of the next format, or with a field more."""

import json

import pytest

from airflow_provider_impala_lb import Balancer
from airflow_provider_impala_lb.core.state import record_log
from airflow_provider_impala_lb.core.state import state as module
from airflow_provider_impala_lb.stores.file.state_slots import StateSlots
from tests.support.servers import eventually
from tests.support.two_versions import VERSIONS, Failed

pytestmark = pytest.mark.slow
NODES = ["n0:21050", "n1:21050", "n2:21050"]
NEWER = module.FORMAT + 1
REFUSED = rf"^ConfigError: .*by a newer version .*\(format {NEWER}, .*up to {NEWER - 1}\). Upgrade this host"


@pytest.fixture(params=["file", "redis"])
def where(request, tmp_path):
    if request.param == "redis":
        return {"store": request.getfixturevalue("redis").url}
    return {"lock_file": str(tmp_path / "node_in_use.tmp")}


@pytest.fixture
def config(where):
    return {"name": "newer", "nodes": NODES, "policy": "round_robin", "max_leases": 3, **where}


@pytest.fixture
def later(monkeypatch):
    """``later(change)``: from now on this process writes heads, and leases, as this function changes them."""
    plain, line = module._encoder, record_log._line

    def begin(change):
        class Encoder:
            def encode(self, head):
                return json.dumps(change(json.loads(plain.encode(head)))).encode()

        def changed_line(key, record):
            name, _, rest = line(key, record).partition(b"\t")
            body = json.dumps({**json.loads(rest[8:]), **change({})}).encode()
            return b"%b\t%08x%b" % (name, record_log.zlib.crc32(body, record_log.zlib.crc32(name[1:])), body)

        monkeypatch.setattr(module, "_encoder", Encoder())
        monkeypatch.setattr(record_log, "_line", changed_line)

    return begin


def contents(config):
    """All that is kept of it, as it is."""
    if "lock_file" in config:
        with open(config["lock_file"], "rb") as file:
            return file.read()
    import redis

    return redis.Redis.from_url(config["store"]).hgetall("{newer}:state")


def head_and_leases(config):
    """As they are written."""
    if "store" in config:
        found = contents(config)
        return found[b"state"], found[b"records.0"]
    slots = StateSlots(config["lock_file"])
    with open(config["lock_file"], "rb") as file:
        return slots._newest(file.fileno())[1], slots._load(file.fileno())[1].leases.text


def put_back(config, found):
    if "lock_file" in config:
        with open(config["lock_file"], "r+b") as file:
            file.write(found)
        return
    import redis

    redis.Redis.from_url(config["store"]).hset("{newer}:state", mapping=found)


@pytest.mark.parametrize("head", [{}, {"nodes": [1]}], ids=["readable", "unreadable"])
def test_the_next_format_is_an_error_that_says_what_to_do_and_nothing_is_changed(config, start, later, head):
    """A script that runs meanwhile goes on, and its lease is ended when its version can write again."""
    workers = [start(version) for version in VERSIONS]
    for worker, version in zip(workers, VERSIONS, strict=True):
        worker.ask("hold", config=config, owner=version)
    whole = contents(config)
    later(lambda values: {**values, "format": NEWER, **head} if values else {})
    Balancer.from_config(config).get_host()
    written = contents(config)
    assert written != whole
    for worker, version in zip(workers, VERSIONS, strict=True):
        with pytest.raises(Failed, match=REFUSED):
            worker.ask("picks", config=config, count=1)
        with pytest.raises(Failed, match=REFUSED):
            worker.ask("hold", config=config, owner="another")
        with pytest.raises(Failed, match=REFUSED):
            worker.ask("status", config=config)
        with pytest.raises(Failed, match=REFUSED):
            worker.ask("drain", config=config, node=NODES[0])
        worker.ask("end", owner=version)
    assert contents(config) == written
    if head:
        return
    put_back(config, whole)
    for worker in workers:
        worker.ask("picks", config=config, count=1)
        eventually(lambda seen=worker: seen.ask("status", config=config)["leases"] == [], 60)


def test_a_field_more_is_harmless_and_lasts_until_the_other_version_writes_that_record(config, start, later):
    old = start("old")
    later(lambda values: {**values, "later": {"and": ["more"]}})
    minor = Balancer.from_config(config)
    with minor.acquire(owner="minor"):
        assert [b"later" in each for each in head_and_leases(config)] == [True, True]
        old.ask("hold", config=config, owner="old")
        assert [b"later" in each for each in head_and_leases(config)] == [False, True]
        found = [minor.get_host(), *old.ask("picks", config=config, count=2), minor.get_host()]
        assert found == [NODES[2], NODES[0], NODES[1], NODES[2]]
        assert {lease["owner"] for lease in old.ask("status", config=config)["leases"]} == {"minor", "old"}
    old.ask("end", owner="old")
    for status in (minor.status(), old.ask("status", config=config)):
        assert (status["leases"], [node["picks"] for node in status["nodes"]]) == ([], [2, 2, 2])
