"""Records as lines of bytes: what is asked of them one by one, and what is asked of many of them at once."""

import random

import msgspec
import pytest

from airflow_provider_impala_lb.core.rules.expiry import end_expired
from airflow_provider_impala_lb.core.state.model import Avoid, Lease, LeftoverSession
from airflow_provider_impala_lb.core.state.record_log import Extent, RecordLog
from airflow_provider_impala_lb.core.state.state import State, decode, encode

DECODER = msgspec.json.Decoder(Avoid)


def stored(text, count):
    return RecordLog(DECODER, 0, Extent(count=count, length=len(text)), lambda kind, extent: text)


def written(names):
    records = stored(b"", 0)
    for name in names:
        records.add(name, Avoid("a:1", 9.0), 9.0)
    return records.text


@pytest.mark.parametrize("seed", range(20))
def test_whatever_is_asked_in_whatever_order_they_are_what_a_dictionary_would_be(seed):
    rng = random.Random(seed)
    names = [f"{index}" for index in range(60)] + ['tab\t, "quote", \n line']
    expected = dict.fromkeys(rng.sample(names, rng.randrange(60)), 9.0)
    records = stored(written(expected), len(expected))
    before, was_rewritten = records.text if rng.random() < 0.5 else written(expected), False
    for step in range(rng.randrange(200)):
        name, moment = rng.choice(names), 10.0 + step
        action = rng.choice(["get", "get", "put", "add", "drop", "drop_all", "keep", "text"])
        if action == "get":
            found = records.get(name)
            assert (found and found.expires) == expected.get(name)
        elif action == "put" or (action == "add" and name not in expected):
            was_rewritten |= name in expected
            expected.pop(name, None)
            expected[name] = moment
            (records.put if action == "put" else records.add)(name, Avoid("a:1", moment), moment)
        elif action == "drop":
            was_rewritten |= name in expected
            assert (records.drop(name) is None) == (expected.pop(name, None) is None)
        elif action == "drop_all" and step % 20 == 0:
            gone = rng.sample(names, 5)
            records.drop_all(gone, 0.0)
            expected = {each: moment for each, moment in expected.items() if each not in gone}
            was_rewritten = True
        elif action == "keep" and step % 20 == 0:
            gone = records.keep(lambda record, moment=moment: None if record.expires < moment - 60 else record.expires)
            was_rewritten |= bool(gone)
            expected = {each: ends for each, ends in expected.items() if ends >= moment - 60}
        elif action == "text":
            assert len(records.text) == records.size
        assert len(records) == len(expected)
    assert [(name, record.expires) for name, record in records.items()] == list(expected.items())
    assert records.size == len(records.text)
    assert was_rewritten <= records.rewritten
    if not records.rewritten:
        assert before + records.added == records.text
    again = stored(records.text, len(records))
    assert dict(again.items()).keys() == expected.keys()


@pytest.mark.parametrize("looks", [1, 100])
def test_a_damaged_line_is_in_nobodys_way_and_the_new_one_holds(looks):
    text = written(["a", "b", "c"]).replace(b'"b"\t', b'"b"\tffff', 1)
    records = stored(text, 3)
    for _ in range(looks):
        assert (records.get("b"), records.get("c").expires) == (None, 9.0)
    records.put("b", Avoid("a:1", 11.0), 11.0)
    for moment in range(12, 50):
        records.put("b", Avoid("a:1", moment), moment)
        assert records.get("b").expires == moment
    records.put("a", Avoid("a:1", 10.0), 10.0)
    assert [name for name, _ in records.items()] == ["c", "b", "a"]
    assert records.text.count(b"\n") == len(records) == 4
    assert records.size == len(records.text)
    records.keep(lambda record: record.expires)
    assert len(records) == 3


def test_the_leases_of_a_host_that_has_died_are_noted_without_a_search_for_each(monkeypatch):
    state = State()
    for index in range(3000):
        state.leftovers.add(f"left {index}", LeftoverSession("dag", "a:1", "s" * 32, "", 1.0, 1e9), 1e9)
    for index in range(1000):
        state.lease(Lease(f"lease {index}", "a:1", f"dag {index}", 10.0, 0.0, "pod", session="s" * 32))
    state = decode(encode(state))
    searched = []
    search = RecordLog._search
    monkeypatch.setattr(RecordLog, "_search", lambda log, name: searched.append(name) or search(log, name))
    assert len(end_expired(state, 100.0)) == 1000
    assert len(searched) < 50
    assert (len(state.leases), len(state.leftovers)) == (0, 4000)
    assert len(decode(encode(state)).leftovers.text.split(b"\n")) == 4001
