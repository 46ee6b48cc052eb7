"""What was found where the state should be: a state, nothing, damage, or the work of a newer version."""

from __future__ import annotations

from collections.abc import Callable

import msgspec

from airflow_provider_impala_lb.core.state.record_log import Extent
from airflow_provider_impala_lb.core.state.state import NewerState, State, decode
from airflow_provider_impala_lb.errors import ConfigError


def load_or_reset(
    what: str, record: bytes | None, read: Callable[[int, Extent], bytes] | None = None
) -> tuple[State, bool]:
    """The state, and whether the record had to be given up: None, or not a state. An empty one is a new state.

    :param what: the configuration's key and its value, for the error.
    :param read: gives the records, which are kept apart from ``record``; None: all is in it.
    :raises ConfigError: the record was written by a newer version.
    """
    if record == b"":
        return State(), False
    try:
        return (decode(record, read), False) if record is not None else (State(), True)
    except NewerState as error:
        raise ConfigError(
            f"{what}: was written by a newer version of this package ({error}). Upgrade this host, or name another"
        ) from None
    except msgspec.DecodeError:
        return State(), True
