"""Send a statement. Where the answer is lost: find out whether it arrived, or send it again if that does no harm."""

from __future__ import annotations

import time
from collections.abc import Mapping
from typing import TYPE_CHECKING

from airflow_provider_impala_lb.errors import ConfigError
from airflow_provider_impala_lb.impala.lookup import look_up
from airflow_provider_impala_lb.impala.sql.label import nonce_of
from airflow_provider_impala_lb.impala.sql.statement import classify
from airflow_provider_impala_lb.impala.statement import StatementError
from airflow_provider_impala_lb.impala.transport import describe, is_refused, is_transport_failure

if TYPE_CHECKING:
    from airflow_provider_impala_lb.impala.session import Session

_FIRST_PAUSE, _LONGEST_PAUSE = 0.05, 2.0


def submit(session: Session, sql: str, options: Mapping[str, str] | None) -> bool:
    """Parameters, result and errors as :meth:`.Session.submit`."""
    operation = session.operation
    operation.finish()
    operation.query_id = None
    session.check_cancelled()
    if not session.is_open:
        raise StatementError("the session was closed before, so it was not sent")
    until, pause = time.monotonic() + session.patience, _FIRST_PAUSE
    while True:
        sent_at = time.monotonic()
        try:
            operation.send(sql, options)
            return False
        except Exception as error:
            session.check_cancelled()
            if isinstance(error, ConfigError):
                raise StatementError(f"the connection failed while it was sent: {error}") from error
            if not is_transport_failure(error):
                raise StatementError(str(error)) from error
            failure = StatementError(f"the connection failed while it was sent: {describe(error)}")
            failure.__cause__ = cause = error
        statement = classify(sql)
        if statement.session_only:
            # Not in this session: the lost one may still arrive, and undo a later USE or SET.
            session.give_up()
            raise failure
        if statement.changes_nothing:
            # Where nobody listens the line has tried for as long as it is of use: the session is gone.
            if time.monotonic() >= until or is_refused(cause):
                raise failure
            session.pause(pause)
            pause = min(pause * 2, _LONGEST_PAUSE)
            continue
        found = look_up(session, nonce_of(sql), sent_at, failure)
        if not found.in_flight:
            operation.query_id = found.id
            return True
        operation.adopt(found.id)
        return False
