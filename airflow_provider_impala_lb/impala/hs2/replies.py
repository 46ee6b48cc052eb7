"""Whether a reply of HiveServer2 holds what it must: thrift's Python reads one of which parts are missing, too."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

_ID_BYTES = 16
_SUCCESS = (0, 1)
"""SUCCESS_STATUS and SUCCESS_WITH_INFO_STATUS of TStatusCode (TCLIService.thrift)."""


def check_answer(name: str, answer: Any) -> None:
    """Look at the parts of the reply to the call ``name`` that are relied on.

    :raises Exception: of any kind: this is no such reply.
    """
    answer.validate()
    answer.status.validate()
    check = _CHECKS.get(name)
    if check and answer.status.statusCode in _SUCCESS:
        check(answer)


def rows_in(results: Any) -> int:
    """How many rows a TRowSet has."""
    return len(_values(results.columns[0])) if results.columns else len(results.rows or ())


def _values(column: Any) -> Any:
    return next(value for value in vars(column).values() if value is not None).values


def _check_id(identifier: Any) -> None:
    lengths = len(identifier.guid), len(identifier.secret)
    if lengths != (_ID_BYTES, _ID_BYTES):
        raise ValueError(f"an id of {lengths[0]} bytes, with a secret of {lengths[1]}")


def _check_state(answer: Any) -> None:
    if answer.operationState is None:
        raise ValueError("no state")


def _check_rows(answer: Any) -> None:
    columns = (answer.results.columns if answer.results else None) or ()
    if columns and len(lengths := {len(_values(column)) for column in columns}) > 1:
        raise ValueError(f"columns of {sorted(lengths)} rows")


_CHECKS: dict[str, Callable[[Any], None]] = {
    "OpenSession": lambda answer: _check_id(answer.sessionHandle.sessionId),
    "ExecuteStatement": lambda answer: _check_id(answer.operationHandle.operationId),
    "GetOperationStatus": _check_state,
    "FetchResults": _check_rows,
}
