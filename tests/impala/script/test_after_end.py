"""What goes wrong once a script's last statement is done undoes nothing."""

import pytest

from airflow_provider_impala_lb.core.state.model import Attempt
from airflow_provider_impala_lb.errors import StateUnavailable
from airflow_provider_impala_lb.impala.journal import journal as module
from airflow_provider_impala_lb.impala.journal.document import decode
from airflow_provider_impala_lb.sandbox import Sandbox
from airflow_provider_impala_lb.stores.factory import open_journals
from tests.support.scripts import changed, run

OWNER = "dag/run/task"


@pytest.fixture(scope="module")
def cluster():
    with Sandbox(nodes=1, lag=0) as cluster:
        yield cluster


def executed(cluster, word):
    return [entry["sql"].partition("*/ ")[2] for entry in cluster.nodes[0].journal() if word in entry.get("sql", "")]


def test_whoever_is_told_of_a_statement_does_not_stop_the_script(cluster, log):
    def fails(done):
        raise BrokenPipeError(f"nobody listens to {done.number}")

    done = run(changed(cluster), "CREATE TABLE told (n INT); INSERT INTO told VALUES (1)", on_statement=fails)
    assert len(done.statements) == 2
    assert "on_statement failed, the script goes on: BrokenPipeError: nobody listens to 1" in log.text
    assert len(executed(cluster, "INTO told")) == 1


def test_an_error_after_the_end_is_a_warning(cluster, log, monkeypatch):
    balancer = changed(cluster)

    def remember(*_):
        raise OSError("the mirror is gone")

    monkeypatch.setattr(balancer.cluster.session_keys, "remember", remember)
    done = run(
        balancer, "CREATE TABLE after (n INT); SELECT 5", session_key="k", handler=lambda cursor: cursor.fetchall()
    )
    assert done.results[-1] == [(5,)]
    assert "After the end of the script: OSError: the mirror is gone" in log.text


class LostAtTheEnd:
    """Journals that are out of reach from the last statement's end on, but for what was written before."""

    def __init__(self, journals, last):
        self._journals, self._last = journals, last

    def __getattr__(self, name):
        return getattr(self._journals, name)

    def change(self, key, change):
        document = self._journals.read(key)
        if document is not None and decode(document, "").done >= self._last:
            raise StateUnavailable("the NAS is away")
        return self._journals.change(key, change)


@pytest.mark.parametrize(
    ("next_try", "times"),
    [(Attempt(2, 2000.0, "round 1"), 1), (Attempt(2, 2000.0, "round 2"), 2)],
    ids=["retry", "clear"],
)
def test_an_end_that_cannot_be_noted(cluster, log, monkeypatch, next_try, times):
    """A retry runs nothing again, and a cleared task all: as if it had been noted."""
    monkeypatch.setattr(module, "_END_PATIENCE", 0.0)
    table = f"noted_{times}"
    script = f"CREATE TABLE IF NOT EXISTS {table} (n INT); INSERT INTO {table} SELECT 1"
    balancer = changed(cluster)
    options = {"owner": f"{OWNER}{times}", "resume": True, "one_at_a_time": True}
    journals = open_journals(balancer.config)
    first = Attempt(1, 1000.0, "round 1")
    done = run(balancer, script, journals=LostAtTheEnd(journals, 2), attempt=first, **options)
    assert len(done.statements) == 2
    assert "which could not be noted in its journal: the NAS is away" in log.text
    run(balancer, script, journals=journals, attempt=next_try, **options)
    assert len(executed(cluster, f"INTO {table}")) == times
    assert decode(journals.read(options["owner"]), "").ended
