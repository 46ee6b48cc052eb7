"""One fault at each point of a script: each call of each statement x where x how.

``test_it_is_safe`` holds for all: the run says what happened, nothing runs twice, nothing hangs. ``test_it_ends_well``
says where the fault must not be noticed at all, by :func:`must_end_well`.
"""

import collections
import contextlib
import functools
import itertools
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass

import pytest

from airflow_provider_impala_lb import Balancer
from airflow_provider_impala_lb.core.config.parse import parse
from airflow_provider_impala_lb.errors import NoNodeAvailable, StatementFailed
from airflow_provider_impala_lb.impala.script.record import ScriptDone
from airflow_provider_impala_lb.sandbox import Sandbox
from airflow_provider_impala_lb.stores.memory import MemoryStore
from tests.support.relay import Call, Fault, Relay
from tests.support.versions import NEWEST, OLDEST
from tests.system.faults.judge import Evidence, Ran, Step, attempt, faults_of
from tests.system.faults.node_pages import wait_until_over

LIMITS = {"open_timeout": 1.0, "rpc_timeout": 1.0, "reconnect_timeout": 5.0}
HANGS_AFTER = 20.0
AT_ONCE = 12

RPCS = [
    "OpenSession",
    "ExecuteStatement",
    "GetOperationStatus",
    "GetResultSetMetadata",
    "FetchResults",
    "GetLog",
    "CloseImpalaOperation",
    "CloseSession",
]
WHERES = ["before", "request_half", "after", "within"]
HOWS = {
    "cut": ("cut", 0.0),
    "reset": ("reset", 0.0),
    "blackhole": ("blackhole", 0.0),
    "delay": ("delay", 0.2),  # shorter than rpc_timeout
    "late": ("delay", 1.1),  # longer: it arrives when the client has given the call up, and goes on with its session
}
KINDS = list(itertools.product(RPCS, WHERES, HOWS))
QUICK = {
    ("OpenSession", "after", "blackhole"),
    ("ExecuteStatement", "request_half", "cut"),
    ("ExecuteStatement", "after", "reset"),
    ("FetchResults", "within", "cut"),
}
"""Those of the quick suite."""
CASES = [(NEWEST, *kind) for kind in KINDS] + [
    (OLDEST, *kind) for kind in KINDS if kind in QUICK or kind[0] == "ExecuteStatement"
]
"""``(version, rpc, where, how)``. On the oldest version, what differs, and the quick ones."""


def never_arrives(rpc: str, where: str, how: str) -> bool:
    """Whether a statement is lost, and the client hears nothing."""
    return rpc == "ExecuteStatement" and where in ("before", "request_half") and how != "delay"


def must_end_well(version: str, rpc: str, where: str, how: str) -> bool:
    """With the node alive, and its web pages within reach.

    Any single fault, but for a request to run a statement that is still on its way when the client has given it up:
    whether it arrives later, only the coordinator can tell, so "unknown" is an honest answer. Nor where the statement
    never arrives at a coordinator of the oldest version, whose page does not tell that.
    """
    return not never_arrives(rpc, where, how) or (version != OLDEST and how != "late")


def script(name: str) -> list[Step]:
    """Two tables, 101 rows; the second INSERT takes a while, so that it is polled."""
    numbers = [(n,) for n in range(101)]
    return [
        Step("SET MEM_LIMIT=1g"),
        Step(f"CREATE TABLE {name} (n INT)", changes=True, rows=[("Table has been created.",)]),
        Step(
            f"INSERT INTO {name} SELECT CAST(10 * a.d + b.d AS INT) FROM digits a CROSS JOIN digits b",
            changes=True,
            modified=100,
        ),
        Step(f"INSERT INTO {name} SELECT 100 WHERE sleep(300)", changes=True, modified=1),
        Step(f"SELECT n FROM {name} ORDER BY n", rows=numbers),
        Step(f"INSERT OVERWRITE {name} SELECT n + 1 FROM {name}", changes=True, modified=101),
        Step(f"SELECT min(n), max(n), count(*) FROM {name}", rows=[(1, 101, 101)]),
    ]


@dataclass(frozen=True)
class Point:
    """The ``nth`` call of ``rpc`` for a statement (0: before the first), and what happens there."""

    statement: int
    rpc: str
    nth: int
    where: str
    how: str

    def decider(self):
        seen = itertools.count(1)

        def decide(call: Call) -> Fault | None:
            if (call.rpc, call.statement) != (self.rpc, self.statement) or next(seen) != self.nth:
                return None
            how, seconds = HOWS[self.how]
            return Fault(self.rpc, where=self.where, how=how, seconds=seconds)

        return decide


class Lab:
    """Two coordinators; the first, which is picked first, is behind a relay."""

    def __init__(self, cluster: Sandbox) -> None:
        self.cluster = cluster
        self._number = itertools.count()
        with self.balancer(cluster.nodes[0].port).connect() as connection, connection.cursor() as cursor:
            cursor.execute("CREATE TABLE digits (d INT)")
            cursor.execute("INSERT INTO digits VALUES " + ", ".join(f"({d})" for d in range(10)))

    def balancer(self, port: int, nodes: int = 2) -> Balancer:
        first, second = self.cluster.nodes
        listed = [
            {"host": "127.0.0.1", "port": port, "web": first.web},
            {"host": second.host, "port": second.port, "web": second.web},
        ]
        config = {
            **self.cluster.config,
            "nodes": listed[:nodes],
            "policy": "round_robin",
            "session": {"auth_mechanism": "NOSASL", **LIMITS},
        }
        return Balancer(parse(config), MemoryStore())

    def run(self, decide=(), nodes: int = 2) -> tuple[Ran, Relay]:
        """One script, over a relay of its own; returns when nothing of it can be at work any more."""
        node, name = self.cluster.nodes[0], f"s{next(self._number)}"
        with Relay(node.host, node.port, faults=decide) as relay:
            ran = attempt(self.balancer(relay.port, nodes), name, script(name), HANGS_AFTER)
            wait_until_over(node, relay)
        return ran, relay

    def evidence(self) -> Evidence:
        return Evidence(self.cluster.nodes)


def left_to_chance(point: Point) -> bool:
    """Whether a run may not come to it: how often a statement is polled is left to chance."""
    return point.rpc == "GetOperationStatus" and point.nth > 1


def runs_at(lab: Lab, point: Point) -> list[tuple[Ran, Relay]]:
    """One script with the fault at this point, and those before it that never came there: on a busy machine the first
    node may not open a session in its second, and the script runs on the other one. All of them are judged."""
    runs = []
    for _ in range(5):
        ran, relay = lab.run(point.decider())
        runs.append((ran, relay))
        elsewhere = isinstance(ran.ended, ScriptDone) and ran.ended.node != f"127.0.0.1:{relay.port}"
        if relay.fired or not elsewhere:
            break
    return runs


def run_at_each_point(lab: Lab, wanted):
    """``(rpc, where, how)`` of ``wanted`` -> ``(point, run, relay, faults found)`` for each place in the script that
    has this call. Many at once: most of their time is waiting."""
    ran, relay = lab.run()
    assert isinstance(ran.ended, ScriptDone), str(ran)
    counts = collections.Counter((call.statement, call.rpc) for call in relay.calls)
    points = [
        Point(statement, rpc, nth, where, how)
        for rpc, where, how in wanted
        for (statement, name), count in sorted(counts.items())
        if name == rpc
        # Every batch of rows; of many polls, whose number is left to chance, the first and a later one.
        for nth in (range(1, count + 1) if rpc == "FetchResults" else (1, 3))
        if nth <= count
    ]
    with ThreadPoolExecutor(AT_ONCE) as pool:
        ended = list(pool.map(lambda point: runs_at(lab, point), points))
    evidence = lab.evidence()
    found = collections.defaultdict(list)
    for point, runs in zip(points, ended, strict=True):
        happened = runs[-1][1].fired or left_to_chance(point)
        for ran, relay in runs:
            faults = faults_of(ran, evidence)
            if not happened:
                faults.append("the fault did not happen")
            found[point.rpc, point.where, point.how].append((point, ran, relay, faults))
    each = [ran for runs in ended for ran, _ in runs]
    tally = collections.Counter(type(ran.ended).__name__ for ran in each)
    print(
        f"\n{len(points)} points, {len(each)} runs: {dict(tally)}, the slowest {max(ran.seconds for ran in each):.1f} s"
    )
    return found


FLAGS = {"fe_service_threads": 512}


@pytest.fixture(scope="module")
def labs():
    """The lab of a version."""
    with contextlib.ExitStack() as stack:

        @functools.cache
        def lab(version):
            return Lab(stack.enter_context(Sandbox(nodes=2, lag=0, flags=FLAGS, users=None, version=version)))

        yield lab


@pytest.fixture(scope="module")
def lab(labs):
    return labs(NEWEST)


@pytest.fixture(scope="module")
def results(request, labs):
    """What :func:`run_at_each_point` found for a case, once for all tests of its version that were selected."""
    here = [item for item in request.session.items if item.path == request.path and "results" in item.fixturenames]
    selected = {item.callspec.params["case"] for item in here}

    @functools.cache
    def found(version):
        return run_at_each_point(labs(version), [kind for kind in KINDS if (version, *kind) in selected])

    return lambda case: found(case[0])[case[1:]]


def cases(selected):
    marks = [() if case[1:] in QUICK else pytest.mark.slow for case in selected]
    return pytest.mark.parametrize(
        "case", [pytest.param(case, id="-".join(case), marks=mark) for case, mark in zip(selected, marks, strict=True)]
    )


def test_without_faults_all_is_well_and_every_call_is_in_the_list(lab):
    """A call that is not in the list is not tested."""
    ran, relay = lab.run()
    assert isinstance(ran.ended, ScriptDone)
    assert faults_of(ran, lab.evidence()) == []
    assert set(relay.names()) == set(RPCS)
    fetches = collections.Counter(call.statement for call in relay.calls if call.rpc == "FetchResults")
    assert fetches[5] >= 3
    polls = collections.Counter(call.statement for call in relay.calls if call.rpc == "GetOperationStatus")
    assert polls[4] >= 5


def told(results):
    return "\n".join(f"{point}: {fault} ({ran})" for point, ran, _, faults in results for fault in faults)


@pytest.mark.timeout(900)
@cases(CASES)
def test_it_is_safe(results, case):
    assert results(case)
    assert not told(results(case)), "\n" + told(results(case))


@pytest.mark.slow
@pytest.mark.timeout(900)
def test_it_is_safe_where_a_session_ends_with_its_connection():
    """Impala up to 3.2, or ``--disconnected_session_timeout=0``: who comes back finds nothing, which proves nothing."""
    cut = [kind for kind in KINDS if kind[2] == "cut"]
    with Sandbox(nodes=2, lag=0, flags={**FLAGS, "disconnected_session_timeout": 0}, users=None) as cluster:
        found = run_at_each_point(Lab(cluster), cut)
    assert len(found) == len(cut)
    for results in found.values():
        assert not told(results), "\n" + told(results)


@pytest.mark.timeout(900)
@cases([case for case in CASES if must_end_well(*case)])
def test_it_ends_well(results, case):
    not_well = [f"{point}: {ran}" for point, ran, _, _ in results(case) if not isinstance(ran.ended, ScriptDone)]
    assert not not_well, f"{len(not_well)} of {len(results(case))}\n" + "\n".join(not_well)


@pytest.mark.timeout(900)
@cases([case for case in CASES if case[0] == OLDEST and never_arrives(*case[1:]) and case[3] != "late"])
def test_what_never_arrives_at_the_oldest_version_is_a_question(results, case):
    """If it changes something; all else is sent again."""
    for point, ran, _, _ in results(case):
        ended = ran.ended
        if ran.steps[point.statement - 1].changes:
            assert isinstance(ended, StatementFailed), str(ran)
            assert (ended.number, ended.outcome) == (point.statement, "unknown")
            assert "of this version does not show all that runs" in ended.reason
        else:
            assert isinstance(ended, ScriptDone), str(ran)


@pytest.mark.slow
@pytest.mark.parametrize("where", WHERES)
@pytest.mark.parametrize("how", ["cut", "reset", "blackhole", "late"])
def test_without_another_node_a_session_that_does_not_open_runs_nothing(lab, where, how):
    ran, _ = lab.run(Point(0, "OpenSession", 1, where, how).decider(), nodes=1)
    assert isinstance(ran.ended, NoNodeAvailable), str(ran)
    assert faults_of(ran, lab.evidence()) == []


def test_a_session_that_does_not_open_leaves_no_lease(lab):
    node = lab.cluster.nodes[0]
    with Relay(node.host, node.port, faults=[Fault("*", where="before", how="reset", times=1000)]) as relay:
        balancer = lab.balancer(relay.port, nodes=1)
        ran = attempt(balancer, "none", script("none"), HANGS_AFTER)
        with contextlib.suppress(AssertionError):
            wait_until_over(node, relay)
    assert isinstance(ran.ended, NoNodeAvailable)
    assert balancer.status()["leases"] == []
