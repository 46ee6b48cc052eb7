"""The nodes' reports, and whose turn it is to ask for them: one process for the whole fleet; no pick waits for it."""

from __future__ import annotations

import threading
import uuid
from collections.abc import Mapping
from logging import getLogger

from airflow_provider_impala_lb.core.cluster.shared_state import SharedState
from airflow_provider_impala_lb.core.ports import Prober
from airflow_provider_impala_lb.core.rules.headroom import ProbeBaseline, note_reports, shed_load
from airflow_provider_impala_lb.core.state.load_report import ExporterCounters, LoadSample, ProbeResult
from airflow_provider_impala_lb.core.state.model import Level, ProbeClaim
from airflow_provider_impala_lb.core.state.state import State
from airflow_provider_impala_lb.errors import ConfigError, StateUnavailable

log = getLogger(__name__)

ROUND_SECONDS = 3.0
"""A round takes about a second; who has claimed it and says nothing for so long has died."""


class LoadReports:
    """The reports of one cluster's nodes.

    :param prober: how nodes are asked; None: this process does not ask.
    """

    def __init__(self, shared: SharedState, prober: Prober | None = None) -> None:
        self._config, self._store, self._shared = shared.config, shared.store, shared
        self._busy = threading.Lock()
        self.prober = prober

    @property
    def is_due(self) -> bool:
        """Whether, by the state of the last pick, the nodes should be asked for their load by somebody."""
        copy = self._shared.copy
        return copy is not None and self.due(copy, max(host.seen for host in copy.hosts.values()))

    def note(self, node: str, sample: LoadSample) -> None:
        """A report that somebody else made. :raises StateUnavailable: it was not noted."""

        def change(state: State, now: float) -> list[tuple[str, Level, Level]]:
            changes = note_reports(self._config, state, now, ProbeBaseline(state, now), {node: ProbeResult(sample)})
            shed_load(self._config, state, now, {node})
            return changes

        self._say(self._store.transact(change))

    def due(self, state: State, now: float) -> bool:
        """Whether the nodes should be asked, and nobody does."""
        claim = state.head.probe
        if self._config.load is None:
            return False
        return claim is None or not claim.until - max(ROUND_SECONDS, self._config.load.refresh) <= now < claim.until

    def begin_probe_if_due(self, state: State | None) -> None:
        """Start a round in a thread if one is due. Costs nothing else."""
        if self.prober is None or state is None or self._config.load is None:
            return
        note = max((host.seen for host in state.hosts.values()), default=0.0)
        if self.due(state, note) and not self._busy.locked():
            threading.Thread(target=self.probe_if_due, name="impala-lb-reports", daemon=True).start()

    def probe_if_due(self) -> State | None:
        """Ask all nodes if that is due. Returns a recent state; None if it cannot be read. Never raises."""
        try:
            state, now = self._store.read()
            if self.prober is not None and self.due(state, now):
                self.probe()
                state, now = self._store.read()
            return state
        except (StateUnavailable, ConfigError) as error:
            log.debug("The nodes' load is not asked for now: %s", error)
            return None

    def probe(self, *, now_anyway: bool = False) -> Mapping[str, ProbeResult | str] | None:
        """Ask all nodes and note what they say. None if it is not due, or somebody else is at it.

        :param now_anyway: also if it is not due.
        :raises StateUnavailable: the shared state is out of reach.
        """
        load, prober = self._config.load, self.prober
        if load is None or prober is None:
            raise ConfigError("load: is missing in the configuration; the nodes are not asked for their load without")
        token = uuid.uuid4().hex

        def begin(state: State, now: float) -> tuple[ProbeBaseline, dict[str, ExporterCounters]] | None:
            claim = state.head.probe
            asked_by_another = claim is not None and claim.token and now < claim.until
            if asked_by_another or not (now_anyway or self.due(state, now)):
                return None
            state.head.probe = ProbeClaim(token, now + ROUND_SECONDS)
            counters = {address: told.counters for address, told in state.last_reports.items() if told.counters}
            return ProbeBaseline(state, now), counters

        with self._busy:
            claimed = self._store.transact(begin)
            if claimed is None:
                return None
            asked, counters = claimed
            answers = prober(self._config.nodes, counters)

            def note(state: State, now: float) -> list[tuple[str, Level, Level]]:
                if state.head.probe is not None and state.head.probe.token != token:
                    return []  # it took too long, and another one has asked since
                state.head.probe = ProbeClaim("", asked.at + load.refresh)
                changes = note_reports(self._config, state, now, asked, answers)
                shed_load(
                    self._config, state, now, {name for name, said in answers.items() if isinstance(said, ProbeResult)}
                )
                return changes

            self._say(self._store.transact(note))
            return answers

    @staticmethod
    def _say(changes: list[tuple[str, Level, Level]]) -> None:
        for node, before, after in changes:
            log.info("%s is %s now (it was %s)", node, after, before)
