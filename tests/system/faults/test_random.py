"""Random scripts over a network that breaks at random, on coordinators that are stopped and killed: what each run said
is what the journals and the data show.

``FAULT_ONLY`` in the environment: the number of one run, to see it again (what it was told to suffer is the same each
time; how fast it all went is not).
"""

from __future__ import annotations

import collections
import itertools
import os
import queue
import random
import threading
import time
from concurrent.futures import ThreadPoolExecutor

import pytest

from airflow_provider_impala_lb import Balancer
from airflow_provider_impala_lb.core.config.parse import parse
from airflow_provider_impala_lb.impala.script.record import ScriptDone
from airflow_provider_impala_lb.sandbox import Sandbox, SandboxNode
from airflow_provider_impala_lb.stores.memory import MemoryStore
from tests.support.relay import Call, Fault, Relay
from tests.support.servers import eventually
from tests.support.sizes import SEED, sizes
from tests.system.faults.judge import Evidence, Ran, Step, attempt, faults_of
from tests.system.faults.node_pages import executing, wait_until_over

ONLY = os.environ.get("FAULT_ONLY")
AT_ONCE = 8
LIMITS = {"open_timeout": 0.7, "rpc_timeout": 0.5, "reconnect_timeout": 5.0}
HANGS_AFTER = 30.0
TABLES = 40
"""So many tables take the rows: one alone would be read in a thousand files at the end."""

RPCS = {
    "OpenSession": 1,
    "ExecuteStatement": 5,
    "GetOperationStatus": 3,
    "GetResultSetMetadata": 1,
    "FetchResults": 3,
    "GetLog": 1,
    "CloseImpalaOperation": 2,
    "CancelOperation": 1,
    "CloseSession": 1,
}
STATEMENTS = {"set": 1, "use": 2, "create": 1, "ctas": 1, "insert": 4, "select": 2, "many": 1, "refresh": 1}
DATABASES = ["default", "other"]
WHERES = {"before": 3, "request_half": 1, "after": 4, "within": 2}
HOWS = {"cut": 5, "reset": 4, "blackhole": 3, "delay": 2, "late": 3}
TROUBLES = {"none": 84, "pause": 8, "kill": 8}


def choose(rng: random.Random, weights: dict[str, int]) -> str:
    return rng.choices(list(weights), list(weights.values()))[0]


def script(rng: random.Random, number: int) -> list[Step]:
    """Each statement that writes a row writes its script's name, its own number, and the database it is to go to."""
    name, table = f"r{number}", f"rows{number % TABLES}"
    steps: list[Step] = []
    database = "default"
    inserted: dict[str, list[tuple[int]]] = {each: [] for each in DATABASES}
    created: set[str] = set()
    for k in range(1, rng.randint(3, 7)):
        kind = choose(rng, STATEMENTS)
        values = f"'{name}' AS script, {k} AS k, '{database}' AS db"
        if kind == "set":
            steps.append(Step(f"SET MT_DOP={k}"))
        elif kind == "use":
            database = rng.choice(DATABASES)
            steps.append(Step(f"USE {database}"))
        elif kind == "ctas":
            sql = f"CREATE TABLE {name}_{k} AS SELECT {values}"
            steps.append(Step(sql, changes=True, rows=[("Inserted 1 row(s)",)]))
        elif kind == "create" and database not in created:
            created.add(database)
            sql = f"CREATE TABLE IF NOT EXISTS {name} (script STRING, k INT, db STRING)"
            steps.append(Step(sql, changes=True, rows=[("Table has been created.",)]))
        elif kind == "create":
            steps.append(Step(f"INSERT OVERWRITE {name} SELECT {values}", changes=True, modified=1))
        elif kind == "insert":
            inserted[database].append((k,))
            slowly = f" WHERE sleep({rng.randint(1, 150)})" if rng.random() < 0.5 else ""
            steps.append(Step(f"INSERT INTO {table} SELECT {values}{slowly}", changes=True, modified=1))
        elif kind == "select":
            sql = f"SELECT k FROM {table} WHERE script = '{name}' ORDER BY k"
            steps.append(Step(sql, rows=list(inserted[database])))
        elif kind == "many":
            sql = "SELECT CAST(10 * a.d + b.d AS INT) AS n FROM default.digits a CROSS JOIN default.digits b ORDER BY n"
            steps.append(Step(sql, rows=[(n,) for n in range(100)]))
        else:
            steps.append(Step(f"REFRESH {table}"))
    return steps


class Plan:
    """What one run does and suffers; all of it follows from the seed and the number."""

    def __init__(self, number: int) -> None:
        rng = random.Random(f"{SEED}/{number}")
        self.name, self.steps = f"r{number}", script(rng, number)
        self.elsewhere = rng.random() < 0.5
        self.faults = [self._fault(rng) for _ in range(rng.choices([0, 1, 2, 3], [3, 8, 5, 4])[0])]
        self.trouble = choose(rng, TROUBLES)
        # 0: with the first fault: a coordinator dies with a statement in its hands that nobody has heard of again.
        self.trouble_at = rng.choice([0, rng.randint(1, 6 * len(self.steps))])
        self.trouble_after = rng.choice([0.0, 0.005, 0.02, 0.05, 0.1])
        self.trouble_seconds = rng.uniform(0.05, 1.5)

    def _fault(self, rng: random.Random) -> Fault:
        rpc, where, how = choose(rng, RPCS), choose(rng, WHERES), choose(rng, HOWS)
        seconds = {"delay": rng.uniform(0.02, 0.3), "late": rng.uniform(0.52, 0.9)}.get(how, 0.0)
        return Fault(
            rpc,
            nth=1 if rpc.endswith("Session") else rng.randint(1, len(self.steps)),
            where=where,  # type: ignore[arg-type]
            how="delay" if how == "late" else how,  # type: ignore[arg-type]
            seconds=seconds,
            times=rng.choice([1, 1, 1, 2]),
            down=rng.uniform(0.05, 1.0) if rng.random() < 0.15 else 0.0,
        )

    def __str__(self) -> str:
        told = [f"{f.rpc} {f.nth} {f.where} {f.how} {f.seconds:.2f} x{f.times} down {f.down:.2f}" for f in self.faults]
        if self.trouble != "none":
            at = f"call {self.trouble_at}" if self.trouble_at else "the first fault"
            told.append(f"{self.trouble} at {at} + {self.trouble_after} s")
        return f"{'; '.join(told)}; {[step.sql for step in self.steps]}"


class Stage:
    """One run's relay and its node, and the trouble that the node is in."""

    def __init__(self, plan: Plan, node: SandboxNode) -> None:
        self._plan, self._node = plan, node
        self._seen = itertools.count(1)
        self._used: collections.Counter[int] = collections.Counter()
        self._over = threading.Event()
        self._thread: threading.Thread | None = None
        self._failure: BaseException | None = None
        self.troubled = False
        self.relay = Relay(node.host, node.port, faults=self._decide)

    def _decide(self, call: Call) -> Fault | None:
        found = None
        for place, fault in enumerate(self._plan.faults):
            if fault.rpc == call.rpc and call.nth >= fault.nth and self._used[place] < fault.times:
                self._used[place] += 1
                found = fault
                break
        here = found is not None if self._plan.trouble_at == 0 else next(self._seen) == self._plan.trouble_at
        if here and self._plan.trouble != "none" and not self.troubled:
            self.troubled = True
            self._thread = threading.Thread(target=self._trouble)
            self._thread.start()
            if not self._plan.trouble_after:
                time.sleep(0.01)  # it happens before this call goes on
        return found

    def _trouble(self) -> None:
        try:
            self._be_troubled()
        except BaseException as error:
            self._failure = error

    def _be_troubled(self) -> None:
        time.sleep(self._plan.trouble_after)
        if self._plan.trouble == "pause":
            self._node.pause()
            self._over.wait(self._plan.trouble_seconds)
            self._node.resume()
            return
        self.relay.down()
        self._node.kill()
        self._node.start()
        self.relay.up()

    def end(self) -> None:
        """The node is well again, and nothing of the run can be at work there any more."""
        self._over.set()
        if self._thread:
            self._thread.join(90)
        if self._failure:
            raise self._failure
        wait_until_over(self._node, self.relay)


class Theatre:
    """A node for each run at a time, one that no harm is done to, and the tables."""

    def __init__(self, cluster: Sandbox) -> None:
        self.cluster = cluster
        *nodes, self._steady = cluster.nodes
        self._free: queue.SimpleQueue[SandboxNode] = queue.SimpleQueue()
        for node in nodes:
            self._free.put(node)
        with Balancer.from_config(cluster.config).connect() as connection, connection.cursor() as cursor:
            cursor.execute("CREATE TABLE digits (d INT)")
            cursor.execute("INSERT INTO digits VALUES " + ", ".join(f"({d})" for d in range(10)))
            cursor.execute("CREATE DATABASE other")
            for database, number in itertools.product(DATABASES, range(TABLES)):
                cursor.execute(f"CREATE TABLE {database}.rows{number} (script STRING, k INT, db STRING)")

    def run(self, number: int) -> tuple[Plan, Ran, Stage]:
        plan, node = Plan(number), self._free.get()
        try:
            stage = Stage(plan, node)
            try:
                ran = attempt(self._balancer(stage.relay.port, node, plan), plan.name, plan.steps, HANGS_AFTER)
            finally:
                stage.end()
        finally:
            self._free.put(node)
        return plan, ran, stage

    def _balancer(self, port: int, node: SandboxNode, plan: Plan) -> Balancer:
        nodes = [{"host": "127.0.0.1", "port": port, "web": node.web}]
        if plan.elsewhere:
            nodes.append({"host": self._steady.host, "port": self._steady.port, "web": self._steady.web})
        session = {"auth_mechanism": "NOSASL", **LIMITS}
        config = {**self.cluster.config, "nodes": nodes, "policy": "round_robin", "session": session}
        return Balancer(parse(config), MemoryStore())

    def rows(self) -> dict[tuple[str, int], int]:
        """How often each row is there. What CREATE TABLE makes counts as a row of its statement; a row in another
        database than it says counts as two."""
        found: collections.Counter[tuple[str, int]] = collections.Counter()
        with Balancer.from_config(self.cluster.config).connect() as connection, connection.cursor() as cursor:
            for database in DATABASES:
                for number in range(TABLES):
                    table = f"{database}.rows{number}"
                    cursor.execute(f"SELECT script, k, db, count(*) FROM {table} GROUP BY script, k, db")
                    for script, k, db, count in cursor.fetchall():
                        found[script, k] += count if db == database else 2 * count
                cursor.execute(f"SHOW TABLES IN {database}")
                for (table,) in cursor.fetchall():
                    name, _, k = table.partition("_")
                    if k:
                        found[name, int(k)] += 1
        return found


@pytest.mark.parametrize("runs", sizes("FAULT_RUNS", 1200))
def test_what_each_run_says_is_what_the_journals_and_the_data_show(runs):
    numbers = [int(ONLY)] if ONLY else list(range(runs))
    start = time.monotonic()
    with Sandbox(nodes=AT_ONCE + 1, lag=0, flags={"fe_service_threads": 512}, users=None) as cluster:
        theatre = Theatre(cluster)
        with ThreadPoolExecutor(AT_ONCE) as pool:
            results = list(pool.map(theatre.run, numbers))
        for node in cluster.nodes:
            eventually(lambda node=node: executing(node) == 0)
        evidence = Evidence(cluster.nodes, theatre.rows())
    told = []
    ends: collections.Counter[str] = collections.Counter()
    fired: collections.Counter[str] = collections.Counter()
    for plan, ran, stage in results:
        ends[
            "well" if isinstance(ran.ended, ScriptDone) else getattr(ran.ended, "outcome", type(ran.ended).__name__)
        ] += 1
        fired.update(f"{fault.where} {fault.how}" for _, fault in stage.relay.fired)
        fired.update([plan.trouble] if stage.troubled else [])
        if faults := faults_of(ran, evidence):
            happened = [f"{call.rpc} {call.nth} {fault.where} {fault.how}" for call, fault in stage.relay.fired]
            told.append(
                f"run {plan.name}: {faults}\n  {ran}\n  {plan}\n  fired: {happened}, calls: {stage.relay.names()}"
            )
    seconds, slowest = time.monotonic() - start, max(ran.seconds for _, ran, _ in results)
    print(f"\nseed {SEED}: {len(results)} runs in {seconds:.0f} s, the slowest {slowest:.1f} s: {dict(ends)}")
    print(f"faults: {dict(sorted(fired.items()))}")
    assert not told, f"seed {SEED}, {len(told)} runs\n" + "\n".join(told)
    if len(results) >= 1000:
        assert len(fired) == len(WHERES) * 4 + 2, "some fault never happened"
        assert ends["well"] > 200
