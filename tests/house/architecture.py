"""The floors of the package: which folder stands on which, and the picture of it in docs/architecture.md.

The order is declared here; what imports what is read from the code. ``make architecture`` writes the picture,
`tests/test_structure.py` fails if it is not what the code gives.

The picture is text: a drawing of the floors, and a table of what each room imports. More than a hundred arrows are a
tangle in any drawing, and Mermaid is rendered on GitHub but in no editor and no terminal. A table is read anywhere, and
a new arrow is one changed line in a diff.
"""

from __future__ import annotations

import ast
import itertools
import pathlib
import re
import sys
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from tests.house.source_tree import SourceTree

ROOT = pathlib.Path(__file__).parents[2]
DOCUMENT = ROOT / "docs" / "architecture.md"
BEGIN = "<!-- The floors: written by `make architecture`. -->"
END = "<!-- The floors end here. -->"


@dataclass(frozen=True)
class Plan:
    """The declared order of a package.

    :ivar floors: the bottom first; the rooms of each are folders or files, relative to the package. A room holds what
        is below its folder, unless that has a room of its own. A room may import rooms of lower floors only; files of
        one room may import each other
    :ivar wings: folders side by side over several floors: none imports another one
    :ivar apart: further pairs of folders that do not import each other, whatever their floors
    :ivar third_party: for a package that is not everybody's, the only rooms and folders that may import it
    """

    floors: Sequence[Sequence[str]]
    wings: Sequence[str] = ()
    apart: Sequence[tuple[str, str]] = ()
    third_party: dict[str, Sequence[str]] | None = None

    def room_of(self, path: str) -> str | None:
        """The room that a file is in.

        :param path: of the file, relative to the package
        :returns: None if no room holds it
        """
        rooms = [room for floor in self.floors for room in floor if within(path, room)]
        return max(rooms, key=len, default=None)

    def floor_of(self, room: str) -> int:
        """Counted from the bottom, which is 0.

        :param room: one of this plan
        """
        return next(number for number, floor in enumerate(self.floors) if room in floor)

    def are_apart(self, source: str, target: str) -> bool:
        """Whether two files may not import each other on any floor.

        :param source: a file, relative to the package
        :param target: another one
        """
        return any(
            (within(source, one) and within(target, other)) or (within(source, other) and within(target, one))
            for one, other in (*self.apart, *itertools.combinations(self.wings, 2))
        )


def within(path: str, folder: str) -> bool:
    """Whether a file lies in a folder, however deep, or is that file.

    :param path: of the file
    :param folder: or a file
    """
    return path == folder or path.startswith(f"{folder}/")


_SHELLS = ("cli", "operators", "triggers", "hooks", "dag_test.py", "get_provider_info.py")

PLAN = Plan(
    floors=(
        ("errors.py", "get_provider_info.py"),
        ("core/text.py", "core/timing.py"),
        ("core/forks.py", "core/stop_request.py"),
        ("core/config",),
        ("core/state",),
        ("core/process_identity.py", "core/ports.py"),
        ("core/rules",),
        ("core/cluster",),
        ("stores/file", "impala/sql", "sandbox/common"),
        ("stores/journals", "impala/web", "impala/statement", "impala/journal", "sandbox/sql"),
        ("stores/redis", "impala/hs2", "sandbox/coordinator"),
        ("stores", "impala/previous", "sandbox/server", "sandbox/web"),
        ("impala/script",),
        ("impala/dbapi.py", "sandbox"),
        ("balancer.py",),
        ("__init__.py",),
        ("doctor",),
        ("hooks",),
        ("triggers",),
        ("operators",),
        ("cli", "dag_test.py"),
    ),
    wings=("stores", "impala", "sandbox"),
    apart=(
        # The practice cluster is a program of its own: only the command line and the test helper start one.
        *(("sandbox", each) for each in ("core", "balancer.py", "__init__.py", "doctor")),
        *(("sandbox", each) for each in _SHELLS if each not in ("cli", "dag_test.py")),
    ),
    third_party={
        "airflow": _SHELLS,
        "cryptography": ("impala/journal",),
        "duckdb": ("sandbox",),
        "httpx": ("impala/web",),
        "impala": ("impala/hs2", "sandbox/common", "sandbox/coordinator", "sandbox/server"),
        "pyarrow": ("impala/script",),
        "pytest": ("dag_test.py", "sandbox/pytest_plugin.py"),
        "redis": ("stores/redis",),
        "rich": ("cli",),
        "sqlglot": ("sandbox/sql",),
        "thrift": ("impala/hs2", "sandbox/common", "sandbox/server"),
        "yaml": ("core/config", "sandbox"),
    },
)
"""The floors of this package."""


def room_arrows(tree: SourceTree, plan: Plan) -> dict[str, set[str]]:
    """For each room, the other rooms that its files import.

    :param tree: the package
    :param plan: its floors
    """
    found: dict[str, set[str]] = {room: set() for floor in plan.floors for room in floor}
    for arrow in tree.arrows():
        source, target = plan.room_of(arrow.source), plan.room_of(arrow.target)
        if source is not None and target is not None and source != target:
            found[source].add(target)
    return found


def outside(tree: SourceTree, path: str) -> list[tuple[str, int]]:
    """What a file imports that is neither of its package nor of Python's library, each with its line.

    :param tree: the package
    :param path: of the file, relative to it
    """
    tops = ((each.name.partition(".")[0], each.line) for each in tree.imports(path))
    return [(top, line) for top, line in tops if top != tree.name and top not in sys.stdlib_module_names]


def picture(tree: SourceTree, plan: Plan = PLAN) -> str:
    """The drawing and the table, as they stand between the marks in docs/architecture.md.

    :param tree: the package
    :param plan: its floors
    """
    return f"{_drawing(plan)}\n\n{_table(tree, plan)}\n"


def _drawing(plan: Plan) -> str:
    wings = [[_of_wing(floor, wing) for wing in plan.wings] for floor in plan.floors]
    widths = [max(map(len, column)) for column in zip(*wings, strict=True)]
    lines = [
        f"{number:>2} | "
        + (" | ".join(map(str.ljust, in_wings, widths)).rstrip() if any(in_wings) else "   ".join(map(_shown, floor)))
        for number, (floor, in_wings) in enumerate(zip(plan.floors, wings, strict=True), 1)
    ]
    return "\n".join(["```text", *reversed(lines), "```"])


def _of_wing(floor: Iterable[str], wing: str) -> str:
    return "   ".join(_shown(room) for room in floor if within(room, wing))


def _table(tree: SourceTree, plan: Plan) -> str:
    arrows = room_arrows(tree, plan)
    rows = [
        f"| {number} | `{_shown(room)}` | {_summary(tree, room)} | {_names(_in_order(arrows[room], plan))} "
        f"| {_names(_third_party_of(tree, plan, room))} |"
        for number, floor in reversed(list(enumerate(plan.floors, 1)))
        for room in floor
    ]
    return "\n".join(
        ["| floor | room | what it knows | imports | of others |", "| --: | --- | --- | --- | --- |", *rows]
    )


def _in_order(rooms: Iterable[str], plan: Plan) -> list[str]:
    return sorted(rooms, key=lambda room: (-plan.floor_of(room), room))


def _third_party_of(tree: SourceTree, plan: Plan, room: str) -> list[str]:
    return sorted({top for path in tree.modules if plan.room_of(path) == room for top, _ in outside(tree, path)})


def _summary(tree: SourceTree, room: str) -> str:
    """The first sentence of a room's docstring."""
    module = tree.modules.get(room if room.endswith(".py") else f"{room}/__init__.py")
    text = (ast.get_docstring(module) or "") if module else ""
    sentence = " ".join(text.partition("\n\n")[0].split()).partition(". ")[0]
    return re.sub(r":\w+:`", "`", sentence).rstrip(".").replace("|", "\\|")  # :class:`Balancer` of Sphinx


def _shown(room: str) -> str:
    return room if room.endswith(".py") else f"{room}/"


def _names(names: Iterable[str]) -> str:
    return ", ".join(f"`{name.removesuffix('.py')}`" for name in names)


def block_of(text: str, marks: tuple[str, str] = (BEGIN, END)) -> str:
    """What stands between the marks.

    :param text: of the document
    :param marks: before and behind it; default those of the floors
    :raises ValueError: there are no marks
    """
    _, begin, rest = text.partition(marks[0])
    block, end, _ = rest.partition(marks[1])
    if not begin or not end:
        raise ValueError(f"not between {marks[0]!r} and {marks[1]!r}")
    return block.strip("\n") + "\n"


def with_block(text: str, block: str, marks: tuple[str, str] = (BEGIN, END)) -> str:
    """The document with another block.

    :param text: of the document; the marks are put at its end if it has none
    :param block: what shall stand between the marks
    :param marks: before and behind it; default those of the floors
    """
    head, _, rest = text.partition(marks[0])
    _, _, tail = rest.partition(marks[1])
    return f"{head}{marks[0]}\n\n{block}\n{marks[1]}{tail or chr(10)}"


def main() -> None:
    """Write the block in docs/architecture.md anew."""
    tree = SourceTree(ROOT / "airflow_provider_impala_lb")
    text = DOCUMENT.read_text(encoding="utf-8") if DOCUMENT.exists() else "# Architecture\n\n"
    DOCUMENT.write_text(with_block(text, picture(tree)), encoding="utf-8")


if __name__ == "__main__":
    main()
