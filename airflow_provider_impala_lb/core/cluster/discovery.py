"""The nodes that are found: one process for the whole fleet asks their source; no pick waits for it but the first."""

from __future__ import annotations

import threading
import uuid
from contextlib import suppress
from logging import getLogger

from airflow_provider_impala_lb.core.cluster.shared_state import SharedState
from airflow_provider_impala_lb.core.forks import renew_in_children
from airflow_provider_impala_lb.core.ports import NodeFinder
from airflow_provider_impala_lb.core.rules import discovery
from airflow_provider_impala_lb.core.state.state import State
from airflow_provider_impala_lb.core.timing import Deadline
from airflow_provider_impala_lb.errors import ConfigError, NoNodeAvailable, StateUnavailable

log = getLogger(__name__)

TRY_SECONDS = 5.0
"""A process that could not learn of any node tries again after so long."""


class Discovery:
    """Of one cluster. Where nodes are listed it does nothing.

    :param shared: the cluster's state.
    :param finder: asks the source; None: this process does not ask.
    :ivar in_background: it is asked by a thread when that is due; a process that is gone before there is an answer sets
        it to False.
    """

    def __init__(self, shared: SharedState, finder: NodeFinder | None = None) -> None:
        self._shared, self._finder = shared, finder
        self.in_background = True
        self._problem = ""
        self.forget_parent()
        renew_in_children(self)

    def forget_parent(self) -> None:
        """This process is a child: nobody in it asks."""
        self._busy, self._first = threading.Lock(), threading.RLock()
        self._next_try = Deadline(0)

    @property
    def is_due(self) -> bool:
        """Whether, by the state of the last pick, the source should be asked by somebody."""
        state = self._shared.snapshot
        return state is not None and discovery.is_due(self._shared.config, state, state.head.last_seen)

    def begin_if_due(self, state: State) -> None:
        """Begin to ask the source in a thread, if it is due. Costs nothing else.

        :param state: as it was a moment ago.
        """
        if (
            self._finder is not None
            and self.in_background
            and discovery.is_due(self._shared.config, state, state.head.last_seen)
            and not self._busy.locked()
        ):
            with suppress(RuntimeError):  # no more threads for this process: the next pick, or another process, asks
                threading.Thread(target=self.look_if_due, name="impala-lb-nodes", daemon=True).start()

    def look_if_due(self) -> None:
        """Ask the source, if it is due and nobody does. Never raises."""
        try:
            self.look()
        except (StateUnavailable, ConfigError) as error:
            log.debug("%s is not asked for nodes now: %s", self._source, error)

    def try_to_know(self) -> None:
        """If this process knows of no node: look in the state, and if none is there either, ask the source.

        While the state is out of reach, it asks for itself. Never raises.
        """
        shared = self._shared
        if shared.config.source is None or shared.config.nodes:
            return
        with self._first:  # the other threads wait for the one that asks; who is asked may ask for the configuration
            if shared.config.nodes or not self._next_try.passed():
                return
            self._next_try = Deadline(TRY_SECONDS)
            try:
                self._try_to_know()
            except (StateUnavailable, ConfigError) as error:
                self._problem = str(error)
            self._next_try = Deadline(TRY_SECONDS)

    def _try_to_know(self) -> None:
        shared = self._shared
        try:
            shared.read(records=False)
            if not shared.config.nodes:
                self.look(now_anyway=True)
        except StateUnavailable:
            shared.found_alone(self._ask())

    def ensure_nodes(self) -> None:
        """Before a pick: see that there are nodes to pick from.

        :raises NoNodeAvailable: none is known, and why.
        """
        self.try_to_know()
        shared = self._shared
        if shared.config.source is None or shared.config.nodes:
            return
        raise NoNodeAvailable(self.none_known)

    @property
    def none_known(self) -> str:
        """That no node is known, and why, as far as this process has seen."""
        name, problem = self._shared.config.name, self._problem or "names no node"
        return f"No coordinator of {name} is known: {self._source}: {problem}"

    def look(self, *, now_anyway: bool = False) -> None:
        """Ask the source, and note what it tells.

        :param now_anyway: also if it is not due, or somebody else is at it; default False.
        :raises StateUnavailable: the shared state is out of reach.
        :raises ConfigError: it belongs to another cluster.
        """
        shared, token = self._shared, uuid.uuid4().hex

        def begin(state: State, now: float) -> bool:
            if not now_anyway and not discovery.is_due(shared.config, state, now):
                return False
            discovery.claim(shared.config, state, now, token)
            return True

        with self._busy:
            if not shared.transact(begin):
                return
            try:
                answer: dict[str, str] | str = self._ask()
            except ConfigError as error:
                answer = str(error)
            self._problem = answer if isinstance(answer, str) else ""

            def note(state: State, now: float) -> list[str]:
                found = state.head.found
                mine = found is not None and found.source == self._source  # not lost, nor of another source
                if not now_anyway and not (mine and found is not None and found.token == token):
                    return []  # it took too long, and another one has asked since
                if not mine:
                    discovery.claim(shared.config, state, now, token)
                return discovery.note_found(shared.config, state, now, answer)

            for line in shared.transact(note):
                log.warning("%s", line)

    @property
    def _source(self) -> str:
        return self._shared.config.source.name if self._shared.config.source is not None else ""

    def _ask(self) -> dict[str, str]:
        """:raises ConfigError: it did not answer."""
        source = self._shared.config.source
        if self._finder is None or source is None:
            raise ConfigError("this process does not ask")
        return self._finder(source)
