"""What a coordinator's page says of a statement that it shows more than once."""

import itertools

import pytest

from airflow_provider_impala_lb.impala.web.debug_pages import Queries, Query

NONCE = "lb:0123456789abcdef"


def query(name, state, *, in_flight):
    return Query(name, f"/* {NONCE} 1/1 */ SELECT 1", "QUERY", state, in_flight)


FAILED = query("1:1", "EXCEPTION", in_flight=True)
ENDED = query("2:2", "FINISHED", in_flight=False)
RUNNING = query("3:3", "RUNNING", in_flight=True)
OTHER = Query("4:4", "SELECT 1", "QUERY", "RUNNING", True)


@pytest.mark.parametrize("order", itertools.permutations([FAILED, ENDED, RUNNING, OTHER]))
def test_of_several_the_one_under_way_is_the_statement(order):
    """With RETRY_FAILED_QUERIES a query that an executor's death has failed runs again under another id."""
    found = Queries(list(order), 200).labelled(NONCE)
    assert found is RUNNING


@pytest.mark.parametrize("order", itertools.permutations([FAILED, OTHER]))
def test_one_that_has_failed_is_found_too(order):
    assert Queries(list(order), 200).labelled(NONCE) is FAILED
    assert Queries([OTHER], 200).labelled(NONCE) is None


@pytest.mark.parametrize("state", ["RUNNING", "FINISHED"])
def test_one_that_quotes_the_label_is_another(state):
    """As an admin's, who looks for the statement by its label."""
    quoting = Query("5:5", f"SELECT count(*) FROM t WHERE x LIKE '%{NONCE}%'", "QUERY", state, True)
    assert Queries([quoting, FAILED], 200).labelled(NONCE) is FAILED
    assert Queries([quoting], 200).labelled(NONCE) is None
