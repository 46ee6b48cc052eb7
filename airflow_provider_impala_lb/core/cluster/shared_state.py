"""The state that all workers share, checked to be this cluster's, with a note of this host in it."""

from __future__ import annotations

import os
import zlib
from collections.abc import Callable, Mapping
from logging import getLogger
from typing import TypeVar

from airflow_provider_impala_lb.core.config.model import Config
from airflow_provider_impala_lb.core.ports import Store
from airflow_provider_impala_lb.core.rules.clock_agreement import has_lapsed, note_host
from airflow_provider_impala_lb.core.rules.discovery import config_with
from airflow_provider_impala_lb.core.rules.retention import forget_nodes
from airflow_provider_impala_lb.core.state.model import FoundNode, FoundNodes
from airflow_provider_impala_lb.core.state.state import State, begin
from airflow_provider_impala_lb.errors import ConfigError, StateUnavailable

log = getLogger(__name__)
Result = TypeVar("Result")
_FORGET_EVERY = 60.0
"""Seconds between two looks of a host for nodes to forget, which take as long as a choice among them."""


class SharedState:
    """The store of one cluster.

    :param config: the cluster's.
    :param store: where the state lies.
    :ivar store: as given.
    :ivar host: this host's name in the state.
    :ivar snapshot: the state as the last pick of this process left it; None: none has reached it.
    """

    def __init__(self, config: Config, store: Store) -> None:
        self.store = store
        self._current: tuple[Config, Mapping[str, FoundNode]] = config, {}
        self.host = os.uname().nodename
        self.snapshot: State | None = None
        self._born = 0.0  # of the state that this process has used last
        # It only tells lists apart, for a warning: hashlib would load OpenSSL for it, in each `impala-lb pick`.
        names = config.source.name if config.source is not None else " ".join(config.addresses)
        self._nodes_digest = f"{zlib.crc32(names.encode()):08x}"

    @property
    def config(self) -> Config:
        """The cluster's configuration; where nodes are found, with those of the state that was seen last."""
        return self._current[0]

    def config_of(self, state: State) -> Config:
        """The configuration with the nodes of a state, where they are found.

        :param state: of which only the head need be known.
        """
        config, known = self._current
        if config.source is None:
            return config
        found = state.head.found
        if found is None or found.source != config.source.name or not found.at:
            return config  # another source's, or of none yet: as of a state that was begun anew, while somebody asks
        if found.nodes != known:
            config = config_with(config, found)
            self._current = config, dict(found.nodes)
        return config

    def found_alone(self, nodes: dict[str, str]) -> None:
        """Use nodes that this process has found while the state is out of reach.

        :param nodes: as of `NodeFinder`.
        """
        found = FoundNodes({address: FoundNode(web) for address, web in nodes.items()})
        self._current = config_with(self.config, found), {}

    def transact(self, change: Callable[[State, float], Result]) -> Result:
        """As `Store.transact`, on a state that is this cluster's.

        :param change: gets the state and the store's clock.
        :raises ConfigError: the store belongs to another cluster.
        :raises StateUnavailable: it cannot be reached; nothing was noted, or the message says *outcome unknown*.
        """

        born = 0.0

        def checked(state: State, now: float) -> Result:
            nonlocal born
            self.check(state)
            self.config_of(state)
            begin(state, now, before=self._born)
            born = state.head.born
            result = change(state, now)
            self.config_of(state)
            return result

        result = self.store.transact(checked)
        self._born = born
        return result

    def read(self, *, records: bool = True) -> tuple[State, float]:
        """As `Store.read`.

        :param records: as there.
        :raises ConfigError: as :meth:`transact`.
        :raises StateUnavailable: as :meth:`transact`.
        """
        state, now = self.store.read(records=records)
        self.check(state)
        self.config_of(state)
        return state, now

    def try_to_note(self, subject: str, change: Callable[[State, float], object]) -> None:
        """A change that is not worth the work that it is about: never raises, a failure is one warning.

        :param subject: what it is about, for the warning, e.g. a node's address.
        :param change: gets the state and the store's clock.
        """
        try:
            self.transact(change)
        except (StateUnavailable, ConfigError) as error:
            log.warning("What became of %s could not be noted in the shared state: %s", subject, error)

    def check(self, state: State) -> None:
        """Whether a state is this cluster's.

        :param state: as the store has it.
        :raises ConfigError: it belongs to another cluster.
        """
        cluster = state.head.cluster
        if cluster and cluster != self.config.name:
            raise ConfigError(
                f"{self.store.where}: belongs to cluster {cluster!r}, and this configuration's name "
                f"is {self.config.name!r}; each cluster needs a lock file of its own"
            )

    def note_host(self, state: State, now: float, *, nodes: bool = False) -> bool:
        """Note in the state that this host is there.

        :param state: changed.
        :param now: the store's clock, seconds since the epoch.
        :param nodes: also which list of nodes it balances; default False.
        :returns: with ``nodes``: whether another host balances a different list.
        """
        state.head.cluster = self.config.name
        mine = state.hosts.get(self.host)
        if mine is None or mine.seen // _FORGET_EVERY != now // _FORGET_EVERY:
            forget_nodes(self.config, state, now)
        digest = self._nodes_digest if nodes else None
        return note_host(state, now, self.host, digest, one_clock=self.store.one_clock)

    def has_lapsed(self, state: State, now: float) -> Callable[[str, float], bool] | None:
        """Whether what a host dated to end at some moment has ended, by the host's name and the moment; None: all hosts
        have the store's clock.

        :param state: looked at.
        :param now: the store's clock, seconds since the epoch.
        """
        if self.store.one_clock:
            return None
        return lambda host, ends: has_lapsed(state, now, self.host, host, ends)
