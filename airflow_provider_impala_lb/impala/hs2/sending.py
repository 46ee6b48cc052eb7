"""Send a statement. Where the answer is lost: find out whether it arrived, or send it again if that does no harm.

A statement is planned before it is answered (ExecuteStatement, impala-hs2-server.cc), which may take minutes, and
nothing passes over the connection meanwhile: what ends idle connections on the way ends this one each time. So what was
sent is looked for on the coordinator's page first, and waited for if it is there; and both the time and the number of
sendings are bounded, over all sessions in which a script sends its statement.
"""

from __future__ import annotations

import time
from collections.abc import Mapping
from typing import TYPE_CHECKING

from airflow_provider_impala_lb.errors import ConfigError
from airflow_provider_impala_lb.impala.hs2.connection_failure import describe, is_refused, is_transport_failure
from airflow_provider_impala_lb.impala.hs2.ids import StatementError
from airflow_provider_impala_lb.impala.hs2.statement_lookup import Sendings, look_for, look_up
from airflow_provider_impala_lb.impala.sql.label import nonce_of
from airflow_provider_impala_lb.impala.sql.statement import classify
from airflow_provider_impala_lb.impala.web.debug_pages import ProbeFailed

if TYPE_CHECKING:
    from airflow_provider_impala_lb.impala.hs2.session import Session


def submit(session: Session, sql: str, options: Mapping[str, str] | None, sendings: Sendings | None = None) -> bool:
    """Parameters, result and errors as :meth:`.Session.submit`."""
    operation = session.operation
    operation.finish()
    operation.query_id = None
    session.stop.check()
    if not session.is_open:
        raise StatementError("the session was closed before, so it was not sent")
    sendings = sendings or Sendings(session.reconnect_timeout)
    while True:
        sendings.begin()
        sent_at = time.monotonic()
        try:
            operation.send(sql, options)
            sendings.answered()
            return False
        except Exception as error:
            session.stop.check()
            if isinstance(error, ConfigError):
                raise StatementError(f"the connection failed while it was sent: {error}") from error
            if not is_transport_failure(error):
                raise StatementError(str(error)) from error
            failure = StatementError(f"the connection failed while it was sent: {describe(error)}")
            failure.__cause__ = cause = error
        statement = classify(sql)
        if statement.session_only:
            # Not in this session: the lost one may still arrive, and undo a later USE or SET.
            session.close_to_prove()
            raise failure
        if statement.changes_nothing:
            # Where nobody listens the line has tried for as long as it is of use: the session is gone.
            if is_refused(cause):
                raise failure
            if _is_under_way(session, sql, failure, sendings):
                return False
            continue
        found = look_up(session, nonce_of(sql), sent_at, failure)
        sendings.answered()
        if not found.in_flight:
            operation.query_id = found.id
            return True
        operation.adopt(found.id)
        return False


def _is_under_way(session: Session, sql: str, failure: StatementError, sendings: Sendings) -> bool:
    """Of a statement that changes nothing, whose answer was lost: True if it was found, and is to be waited for; False,
    after a pause, if it is to be sent again.

    :raises StatementError: it is not, in this session; or it has failed.
    """
    try:
        found = look_for(session, nonce_of(sql), failure)
    except ProbeFailed:
        # It may be at work, and be so beside the next one.
        pause = sendings.lost(failure)
        if sendings.new_session:
            session.close_to_prove()
            failure.unanswered = True
        session.stop.sleep(pause)
        if sendings.new_session:
            raise failure from None
        return False
    if found is not None:
        sendings.answered()
        session.operation.adopt(found.id)
        return True
    session.stop.sleep(sendings.lost(failure))
    return False
