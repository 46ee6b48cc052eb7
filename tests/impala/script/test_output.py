"""Results as files: whole or not at all, with their types, and without ever being in memory."""

import csv
import datetime
import gzip
import json
import os
import stat
import subprocess
import sys
from decimal import Decimal

import pytest

from airflow_provider_impala_lb import Balancer
from airflow_provider_impala_lb.errors import ConfigError
from airflow_provider_impala_lb.impala.hs2.ids import StatementError
from airflow_provider_impala_lb.impala.script.output import ROWS_AT_ONCE, check, write
from airflow_provider_impala_lb.sandbox import Sandbox
from tests.support.scripts import run

try:
    import pyarrow
    import pyarrow.parquet
except ImportError:
    if os.environ.get("CI"):
        raise
    pyarrow = None

needs_pyarrow = pytest.mark.skipif(pyarrow is None, reason="pyarrow is not installed: Parquet is NOT tested")
ENDINGS = [".csv", ".csv.gz", pytest.param(".parquet", marks=needs_pyarrow)]

TYPES = """
    SELECT CAST({} AS BOOLEAN) yes, CAST({} AS TINYINT) t, CAST({} AS SMALLINT) s, CAST({} AS INT) i,
      CAST({} AS BIGINT) big, CAST({} AS FLOAT) f, CAST({} AS DOUBLE) d, CAST({} AS DECIMAL(38,10)) m,
      CAST({} AS DECIMAL(9,0)) n, CAST({} AS STRING) text, CAST({} AS VARCHAR(9)) v, CAST({} AS CHAR(3)) c,
      CAST({} AS TIMESTAMP) moment, CAST({} AS DATE) day, CAST({} AS BINARY) raw
"""
VALUES = [
    *("true", "-128", "32767", "2147483647", "-9223372036854775808", "0.5", "1e300"),
    *("'-1234567890123456789012345678.0123456789'", "'0'", "'it,\"s\nü'", "'v'", "'abc'"),
    *("'2020-01-02 03:04:05.678901'", "'1999-12-31'", "'xy'"),
]


@pytest.fixture
def session(balancer, cluster):
    with balancer.sessions.open(cluster.nodes[0].address) as session:
        yield session


@pytest.mark.parametrize(
    "query",
    [
        "SELECT 'insert' op, 1 id",
        "SELECT 1 a -- was: delete from t",
        "SELECT 1 `update`",
        "SELECT * FROM (SELECT 1 merged, /* merge */ 'upsert' b) x",
    ],
)
def test_words_in_strings_names_and_comments_make_no_change_of_a_query(balancer, tmp_path, query):
    path = tmp_path / "r.csv"
    done = run(balancer, f"SHOW TABLES; {query}", output=str(path), publish=5)
    assert path.read_text().splitlines()[0] != "name"
    assert len(path.read_text().splitlines()) == 2
    assert done.output.rows == 1
    assert done.left.published  # nothing was changed


def all_types(session):
    session.execute(TYPES.format(*VALUES) + " UNION ALL " + TYPES.format(*["NULL"] * 15))


def many_rows(session, count=300_000):
    """Rows of a number, a text of 40 characters, a decimal, a timestamp."""
    digits = " UNION ALL ".join(f"SELECT {digit} n" for digit in range(10))
    names = "abcdef"
    number = " + ".join(f"{10**place} * {name}.n" for place, name in enumerate(names))
    session.execute(
        f"WITH digits AS ({digits}), numbers AS (SELECT {number} n FROM "
        + ", ".join(f"digits {name}" for name in names)
        + f") SELECT n, concat('{'x' * 30}', lpad(CAST(n AS STRING), 10, '0')) text, CAST(n AS DECIMAL(18,2)) amount, "
        f"CAST('2020-01-01' AS TIMESTAMP) at FROM numbers WHERE n < {count}"
    )


def read_csv(path):
    opened = gzip.open if str(path).endswith(".gz") else open
    with opened(path, "rt", encoding="utf-8", newline="") as file:
        return list(csv.reader(file))


@pytest.mark.parametrize("ending", [".csv", ".csv.gz"])
def test_all_types_as_csv(session, tmp_path, ending):
    all_types(session)
    done = write(session.cursor, tmp_path / f"all{ending}")
    assert (done.rows, done.bytes) == (2, os.path.getsize(done.path))
    header, values, nulls = sorted(read_csv(done.path), key=lambda row: (row[0] != "yes", row[0] == ""))
    assert header == ["yes", "t", "s", "i", "big", "f", "d", "m", "n", "text", "v", "c", "moment", "day", "raw"]
    assert values == [
        *("true", "-128", "32767", "2147483647", "-9223372036854775808", "0.5", "1e+300"),
        *("-1234567890123456789012345678.0123456789", "0", 'it,"s\nü', "v", "abc"),
        *("2020-01-02 03:04:05.678901", "1999-12-31", "eHk="),
    ]
    assert nulls == [""] * 15


def test_small_decimals_are_written_out(session, tmp_path):
    session.execute("SELECT CAST('0.00000001' AS DECIMAL(20,8)) a, CAST('0' AS DECIMAL(20,8)) b")
    write(session.cursor, tmp_path / "a.csv")
    assert read_csv(tmp_path / "a.csv")[1] == ["0.00000001", "0.00000000"]


def test_a_row_of_one_null_is_not_an_empty_line(session, tmp_path):
    session.execute("SELECT CAST(NULL AS INT) a")
    write(session.cursor, tmp_path / "a.csv")
    assert (tmp_path / "a.csv").read_bytes() == b'a\n""\n'


@needs_pyarrow
def test_all_types_as_parquet(session, tmp_path):
    all_types(session)
    done = write(session.cursor, tmp_path / "all.parquet")
    table = pyarrow.parquet.read_table(done.path)
    assert (done.rows, done.bytes) == (2, os.path.getsize(done.path))
    assert [str(kind) for kind in table.schema.types] == [
        *("bool", "int8", "int16", "int32", "int64", "float", "double", "decimal128(38, 10)", "decimal128(9, 0)"),
        *("string", "string", "string", "timestamp[us]", "date32[day]", "binary"),
    ]
    values, nulls = sorted(table.to_pylist(), key=lambda row: row["yes"] is None)
    assert list(values.values()) == [
        *(True, -128, 32767, 2147483647, -9223372036854775808, 0.5, 1e300),
        *(Decimal("-1234567890123456789012345678.0123456789"), Decimal(0), 'it,"s\nü', "v", "abc"),
        *(datetime.datetime(2020, 1, 2, 3, 4, 5, 678901), datetime.date(1999, 12, 31), b"xy"),
    ]
    assert set(nulls.values()) == {None}


@needs_pyarrow
def test_other_programs_read_the_parquet_file(session, tmp_path):
    import duckdb

    all_types(session)
    write(session.cursor, tmp_path / "all.parquet")
    rows = duckdb.sql(f"SELECT i, m, moment, raw FROM '{tmp_path}/all.parquet' WHERE yes").fetchall()
    amount = Decimal("-1234567890123456789012345678.0123456789")
    assert rows == [(2147483647, amount, datetime.datetime(2020, 1, 2, 3, 4, 5, 678901), b"xy")]


class Given:
    """A cursor with the rows a test gives it: for what the practice coordinators cannot answer."""

    def __init__(self, description, rows):
        self.description = [(name, kind, None, None, None, None, None) for name, kind in description]
        self._rows = rows

    def fetchmany(self, size):
        rows, self._rows = self._rows[:size], self._rows[size:]
        return rows


def odd_values():
    columns = [("list", "ARRAY"), ("raw", "STRING"), ("nothing", "NULL")]
    return Given(columns, [('["a",1]', b"a\xff", None)])


def test_complex_types_are_texts_and_broken_utf_8_is_shown(tmp_path):
    write(odd_values(), tmp_path / "a.csv")
    assert read_csv(tmp_path / "a.csv") == [["list", "raw", "nothing"], ['["a",1]', "a\\xff", ""]]


@needs_pyarrow
def test_complex_types_are_texts_and_broken_utf_8_is_shown_in_parquet_too(tmp_path):
    write(odd_values(), tmp_path / "a.parquet")
    table = pyarrow.parquet.read_table(tmp_path / "a.parquet")
    assert table.to_pylist() == [{"list": '["a",1]', "raw": "a\\xff", "nothing": None}]


@pytest.mark.parametrize("ending", ENDINGS)
def test_an_empty_result_is_a_file_with_its_columns(session, tmp_path, ending):
    session.execute("SELECT CAST(1 AS INT) a, 'x' b WHERE false")
    done = write(session.cursor, tmp_path / f"a{ending}")
    assert done.rows == 0
    if ending == ".parquet":
        table = pyarrow.parquet.read_table(done.path)
        assert (table.num_rows, table.column_names, str(table.schema.types[0])) == (0, ["a", "b"], "int32")
    else:
        assert read_csv(done.path) == [["a", "b"]]


@pytest.mark.parametrize("ending", ENDINGS)
def test_it_is_a_handler(balancer, cluster, tmp_path, ending):
    from tests.support.scripts import run

    path = tmp_path / f"a{ending}"
    done = run(balancer, "SELECT 1 a UNION ALL SELECT 2", handler=lambda cursor: write(cursor, path))
    assert (done.results[0].path, done.results[0].rows) == (str(path), 2)


@pytest.mark.slow
@pytest.mark.parametrize("ending", ENDINGS)
def test_300_000_rows(session, tmp_path, ending):
    many_rows(session)
    done = write(session.cursor, tmp_path / f"a{ending}")
    assert done.rows == 300_000
    if ending == ".parquet":
        file = pyarrow.parquet.ParquetFile(done.path)
        sizes = [file.metadata.row_group(number).num_rows for number in range(file.num_row_groups)]
        assert sizes == [50_000] * 6
        assert pyarrow.compute.sum(file.read(["n"])["n"]).as_py() == sum(range(300_000))
    else:
        rows = read_csv(done.path)[1:]
        assert sum(int(row[0]) for row in rows) == sum(range(300_000))
        assert {len(row[1]) for row in rows} == {40}


MEASURE = """
import json, sys
sys.path.insert(0, {tests!r})
from airflow_provider_impala_lb import Balancer
from airflow_provider_impala_lb.impala.script.output import check, write
from tests.impala.script.test_output import many_rows

def peak():
    # getrusage's figure would be that of the process this one was forked from
    return next(int(line.split()[1]) >> 10 for line in open("/proc/self/status") if line.startswith("VmHWM"))

config, node, path, whole = json.loads(sys.argv[1])
check(path)
with Balancer.from_config(config).sessions.open(node) as session:
    many_rows(session, 20_000)
    write(session.cursor, path)  # what is loaded once is loaded
    before = peak()
    many_rows(session)
    if whole:
        session.cursor.fetchall()
    else:
        assert write(session.cursor, path).rows == 300_000
    print(peak() - before)
"""


def growth(cluster, path, whole=False):
    """MiB by which a process grows that fetches 300,000 rows after 20,000."""
    code = MEASURE.format(tests=os.getcwd())
    asked = json.dumps([cluster.config, cluster.nodes[0].address, str(path), whole])
    done = subprocess.run([sys.executable, "-c", code, asked], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    return int(done.stdout)


@pytest.mark.slow
def test_memory_does_not_grow_with_the_rows(cluster, tmp_path):
    bound = 45
    assert growth(cluster, tmp_path / "a.csv", whole=True) > 1.5 * bound  # what it would be otherwise
    assert growth(cluster, tmp_path / "a.csv.gz") < bound
    if pyarrow is not None:
        assert growth(cluster, tmp_path / "a.parquet") < bound


class Breaks:
    """A real cursor, before whose second fetch something happens."""

    def __init__(self, cursor, happens):
        self._cursor, self._happens = cursor, happens
        self.description = cursor.description
        self._fetches = 0

    def fetchmany(self, size):
        self._fetches += 1
        if self._fetches == 2:
            self._happens()
        return self._cursor.fetchmany(size)


@pytest.mark.slow
@pytest.mark.parametrize("ending", ENDINGS)
def test_nothing_is_left_when_the_coordinator_dies_in_between(tmp_path, ending):
    path = tmp_path / f"a{ending}"
    path.write_text("the one before")
    with Sandbox(nodes=1, lag=0) as cluster:
        session = Balancer.from_config(cluster.config).sessions.open(cluster.nodes[0].address)
        many_rows(session, 3 * ROWS_AT_ONCE)
        with session, pytest.raises(StatementError, match="fetching its rows failed"):
            session.fetch(lambda cursor: write(Breaks(cursor, cluster.nodes[0].kill), path), session.cursor)
    assert os.listdir(tmp_path) == [path.name]
    assert path.read_text() == "the one before"


@pytest.mark.filterwarnings("error::pytest.PytestUnraisableExceptionWarning")
@pytest.mark.parametrize("ending", ENDINGS)
def test_nothing_is_left_when_the_task_is_stopped_in_between(session, tmp_path, ending):
    def stop():
        raise KeyboardInterrupt  # like a task's time limit, no Exception

    many_rows(session, 3 * ROWS_AT_ONCE)
    with pytest.raises(KeyboardInterrupt):
        write(Breaks(session.cursor, stop), tmp_path / f"a{ending}")
    assert os.listdir(tmp_path) == []


FULL = """
import json, resource, signal, sys
sys.path.insert(0, {tests!r})
from airflow_provider_impala_lb import Balancer
from airflow_provider_impala_lb.impala.script.output import write
from tests.impala.script.test_output import many_rows

config, node, path = json.loads(sys.argv[1])
signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
with Balancer.from_config(config).sessions.open(node) as session:
    many_rows(session, 60_000)
    session.cursor.description
    resource.setrlimit(resource.RLIMIT_FSIZE, (20_000, 20_000))
    try:
        write(session.cursor, path)
    except OSError as error:
        print(error.strerror or error)
"""


@pytest.mark.parametrize("ending", ENDINGS)
def test_nothing_is_left_when_the_disk_is_full(cluster, tmp_path, ending):
    """A limit on the size of files stands in for the disk."""
    asked = json.dumps([cluster.config, cluster.nodes[0].address, str(tmp_path / f"a{ending}")])
    code = FULL.format(tests=os.getcwd())
    done = subprocess.run([sys.executable, "-c", code, asked], capture_output=True, text=True, check=False)
    assert "File too large" in done.stdout, done.stderr
    assert "Traceback" not in done.stderr
    assert os.listdir(tmp_path) == []


@pytest.mark.parametrize("name", ["a.txt", "a", "a.csv.zip", ".csv", ".parquet", "a.gz"])
def test_another_ending_is_refused(tmp_path, name):
    with pytest.raises(ConfigError, match=r"must end in \.csv, \.csv\.gz or \.parquet"):
        check(tmp_path / name)


def test_where_no_file_can_be_written_is_said_before_anything_is_sent(tmp_path):
    with pytest.raises(ConfigError, match="No such file or directory"):
        check(tmp_path / "missing" / "a.csv")
    (tmp_path / "a.csv").mkdir()
    with pytest.raises(ConfigError, match="this is a directory"):
        check(tmp_path / "a.csv")
    with pytest.raises(ConfigError, match="no file can be written there"):
        check("/proc/a.csv")
    (tmp_path / "file").touch()
    with pytest.raises(ConfigError, match="Not a directory"):
        check(tmp_path / "file" / "a.csv")
    check(tmp_path / "b.CSV")
    assert sorted(os.listdir(tmp_path)) == ["a.csv", "file"]


def test_a_missing_pyarrow_is_said_with_the_extra_that_brings_it(tmp_path):
    (tmp_path / "pyarrow.py").write_text("raise ImportError('not here')")
    code = f"from airflow_provider_impala_lb.impala.script.output import check; check({str(tmp_path / 'a.parquet')!r})"
    environment = {**os.environ, "PYTHONPATH": f"{tmp_path}:{os.getcwd()}"}
    done = subprocess.run([sys.executable, "-c", code], env=environment, capture_output=True, text=True, check=False)
    assert "ConfigError" in done.stderr
    assert "pip install 'airflow-provider-impala-lb[parquet]'" in done.stderr


def test_a_statement_without_rows(session, tmp_path):
    session.execute("SET MEM_LIMIT=1g")
    with pytest.raises(ConfigError, match="gives no rows"):
        write(session.cursor, tmp_path / "a.csv")
    assert os.listdir(tmp_path) == []


def mode(path):
    return stat.S_IMODE(os.lstat(path).st_mode)


def test_the_umask_decides_who_may_read_it_or_the_file_that_it_replaces(session, tmp_path):
    path = tmp_path / "a.csv"
    seen = []

    def look():
        seen.extend(mode(tmp_path / name) for name in os.listdir(tmp_path) if name.startswith(".impala-lb-"))

    before = os.umask(0o027)
    try:
        many_rows(session, 2 * ROWS_AT_ONCE)
        write(Breaks(session.cursor, look), path)
        assert mode(path) == 0o640
        path.chmod(0o600)
        many_rows(session, 2 * ROWS_AT_ONCE)
        write(Breaks(session.cursor, look), path)
        assert mode(path) == 0o600
        path.chmod(0o664)
        many_rows(session, 2 * ROWS_AT_ONCE)
        write(Breaks(session.cursor, look), path)
        assert mode(path) == 0o664
    finally:
        os.umask(before)
    assert seen == [0o640, 0o600, 0o664]


def test_a_link_is_replaced_and_its_target_left_alone(session, tmp_path):
    (tmp_path / "target").write_text("precious")
    (tmp_path / "a.csv").symlink_to(tmp_path / "target")
    session.execute("SELECT 1 a")
    write(session.cursor, tmp_path / "a.csv")
    assert (tmp_path / "target").read_text() == "precious"
    assert (tmp_path / "a.csv").read_text() == "a\n1\n"
    assert not (tmp_path / "a.csv").is_symlink()
