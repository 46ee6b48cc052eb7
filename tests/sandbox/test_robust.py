"""What cannot be answered is an error of the statement; the connection and the session live on."""

from __future__ import annotations

import contextlib
from typing import Any

import pytest
from impala._thrift_gen.ImpalaService import ImpalaHiveServer2Service as service
from impala._thrift_gen.TCLIService import ttypes as t
from impala.error import HiveServer2Error, OperationalError
from thrift.protocol.TBinaryProtocol import TBinaryProtocolAcceleratedFactory
from thrift.transport.TTransport import TMemoryBuffer

from airflow_provider_impala_lb.sandbox import Sandbox
from airflow_provider_impala_lb.sandbox.server.hs2_server import HS2Server
from tests.support.sandbox import Open, rows

BIG = "select 9223372036854775807 x union all select 1"


def test_a_sum_wraps_around(plain: Sandbox, open_cursor: Open) -> None:
    """``AggregateFunctions::SumUpdate`` adds without a sign: in two's complement."""
    cursor = open_cursor(plain.nodes[0])
    assert rows(cursor, f"select sum(x), count(*) from ({BIG}) t") == [(-(2**63), 2)]
    assert rows(cursor, f"select sum(x) from ({BIG} union all {BIG}) t") == [(0,)]
    assert rows(cursor, "select sum(x), typeof(sum(x)) from (select cast(2 as int) x) t") == [(2, "BIGINT")]
    assert rows(cursor, "select 1") == [(1,)]


@pytest.mark.parametrize(
    "sql",
    [
        f"select sum(x) over () from ({BIG}) t",
        f"select x + 1 from ({BIG}) t",
        "select 99999999999999999999 * 99999999999999999999",
        "select factorial(30)",
    ],
)
def test_a_number_that_does_not_fit(plain: Sandbox, open_cursor: Open, sql: str) -> None:
    cursor = open_cursor(plain.nodes[0])
    with pytest.raises((HiveServer2Error, OperationalError)):
        print(rows(cursor, sql))
    with contextlib.suppress(HiveServer2Error):  # a fetch that failed has unregistered it
        cursor.close_operation()
    assert rows(cursor, "select 1") == [(1,)]


def test_a_request_that_is_not_whole(plain: Sandbox, open_cursor: Open) -> None:
    cursor = open_cursor(plain.nodes[0])
    client = cursor.session.client
    answer = client.FetchResults(t.TFetchResultsReq(operationHandle=None, orientation=0, maxRows=1))
    assert answer.status.statusCode == t.TStatusCode.ERROR_STATUS
    assert "the practice cluster failed" in answer.status.errorMessage
    assert rows(cursor, "select 1") == [(1,)]


def test_an_answer_that_cannot_be_written(capsys: pytest.CaptureFixture[str]) -> None:
    """Half of it must not reach the client: it gets another, whole one, and the next call is heard."""

    class Broken:
        def GetLog(self, request: Any) -> Any:
            return t.TGetLogResp(t.TStatus(statusCode=t.TStatusCode.SUCCESS_STATUS), log=object())

    server = object.__new__(HS2Server)
    server._protocols = TBinaryProtocolAcceleratedFactory()
    sent, answers = TMemoryBuffer(), TMemoryBuffer()
    client = service.Client(server._protocols.getProtocol(sent))
    handle = t.TOperationHandle(t.THandleIdentifier(b"g" * 16, b"s" * 16), 0, False)
    client.send_GetLog(t.TGetLogReq(handle))
    client.send_GetLog(t.TGetLogReq(handle))
    both = server._protocols.getProtocol(Both(sent.getvalue(), answers))
    for _ in range(2):
        server._answer_one(service.Processor(Broken()), both)
    replies = TMemoryBuffer(answers.getvalue())
    client = service.Client(server._protocols.getProtocol(replies))
    for _ in range(2):
        answer = client.recv_GetLog()
        assert answer.status.statusCode == t.TStatusCode.ERROR_STATUS
        assert "the practice cluster failed" in answer.status.errorMessage


class Both(TMemoryBuffer):  # type: ignore[misc]
    """Reads what the client sent, writes elsewhere."""

    def __init__(self, sent: bytes, answers: TMemoryBuffer) -> None:
        super().__init__(sent)
        self._answers = answers

    def write(self, data: bytes) -> None:
        self._answers.write(data)


def test_days_before_the_year_1000(plain: Sandbox, open_cursor: Open) -> None:
    cursor = open_cursor(plain.nodes[0])
    assert (
        rows(cursor, "select cast(date '0005-01-02' as string), date_add(date '0005-01-02', 1)")[0][0] == "0005-01-02"
    )


def test_bytes(plain: Sandbox, open_cursor: Open) -> None:
    cursor = open_cursor(plain.nodes[0])
    assert rows(cursor, "select unhex('C3B1'), unhex('4'), unhex('zz'), unhex(null)") == [("ñ", "", "", None)]
    assert rows(cursor, "select cast(unhex('00ff27') as binary), cast('a\\\\x41' as binary)") == [
        (b"\x00\xff'", b"a\\x41")
    ]
    with pytest.raises(OperationalError, match="the practice cluster does not have this: a STRING that is not UTF-8"):
        rows(cursor, "select concat(unhex('ff'), 'a')")
