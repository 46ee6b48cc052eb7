"""What all journals promise, wherever they are kept."""

import threading
import time

import pytest

from airflow_provider_impala_lb.core.config import parse as configuration
from airflow_provider_impala_lb.core.config.store_url import parse_store
from airflow_provider_impala_lb.errors import ConfigError
from airflow_provider_impala_lb.stores.factory import open_journals
from airflow_provider_impala_lb.stores.journals.document import MAX_BYTES, name_of, unwrap, wrap
from airflow_provider_impala_lb.stores.journals.file import FileJournals
from airflow_provider_impala_lb.stores.redis.journals import RedisJournals
from tests.support.components import SERVERS
from tests.support.store_changes import bump_document, put

KEY = "load_sales/insert/scheduled__2026-11-25T00:00:00+00:00/-1"
ODD_KEYS = ["", ".", "..", "lock", "../../etc/passwd", "a\0b", "line\nbreak", "ä" * 1000, "\udc80", "x" * 100_000]


@pytest.fixture(params=["file", "fuse", *SERVERS])
def opened(request, tmp_path):
    """Journals as two hosts open them; each call is another process's."""
    if request.param == "file":
        return lambda host=0: FileJournals(str(tmp_path / "node_in_use.tmp"))
    if request.param == "fuse":
        path = request.getfixturevalue("path_on_fuse")
        return lambda host=0: FileJournals(path)
    if request.param == "gluster":
        hosts = request.getfixturevalue("gluster")
        return lambda host=0: FileJournals(str(hosts[host] / "node_in_use.tmp"))
    redis = request.getfixturevalue("redis" if request.param == "redis" else "redis_cluster")
    url = parse_store(getattr(redis, "url", redis))
    return lambda host=0: RedisJournals(url, "wh")


def test_what_is_changed_is_there_for_all(opened):
    assert opened().read(KEY) is None
    assert opened().change(KEY, put(b"one")) is None
    assert opened(1).read(KEY) == b"one"
    assert opened(1).change(KEY, put(b"two")) == b"one"
    assert opened().read(KEY) == b"two"
    assert opened().keys() == [KEY]


def test_each_host_sees_the_others_last_at_once(opened):
    hosts = [opened(0), opened(1)]
    assert [hosts[turn % 2].change(KEY, bump_document) for turn in range(30)] == list(range(1, 31))


def test_a_removed_document_is_absent_and_may_come_again(opened):
    journals = opened()
    for _ in range(3):
        assert journals.change(KEY, put(b"there")) is None
        assert journals.change(KEY, put(None)) == b"there"
        assert opened(1).read(KEY) is None
        assert opened(1).keys() == []
        assert journals.change(KEY, put(None)) is None


def test_an_empty_document_is_a_document(opened):
    opened().change(KEY, put(b""))
    assert opened(1).read(KEY) == b""
    assert opened(1).keys() == [KEY]
    assert opened(1).change(KEY, put(b"")) == b""


def test_documents_of_any_bytes_and_size_replace_each_other(opened):
    journals = opened()
    documents = [bytes(range(256)), b"\0" * 100_000, b"x", bytes(range(256)) * 400, b"", b"y" * MAX_BYTES]
    previous = None
    for document in documents * 2:
        assert journals.change(KEY, put(document)) == previous
        previous = document
        assert opened(1).read(KEY) == document


def test_a_document_that_is_too_large_changes_nothing(opened):
    journals = opened()
    journals.change(KEY, put(b"before"))
    with pytest.raises(ConfigError, match="513 KiB, more than the 512 KiB"):
        journals.change(KEY, put(b"x" * (MAX_BYTES + 1024)))
    assert journals.read(KEY) == b"before"


def test_any_text_is_a_key_and_each_has_a_document_of_its_own(opened):
    journals = opened()
    for number, key in enumerate(ODD_KEYS):
        assert journals.change(key, put(b"%d" % number)) is None
    assert [opened(1).read(key) for key in ODD_KEYS] == [b"%d" % number for number in range(len(ODD_KEYS))]
    assert sorted(opened(1).keys()) == sorted(ODD_KEYS)


class Boom(BaseException):
    pass


@pytest.mark.parametrize("there", [None, b"before"])
def test_if_fn_raises_nothing_changes_and_nobody_is_held_up(opened, there):
    journals = opened()
    journals.change(KEY, put(there))

    def fails(document, now):
        raise Boom

    with pytest.raises(Boom):
        journals.change(KEY, fails)
    start = time.monotonic()
    assert opened(1).read(KEY) == there
    assert opened(1).change(KEY, put(b"after")) == there
    assert time.monotonic() - start < 2


def test_now_is_a_clock(opened):
    times = [opened(host).change(KEY, lambda document, now: (now, b"")) for host in (0, 1, 0)]
    assert all(abs(now - time.time()) < 60 for now in times)
    assert times == sorted(times)


def test_threads_share_one(opened):
    journals = opened()
    threads = [
        threading.Thread(target=lambda: [journals.change(KEY, bump_document) for _ in range(10)]) for _ in range(4)
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert journals.read(KEY) == b"40"


def test_a_sweep_removes_what_is_not_wanted(opened):
    journals = opened()
    for number in range(10):
        journals.change(f"key {number}", put(b"%d" % number))
    journals.change("gone", put(b"x"))
    journals.change("gone", put(None))
    seen = {}

    def wanted(key, document, now):
        seen[key] = document
        assert abs(now - time.time()) < 60
        return int(document) % 3 == 0

    swept = journals.sweep(wanted)
    assert (swept.removed, swept.damaged) == (6, [])
    assert seen == {f"key {number}": b"%d" % number for number in range(10)}
    assert sorted(opened(1).keys()) == [f"key {number}" for number in (0, 3, 6, 9)]
    assert [opened(1).read(f"key {number}") for number in (3, 4)] == [b"3", None]
    assert journals.sweep(wanted) == (0, [])
    assert opened(1).change("key 4", bump_document) == 1


def test_a_sweep_of_nothing(opened):
    assert opened().sweep(lambda *found: False) == (0, [])
    assert opened().keys() == []


def test_a_sweep_that_finds_a_newer_document_asks_again(opened):
    journals = opened()
    journals.change(KEY, put(b"old"))
    asked = []

    def wanted(key, document, now):
        if not asked:
            opened(1).change(KEY, put(b"new"))
        asked.append(document)
        return document == b"new"

    assert journals.sweep(wanted).removed == 0
    assert asked[0] == b"old" and asked[-1] == b"new"
    assert journals.read(KEY) == b"new"


def test_what_holds_another_key_or_another_byte_is_damaged():
    envelope = wrap("here", "a", b"document")
    assert unwrap("here", name_of("a"), envelope) == ("a", b"document")
    for place in range(len(envelope)):
        other = bytearray(envelope)
        other[place] ^= 1
        with pytest.raises(Exception, match=r"cannot be trusted|newer version"):
            unwrap("here", name_of("a"), bytes(other))
    for length in range(len(envelope)):
        with pytest.raises(Exception, match="cannot be trusted"):
            unwrap("here", name_of("a"), envelope[:length])
    with pytest.raises(Exception, match=r"here: this journal cannot be trusted: it belongs to another key, b'a'"):
        unwrap("here", name_of("b"), envelope)
    with pytest.raises(ConfigError, match="newer version"):
        unwrap("here", name_of("a"), envelope.replace(b"journal 1", b"journal 2"))


def test_where_a_configuration_keeps_its_journals(tmp_path):
    def opens(**keys):
        return open_journals(configuration.parse({"name": "wh", "nodes": ["a"], **keys}))

    assert opens() is None
    assert opens(lock_file=str(tmp_path / "lock")).where == str(tmp_path / "lock.journal")
    both = opens(lock_file=str(tmp_path / "lock"), store="redis://user:s3cret@127.0.0.1:1/2")
    assert both.where == "redis://127.0.0.1:1/2 {wh}:journal:*"
