"""Query options: the names that Impala knows, those that mean something here, and how a text becomes a value."""

from __future__ import annotations

from collections.abc import Mapping

from impala._thrift_gen.ImpalaService.ttypes import TImpalaQueryOptions  # noqa: TID253 (a coordinator's process only)

from airflow_provider_impala_lb.sandbox.common.errors import Refused

#: Names of newer servers than the one impyla was generated for.
_NEWER = {
    "SYNC_HMS_EVENTS_WAIT_TIME_S",
    "SYNC_HMS_EVENTS_STRICT_MODE",
    "DEBUG_ACTION",
    "HIDE_FAILED_TABLES",
    "MEM_ESTIMATE_SCALE_FOR_SPILLING_OPERATOR",
}
NAMES: frozenset[str] = frozenset(TImpalaQueryOptions._NAMES_TO_VALUES) | _NEWER

_DEFAULTS = {
    "ABORT_ON_ERROR": "0",
    "BATCH_SIZE": "0",
    "DECIMAL_V2": "1",
    "DEFAULT_FILE_FORMAT": "TEXT",
    "DEFAULT_TRANSACTIONAL_TYPE": "NONE",
    "DISABLE_CODEGEN": "0",
    "ENABLE_ASYNC_DDL_EXECUTION": "1",
    "EXEC_TIME_LIMIT_S": "0",
    "EXPLAIN_LEVEL": "STANDARD",
    "FETCH_ROWS_TIMEOUT_MS": "10000",
    "IDLE_SESSION_TIMEOUT": "0",
    "MAX_STATEMENT_LENGTH_BYTES": "16777216",
    "MEM_LIMIT": "0",
    "MT_DOP": "0",
    "NUM_NODES": "0",
    "QUERY_TIMEOUT_S": "0",
    "RETRY_FAILED_QUERIES": "0",
    "SPOOL_QUERY_RESULTS": "1",
    "SYNC_DDL": "0",
}
_SECONDS = {"QUERY_TIMEOUT_S", "IDLE_SESSION_TIMEOUT", "EXEC_TIME_LIMIT_S"}
_TRUE, _FALSE = {"1", "true"}, {"0", "false", ""}


def checked(name: str, value: str) -> tuple[str, str]:
    """An option's name and value as they are kept.

    :param name: in any case.
    :param value: as written.
    :raises Refused: an unknown name, or a value that an option which means something here cannot have.
    """
    key = name.strip().upper()
    if key not in NAMES:
        raise Refused(f"Invalid query option: {name}")
    value = value.strip()
    if key in _SECONDS and not (value.isdigit() or value == ""):
        raise Refused(f"Invalid value for query option {key}: '{value}' is not a number of seconds, 0 or more")
    if key == "SYNC_DDL":
        if value.lower() not in _TRUE | _FALSE:
            raise Refused(f"Invalid value for query option SYNC_DDL: '{value}' is neither true nor false")
        value = "1" if value.lower() in _TRUE else "0"
    return key, value


def effective(options: Mapping[str, str]) -> dict[str, str]:
    """All options that have a value, the unset ones by their defaults.

    :param options: those that were set; an empty value unsets.
    """
    return {**_DEFAULTS, **{name: value for name, value in options.items() if value != ""}}


def seconds(options: Mapping[str, str], name: str) -> int:
    """An option that is a time, in seconds; 0 where it is not set.

    :param options: by name.
    :param name: in capitals.
    """
    return int(options.get(name) or 0)


def is_on(options: Mapping[str, str], name: str) -> bool:
    """Is a switch on?

    :param options: by name.
    :param name: in capitals.
    """
    return options.get(name, "").lower() in _TRUE
