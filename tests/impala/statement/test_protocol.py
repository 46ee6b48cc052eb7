"""What may be done about a statement: every way that a model of Impala can go, and each known mistake found in it."""

from __future__ import annotations

from collections.abc import Callable

import pytest
from msgspec.structs import replace

from airflow_provider_impala_lb.impala.sql.classification import classify
from airflow_provider_impala_lb.impala.statement.protocol import Action, Evidence, StatementRecord, decide
from airflow_provider_impala_lb.impala.statement.protocol import failure_of as real_failure_of
from tests.support.explorer import explore, needless_questions, stuck
from tests.support.protocol_model import Model, Site

Break = Callable[[StatementRecord, Evidence], Action]
INSERT = classify("INSERT INTO t SELECT 1")


def believes(**page: object) -> Break:
    """Takes this for seen on any copy of the page."""

    def broken(record: StatementRecord, evidence: Evidence) -> Action:
        if evidence.page is not None:
            evidence = replace(evidence, page=replace(evidence.page, **page), same_process=True)
        return decide(replace(record, witness=True) if page.get("witness") else record, evidence)

    return broken


def instead(found: Action, says: Action, when: Callable[[StatementRecord, Evidence], bool] = lambda *_: True) -> Break:
    """Says something else."""

    def broken(record: StatementRecord, evidence: Evidence) -> Action:
        action = decide(record, evidence)
        return says if action == found and when(record, evidence) else action

    return broken


def drops_the_doubt(record: StatementRecord, evidence: Evidence) -> Action:
    """As if nothing had been sent."""
    changed = record.state != "pending" and evidence == Evidence(
        can_ask=evidence.can_ask, can_close=evidence.can_close, can_look=evidence.can_look, page_of=evidence.page_of
    )
    return "send" if changed and not record.statement.changes_nothing else decide(record, evidence)


def waits_for_its_end(record: StatementRecord, evidence: Evidence) -> Action:
    """For what it has seen on the page, however often that does not show it any more."""
    action = decide(record, evidence)
    return "look up" if record.state == "registered" and action in ("close", "ended", "ask") else action


NEWEST, WITHOUT_PAGES = Site(), Site(pages=False)
BREAKS: dict[str, tuple[Break, Site, str]] = {
    "what is not on the page never arrived, if some old record is": (
        believes(witness=True), Site(version="4.5"), "sent again"),
    "what is not on the page never arrived, whenever its copy was made": (
        believes(marker=True), Site(version="4.5"), "landed"),
    "any page is the right one": (believes(marker=True), Site(records=False, version="4.5"), "landed afterwards"),
    "an attempt whose session could not be closed is over": (
        instead("ask", "ended", lambda _, seen: not seen.can_close), WITHOUT_PAGES, "landed afterwards"),
    "what was sent and not answered is over when its session is closed": (
        instead("look up", "ended", lambda _, seen: seen.closed), NEWEST, "landed afterwards"),
    "an unknown handle has ended": (
        instead("look up", "ended", lambda _, seen: seen.handle == "unknown"), NEWEST, "landed afterwards"),
    "a close that finds no statement has ended it": (
        lambda record, seen: decide(record, replace(seen, released=seen.released or seen.handle == "unknown")),
        NEWEST, "landed afterwards"),
    "an error of a cancelled statement is its end": (
        lambda record, seen: decide(record, replace(seen, handle="failed") if seen.handle == "cancelled" else seen),
        WITHOUT_PAGES, "landed afterwards"),
    "a doubt is dropped when the script has changed": (drops_the_doubt, NEWEST, "sent again"),
    "nothing was run, since the node is not in the list any more": (
        instead("ask", "failed"), WITHOUT_PAGES, "changing nothing"),
    "an inherited session is closed": (
        lambda record, seen: believes(marker=True)(record, replace(seen, closed=True)), Site(version="4.5"), "landed"),
    "without a page nobody need look": (
        instead("ask", "ended"), Site(pages=False, records=False), "landed afterwards"),
    "it has ended by now": (
        instead("ask", "ended", lambda _, seen: not seen.can_look), NEWEST, "landed afterwards"),
    "a statement is done when it was seen in flight": (
        instead("wait", "go on", lambda _, seen: seen.page is not None), NEWEST, "reported as done"),
    "the oldest version's page shows all": (
        lambda record, seen: decide(record, replace(seen, page_of="4")), Site(version="3.4"), "landed afterwards"),
    "another process of the coordinator tells, too": (
        lambda record, seen: decide(record, replace(seen, same_process=seen.page is not None and seen.page.marker)),
        Site(version="4.5"), "landed"),
}  # fmt: skip
MISREADINGS: dict[str, tuple[Callable[..., str], Site, str]] = {
    "CREATE TABLE AS is one step": (
        lambda text, record, **_: real_failure_of(text, replace(record, statement=classify("CREATE TABLE t (a INT)"))),
        Site("ctas"), "reported as"),
    "what exists already was there before": (
        lambda text, record, **more: "nothing" if "AlreadyExists" in text else real_failure_of(text, record, **more),
        Site("ddl"), "changing nothing"),
    "a call to the catalog service that failed was not made": (
        lambda text, record, **more: "nothing" if "RPC Error" in text else real_failure_of(text, record, **more),
        Site("ddl"), "changing nothing"),
    "a call to the catalog service that failed has ended": (
        lambda text, record, **more: "maybe" if "RPC Error" in text else real_failure_of(text, record, **more),
        Site("ddl"), "landed afterwards"),
    "whatever is archived has ended": (
        lambda text, record, archived=None: real_failure_of(text, record, archived=archived and "4"),
        NEWEST, "landed afterwards"),
}  # fmt: skip


@pytest.mark.parametrize("name", BREAKS)
def test_each_known_mistake_is_found(name):
    rule, site, says = BREAKS[name]
    found = explore(Model(site, rule))
    assert says in found.problem, "\n".join(found.path)


@pytest.mark.parametrize("name", MISREADINGS)
def test_each_known_misreading_of_an_error_is_found(name):
    read, site, says = MISREADINGS[name]
    found = explore(Model(site, failure_of=read))
    assert says in found.problem, "\n".join(found.path)


def test_what_is_assumed_of_the_log_is_needed():
    found = explore(Model(Site(keeps_calls=False)))
    assert "landed afterwards" in found.problem, "\n".join(found.path)


def test_a_handle_proves_nothing_before_it_was_asked():
    """It may be answered of a statement that was killed, and archived, before anybody waited for its threads."""
    found = explore(Model(Site(asks_first=False)))
    assert "landed afterwards" in found.problem, "\n".join(found.path)


def test_to_close_by_a_handle_that_was_made_of_an_id_proves_nothing():
    """The statement may be at work in the call that sent it, and nobody's close waits for that."""
    found = explore(Model(Site(closes_any=True)))
    assert "landed afterwards" in found.problem, "\n".join(found.path)


@pytest.mark.slow
def test_a_wait_without_an_end_is_found():
    model = Model(Site(version="4.5", secret=False), waits_for_its_end)
    explored = explore(model)
    assert not explored.problem
    assert stuck(model, explored)


@pytest.mark.slow
def test_a_needless_question_is_found():
    model = Model(Site(version="4.5", secret=False, records=False), instead("go on", "ask"))
    explored = explore(model)
    assert not explored.problem
    assert list(needless_questions(model, explored))


FEW = [Site(kind, pages=False, secret=secret) for kind in ("dml", "ctas", "query") for secret in (True, False)]
MANY = [
    Site(kind, pages, secret, records, version)
    for version in ("3.4", "4.0", "4.5", "5.0")
    for kind in ("dml", "repeatable", "ddl", "ctas", "query", "session")
    for pages in (True, False)
    for secret in (True, False)
    for records in (True, False)
]
SOME = [site for site in MANY if site.kind in ("dml", "ctas") and site.version in ("4.5", "5.0") and site.secret]


def look(site: Site) -> None:
    model = Model(site)
    explored = explore(model)
    assert not explored.problem, "\n".join([explored.problem, *explored.path])
    assert stuck(model, explored) is None
    assert not list(needless_questions(model, explored))
    print(f"{site}: {len(explored.reached)} worlds, {explored.steps} steps")


@pytest.mark.parametrize("site", FEW, ids=str)
def test_nothing_twice_nothing_lost_and_no_false_word(site):
    look(site)


@pytest.mark.slow
@pytest.mark.parametrize("site", SOME, ids=str)
def test_nothing_twice_nothing_lost_and_no_false_word_with_pages(site):
    look(site)


@pytest.mark.long
@pytest.mark.parametrize("site", MANY, ids=str)
def test_nothing_twice_nothing_lost_and_no_false_word_anywhere(site):
    look(site)
