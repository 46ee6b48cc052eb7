"""A model of what happens to one statement: its coordinator, the network, the page, what is kept, and two processes.

Written from apache/impala (be/src/service/impala-server.cc, impala-hs2-server.cc, client-request-state.cc, impala-
http-handler.cc, query-driver.cc):

* ``RegisterQuery`` refuses a statement of a closed session. From there on it is in flight on ``/queries``. It is
  planned then; a DDL's call to the catalog service is made in planning or in a thread of its own.
  ``SetQueryInflight`` makes it known to its session, or fails if that was closed meanwhile: then it is unregistered.
* ``CloseSession`` unregisters what the session knows. Unregistering hides a statement from its handle at once
  (``QueryDriver::Finalize``), joins its threads, and then archives it (``FinishUnregisterQuery``): the record goes to
  the front of the log, then the statement leaves the list in flight. Only the call that began it waits for the
  threads.
* KILL QUERY and ``/cancel_query`` of others unregister a statement that is planned, too: there is no thread to join
  then, and its call to the catalog service goes on. So does CloseOperation, by a handle made of the page's id; that is
  refused up to 4.5. DDL that is not asynchronous is "planned" here until its call has ended.
* A cancel shows at once as an error at the handle; the threads may still do the work.
* The log drops its oldest records at any time: that covers every size, and all statements of others.
* A copy of the page may be an old one, kept by a proxy, or another node's.
* The coordinator may be started anew once. What it ran may still land by a call that it had made.

Two processes drive the real `decide`, one after the other: the first one sends the statement, the next one takes over
at any time. Of the first one remains what it has sent, and that may arrive at any time: it reads the fence before
each sending, and all else that it still might do, others do as well (the session is reaped, somebody unregisters the
statement). A message that is lost is one that is delayed for ever. What is true of the script before the statement:
all is done, and one of its own statements, the witness, was closed.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any, NamedTuple

from airflow_provider_impala_lb.impala.sql.classification import classify
from airflow_provider_impala_lb.impala.statement.protocol import (
    Action,
    Evidence,
    Failure,
    PageCopy,
    PageOf,
    StatementRecord,
    decide,
    failure_of,
)

Decide = Callable[[StatementRecord, Evidence], Action]
ReadFailure = Callable[..., Failure]
Now = Callable[..., "World"]
STATEMENTS = {
    "dml": "INSERT INTO t SELECT 1",
    "repeatable": "INSERT OVERWRITE t PARTITION (p = 1) SELECT 1",
    "ddl": "ALTER TABLE t ADD COLUMNS (c INT)",
    "ctas": "CREATE TABLE t AS SELECT 1",
    "query": "SELECT 1",
    "session": "USE db",
}


class Page(NamedTuple):
    """A copy of the page, as a process reads it: what it shows of the statement, the witness, and its own marker."""

    found: str = "absent"
    witness: bool = False
    marker: bool = False


class Process(NamedTuple):
    """One that drives `decide`.

    ``at``: "" (it thinks), "sent", "closing" (waits for CloseOperation, which its call began) or a last word.
    ``marker_of``: the coordinator's process in which the marker's session was opened; -1: none is open.
    """

    at: str = ""
    refused: Failure | None = None
    handle: str = "none"
    answered: bool = False  # its handle was the answer to the sending; else it was made of the page's id
    failure: Failure = "maybe"
    released: bool = False
    closed: bool = False
    chained: bool = False  # the close found its session, after the marker's session was opened
    page: Page | None = None
    same: bool = False
    can_close: bool = True
    can_look: bool = True
    marker_of: int = -1


class World(NamedTuple):
    """All of it. ``statement``: where it is. ``work``: how much of it has landed. ``call``: one to the catalog service
    is under way, which may land whatever becomes of the coordinator."""

    state: str = "pending"  # what is kept
    seen_witness: bool = False
    epoch: int = 0
    statement: str = "none"
    status: str = ""
    work: int = 0
    call: bool = False
    session: str = "open"
    process: int = 0
    log: tuple[str, ...] = ()
    witness_closed: bool = False
    runner: Process = Process()  # the process that has the script
    closer: int = -1  # by whose CloseOperation it is unregistered: of which epoch; -1: nobody's
    next_sent: bool = False
    again: bool = False
    over: bool = False  # somebody said that it is over, or that it changed nothing
    nothing: bool = False


class Site(NamedTuple):
    """What is not the same everywhere.

    ``kind``: of the statement. ``pages``: there is a page. ``secret``: the current process has the session's secret.
    ``records``: what is kept of each statement; else only of the session. ``version``: of Impala, ``5.0``: after 4.5.
    ``keeps_calls``: the log keeps the record of a statement while its call to the catalog service goes on: assumed.
    ``asks_first``: a handle counts once it was asked after it was answered; else as soon as it is answered: a mistake.
    ``closes_any``: also a statement whose handle was made of the page's id is closed by that: a mistake.
    """

    kind: str = "dml"
    pages: bool = True
    secret: bool = True
    records: bool = True
    version: str = "5.0"
    keeps_calls: bool = True
    asks_first: bool = True
    closes_any: bool = False


REGISTERED = ("planned", "zombie", "running", "ended", "finalising", "finalised")
TEXTS = {
    "planning": "AnalysisException: Syntax error in line 1",
    "admission": "Rejected query from pool root.default: queue full, limit=1, num_queued=1.",
    "memory": "Memory limit exceeded: Failed to allocate tuple buffer",
    "broken": "RPC Error: Client for catalogd:26000 hit an unexpected exception: No more data to read., send: done",
    "repeated": "ImpalaRuntimeException: Error making 'createTable' RPC: CAUSED BY: AlreadyExistsException: t exists",
    "not broadcast": "CatalogException: Couldn't retrieve the catalog topic update for the SYNC_DDL operation after 5 "
    "attempts.The operation has been successfully executed but its effects may have not been broadcast",
    "cancelled": "Cancelled",
    "killed": "Cancelled",
    "closed": "Session closed",
}
"""By how the statement ended."""
CANCELLED = ("", "cancelled", "closed")
LAST_WORDS = ("go on", "send again", "failed", "ended", "ask", "stop")
_ALL = {"ctas": 2, "query": 0, "session": 0}


class Model:
    """The steps of a world.

    :param site: what it is like.
    :param decide: the rule; default the real one.
    :param failure_of: what it is told of an error; default the real one.
    """

    def __init__(self, site: Site, decide: Decide = decide, failure_of: ReadFailure = failure_of) -> None:
        self.site, self.decide = site, decide
        self.sql = classify(STATEMENTS[site.kind])
        self.unknown = classify("")
        self.whole = _ALL.get(site.kind, 1)
        self.calls = site.kind in ("ddl", "ctas")
        self.page_of: PageOf = site.version[0]  # type: ignore[assignment]
        self.failure_of = failure_of
        self._failures: dict[tuple[str, str, bool], Failure] = {}

    def first(self) -> World:
        """The beginning."""
        return World(runner=Process(can_look=self.site.pages))

    def action(self, w: World) -> Action:
        """What the process that has the script does next."""
        return self.decide(self.record(w), self.evidence(w))

    # What is wrong

    def problem(self, before: World, now: World) -> str | None:
        """The invariant that a step breaks, or None."""
        if now.work > before.work:
            if now.nothing:
                return "reported as changing nothing, and it has changed something"
            if now.again:
                return "sent again, and the first sending has landed"
            if now.next_sent:
                return "landed after a later statement was sent"
            if now.over:
                return "reported as over, and it has landed afterwards"
        if now.next_sent and not before.next_sent and now.work < self.whole:
            return "reported as done, and it is not"
        if now.nothing and not before.nothing and now.work:
            return "reported as changing nothing, and it has changed something"
        if now.again and not before.again and now.work and self.site.kind != "repeatable":
            return "sent again, and the first sending has landed"
        return None

    # Steps

    def steps(self, world: World) -> Iterator[tuple[str, World]]:
        """What may happen next, each with its name."""
        yield from self.coordinator(world)
        yield from self.process(world)
        if world.epoch == 0:
            can_close = self.site.secret or self.site.pages
            yield (
                "another process takes over",
                world._replace(epoch=1, runner=Process(can_close=can_close, can_look=self.site.pages)),
            )

    def reduced(self, w: World) -> World:
        """The same world without what nobody can see or be hurt by any more, so that fewer have to be looked at."""
        runner = w.runner
        if runner.at in LAST_WORDS:
            runner = Process(at=runner.at)
        over = w.epoch == 1 and (runner.at in LAST_WORDS or not runner.can_look)
        return w._replace(runner=runner, log=() if over else w.log)

    def coordinator(self, w: World) -> Iterator[tuple[str, World]]:
        """What the coordinator, the catalog service and the proxies do by themselves."""
        d = w.statement
        if d == "wire":
            yield "it arrives", w._replace(statement="planned" if w.session == "open" else "refused")
        if d == "planned":
            if w.status == "" and w.work == 0 and not w.call:
                yield "it is refused in planning", w._replace(statement="finalised", status="planning")
                if self.calls:
                    yield "its call is made", w._replace(call=True)
                elif self.whole:
                    yield "it is at work before it is known", w._replace(work=1)
            if w.session == "open":
                yield "its session knows it", w._replace(statement="running")
            else:
                yield "its session is closed", w._replace(statement="finalising", status=w.status or "closed")
            if w.status == "" and self.site.version == "5.0":
                for call in {w.call, bool(self.whole)}:
                    killed = w._replace(statement="finalised", status="killed", call=call, closer=-1)
                    yield "it is killed while it is planned", killed
            if w.status == "" and self.site.version == "4.0":
                yield "it is killed while it is planned, and stays on the page", w._replace(statement="zombie")
        if d in ("running", "finalising", "zombie"):
            yield from self._at_work(w)
        if w.call:
            yield "its call lands", w._replace(call=False, work=max(w.work, 1) if self.calls else self.whole)
        if d == "running":
            if w.status == "":
                yield "somebody or a limit cancels it", w._replace(status="cancelled")
            yield "others unregister it", w._replace(statement="finalising", status=w.status or "closed", closer=-1)
        if d == "ended":
            yield "others unregister it", w._replace(statement="finalised", closer=-1)
        if d == "finalising" and not w.call:
            yield "its threads have ended", w._replace(statement="finalised")
        if d == "finalised":
            yield "it is archived", w._replace(statement="archived", log=("D", *w.log))
        if not w.witness_closed and w.process == 0:
            yield "the witness is archived", w._replace(witness_closed=True, log=("W", *w.log))
        if w.log and not (w.log[-1] == "D" and w.call and self.site.keeps_calls):
            yield "the log drops its oldest record", w._replace(log=w.log[:-1])
        if w.session == "open" and w.process == 0:
            yield "the session is reaped", self._closed(w, -1)
        if w.process == 0:
            gone = d in (*REGISTERED, "archived")
            at_work = d in ("planned", "running", "finalising", "zombie") and w.status in CANCELLED
            may_land = at_work and w.work < self.whole
            for call in {w.call, w.call or bool(may_land)}:
                yield (
                    "the coordinator is started anew",
                    w._replace(
                        process=1, session="unknown", statement="dead" if gone else d, log=(), call=call, closer=-1
                    ),
                )

    def _at_work(self, w: World) -> Iterator[tuple[str, World]]:
        """Its threads, while it runs or is finalised."""
        if self.whole and w.work == 0 and not w.call and w.status in CANCELLED:
            yield "its call is made", w._replace(call=True)
        if w.call and w.status == "":
            yield "its call is broken", w._replace(status="broken")
        if not self.calls and w.work < self.whole and not w.call:
            yield "it has done its work", w._replace(work=self.whole)
        if (self.site.kind, w.work) == ("ctas", 1):
            yield "its rows are written", w._replace(work=2)
        if w.statement == "running" and w.status in ("", "broken"):
            if w.status == "" and w.work == self.whole and not w.call:
                yield "it ends well", w._replace(statement="ended", status="ok")
            if w.status == "broken":
                yield "it ends in error, its call may still land", w._replace(statement="ended")
            elif not w.call and self.site.kind != "ddl" and w.work == (1 if self.site.kind == "ctas" else 0):
                yield "it is refused by admission", w._replace(statement="ended", status="admission")
            if w.status == "" and not w.call:
                yield "it fails", w._replace(statement="ended", status="memory")
                if self.calls and w.work:
                    yield "Impala has made its call twice", w._replace(statement="ended", status="repeated")
                    yield "it is not broadcast", w._replace(statement="ended", status="not broadcast")

    def _closed(self, w: World, by: int) -> World:
        """Its session is closed, by a process or by itself."""
        d, status, closer = w.statement, w.status, w.closer
        if d == "running":
            d, status, closer = "finalising", status or "closed", by
        elif d == "ended":
            d, closer = "finalised", by
        return w._replace(session="closed", statement=d, status=status, closer=closer)

    def page(self, w: World, *, marker: bool) -> Page:
        """What the coordinator's page shows.

        A marker is taken to stay there for ever: that shows more than there is, so what holds then holds without it.
        """
        found, hidden = "absent", self.site.version == "3.4" and w.statement in ("finalising", "finalised")
        if w.statement in REGISTERED and not hidden:
            runs = w.status == "" or (w.status == "broken" and w.statement != "ended")
            found = "ok" if w.status == "ok" else "in flight" if runs else "stopped"
        elif "D" in w.log:
            found = w.status
        return Page(found, "W" in w.log, marker)

    # Processes

    def evidence(self, w: World) -> Evidence:
        """What a process has seen."""
        p = w.runner
        page = None
        if p.page is not None:
            shown = p.page.found
            found = shown if shown in ("absent", "in flight", "stopped", "ok") else "failed"
            page = PageCopy(
                found=found,  # type: ignore[arg-type]
                failure=self.failure(shown, w.state, archived=True),
                marker=p.page.marker,
                witness=p.page.witness,
            )
        return Evidence(
            refused=p.refused,
            handle=p.handle,  # type: ignore[arg-type]
            failure=p.failure,
            released=p.released,
            closed=p.closed,
            same_process=p.same or (p.page is not None and p.page.witness and w.seen_witness),
            page=page,
            page_of=self.page_of,
            can_ask=w.epoch == 0 or (self.site.secret and self.site.records),
            can_close=p.can_close,
            can_look=p.can_look,
        )

    def failure(self, status: str, state: str, *, archived: bool = False) -> Failure:
        """What the real table reads from the text of an error."""
        key = status, state, archived
        if key not in self._failures:
            record = StatementRecord(self.sql, state)  # type: ignore[arg-type]
            self._failures[key] = self.failure_of(
                TEXTS.get(status, ""), record, archived=self.page_of if archived else None
            )
        return self._failures[key]

    def process(self, w: World) -> Iterator[tuple[str, World]]:
        """What a process does next."""
        p = w.runner
        if p.at in LAST_WORDS:
            return
        name = ("the first process", "the next process")[w.epoch]

        def now(world: World, **changes: Any) -> World:
            return world._replace(runner=world.runner._replace(**changes))

        if p.at == "sent":
            yield f"{name} gets no answer", now(w, at="")
            if w.statement == "refused":
                yield f"{name} hears that its session is closed", now(w, at="", refused="nothing")
            kept = w if self.site.asks_first or not self.site.records else w._replace(state="accepted")
            if w.statement in ("running", "ended"):
                yield f"{name} has a handle", now(kept, at="", handle="running", answered=True)
            if w.status == "killed" and w.statement in ("finalised", "archived"):
                yield f"{name} has a handle that is hidden by now", now(kept, at="", handle="running", answered=True)
            if w.status == "closed" and w.statement in ("finalised", "archived") and w.state == "intended":
                yield (
                    f"{name} hears that its session was closed meanwhile",
                    now(w, at="", refused=self.failure("closed", "intended")),
                )
            if w.status == "planning" and w.statement in ("finalised", "archived"):
                yield f"{name} hears an error of planning", now(w, at="", refused=self.failure("planning", "intended"))
            return
        if p.at == "closing":
            if w.closer == w.epoch and w.statement in ("finalised", "archived"):
                yield f"{name} hears that its statement is closed", now(w, at="", released=True)
            yield f"{name} does not hear that its statement is closed", now(w, at="")
            return
        yield from self._act(w, self.action(w), name, now)

    def record(self, w: World) -> StatementRecord:
        """What a process finds of the statement."""
        if not self.site.records and w.epoch == 1:
            return StatementRecord(self.unknown, "intended")
        return StatementRecord(self.sql, w.state, w.seen_witness)  # type: ignore[arg-type]

    def _act(self, w: World, action: Action, name: str, now: Now) -> Iterator[tuple[str, World]]:
        settles = not self.site.records and w.epoch == 1  # it only wants to know whether the attempt is over
        match action:
            case "send" if w.state == "pending":
                if w.epoch == 1:  # it runs the script itself, in a session of its own: no more comes of the ghost's
                    yield f"{name} begins", now(w, at="stop")
                    return
                for seen in {False, "W" in w.log and self.site.pages}:
                    yield (
                        f"{name} sends it",
                        now(w._replace(state="intended", seen_witness=seen, statement="wire"), at="sent"),
                    )
            case "send":
                changes = {} if self.site.kind in ("query", "session") else {"again": True}
                if settles:
                    changes = {"over": True}
                yield f"{name} sends it again", now(w._replace(**changes), at="send again")
            case "wait":
                yield from self._wait(w, name, now)
            case "close":
                yield from self._close(w, name, now)
            case "look up":
                yield from self._look(w, name, now)
            case "go on":
                yield (
                    f"{name} goes on after it",
                    now(w._replace(over=True) if settles else w._replace(next_sent=True), at="go on"),
                )
            case "failed":
                yield (
                    f"{name} says that it changed nothing",
                    now(w._replace(over=True) if settles else w._replace(nothing=True), at="failed"),
                )
            case "ended":
                yield f"{name} says that it has ended", now(w._replace(over=True), at="ended")
            case _:
                yield f"{name} says: {action}", now(w, at=action)

    def _answer(self, w: World) -> tuple[str, Failure]:
        """What the handle says."""
        if w.statement == "planned":
            return "running", "maybe"
        if w.statement == "running":
            return ("cancelled" if w.status == "cancelled" else "running"), "maybe"
        if w.statement == "ended":
            handle = {"ok": "finished", "cancelled": "cancelled"}.get(w.status, "failed")
            return handle, self.failure(w.status, "accepted")
        return "unknown", "maybe"

    def _wait(self, w: World, name: str, now: Now) -> Iterator[tuple[str, World]]:
        handle, failure = self._answer(w)
        # It is known after the answer, so whoever unregisters it from now on waits for its threads.
        kept = w._replace(state="accepted") if w.runner.answered and self.site.records and handle == "running" else w
        yield f"{name} asks the handle: {handle}", now(kept, handle=handle, failure=failure)
        yield f"{name} asks the handle, and gets no answer", now(w, handle="unknown")
        if handle == "running" and w.runner.handle == "running":
            status = "cancelled" if w.statement == "running" else w.status
            yield f"{name} wants no more of it, and cancels it", now(w._replace(status=status), handle="cancelled")

    def _close(self, w: World, name: str, now: Now) -> Iterator[tuple[str, World]]:
        yield f"{name} cannot close", now(w, can_close=False)
        p = w.runner
        marker_of = p.marker_of if p.marker_of >= 0 else w.process if self.site.pages else -1
        has_handle = p.answered or w.state == "accepted" or (self.site.closes_any and p.handle != "none")
        may_ask = w.epoch == 0 or (self.site.secret and self.site.records)
        if has_handle and may_ask and not p.released and w.statement in ("running", "ended"):
            # It asks once more before it closes: then nothing but its own cancel comes in between.
            handle, failure = self._answer(w)
            if handle in ("finished", "failed"):
                yield f"{name} asks the handle before it closes it: {handle}", now(w, handle=handle, failure=failure)
            else:
                d, status = ("finalising" if w.statement == "running" else "finalised"), w.status or "closed"
                after = w._replace(statement=d, status=status, closer=w.epoch)
                yield f"{name} closes the statement", now(after, at="closing", marker_of=marker_of)
            return
        if self.site.closes_any and has_handle and not p.released and (w.statement, self.page_of) == ("planned", "5"):
            after = w._replace(statement="finalised", status="killed", call=bool(self.whole), closer=w.epoch)
            yield f"{name} closes what is planned", now(after, at="closing", marker_of=marker_of)
            return
        known = w.session == "open" and w.process == 0
        after = self._closed(w, w.epoch) if known else w
        chained = known and marker_of == w.process
        closed = now(after, closed=True, chained=chained, marker_of=marker_of, page=None)
        yield f"{name} closes the session", closed

    def _look(self, w: World, name: str, now: Now) -> Iterator[tuple[str, World]]:
        yield f"{name} gives the page up", now(w, can_look=False)
        if not self.site.pages:
            return
        marker_of, chained = w.runner.marker_of, w.runner.chained
        if w.runner.closed and marker_of != w.process:  # the marker's session is gone: a new one, which proves less
            marker_of, chained = w.process, False
        copies = {"": self.page(w, marker=w.runner.closed), ", another node's or one of before it was sent": Page()}
        if w.statement not in ("none", "wire", "refused"):
            copies[", one that was kept while it ran"] = Page("in flight")
        for which, page in copies.items():
            after = w
            if page.found in ("in flight", "stopped") and w.state == "intended" and self.site.records:
                after = w._replace(state="registered")
            yield (
                f"{name} looks at the page{which}",
                now(after, page=page, same=chained and page.marker, marker_of=marker_of, chained=chained),
            )
