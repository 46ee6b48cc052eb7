"""The state as it is encoded: whole or in parts, of this version or of another."""

import zlib

import msgspec
import pytest

from airflow_provider_impala_lb.core.state.load_report import ExporterCounters, LastReport
from airflow_provider_impala_lb.core.state.loading import load_or_reset
from airflow_provider_impala_lb.core.state.model import Attempt, Avoid, Lease, LeftoverSession, SessionRecord
from airflow_provider_impala_lb.core.state.state import FORMAT, NewerState, State, decode, encode, encode_head
from airflow_provider_impala_lb.errors import ConfigError


def a_lease(name="l1", node="a:1", **more):
    return Lease(id=name, node=node, owner="dag/run/task", expires=200.0, taken=80.0, host="h", **more)


def filled():
    state = State()
    state.head.cluster, state.head.last = "wh", "a:1"
    state.node("b:1").drained = True
    state.lease(a_lease())
    state.sessions.add("key", SessionRecord("b:1", 900.0, options={"MT_DOP": "4"}), 900.0)
    state.avoid.add("dag/run/task", Avoid("b:1", 300.0), 300.0)
    state.leftovers.add("l0", LeftoverSession("o", "a:1", "s", "q", 1.0, 9.0, attempt=Attempt(2, 5.0, "g")), 9.0)
    return state


def contents(state):
    return msgspec.to_builtins(state.nodes), [dict(records.items()) for records in state.records]


def test_what_is_encoded_is_what_is_decoded():
    state = decode(encode(filled()))
    assert contents(state) == contents(filled())
    assert (state.head.format, state.head.cluster, state.head.last) == (FORMAT, "wh", "a:1")
    assert [records.extent.count for records in state.records] == [1, 1, 1, 0, 1, 0]


def test_the_head_alone_reads_its_records_when_they_are_asked_for():
    whole = filled()
    encode(whole)
    texts, asked = [records.text for records in whole.records], []

    def read(kind, extent):
        asked.append(kind)
        return texts[kind]

    state = decode(encode_head(whole), read)
    assert (asked, state.node("a:1").leases) == ([], 1)
    assert state.leases.get("l1").owner == "dag/run/task"
    assert list(state.sessions.items())
    assert asked == [0, 1]
    state.close()
    assert state.leases.get("l1")
    assert state.avoid.get("dag/run/task") is None


@pytest.mark.parametrize("age", [FORMAT - 1, 1])
def test_an_older_format_is_given_up(age):
    assert contents(load_or_reset("lock_file: /x", b'{"format":%d,"nodes":{"a":{"picks":3}}}' % age)[0]) == contents(
        State()
    )
    assert load_or_reset("lock_file: /x", b'{"format":%d}' % age)[1]


def test_a_newer_format_is_refused_by_name():
    with pytest.raises(NewerState):
        decode(b'{"format":%d}' % (FORMAT + 1))
    with pytest.raises(ConfigError, match=r"^lock_file: /x: was written by a newer version .*format 99"):
        load_or_reset("lock_file: /x", b'{"format":99}')


@pytest.mark.parametrize("head", [b'{"format":99,"nodes":[]}', b'{"nodes":{"a":{"summary":7}},"format":99}'])
def test_a_newer_format_that_cannot_be_read_at_all_is_refused_and_not_begun_anew(head):
    with pytest.raises(ConfigError, match=r"^lock_file: /x: was written by a newer version .*format 99"):
        load_or_reset("lock_file: /x", head)


def test_a_field_that_a_later_version_has_added_keeps_nothing_from_being_read():
    state = State()
    state.node("a").picks = 3
    state.last_reports.put("a", LastReport(at=1.0, counters=ExporterCounters(1.0, 2.0, 3.0)), 9.0)
    record = encode(state).replace(b'"picks":3', b'"picks":3,"later":{"x":1}')
    line = state.last_reports.text
    key, _, rest = line[1:].partition(b"\t")
    body = rest[8:].replace(b'"total":3.0', b'"total":3.0,"later":1')
    later = b"\n%b\t%08x%b" % (key, zlib.crc32(body, zlib.crc32(key)), body)
    head, *texts = record.replace(line, later).split(b"\0")
    found = decode(b"\0".join((head, *texts)))
    assert found.nodes["a"].picks == 3
    assert found.last_reports.get("a").counters.total == 3.0


@pytest.mark.parametrize(("record", "given_up"), [(b"", False), (None, True), (b"{", True), (b"[]", True)])
def test_where_there_is_no_state_an_empty_one_begins(record, given_up):
    state, reset = load_or_reset("store x", record)
    assert (contents(state), reset) == (contents(State()), given_up)


def test_a_damaged_line_is_passed_over_and_the_counts_are_mended():
    state = State()
    for name in ("l1", "l2", "l3"):
        state.lease(a_lease(name))
    state = decode(encode(state).replace(b'"id":"l2"', b'"id":"xx"'))
    assert [lease.id for lease in state.leases.values()] == ["l1", "l3"]
    assert (state.leases.get("l2"), len(state.leases), state.node("a:1").leases) == (None, 3, 3)
    assert state.keep_leases(lambda lease: lease.id != "l1")[0].id == "l1"
    assert (len(state.leases), state.node("a:1").leases) == (1, 1)


def test_whether_a_text_may_be_in_a_record_is_never_denied_wrongly():
    state = filled()
    assert state.leases.may_hold("dag/run/task")
    assert not state.leases.may_hold("dag/run/other")
    assert not State().leases.may_hold("dag/run/task")
    state.lease(a_lease("l2", node='odd "name"\n\t'))
    assert state.leases.may_hold('odd "name"\n\t')


def test_records_are_due_with_the_first_that_ends():
    state = State()
    assert not state.leases.is_due(1e12)
    state.lease(a_lease())
    assert [state.leases.is_due(now) for now in (199.9, 200.0)] == [False, True]
