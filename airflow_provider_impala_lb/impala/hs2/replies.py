"""A reply of HiveServer2: whether it holds what it must, and whether it tells of a success.

thrift's Python reads a reply of which parts are missing without a word, so the parts that are relied on are looked at
here. impyla's users met struct.error, EOFError, OverflowError, UnicodeDecodeError, TypeError and KeyError for replies
that were cut short or damaged: `UnreadableReply` stands for them all.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

_ID_BYTES = 16
_SUCCESS = (0, 1)
"""SUCCESS_STATUS and SUCCESS_WITH_INFO_STATUS of TStatusCode (TCLIService.thrift)."""


class UnreadableReply(Exception):
    """A reply arrived and makes no sense: cut short, damaged, of another call, or not of this protocol.

    The server may have done what it was asked to. Raised by `HS2Connection` alone, for whatever goes wrong while a
    reply is read, so that an error of anything else is never taken for one.
    """


def check_reply(name: str, reply: Any) -> None:
    """Look at the parts of a reply that are relied on.

    :param name: of the call, e.g. "OpenSession".
    :param reply: what thrift has read.
    :raises Exception: of any kind: this is no reply to that call.
    """
    reply.validate()
    reply.status.validate()
    check = _CHECKS.get(name)
    if check and reply.status.statusCode in _SUCCESS:
        check(reply)


def status_error(reply: Any) -> str | None:
    """The error text of a reply, or None if it tells of a success.

    :param reply: to any call.
    """
    from impala._thrift_gen.TCLIService.ttypes import TStatusCode

    status = reply.status
    if status.statusCode in (
        TStatusCode.SUCCESS_STATUS,
        TStatusCode.SUCCESS_WITH_INFO_STATUS,
        TStatusCode.STILL_EXECUTING_STATUS,
    ):
        return None
    return status.errorMessage or "an error without a text"


def rows_in(results: Any) -> int:
    """How many rows a TRowSet has.

    :param results: of a reply to FetchResults.
    """
    return len(_values(results.columns[0])) if results.columns else len(results.rows or ())


def _values(column: Any) -> Any:
    return next(value for value in vars(column).values() if value is not None).values


def _check_id(identifier: Any) -> None:
    lengths = len(identifier.guid), len(identifier.secret)
    if lengths != (_ID_BYTES, _ID_BYTES):
        raise ValueError(f"an id of {lengths[0]} bytes, with a secret of {lengths[1]}")


def _check_state(reply: Any) -> None:
    if reply.operationState is None:
        raise ValueError("no state")


def _check_rows(reply: Any) -> None:
    columns = (reply.results.columns if reply.results else None) or ()
    if columns and len(lengths := {len(_values(column)) for column in columns}) > 1:
        raise ValueError(f"columns of {sorted(lengths)} rows")


_CHECKS: dict[str, Callable[[Any], None]] = {
    "OpenSession": lambda reply: _check_id(reply.sessionHandle.sessionId),
    "ExecuteStatement": lambda reply: _check_id(reply.operationHandle.operationId),
    "GetOperationStatus": _check_state,
    "FetchResults": _check_rows,
}
