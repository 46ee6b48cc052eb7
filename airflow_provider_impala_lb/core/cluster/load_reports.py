"""The nodes' reports, and whose turn it is to ask for them: one process for the whole fleet; no pick waits for it."""

from __future__ import annotations

import threading
import uuid
from collections.abc import Mapping, Sequence
from contextlib import suppress
from logging import getLogger
from typing import NamedTuple

from airflow_provider_impala_lb.core.cluster.shared_state import SharedState
from airflow_provider_impala_lb.core.config.model import Config, Node
from airflow_provider_impala_lb.core.forks import renew_in_children
from airflow_provider_impala_lb.core.ports import Prober
from airflow_provider_impala_lb.core.rules.headroom import (
    LONGEST_PAUSE,
    LevelChange,
    ProbeBaseline,
    note_reports,
    shed_load,
)
from airflow_provider_impala_lb.core.state.load_report import ExporterCounters, LoadSample, ProbeResult
from airflow_provider_impala_lb.core.state.model import NodeState, ProbeClaim
from airflow_provider_impala_lb.core.state.state import State
from airflow_provider_impala_lb.core.timing import Deadline
from airflow_provider_impala_lb.errors import ConfigError, StateUnavailable

log = getLogger(__name__)

_SHOWN = 4
_LOOK_EVERY = 0.1
"""Seconds in which the picks of a process look once whether the nodes should be asked: it takes a look at each."""
_SAY_EVERY = 600.0
"""Seconds between two lines of a process about who answers: of a node that comes and goes there would be one for each.
The last word is always said, once they are over and somebody asks."""
_ADDRESS_LIMIT = 270
"""A name in DNS has up to 253 characters. What a server names may be anything."""
PROBE_SECONDS = 3.0
"""A probe of all nodes takes about a second; who has claimed it and noted nothing for so long has died."""


class _Asked(NamedTuple):
    """What a probe asks.

    :ivar before: what the state was then.
    :ivar nodes: which ones.
    :ivar named: by ``host:port``, the addresses that coordinators name for their pages.
    :ivar counters: by ``host:port``, of the last probe.
    """

    before: ProbeBaseline
    nodes: Sequence[Node]
    named: Mapping[str, str]
    counters: Mapping[str, ExporterCounters]


class LoadReports:
    """The reports of one cluster's nodes.

    :param shared: the cluster's state.
    :param prober: how nodes are asked; None (default): this process does not ask.
    :ivar prober: as given.
    """

    def __init__(self, shared: SharedState, prober: Prober | None = None) -> None:
        self._shared = shared
        self.prober = prober
        self.forget_parent()
        renew_in_children(self)

    def forget_parent(self) -> None:
        """This process is a child: nobody in it asks."""
        self._busy = threading.Lock()
        self._next_look = Deadline(0.0)
        self._unsaid = False  # whether others answer than the log says
        self._said_at = float("-inf")  # by the store's clock

    @property
    def _config(self) -> Config:
        return self._shared.config

    @property
    def is_due(self) -> bool:
        """Whether, by the state of the last pick, the nodes should be asked for their load by somebody."""
        state = self._shared.snapshot
        return state is not None and self._is_due(state, state.head.last_seen)

    def note(self, node: str, sample: LoadSample) -> None:
        """A report that somebody else made.

        :param node: ``host:port``, as the configuration has it.
        :param sample: what was found out.
        :raises StateUnavailable: it was not noted.
        """

        def change(state: State, now: float) -> list[LevelChange]:
            return self._note(state, now, ProbeBaseline(state, now), {node: ProbeResult(sample)})

        _log_changes(self._shared.transact(change))

    def learn(self, state: State, address: str, web: str) -> None:
        """Note where a node's pages are, by what its coordinator named when a session was opened there.

        :param state: changed.
        :param address: of the node.
        :param web: ``host:port`` of its pages; "": it named none.
        """
        node = state.node(address)
        if self._config.load is None or not web or len(web) > _ADDRESS_LIMIT or node.web == web:
            return
        if not node.web and state.head.probe is not None and not state.head.probe.token:
            state.head.probe = None  # who is new need not wait for the others' turn
        node.web, node.asked_again = web, 0.0

    def begin_probe_if_due(self, state: State) -> None:
        """Begin to ask all nodes in a thread, if it is due. Costs nothing else.

        :param state: as it was a moment ago.
        """
        if self.prober is None or not self._next_look.passed() or self._busy.locked():
            return
        if not self._is_due(state, state.head.last_seen):
            self._next_look = Deadline(_LOOK_EVERY)
            return
        with suppress(RuntimeError):  # no more threads for this process: the next pick, or another process, asks
            threading.Thread(target=self.probe_if_due, name="impala-lb-reports", daemon=True).start()

    def probe_if_due(self) -> State | None:
        """Ask all nodes if that is due. Returns a recent state; None if it cannot be read. Never raises."""
        try:
            state, now = self._shared.read()
            if self.prober is not None and self._is_due(state, now):
                self.probe()
                state, now = self._shared.read()
            return state
        except (StateUnavailable, ConfigError) as error:
            log.debug("The nodes' load is not asked for now: %s", error)
            return None

    def probe(self, *, now_anyway: bool = False) -> Mapping[str, ProbeResult | str] | None:
        """Ask all nodes and note what they answer.

        :param now_anyway: also if it is not due; default False.
        :returns: the answers by ``host:port``, a text says why one did not answer; None if it is not due, or somebody
            else is at it.
        :raises ConfigError: ``load`` is off in the configuration, or this process does not ask.
        :raises StateUnavailable: the shared state is out of reach.
        """
        load, prober = self._config.load, self.prober
        if load is None or prober is None:
            raise ConfigError("load: is off in the configuration, so the nodes are not asked for their load")
        token = uuid.uuid4().hex

        def begin(state: State, now: float) -> _Asked | None:
            claim = state.head.probe
            asked_by_another = claim is not None and claim.token and claim.until - PROBE_SECONDS <= now < claim.until
            if asked_by_another or not (now_anyway or self._is_due(state, now)):
                return None
            state.head.probe = ProbeClaim(token, now + PROBE_SECONDS)
            reports = dict(state.last_reports.items())
            return _Asked(
                ProbeBaseline(state, now),
                self._to_ask(state, now, also_paused=now_anyway),
                {address: node.web for address, node in state.nodes.items() if node.web},
                {address: report.counters for address, report in reports.items() if report.counters},
            )

        with self._busy:
            claimed = self._shared.transact(begin)
            if claimed is None:
                return None
            asked = claimed.before
            answers = prober(claimed.nodes, claimed.named, claimed.counters)

            def note(state: State, now: float) -> tuple[list[LevelChange], str, bool, float]:
                if state.head.probe is not None and state.head.probe.token != token:
                    return [], "", False, now  # it took too long, and another one has asked since
                before = _who_answers(state)
                changes = self._note(state, now, asked, answers)
                for address, answer in answers.items():  # not for an agent's report: that is no answer of the pages
                    if isinstance(answer, ProbeResult):
                        state.node(address).unanswered, state.node(address).asked_again = 0, 0.0
                state.head.probe = ProbeClaim("", asked.at + load.refresh)
                differs = before != _who_answers(state)
                if not (differs or self._unsaid) or 0 <= now - self._said_at < _SAY_EVERY:
                    return changes, "", differs, now
                return changes, load_line(self._config, state, now), differs, now

            changes, line, differs, now = self._shared.transact(note)
            if line:
                log.info("Load: %s", line)
                self._said_at = now
            self._unsaid = not line and (differs or self._unsaid)
            _log_changes(changes)
            return answers

    def _note(
        self, state: State, now: float, asked: ProbeBaseline, answers: Mapping[str, ProbeResult | str]
    ) -> list[LevelChange]:
        changes = note_reports(self._config, state, now, asked, answers)
        answered = {address for address, answer in answers.items() if isinstance(answer, ProbeResult)}
        shed_load(self._config, state, now, answered)
        return changes

    def _is_due(self, state: State, now: float) -> bool:
        """Whether the nodes should be asked, and nobody does."""
        claim, load = state.head.probe, self._config.load
        if load is None:
            return False
        # A claim from further in the future than any claim reaches was made by a clock that was wrong.
        if claim is not None and claim.until - max(PROBE_SECONDS, load.refresh) <= now < claim.until:
            return False
        # By each pick, so where nobody can be asked it is to cost next to nothing.
        known = self._config.has_pages or any(record.web for record in state.nodes.values())
        return known and bool(self._to_ask(state, now))

    def _to_ask(self, state: State, now: float, *, also_paused: bool = False) -> list[Node]:
        """Who has an address to be asked at, a configured one or the one that its coordinator has named, and has not
        just left a question without an answer. Each pick looks."""
        config, get, found = self._config, state.nodes.get, []
        for node, address in zip(config.nodes, config.addresses, strict=True):
            record = get(address)
            if not (node.web or node.metrics or node.exporter or (record is not None and record.web)):
                continue
            if also_paused or record is None or not (config.load_is_auto and _pause(record, now)):
                found.append(node)
        return found


def _log_changes(changes: list[LevelChange]) -> None:
    for change in changes:
        log.info("%s is %s now (it was %s)", change.node, change.after, change.before)


def _pause(record: NodeState, now: float) -> float:
    """Seconds in which nobody asks the node. One that is longer than any was made by a clock that was wrong."""
    pause = record.asked_again - now
    return pause if 0 < pause <= LONGEST_PAUSE else 0.0


def _who_answers(state: State) -> dict[str, bool]:
    asked = ((address, state.nodes.get(address)) for address, _ in state.last_reports.items())
    return {address: record is None or not record.unanswered for address, record in asked}


def load_line(config: Config, state: State, now: float) -> str:
    """In one line: whether the nodes' load is asked for, which ones tell it, and why others do not.

    :param config: the nodes.
    :param state: what is known of them.
    :param now: the store's clock, seconds since the epoch.
    """
    load = config.load
    if load is None:
        return "off: no node is asked for its load"
    reports = dict(state.last_reports.items())
    told, missing = 0, []
    for node in config.nodes:
        report, record = reports.get(node.address), state.nodes.get(node.address)
        if report is not None and not report.failed and now - report.at <= config.report_seconds:
            told += 1
        elif report is not None and report.failed:
            pause = _pause(record, now) if config.load_is_auto and record is not None else 0.0
            again = f", asked again in {pause:.0f} s" if pause else ""
            missing.append(f"{node.address} ({report.failed}{again})")
        elif not (node.web or node.metrics or node.exporter or (record is not None and record.web)):
            missing.append(f"{node.address} (where its web pages are is not known before a session is opened there)")
        else:
            missing.append(f"{node.address} (not asked lately)")
    shown = "; ".join(missing[:_SHOWN]) + (f"; {len(missing) - _SHOWN} more" if len(missing) > _SHOWN else "")
    by = "auto" if config.load_is_auto else "as configured"
    text = f"{by}, every {load.refresh:g} s: {told} of {len(config.nodes)} nodes tell"
    return f"{text}; not {shown}" if missing else text
