"""One script's own table, state and Impala user on a cluster, and what the coordinators know of it."""

from __future__ import annotations

import json
import re
import urllib.request
from collections import Counter
from pathlib import Path
from typing import Any

from airflow_provider_impala_lb import Balancer
from airflow_provider_impala_lb.core.state.state import State
from airflow_provider_impala_lb.impala.journal.answers import answer
from airflow_provider_impala_lb.impala.journal.document import Record, decode
from airflow_provider_impala_lb.sandbox import Sandbox, SandboxNode
from airflow_provider_impala_lb.stores.factory import open_journals
from tests.support.servers import eventually
from tests.system.phases.process import Process

NUMBERS = (1, 2, 4)
"""Statements of the script that insert a row; 3 is a query."""
LIMITS = {"open_timeout": 5, "rpc_timeout": 5, "reconnect_timeout": 20}


def add_numbers(cluster: Sandbox) -> None:
    """The tables that the script's query reads: ``ten`` and ``thousand`` numbers.

    :param cluster: the practice cluster that they are made on
    """
    with Balancer.from_config(cluster.config).connect() as connection, connection.cursor() as cursor:
        cursor.execute("CREATE TABLE ten (n INT)")
        cursor.execute(f"INSERT INTO ten VALUES {', '.join(f'({n})' for n in range(10))}")
        cursor.execute("CREATE TABLE thousand AS SELECT a.n + 10 * b.n + 100 * c.n AS n FROM ten a, ten b, ten c")


class Lab:
    """A script's table, state and Impala user.

    :param cluster: the practice cluster; ``thousand`` is there
    :param name: of the Impala user, by which its sessions and statements are known from other scripts' ones
    :param directory: for the lock file, and for what the processes write
    :ivar keys: the arguments of the trigger, from the worker that has handed over
    :ivar sql: the trigger's script, if it is another one
    :ivar processes: all that were started
    """

    def __init__(self, cluster: Sandbox, name: str, directory: Path) -> None:
        self.cluster, self.user = cluster, name
        self.table = f"t_{name}"
        self._directory = directory
        self.processes: list[Process] = []
        self.keys: dict[str, Any] = {}
        self.sql: dict[str, str] = {}
        self.limit(**LIMITS)
        with self.balancer.connect() as connection, connection.cursor() as cursor:
            cursor.execute(f"CREATE TABLE {self.table} (n INT, try INT)")

    def limit(self, **seconds: float) -> None:
        """Of the sessions from now on."""
        config = {**self.cluster.config, "lock_file": str(self._directory / "lock"), "name": "phases"}
        config["session"] = {**config["session"], "user": self.user, **seconds}
        self._connection = json.dumps({"conn_type": "impala_lb", "extra": config})
        self.balancer = Balancer.from_config(config)

    def script(self, attempt: int = 0, *, slow: float = 0.6) -> str:
        """Four statements: `NUMBERS`, and a query.

        :param attempt: is inserted, too; with ``resume`` the text must not change
        :param slow: seconds that statement 2 takes; 4 takes half of it
        """

        def insert(n: int, seconds: float) -> str:
            return f"INSERT INTO {self.table} SELECT {n}, {attempt} WHERE sleep({1000 * seconds:.0f})"

        return f"{insert(1, 0.01)}; {insert(2, slow)}; SELECT n FROM thousand; {insert(4, slow / 2)}"

    def start(self, role: str, **order: Any) -> Process:
        path = self._directory / f"{len(self.processes)}.json"
        self.processes.append(Process({"role": role, "connection": self._connection, **order}, path))
        return self.processes[-1]

    def worker(self, attempt: int, *, resume: bool, deferrable: bool = False, **order: Any) -> Process:
        options = {"resume": resume, "deferrable": deferrable}
        order.setdefault("sql", self.script(0 if resume else attempt))
        return self.start("worker", options=options, **{"try": attempt}, **order)

    def close(self) -> None:
        for process in self.processes:
            process.dispose()

    def let_lapse(self) -> None:
        """As if nobody had renewed the leases for two minutes."""

        def change(state: State, now: float) -> None:
            for lease in list(state.leases.values()):
                state.end_lease(lease.id)
                lease.expires = now
                state.lease(lease)

        self.balancer.cluster.store.transact(change)
        self.balancer.pick()
        assert self.balancer.status()["leases"] == []

    # -- evidence

    @property
    def living(self) -> list[SandboxNode]:
        return [node for node in self.cluster.nodes if node.running]

    def inserts(self) -> list[dict[str, Any]]:
        """Journal entries of INSERTs, with ``n`` and ``try``, in the order of their ends."""
        found = []
        for node in self.cluster.nodes:
            for entry in node.journal():
                text = re.search(rf"INSERT INTO {self.table} SELECT (\d+), (\d+) ", entry.get("sql", ""))
                if text:
                    found.append({**entry, "n": int(text[1]), "try": int(text[2]), "node": node.address})
        return sorted(found, key=lambda entry: entry["t"])

    def finished(self, attempt: int) -> Counter[int]:
        """How often each INSERT of this attempt ran: by the journals, or by the rows.

        A coordinator that is killed may have written the row and not the journal.
        """
        journalled = Counter(e["n"] for e in self.inserts() if e["state"] == "FINISHED" and e["try"] == attempt)
        with self.balancer.connect() as connection, connection.cursor() as cursor:
            cursor.execute(f"SELECT n FROM {self.table} WHERE try = {attempt}")
            there = Counter(row[0] for row in cursor.fetchall())
        return journalled | there

    def sessions(self) -> list[str]:
        """Open ones, on the coordinators that live."""
        found = []
        for node in self.living:
            with urllib.request.urlopen(f"{node.web}/sessions?json", timeout=10) as page:
                rows = json.load(page)["sessions"]
            found += [f"{row['session_id']} on {node.address}" for row in rows if row["user"] == self.user]
        return found

    def record(self) -> Record | None:
        document = open_journals(self.balancer.config).read("d/r/t")  # type: ignore[union-attr]
        return None if document is None else decode(document, "")

    def answer(self, text: str) -> None:
        """The author's, to the question that the journal asks."""
        answer(open_journals(self.balancer.config), "d/r/t", text)  # type: ignore[arg-type]

    def faults_at_the_end(self, *, sessions: bool = True) -> list[str]:
        """What must not be left."""
        found = []
        leases = self.balancer.status()["leases"]
        if leases:
            found.append(f"leases are left: {leases}")
        if sessions:
            try:
                eventually(lambda: not self.sessions(), 5)
            except AssertionError:
                found.append(f"sessions are left: {self.sessions()}")
        return found

    def beside(self, began: float, old: int = 1) -> list[str]:
        """What of an old attempt ended well after the next one had begun."""
        return [
            f"statement {entry['n']} of try {old} ended {entry['t'] - began:.3f} s after the next attempt had begun"
            for entry in self.inserts()
            if entry["try"] == old and entry["state"] == "FINISHED" and entry["t"] > began
        ]

    def story(self) -> str:
        """For a failed test: all that ran, and what the processes wrote."""
        ran = [
            f"{e['t']:.3f} {e['node']} {e['session']} n={e['n']} try={e['try']} {e['state']}" for e in self.inserts()
        ]
        return "\n".join([*ran, *(f"--- {p.name}: {p.output()}" for p in self.processes)])
