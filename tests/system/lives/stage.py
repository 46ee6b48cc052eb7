"""Where one life takes place: its coordinator, the relay before it, and what goes wrong there, each at its call."""

from __future__ import annotations

import collections
import json
import re
import signal
import threading
import time
import urllib.request
from collections.abc import Callable
from contextlib import ExitStack, suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from impala.dbapi import connect

from airflow_provider_impala_lb.sandbox import SandboxNode
from airflow_provider_impala_lb.sandbox.common.switches import Switch
from tests.support.relay import Call, Fault, Relay
from tests.support.servers import eventually
from tests.support.versions import is_older
from tests.system.lives.nursery import Worker
from tests.system.lives.pages import PagesBetween
from tests.system.lives.story import DATABASES, LONGEST_DELAY, MOMENT, Story, Strike
from tests.system.lives.tables import Tables

LIMITS = {"open_timeout": 1.0, "rpc_timeout": 0.8, "reconnect_timeout": 4.0}
PAGES_SECONDS = 20.0
"""So long at most the pages are not as they should be: who waits for a statement that a page shows waits for that."""
LABEL = re.compile(r"/\* lb:[0-9a-f]{16} (?:own:[0-9a-f]{16} )?(\d+)/\d+ dag=(\w+) try=(\d+)")
_LABEL = re.compile(LABEL.pattern.encode())
_CHANGES = re.compile(r"\*/ (INSERT|CREATE|DROP|TRUNCATE)")
CUT = Fault("*", where="before", how="cut")


@dataclass(frozen=True)
class Slot:
    """What one life at a time has to itself, and what it shares.

    :ivar node: its coordinator
    :ivar steady: one that no harm is done to
    :ivar cursor: on the steady one
    """

    node: SandboxNode
    steady: SandboxNode
    cursor: Any


@dataclass(frozen=True)
class Sent:
    """A statement that was sent over the relay.

    :ivar at: when, seconds since 1970
    :ivar name: of the script
    :ivar attempt: which one sent it
    :ivar number: of the statement
    """

    at: float
    name: str
    attempt: int
    number: int


@dataclass
class Stage:
    """Of one life. A context manager.

    :ivar story: what is to happen
    :ivar slot: where
    :ivar directory: for the state that its workers share
    :ivar newest: the worker that strikes hit
    :ivar sent: in order
    :ivar told: what happened, in order, for people
    """

    story: Story
    slot: Slot
    directory: Path
    newest: Worker | None = None
    other: Callable[[], None] = lambda: None
    sent: list[Sent] = field(default_factory=list)
    told: list[str] = field(default_factory=list)
    happened: list[str] = field(default_factory=list)

    def __enter__(self) -> Stage:
        story, node = self.story, self.slot.node
        self._began = time.monotonic()
        self._lock = threading.Lock()
        self._calls, self._used = 0, collections.Counter[int]()
        self._threads: list[threading.Thread] = []
        self._failures: list[BaseException] = []
        self._struck: list[Strike] = []
        self.asleep: dict[int, Strike] = {}  # by number of the worker
        self._holds: list[tuple[Switch, float]] = []
        self._switches: list[Switch] = []
        self._stack = ExitStack()
        self._make_tables()
        for slow in story.slow:
            sql, point = f" {slow.number}/{story.total} dag={story.name} ", slow.point
            sql = sql if slow.number else f" dag={story.name} "
            if slow.action == "delay":
                switch = node.delay(point, slow.seconds, sql=sql, times=slow.times)
            elif slow.action == "hold":
                switch = node.hold(point, sql=sql, times=slow.times)
                self._holds.append((switch, slow.seconds))
                self.after(8.0, switch.release)
            else:
                switch = node.fail(point, sql=sql, times=slow.times)
            self._switches.append(switch)
        self.relay = Relay(node.host, node.port, faults=self._decide)
        self.web = node.web
        self._pages: PagesBetween | None = None
        if story.pages != "well":
            assert node.web and self.slot.steady.web
            self._pages = self._stack.enter_context(PagesBetween(node.web, self.slot.steady.web))
            self.web = self._pages.url
            if story.pages_from == 0:
                self._change_pages(story.pages)
        self._noise: threading.Thread | None = None
        self._old: Any = None
        if story.old:
            self._old = connect(host=node.host, port=node.port, timeout=20)
            self._old_cursor = self._old.cursor()
            self._old_cursor.execute_async("SELECT 1 -- old")
        return self

    def __exit__(self, *_: object) -> None:
        self.release()
        deadline = time.monotonic() + 60
        for thread in self._threads:
            if isinstance(thread, threading.Timer):
                thread.cancel()
            thread.join(max(0.1, deadline - time.monotonic()))
        self.relay.settle()
        self.relay.stop()
        self.slot.node.start()
        if self._old is not None:
            hang_up(self._old, self._old_cursor)
        self._stack.close()
        assert not self._failures, self._failures

    def tell(self, text: str) -> None:
        """Note what happened.

        :param text: for people
        """
        self.told.append(f"{time.monotonic() - self._began:6.2f} {text}")

    @property
    def config(self) -> dict[str, Any]:
        """Of the balancer of its workers, and of others who share the state."""
        nodes = [{"host": "127.0.0.1", "port": self.relay.port, "web": self.web}]
        if self.story.elsewhere:
            steady = self.slot.steady
            nodes.append({"host": steady.host, "port": steady.port, "web": steady.web})
        return {
            "name": "lives",
            "lock_file": str(self.directory / "node_in_use.tmp"),
            "nodes": nodes,
            "policy": "round_robin",
            "session": {"auth_mechanism": "NOSASL", "database": "default", **LIMITS},
        }

    @property
    def life_config(self) -> dict[str, Any]:
        """Of its own workers."""
        return {**self.config, **({"deployment": "prod"} if self.story.deployments == "two keys" else {})}

    # -- what goes wrong

    def attempt_begins(self, number: int) -> None:
        """Some troubles end with a later attempt. Others' statements are not disturbed.

        :param number: of the attempt
        """
        if self._noise is not None:
            self._noise.join(20)
        if number >= 2:
            for switch, seconds in self._holds:
                self.after(seconds, switch.release)
            self._holds.clear()
        if number >= self.story.pages_until and self._pages is not None:
            self._change_pages("well")

    def release(self) -> None:
        """Nothing is held or failed any more."""
        for switch in self._switches:
            switch.release()

    def _decide(self, call: Call) -> Fault | None:
        story = self.story
        with self._lock:
            self._calls += 1
            here = self._calls
            if call.rpc == "ExecuteStatement" and (label := _LABEL.search(call.request)):
                self.sent.append(Sent(time.time(), label[2].decode(), int(label[3]), int(label[1])))
            found = next(
                (
                    (place, fault)
                    for place, fault in enumerate(story.faults)
                    if fault.rpc == call.rpc and call.nth >= fault.nth and self._used[place] < fault.times
                ),
                None,
            )
            if found:
                self._used[found[0]] += 1
        fault = found[1] if found else None
        if fault:
            self.tell(f"call {here} {call.rpc}: {fault.where} {fault.how} {fault.seconds:.2f}")
            self.happened.append(f"{fault.where} {fault.how}")
        moment = (call.rpc, call.nth) == story.moment
        now = (here, MOMENT) if moment else (here,)
        if story.pages_from in now and self._pages is not None:
            self._change_pages(story.pages)
        if moment and story.focus != "none":
            self.happened.append(f"focus: {story.focus}")
        if moment and story.cancel_after:
            self.after(story.cancel_after, self._cancel_on_page)
        for strike in story.strikes:
            if strike.call in now and self._strike(strike, here, call.rpc):
                fault = fault or (CUT if strike.cut else None)
        if story.node_at in now and story.node != "well":
            self._begin(self._be_troubled)
        if story.noise and story.noise_at in now:
            self._noise = self._begin(self._be_noisy)
        if self._old is not None and story.old_at == here:
            self.happened.append("old statement closed")
            self._begin(lambda: hang_up(self._old, self._old_cursor))
        if story.deployments != "one" and story.other_at == here:
            self.happened.append(f"deployments: {story.deployments}")
            self.other()
        return fault

    def _strike(self, strike: Strike, here: int, rpc: str) -> bool:
        worker = self.newest
        if worker is None or worker.over or worker.stopped:
            return False
        if strike.what == "hand over" and worker.order["role"] != "trigger":
            return False
        if not strike.seconds:
            self.strike(worker, strike, f"at call {here} {rpc}")
            return True
        self.after(strike.seconds, lambda: self.strike(worker, strike, f"{strike.seconds} s after call {here} {rpc}"))
        return False

    def strike(self, worker: Worker, strike: Strike, when: str) -> None:
        """Do it to a worker.

        :param worker: which
        :param strike: what
        :param when: for people
        """
        if worker.over or worker.end is not None or worker.stopped:
            return
        self.tell(f"{strike.what} {when}, process {worker.number}")
        self.happened.append(strike.what)
        if strike.what == "stop":
            self.asleep[worker.number] = strike
        if strike.what == "hand over":
            worker.order["told"] = True
        worker.signal(
            {
                "kill": signal.SIGKILL,
                "stop": signal.SIGSTOP,
                "cancel": signal.SIGTERM,
                "hand over": signal.SIGUSR1,
            }[strike.what]
        )

    def next_sending_strike(self) -> Strike | None:
        """For the next worker: a strike at one of its sendings, if there is one left."""
        for strike in self.story.strikes:
            if strike.sending and strike not in self._struck:
                self._struck.append(strike)
                return strike
        return None

    def _be_troubled(self) -> None:
        node, story = self.slot.node, self.story
        self.tell(f"the node: {story.node}")
        self.happened.append(f"node {story.node}")
        if story.node == "pause":
            node.pause()
            time.sleep(story.node_seconds)
            node.resume()
        else:
            self.relay.down()
            node.kill()
            node.start()
            self.relay.up()
            self.tell("the node is there again")

    def _be_noisy(self) -> None:
        self.tell(f"{self.story.noise} foreign statements")
        self.happened.append("foreign statements")
        node = self.slot.node
        with suppress(Exception):  # it may be killed meanwhile
            connection = connect(host=node.host, port=node.port, timeout=20)
            cursor = connection.cursor()
            try:
                for _ in range(self.story.noise):
                    cursor.execute("SELECT 1 -- foreign")
                    cursor.close_operation()
            finally:
                hang_up(connection, cursor)

    def _change_pages(self, mode: str) -> None:
        assert self._pages is not None
        if self._pages.mode != mode:
            self.tell(f"the pages: {mode}")
            self.happened.append(f"pages {mode}")
            self._pages.change(mode)
            if mode != "well":
                self.after(PAGES_SECONDS, lambda: self._change_pages("well"))

    def _cancel_on_page(self) -> None:
        """Somebody cancels a statement of the script on the coordinator's page."""
        with suppress(OSError, ValueError):
            for row in self._in_flight(self.slot.node):
                self.tell(f"an admin cancels {row['query_id']}: {row['stmt'][-60:]}")
                self.happened.append("cancelled by an admin")
                urllib.request.urlopen(
                    f"{self.slot.node.web}/cancel_query?query_id={row['query_id']}", timeout=5
                ).close()

    def _begin(self, work: Callable[[], Any]) -> threading.Thread:
        def quietly() -> None:
            try:
                work()
            except BaseException as error:
                self._failures.append(error)

        thread = threading.Thread(target=quietly)
        self._threads.append(thread)
        thread.start()
        return thread

    def after(self, seconds: float, work: Callable[[], Any]) -> None:
        timer = threading.Timer(seconds, work)
        timer.daemon = True
        self._threads.append(timer)
        timer.start()

    # -- what is there

    def be_quiet(self, seconds: float = 40.0) -> None:
        """Wait until nothing of the script can be at work any more, but for what its workers still send.

        :param seconds: at most
        """
        self.release()
        self.relay.settle()
        eventually(lambda: not self._at_work(), seconds)
        if is_older("4.0"):
            time.sleep(LONGEST_DELAY)  # its page hides a statement as its end begins

    def _at_work(self) -> bool:
        try:
            rows = [row for node in (self.slot.node, self.slot.steady) for row in self._in_flight(node)]
        except OSError:
            return True  # it starts anew
        return any(row["state"] not in ("FINISHED", "EXCEPTION", "ERROR") or _at_its_end(row) for row in rows)

    def _in_flight(self, node: SandboxNode) -> list[dict[str, Any]]:
        """The script's statements there that change something."""
        with urllib.request.urlopen(f"{node.web}/queries?json", timeout=5) as page:
            rows = json.load(page)["in_flight_queries"]
        return [row for row in rows if f"dag={self.story.name} " in row["stmt"] and _CHANGES.search(row["stmt"])]

    def tables(self) -> Tables:
        """What is in the tables of the script."""
        cursor, found = self.slot.cursor, {}
        for database in DATABASES:
            cursor.execute(f"SHOW TABLES IN {database} LIKE '{self.story.name}_*'")
            for (table,) in cursor.fetchall():
                cursor.execute(f"SELECT k, db FROM {database}.{table}")
                found[f"{database}.{table}"] = collections.Counter(tuple(row) for row in cursor.fetchall())
        return found

    def _make_tables(self) -> None:
        for table in self.story.before:
            parted = " PARTITIONED BY (p INT)" if table.endswith("_parts") else ""
            self.slot.cursor.execute(f"CREATE TABLE {table} (k INT, db STRING){parted}")
        if self.story.deployments != "one":
            self.slot.cursor.execute(f"CREATE TABLE {self.story.name}x_rows (k INT, db STRING)")


def hang_up(connection: Any, cursor: Any) -> None:
    """As a client that goes away in order.

    :param connection: impyla's
    :param cursor: of it; where its coordinator is gone, its finalizer must not ask for that
    """
    with suppress(Exception):
        cursor.close()
    with suppress(Exception):
        connection.close()
    cursor._closed = True


def _at_its_end(row: dict[str, Any]) -> bool:
    """It has failed, and may be at work all the same."""
    return row["state"] != "FINISHED" and bool(row.get("executing"))
