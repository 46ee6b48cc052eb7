"""What one life is to be: its script, its attempts, and what is to go wrong. All of it follows from a seed."""

from __future__ import annotations

import random
from dataclasses import dataclass, field
from typing import Literal

from tests.support.relay import Fault
from tests.system.lives.tables import Effect, Row, Statement, after

KINDS = {"set": 1, "use": 2, "create": 2, "ctas": 2, "insert": 6, "overwrite": 1, "truncate": 1, "drop": 2, "select": 2}
DATABASES = ("default", "other")
RPCS = {
    "OpenSession": 2,
    "ExecuteStatement": 8,
    "GetOperationStatus": 4,
    "FetchResults": 2,
    "CloseImpalaOperation": 3,
    "CancelOperation": 1,
    "CloseSession": 1,
    "GetInfo": 1,
}
WHERES = {"before": 3, "request_half": 1, "after": 4, "within": 2}
HOWS = {"cut": 5, "reset": 4, "blackhole": 3, "delay": 2, "late": 3}
SLOW_POINTS = {
    "planning": 6,
    "inflight": 3,
    "admission": 1,
    "execution": 2,
    "finalising": 2,
    "catalog": 4,
    "catalog_answer": 3,
    "ctas": 2,
    "unregistering": 3,
    "archiving": 2,
    "leaving": 1,
}
STRIKES = {"kill": 8, "stop": 6, "cancel": 1, "hand over": 2}
PAGES = {"well": 14, "swapped": 1, "queries swapped": 1, "stale": 1, "login": 1, "away": 1, "error": 1}
NODES = {"well": 16, "pause": 2, "kill": 2}
FOCUSES = {
    "none": 6,
    "late": 3,
    "late, killed": 2,
    "late, stopped": 2,
    "dropped": 2,
    "old page": 3,
    "cancelled by an admin": 2,
    "slow and lost": 2,
    "ghost": 2,
}
"""What comes together at one moment, since by chance it rarely would. ``late``: a statement arrives after its client
has given up, or is gone, or is stopped. ``dropped``: it has run, nobody has noted that, and others' statements push it
out of the page. ``old page``: and the page is from before it was sent, or another's. ``ghost``: stopped while one
runs."""
LONGEST_DELAY = 3.0  # seconds at one point
MOMENT = -1
"""Of a call: the moment of the focus."""
DEPLOYMENTS = {"one": 12, "two keys": 1, "two runs": 1}


@dataclass(frozen=True)
class Strike:
    """What is done to a worker.

    :ivar what: SIGKILL; SIGSTOP, and SIGCONT beside its successor; its run is cancelled; a trigger is told to hand over
    :ivar call: at which call that the relay sees, from 1; 0: at a sending; or `MOMENT`
    :ivar sending: before its process sends for the so-manieth time, from 1
    :ivar cut: the call does not reach the coordinator
    :ivar seconds: so long after the call
    :ivar asleep: of a stop: so long after its successor has begun; None: once that has ended
    """

    what: str
    call: int
    sending: int
    cut: bool
    seconds: float
    asleep: float | None


@dataclass(frozen=True)
class Slow:
    """A switch of the practice cluster.

    :ivar action: ``delay``, or ``hold`` until a later attempt runs, or ``fail``
    :ivar point: where a statement stays
    :ivar number: which statement; 0: each
    :ivar seconds: how long; of a hold: how long after the next attempt has begun
    :ivar times: how often
    """

    action: Literal["delay", "hold", "fail"]
    point: str
    number: int
    seconds: float
    times: int


def choose(rng: random.Random, weights: dict[str, int]) -> str:
    """One of the keys, by weight."""
    return rng.choices(list(weights), list(weights.values()))[0]


@dataclass
class Story:
    """One life.

    :ivar seed: of all lives
    :ivar number: of this one
    :ivar name: of the script, in its statements' labels and its tables
    :ivar statements: the script
    :ivar before: the tables that are there when it begins
    """

    seed: int
    number: int
    name: str = ""
    statements: list[Statement] = field(default_factory=list)
    before: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        rng = random.Random(f"{self.seed}/{self.number}")
        self.name = f"life{self.number}"
        self.before = (*(f"{database}.{self.name}_rows" for database in DATABASES), f"default.{self.name}_parts")
        self.resume = rng.random() < 0.8
        self.wants_rows = rng.random() < 0.4
        self._write(rng, rng.randint(3, 7))
        calls = 8 + 10 * len(self.statements)
        self.defer_after = rng.choice([0.0, 0.05, 0.2, 0.5]) if rng.random() < 0.4 else None
        self.rows_later = rng.choice([0.0, 0.3, 1.5])
        self.query_timeout = self.wants_rows and rng.random() < 0.5
        self.elsewhere = rng.random() < 0.5
        self.faults = [self._fault(rng) for _ in range(rng.choices([0, 1, 2], [5, 4, 3])[0])]
        self.strikes = [self._strike(rng, calls) for _ in range(rng.choices([0, 1, 2, 3], [2, 6, 3, 1])[0])]
        self.slow = [self._slow(rng) for _ in range(rng.choices([0, 1, 2], [6, 4, 1])[0])]
        self.pages, self.pages_from = choose(rng, PAGES), rng.randint(0, calls)
        self.pages_until = rng.randint(2, 3)
        self.node, self.node_at = choose(rng, NODES), rng.randint(1, calls)
        self.node_seconds = rng.uniform(0.05, 1.5)
        self.noise = rng.choice([10, 45]) if rng.random() < 0.3 else 0
        self.noise_at, self.old_at = rng.randint(1, calls), rng.randint(1, calls)
        self.old = rng.random() < 0.3
        self.focus, self.moment, self.cancel_after = choose(rng, FOCUSES), ("", 0), 0.0
        self._focus(rng)
        self.deployments, self.other_at = choose(rng, DEPLOYMENTS), rng.randint(1, calls)

    def _focus(self, rng: random.Random) -> None:
        """Let some things happen together."""
        focus, number = self.focus, rng.randint(1, self.total + 1)
        self.moment = ("ExecuteStatement", number)
        kill, stop = (Strike(what, MOMENT, 0, False, 0.0, rng.choice([None, 0.1, 0.4])) for what in ("kill", "stop"))
        if focus.startswith("late"):
            where, seconds = rng.choice(["before", "request_half"]), rng.uniform(1.2, 4.0)
            self.faults = [Fault("ExecuteStatement", number, where, "delay", seconds)]  # type: ignore[arg-type]
            self.strikes = {"late": [], "late, killed": [kill], "late, stopped": [stop]}[focus]
        elif focus == "dropped":
            self.moment = ("CloseImpalaOperation", rng.randint(1, self.total))
            self.strikes, self.noise, self.noise_at = [kill], 50, MOMENT
        elif focus == "old page":
            self.pages, self.pages_from = rng.choice(["stale", "stale", "queries swapped", "swapped"]), MOMENT
            if rng.random() < 0.6:
                self.strikes = [kill]
            else:
                self.faults = [Fault("ExecuteStatement", number, "after", rng.choice(["cut", "reset"]))]  # type: ignore[arg-type]
        elif focus == "cancelled by an admin":
            point = rng.choice(["planning", "inflight", "execution", "finalising", "catalog", "catalog_answer"])
            self.slow = [Slow("delay", point, 0, rng.uniform(0.5, 2.0), rng.choice([1, 2]))]
            self.cancel_after = rng.uniform(0.02, 0.4)
        elif focus == "slow and lost":
            how = rng.choice(["cut", "reset", "blackhole"])
            self.faults = [Fault("ExecuteStatement", number, rng.choice(["after", "within"]), how)]  # type: ignore[arg-type]
            self.slow = [Slow("delay", choose(rng, SLOW_POINTS), 0, rng.uniform(0.3, 2.0), 2)]
        elif focus == "ghost":
            self.moment = ("GetOperationStatus", rng.randint(1, 3 * self.total))
            self.strikes = [stop]
            self.slow = [Slow("delay", rng.choice(["execution", "catalog", "finalising"]), 0, 0.8, 3)]

    @property
    def total(self) -> int:
        """How many statements the script has."""
        return len(self.statements)

    @property
    def script(self) -> str:
        """Its text."""
        return ";\n".join(statement.sql for statement in self.statements)

    def _write(self, rng: random.Random, total: int) -> None:
        database = "default"
        for number in range(1, total + 1):
            there = after(self.before, self.statements, number)
            made = sorted(table for table in there if table not in self.before)
            kind = choose(rng, KINDS)
            if kind == "drop" and not made:
                kind = "create"
            statement = self._statement(rng, kind, number, database, made)
            if kind == "use":
                database = statement.sql.split()[1]
            self.statements.append(statement)

    def _statement(self, rng: random.Random, kind: str, number: int, database: str, made: list[str]) -> Statement:
        row: Row = (number, database)
        values = f"CAST({number} AS INT) k, '{database}' db"
        rows, parts = f"{self.name}_rows", f"default.{self.name}_parts"

        def made_of(sql: str, effect: Effect, table: str, row: Row | None = None, *, safe: bool = False) -> Statement:
            return Statement(number, kind, sql, effect, table, row, safe)

        if kind == "set":
            return Statement(number, kind, f"SET MT_DOP={number}")
        if kind == "use":
            return Statement(number, kind, f"USE {rng.choice(DATABASES)}")
        if kind == "create":
            maybe = "IF NOT EXISTS " if rng.random() < 0.3 else ""
            table = f"default.{self.name}_c{number}"
            return made_of(f"CREATE TABLE {maybe}{table} (k INT, db STRING)", "make", table, safe=bool(maybe))
        if kind == "ctas":
            table = f"default.{self.name}_a{number}"
            return made_of(f"CREATE TABLE {table} AS SELECT {values}", "make", table, row)
        if kind == "drop":
            table, maybe = rng.choice(made), "IF EXISTS " if rng.random() < 0.3 else ""
            return made_of(f"DROP TABLE {maybe}{table}", "drop", table, safe=bool(maybe))
        if kind == "truncate":
            return made_of(f"TRUNCATE TABLE {rows}", "empty", f"{database}.{rows}", safe=True)
        if kind == "overwrite":
            return made_of(f"INSERT OVERWRITE {parts} PARTITION (p=1) SELECT {values}", "set", parts, row, safe=True)
        if kind == "select":
            there = after(self.before, self.statements, number)[f"{database}.{rows}"]
            expected = tuple(sorted(there.elements()))
            return Statement(number, kind, f"SELECT k, db FROM {rows} ORDER BY k", rows=expected)
        slowly = f" WHERE sleep({rng.choice([20, 150, 800])})" if rng.random() < 0.5 else ""
        return made_of(f"INSERT INTO {rows} SELECT {values}{slowly}", "add", f"{database}.{rows}", row)

    def _fault(self, rng: random.Random) -> Fault:
        rpc, where, how = choose(rng, RPCS), choose(rng, WHERES), choose(rng, HOWS)
        seconds = {"delay": rng.uniform(0.02, 0.3), "late": rng.uniform(0.7, 2.0)}.get(how, 0.0)
        return Fault(
            rpc,
            nth=rng.randint(1, 3 if rpc.endswith("Session") else self.total + 2),
            where=where,  # type: ignore[arg-type]
            how="delay" if how == "late" else how,  # type: ignore[arg-type]
            seconds=seconds,
            times=rng.choice([1, 1, 1, 2]),
            down=rng.uniform(0.05, 1.0) if rng.random() < 0.15 else 0.0,
        )

    def _strike(self, rng: random.Random, calls: int) -> Strike:
        what = choose(rng, STRIKES)
        at_sending = rng.random() < 0.35 and what in ("kill", "stop")
        return Strike(
            what,
            call=0 if at_sending else rng.randint(1, calls),
            sending=rng.randint(1, self.total + 1) if at_sending else 0,
            cut=rng.random() < 0.3,
            seconds=rng.choice([0.0, 0.0, 0.003, 0.01, 0.03, 0.1]),
            asleep=rng.choice([None, 0.0, 0.1, 0.4, 1.0]),
        )

    def _slow(self, rng: random.Random) -> Slow:
        changing = [each.number for each in self.statements if each.changes] or [1]
        point, action = choose(rng, SLOW_POINTS), choose(rng, {"delay": 6, "hold": 3, "fail": 1})
        if action == "fail":
            point = choose(rng, {"planning": 1, "execution": 2, "finalising": 1, "catalog": 2, "catalog_answer": 2})
        seconds = rng.uniform(0.1, 1.0) if rng.random() < 0.5 else rng.uniform(1.0, LONGEST_DELAY)
        return Slow(action, point, rng.choice(changing), seconds, times=rng.choice([1, 1, 2]))  # type: ignore[arg-type]

    def __str__(self) -> str:
        told = [f"{f.rpc} {f.nth} {f.where} {f.how} {f.seconds:.2f} x{f.times} down {f.down:.2f}" for f in self.faults]
        told += [str(each) for each in (*self.strikes, *self.slow)]
        if self.focus != "none":
            told.append(f"{self.focus}: {self.moment[0]} {self.moment[1]}")
        if self.pages != "well":
            told.append(f"pages {self.pages} from call {self.pages_from} until attempt {self.pages_until}")
        if self.node != "well":
            told.append(f"node: {self.node} at call {self.node_at}")
        if self.noise:
            told.append(f"{self.noise} foreign statements at call {self.noise_at}")
        if self.old:
            told.append(f"a foreign old statement closed at call {self.old_at}")
        if self.deployments != "one":
            told.append(f"deployments: {self.deployments} at call {self.other_at}")
        how = f"resume={self.resume} rows={self.wants_rows} defer_after={self.defer_after} elsewhere={self.elsewhere}"
        return f"{how}; {'; '.join(told) or 'nothing goes wrong'}\n  " + "\n  ".join(
            f"{each.number}: {each.sql}" for each in self.statements
        )
