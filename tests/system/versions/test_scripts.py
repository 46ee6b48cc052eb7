"""Scripts that a worker of one version begins and one of the other goes on with: by their journal, by their trigger."""

import itertools
import json
import logging
from contextlib import ExitStack, contextmanager

import pytest

from airflow_provider_impala_lb import Balancer
from airflow_provider_impala_lb.impala.journal.document import decode
from airflow_provider_impala_lb.impala.journal.sweeping import sweep
from airflow_provider_impala_lb.sandbox import Sandbox
from airflow_provider_impala_lb.stores.factory import open_journals
from tests.support.scripts import in_flight
from tests.support.servers import eventually
from tests.support.two_versions import VERSIONS, Failed

pytestmark = pytest.mark.slow
BOTH_WAYS = pytest.mark.parametrize(("first", "second"), [VERSIONS, VERSIONS[::-1]], ids=["old-new", "new-old"])
OWNER = "d/r/t"
LATER = {"later": {"and": ["more"]}}
"""What a later version may add to a record within its format."""
_numbers = itertools.count()


@pytest.fixture(scope="module")
def cluster():
    with Sandbox(nodes=2, lag=0.2) as cluster:
        yield cluster


class Lab:
    """A connection with a state of its own, a table of its own, and one worker of each version."""

    def __init__(self, cluster, table, start, folder):
        self.cluster, self.table = cluster, table
        self.config = {**cluster.config, "lock_file": str(folder / "lock"), "name": table}
        fields = {"conn_type": "impala_lb", "extra": {**self.config, "seal_key": "of both"}}
        (folder / "airflow").mkdir()
        environment = {
            "AIRFLOW_CONN_VERSIONS": json.dumps(fields),
            "AIRFLOW_HOME": str(folder / "airflow"),
            "AIRFLOW__CORE__UNIT_TEST_MODE": "False",
        }
        self._start = lambda version: start(version, **environment)
        with Balancer.from_config(self.config).connect() as connection, connection.cursor() as cursor:
            cursor.execute("SET SYNC_DDL=1")
            cursor.execute(f"CREATE TABLE {table} (n INT)")

    def start(self, *versions):
        """Workers, which load Airflow at the same time."""
        workers = [self._start(version) for version in versions]
        for worker in workers:
            worker.send("load")
        for worker in workers:
            worker.answer()
        return workers

    def insert(self, n):
        return f"INSERT INTO {self.table} SELECT {n} WHERE sleep(10)"

    def statements(self):
        """What was executed on the table, in order: the number, and how it ended."""
        entries = [entry for node in self.cluster.nodes for entry in node.journal()]
        return [
            (int(entry["sql"].partition(" SELECT ")[2].split()[0]), entry["state"])
            for entry in sorted(entries, key=lambda entry: entry["t"])
            if f"INTO {self.table} SELECT" in entry.get("sql", "")
        ]

    @contextmanager
    def held(self, n):
        """Its statement stays where it is, once it is admitted, for the block."""
        with ExitStack() as holds:
            for node in self.cluster.nodes:
                holds.enter_context(node.hold("execution", sql=self.insert(n)))
            yield

    def runs(self, n):
        return any(in_flight(node, self.insert(n)) for node in self.cluster.nodes)

    @property
    def journals(self):
        return open_journals(Balancer.from_config(self.config).config)

    @property
    def record(self):
        return decode(self.journals.read(OWNER), "")

    def change_journal(self, change):
        """By a version that writes it in another way; nobody else writes meanwhile.

        :param change: of the document, as a dictionary
        """
        document = json.loads(self.journals.read(OWNER))
        change(document)
        self.journals.change(OWNER, lambda old, now: (None, json.dumps(document).encode()))

    def check(self, numbers):
        """Each has run exactly once, in order, and nothing is left."""
        assert self.statements() == [(n, "FINISHED") for n in numbers]
        with Balancer.from_config(self.config).connect() as connection, connection.cursor() as cursor:
            cursor.execute(f"INVALIDATE METADATA {self.table}")
            cursor.execute(f"SELECT n FROM {self.table} ORDER BY n")
            assert [row[0] for row in cursor.fetchall()] == list(numbers)
        assert Balancer.from_config(self.config).status()["leases"] == []
        assert (self.record.ended, self.record.sessions, self.record.intent) == (True, [], None)


@pytest.fixture
def lab(request, cluster, start, tmp_path):
    return Lab(cluster, f"versions{next(_numbers)}", start, tmp_path)


@BOTH_WAYS
def test_a_script_goes_on_from_attempt_to_attempt(lab, first, second):
    """The first attempt fails, the second one is killed at work, the third one is the first one's worker again."""
    sql, (other, victim) = "; ".join(map(lab.insert, range(1, 5))), lab.start(first, second)
    with pytest.raises(Failed, match="^StatementFailed: Statement 2 of 4"):
        other.ask("execute", sql=sql.replace(lab.insert(2), "SELECT missing"), resume=True)
    assert (lab.record.done, lab.record.intent) == (1, None)
    with lab.held(3):
        victim.send("execute", sql=sql, resume=True, attempt=2)
        eventually(lambda: lab.runs(3), 60)
        victim.kill()
        lab.change_journal(lambda document: (document.update(LATER), document["intent"].update(LATER)))
        other.send("execute", sql=sql, resume=True, attempt=3)
        eventually(lambda: lab.record.by == "attempt 3", 60)
        assert lab.runs(3)
        assert b"later" not in lab.journals.read(OWNER)  # who does not know a field does not keep it
    run = other.answer()["xcoms"]["impala_run"]
    assert (run["statements"], run["rows"]) == (4, 3)  # how many statement 3 has written nobody was told
    lab.check(range(1, 5))


@BOTH_WAYS
def test_the_other_versions_trigger_runs_the_rest_of_a_deferred_script(lab, first, second):
    """And its worker fetches the rows, which its trigger leaves to it."""
    sql = f"{lab.insert(1)}; {lab.insert(2)}; {lab.insert(3)}; SELECT n FROM {lab.table} ORDER BY n"
    worker, triggerer = lab.start(first, second)
    with lab.held(2):
        deferred = worker.ask("execute", sql=sql, deferrable=True)
    carried = deferred["arguments"]["deferred"]
    for part in (carried, carried["options"], carried["handover"], carried["handover"]["lease"]):
        part.update(LATER)
    event = triggerer.ask("trigger", path=deferred["path"], arguments=deferred["arguments"])
    assert set(event) == {"format", "go_on"}
    for part in (event, event["go_on"], event["go_on"]["lease"]):
        part.update(LATER)
    back = worker.ask("execute", sql=sql, deferrable=True, method=deferred["method"], event=event)
    assert back["result"] == [[1], [2], [3]]
    assert (back["xcoms"]["impala_run"]["statements"], back["xcoms"]["impala_run"]["rows"]) == (4, 3)
    lab.check(range(1, 4))


@BOTH_WAYS
def test_a_trigger_goes_on_with_what_the_other_versions_trigger_has_left(lab, first, second, tmp_path):
    """A triggerer is stopped in order, and Airflow gives its trigger to another one, with the arguments of the
    beginning. A worker of the other version comes back from it."""
    sql, stop = "; ".join(map(lab.insert, range(1, 5))), tmp_path / "stop"
    worker, other = lab.start(first, second)
    with lab.held(2):
        deferred = worker.ask("execute", sql=sql, deferrable=True, handler=None)
    order = {"path": deferred["path"], "arguments": deferred["arguments"]}
    with lab.held(3):
        worker.send("trigger", stop=str(stop), **order)
        eventually(lambda: lab.runs(3), 60)
        stop.touch()
        assert worker.answer() is None
        assert lab.runs(3)
        other.send("trigger", **order)
        eventually(lambda: lab.record.epoch == 3, 60)
    event = other.answer()
    assert event["done"]["statements"] == 4
    back = other.ask("execute", sql=sql, deferrable=True, handler=None, method=deferred["method"], event=event)
    assert back["xcoms"]["impala_run"]["rows"] == 4
    lab.check(range(1, 5))


@pytest.mark.parametrize("version", VERSIONS)
def test_a_journal_of_a_newer_format_is_left_as_it_is_and_nothing_is_sent(lab, version):
    """Whether this version can read it, or not at all."""
    sql, (worker, again) = "; ".join(map(lab.insert, range(1, 4))), lab.start(version, version)
    with lab.held(2):
        worker.send("execute", sql=sql, resume=True)
        eventually(lambda: lab.runs(2), 60)
        worker.kill()
    eventually(lambda: lab.statements() == [(1, "FINISHED"), (2, "FINISHED")])
    whole = lab.journals.read(OWNER)
    for done in (1, [1]):
        lab.change_journal(lambda document, done=done: document.update(format=2, done=done))
        found = lab.journals.read(OWNER)
        with pytest.raises(Failed, match="AirflowFailException: .*newer version .*format 2.*Upgrade this host"):
            again.ask("execute", sql=sql, resume=True, attempt=2)
        assert lab.journals.read(OWNER) == found
        assert sweep_all(lab.journals) == 1
        assert lab.journals.read(OWNER) == found
    assert lab.statements() == [(1, "FINISHED"), (2, "FINISHED")]
    lab.journals.change(OWNER, lambda document, now: (None, whole))
    again.ask("execute", sql=sql, resume=True, attempt=3)
    lab.check(range(1, 4))


@pytest.mark.parametrize("version", VERSIONS)
def test_what_a_newer_version_has_deferred_is_an_error_and_runs_on(lab, version):
    sql, (worker,) = "; ".join(map(lab.insert, range(1, 4))), lab.start(version)
    with lab.held(2):
        deferred = worker.ask("execute", sql=sql, deferrable=True, handler=None)
        before = lab.journals.read(OWNER)
        newer = {**deferred["arguments"], "deferred": {**deferred["arguments"]["deferred"], "format": 2, "options": []}}
        event = worker.ask("trigger", path=deferred["path"], arguments=newer)
        assert set(event) == {"format", "error"}
        with pytest.raises(Failed, match="AirflowFailException: .*newer version .*Upgrade the triggerer"):
            worker.ask("execute", sql=sql, deferrable=True, handler=None, method=deferred["method"], event=event)
        assert (lab.journals.read(OWNER), lab.runs(2)) == (before, True)
        assert [lease["owner"] for lease in Balancer.from_config(lab.config).status()["leases"]] == [OWNER]
    event = worker.ask("trigger", path=deferred["path"], arguments=deferred["arguments"])
    before = lab.journals.read(OWNER)
    for newer in ({"format": 2, "finished": {}}, {**event, "format": 2}):
        with pytest.raises(Failed, match="AirflowFailException: .*newer version .*may have run to its end"):
            worker.ask("execute", sql=sql, deferrable=True, handler=None, method=deferred["method"], event=newer)
    assert lab.journals.read(OWNER) == before
    worker.ask("execute", sql=sql, deferrable=True, handler=None, method=deferred["method"], event=event)
    lab.check(range(1, 4))


def sweep_all(journals):
    """How many a sweep leaves as they are since it cannot read them."""
    log = logging.getLogger(__name__)
    warned = []
    log.addFilter(lambda record: warned.append(record) and False)
    sweep(journals, log, share=1.0)
    log.filters.clear()
    return len(warned)
