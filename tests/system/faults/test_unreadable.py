"""Replies that arrive whole and cannot be read: each call of a script, each kind of damage."""

import itertools
import logging
import signal
import struct

import pytest

from airflow_provider_impala_lb import Balancer
from airflow_provider_impala_lb.core.config.parse import parse
from airflow_provider_impala_lb.impala.script.record import ScriptDone
from airflow_provider_impala_lb.impala.sql.splitter import split
from airflow_provider_impala_lb.sandbox import Sandbox
from airflow_provider_impala_lb.stores.memory import MemoryStore
from tests.support.relay import Fault, Relay
from tests.support.scripts import script_run
from tests.system.faults.judge import Evidence, Step, attempt, faults_of
from tests.system.faults.node_pages import wait_until_over

_number = itertools.count()
STRUCT, STRING, LIST, I32 = b"\x0c", b"\x0b", b"\x0f", b"\x08"
SUCCESS = STRUCT + b"\x00\x00"  # field 0 of a result: what the call returns
STATUS = STRUCT + b"\x00\x01"  # field 1 of nearly every answer


def head(message):
    """The reply's header: version, name, sequence number."""
    (length,) = struct.unpack(">i", message[4:8])
    return message[: 12 + length]


DAMAGE = {
    # Seen at users of impyla as struct.error, EOFError, OverflowError, UnicodeDecodeError, TypeError, KeyError.
    "no_status": lambda message: head(message) + SUCCESS + b"\x00\x00",
    "status_without_code": lambda message: head(message) + SUCCESS + STATUS + b"\x00\x00\x00",
    "no_answer": lambda message: head(message) + b"\x00",
    "unknown_type": lambda message: head(message) + SUCCESS + b"\x55\x00\x63" + b"\x00" * 8,
    "negative_length": lambda message: (
        head(message) + SUCCESS + STATUS + STRING + b"\x00\x05" + b"\xff" * 4 + b"\x00" * 3
    ),
    "negative_list": lambda message: (
        head(message) + SUCCESS + STATUS + LIST + b"\x00\x02" + STRING + b"\xff" * 4 + b"\x00" * 3
    ),
    "name_is_no_text": lambda message: (
        message[:8] + b"\xff" * (len(head(message)) - 12) + message[len(head(message)) - 4 :]
    ),
    "another_protocol": lambda message: b"HTTP/1.1 502 Bad Gateway\r\n\r\n",
    "zeros": lambda message: bytes(len(message)),
    "short_guid": lambda message: _shortened(message),
}


def _shortened(message):
    """The first binary of 16 bytes has 4: handles are made of two such."""
    at = message.find(b"\x0b\x00\x01\x00\x00\x00\x10")
    if at < 0:
        return head(message) + SUCCESS + b"\x00\x00"
    return message[: at + 3] + b"\x00\x00\x00\x04" + message[at + 7 : at + 11] + message[at + 23 :]


CALLS = [
    ("OpenSession", 1),
    *(("ExecuteStatement", nth) for nth in (1, 2, 3, 4)),
    ("GetOperationStatus", 2),
    ("GetResultSetMetadata", 2),
    ("FetchResults", 2),
    ("FetchResults", 1),
    ("GetLog", 2),
    ("GetLog", 3),
    ("CloseImpalaOperation", 2),
    ("CloseImpalaOperation", 3),
    ("CloseSession", 1),
]


@pytest.fixture(scope="module")
def cluster():
    with Sandbox(nodes=1, lag=0, users=None, flags={"fe_service_threads": 64}) as cluster:
        yield cluster


def run(cluster, faults, name=None, steps=None):
    node, name = cluster.nodes[0], name or f"u{next(_number)}"
    steps = steps or [
        Step(f"CREATE TABLE {name} (n INT)", changes=True, rows=[("Table has been created.",)]),
        Step(f"INSERT INTO {name} SELECT 1", changes=True, modified=1),
        Step(f"SELECT n FROM {name}", rows=[(1,)]),
        Step(f"INSERT INTO {name} SELECT 2", changes=True, modified=1),
    ]
    with Relay(node.host, node.port, faults=faults) as relay:
        limits = {"open_timeout": 2.0, "rpc_timeout": 2.0, "reconnect_timeout": 10.0}
        listed = [{"host": "127.0.0.1", "port": relay.port, "web": node.web}]
        config = {**cluster.config, "nodes": listed, "session": {"auth_mechanism": "NOSASL", **limits}}
        ran = attempt(Balancer(parse(config), MemoryStore()), name, steps, 60)
        wait_until_over(node, relay)
    return ran, relay, Evidence(cluster.nodes)


@pytest.mark.parametrize("damage", DAMAGE)
def test_one_reply_at_each_call_is_as_good_as_lost(cluster, damage, caplog):
    caplog.set_level(logging.INFO)
    wrong = []
    for rpc, nth in CALLS:
        ran, relay, evidence = run(cluster, [Fault(rpc, nth, "after", "alter", alter=DAMAGE[damage])])
        assert relay.fired, (rpc, nth)
        said = [*faults_of(ran, evidence)]
        if not isinstance(ran.ended, ScriptDone):
            said.append(str(ran))
        if said:
            wrong.append(f"{rpc} {nth}: {said}")
    assert not wrong, "\n" + "\n".join(wrong)


@pytest.mark.parametrize(("rpc", "nth"), [("ExecuteStatement", 4), ("FetchResults", 2)])
def test_a_length_that_never_comes_is_waited_for_no_longer_than_an_answer(cluster, rpc, nth):
    """Values of 2 GB are allowed."""

    def endless(message):
        return head(message) + SUCCESS + STATUS + STRING + b"\x00\x05" + b"\x7f\xff\xff\xf0" + b"x" * 100

    ran, relay, evidence = run(cluster, [Fault(rpc, nth, "after", "alter", alter=endless)])
    assert relay.fired
    assert isinstance(ran.ended, ScriptDone), str(ran)
    assert faults_of(ran, evidence) == []


@pytest.mark.parametrize("rpc", ["GetLog", "CloseImpalaOperation", "CloseSession"])
@pytest.mark.parametrize("damage", ["no_status", "name_is_no_text"])
def test_what_comes_after_the_rows_is_a_warning_however_often_it_fails(cluster, rpc, damage, caplog):
    ran, _, evidence = run(cluster, [Fault(rpc, 1, "after", "alter", times=1000, alter=DAMAGE[damage])])
    assert isinstance(ran.ended, ScriptDone), str(ran)
    assert faults_of(ran, evidence) == []
    assert f"the reply to {rpc} cannot be read" in caplog.text


@pytest.mark.parametrize("nth", [2, 4])
def test_an_insert_whose_state_can_never_be_read_is_looked_up(cluster, nth):
    """Its state is on the coordinator's page."""
    faults = [Fault("GetOperationStatus", nth, "after", "alter", times=10, alter=DAMAGE["no_status"])]
    ran, _, evidence = run(cluster, faults)
    assert isinstance(ran.ended, ScriptDone), str(ran)
    assert faults_of(ran, evidence) == []


def test_ddl_whose_row_can_never_be_read_is_done(cluster):
    faults = [Fault("FetchResults", 1, "after", "alter", times=10, alter=DAMAGE["no_status"])]
    name = f"ddl{next(_number)}"
    steps = [
        Step(f"CREATE TABLE {name} (n INT)", changes=True),
        Step(f"INSERT INTO {name} SELECT 1", changes=True, modified=1),
    ]
    ran, _, evidence = run(cluster, faults, name=name, steps=steps)
    assert isinstance(ran.ended, ScriptDone), str(ran)
    assert faults_of(ran, evidence) == []


def test_an_insert_of_which_nothing_can_be_read_but_its_page_is_done(cluster):
    """Neither its handle, nor its state, nor its columns."""

    def decide(call):
        if call.statement == 2 and call.rpc in ("ExecuteStatement", "GetOperationStatus", "GetResultSetMetadata"):
            return Fault(call.rpc, 1, "after", "alter", alter=DAMAGE["no_status"])
        return None

    ran, _, evidence = run(cluster, decide)
    assert isinstance(ran.ended, ScriptDone), str(ran)
    assert faults_of(ran, evidence) == []


@pytest.mark.parametrize(
    "error", [KeyError("k"), TypeError("t"), AttributeError("a"), OSError(28, "No space left on device")]
)
def test_an_error_of_the_handler_is_the_handlers(cluster, error):
    """It is no lost reply: nothing is asked again, and the query is not run again."""

    def handler(cursor):
        cursor.fetchone()
        raise error

    node = cluster.nodes[0]
    with Relay(node.host, node.port) as relay:
        config = {**cluster.config, "nodes": [{"host": "127.0.0.1", "port": relay.port, "web": node.web}]}
        script = script_run(Balancer(parse(config), MemoryStore()), split("SELECT 1"), handler=handler)
        with pytest.raises(type(error)) as raised:
            script.run()
        wait_until_over(node, relay)
    assert raised.value is error
    assert relay.names().count("ExecuteStatement") == 1
    assert {call.connection for call in relay.calls} == {1}


class _Alarm(Exception):
    """What a signal's handler raises, wherever the process just is."""


@pytest.mark.slow
def test_what_a_signal_raises_while_a_reply_is_read_is_no_lost_reply(cluster):
    def ring(*_):
        raise _Alarm

    def handler(cursor):
        signal.setitimer(signal.ITIMER_REAL, 0.2)
        return cursor.fetchall()

    node, before = cluster.nodes[0], signal.signal(signal.SIGALRM, ring)
    try:
        with Relay(node.host, node.port, faults=[Fault("FetchResults", 1, "after", "delay", 1.0)]) as relay:
            config = {**cluster.config, "nodes": [{"host": "127.0.0.1", "port": relay.port, "web": node.web}]}
            with pytest.raises(_Alarm):
                script_run(Balancer(parse(config), MemoryStore()), split("SELECT 1"), handler=handler).run()
            wait_until_over(node, relay)
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)
        signal.signal(signal.SIGALRM, before)
    assert relay.names().count("FetchResults") == 1
