"""What was found where the state should be: a state, nothing, damage, or the work of a newer version."""

from __future__ import annotations

import msgspec

from airflow_provider_impala_lb.core.state.record_log import Reader
from airflow_provider_impala_lb.core.state.state import NewerState, State, decode
from airflow_provider_impala_lb.errors import ConfigError


def load_or_reset(place: str, record: bytes | None, read: Reader | None = None) -> tuple[State, bool]:
    """The state that a store found, or an empty one.

    :param place: the configuration's key and its value, for the error.
    :param record: what was found; None: something that cannot be read, ``b""``: nothing yet.
    :param read: gives the records, which are kept apart from ``record``; None: all is in it.
    :returns: the state, and whether what was there had to be given up: then it is marked as `Head.lost`.
    :raises ConfigError: the record was written by a newer version.
    """
    if record == b"":
        return State(), False
    if record is None:
        return _in_place_of_another(), True
    try:
        return decode(record, read), False
    except NewerState as error:
        raise ConfigError(
            f"{place}: was written by a newer version of this package ({error}). Upgrade this host, or name another"
        ) from None
    except msgspec.DecodeError:
        return _in_place_of_another(), True


def _in_place_of_another() -> State:
    state = State()
    state.head.lost = True
    return state
