"""The web pages of a coordinator: can they be had, are they its own, do they show a label whole and keep a witness?"""

from __future__ import annotations

from collections.abc import Iterator

from airflow_provider_impala_lb.doctor.finding import Finding
from airflow_provider_impala_lb.doctor.protocol.node import TrialNode
from airflow_provider_impala_lb.impala.hs2.page_proof import WITNESS_SECONDS
from airflow_provider_impala_lb.impala.hs2.session import Session
from airflow_provider_impala_lb.impala.sql.label import MAX_CHARS, Label, nonce_of
from airflow_provider_impala_lb.impala.web.debug_pages import DebugPages, ProbeFailed, Queries

_COPIES = 5
"""So many copies of the page are looked at: behind a load balancer each may be another coordinator's."""
_SECONDS = 5.0
"""For a statement to come to the log once it is closed. There is no bound by source: a pool of four threads does it."""
_SEEN_CHARS = 2000
_LOG_SIZE = "start the coordinator with a larger --query_log_size"


def try_pages(node: TrialNode) -> Iterator[Finding]:
    """The pages of one coordinator.

    :param node: the coordinator.
    """
    session = node.open()
    pages = session.pages
    if pages is None:
        node.proofs.pages_reason = "it has none that are known"
        yield node.not_proved("web pages", "none are known", "name them by web, of the node")
        return
    try:
        version = pages.version()
        pages.queries()
    except ProbeFailed as error:
        node.proofs.pages_reason = str(error).replace(f"{pages.url}: ", "")
        remedy = "correct the node's web, or load.web_auth and its login; without pages lost statements are questions"
        yield node.not_proved("web pages", str(error), remedy)
        return
    yield from _whose(node, session, pages, version)
    if node.proofs.pages:
        session.finish()
        yield from _log(node, pages)
        yield _flags(node, pages)


def _whose(node: TrialNode, session: Session, pages: DebugPages, version: tuple[int, int]) -> Iterator[Finding]:
    """Run a labelled SET, and see whether the page has it under the query id that this session was given: a page of
    another coordinator, or an older copy, has not."""
    label = Label.new(10**6, 10**6, {"dag": "d" * MAX_CHARS, "task": "t"}, "doctor")
    session.execute(f"{label} SET /* {'.' * _SEEN_CHARS} */")  # in flight until its rows are fetched, or it is closed
    query_id = session.query_id or ""
    node.until(lambda: pages.queries().by_id(query_id) is not None, _SECONDS)
    found = [pages.queries().by_id(query_id) for _ in range(_COPIES)]
    shown = [query for query in found if query is not None]
    remedy = "give the node's own web address in the configuration, not that of a proxy before several"
    if len(shown) < _COPIES:
        node.proofs.pages_reason = (
            f"{len(shown)} of {_COPIES} copies of /queries show what was run just now: the others are old, or another "
            "coordinator's"
        )
        text = f"not proved: {pages.url}: {node.proofs.pages_reason}"
        yield Finding(f"web pages on {node.address}", "failed", text, remedy)
        return
    if nonce_of(shown[0].text) != label.nonce:
        node.proofs.pages_reason = "they do not show the label of a statement"
        yield node.not_proved("label", f"{pages.url}/queries shows {shown[0].text[:80]!r} (is it redacted?)")
        return
    node.proofs.pages = True
    if version != node.proofs.version:
        yield node.not_proved("web pages", f"they are of version {version}, the coordinator of {node.proofs.version}")
    else:
        text = f"{pages.url} is its own: all of {_COPIES} copies show what was run just now, under its query id"
        yield node.proved("web pages", text)
    yield _label(node, str(label), shown[0].text)


def _label(node: TrialNode, label: str, shown: str) -> Finding:
    """The nonce, which stands first, is what statements are found by; the rest tells people whose it is."""
    cut = f"a longer text is cut at {len(shown)}" if len(shown) < _SEEN_CHARS else "the text is not cut"
    if shown.startswith(label):
        return node.proved("label", f"the longest one, {len(label)} characters, is seen whole; {cut}")
    return node.not_proved("label", f"of {len(label)} characters its nonce is seen, not its end; {cut}")


def _log(node: TrialNode, pages: DebugPages) -> Iterator[Finding]:
    """A witness is a query that is seen among the completed ones, and again later."""
    copy = pages.queries()
    if not copy.completed:
        node.until(lambda: bool(pages.queries().completed), _SECONDS)
        copy = pages.queries()
    if not copy.completed:
        text = f"{pages.url}/queries shows no ended statement (it keeps {copy.kept})"
        yield node.not_proved("witness", text, _LOG_SIZE)
        return
    witness = copy.completed[0].id
    node.proofs.keeps_log = _shows(pages.queries(), witness)
    reach = _reach(copy)
    if node.proofs.keeps_log and reach is not None and reach < WITNESS_SECONDS:
        text = f"the {copy.kept} statements that it keeps reach back {reach:.0f} s only: a statement whose answer is "
        yield node.not_proved(
            "witness", f"{text}lost becomes a question, where it is not looked for at once", _LOG_SIZE
        )
    elif node.proofs.keeps_log:
        kept = f"it keeps {copy.kept}" if copy.kept > 0 else "it keeps all" if copy.kept < 0 else "how many is not said"
        back = "" if reach is None else f", which reach back {reach:.0f} s"
        text = f"an ended statement is seen again on a later copy; {kept} (--query_log_size){back}"
        yield node.proved("witness", text)
    else:
        text = f"an ended statement was gone on the next copy: it keeps {copy.kept}, and others run many"
        yield node.not_proved("witness", text, _LOG_SIZE)


def _reach(copy: Queries) -> float | None:
    """How far a log that is full reaches back, in seconds; None: it is not full, or does not say."""
    ended = [query.ended for query in copy.completed if query.ended is not None]
    if not ended or not 0 < copy.kept <= len(copy.completed):
        return None
    return max(ended) - min(ended)


def _shows(copy: Queries, query_id: str) -> bool:
    return any(query.id == query_id for query in copy.completed)


_FLAGS = (
    "query_log_size",
    "query_stmt_size",
    "disconnected_session_timeout",
    "idle_session_timeout",
    "idle_query_timeout",
)


def _flags(node: TrialNode, pages: DebugPages) -> Finding:
    try:
        flags = pages.flags()
    except ProbeFailed as error:
        return node.not_proved("flags", f"the page /varz does not tell: {error}")
    shown = ", ".join(f"{name} {flags[name]}" for name in _FLAGS if name in flags)
    return Finding(f"flags on {node.address}", "ok", shown or "the page /varz names none that matter here")
