"""Scripts of very many statements: a journal has room for all that it may have to keep of them, or that is known before
anything is sent."""

import pytest

from airflow_provider_impala_lb.core.state.model import Attempt
from airflow_provider_impala_lb.errors import ConfigError, StatementFailed
from airflow_provider_impala_lb.impala.journal.document import Intent, KeptSession, Record, digests, encode
from airflow_provider_impala_lb.impala.journal.identity import RunIdentity, Target
from airflow_provider_impala_lb.impala.journal.journal import Journal
from airflow_provider_impala_lb.sandbox import Sandbox
from airflow_provider_impala_lb.stores.factory import open_journals
from airflow_provider_impala_lb.stores.journals.document import MAX_BYTES
from airflow_provider_impala_lb.stores.journals.file import FileJournals
from tests.support.resumed_scripts import OWNER, executed, journal_of, resumed
from tests.support.scripts import changed, run

LONGEST = 50_000
"""Statements of a script with ``resume``."""


@pytest.fixture
def one():
    with Sandbox(nodes=1, lag=0) as cluster:
        run(changed(cluster), "CREATE TABLE t (n INT)")
        yield cluster


def script_of(count, *begin):
    return ";".join([*begin, *(f"SET MEM_LIMIT={number}" for number in range(count - len(begin)))])


def test_one_that_is_too_long_to_be_resumed_is_refused_before_anything_is_sent(one):
    with pytest.raises(ConfigError, match="50001 statements, and a journal has room for 50000.*split"):
        resumed(one, script_of(LONGEST + 1, "INSERT INTO t SELECT 1"), attempt=1)
    assert executed(one) == []
    assert journal_of(one) is None


@pytest.mark.parametrize("outcomes", [False, True])
def test_without_resume_it_may_have_any_length(one, outcomes):
    """Also where another process may go on with it."""
    balancer = changed(one)
    journals = open_journals(balancer.config)
    with pytest.raises(StatementFailed, match="Statement 2 of 50001"):
        run(
            balancer,
            script_of(LONGEST + 1, "INSERT INTO t SELECT 1", "SELEC"),
            owner=OWNER,
            journals=journals,
            outcomes=outcomes,
        )
    assert len(journals.read(OWNER)) < 2_000


def test_where_only_sessions_are_kept_nothing_is_kept_of_the_statements(one):
    balancer = changed(one)
    journals = open_journals(balancer.config)
    with pytest.raises(StatementFailed, match="Statement 1 of 10000"):
        run(balancer, script_of(10_000, "SELEC"), owner=OWNER, journals=journals, outcomes=False)
    assert len(journals.read(OWNER)) < 2_000


@pytest.mark.slow
def test_the_longest_is_resumed(one, caplog):
    begin = "INSERT INTO t SELECT 1", "SELEC"
    for attempt, script in enumerate((script_of(LONGEST, *begin), script_of(LONGEST, *begin, "SELECT 1")), 1):
        with pytest.raises(StatementFailed, match="Statement 2 of 50000"):
            resumed(one, script, attempt=attempt)
    assert "the script has changed since" in caplog.text
    assert "it goes on after statement 1, up to which it is the same" in caplog.text
    assert len(executed(one)) == 1


def test_there_is_room_for_all_that_is_noted_while_it_runs():
    node, session = f"{'h' * 64}.{'d' * 64}.example.com:21050", "0123456789abcdef:0123456789abcdef"
    kept = KeptSession(node, session, "x" * 120, 1795000000.1234567, known=True, left_open=True, web=f"https://{node}")
    record = Record(
        script="0" * 32,
        total=LONGEST,
        digests=digests(["SELECT 1"] * LONGEST),
        epoch=1000,
        by="attempt 1000",
        done=LONGEST,
        rows=1 << 63,
        queries=[session] * 100,
        node=node,
        session=session,
        sessions=[kept] * 100,
        intent=Intent(LONGEST, "lb:0123456789abcdef", node, session, 1795000000.1234567, session, session),
        answer="not-run",
        attempt=Attempt(1000, 1795000000.1234567),
        deployment="d" * 100,
        target=Target("c" * 100, "d" * 128, "u" * 100),
    )
    assert 400_000 < len(encode(record, 1795000000.1234567)) < MAX_BYTES


def test_a_text_is_kept_only_if_there_is_room_for_what_comes_after_it(tmp_path):
    journals, texts = FileJournals(str(tmp_path / "lock")), ["SELECT 1"] * 20_000
    sealed = "x" * 343_000  # of the largest script that is handed over
    journal = Journal(journals, RunIdentity(owner=OWNER), texts)
    journal.begin(resume=True)
    with pytest.raises(ConfigError, match="room"):
        journal.keep_text(sealed)
    journal.intend(1, "lb:0123456789abcdef", "h:1", "1:1")
    journal.done(1, "2:2", None)
    short = Journal(journals, RunIdentity(owner="other"), texts[:10_000])
    short.begin(resume=True)
    short.keep_text(sealed)
    short.intend(1, "lb:0123456789abcdef", "h:1", "1:1")


def test_of_a_changed_script_the_last_ids_stay_those_of_their_statements(tmp_path):
    """Only the last 100 are kept."""
    journals, identity = FileJournals(str(tmp_path / "lock")), RunIdentity(owner=OWNER)
    script = [f"SET MEM_LIMIT={number}" for number in range(130)]
    journal = Journal(journals, identity, script)
    journal.begin(resume=True)
    for number in range(1, 126):
        journal.done(number, f"q{number}", None)
    begun = Journal(journals, identity, [*script[:120], "SET MEM_LIMIT=1g"]).begin(resume=True)
    assert begun.record.done == 120
    assert begun.record.queries == [f"q{number}" for number in range(26, 121)]
