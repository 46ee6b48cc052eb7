"""docs/protocol.md draws what `decide` answers, and what it says of proofs is so in each of its answers."""

import random
from types import SimpleNamespace

import pytest

from airflow_provider_impala_lb.impala.sql.classification import classify
from airflow_provider_impala_lb.impala.statement.protocol import Evidence, PageCopy, StatementRecord, decide
from tests.house.architecture import block_of
from tests.house.protocol_picture import DOCUMENT, DOMAIN, KINDS, MARKS, Branch, drawing, ends, picture, tree_of
from tests.support.sizes import SEED

STATEMENTS = {"changes something": "INSERT INTO t SELECT 1", "USE or SET": "USE d", "reads": "SELECT 1"}


def test_the_page_is_what_the_code_gives():
    assert block_of(DOCUMENT.read_text(encoding="utf-8"), MARKS) == picture(), "run: make protocol"


def test_all_that_the_rule_may_ask_for_is_in_the_picture():
    names = {"kind", "page_of", *Evidence.__struct_fields__, "state", "record.witness", "record.repeated"}
    names |= {f"page.{name}" for name in PageCopy.__struct_fields__ if name != "found"}
    assert names == {*DOMAIN}
    assert {*StatementRecord.__struct_fields__} == {"statement", "state", "witness", "repeated"}
    for kind, (changes_nothing, session_only) in KINDS.items():
        statement = classify(STATEMENTS[kind])
        assert (statement.changes_nothing, statement.session_only) == (changes_nothing, session_only)


def test_the_tree_is_the_rule():
    """On random records and evidence, made as the package makes them."""
    rng, tree = random.Random(SEED), tree_of()
    for _ in range(20_000):
        chosen = {name: rng.choice(values) for name, values in DOMAIN.items()}
        page = None
        if chosen["page"] != "none":
            shows = {name: chosen[f"page.{name}"] for name in ("failure", "marker", "witness")}
            page = PageCopy(found=chosen["page"], **shows)
        evidence = {name: chosen[name] for name in Evidence.__struct_fields__ if name != "page"}
        record = StatementRecord(
            classify(STATEMENTS[chosen["kind"]]),
            chosen["state"],
            chosen["record.witness"],
            chosen["record.repeated"],
        )
        at = tree
        while isinstance(at, Branch):
            at = next(way for values, way in at.ways if chosen[at.name] in values)
        assert decide(record, Evidence(page=page, **evidence)) == at, chosen


@pytest.mark.parametrize("changes", [{"closed": True}, {"released": True}, {"superseded": False}])
def test_another_rule_is_another_picture(changes):
    def other(record, evidence):
        return decide(record, Patched(evidence, changes))

    assert drawing(tree_of(other)) != drawing(tree_of())


class Patched:
    """Evidence that says something else here and there."""

    def __init__(self, evidence, changes):
        self._evidence, self._changes = evidence, changes

    def __getattr__(self, name):
        return self._changes[name] if name in self._changes else getattr(self._evidence, name)


def answers(**wanted):
    """The ends of the tree for what changes something, once it was sent, that can have these values, each with what
    else is chosen."""
    for known, action in ends(tree_of()):
        full = SimpleNamespace(**{name.replace(".", "_"): known.get(name, values) for name, values in DOMAIN.items()})
        sent = full.state != ("pending",) and full.superseded != (True,) and "changes something" in full.kind
        if sent and all(value in getattr(full, name) for name, value in wanted.items()):
            yield full, action


def test_what_changes_something_is_sent_again_by_one_proof_only():
    """Or by the author's word."""
    found = [each for each, action in answers() if action == "send" and each.answer != ("not-run",)]
    assert found
    for each in found:
        assert (each.page, each.page_marker, each.page_witness) == (("absent",), (True,), (True,))
        assert (each.closed, each.same_process, each.record_witness) == ((True,), (True,), (True,))
        assert each.state == ("intended",)
        assert "3" not in each.page_of


def test_it_is_done_by_a_handle_or_the_page_or_a_word():
    for each, action in answers():
        if action == "go on" and each.answer != ("ran",):
            said = each.handle == ("finished",) or each.page == ("ok",)
            assert said or ("done",) in (each.failure, each.page_failure, each.refused)


def test_it_is_over_by_a_proof_only():
    for each, action in answers():
        if action not in ("ended", "failed"):
            continue
        told = each.refused != (None,) or each.handle == ("failed",) or each.released == (True,)
        gone = each.page == ("absent",) and (each.page_marker, each.closed, each.same_process) == ((True,),) * 3
        assert told or each.page == ("failed",) or (gone and "3" not in each.page_of)


def test_an_unknown_handle_and_no_page_prove_nothing():
    nothing = {"refused": None, "released": False, "answer": "", "page": "none"}
    for handle in ("unknown", "none", "cancelled"):
        assert {action for _, action in answers(handle=handle, **nothing)} <= {"look up", "close", "ask"}


def test_the_authors_word_counts_where_nothing_tells_more():
    without = {}
    for each, action in answers():
        if each.answer != DOMAIN["answer"]:  # it was asked for
            others = {name: value for name, value in vars(each).items() if name != "answer"}
            without.setdefault(str(others), {})[each.answer] = action
    assert without
    for found in without.values():
        assert found[("",)] in ("ended", "ask")
        assert (found[("ran",)], found[("not-run",)]) == ("go on", "send")


def test_who_is_superseded_does_nothing():
    for known, action in ends(tree_of()):
        assert (action == "stop") is (known.get("superseded") == (True,))
