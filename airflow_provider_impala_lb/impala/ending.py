"""End a session and what runs in it from outside: over a connection of its own, within some seconds."""

from __future__ import annotations

import time
from logging import getLogger
from typing import Any, NamedTuple

from airflow_provider_impala_lb.core.config import Node, SessionConfig
from airflow_provider_impala_lb.impala.transport import describe, status_error
from airflow_provider_impala_lb.impala.wire import Wire

log = getLogger(__name__)


class Ending(NamedTuple):
    """:ivar problem: why it could not be ended, or None. :ivar seen: whether the statement was seen to have ended."""

    problem: str | None
    seen: bool


def end_elsewhere(
    node: Node, config: SessionConfig, password: str | None, session: Any, operation: Any, seconds: float
) -> Ending:
    """Cancel and close over a new connection: handles are good on any, with the same user (HiveServer2). Never raises.

    :param operation: the handle of the statement that runs, or None.
    """
    from impala._thrift_gen.TCLIService.ttypes import TCancelOperationReq, TCloseSessionReq

    end = time.monotonic() + seconds
    wire = None
    problem: str | None
    try:
        wire = Wire(node, config, password, seconds / 2)
        if operation is not None:
            wire.limit(end - time.monotonic())
            wire.client.CancelOperation(TCancelOperationReq(operationHandle=operation))
        wire.limit(end - time.monotonic())
        problem = status_error(wire.client.CloseSession(TCloseSessionReq(sessionHandle=session)))
        if problem is None:
            return Ending(None, operation is None or _gone(wire, operation, end))
    except Exception as error:
        problem = describe(error)
    finally:
        if wire:
            wire.close()
    return Ending(problem, False)


def _gone(wire: Wire, operation: Any, end: float) -> bool:
    """Whether the coordinator does not know the statement any more: closing a session waits for its statements'
    threads (ClientRequestState::Finalize), so then nothing of it is left to happen."""
    from impala._thrift_gen.TCLIService.ttypes import TGetOperationStatusReq, TOperationState

    over = (TOperationState.CANCELED_STATE, TOperationState.CLOSED_STATE, TOperationState.ERROR_STATE)
    while (left := end - time.monotonic()) > 0:
        wire.limit(left)
        answer = wire.client.GetOperationStatus(TGetOperationStatusReq(operationHandle=operation))
        if status_error(answer) or answer.operationState in over:
            return True
        time.sleep(0.05)
    return False
