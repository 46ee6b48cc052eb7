"""Session data: what goes along when a session key moves to another node, and its copy in a mirror."""

from __future__ import annotations

from collections.abc import Mapping
from logging import getLogger

from airflow_provider_impala_lb.core.cluster.shared_state import SharedState
from airflow_provider_impala_lb.core.ports import Mirror
from airflow_provider_impala_lb.core.rules.retention import MOST_DATA_BYTES, bound_data
from airflow_provider_impala_lb.core.state.model import SESSION_SECONDS, SessionRecord
from airflow_provider_impala_lb.core.state.state import State
from airflow_provider_impala_lb.errors import ConfigError, StateUnavailable

log = getLogger(__name__)

FLUSH_SECONDS = 1.0


class SessionKeys:
    """The data of session keys: the default database, and what was set by SET.

    :param shared: the cluster's state.
    :param mirror: where records are copied to; None (default): nowhere.
    :ivar mirror: as given.
    """

    def __init__(self, shared: SharedState, mirror: Mirror | None = None) -> None:
        self._shared = shared
        self.mirror = mirror

    def remember(self, key: str, node: str, database: str | None, options: Mapping[str, str]) -> None:
        """Record what a session of this key left behind; of several the one that closes last holds. Never raises.

        With a mirror it waits up to `FLUSH_SECONDS` for the copy: the process may be gone a moment later.

        :param key: the session key.
        :param node: ``host:port`` where the session was.
        :param database: the one in use at its end.
        :param options: what was set in it by SET.
        """

        def change(state: State, now: float) -> tuple[SessionRecord, int]:
            record = state.sessions.get(key) or SessionRecord(node=node, expires=0.0)
            record.database, record.options, record.at = database, dict(options), now
            record.expires = now + SESSION_SECONDS
            too_large = bound_data(record)
            state.sessions.put(key, record, record.expires)
            return record, too_large

        try:
            record, too_large = self._shared.store.transact(change)
            self.copy(key, record)
            if too_large:
                log.warning(
                    "The data of session key %r (default database, and what was set by SET) have %d bytes, and at most "
                    "%d are kept: they do not go along to its next session",
                    key,
                    too_large,
                    MOST_DATA_BYTES,
                )
            if self.mirror is not None:
                self.mirror.flush(FLUSH_SECONDS)
        except (StateUnavailable, ConfigError) as error:
            log.warning("The data of session key %r could not be recorded: %s", key, error)

    def copy(self, key: str, record: SessionRecord) -> None:
        """Send a copy to the mirror, if there is one.

        :param key: the session key.
        :param record: as it is in the shared state.
        """
        if self.mirror is not None:
            self.mirror.copy(key, record)

    def find_in_mirror(self, key: str) -> SessionRecord | None:
        """What the mirror knows of a key that this process has not seen in the shared state; else None.

        :param key: the session key.
        """
        state = self._shared.snapshot
        if self.mirror is None or (state is not None and state.sessions.get(key) is not None):
            return None
        return self.mirror.find(key)
