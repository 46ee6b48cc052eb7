"""The rules of the house hold: what imports what, and how long, wide and documented it is. And each rule can be broken.

`python -m tests.house.rules` lists all that breaks one.
"""

from __future__ import annotations

import functools
import textwrap

import pytest

from tests.house import architecture
from tests.house.architecture import Plan
from tests.house.rules import EXCEPTIONS, RULES, House, breaches, this_house
from tests.house.source_tree import SourceTree, circles


@functools.cache
def the_house():
    return this_house()


@pytest.mark.parametrize("rule", RULES)
def test_the_house_keeps(rule):
    found = breaches(rule, the_house())
    assert not found, "\n  ".join([rule, *found])


def test_exceptions_are_of_rules_that_there_are():
    assert {*EXCEPTIONS} <= {*RULES}
    assert all(reason for each in EXCEPTIONS.values() for reason in each.values())


PLAN = Plan(
    floors=(("errors.py",), ("core/low",), ("core/high",), ("left", "right"), ("main.py",)),
    wings=("left", "right"),
    apart=(("right", "core/low"),),
    third_party={"redis": ("left",)},
)


@pytest.fixture
def found(tmp_path):
    """Breaches of one rule in a package ``house`` of the given files, and in tests of the given files."""

    def breaches_in(rule, files, tests=(), exceptions=(), plan=PLAN):
        trees = []
        for name, texts in (("house", files), ("tests", tests)):
            (tmp_path / name).mkdir()
            for path, text in dict(texts).items():
                target = tmp_path / name / path
                target.parent.mkdir(parents=True, exist_ok=True)
                target.write_text(textwrap.dedent(text))
            trees.append(SourceTree(tmp_path / name))
        house = House(*trees, plan=plan, public=("main.py:Api",))
        return breaches(rule, house, {rule: dict(exceptions)})

    return breaches_in


ROOMS = {"errors.py": "", "core/low/a.py": "", "core/high/b.py": "", "left/c.py": "", "right/d.py": "", "main.py": ""}


@pytest.mark.parametrize(
    ("path", "text", "arrow"),
    [
        ("core/low/a.py", "import house.core.high.b", "core/low/a.py:1 -> core/high/b.py: core/low does not stand on"),
        ("core/low/a.py", "from house.core.high import b", "core/low/a.py:1 -> core/high/b.py"),
        ("core/low/a.py", "from house.core.high.b import f", "core/low/a.py:1 -> core/high/b.py"),
        ("core/low/a.py", "from ..high import b", "core/low/a.py:1 -> core/high/b.py"),
        ("core/low/a.py", "from ..high.b import f", "core/low/a.py:1 -> core/high/b.py"),
        ("core/low/a.py", "def f():\n    from house import main", "core/low/a.py:2 -> main.py"),
        ("core/low/a.py", "if TYPE_CHECKING:\n    from house.main import Main", "core/low/a.py:2 -> main.py"),
        ("core/low/a.py", "importlib.import_module('house.main')", "core/low/a.py:1 -> main.py"),
        ("left/c.py", "from house.right.d import f", "left and right are apart"),
        ("right/d.py", "from house.core.low.a import f", "right and core/low are apart"),
        ("errors.py", "from house.core.low import a", "errors.py does not stand on core/low"),
        ("core/other.py", "import house.errors", "core/other.py has no floor"),
        ("errors.py", "import house.core.other", "core/other.py has no floor"),
    ],
)
def test_an_upward_arrow_is_found(found, path, text, arrow):
    breach = found("floors", {**ROOMS, "core/other.py": "", path: text})
    assert len(breach) == 1
    assert arrow in breach[0]


def test_downward_arrows_and_those_of_a_room_are_none(found):
    files = {
        "main.py": "import house.errors\nfrom house.left import c\nfrom house.right.d import f",
        "left/c.py": "from house.core.low.a import f\nfrom house.left import other\nimport redis",
        "left/other.py": "from house.errors import E",
        "core/__init__.py": "",
    }
    assert found("floors", ROOMS | files) == []


def test_a_room_that_is_not_there_is_found(found):
    assert found("rooms", {path: "" for path in ROOMS if path != "left/c.py"}) == ["left has a floor, and is not there"]


def test_circles_are_found(found):
    files = {
        "left/c.py": "from house.left import e",
        "left/e.py": "def f():\n    from house.left.g import h",
        "left/g.py": "if TYPE_CHECKING:\n    from house.left.c import C",
        "left/x.py": "from house.left import c",
    }
    assert found("circles of files", ROOMS | files) == ["left/c.py <-> left/e.py <-> left/g.py"]


def test_circles_of_folders_are_found_where_no_file_is_in_one(found):
    files = {"left/c.py": "from house.right import d", "right/e.py": "from house.left import f", "left/f.py": ""}
    assert found("circles of folders", ROOMS | files) == ["left <-> right"]


def test_files_beside_folders_are_no_folder(found):
    assert (
        found("circles of folders", ROOMS | {"main.py": "import house.left.c", "left/c.py": "import house.errors"})
        == []
    )


def test_circles_in_a_graph():
    assert circles({"a": ["b"], "b": ["c"], "c": ["b", "d"], "d": ["a"], "e": ["a", "e"]}) == [["a", "b", "c", "d"]]
    assert circles({"a": ["b", "c"], "b": ["d"], "c": ["d"]}) == []


def test_a_package_of_others_outside_its_rooms_is_found(found):
    assert found("packages of others", ROOMS | {"main.py": "\ndef f():\n    from redis.client import Redis"}) == [
        "main.py:3 imports redis"
    ]


def test_a_crowded_folder_is_found(found):
    files = {f"left/f{number}.py": "" for number in range(13)}
    assert found("files of a folder", files | {"left/__init__.py": "", "right/a.py": ""}) == ["left has 13 files"]


def test_a_long_file_is_found_in_package_and_tests(found):
    files = {"left/c.py": "\n" * 501, "left/d.py": "\n" * 500}
    assert found("lines of a file", files, {"test_c.py": "\n" * 501}) == [
        "house/left/c.py has 501 lines",
        "tests/test_c.py has 501 lines",
    ]


PARAMETERS = """
class Api:
    def wide(self, a, b, c, d, e, f, g): ...

class Other:
    @overload
    def fits(self, a, b, c, d, e, f, g): ...
    def fits(self, a, b, /, c, *, d, **e): ...
    @classmethod
    def fits_too(cls, a, b, c, d, e, f): ...
    @staticmethod
    def not_static(a, b, c, d, e, f, g): ...
    async def not_here(self, a, b, c, d, *e, f, **g): ...

def not_there():
    def nor_inside(a, b, c, d, e, f, g): ...
"""


def test_many_parameters_are_found(found):
    assert found("parameters of a function", {"main.py": PARAMETERS}) == [
        "main.py:12 Other.not_static has 7 parameters",
        "main.py:13 Other.not_here has 7 parameters",
        "main.py:16 not_there.nor_inside has 7 parameters",
    ]


OPTIONS = """
class Api:
    def public(self, **options: Any):
        f(**options)

class Other:
    def override(self, **named: Any):
        return super().override(**named)
    def ignored(self, **_: Any): ...
    def typed(self, **each: int): ...
    def handed_down(self, **options: Any):
        f(**options)
    def looked_into(self, **options: object):
        return super().looked_into(**options) or options["a"]

def untyped(**options):
    def wrapper(**arguments: Any):
        return options["f"](**arguments)
"""


def test_untyped_options_are_found(found):
    assert found("untyped options", {"main.py": OPTIONS}) == [
        "main.py:11 Other.handed_down takes **options: Any",
        "main.py:13 Other.looked_into takes **options: Any",
        "main.py:16 untyped takes **options: Any",
    ]


EXPLAINED = '''
def good(a, *b, **c):
    """Summary.

    :param a: x, which is explained
        on two lines
    :param b: y
    :param c: z
    """

def none(): ...

def reference(a):
    """As `Store.update`."""

def errors(a):
    """Do it. Errors as `good`."""

def no_reference(a):
    """Do it.

    :raises E: as `good`
    """

def _private(a): ...

class _Private:
    def method(self, a): ...

class Good:
    """Class.

    :param a: x
    """
    def __init__(self, a, b):
        """:param b: y"""
        def inner(c): ...
    @property
    def e(self):
        """E."""
    @e.setter
    def e(self, value): ...

class Bad:
    """Class."""
    def __init__(self, a): ...
    def method(self, a, b):
        """As good as none; `b` is explained in the sentence, a as `good`.

        :param a: x :param b: y
        """

def nothing(a): ...

class Implementation:
    """Implementation. Parameters as `Iface`."""
    def method(self, a): ...

def see(a):
    """See `Store.update`."""

def another_name(a):
    """
    :param ab: x
    """
'''


def test_unexplained_parameters_are_found(found):
    assert found("parameters explained", {"main.py": EXPLAINED, "_private.py": "def f(a): ..."}) == [
        "main.py:19 no_reference: a",
        "main.py:44 Bad: a",
        "main.py:47 Bad.method: b",
        "main.py:53 nothing: a",
        "main.py:62 another_name: a",
    ]


STRUCTS = '''
class Plain:
    a: int

@dataclass(frozen=True)
class Data:
    """Data.

    :ivar a: x
    """
    a: int
    b: int
    _c: int
    d: int = 0
    """Y."""

class Named(typing.NamedTuple):
    """Named: a."""
    a: int

class _Private(NamedTuple):
    a: int
'''


def test_unexplained_attributes_are_found(found):
    assert found("attributes explained", {"main.py": STRUCTS}) == ["main.py:6 Data: b", "main.py:17 Named: a"]


def test_unexplained_folders_are_found(found):
    files = {
        "__init__.py": '"""House.\n\nFirst good, then bad,\nshort and\nnothing."""',
        "good/__init__.py": '"""Good.\n\nRead a.py, then ``ab_*``.\n\nImports nothing."""',
        "bad/__init__.py": '"""Bad.\n\n* Read a, not abc.\n\nImports nothing."""',
        "short/__init__.py": '"""Short: a, ab_c and ab_d."""',
        "nothing/__init__.py": "",
        **{f"{folder}/{name}.py": "" for folder in ("good", "bad", "short") for name in ("a", "ab_c", "ab_d")},
    }
    assert found("folders explained", files) == [
        "bad/__init__.py does not name ab_c, ab_d",
        "nothing/__init__.py has a docstring of 0 lines",
        "short/__init__.py has a docstring of 1 lines",
    ]


FIELDS = '''"""Module. :ivar x: y"""

class A:
    """A.

    :ivar a: x
    :ivar b: y :ivar c: z
    """

def _f(a, b):
    """F: what ``:param a:`` means.

    :param a: x
        :raises E: y
    :returns: z :raises F: it
    """

def g():
    """G, which :returns: something."""
'''


def test_two_fields_on_a_line_are_found(found):
    assert found("one field on a line", {"main.py": FIELDS}) == [
        "house/main.py: Module. :ivar x:",
        "house/main.py:3 A: :ivar b: y :ivar c:",
        "house/main.py:10 _f: :returns: z :raises F:",
        "house/main.py:18 g: G, which :returns:",
    ]


def test_imports_of_tests_are_found(found):
    tests = {
        "conftest.py": "",
        "test_a.py": "from tests.helper import f\nfrom tests.conftest import g\nfrom .test_b import h",
        "test_b.py": "",
        "helper.py": "def f():\n    from tests import test_b",
    }
    assert found("imports of tests", {}, tests) == [
        "helper.py:2 -> test_b.py",
        "test_a.py:2 -> conftest.py",
        "test_a.py:3 -> test_b.py",
    ]


def test_an_exception_counts_while_it_is_needed(found):
    files = {"left/c.py": "\n" * 501, "left/d.py": ""}
    exceptions = {"house/left/c.py": "because", "house/left/d.py": "no longer"}
    assert found("lines of a file", files, exceptions=exceptions) == ["house/left/d.py needs no exception any more"]


def test_the_picture_shows_each_arrow(found, tmp_path):
    files = {
        "left/__init__.py": '"""The left. Its files: none.\n\nMore."""',
        "left/c.py": "import os, redis\nfrom house.core.low import a\nfrom house import errors",
    }
    assert found("floors", ROOMS | files) == []
    text = architecture.picture(SourceTree(tmp_path / "house"), PLAN)
    assert text.startswith(
        "```text\n 5 | main.py\n 4 | left/ | right/\n 3 | core/high/\n 2 | core/low/\n 1 | errors.py\n```\n"
    )
    assert "| 4 | `left/` | The left | `core/low`, `errors` | `redis` |" in text.splitlines()
    assert "| 1 | `errors.py` |  |  |  |" in text.splitlines()


def test_the_picture_replaces_what_is_between_the_marks():
    text = architecture.with_block("# Title\n\nBefore.\n\n", "one\n")
    assert architecture.block_of(text) == "one\n"
    again = architecture.with_block(text + "\nAfter.\n", "two\n")
    assert again.startswith("# Title\n\nBefore.\n\n") and again.endswith("\nAfter.\n")
    assert architecture.block_of(again) == "two\n"
    assert architecture.with_block(again, "two\n") == again
    with pytest.raises(ValueError):
        architecture.block_of("# Title\n")
