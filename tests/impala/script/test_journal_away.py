"""A journal that is out of reach when a script begins: it says at once what it waits for, and then gives up."""

import time

import pytest

from airflow_provider_impala_lb.errors import StateUnavailable
from airflow_provider_impala_lb.impala.sql.splitter import split
from airflow_provider_impala_lb.sandbox import Sandbox
from tests.support.scripts import changed, script_run


class Away:
    where = "the journals"

    def durability(self):
        return None

    def change(self, key, fn):
        raise StateUnavailable("the NAS is away")


def test_a_journal_that_cannot_be_written_says_at_once_what_is_waited_for(caplog):
    with Sandbox(nodes=1, lag=0) as cluster:
        balancer = changed(cluster, session={"reconnect_timeout": 3})
        script = script_run(balancer, split("SELECT 1"), owner="o", resume=True, journals=Away())
        start, at = time.monotonic(), time.time()
        with pytest.raises(StateUnavailable, match="the NAS is away"):
            script.run()
        assert 2 < time.monotonic() - start < 10
    said = [record for record in caplog.records if "The journal cannot be used" in record.getMessage()]
    assert [record for record in said if record.levelname == "WARNING"] == said[:1]
    assert "tried anew for up to 3 s: the NAS is away" in said[0].getMessage()
    assert said[0].created - at < 1
