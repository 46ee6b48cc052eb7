import pickle

import pytest

from airflow_provider_impala_lb.errors import ConfigError, JournalDamaged, NoNodeAvailable, ScriptError, StatementFailed


@pytest.mark.parametrize(
    "error",
    [
        ConfigError("bad"),
        JournalDamaged("old"),
        ScriptError("no end", line=3, column=7, name="x.sql"),
        NoNodeAvailable("none", {"a:1": "down"}),
        StatementFailed(
            "boom", number=2, total=3, line=9, node="a:1", query_id="q", outcome="unknown", sql="INSERT", done=["1"]
        ),
    ],
)
def test_errors_survive_the_way_between_processes(error):
    copy = pickle.loads(pickle.dumps(error))
    assert (type(copy), str(copy), vars(copy)) == (type(error), str(error), vars(error))


@pytest.mark.parametrize(
    ("number", "says"),
    [
        (1, "none was run before it, 2 after it not sent"),
        (2, "statement 1 is done, 1 after it not sent"),
        (3, "statements 1 to 2 are done, it was the last"),
    ],
)
def test_a_failure_says_what_is_done_and_what_was_not_sent(number, says):
    error = StatementFailed("x", number=number, total=3, line=1, node="a:1", query_id=None, outcome="unknown")
    assert says in str(error)
    assert "Whether it ran is NOT known" in str(error)
    assert "query none" in str(error)
