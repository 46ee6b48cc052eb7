"""Two Airflows that share a cluster's state and have a DAG of one name: neither touches the other's work."""

import json
import re
import shlex
import time

import msgspec
import pytest

from airflow_provider_impala_lb.core.state.model import Attempt
from airflow_provider_impala_lb.errors import ConfigError, StatementFailed
from airflow_provider_impala_lb.impala.journal.document import Record, decode
from airflow_provider_impala_lb.impala.journal.identity import RunIdentity, Target
from airflow_provider_impala_lb.impala.journal.journal import Journal
from airflow_provider_impala_lb.sandbox import Sandbox
from airflow_provider_impala_lb.stores.factory import open_journals
from tests.support.command_line import lb
from tests.support.resumed_scripts import OWNER, executed, resumed
from tests.support.script_worker import worker
from tests.support.scripts import changed, in_flight, run, wait_for

PROD, STAGING = 1000.0, 1001.0
"""When the run of each began: Airflow's scheduler stamps it with microseconds."""
SLOW = "INSERT INTO t SELECT 1 WHERE sleep(60000)"


def attempt(number, began, clears=0):
    """Of a run that began then. The attempts begin now, as everybody's do."""
    return Attempt(number, time.time(), f"{began} {clears}", run=began, clears=clears)


def running(cluster):
    return [row for node in cluster.nodes for row in in_flight(node) if "INSERT" in row["stmt"]]


def journal_of(cluster, owner=OWNER):
    return decode(open_journals(changed(cluster).config).read(owner), "")


# Told apart by what they say of themselves


def test_each_deployment_has_its_own_leases_and_journals(pair):
    prod, staging = changed(pair, deployment="prod"), changed(pair, deployment="staging")
    config = {**pair.config, "deployment": "prod"}
    with worker(config=config, owner=OWNER, script=SLOW, attempt=1, run=PROD, resume=True):
        wait_for(lambda: running(pair), 20)
        assert [lease["owner"] for lease in prod.status()["leases"]] == [f"prod:{OWNER}"]
        resumed(pair, "INSERT INTO t SELECT 2", attempt=attempt(1, STAGING), balancer=staging)
        assert running(pair), "staging has left prod's statement alone"
        with pytest.raises(StatementFailed):
            resumed(pair, "INSERT INTO t SELECT 3; SELEC", attempt=attempt(2, STAGING), balancer=staging)
    assert journal_of(pair, f"staging:{OWNER}").done == 1
    assert journal_of(pair, f"prod:{OWNER}").done == 0


@pytest.mark.parametrize(
    "ways", ["connect", *(pytest.param(way, marks=pytest.mark.slow) for way in ("hold", "acquire"))]
)
def test_every_lease_names_its_deployment(pair, ways):
    prod = changed(pair, deployment="prod")
    if ways == "connect":
        with prod.connect("dag/run/task"):
            owners = [lease["owner"] for lease in prod.status()["leases"]]
    else:
        pick = prod.hold(60, "dag/run/task") if ways == "hold" else prod.acquire("dag/run/task")
        owners = [lease["owner"] for lease in prod.status()["leases"]]
        pick.release() if ways == "acquire" else prod.release(pick.lease)
    assert owners == ["prod:dag/run/task"]


def test_a_journal_of_another_deployment_is_not_gone_on_with(pair):
    """A name that looks like another deployment's."""
    with pytest.raises(StatementFailed):
        run(changed(pair), "INSERT INTO t SELECT 1; SELEC", owner="prod:x", resume=True, journals=journals(pair))
    with pytest.raises(ConfigError, match="an Airflow without a deployment, and this is prod; nothing was run"):
        prod = changed(pair, deployment="prod")
        run(prod, "INSERT INTO t SELECT 1; SELECT 2", owner="x", resume=True, journals=journals(pair))
    assert len(executed(pair)) == 1


def journals(cluster):
    return open_journals(changed(cluster).config)


def test_the_command_line_knows_a_script_by_its_own_name_and_by_the_whole_one(pair, tmp_path):
    script = tmp_path / "x.sql"
    script.write_text("INSERT INTO t SELECT 1; SELEC")
    config = tmp_path / "prod.yml"
    config.write_text(json.dumps({**pair.config, "deployment": "prod"}))
    assert lb("run", str(script), "--resume", "nightly", config=config).returncode == 1
    for key in ("nightly", "prod:nightly"):
        (shown,) = json.loads(lb("journal", key, "--json", config=config).stdout)
        assert (shown["key"], shown["done"], shown["deployment"]) == ("prod:nightly", 1, "prod")
    assert "begins at statement 1" in lb("journal", "nightly", "start-over", config=config).stdout
    (shown,) = json.loads(lb("journal", "prod:nightly", "--json", config=config).stdout)
    assert "done" not in shown
    assert "has no journal of nightly" in lb("journal", "nightly", config=pair.config_file).stderr


# Neither says anything: seen by when the runs began


def test_a_run_that_began_at_another_time_takes_nothing_over(pair):
    with worker(config=pair.config, owner=OWNER, script=SLOW, attempt=1, run=PROD):
        wait_for(lambda: running(pair), 20)
        for staging in (attempt(1, STAGING), attempt(2, STAGING), attempt(2, STAGING + 60, clears=1)):
            # The last one has been cleared, as people do with what has failed: by then it is known that there are two.
            with pytest.raises(ConfigError, match="two runs have this name") as raised:
                run(changed(pair), "INSERT INTO t SELECT 2", owner=OWNER, one_at_a_time=True, attempt=staging)
            assert "the key deployment of the configuration or of the connection's extra" in str(raised.value)
            assert running(pair), "staging has left prod's statement alone"
        assert len(changed(pair).status()["leases"]) == 1
        run(
            changed(pair, deployment="staging"),
            "INSERT INTO t SELECT 2",
            owner=OWNER,
            one_at_a_time=True,
            attempt=attempt(2, STAGING),
        )
        assert running(pair)
    assert executed(pair)[0] == ("INSERT INTO t SELECT 2", "FINISHED")


def test_one_that_waits_for_a_node_is_seen_too(pair):
    full = changed(pair, max_leases=1)
    with full.acquire("somebody else"):
        config = {**pair.config, "max_leases": 1}
        with worker(config=config, owner=OWNER, script="SELECT 1", attempt=1, run=PROD) as waiting:
            wait_for(lambda: full.status()["waiting"], 20)
            with pytest.raises(ConfigError, match="two runs have this name.* waits for a node"):
                run(full, "SELECT 2", owner=OWNER, one_at_a_time=True, attempt=attempt(1, STAGING), max_wait=0)
            waiting.kill()


@pytest.mark.parametrize("picks_between", [pytest.param(0, marks=pytest.mark.slow), 3])
def test_what_a_killed_worker_of_another_run_has_left_is_not_ended_but_by_an_operators_word(pair, picks_between):
    with worker(config=pair.config, owner=OWNER, script=SLOW, attempt=1, run=PROD) as first:
        wait_for(lambda: running(pair), 20)
        first.kill()
        first.wait()
    for _ in range(picks_between):  # any pick of this host ends the dead process's lease
        changed(pair).acquire("somebody else").release()
        time.sleep(1.1)
    assert len(changed(pair).status()["leases"]) == (0 if picks_between else 1)
    again = {"owner": OWNER, "one_at_a_time": True, "attempt": attempt(1, STAGING)}
    with pytest.raises(ConfigError, match="deleted and made again") as raised:
        run(changed(pair), "INSERT INTO t SELECT 2", **again)
    assert running(pair)
    words = str(raised.value).rpartition("impala-lb ")[2]
    assert lb(*shlex.split(words), config=pair.config_file).returncode == 0
    run(changed(pair), "INSERT INTO t SELECT 2", **again)
    assert ("INSERT INTO t SELECT 2", "FINISHED") in executed(pair)
    assert lb(*shlex.split(words), config=pair.config_file).returncode == 1


@pytest.mark.since("4.0", "only who closed a session knows its end")
def test_a_cleared_task_and_a_retry_take_over_as_ever(pair):
    """Clearing a run that is over gives it another beginning, and counts that."""
    for number, (successor, want) in enumerate(
        [(attempt(2, PROD), "SELECT 2"), (attempt(4, PROD + 3600, clears=1), "SELECT 3")]
    ):
        with worker(config=pair.config, owner=OWNER, script=SLOW, attempt=1 + 2 * number, run=PROD) as first:
            wait_for(lambda: running(pair), 20)
            first.kill()
            first.wait()
        run(changed(pair), f"INSERT INTO t {want}", owner=OWNER, one_at_a_time=True, attempt=successor)
        assert not [row for row in running(pair) if SLOW in row["stmt"]]


def test_a_journal_of_another_run_is_not_gone_on_with(pair):
    script = "INSERT INTO t SELECT 1; INSERT INTO u SELECT 2"
    with pytest.raises(StatementFailed):
        resumed(pair, script, attempt=attempt(1, PROD))
    run(changed(pair), "CREATE TABLE u (n INT)")
    # Under another owner of leases: only the journal can tell.
    for staging in (attempt(1, STAGING), attempt(2, STAGING + 60, clears=1)):
        with pytest.raises(ConfigError, match="two runs have this name.* did 1 of its 2 statements") as raised:
            resumed(pair, script, attempt=staging)
    assert "start-over" in str(raised.value)
    assert len(executed(pair)) == 2
    assert resumed(pair, script, attempt=attempt(2, PROD)).resumed == 1
    assert executed(pair)[2:] == [("INSERT INTO u SELECT 2", "FINISHED")]


def test_the_author_may_say_that_the_other_run_was_deleted(pair):
    with pytest.raises(StatementFailed):
        resumed(pair, "INSERT INTO t SELECT 1; SELEC", attempt=attempt(1, PROD))
    with pytest.raises(ConfigError) as raised:
        resumed(pair, "INSERT INTO t SELECT 1; SELECT 2", attempt=attempt(1, STAGING))
    command = str(raised.value).splitlines()[-1].split()
    words = command[command.index("journal") :]
    assert lb(*words, config=pair.config_file).returncode == 0
    assert resumed(pair, "INSERT INTO t SELECT 1; SELECT 2", attempt=attempt(1, STAGING)).resumed == 0


# What a script's names stand for


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ({"database": "d2"}, "its database was default and is d2"),
        pytest.param({"session": {"user": "etl"}}, "its user was not given and is etl", marks=pytest.mark.slow),
        pytest.param({"connection": "other"}, "its connection was .* and is other", marks=pytest.mark.slow),
    ],
    ids=["schema", "login", "connection"],
)
def test_what_a_script_stands_for_is_part_of_it(change, said, log):
    with Sandbox(nodes=2, lag=0, users=None) as cluster:
        run(changed(cluster), "CREATE DATABASE d2; CREATE TABLE t (n INT); CREATE TABLE d2.t (n INT)")
        script = "INSERT INTO t SELECT 1; INSERT INTO t SELECT 2 WHERE 1/0 > 1 OR ${var:x}"
        with pytest.raises(StatementFailed):
            resumed(cluster, script.replace("${var:x}", "nothing"), attempt=1)
        assert journal_of(cluster).done == 1
        session = change.get("session", {})
        options = {key: value for key, value in change.items() if key != "session"}
        with pytest.raises(StatementFailed):
            resumed(
                cluster, script.replace("${var:x}", "nothing"), balancer=changed(cluster, session=session), **options
            )
        assert [sql for sql, _ in executed(cluster, "SELECT 1")] == ["INSERT INTO t SELECT 1"] * 2
    assert "the script is the same, but" in log.text
    assert re.search(said, log.text)


def test_a_connection_that_was_changed_while_a_script_had_no_worker_sends_nothing_more(pair):
    journal = opened(pair, Target("c", "default", ""))
    journal.begin(resume=True)
    changed_since = opened(pair, Target("c", "default", "etl"))
    with pytest.raises(ConfigError, match="its user was not given and is etl, while it ran without a worker"):
        changed_since.take(journal.epoch)
    assert opened(pair, Target("c", "default", "")).take(journal.epoch)[1]


def opened(cluster, target):
    return Journal(journals(cluster), RunIdentity(owner=OWNER, target=target), ["SELECT 1"])


def test_a_journal_of_the_version_before_is_gone_on_with(pair):
    """Format 1 as it was written before a journal knew whose it is, and what its names stand for."""
    script = "INSERT INTO t SELECT 1; INSERT INTO u SELECT 2"
    with pytest.raises(StatementFailed):
        resumed(pair, script, attempt=attempt(1, PROD))
    new = {"deployment", "target", "disputed"}
    old = {key: value for key, value in msgspec.to_builtins(journal_of(pair)).items() if key not in new}
    old["attempt"] = {"number": 1, "began": old["attempt"]["began"], "generation": old["attempt"]["generation"]}
    assert decode(msgspec.json.encode(old), "") == msgspec.convert(old, Record)
    journals(pair).change(OWNER, lambda document, now: (None, msgspec.json.encode(old)))
    run(changed(pair), "CREATE TABLE u (n INT)")
    assert resumed(pair, script, attempt=attempt(2, PROD)).resumed == 1
    assert journal_of(pair).target == Target("sandbox", "default", "sandbox")


def test_a_name_that_cannot_be_read_before_a_colon_is_refused(pair):
    for wrong in ("a:b", "a/b", "", " ", "ä", "x" * 65):
        with pytest.raises(ConfigError, match="deployment: is .* must be a name of up to 64 letters"):
            changed(pair, deployment=wrong)
