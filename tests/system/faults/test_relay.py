"""The relay: what each fault does to the client, and what of it reaches a real coordinator."""

import contextlib
import itertools
import socket
import threading
import time

import pytest
from impala._thrift_gen.ImpalaService.ImpalaHiveServer2Service import Client
from impala._thrift_gen.TCLIService import ttypes as t
from thrift.protocol.TBinaryProtocol import TBinaryProtocol
from thrift.transport.TSocket import TSocket
from thrift.transport.TTransport import TBufferedTransport, TTransportException

from airflow_provider_impala_lb.sandbox import Sandbox
from tests.support.relay import Call, Fault, Relay
from tests.support.servers import eventually
from tests.support.thrift_messages import Messages
from tests.system.faults.node_pages import connected, executing, wait_until_over

_number = itertools.count()


class Talk:
    """HiveServer2 by its generated client, without any layer that would try again."""

    def __init__(self, port, timeout=10.0):
        self.socket = TSocket("127.0.0.1", port)
        self.limit(timeout)
        self.socket.open()
        self.client = Client(TBinaryProtocol(TBufferedTransport(self.socket)))
        self.open()

    def limit(self, seconds):
        self.socket.setTimeout(seconds * 1000)

    def open(self):
        self.session = self.client.OpenSession(t.TOpenSessionReq(username="ann", configuration={})).sessionHandle

    def execute(self, sql):
        answer = self.client.ExecuteStatement(t.TExecuteStatementReq(self.session, sql))
        self.operation = answer.operationHandle
        return answer

    def fetch(self, rows=1000):
        return self.client.FetchResults(t.TFetchResultsReq(self.operation, t.TFetchOrientation.FETCH_NEXT, rows))

    def close(self):
        self.socket.close()


@pytest.fixture
def relayed(node):
    """``relayed(*faults)`` -> relay; all are stopped."""
    with contextlib.ExitStack() as stack:
        yield lambda *faults: stack.enter_context(Relay(node.host, node.port, faults=faults))


@pytest.fixture
def talk():
    with contextlib.ExitStack() as stack:

        def make(relay, timeout=10.0):
            made = Talk(relay.port, timeout)
            stack.callback(made.close)
            return made

        yield make


def marked():
    """A statement that only this test sends."""
    return f"SELECT 'mark {next(_number)} of {time.time()}'"


def ran(node, sql):
    return sum(entry.get("sql") == sql for entry in node.journal())


def test_messages_are_found_wherever_the_stream_is_cut(node, relayed, talk):
    relay = relayed()
    client = talk(relay)
    client.execute("SELECT 1")
    stream = b"".join(call.request for call in relay.calls)
    for size in (1, 2, 7, len(stream)):
        messages, found = Messages(), []
        for start in range(0, len(stream), size):
            found += messages.feed(stream[start : start + size])
        assert [name for name, _ in found] == ["OpenSession", "ExecuteStatement"]
        assert b"".join(message for _, message in found) == stream
        assert messages.rest == b""


def test_without_faults_everything_passes_and_each_call_is_known(node, relayed, talk):
    relay = relayed()
    first, second = talk(relay), talk(relay)
    first.execute("SELECT 1")
    second.execute("SELECT 2")
    assert len(first.fetch().results.columns) == 1
    assert relay.names() == ["OpenSession"] * 2 + ["ExecuteStatement"] * 2 + ["FetchResults"]
    assert [(call.nth, call.connection) for call in relay.calls] == [(1, 1), (2, 2), (1, 1), (2, 2), (1, 1)]
    assert relay.calls[-1].statement == 2
    assert relay.fired == []


@pytest.mark.parametrize("where", ["before", "request_half", "after", "within"])
@pytest.mark.parametrize("how", ["cut", "reset", "blackhole"])
def test_a_fault_ends_the_call_and_only_after_it_has_the_statement_run(node, relayed, talk, where, how):
    relay = relayed(Fault("ExecuteStatement", 2, where, how))
    client, sql = talk(relay), marked()
    client.execute("SELECT 1")
    client.limit(1.0 if how == "blackhole" else 10.0)
    start = time.monotonic()
    with pytest.raises((TTransportException, EOFError)) as caught:
        client.execute(sql)
    if how == "blackhole":
        assert caught.value.type == TTransportException.TIMED_OUT
        assert time.monotonic() - start > 0.9
    elif how == "reset":
        # What is in the buffer when RST comes may be read before it.
        assert isinstance(caught.value.inner, ConnectionResetError) or where == "within"
    else:
        assert caught.value.type == TTransportException.END_OF_FILE
    assert [(call.rpc, call.nth, fault.where, fault.how) for call, fault in relay.fired] == [
        ("ExecuteStatement", 2, where, how)
    ]
    talk(relay).execute("SELECT 1")  # new connections work
    wait_until_over(node, relay)
    assert ran(node, sql) == (where in ("after", "within"))


def test_a_reset_behind_a_request_does_not_take_it_away(node, relayed, talk):
    """The server has not read the request yet when RST comes."""
    relay = relayed(Fault("ExecuteStatement", 1, "after", "reset"))
    client, sql = talk(relay), marked()
    node.pause()
    try:
        with pytest.raises(TTransportException):
            client.execute(sql)
    finally:
        node.resume()
    wait_until_over(node, relay)
    assert ran(node, sql) == 1


@pytest.mark.parametrize("how", ["cut", "reset", "blackhole"])
def test_after_does_not_wait_for_the_reply(node, relayed, talk, how):
    relay = relayed(Fault("FetchResults", 1, "after", how))
    client = talk(relay)
    client.execute("SELECT sleep(2000)")
    client.limit(0.3)
    with pytest.raises((TTransportException, EOFError)):
        client.fetch()
    assert executing(node) == 1
    wait_until_over(node, relay)


@pytest.mark.parametrize("where", ["before", "request_half", "after", "within"])
def test_a_delay_loses_nothing(node, relayed, talk, where):
    relay = relayed(Fault("ExecuteStatement", 1, where, "delay", 0.3))
    client, sql = talk(relay), marked()
    start = time.monotonic()
    assert client.execute(sql).status.statusCode == t.TStatusCode.SUCCESS_STATUS
    assert time.monotonic() - start > 0.29
    assert client.fetch().results.columns[0].stringVal.values == [sql[8:-1].encode()]
    wait_until_over(node, relay)
    assert ran(node, sql) == 1


@pytest.mark.parametrize("where", ["before", "request_half"])
def test_a_request_that_is_late_arrives_though_the_client_has_hung_up(node, relayed, talk, where):
    relay = relayed(Fault("ExecuteStatement", 1, where, "delay", 1.5))
    client, sql = talk(relay), marked()
    client.limit(0.2)
    with pytest.raises(TTransportException):
        client.execute(sql)
    client.close()
    assert ran(node, sql) == 0
    wait_until_over(node, relay)
    assert ran(node, sql) == 1


def test_a_blackhole_holds_its_connection_only_until_the_relay_stops(node, relayed, talk):
    relay = relayed(Fault("ExecuteStatement", 1, "before", "blackhole"))
    client = talk(relay)
    client.limit(0.2)
    with pytest.raises(TTransportException):
        client.execute("SELECT 1")
    client.close()
    time.sleep(0.3)
    assert relay.upstreams & connected(node)  # the server has not heard of it
    wait_until_over(node, relay)
    assert not relay.upstreams & connected(node)


def test_faults_fire_as_often_as_they_are_told(node, relayed, talk):
    relay = relayed(Fault("ExecuteStatement", 2, "before", "cut", times=2), Fault("OpenSession", 5, "before", "cut"))
    talk(relay).execute("SELECT 1")
    for _ in range(2):
        client = talk(relay)
        with pytest.raises((TTransportException, EOFError)):
            client.execute("SELECT 1")
    talk(relay).execute("SELECT 1")
    with pytest.raises((TTransportException, EOFError)):
        talk(relay)
    talk(relay).execute("SELECT 1")
    assert [call.nth for call, _ in relay.fired] == [2, 3, 5]


def test_a_callable_decides(node, talk):
    def decide(call: Call) -> Fault | None:
        return Fault(call.rpc, how="cut", where="before") if b"INSERT" in call.request else None

    with Relay(node.host, node.port, faults=decide) as relay:
        client = talk(relay)
        client.execute("SELECT 1")
        with pytest.raises((TTransportException, EOFError)):
            client.execute("INSERT INTO nowhere VALUES (1)")


def test_down_refuses_new_connections_and_up_takes_them_again(node, relayed, talk):
    relay = relayed()
    client = talk(relay)
    for seconds in (float("inf"), 60):
        relay.down(seconds)
        with pytest.raises(ConnectionRefusedError):
            socket.create_connection(("127.0.0.1", relay.port))
        client.execute("SELECT 1")  # the old ones go on
        relay.up()
        talk(relay).execute("SELECT 1")
    relay.down(0.2)
    with pytest.raises(ConnectionRefusedError):
        socket.create_connection(("127.0.0.1", relay.port))
    eventually(lambda: accepts(relay))
    talk(relay).execute("SELECT 1")


def test_down_silent_accepts_and_does_not_answer(node, relayed, talk):
    relay = relayed()
    client = talk(relay)
    relay.down(silent=True)
    with pytest.raises(TTransportException) as caught:
        talk(relay, 0.3)
    assert caught.value.type == TTransportException.TIMED_OUT
    client.execute("SELECT 1")
    relay.up()
    talk(relay).execute("SELECT 1")


def test_a_fault_may_take_the_network_down_with_it(node, relayed, talk):
    relay = relayed(Fault("ExecuteStatement", 1, "before", "reset", down=0.3))
    client = talk(relay)
    with pytest.raises(TTransportException):
        client.execute("SELECT 1")
    assert not accepts(relay)
    eventually(lambda: accepts(relay))


def accepts(relay):
    try:
        socket.create_connection(("127.0.0.1", relay.port)).close()
    except ConnectionRefusedError:
        return False
    return True


def test_a_server_that_is_gone_ends_its_connections(relayed, talk):
    with Sandbox(nodes=1, lag=0, users=None) as cluster, Relay("127.0.0.1", cluster.nodes[0].port) as relay:
        client = talk(relay)
        cluster.nodes[0].kill()
        with pytest.raises((TTransportException, EOFError)):
            client.execute("SELECT 1")
        with pytest.raises((TTransportException, EOFError)):
            talk(relay)


def test_many_connections_at_once_and_a_clean_stop(node, talk):
    before = threading.active_count()
    with Relay(node.host, node.port, faults=[Fault("ExecuteStatement", 5, "after", "blackhole")]) as relay:
        failed = []

        def work():
            client = Talk(relay.port, 5.0)
            try:
                for _ in range(5):
                    client.execute("SELECT 1")
            except TTransportException as error:
                failed.append(error)
            finally:
                client.close()

        threads = [threading.Thread(target=work) for _ in range(8)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join(20)
        assert len(failed) == len(relay.fired) == 1  # the others' connections are not touched
        idle = talk(relay)
        relay.down()
    assert threading.active_count() <= before
    with pytest.raises((TTransportException, EOFError)):
        idle.execute("SELECT 1")
    with pytest.raises(ConnectionRefusedError):
        socket.create_connection(("127.0.0.1", relay.port))
