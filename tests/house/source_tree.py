"""Reads Python source without running it: which file imports which, what is defined, what a docstring says.

What the rules of the house are held against (`tests.house.rules`), and what the picture of the floors in
docs/architecture.md is drawn from (`tests.house.architecture`). Imports count wherever they stand: in functions,
under ``TYPE_CHECKING``, and as a literal in ``import_module("...")``.
"""

from __future__ import annotations

import ast
import pathlib
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass

Function = ast.FunctionDef | ast.AsyncFunctionDef
Definition = ast.ClassDef | Function


@dataclass(frozen=True)
class Import:
    """One name that a file imports.

    :ivar name: the module, dotted and absolute; for ``from a import b`` it is ``a.b``, whether ``b`` is a module or not
    :ivar line: where it stands
    """

    name: str
    line: int


@dataclass(frozen=True)
class Arrow:
    """One file of a tree imports another one of it.

    :ivar source: the importing file, relative to the tree
    :ivar target: the imported file, relative to the tree
    :ivar line: where the import stands in ``source``
    """

    source: str
    target: str
    line: int

    def __str__(self) -> str:
        return f"{self.source}:{self.line} -> {self.target}"


@dataclass(frozen=True)
class Defined:
    """A class, function or method.

    :ivar path: its file, relative to the tree
    :ivar name: qualified by the classes around it, and by the functions
    :ivar node: its syntax tree
    :ivar inside: what it stands in, from the outermost inwards
    """

    path: str
    name: str
    node: Definition
    inside: tuple[Definition, ...]

    def __str__(self) -> str:
        return f"{self.path}:{self.node.lineno} {self.name}"

    @property
    def is_public(self) -> bool:
        """Whether other files can get at it by a path without a leading underscore."""
        names = [*self.path.removesuffix(".py").removesuffix("/__init__").split("/"), *self.name.split(".")]
        in_function = any(not isinstance(each, ast.ClassDef) for each in self.inside)
        return not in_function and not any(name.startswith("_") for name in names)

    @property
    def is_method(self) -> bool:
        """Whether its first parameter is ``self`` or ``cls``."""
        return (
            bool(self.inside)
            and isinstance(self.inside[-1], ast.ClassDef)
            and "staticmethod" not in decorators(self.node)
        )


class SourceTree:
    """A package, or any folder of Python files, parsed.

    :param folder: the folder
    :param name: the dotted name that its files are imported by; default: the folder's own
    :ivar modules: the syntax tree of each file, by its path relative to the folder, in order
    :ivar texts: the text of each file, likewise
    """

    def __init__(self, folder: pathlib.Path, name: str | None = None) -> None:
        self.folder, self.name = folder, name or folder.name
        paths = sorted(path for path in folder.rglob("*.py") if "__pycache__" not in path.parts)
        self.texts = {path.relative_to(folder).as_posix(): path.read_text(encoding="utf-8") for path in paths}
        self.modules = {path: ast.parse(text) for path, text in self.texts.items()}
        self._defined: list[Defined] | None = None

    def file_of(self, name: str) -> str | None:
        """The file that a dotted name is found in.

        :param name: of a module, or of something in a module
        :returns: None if it is not of this tree
        """
        if name != self.name and not name.startswith(f"{self.name}."):
            return None
        parts = name.split(".")[self.name.count(".") + 1 :]
        for length in range(len(parts), -1, -1):
            path = "/".join(parts[:length])
            for candidate in (f"{path}.py", f"{path}/__init__.py" if path else "__init__.py"):
                if candidate in self.modules:
                    return candidate
        return None

    def imports(self, path: str) -> Iterator[Import]:
        """What a file imports.

        :param path: of the file, relative to the folder
        """
        for node in ast.walk(self.modules[path]):
            match node:
                case ast.Import():
                    yield from (Import(alias.name, node.lineno) for alias in node.names)
                case ast.ImportFrom():
                    module = self._absolute(path, node)
                    yield from (Import(f"{module}.{alias.name}", node.lineno) for alias in node.names)
                case ast.Call(
                    func=ast.Name(id="import_module") | ast.Attribute(attr="import_module"),
                    args=[ast.Constant(value=str(name)), *_],
                ):
                    yield Import(name, node.lineno)

    def arrows(self) -> list[Arrow]:
        """Each import of one file of the tree by another, once for each pair of files."""
        found: dict[tuple[str, str], Arrow] = {}
        for source in self.modules:
            for each in sorted(self.imports(source), key=lambda each: each.line):
                target = self.file_of(each.name)
                if target is not None and target != source:
                    found.setdefault((source, target), Arrow(source, target, each.line))
        return list(found.values())

    def defined(self) -> list[Defined]:
        """Each class, function and method, those in functions included; overloads are left out."""
        if self._defined is None:
            self._defined = [
                each for path, module in self.modules.items() for each in _definitions(path, module.body, ())
            ]
        return self._defined

    def _absolute(self, path: str, node: ast.ImportFrom) -> str:
        if not node.level:
            return node.module or ""
        package = [self.name, *path.split("/")[:-1]]
        package = package[: len(package) - node.level + 1]
        return ".".join([*package, node.module] if node.module else package)


def _definitions(path: str, body: Iterable[ast.AST], inside: tuple[Definition, ...]) -> Iterator[Defined]:
    for node in body:
        if isinstance(node, Definition):
            if "overload" in decorators(node):
                continue
            name = ".".join(each.name for each in (*inside, node))
            yield Defined(path, name, node, inside)
            yield from _definitions(path, node.body, (*inside, node))
        else:
            yield from _definitions(path, ast.iter_child_nodes(node), inside)


def decorators(node: Definition) -> set[str]:
    """The last name of each decorator: ``overload`` of ``@typing.overload``, ``setter`` of ``@x.setter``.

    :param node: what is decorated
    """
    found = set()
    for each in node.decorator_list:
        target = each.func if isinstance(each, ast.Call) else each
        if isinstance(target, ast.Attribute):
            found.add(target.attr)
        elif isinstance(target, ast.Name):
            found.add(target.id)
    return found


def parameters(function: Defined) -> list[ast.arg]:
    """Its parameters, ``self`` and ``cls`` left out; ``*arguments`` and ``**options`` are one each.

    :param function: a function or method
    """
    assert not isinstance(function.node, ast.ClassDef)
    arguments = function.node.args
    positional = [*arguments.posonlyargs, *arguments.args]
    if function.is_method:
        positional = positional[1:]
    starred = [each for each in (arguments.vararg, arguments.kwarg) if each is not None]
    return [*positional, *arguments.kwonlyargs, *starred]


def circles(edges: Mapping[str, Iterable[str]]) -> list[list[str]]:
    """The strongly connected components with more than one member, each sorted (Tarjan 1972).

    :param edges: for each node, what it points to
    """
    numbers: dict[str, int] = {}
    lowest: dict[str, int] = {}
    path: list[str] = []
    found: list[list[str]] = []

    def visit(node: str) -> None:
        numbers[node] = lowest[node] = len(numbers)
        path.append(node)
        for target in sorted(edges.get(node, ())):
            if target not in numbers:
                visit(target)
                lowest[node] = min(lowest[node], lowest[target])
            elif target in path:
                lowest[node] = min(lowest[node], numbers[target])
        if lowest[node] == numbers[node]:
            begin = path.index(node)
            if len(path) - begin > 1:
                found.append(sorted(path[begin:]))
            del path[begin:]

    for node in sorted(edges):
        if node not in numbers:
            visit(node)
    return sorted(found)
