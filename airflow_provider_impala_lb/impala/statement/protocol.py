"""What may be done next about a statement that was sent, or is about to be: one rule for every process.

:func:`decide` gets what is kept of the statement (:class:`StatementRecord`) and what was just seen of it
(:class:`Evidence`). It is asked for a statement whose answer was lost, and for one that an earlier attempt has left in
doubt (``hs2/statement_lookup.py`` drives it). No I/O: the tests explore it against a model of a coordinator, its
network, its page and two processes.

What proves something, and where Impala's source says so (apache/impala, be/src, HEAD of 2026-08):

* *Ended*: FINISHED from a live handle (``ClientRequestState::Wait`` sets it when all is done; of a query it means that
  there are rows, which changes nothing); an error from a live handle, unless somebody or a limit cancelled it: that
  shows at once, and the threads end later. **CloseOperation that answers with success**: exactly one call unregisters a
  statement (``QueryDriver::Finalize``, compare and swap), and before it answers it has joined the statement's threads
  (``ClientRequestState::Finalize``); another one gets "Invalid or unknown query handle", which proves nothing. Or the
  statement is among the completed queries of ``/queries``: ``FinishUnregisterQuery`` archives it after that.
* *Over* (it has ended, or never arrives): its session was seen closed, and a later copy of ``/queries`` does not show
  it in flight. ``RegisterQuery`` looks whether the session is closed under that session's lock, so nothing arrives
  later; and a statement is on the page from there until it is archived. The copy is later, and of this node, if it
  shows the *marker*: a labelled statement that was sent after the close. It is of the same process if the marker's
  session was opened before the close, and the close found its session.
* *Never arrived*: over, and the copy does not show it among the completed queries either, but does show the *witness*:
  a statement that was seen there before this one was sent. The log drops its oldest records first.
  Assumed: every statement that was closed reaches that log, and stays in it for as long as a call to the catalog
  service goes on behind it; and between two lines of ``CloseSessionInternal``, which take the session out of the map
  and set it closed, no thread stops for the time of a new session, a statement and a page.
* "Unknown handle", "not seen" and any time that has passed prove nothing.
* *May still land*: a call to the catalog service goes on after the coordinator has given up on it, was told to kill a
  statement that it still planned, or has died.
"""

from __future__ import annotations

import re
from typing import Literal

import msgspec

from airflow_provider_impala_lb.impala.sql.classification import Classification
from airflow_provider_impala_lb.impala.statement.failure_rules import classify_again, classify_failure

State = Literal["pending", "intended", "registered", "accepted"]
"""``intended``: written down, and then sent. ``registered``: it was on its coordinator's page. ``accepted``: the
coordinator has answered with its handle, so its session knows it."""
Handle = Literal["none", "running", "finished", "failed", "cancelled", "unknown"]
"""What the coordinator said when it was asked by the handle; ``none``: it was not asked, or did not answer.
``cancelled``: in error, by a cancel or a limit."""
Failure = Literal["nothing", "maybe", "may still land", "done"]
"""What a failed statement has changed."""
Found = Literal["absent", "in flight", "stopped", "ok", "failed"]
"""What a copy of the page shows of a statement. ``stopped``: in flight, in error: it may still be at work, and is not
archived before its session is closed. ``ok``: FINISHED, which is said of a query when it has rows, and of all others
when all is done. ``failed``: archived, in error."""
PageOf = Literal["3", "4", "5"]
"""How far a copy of the page can be trusted, by the version of Impala. ``3``: before 4.0 a statement leaves the list in
flight before it is ended (impala-server.cc of 3.4, UnregisterQuery), so its absence means nothing. ``4``: up to 4.5,
what is not in flight is over. ``5``: later, too, but one that was killed while it was planned (KILL QUERY,
``/cancel_query``) is among the completed ones at once, and may go on."""
Action = Literal["send", "wait", "look up", "close", "go on", "failed", "ended", "ask", "stop"]
"""``send``: it was not sent, or never arrived and never will. ``wait``: ask its handle. ``look up``: take a copy of the
page; once the session is closed, with a marker. ``close``: close the statement if it has a handle, then the session.
``go on``: it is done. ``failed``: it is over, and has changed nothing. ``ended``: it is over, and may have changed
something. ``ask``: it may still run, or its outcome is not known and nothing more can be seen: a question to the
author. ``stop``: another process has the script."""

_KILLED = re.compile("[Cc]ancelled")
"""By KILL QUERY, or on the page. A session that is closed says so."""


class StatementRecord(msgspec.Struct, frozen=True):
    """What is kept of the first statement of a script that is not done. All before it are.

    :param statement: what it is.
    :param state: how far it has come, as far as is known.
    :param witness: an own statement was seen among the completed queries of its node before it was sent.
    :param repeated: it was sent before, and that sending seemed not to have run.
    """

    statement: Classification
    state: State = "pending"
    witness: bool = False
    repeated: bool = False


class PageCopy(msgspec.Struct, frozen=True):
    """One copy of ``/queries``. Two copies are never combined.

    :param found: what it shows of the statement.
    :param failure: what that has changed, if it failed.
    :param marker: it shows the marker.
    :param witness: it shows the witness.
    """

    found: Found = "absent"
    failure: Failure = "maybe"
    marker: bool = False
    witness: bool = False


class Evidence(msgspec.Struct, frozen=True):
    """What one process has seen of a statement.

    :param superseded: another process has the script.
    :param refused: an error came in place of a handle: what it has changed by then. None: no such answer.
    :param handle: what its handle said last.
    :param failure: what it has changed, if it ``failed``.
    :param released: CloseOperation has answered with success, of a handle that the server had answered.
    :param closed: CloseSession has answered: with success, or that it does not know the session.
    :param same_process: the copy of the page, and the marker, are of the process to which the statement was sent.
    :param page: the last copy of the page; None: there is none.
    :param page_of: how far the page can be trusted.
    :param can_ask: its handle is known, or can be made of its id and its session's secret.
    :param can_close: its session can be closed, by its secret or on the page.
    :param can_look: the page can be asked for once more.
    :param answer: the author's word: ``ran`` or ``not-run``; "": none.
    """

    superseded: bool = False
    refused: Failure | None = None
    handle: Handle = "none"
    failure: Failure = "maybe"
    released: bool = False
    closed: bool = False
    same_process: bool = False
    page: PageCopy | None = None
    page_of: PageOf = "5"
    can_ask: bool = True
    can_close: bool = True
    can_look: bool = True
    answer: str = ""


def decide(record: StatementRecord, evidence: Evidence) -> Action:
    """What may be done next.

    :param record: what is kept.
    :param evidence: what this process has seen.
    """
    if evidence.superseded:
        return "stop"
    if record.state == "pending":
        return "send"
    if evidence.refused is not None:
        return _after_failure(evidence.refused, evidence.answer)
    if evidence.handle == "finished":
        return "go on"
    if evidence.handle == "failed":
        return _after_failure(evidence.failure, evidence.answer)
    if evidence.handle == "running":
        return "wait"
    page = evidence.page
    if page is not None and page.found == "ok":
        return "go on"
    if page is not None and page.found == "failed":
        return _after_failure(page.failure, evidence.answer)
    if record.statement.changes_nothing:
        return _of_a_reader(record, evidence)
    if evidence.released:
        return _answered(evidence.answer) or "ended"
    in_flight = page is not None and page.found == "in flight" and evidence.handle == "none" and not evidence.closed
    if in_flight and (evidence.can_ask or evidence.can_look):  # not closed: that would leave its outcome open
        return "wait" if evidence.can_ask else "look up"
    looked = page is not None or not evidence.can_look
    if not evidence.closed and evidence.can_close and (looked or evidence.handle == "cancelled"):
        return "close"
    fresh = page is not None and page.marker and evidence.closed and evidence.same_process and evidence.page_of != "3"
    if page is not None and fresh and page.found == "absent":
        if record.witness and page.witness and record.state == "intended":
            return "send"
        return _answered(evidence.answer) or "ended"
    if evidence.can_look:
        return "look up"
    return _answered(evidence.answer) or "ask"


def page_of(version: tuple[int, int]) -> PageOf:
    """How far the page of a version of Impala can be trusted.

    :param version: e.g. ``(4, 5)``; ``(0, 0)``: not known.
    """
    return "3" if version < (4, 0) else "4" if version < (4, 6) else "5"


def failure_of(message: str, record: StatementRecord, *, archived: PageOf | None = None) -> Failure:
    """What a statement that failed has changed.

    :param message: the server's.
    :param record: what is kept of it.
    :param archived: it stands among the completed queries of a page of this kind; None (default): it was an answer.
    """
    statement, accepted = record.statement, record.state == "accepted"
    classify = classify_again if record.repeated else classify_failure
    found = classify(message, statement, accepted=accepted or archived is not None)
    if found.outcome == "unknown":
        # Killed while it was planned, it is archived at once, and may go on: Finalize joins the thread that waits, and
        # that is not there yet (client-request-state.cc).
        killed = archived == "5" and not accepted and _KILLED.search(message)
        return "may still land" if found.may_land or killed else "maybe"
    return "done" if found.outcome == "done" else "nothing"


def _after_failure(failure: Failure, answer: str) -> Action:
    if failure == "done":
        return "go on"
    if failure == "nothing":
        return "failed"
    return _answered(answer) or ("ended" if failure == "maybe" else "ask")


def _answered(answer: str) -> Action | None:
    """What the author's word allows, where nothing tells more."""
    return {"ran": "go on", "not-run": "send"}.get(answer)  # type: ignore[return-value]


def _of_a_reader(record: StatementRecord, evidence: Evidence) -> Action:
    """Of what may run twice at any time, even beside itself. USE and SET count in their session only: a late one may
    undo a later one, so that session is closed first."""
    if record.statement.session_only:
        return "send" if evidence.closed or not evidence.can_close else "close"
    if evidence.page is None and evidence.can_look:
        return "look up"
    page = evidence.page
    found = page is not None and page.found == "in flight" and evidence.handle == "none" and not evidence.closed
    return "wait" if found and evidence.can_ask else "send"
