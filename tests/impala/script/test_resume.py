"""A script goes on where an earlier attempt stopped: nothing is lost or done twice, and where nobody knows, it asks."""

import json
import random
import re
import signal
import time
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack

import pytest

from airflow_provider_impala_lb.core.state.model import Attempt
from airflow_provider_impala_lb.errors import ConfigError, JournalMissing, NoNodeAvailable, StatementFailed, Superseded
from airflow_provider_impala_lb.impala.journal.answers import answer
from airflow_provider_impala_lb.impala.journal.document import Intent, Record, digest
from airflow_provider_impala_lb.impala.journal.identity import RunIdentity
from airflow_provider_impala_lb.impala.journal.journal import Journal
from airflow_provider_impala_lb.impala.journal.sealing import Sealer
from airflow_provider_impala_lb.impala.sql.splitter import split
from airflow_provider_impala_lb.impala.web.debug_pages import DebugPages
from airflow_provider_impala_lb.sandbox import Sandbox
from airflow_provider_impala_lb.stores.factory import open_journals
from tests.support.resumed_scripts import OWNER, answered, executed, journal_of, resumed
from tests.support.script_worker import end_of, is_stopped, worker
from tests.support.scripts import changed, in_flight, run, statements_on, wait_for
from tests.support.versions import NEWEST, ON_BOTH, VERSIONS

OLDEST_PAGE = "of this version does not show all that runs"
"""Why nothing is known of what the page of the oldest version does not show."""


@pytest.fixture(params=VERSIONS)
def version(request):
    return request.param


def inserts(*numbers, sleep=0):
    return "; ".join(f"INSERT INTO t SELECT {n}" + (f" WHERE sleep({sleep})" if sleep else "") for n in numbers)


@pytest.fixture
def pair(version):
    with Sandbox(nodes=2, lag=0, version=version) as cluster:
        run(changed(cluster), "CREATE TABLE t (n INT)")
        # A statement that is not on the page proves nothing on a coordinator that may be younger than it, and how old
        # they are is known to within the time that a statement takes.
        time.sleep(2)
        yield cluster


def test_the_next_try_skips_what_is_done_and_replays_use_and_set(pair):
    script = "CREATE DATABASE d; USE d; SET MEM_LIMIT=2g; CREATE TABLE u (n INT); INSERT INTO missing SELECT 1; SET"
    with pytest.raises(StatementFailed) as failed:
        resumed(pair, script, attempt=1)
    assert failed.value.number == 5
    assert journal_of(pair).done == 4
    run(changed(pair), "CREATE TABLE d.missing (n INT)")
    rows = []
    done = resumed(pair, script, handler=lambda cursor: rows.append(cursor.fetchall()) if cursor.description else None)
    assert done.resumed == 4
    assert ["MEM_LIMIT", "2g"] in [list(row)[:2] for row in rows[-1]]
    assert len(executed(pair, "CREATE DATABASE")) == 1


def test_a_database_that_was_left_and_dropped_is_not_used_again(pair):
    script = "CREATE DATABASE d; USE d; USE default; DROP DATABASE d; INSERT INTO missing SELECT 1"
    with pytest.raises(StatementFailed) as failed:
        resumed(pair, script, attempt=1)
    assert failed.value.number == 5
    run(changed(pair), "CREATE TABLE missing (n INT)")
    assert resumed(pair, script).resumed == 4


@pytest.mark.slow
def test_a_setting_that_cannot_be_repeated_is_no_fault_of_the_nodes(pair):
    script = "CREATE DATABASE d; USE d; INSERT INTO missing SELECT 1"
    with pytest.raises(StatementFailed):
        resumed(pair, script, attempt=1)
    run(changed(pair), "DROP DATABASE d")
    with pytest.raises(NoNodeAvailable, match=r"statement 2 \(USE d\) could not be repeated .*, mend that first: "):
        resumed(pair, script)
    assert [node["state"] for node in changed(pair).status()["nodes"]] == ["ready", "ready"]
    run(changed(pair), "CREATE DATABASE d; CREATE TABLE d.missing (n INT)")
    assert resumed(pair, script, attempt=3).resumed == 2


@pytest.mark.parametrize(
    ("mended", "again", "goes_on"),
    [
        pytest.param(f"{inserts(1, 2)}; SELECT 1", [], "it goes on after statement 2", marks=pytest.mark.slow),
        (f"{inserts(1, 3)}; SELECT 1", [3], "it goes on after statement 1"),
        pytest.param(f"{inserts(3, 2)}; SELECT 1", [3, 2], "it begins anew", marks=pytest.mark.slow),
        pytest.param(inserts(1), [], "it goes on after statement 1", marks=pytest.mark.slow),
    ],
)
def test_of_a_changed_script_what_is_the_same_from_its_beginning_stays_done(pair, log, mended, again, goes_on):
    with pytest.raises(StatementFailed):
        resumed(pair, f"{inserts(1, 2)}; SELEC", attempt=1)
    resumed(pair, mended)
    assert executed(pair) == [(f"INSERT INTO t SELECT {n}", "FINISHED") for n in (1, 2, *again)]
    assert "the script has changed since" in log.text
    assert goes_on in log.text


@pytest.mark.parametrize("mended", [inserts(1, 2, 4), pytest.param(inserts(1, 3), marks=pytest.mark.slow)])
def test_what_is_in_doubt_is_settled_before_a_changed_script_goes_on(pair, mended):
    """Statement 2 was sent, and runs to its end meanwhile."""
    slow = "INSERT INTO t SELECT 2 WHERE sleep(2000)"
    order = {"config": pair.config, "owner": OWNER, "resume": True, "attempt": 1}
    with worker(**order, script=f"{inserts(1)}; {slow}") as process:
        wait_for(lambda: any(in_flight(node, "SELECT 2") for node in pair.nodes), 20)
        process.kill()
        process.wait()
    resumed(pair, mended)
    after = [f"INSERT INTO t SELECT {n}" for n in ((2, 4) if mended == inserts(1, 2, 4) else (3,))]
    assert [sql for sql, _ in executed(pair)] == ["INSERT INTO t SELECT 1", slow, *after]


def test_a_finished_script_begins_anew_when_its_task_is_cleared(pair, log):
    resumed(pair, inserts(1), attempt=1)
    assert journal_of(pair).ended
    resumed(pair, inserts(1))
    assert executed(pair) == [("INSERT INTO t SELECT 1", "FINISHED")] * 2
    assert "had come to its end: the script begins anew" in log.text


@pytest.mark.parametrize(
    "handler",
    [None, pytest.param(lambda cursor: cursor.fetchall() if cursor.description else None, marks=pytest.mark.slow)],
)
def test_a_retry_of_a_finished_script_does_nothing_twice(pair, log, handler):
    """Its end did not reach Airflow: the worker died there, or the API server was away. A query's rows are wanted."""
    script = f"{inserts(1)}; SELECT n FROM t"
    resumed(pair, script, attempt=Attempt(1, 1000.0, "round 1"))
    done = resumed(pair, script, attempt=Attempt(2, 2000.0, "round 1"), handler=handler)
    assert len(done.statements) == 2
    assert done.results[-1:] == ([[(1,)]] if handler else [])
    assert executed(pair) == [("INSERT INTO t SELECT 1", "FINISHED")]
    assert len(executed(pair, "SELECT n FROM t")) == (2 if handler else 1)
    assert "nothing of it is done twice" in log.text
    assert journal_of(pair).ended


@pytest.mark.parametrize(
    "attempt",
    [
        pytest.param(Attempt(2, 2000.0, "round 2"), id="cleared"),
        pytest.param(Attempt(1, 2000.0, "round 1"), id="deleted and made again", marks=pytest.mark.slow),
        pytest.param(Attempt(2, 2000.0), id="not known", marks=pytest.mark.slow),
    ],
)
def test_a_finished_script_begins_anew_when_it_is_asked_for_anew(pair, attempt):
    resumed(pair, inserts(1), attempt=Attempt(1, 1000.0, "round 1"))
    resumed(pair, inserts(1), attempt=attempt)
    assert executed(pair) == [("INSERT INTO t SELECT 1", "FINISHED")] * 2


def test_an_old_try_that_had_not_begun_begins_no_more(pair):
    identity = RunIdentity(owner=OWNER, attempt=Attempt(1, 500.0))
    begun = Journal(open_journals(changed(pair).config), identity, [inserts(1)])
    begun.begin(resume=True)
    resumed(pair, inserts(1), attempt=Attempt(2, 2000.0))
    with pytest.raises(Superseded):
        resumed(pair, inserts(1), attempt=Attempt(1, 1000.0))
    # A run that was deleted and made again under the same name.
    resumed(pair, inserts(1), attempt=Attempt(1, 3000.0))
    assert executed(pair) == [("INSERT INTO t SELECT 1", "FINISHED")] * 2


@pytest.mark.slow
@pytest.mark.parametrize("seed", [1, 2, 3])
def test_forty_statements_killed_at_ten_of_them(pair, version, seed):
    """Workers killed with -9 in the middle of a statement, or between two: each statement runs exactly once. What was
    not sent yet, or has just ended, is a question on Impala 3.4: here its author looks, and says what is true."""
    rng = random.Random(seed)
    script = "; ".join(
        ["USE default", "SET MEM_LIMIT=1g"] + [f"INSERT INTO t SELECT {n} WHERE sleep(60)" for n in range(3, 41)]
    )
    kills = 0
    for attempt in range(30):
        with worker(config=pair.config, owner=OWNER, script=script, resume=True, attempt=attempt + 1) as process:
            if kills < 10:
                target = rng.randrange(1, 6) + len(executed(pair))
                wait_for(lambda n=target, p=process: len(executed(pair)) >= n or p.poll() is not None, 60)
                time.sleep(rng.uniform(0, 0.06))
                if process.poll() is None:
                    process.kill()
                    kills += 1
                    continue
            end = end_of(process, 120)
        if version != NEWEST and OLDEST_PAGE in end.get("text", ""):
            number = re.search(r"Statement (\d+) of 40", end["text"])[1]
            wait_for(lambda: not any(in_flight(node) for node in pair.nodes))
            ran = f"INSERT INTO t SELECT {number} WHERE sleep(60)" in [sql for sql, _ in executed(pair)]
            answered(pair, "ran" if ran else "not-run")
            continue
        assert "node" in end, end
        break
    assert kills == 10
    ran = [sql for sql, state in executed(pair) if state == "FINISHED"]
    assert ran == [f"INSERT INTO t SELECT {n} WHERE sleep(60)" for n in range(3, 41)]
    assert {state for _, state in executed(pair)} == {"FINISHED"}


@ON_BOTH
def test_a_statement_that_still_runs_is_waited_for_not_ended(pair, log):
    with ThreadPoolExecutor() as pool, ExitStack() as held:
        for node in pair.nodes:
            held.enter_context(node.hold("execution", sql="SELECT 1"))
        with worker(config=pair.config, owner=OWNER, script=inserts(1, 2), resume=True, attempt=1) as process:
            wait_for(lambda: any(in_flight(node, "INSERT") for node in pair.nodes), 20)
            process.kill()
        again = pool.submit(resumed, pair, inserts(1, 2))
        wait_for(lambda: "still runs on" in log.text or again.done(), 30)
        assert not again.done()
        held.close()
        again.result(30)
    assert [state for _, state in executed(pair)] == ["FINISHED"] * 2


@ON_BOTH
def test_stopped_between_writing_the_intent_and_sending(pair, version):
    """The next attempt closes its session first, so that the late request is refused. The page of Impala 3.4 does not
    prove that none came before: a question."""
    order = {"config": pair.config, "owner": OWNER, "script": inserts(1, 2), "resume": True, "attempt": 1}
    with worker(**order, stop_at="sent", stop_number=2) as process:
        wait_for(lambda: is_stopped(process), 20)
        if version == NEWEST:
            assert resumed(pair, inserts(1, 2)).resumed == 1
        else:
            with pytest.raises(StatementFailed, match=OLDEST_PAGE) as asked:
                resumed(pair, inserts(1, 2))
            assert (asked.value.number, asked.value.outcome, asked.value.retry) == (2, "unknown", False)
        process.send_signal(signal.SIGCONT)
        end = end_of(process)
    if version != NEWEST:
        assert executed(pair) == [("INSERT INTO t SELECT 1", "FINISHED")]
        answered(pair, "not-run")
        assert resumed(pair, inserts(1, 2), attempt=3).resumed == 1
    assert end["error"] in ("Superseded", "StatementFailed")
    assert executed(pair) == [("INSERT INTO t SELECT 1", "FINISHED"), ("INSERT INTO t SELECT 2", "FINISHED")]


@pytest.mark.parametrize(
    "away", [pytest.param(False, id="at once", marks=pytest.mark.slow), pytest.param(True, id="its page away first")]
)
def test_stopped_before_the_first_statement_of_a_coordinator(away):
    """Nothing has ended on it before, so there is nothing yet by which its page proves something."""
    script = "CREATE TABLE t (n INT); INSERT INTO t SELECT 1"
    order = {"owner": OWNER, "script": script, "resume": True}
    with Sandbox(nodes=1, lag=0, version=NEWEST) as one:
        balancer = changed(one, session={"reconnect_timeout": 0.5})
        with worker(config=one.config, **order, attempt=1, stop_at="sent", stop_number=1) as process:
            wait_for(lambda: is_stopped(process), 20)
            process.kill()
        if away:
            with one.nodes[0].fail("queries_page"), pytest.raises(StatementFailed, match="its page does not tell"):
                resumed(one, script, balancer=balancer)
        assert resumed(one, script, attempt=3, balancer=balancer).resumed == 0
        assert executed(one) == [("INSERT INTO t SELECT 1", "FINISHED")]


@pytest.mark.parametrize(
    ("first", "late", "script"),
    [
        ("SELECT 1", "CREATE TABLE made (n INT)", "CREATE TABLE made (n INT)"),
        pytest.param(
            "SELECT 1", "CREATE TABLE made (n INT)", "CREATE TABLE made AS SELECT n FROM t", marks=pytest.mark.slow
        ),
        pytest.param("CREATE TABLE made (n INT)", "DROP TABLE made", "DROP TABLE made", marks=pytest.mark.slow),
    ],
)
def test_what_finds_its_own_effect_is_in_doubt_and_not_the_authors_mistake(pair, version, first, late, script):
    """A call to the catalog service may land after all that could be looked at said that it never arrived."""
    run(changed(pair), f"SET SYNC_DDL=1; {first}")
    order = {"config": pair.config, "owner": OWNER, "script": f"{script}; {inserts(1)}", "resume": True, "attempt": 1}
    with worker(**order, stop_at="sent", stop_number=1) as process:
        wait_for(lambda: is_stopped(process), 20)
        process.kill()
    run(changed(pair), f"SET SYNC_DDL=1; {late}")
    asks = "that first sending may have done it after all" if version == NEWEST else OLDEST_PAGE
    for attempt, text in ((2, asks), (3, "look")):
        with pytest.raises(StatementFailed, match=text) as failed:
            resumed(pair, f"{script}; {inserts(1)}", attempt=attempt)
        assert (failed.value.number, failed.value.outcome) == (1, "unknown")
    assert executed(pair) == []


def test_while_its_session_is_open_it_may_still_begin(pair, version, monkeypatch):
    """A page that answers, and closes nothing (it may want another kind of request)."""
    order = {"config": pair.config, "owner": OWNER, "script": inserts(1, 2), "resume": True, "attempt": 1}
    with worker(**order, stop_at="sent", stop_number=2) as process:
        wait_for(lambda: is_stopped(process), 20)
        with monkeypatch.context() as patch:
            patch.setattr(DebugPages, "close_session", lambda self, session_id: True)
            patch.setattr(Sealer, "open", lambda self, text: None)  # with another password
            with pytest.raises(StatementFailed, match="could not be closed") as failed:
                resumed(pair, inserts(1, 2))
        assert (failed.value.outcome, failed.value.retry) == ("unknown", True)
        if version != NEWEST:
            with pytest.raises(StatementFailed, match=OLDEST_PAGE):
                resumed(pair, inserts(1, 2))
            return
        assert resumed(pair, inserts(1, 2)).resumed == 1  # the next attempt looks again
    assert executed(pair) == [("INSERT INTO t SELECT 1", "FINISHED"), ("INSERT INTO t SELECT 2", "FINISHED")]


def leave_in_doubt(cluster, script, number=1, session="1:1"):
    """As an attempt leaves it whose coordinator was then started anew: its page knows nothing of before. With a
    ``session``: it was not, and nobody had looked at its page before."""
    balancer = changed(cluster)
    node = cluster.nodes[0]
    record = Record(
        format=1, script=digest([s.sql for s in split(script)]), total=2, epoch=1, by="attempt 1", at=time.time()
    )
    record.done, record.node = number - 1, node.address
    record.intent = Intent(number, "lb:0000000000000000", node.address, session, time.time())
    import msgspec

    open_journals(balancer.config).change(OWNER, lambda _, now: (None, msgspec.json.encode(record)))
    if session == "1:1":
        node.kill()
        node.start()


def test_a_statement_in_doubt_is_a_question_and_its_answer_holds(pair, version):
    leave_in_doubt(pair, inserts(1, 2))
    with pytest.raises(StatementFailed, match="started anew" if version == NEWEST else OLDEST_PAGE) as asked:
        resumed(pair, inserts(1, 2))
    assert asked.value.outcome == "unknown"
    assert not asked.value.retry
    assert f"\n  impala-lb --config FILE journal {OWNER} ran 1:00000000\n" in str(asked.value)
    assert executed(pair) == []
    with pytest.raises(ConfigError, match="say which statement, .* ran NUMBER:ID .in doubt now is statement 1 of 2"):
        answer(open_journals(changed(pair).config), OWNER, "ran")
    answer(open_journals(changed(pair).config), OWNER, "ran", "1:00000000")
    assert resumed(pair, inserts(1, 2)).resumed == 1
    assert executed(pair) == [("INSERT INTO t SELECT 2", "FINISHED")]


@pytest.mark.parametrize(
    ("said", "ran"),
    [
        pytest.param("not-run", ["INSERT INTO t SELECT 1", "INSERT INTO t SELECT 2"], marks=pytest.mark.slow),
        ("start-over", ["INSERT INTO t SELECT 1", "INSERT INTO t SELECT 2"]),
    ],
)
def test_other_answers(pair, said, ran):
    leave_in_doubt(pair, inserts(1, 2))
    answered(pair, said)
    resumed(pair, inserts(1, 2))
    assert [sql for sql, _ in executed(pair)] == ran


@pytest.mark.parametrize(
    "number",
    [pytest.param(2, id="its next sending"), pytest.param(3, id="the next statement", marks=pytest.mark.slow)],
)
def test_an_answer_is_about_what_was_asked(number):
    """Its author reads the question while a retry, which has found out, has sent something else already."""
    order = {"owner": OWNER, "script": inserts(1, 2, 3), "resume": True}
    with Sandbox(nodes=1, lag=0, version=NEWEST) as one:
        node, order["config"] = one.nodes[0], one.config
        run(changed(one), "CREATE TABLE t (n INT)")
        with worker(**order, attempt=1, stop_at="sent", stop_number=2) as process:
            wait_for(lambda: is_stopped(process), 20)
            process.kill()
        with node.fail("queries_page"), pytest.raises(StatementFailed, match="The next attempt looks again") as asked:
            resumed(one, order["script"], balancer=changed(one, session={"reconnect_timeout": 0.5}))
        (words,) = re.findall(rf"journal {OWNER} (ran .*)", str(asked.value))
        with worker(**order, attempt=3, stop_at="sent", stop_number=number) as process:
            wait_for(lambda: is_stopped(process), 20)
            process.kill()
        says = rf"statement 2:\w+ is not in doubt .* now is statement {number} of 3, .* run the task again"
        with pytest.raises(ConfigError, match=says):
            answer(open_journals(changed(one).config), OWNER, *words.split())
        with pytest.raises(ConfigError, match="start-over is about the whole script, not about statement 2:"):
            answer(open_journals(changed(one).config), OWNER, "start-over", words.split()[1])
        resumed(one, order["script"], attempt=4)
        assert executed(one) == [(f"INSERT INTO t SELECT {n}", "FINISHED") for n in (1, 2, 3)]


SAFE = [
    "INSERT OVERWRITE t PARTITION (p=1) SELECT 1",
    pytest.param("-- impala-lb: safe to repeat\nINSERT INTO t SELECT 1", marks=pytest.mark.slow),
    pytest.param("CREATE TABLE IF NOT EXISTS t (n INT)", marks=pytest.mark.slow),
]


@pytest.mark.parametrize("sql", SAFE)
def test_what_is_safe_to_repeat_is_repeated_once_it_is_over(pair, version, sql, log):
    if "PARTITION" in sql:
        run(changed(pair), "DROP TABLE t; CREATE TABLE t (n INT) PARTITIONED BY (p INT)")
    with changed(pair).sessions.open(pair.nodes[0].address) as session:
        leave_in_doubt(pair, sql, session=session.id)
        if version != NEWEST:  # nothing shows that it is over
            with pytest.raises(StatementFailed, match=OLDEST_PAGE) as asked:
                resumed(pair, sql)
            assert (asked.value.outcome, asked.value.retry) == ("unknown", False)
            return
        resumed(pair, sql)
    assert "is safe to repeat: it is run (again)" in log.text


@pytest.mark.parametrize("sql", SAFE)
def test_what_is_safe_to_repeat_is_not_run_beside_itself(pair, version, sql):
    """Its coordinator died with it, and a call that it had made to the catalog service may still land."""
    leave_in_doubt(pair, sql)
    with pytest.raises(StatementFailed, match="started anew" if version == NEWEST else OLDEST_PAGE) as asked:
        resumed(pair, sql)
    assert (asked.value.outcome, asked.value.retry) == ("unknown", False)
    answered(pair, "not-run")
    if "PARTITION" not in sql:
        resumed(pair, sql)


def test_no_journal_after_a_first_try_is_not_nothing_done(pair):
    with pytest.raises(JournalMissing, match="start-over"):
        resumed(pair, inserts(1))
    assert executed(pair) == []


def test_it_goes_on_elsewhere_when_its_node_shuts_down(pair, log):
    """Within one try, and the other node knows what was written."""
    balancer = changed(pair, policy="round_robin")
    seen = []

    def drain_first(done):
        seen.append(done)
        if len(seen) == 1:
            next(
                node for node in pair.nodes if statements_on(node)[-1:] and "SELECT 1" in statements_on(node)[-1]
            ).drain()

    done = resumed(pair, inserts(1, 2, 3), attempt=1, balancer=balancer, on_statement=drain_first)
    assert [sql for sql, _ in executed(pair)] == [f"INSERT INTO t SELECT {n}" for n in (1, 2, 3)]
    assert "takes no more of the script after 1 statements" in log.text
    assert len({statement.query_id for statement in done.statements}) == 3


def test_the_next_try_moves_when_its_node_is_gone(pair):
    order = {"config": pair.config, "owner": OWNER, "script": inserts(1, 2), "resume": True, "attempt": 1}
    with worker(**order, stop_at="intent", stop_number=2) as process:
        wait_for(lambda: is_stopped(process), 20)
        process.kill()
    node = next(node for node in pair.nodes if any("INSERT" in sql for sql in statements_on(node)))
    node.kill()
    done = resumed(pair, inserts(1, 2))
    assert done.node != node.address
    assert [sql for sql, _ in executed(pair)] == ["INSERT INTO t SELECT 1", "INSERT INTO t SELECT 2"]


def test_rows_that_are_wanted_are_fetched_in_this_try(pair):
    script = f"{inserts(1)}; SELECT n FROM t; SELEC"
    rows = lambda cursor: cursor.fetchall() if cursor.description is not None else None  # noqa: E731
    with pytest.raises(StatementFailed):
        resumed(pair, script, attempt=1, handler=rows)
    record = journal_of(pair)
    assert record.done == 2
    with pytest.raises(StatementFailed):
        resumed(pair, script, handler=rows)
    assert len(executed(pair, "SELECT n FROM t")) == 2
    assert len(executed(pair)) == 1


def test_no_secret_is_in_the_journal(pair):
    with pytest.raises(StatementFailed):
        resumed(pair, f"{inserts(1)}; SELEC", attempt=1)
    journals = open_journals(changed(pair).config)
    text = journals.read(OWNER).decode()
    assert set(json.loads(text)) <= {
        "format",
        "script",
        "total",
        "epoch",
        "by",
        "at",
        "done",
        "target",
        "queries",
        "node",
        "session",
        "intent",
        "rows",
        "attempt",
        "digests",
    }
