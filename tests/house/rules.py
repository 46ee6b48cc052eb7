"""One function for each rule of the house. ``python -m tests.house.rules`` lists what breaks them,
``python -m tests.house.rules stores/`` what does in ``stores``.

That everything public has a docstring is ruff's rule (``D1`` in pyproject.toml). The rest ruff cannot do: its ``D417``
and ``DOC`` know Google's and numpy's docstrings only, its ``PLR0913`` counts no ``*arguments`` and knows no public API.
"""

from __future__ import annotations

import ast
import collections
import fnmatch
import itertools
import re
import sys
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass

from tests.house.architecture import BEGIN, DOCUMENT, PLAN, ROOT, Plan, block_of, outside, picture, within
from tests.house.source_tree import Defined, SourceTree, circles, decorators, parameters

MOST_LINES = 500
"""Of a file. One concept with one owner; more is two concepts."""
MOST_FILES = 12
"""In a folder, beside its ``__init__.py``."""
MOST_PARAMETERS = 6
"""Of a function. More is a struct that wants to be born."""
LEAST_LINES = 5
"""Of the docstring of a folder: what it knows, what it may import, in which order to read its files."""

PUBLIC_API = (
    "errors.py",
    "balancer.py:Balancer",
    "hooks/impala_lb.py:ImpalaLBHook",
    "operators/",
    "triggers/",  # their arguments lie in Airflow's database
    "sandbox/cluster.py:Sandbox",
)
"""Beginnings of ``file:name``: what users call, with as many parameters as it has."""

EXCEPTIONS: Mapping[str, Mapping[str, str]] = {
    "files of a folder": {
        "sandbox/sql": "one file for each part of Impala's dialect; they are read one at a time",
    },
    "folders explained": {
        "__init__.py": "what help() shows to a user; the way through the package is docs/architecture.md",
    },
    "untyped options": {
        "cli/__init__.py:_Parser.__init__": "overrides argparse's, whose parameters change with Python's versions",
        "sandbox/sql/dialect.py:_Parser._parse_types": "overrides sqlglot's, whose parameters change with its versions",
    },
}
"""By rule, what may break it, and why. One that is not needed any more fails too."""


@dataclass(frozen=True)
class Breach:
    """One breach of a rule.

    :ivar where: what breaks it, without a line number: the key in `EXCEPTIONS`
    :ivar text: what to read
    """

    where: str
    text: str


@dataclass(frozen=True)
class House:
    """What the rules are held against.

    :ivar package: the package
    :ivar tests: its tests
    :ivar others: other programs of the repository
    :ivar plan: the floors of the package
    :ivar public: as `PUBLIC_API`
    """

    package: SourceTree
    tests: SourceTree
    others: Sequence[SourceTree] = ()
    plan: Plan = PLAN
    public: Sequence[str] = PUBLIC_API

    def is_public_api(self, function: Defined) -> bool:
        """Whether people's code calls it.

        :param function: of the package
        """
        return f"{function.path}:{function.name}".startswith(tuple(self.public))

    def functions(self) -> Iterator[Defined]:
        """Every function and method of the package."""
        return (each for each in self.package.defined() if not isinstance(each.node, ast.ClassDef))


def upward_arrows(house: House) -> Iterator[Breach]:
    """A file imports only what lies on lower floors, or in its own room."""
    plan = house.plan
    for arrow in house.package.arrows():
        where = f"{arrow.source} -> {arrow.target}"
        source, target = plan.room_of(arrow.source), plan.room_of(arrow.target)
        if source is None or target is None:
            yield Breach(where, f"{arrow}: {arrow.source if source is None else arrow.target} has no floor")
        elif plan.are_apart(arrow.source, arrow.target):
            yield Breach(where, f"{arrow}: {source} and {target} are apart")
        elif source != target and plan.floor_of(source) <= plan.floor_of(target):
            yield Breach(where, f"{arrow}: {source} does not stand on {target}")


def empty_rooms(house: House) -> Iterator[Breach]:
    """Each room of the plan is there."""
    rooms = {house.plan.room_of(path) for path in house.package.modules}
    for room in (room for floor in house.plan.floors for room in floor):
        if room not in rooms:
            yield Breach(room, f"{room} has a floor, and is not there")


def circles_of_files(house: House) -> Iterator[Breach]:
    """No file imports, over however many others, itself."""
    edges = collections.defaultdict(set)
    for arrow in house.package.arrows():
        edges[arrow.source].add(arrow.target)
    for circle in circles(edges):
        yield Breach(" <-> ".join(circle), " <-> ".join(circle))


def circles_of_folders(house: House) -> Iterator[Breach]:
    """No folder either. A file beside folders, as in the package's root, counts as a folder of its own."""
    paths = list(house.package.modules)
    folders = {path.rpartition("/")[0] for path in paths}

    def unit(path: str) -> str:
        folder = path.rpartition("/")[0]
        return path if any(within(each, folder) or not folder for each in folders - {folder}) else folder

    edges = collections.defaultdict(set)
    for arrow in house.package.arrows():
        if unit(arrow.source) != unit(arrow.target):
            edges[unit(arrow.source)].add(unit(arrow.target))
    for circle in circles(edges):
        yield Breach(" <-> ".join(circle), " <-> ".join(circle))


def foreign_imports(house: House) -> Iterator[Breach]:
    """A package of others that has its rooms is imported there only."""
    rooms = house.plan.third_party or {}
    for path in house.package.modules:
        for top, line in outside(house.package, path):
            if top in rooms and not any(within(path, room) for room in rooms[top]):
                yield Breach(f"{path} -> {top}", f"{path}:{line} imports {top}")


def crowded_folders(house: House) -> Iterator[Breach]:
    """A folder has at most `MOST_FILES` Python files beside its ``__init__.py``."""
    counts = collections.Counter(
        path.rpartition("/")[0] for path in house.package.modules if not path.endswith("__init__.py")
    )
    for folder, count in sorted(counts.items()):
        if count > MOST_FILES:
            yield Breach(folder, f"{folder} has {count} files")


def long_files(house: House) -> Iterator[Breach]:
    """A file of the package, of the tests or of another program has at most `MOST_LINES` lines."""
    for tree in (house.package, house.tests, *house.others):
        for path, text in tree.texts.items():
            lines = text.count("\n")
            if lines > MOST_LINES:
                yield Breach(f"{tree.name}/{path}", f"{tree.name}/{path} has {lines} lines")


def many_parameters(house: House) -> Iterator[Breach]:
    """A function outside the public API has at most `MOST_PARAMETERS`, ``self`` not counted."""
    for each in house.functions():
        count = len(parameters(each))
        if count > MOST_PARAMETERS and not house.is_public_api(each):
            yield Breach(f"{each.path}:{each.name}", f"{each} has {count} parameters")


def untyped_options(house: House) -> Iterator[Breach]:
    """No ``**options: Any`` is handed down: what goes through several functions is a struct with typed fields.

    Left out are the public API; what is handed to ``super()`` only, as an override of Airflow's or sqlglot's must;
    what is ignored, by a name that begins with an underscore; and functions in functions, which wrap a callable.
    """
    for each in house.functions():
        assert not isinstance(each.node, ast.ClassDef)
        options = each.node.args.kwarg
        if options is None or options.arg.startswith("_") or house.is_public_api(each):
            continue
        in_function = any(not isinstance(outer, ast.ClassDef) for outer in each.inside)
        typed = options.annotation is not None and ast.unparse(options.annotation) not in ("Any", "object")
        if not typed and not in_function and not _goes_to_super_only(each.node, options.arg):
            yield Breach(f"{each.path}:{each.name}", f"{each} takes **{options.arg}: Any")


def _goes_to_super_only(function: ast.AST, name: str) -> bool:
    uses = sum(isinstance(node, ast.Name) and node.id == name for node in ast.walk(function))
    to_super = sum(
        isinstance(node, ast.Call)
        and ast.unparse(node.func).startswith("super().")
        and any(key.arg is None and ast.unparse(key.value) == name for key in node.keywords)
        for node in ast.walk(function)
    )
    return uses == to_super


_SUCH = r"\b(?:[Ee]rrors|[Pp]arameters|[Aa]rguments|[Oo]ptions)\b[^.\n:]* as `"
_REFERENCE = re.compile(rf"(?:^|[.;]\s+)(?:As|See) `|{_SUCH}")
"""An override or an implementation of a protocol: its parameters are explained where the name in backticks is."""
_FIELD = r":(?:param|raises|returns|return|ivar|cvar|rtype|type|yields)\b[^:\n`]*:"
_MISPLACED = re.compile(rf"^[^\n]*\S[^\n]*?(?<!`){_FIELD}(?!`)", re.MULTILINE)


def unexplained_parameters(house: House) -> Iterator[Breach]:
    """The docstring of what is public names each parameter by ``:param x:`` at the start of a line.

    A class explains those of its ``__init__`` in either docstring. "As `Store.update`." explains all: see `_REFERENCE`.
    "Parameters as `Iface`." in a class explains those of all its methods.
    """
    by_name = {(each.path, each.name): each for each in house.package.defined()}
    for each in house.package.defined():
        if not each.is_public or "setter" in decorators(each.node):
            continue
        function, texts = each, [ast.get_docstring(each.node) or ""]
        if isinstance(each.node, ast.ClassDef):
            maker = by_name.get((each.path, f"{each.name}.__init__"))
            if maker is None:
                continue
            function = maker
            texts.append(ast.get_docstring(maker.node) or "")
        text = "\n".join(texts)
        missing = [
            name
            for name in (each.arg for each in parameters(function) if not each.arg.startswith("_"))
            if not re.search(rf"^\s*:param (?:\\?\*)*{name}:", text, re.MULTILINE)
        ]
        around = ast.get_docstring(each.inside[-1]) if each.inside else None
        if missing and not _REFERENCE.search(text) and not re.search(_SUCH, around or ""):
            yield Breach(f"{each.path}:{each.name}", f"{each}: {', '.join(missing)}")


def unexplained_attributes(house: House) -> Iterator[Breach]:
    """The docstring of a public struct names each public field by ``:ivar x:`` at the start of a line.

    A string below the field does as well. Structs are dataclasses, and what derives from `_STRUCTS`.
    """
    for each in house.package.defined():
        if not isinstance(each.node, ast.ClassDef) or not each.is_public or not _is_struct(each.node):
            continue
        text = ast.get_docstring(each.node) or ""
        missing = [
            field.target.id
            for field, below in itertools.zip_longest(each.node.body, each.node.body[1:])
            if isinstance(field, ast.AnnAssign) and isinstance(field.target, ast.Name)
            if not field.target.id.startswith("_") and not _is_text(below)
            if not re.search(rf"^\s*:(?:ivar|param|cvar) {field.target.id}:", text, re.MULTILINE)
        ]
        if missing:
            yield Breach(f"{each.path}:{each.name}", f"{each}: {', '.join(missing)}")


_STRUCTS = ("NamedTuple", "TypedDict", "Struct", "Record")


def _is_struct(node: ast.ClassDef) -> bool:
    bases = {ast.unparse(base).rpartition(".")[2] for base in node.bases}
    return "dataclass" in decorators(node) or not bases.isdisjoint(_STRUCTS)


def _is_text(node: ast.AST | None) -> bool:
    return isinstance(node, ast.Expr) and isinstance(node.value, ast.Constant) and isinstance(node.value.value, str)


def unexplained_folders(house: House) -> Iterator[Breach]:
    """Each folder's ``__init__.py`` says what it is in `LEAST_LINES` or more, and names each file and folder in it.

    ``ddl_*`` names several.
    """
    entries: dict[str, set[str]] = {}
    for path in house.package.modules:
        *folders, file = path.removesuffix(".py").split("/")
        for depth, name in enumerate([*folders, file]):
            entries.setdefault("/".join(folders[:depth]), set()).add(name)
    for folder, names in entries.items():
        path = f"{folder}/__init__.py" if folder else "__init__.py"
        module = house.package.modules.get(path)
        text = (ast.get_docstring(module) if module else None) or ""
        words = set(re.findall(r"\w[\w*]*", text))
        missing = [
            name
            for name in sorted(names)
            if not name.startswith("__") and not any(fnmatch.fnmatch(name, word) for word in words)
        ]
        if missing:
            yield Breach(path, f"{path} does not name {', '.join(missing)}")
        elif text.count("\n") + 1 < LEAST_LINES:
            yield Breach(path, f"{path} has a docstring of {len(text.splitlines())} lines")


def misplaced_fields(house: House) -> Iterator[Breach]:
    """Each field of a docstring begins a line, in tests too: no two on one, none within a sentence."""
    for tree in (house.package, house.tests, *house.others):
        texts = [(path, path, ast.get_docstring(module)) for path, module in tree.modules.items()]
        texts += [(f"{each.path}:{each.name}", str(each), ast.get_docstring(each.node)) for each in tree.defined()]
        for where, shown, text in texts:
            for match in _MISPLACED.finditer(text or ""):
                yield Breach(f"{tree.name}/{where}", f"{tree.name}/{shown}: {match[0].strip()}")


def imports_of_tests(house: House) -> Iterator[Breach]:
    """Nothing is imported out of a test module or a conftest: what several tests use lies beside them or in support."""
    for arrow in house.tests.arrows():
        stem = arrow.target.rpartition("/")[2]
        if stem == "conftest.py" or stem.startswith("test_"):
            yield Breach(f"{arrow.source} -> {arrow.target}", str(arrow))


def stale_picture(house: House) -> Iterator[Breach]:
    """The floors in docs/architecture.md are those of the code."""
    text = DOCUMENT.read_text(encoding="utf-8") if DOCUMENT.exists() else ""
    if BEGIN not in text or block_of(text) != picture(house.package, house.plan):
        yield Breach(DOCUMENT.name, f"docs/{DOCUMENT.name} is not what `make architecture` writes")


RULES: Mapping[str, Callable[[House], Iterator[Breach]]] = {
    "floors": upward_arrows,
    "rooms": empty_rooms,
    "circles of files": circles_of_files,
    "circles of folders": circles_of_folders,
    "packages of others": foreign_imports,
    "files of a folder": crowded_folders,
    "lines of a file": long_files,
    "parameters of a function": many_parameters,
    "untyped options": untyped_options,
    "parameters explained": unexplained_parameters,
    "attributes explained": unexplained_attributes,
    "folders explained": unexplained_folders,
    "one field on a line": misplaced_fields,
    "imports of tests": imports_of_tests,
    "picture of the floors": stale_picture,
}
"""By name, as in `EXCEPTIONS`."""


def breaches(rule: str, house: House, exceptions: Mapping[str, Mapping[str, str]] = EXCEPTIONS) -> list[str]:
    """What breaks a rule, and which exceptions from it nobody needs any more; each as a line to read.

    :param rule: one of `RULES`
    :param house: what is looked at
    :param exceptions: as `EXCEPTIONS`
    """
    allowed = exceptions.get(rule, {})
    found = list(RULES[rule](house))
    unneeded = sorted(allowed.keys() - {breach.where for breach in found})
    return [
        *dict.fromkeys(breach.text for breach in found if breach.where not in allowed),
        *(f"{where} needs no exception any more" for where in unneeded),
    ]


def this_house() -> House:
    """The repository that this file is in."""
    return House(
        package=SourceTree(ROOT / "airflow_provider_impala_lb"),
        tests=SourceTree(ROOT / "tests"),
        others=[SourceTree(ROOT / name) for name in ("benchmarks", "example_dags")],
    )


def main() -> None:
    """Print each rule, how often it is broken, and where; with an argument, only what has that in its line."""
    house, wanted = this_house(), "".join(sys.argv[1:])
    for rule in RULES:
        found = [line for line in breaches(rule, house) if wanted in line]
        print(f"\n{rule}: {len(found)}", *found, sep="\n  ")


if __name__ == "__main__":
    main()
