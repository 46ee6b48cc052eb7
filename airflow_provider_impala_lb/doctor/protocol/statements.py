"""Tables, DDL and DML, and statements whose client is killed: what the script protocol itself says of them."""

from __future__ import annotations

import time
from collections.abc import Iterator

from airflow_provider_impala_lb.doctor.finding import Finding
from airflow_provider_impala_lb.doctor.protocol.node import TrialNode, one_line
from airflow_provider_impala_lb.doctor.protocol.proofs import Lookup
from airflow_provider_impala_lb.impala.hs2.ids import StatementError
from airflow_provider_impala_lb.impala.hs2.session import Session
from airflow_provider_impala_lb.impala.hs2.statement_lookup import StatementLookup
from airflow_provider_impala_lb.impala.sql.classification import classify
from airflow_provider_impala_lb.impala.sql.label import Label
from airflow_provider_impala_lb.impala.statement.protocol import State, StatementRecord


def try_tables(node: TrialNode) -> Iterator[Finding]:
    """CREATE TABLE, INSERT and the number of its rows, DROP; and DDL that waits for the other coordinators.

    :param node: the coordinator.
    """
    session, table = node.open(), node.new_table()
    node.execute(session, f"CREATE TABLE {table} (n INT, slept BOOLEAN)")
    rows = node.execute(session, f"INSERT INTO {table} VALUES (1, true), (2, false)").rows  # noqa: S608 (own name)
    if rows == 2:
        yield node.proved("number of rows", "an INSERT of 2 rows says 2")
    else:
        yield node.not_proved("number of rows", f"an INSERT of 2 rows says {rows}")
    yield _asynchronous(node, session)
    yield _sync_ddl(node, session)


def _asynchronous(node: TrialNode, session: Session) -> Finding:
    """Whether DDL has a handle while it runs, so that its session knows it (``ClientRequestState::ExecDdlRequest``)."""
    name = "asynchronous DDL"
    node.execute(session, "SET ALL")
    rows = session.fetch(lambda cursor: cursor.fetchall(), session.cursor)
    value = {str(row[0]).upper(): str(row[1]) for row in rows}.get("ENABLE_ASYNC_DDL_EXECUTION")
    if value is None or (0, 0) < node.proofs.version < (4, 1):
        return node.not_proved(name, "there is none: DDL runs before it is answered, and has no handle meanwhile")
    if value.lower() in ("1", "true"):
        return node.proved(name, "it is on (ENABLE_ASYNC_DDL_EXECUTION): DDL has a handle while it runs")
    remedy = "session.query_options: ENABLE_ASYNC_DDL_EXECUTION: 1"
    return node.not_proved(name, "it is off: DDL runs before it is answered, and has no handle meanwhile", remedy)


def _sync_ddl(node: TrialNode, session: Session) -> Finding:
    start, table = time.monotonic(), node.new_table()
    try:
        node.execute(session, f"CREATE TABLE {table} (n INT)", options={"SYNC_DDL": "1"})
    except StatementError as error:
        return node.not_proved("SYNC_DDL", one_line(error), "all coordinators must hear of what one of them changes")
    return node.proved("SYNC_DDL", f"a CREATE TABLE reached all coordinators in {time.monotonic() - start:.1f} s")


def try_lost(node: TrialNode) -> Iterator[Finding]:
    """What the next attempt learns of a statement whose client was killed, by the protocol itself.

    :param node: the coordinator.
    """
    if not node.proofs.pages and node.open().pages is not None:
        yield node.not_tried("a lost statement", node.proofs.pages_reason)
        return
    session, table = node.open(), node.new_table()
    node.execute(session, f"CREATE TABLE {table} (n INT, slept BOOLEAN)")
    yield from _running(node, table)
    yield from _never_sent(node, table)


def _running(node: TrialNode, table: str) -> Iterator[Finding]:
    label, client = node.label("running"), node.open()
    sql = f"{label} INSERT INTO {table} SELECT 3, sleep(2500)"
    client.submit(sql)
    witness = client.proof.witness
    node.leave(client)
    found = node.proofs.running = _look_up(node, client, label, sql, witness, "accepted")
    name = "INSERT of a killed client"
    if found.action == "go on":
        yield node.proved(name, "it was found by its label while it ran, waited for, and is known to be done")
    else:
        yield node.not_proved(name, f"the protocol says {found.action!r}: {found.reason}")


def _never_sent(node: TrialNode, table: str) -> Iterator[Finding]:
    label, client = node.label("never sent"), node.open()
    sql = f"{label} INSERT INTO {table} VALUES (4, true)"  # noqa: S608 (own name)
    client.proof.see_witness()
    witness = client.proof.witness
    node.leave(client)
    found = node.proofs.never_sent = _look_up(node, client, label, sql, witness, "intended")
    name = "INSERT that never arrived"
    if found.action == "send":
        yield node.proved(name, "with its session closed, a marker and a witness it is known that it never arrives")
    else:
        yield node.not_proved(name, f"the protocol says {found.action!r}: {found.reason}")


def _look_up(node: TrialNode, client: Session, label: Label, sql: str, witness: str, state: State) -> Lookup:
    """As the next attempt does: over another connection, with the session's handle and secret."""
    record = StatementRecord(classify(sql), state)
    lookup = StatementLookup(node.attach(client), record, label.nonce, witness)
    action = lookup.run()
    reason = lookup.reason or (f"it ended in: {one_line(lookup.status)}" if lookup.status else "")
    if client.pages is not None:  # the same of coordinators that are alike
        reason = reason.replace(client.pages.url, "")
    return Lookup(action, reason)
