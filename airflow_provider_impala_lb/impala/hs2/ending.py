"""End a session and what runs in it within some seconds: over its own connection, or from outside over another one."""

from __future__ import annotations

import time
from typing import Any, NamedTuple

from airflow_provider_impala_lb.core.config.model import Node, SessionConfig
from airflow_provider_impala_lb.impala.hs2.connection import HS2Connection
from airflow_provider_impala_lb.impala.hs2.connection_failure import describe, status_error
from airflow_provider_impala_lb.impala.hs2.operation import Operation
from airflow_provider_impala_lb.impala.hs2.reconnecting_client import ReconnectingClient

CANCEL_SECONDS = 4.0
"""To cancel and close from a second connection, in all: Airflow kills a task 5 s after it asked it to end."""


class Ending(NamedTuple):
    """:ivar problem: why it could not be ended, or None. :ivar seen: whether the statement was seen to have ended."""

    problem: str | None
    seen: bool


def end_here(line: ReconnectingClient, session: Any, operation: Operation) -> str | None:
    """Cancel and close over the session's own connection. Returns why it could not be closed, or None."""
    from impala._thrift_gen.TCLIService.ttypes import TCancelOperationReq, TCloseSessionReq

    line.limit(CANCEL_SECONDS / 2)
    try:
        if operation.handle is not None and not operation.has_ended:
            line.CancelOperation(TCancelOperationReq(operationHandle=operation.handle))
        operation.finish()
        return status_error(line.CloseSession(TCloseSessionReq(sessionHandle=session)))
    except Exception as error:
        return describe(error)


def end_elsewhere(node: Node, config: SessionConfig, password: str | None, session: Any, operation: Any) -> Ending:
    """Cancel and close over a new connection: handles are good on any, with the same user (HiveServer2). Never raises.

    :param operation: the handle of the statement that runs, or None.
    """
    from impala._thrift_gen.TCLIService.ttypes import TCancelOperationReq, TCloseSessionReq

    end = time.monotonic() + CANCEL_SECONDS
    wire = None
    problem: str | None
    try:
        wire = HS2Connection(node, config, password, CANCEL_SECONDS / 2)
        if operation is not None:
            wire.limit(end - time.monotonic())
            wire.call("CancelOperation", TCancelOperationReq(operationHandle=operation))
        wire.limit(end - time.monotonic())
        problem = status_error(wire.call("CloseSession", TCloseSessionReq(sessionHandle=session)))
        if problem is None:
            return Ending(None, operation is None or _gone(wire, operation, end))
    except Exception as error:
        problem = describe(error)
    finally:
        if wire:
            wire.close()
    return Ending(problem, False)


def _gone(wire: HS2Connection, operation: Any, end: float) -> bool:
    """Whether the coordinator does not know the statement any more: closing a session waits for its statements'
    threads (ClientRequestState::Finalize), so then nothing of it is left to happen."""
    from impala._thrift_gen.TCLIService.ttypes import TGetOperationStatusReq, TOperationState

    over = (TOperationState.CANCELED_STATE, TOperationState.CLOSED_STATE, TOperationState.ERROR_STATE)
    while (left := end - time.monotonic()) > 0:
        wire.limit(left)
        answer = wire.call("GetOperationStatus", TGetOperationStatusReq(operationHandle=operation))
        if status_error(answer) or answer.operationState in over:
            return True
        time.sleep(0.05)
    return False
