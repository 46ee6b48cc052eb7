"""Rows that are unusual: very large, late, of no type that Python has, and rows that no file takes."""

import contextlib
import csv
import datetime
import gzip
import resource
import struct
from decimal import Decimal

import pytest
from impala._thrift_gen.TCLIService import TCLIService
from impala._thrift_gen.TCLIService.ttypes import TFetchResultsResp, TStatus, TStatusCode
from thrift.protocol.TBinaryProtocol import TBinaryProtocol
from thrift.Thrift import TMessageType
from thrift.transport.TTransport import TMemoryBuffer

from airflow_provider_impala_lb.errors import StatementFailed
from airflow_provider_impala_lb.impala.script.output import unique_names
from airflow_provider_impala_lb.sandbox import Sandbox
from airflow_provider_impala_lb.stores.factory import open_journals
from tests.support.relay import Fault, Relay
from tests.support.scripts import changed, rows_of, run, statements_on

LARGE = 20_000_000
ENDINGS = [".csv", ".csv.gz", ".parquet"]


@pytest.fixture(scope="module")
def cluster():
    """Without a login: the relay reads what it passes on."""
    with Sandbox(nodes=3, lag=0, users=None) as cluster:
        yield cluster


@contextlib.contextmanager
def relayed(cluster, *faults):
    """A balancer whose only node is behind a relay."""
    node = cluster.nodes[0]
    with Relay(node.host, node.port, faults=faults) as relay:
        listed = [{"host": "127.0.0.1", "port": relay.port, "web": node.web}]
        lock_file = str(cluster.directory / f"relay-{relay.port}.tmp")
        yield changed(cluster, nodes=listed, lock_file=lock_file), relay


def read(path):
    if path.suffix == ".parquet":
        import pyarrow.parquet

        table = pyarrow.parquet.read_table(path)
        columns = [[str(value) for value in column.to_pylist()] for column in table.columns]
        return [table.column_names, *(list(row) for row in zip(*columns, strict=True))]
    csv.field_size_limit(1 << 30)
    with (gzip.open if path.suffix == ".gz" else open)(path, "rt", encoding="utf-8", newline="") as file:
        return list(csv.reader(file))


def test_a_cell_larger_than_thrift_allows_arrives(balancer):
    done = run(balancer, f"SELECT 1; SELECT repeat('x', {LARGE}), 7", handler=rows_of)
    [(text, number)] = done.results[1]
    assert (len(text), set(text), number) == (LARGE, {"x"}, 7)


@pytest.mark.parametrize("ending", ENDINGS)
def test_a_large_cell_is_written_to_a_file(balancer, tmp_path, ending):
    path = tmp_path / f"large{ending}"
    run(balancer, f"SELECT repeat('x', {LARGE}) t", output=str(path))
    header, (text,) = read(path)
    assert header == ["t"]
    assert text == "x" * LARGE


def still_executing(_request):
    """What Impala may answer while a query has no rows yet, without any TRowSet (IMPALA-14653)."""
    status = TStatus(statusCode=TStatusCode.STILL_EXECUTING_STATUS)
    buffer = TMemoryBuffer()
    protocol = TBinaryProtocol(buffer)
    protocol.writeMessageBegin("FetchResults", TMessageType.REPLY, 0)
    TCLIService.FetchResults_result(success=TFetchResultsResp(status=status, hasMoreRows=True)).write(protocol)
    protocol.writeMessageEnd()
    return buffer.getvalue()


def late(*nth):
    return [Fault("FetchResults", each, "before", "alter", alter=still_executing) for each in nth]


@pytest.mark.parametrize("arraysize", [None, 1])
def test_an_answer_that_the_query_is_still_at_work_loses_no_rows(cluster, arraysize):
    def handler(cursor):
        cursor.arraysize = arraysize
        return cursor.fetchall()

    with relayed(cluster, *late(1, 2, 3)) as (balancer, relay):
        done = run(balancer, "SELECT 1 UNION ALL SELECT 2 UNION ALL SELECT 3", handler=handler)
    assert sorted(done.results[0]) == [(1,), (2,), (3,)]
    assert len(relay.fired) == 3


def test_an_answer_that_the_query_is_still_at_work_loses_no_rows_of_a_file(cluster, tmp_path):
    with relayed(cluster, *late(1, 2)) as (balancer, relay):
        run(balancer, "SELECT 1 n", output=str(tmp_path / "late.csv"))
    assert read(tmp_path / "late.csv") == [["n"], ["1"]]
    assert len(relay.fired) == 2


def with_text(old, new):
    """A server in whose rows this text is another one."""

    def alter(reply):
        found = struct.pack(">i", len(old)) + old.encode()
        assert found in reply
        return reply.replace(found, struct.pack(">i", len(new)) + new.encode())

    return Fault("FetchResults", 1, "after", "alter", alter=alter)


MOMENTS = """
    SELECT CAST('2020-01-02 03:04:05' AS TIMESTAMP) at, 'ü' s, CAST(1.5 AS DECIMAL(9,2)) d, CAST('2020-01-01' AS DATE) e
    UNION ALL SELECT NULL, NULL, NULL, NULL
    UNION ALL SELECT CAST('2021-01-01' AS TIMESTAMP), 'b', CAST(2 AS DECIMAL(9,2)), CAST('2021-01-01' AS DATE)
"""


@pytest.mark.parametrize("text", ["08:30:00", "10000-01-01 00:00:00", "no time at all"])
def test_a_timestamp_that_python_has_not_stays_text(cluster, log, tmp_path, text):
    """Impala before 4.0 has TIMESTAMPs that are a time of day."""
    with relayed(cluster, with_text("2020-01-02 03:04:05", text)) as (balancer, _):
        done = run(balancer, MOMENTS, handler=rows_of)
    assert sorted(done.results[0], key=str) == sorted(
        [
            (text, "ü", Decimal("1.50"), datetime.date(2020, 1, 1)),
            (None, None, None, None),
            (datetime.datetime(2021, 1, 1), "b", Decimal("2.00"), datetime.date(2021, 1, 1)),
        ],
        key=str,
    )
    assert f"Column at: '{text}' is no TIMESTAMP" in log.text
    with relayed(cluster, with_text("2020-01-02 03:04:05", text)) as (balancer, _):
        run(balancer, MOMENTS, output=str(tmp_path / "moments.csv"))
    assert [text, "ü", "1.50", "2020-01-01"] in read(tmp_path / "moments.csv")


def test_a_timestamp_that_parquet_has_not_fails_by_its_name(cluster, tmp_path):
    with (
        relayed(cluster, with_text("2020-01-02 03:04:05", "08:30:00")) as (balancer, _),
        pytest.raises(StatementFailed, match=r"column at: '08:30:00' is no timestamp\[us\]") as failed,
    ):
        run(balancer, f"SELECT 1; {MOMENTS}", output=str(tmp_path / "moments.parquet"))
    assert (failed.value.number, failed.value.outcome, failed.value.retry) == (2, "not started", True)
    assert failed.value.query_id
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("ending", ENDINGS)
def test_columns_of_one_name_are_told_apart_in_a_file(balancer, tmp_path, log, ending):
    path = tmp_path / f"twice{ending}"
    run(
        balancer,
        "SELECT a.id, b.id, 3 AS id_2, 4 AS x FROM (SELECT 1 id) a CROSS JOIN (SELECT 2 id) b",
        output=str(path),
    )
    assert read(path) == [["id", "id_3", "id_2", "x"], ["1", "2", "3", "4"]]
    assert "several columns have the same name: there column 2 (id) is id_3" in log.text


@pytest.mark.parametrize(
    ("names", "unique"),
    [
        ([], []),
        (["a", "b"], ["a", "b"]),
        (["a", "a", "a"], ["a", "a_2", "a_3"]),
        (["ID", "id"], ["ID", "id_2"]),
        (["id", "id_2", "id"], ["id", "id_2", "id_3"]),
        (["id", "id", "id_2"], ["id", "id_3", "id_2"]),
        (["", ""], ["", "_2"]),
        (["a_2", "a", "a", "a_2"], ["a_2", "a", "a_3", "a_2_2"]),
    ],
)
def test_unique_names(names, unique):
    assert unique_names(names) == unique


DIGITS = "(" + " UNION ALL ".join(f"SELECT {digit} n" for digit in range(10)) + ")"
MANY = f"SELECT uuid() t FROM {' CROSS JOIN '.join(f'{DIGITS} {name}' for name in 'abcde')}"


@contextlib.contextmanager
def no_file_larger_than(size):
    """A full disk, as far as a process can see one."""
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (size, before[1]))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)


@pytest.mark.parametrize(
    ("before", "resume", "retry"),
    [("SELECT 1", False, True), ("CREATE TABLE {} (n INT)", False, False), ("CREATE TABLE {} (n INT)", True, True)],
)
@pytest.mark.parametrize("ending", ENDINGS)
def test_a_file_that_cannot_be_written_says_that_all_else_is_done(
    cluster, balancer, tmp_path, ending, before, resume, retry
):
    """A retry that would run an earlier change again is none."""
    name = f"full_{resume}_{ending.count('.')}_{ending[1:4]}".lower()
    script = f"{before.format(name)}; {MANY}"
    path = tmp_path / f"full{ending}"
    options = {"output": str(path), "owner": name}
    if resume:
        options |= {"resume": True, "journals": open_journals(balancer.config)}
    with no_file_larger_than(1_500_000), pytest.raises(StatementFailed) as failed:
        run(balancer, script, **options)
    error = failed.value
    assert (error.number, error.total, error.outcome, error.retry) == (2, 2, "not started", retry)
    assert error.query_id
    assert f"could not be written to {path}" in str(error)
    assert "statement 1 is done" in str(error)
    assert ("Only the file is missing" in str(error)) is not retry
    assert list(tmp_path.iterdir()) == []
    assert not [each for each in balancer.status()["nodes"] if each["state"] != "ready"]
    if resume:
        run(balancer, script, **options)
        assert path.exists()
        assert sum("CREATE TABLE" in sql and name in sql for node in cluster.nodes for sql in statements_on(node)) == 1
