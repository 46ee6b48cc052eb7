"""When a statement with SYNC_DDL is done, and only waits for the other coordinators: by its profile's timeline."""

import pytest

from airflow_provider_impala_lb.impala.hs2.ids import applied_at

HEAD = """Query (id=7e4b2d5a1c3f8a90:5d1f2e3c00000000):
  Summary:
    Session ID: a64b8b0f9d3e1c52:8f1d2c3b4a596877
    Impala Query State: RUNNING
    Sql Statement: {sql}
    {ddl_type}Plan: 
----------------
WRITE TO HDFS [default.t, OVERWRITE=false]
----------------
    Query Timeline: 7s123ms
{events}  Frontend:
     - JVM GC: 0.000ns
  ImpalaServer:
     - NumRowsFetched: 0 (0)
     - RowMaterializationTimer: 0.000ns
"""  # noqa: W291

BEGUN = ["Query submitted: 51.123us (51.123us)", "Planning finished: 12.345ms (12.294ms)"]
WRITTEN = ["Last row fetched: 3s200ms (1s100ms)", "DML data written: 3s201ms (1.234ms)"]
DML = [*BEGUN, *WRITTEN, "UpdateCatalog finished: 4s100ms (899.123ms)"]
APPLIED = "Applied catalog updates from DDL: 4s123ms (23.000ms)"


def profile(events, *, sql="INSERT INTO t SELECT 1", ddl_type=""):
    lines = "".join(f"       - {event}\n" for event in events)
    return HEAD.format(sql=sql, events=lines, ddl_type=ddl_type and f"DDL Type: {ddl_type}\n    ")


@pytest.mark.parametrize(
    ("events", "at"),
    [
        (BEGUN, None),
        ([*BEGUN, *WRITTEN], None),  # the metastore may be at work for minutes
        (DML, None),  # said also of a refusal
        ([*DML, APPLIED], 4.123),
        ([*DML, "Transaction committed: 4s110ms (10.000ms)"], 4.110),  # ACID tables, from 3.4 on
        ([*BEGUN, "CatalogDdlRequest finished: 88.500ms (76.155ms)"], None),
        ([*BEGUN, "Applied catalog updates from DDL: 99.500ms (76.155ms)"], 0.0995),
        ([*BEGUN, "Applied catalog version 4711: 3m4s (3m4s)"], 184.0),  # INVALIDATE METADATA
        ([*BEGUN, "Applied catalog updates from DDL: 1h2m (1h2m)"], 3780.0),
    ],
)
def test_only_the_word_of_the_catalog_service_counts(events, at):
    assert applied_at(profile(events)) == (None if at is None else pytest.approx(at))


def test_of_create_table_as_select_only_what_comes_after_its_rows():
    """Both of its steps ask the catalog service, and wait for the others (ExecDdlRequestImpl)."""
    created = [
        *BEGUN,
        "CatalogDdlRequest finished: 88.500ms (76.155ms)",
        "Applied catalog version 7: 2s345ms (2s257ms)",
    ]
    kind = "CREATE_TABLE_AS_SELECT"
    assert applied_at(profile(created, ddl_type=kind)) is None
    assert applied_at(profile([*created, *WRITTEN], ddl_type=kind)) is None
    assert applied_at(profile([*created, *WRITTEN, APPLIED], ddl_type=kind)) == pytest.approx(4.123)


def test_the_text_of_a_statement_is_no_timeline():
    sql = f"SELECT '\n    Query Timeline: 1s\n       - {APPLIED}\n'"
    assert applied_at(profile(BEGUN, sql=sql)) is None
    assert applied_at("") is None
