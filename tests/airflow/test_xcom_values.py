"""Values in XCom: what comes out of Airflow's own serialisation is what was put in."""

import json
import time
from collections import namedtuple
from datetime import date, datetime
from decimal import Decimal
from types import SimpleNamespace

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from airflow_provider_impala_lb.operators.xcom_values import carried

try:
    from airflow.sdk.bases.xcom import BaseXCom
except ImportError:  # Airflow 2
    from airflow.models.xcom import BaseXCom

VALUES = st.one_of(
    st.floats(),
    st.decimals(allow_nan=False, allow_infinity=False),
    st.decimals(places=2, allow_nan=False, allow_infinity=False),
    st.datetimes(),
    st.dates(),
    st.text(st.characters(exclude_categories=())),
    st.binary(),
    st.integers(),
    st.booleans(),
    st.none(),
)


def through(value):
    """As Airflow stores it and reads it: JSON that knows no NaN, in UTF-8, without a NUL character."""
    stored = BaseXCom.serialize_value(value)
    if isinstance(stored, bytes):  # Airflow 2
        assert b"NaN" not in stored.replace(b'"NaN"', b"") and b"\\u0000" not in stored
        return BaseXCom.deserialize_value(SimpleNamespace(value=stored))
    text = json.dumps(stored, allow_nan=False, ensure_ascii=False)
    assert "\\u0000" not in text.replace("\\\\", "")
    return BaseXCom.deserialize_value(SimpleNamespace(value=json.loads(text.encode().decode())))


@pytest.fixture(params=["UTC", "Europe/Berlin", "Pacific/Apia"])
def zone(request, monkeypatch):
    monkeypatch.setenv("TZ", request.param)
    time.tzset()
    yield
    monkeypatch.undo()
    time.tzset()


def test_what_is_pushed_is_what_is_pulled(zone):
    @settings(max_examples=300, deadline=None)
    @given(st.lists(VALUES, max_size=3))
    def check(row):
        pushed = carried([row], None)
        assert through(pushed) == pushed
        for value, put in zip(row, pushed[0], strict=True):
            if isinstance(value, Decimal):
                assert Decimal(put) == value
            elif isinstance(value, float) and value == value:
                assert float(put) == value
            elif isinstance(value, (datetime, date)):
                assert put == value or put == str(value)

    check()


def test_a_local_time_that_does_not_exist(zone):
    """Berlin's clocks went from 02:00 to 03:00: Airflow would make another time of it."""
    gap = datetime(2026, 3, 29, 2, 30)
    (pushed,) = carried([gap], None)
    assert through([pushed]) == [pushed]
    assert pushed in (gap, str(gap))


def test_columns_tell_binary_from_text():
    description = [("b", "BINARY"), ("s", "STRING")]
    row = (b"\xff\x80", b"caf\xc3\xa9\xff")
    assert carried([row, row], description) == [("/4A=", "café\\xff")] * 2
    assert carried(row, description) == ("/4A=", "café\\xff")
    assert carried(b"\xff", None) == "\\xff"
    assert carried({"k": [float("nan")]}, description) == {"k": ["nan"]}


def test_what_needs_no_change_is_the_same_object():
    rows = [(1, "é", 1.5, Decimal("1.5"), None, date(2026, 1, 1))]
    assert carried(rows, None) is rows
    named = namedtuple("named", "a b")
    assert carried(named(float("inf"), 1), None) == named("inf", 1)
