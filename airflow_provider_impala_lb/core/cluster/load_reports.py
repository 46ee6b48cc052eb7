"""The nodes' reports, and whose turn it is to ask for them: one process for the whole fleet; no pick waits for it."""

from __future__ import annotations

import threading
import uuid
from collections.abc import Mapping
from contextlib import suppress
from logging import getLogger

from airflow_provider_impala_lb.core.cluster.shared_state import SharedState
from airflow_provider_impala_lb.core.config.model import Config
from airflow_provider_impala_lb.core.forks import renew_in_children
from airflow_provider_impala_lb.core.ports import Prober
from airflow_provider_impala_lb.core.rules.headroom import LevelChange, ProbeBaseline, note_reports, shed_load
from airflow_provider_impala_lb.core.state.load_report import ExporterCounters, LoadSample, ProbeResult
from airflow_provider_impala_lb.core.state.model import ProbeClaim
from airflow_provider_impala_lb.core.state.state import State
from airflow_provider_impala_lb.errors import ConfigError, StateUnavailable

log = getLogger(__name__)

PROBE_SECONDS = 3.0
"""A probe of all nodes takes about a second; who has claimed it and noted nothing for so long has died."""


class LoadReports:
    """The reports of one cluster's nodes.

    :param shared: the cluster's state.
    :param prober: how nodes are asked; None (default): this process does not ask.
    :ivar prober: as given.
    """

    def __init__(self, shared: SharedState, prober: Prober | None = None) -> None:
        self._store, self._shared = shared.store, shared
        self.prober = prober
        self.forget_parent()
        renew_in_children(self)

    def forget_parent(self) -> None:
        """This process is a child: nobody in it asks."""
        self._busy = threading.Lock()

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

        _log_changes(self._store.transact(change))

    def begin_probe_if_due(self, state: State) -> None:
        """Begin to ask all nodes in a thread, if it is due. Costs nothing else.

        :param state: as it was a moment ago.
        """
        if self.prober is not None and self._is_due(state, state.head.last_seen) and not self._busy.locked():
            with suppress(RuntimeError):  # no more threads for this process: the next pick, or another process, asks
                threading.Thread(target=self.probe_if_due, name="impala-lb-reports", daemon=True).start()

    def probe_if_due(self) -> State | None:
        """Ask all nodes if that is due. Returns a recent state; None if it cannot be read. Never raises."""
        try:
            state, now = self._store.read()
            if self.prober is not None and self._is_due(state, now):
                self.probe()
                state, now = self._store.read()
            return state
        except (StateUnavailable, ConfigError) as error:
            log.debug("The nodes' load is not asked for now: %s", error)
            return None

    def probe(self, *, now_anyway: bool = False) -> Mapping[str, ProbeResult | str] | None:
        """Ask all nodes and note what they answer.

        :param now_anyway: also if it is not due; default False.
        :returns: the answers by ``host:port``, a text says why one did not answer; None if it is not due, or somebody
            else is at it.
        :raises ConfigError: ``load`` is missing in the configuration, or this process does not ask.
        :raises StateUnavailable: the shared state is out of reach.
        """
        load, prober = self._config.load, self.prober
        if load is None or prober is None:
            raise ConfigError("load: is missing in the configuration; the nodes are not asked for their load without")
        token = uuid.uuid4().hex

        def begin(state: State, now: float) -> tuple[ProbeBaseline, dict[str, ExporterCounters]] | None:
            claim = state.head.probe
            asked_by_another = claim is not None and claim.token and now < claim.until
            if asked_by_another or not (now_anyway or self._is_due(state, now)):
                return None
            state.head.probe = ProbeClaim(token, now + PROBE_SECONDS)
            counters = {address: report.counters for address, report in state.last_reports.items() if report.counters}
            return ProbeBaseline(state, now), counters

        with self._busy:
            claimed = self._store.transact(begin)
            if claimed is None:
                return None
            asked, counters = claimed
            answers = prober(self._config.nodes, counters)

            def note(state: State, now: float) -> list[LevelChange]:
                if state.head.probe is not None and state.head.probe.token != token:
                    return []  # it took too long, and another one has asked since
                state.head.probe = ProbeClaim("", asked.at + load.refresh)
                return self._note(state, now, asked, answers)

            _log_changes(self._store.transact(note))
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
        return claim is None or not claim.until - max(PROBE_SECONDS, load.refresh) <= now < claim.until


def _log_changes(changes: list[LevelChange]) -> None:
    for change in changes:
        log.info("%s is %s now (it was %s)", change.node, change.after, change.before)
