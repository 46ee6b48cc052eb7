"""Scripts that are begun, stopped and resumed under one owner, and what is known of them afterwards."""

import time

from airflow_provider_impala_lb.core.state.model import Attempt
from airflow_provider_impala_lb.impala.journal.answers import answer
from airflow_provider_impala_lb.impala.journal.document import decode
from airflow_provider_impala_lb.stores.factory import open_journals
from tests.support.scripts import changed, run

OWNER = "dag/run/task"
INSERT = "INSERT INTO t SELECT 1"
SLOW = "INSERT INTO t SELECT 1 WHERE sleep(60000)"
NEXT = "INSERT INTO t SELECT 2"


def resumed(cluster, script, *, attempt=2, **options):
    """:param attempt: its number, or all of it."""
    balancer = options.pop("balancer", None) or changed(cluster)
    options["journals"] = open_journals(balancer.config)
    if isinstance(attempt, int):
        attempt = Attempt(attempt, time.time())
    return run(balancer, script, owner=OWNER, one_at_a_time=True, resume=True, attempt=attempt, **options)


def journal_of(cluster):
    config = changed(cluster).config
    document = open_journals(config).read(config.owner_of(OWNER))
    return None if document is None else decode(document, "")


def answered(cluster, reply):
    """The author's answer about what is in doubt now."""
    intent = None if reply == "start-over" else journal_of(cluster).intent
    return answer(open_journals(changed(cluster).config), OWNER, reply, intent.name if intent is not None else "")


def executed(cluster, word="INSERT"):
    """(n, state) of each statement with this word, of all nodes, in the order of their ends."""
    entries = [entry for node in cluster.nodes for entry in node.journal() if word in entry.get("sql", "")]
    return [
        (entry["sql"].partition("*/ ")[2], entry["state"])
        for entry in sorted(entries, key=lambda entry: entry["t"])
        if "metadata_sync=" not in entry["sql"]
    ]


def attempt(cluster, script=NEXT, number=2, **options):
    """An attempt as the operator makes it, without ``resume``.

    :param number: its number, or all of it.
    """
    balancer = options.pop("balancer", None) or changed(cluster)
    journals = options.pop("journals", open_journals(balancer.config))
    which = Attempt(number, time.time()) if isinstance(number, int) else number
    options |= {"owner": OWNER, "one_at_a_time": True, "attempt": which, "outcomes": False}
    return run(balancer, script, journals=journals, **options)
