"""The protocol of a statement as a picture in docs/protocol.md, made from the code.

The real `decide` is asked over its whole domain. A field that it does not look at makes no difference, so it is not
tried value by value: the question is put with nothing known, and each field that the rule asks for is answered by each
of its values in turn. What comes of that is a tree with `decide`'s own answers at its ends, drawn with what is the same
under several values drawn once. ``make protocol`` writes it, `tests/impala/statement/test_protocol_picture.py` fails if
the page is not what the code gives.

The picture is text, as that of the floors (`tests.house.architecture`), and for the same reasons.
"""

from __future__ import annotations

import itertools
import typing
from collections import Counter, defaultdict
from collections.abc import Callable, Iterator, Mapping
from typing import Any, NamedTuple

from airflow_provider_impala_lb.impala.statement import protocol
from airflow_provider_impala_lb.impala.statement.protocol import Action, decide
from tests.house.architecture import ROOT, with_block

DOCUMENT = ROOT / "docs" / "protocol.md"
MARKS = "<!-- The machine: written by `make protocol`. -->", "<!-- The machine ends here. -->"

_YES = (True, False)
KINDS: dict[str, tuple[bool, bool]] = {
    "changes something": (False, False),
    "USE or SET": (True, True),
    "reads": (True, False),
}
"""What a statement is: ``changes_nothing``, ``session_only``."""
DOMAIN: dict[str, tuple[Any, ...]] = {
    "kind": tuple(KINDS),
    "state": typing.get_args(protocol.State),
    "record.witness": _YES,
    "record.repeated": _YES,
    "superseded": _YES,
    "refused": (None, *typing.get_args(protocol.Failure)),
    "handle": typing.get_args(protocol.Handle),
    "failure": typing.get_args(protocol.Failure),
    "released": _YES,
    "closed": _YES,
    "same_process": _YES,
    "page": ("none", *typing.get_args(protocol.Found)),
    "page.failure": typing.get_args(protocol.Failure),
    "page.marker": _YES,
    "page.witness": _YES,
    "page_of": typing.get_args(protocol.PageOf),
    "can_ask": _YES,
    "can_close": _YES,
    "can_look": _YES,
    "answer": ("", "ran", "not-run"),
}
"""Each thing that the rule may ask for, and what it may be told. ``page``: what it shows, or that there is none."""
_WORDS = {
    "kind": "statement",
    "refused": "error in place of a handle",
    "failure": "it has changed",
    "page.failure": "it has changed",
    "page_of": "Impala",
    "answer": "the author's word",
}
"""How the picture says a name, if otherwise."""
_YES_AND_NO = {
    "record.witness": ("witness seen before", "no witness seen before"),
    "superseded": ("superseded", "not superseded"),
    "released": ("CloseOperation has succeeded", "no CloseOperation"),
    "closed": ("session closed", "session not closed"),
    "same_process": ("same process", "perhaps another process"),
    "page.marker": ("marker", "no marker"),
    "page.witness": ("witness on the page", "witness not on the page"),
    "can_ask": ("handle known", "handle not known"),
    "can_close": ("session can be closed", "session cannot be closed"),
    "can_look": ("page can be asked", "page cannot be asked"),
}
"""How it says a name that is true or false."""


class _Asked(Exception):
    """The rule wants to know something that was not chosen yet.

    :param name: in `DOMAIN`.
    """

    def __init__(self, name: str) -> None:
        super().__init__(name)
        self.name = name


class _Situation:
    """Stands for record, evidence, statement or page: tells what was chosen, or asks for it.

    :param known: what was chosen, by its name in `DOMAIN`.
    :param prefix: of the names; default none.
    """

    def __init__(self, known: Mapping[str, Any], prefix: str = "") -> None:
        self._known, self._prefix = known, prefix

    def _tell(self, name: str) -> Any:
        if name not in self._known:
            raise _Asked(name)
        return self._known[name]

    def __getattr__(self, name: str) -> Any:
        match self._prefix, name:
            case "record.", "statement":
                return _Situation(self._known, "statement.")
            case "record.", "state":
                return self._tell("state")
            case "statement.", "changes_nothing" | "session_only":
                return KINDS[self._tell("kind")][name == "session_only"]
            case "", "page":
                return None if self._tell("page") == "none" else _Situation(self._known, "page.")
            case "page.", "found":
                return self._tell("page")
        if self._prefix + name not in DOMAIN:
            raise AttributeError(f"{self._prefix}{name} is not in the picture: add it to DOMAIN")
        return self._tell(self._prefix + name)


class Branch(NamedTuple):
    """What the rule looks at next.

    :ivar name: in `DOMAIN`.
    :ivar ways: what follows, by all values that lead to the same.
    """

    name: str
    ways: tuple[tuple[tuple[Any, ...], Branch | Action], ...]


Tree = Branch | Action


def tree_of(rule: Callable[[Any, Any], Action] = decide, known: Mapping[str, Any] | None = None) -> Tree:
    """What the rule answers, over its whole domain.

    :param rule: asked; default the real one.
    :param known: what is chosen already; default nothing.
    """
    known = known or {}
    try:
        return rule(_Situation(known, "record."), _Situation(known))
    except _Asked as asked:
        ways: dict[Tree, list[Any]] = defaultdict(list)
        for value in DOMAIN[asked.name]:
            ways[tree_of(rule, {**known, asked.name: value})].append(value)
        if len(ways) == 1:
            return next(iter(ways))
        return Branch(asked.name, tuple((tuple(values), tree) for tree, values in ways.items()))


def ends(
    tree: Tree, known: Mapping[str, tuple[Any, ...]] | None = None
) -> Iterator[tuple[dict[str, tuple[Any, ...]], Action]]:
    """All ends of a tree, each with the values that lead to it.

    :param tree: as of `tree_of`.
    :param known: the values that have led to this tree; default all.
    """
    known = dict(known or {})
    if isinstance(tree, str):
        yield known, tree
        return
    for values, way in tree.ways:
        yield from ends(way, {**known, tree.name: values})


def situations() -> int:
    """How many pairs of record and evidence there are."""
    pages = 1 + (len(DOMAIN["page"]) - 1) * len(DOMAIN["page.failure"]) * 4
    others = (len(values) for name, values in DOMAIN.items() if not name.startswith("page") or name == "page_of")
    product = pages
    for count in others:
        product *= count
    return product


def matrix(tree: Tree) -> str:
    """Which action there may be in which state, as a table.

    :param tree: as of `tree_of`.
    """
    found: dict[tuple[str, str], set[str]] = defaultdict(set)
    for known, action in ends(tree):
        for state, kind in itertools.product(known.get("state", DOMAIN["state"]), known.get("kind", DOMAIN["kind"])):
            found[action, state].add(kind)
    lines = [f"| may follow | {' | '.join(DOMAIN['state'])} |", "| --- " * (1 + len(DOMAIN["state"])) + "|"]
    for action in typing.get_args(Action):
        cells = []
        for state in DOMAIN["state"]:
            kinds = [kind for kind in KINDS if kind in found[action, state]]
            cells.append("each" if len(kinds) == len(KINDS) else ", ".join(kinds) or "-")
        lines.append(f"| *{action}* | {' | '.join(cells)} |")
    return "\n".join(lines)


def drawing(tree: Tree) -> str:
    """The tree as text. What follows from several places is drawn once, under a letter.

    :param tree: as of `tree_of`.
    """
    uses: Counter[Tree] = Counter()
    _count(tree, uses)
    shared = [each for each, times in uses.items() if times > 1 and isinstance(each, Branch) and _size(each) > 2]
    letters = {each: chr(ord("A") + index) for index, each in enumerate(sorted(shared, key=_size, reverse=True))}
    parts = ["\n".join(_lines(tree, letters, ""))]
    for each, letter in letters.items():
        parts.append("\n".join([f"{letter}:", *_lines(each, letters, "  ")]))
    return "\n\n".join(parts)


def _count(tree: Tree, uses: Counter[Tree]) -> None:
    uses[tree] += 1
    if isinstance(tree, Branch) and uses[tree] == 1:
        for _, way in tree.ways:
            _count(way, uses)


def _size(tree: Tree) -> int:
    return 0 if isinstance(tree, str) else sum(1 + _size(way) for _, way in tree.ways)


def _lines(tree: Tree, letters: Mapping[Tree, str], indent: str) -> Iterator[str]:
    assert isinstance(tree, Branch)
    for number, (values, way) in enumerate(sorted(tree.ways, key=lambda each: _size(each[1]))):
        last = number == len(tree.ways) - 1
        head = f"{indent}{'└' if last else '├'} {_condition(tree.name, values)}"
        if isinstance(way, str):
            yield f"{head}: {way.upper()}"
        elif way in letters:
            yield f"{head}: see {letters[way]}"
        else:
            yield head
            yield from _lines(way, letters, f"{indent}{' ' if last else '│'}  ")


def _condition(name: str, values: tuple[Any, ...]) -> str:
    if DOMAIN[name] == _YES:
        return _YES_AND_NO[name][values == (False,)]
    return f"{_WORDS.get(name, name)}: {' | '.join(str(each or 'none') for each in values)}"


def picture() -> str:
    """The block of the page."""
    tree = tree_of()
    count = sum(1 for _ in ends(tree))
    return (
        f"`decide` was asked over all {situations():,} pairs of record and evidence; {count} cases are told apart.\n\n"
        f"{matrix(tree)}\n\n"
        f"```text\n{drawing(tree)}\n```\n"
    )


def main() -> None:
    """Write the block in docs/protocol.md anew."""
    DOCUMENT.write_text(with_block(DOCUMENT.read_text(encoding="utf-8"), picture(), MARKS), encoding="utf-8")


if __name__ == "__main__":
    main()
