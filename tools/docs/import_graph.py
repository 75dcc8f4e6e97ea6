"""What imports what in simkit, read from the source without running it: for the tests and for docs/architecture.md."""

from __future__ import annotations

import ast
import re
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Final

REPOSITORY: Final = Path(__file__).resolve().parents[2]
PACKAGE: Final = REPOSITORY / "simkit"
ROOT: Final = "simkit"
"""The public face: modules directly under simkit/."""
_NAMED: Final = re.compile(r"(simkit(?:\.\w+)+)(?::\w+)?")


@dataclass(frozen=True, kw_only=True)
class Import:
    """One imported module, where it stands, and whether it runs when the importing module is imported."""

    importer: str
    target: str
    name: str  # what `from target import name` binds; empty for `import target`
    line: int
    at_import_time: bool

    def __str__(self) -> str:
        return f"{self.importer}:{self.line} imports {self.target}"


@cache
def modules() -> dict[str, Path]:
    """Every module's file by its dotted name, packages by theirs."""
    names = {}
    for path in sorted(PACKAGE.rglob("*.py")):
        parts = path.relative_to(REPOSITORY).with_suffix("").parts
        names[".".join(parts[:-1] if parts[-1] == "__init__" else parts)] = path
    return names


class _ImportReader(ast.NodeVisitor):
    def __init__(self, importer: str, path: Path) -> None:
        self.importer = importer
        self.package = importer if path.name == "__init__.py" else importer.rpartition(".")[0]
        self.found: list[Import] = []
        self._deferred = 0

    def _defer(self, node: ast.AST) -> None:
        self._deferred += 1
        self.generic_visit(node)
        self._deferred -= 1

    visit_FunctionDef = visit_AsyncFunctionDef = visit_Lambda = _defer  # noqa: N815 - names given by ast

    def visit_If(self, node: ast.If) -> None:
        if ast.unparse(node.test) in {"TYPE_CHECKING", "typing.TYPE_CHECKING"}:
            self._defer(node)
        else:
            self.generic_visit(node)

    def _add(self, target: str, name: str, line: int) -> None:
        at_import_time = not self._deferred
        self.found.append(
            Import(importer=self.importer, target=target, name=name, line=line, at_import_time=at_import_time)
        )

    def visit_Constant(self, node: ast.Constant) -> None:
        """A module named in a string, such as a command's target, is imported when it is wanted: an arrow too."""
        named = _NAMED.fullmatch(node.value) if isinstance(node.value, str) else None
        if named and named[1] in modules() and modules()[named[1]].name != "__init__.py":
            self.found.append(Import(importer=self.importer, target=named[1], name="", line=node.lineno,
                                     at_import_time=False))

    def visit_Import(self, node: ast.Import) -> None:
        for alias in node.names:
            self._add(alias.name, "", node.lineno)

    def visit_ImportFrom(self, node: ast.ImportFrom) -> None:
        base = node.module or ""
        if node.level:
            anchor = self.package.split(".")[: len(self.package.split(".")) - node.level + 1]
            base = ".".join([*anchor, base]).rstrip(".")
        for alias in node.names:
            submodule = f"{base}.{alias.name}"
            self._add(submodule if submodule in modules() else base, alias.name, node.lineno)


@cache
def imports() -> tuple[Import, ...]:
    """Every import in simkit, of simkit and of others."""
    found: list[Import] = []
    for name, path in modules().items():
        reader = _ImportReader(name, path)
        reader.visit(ast.parse(path.read_text(encoding="utf-8"), filename=str(path)))
        found += reader.found
    return tuple(found)


def internal_imports() -> list[Import]:
    """Those of simkit's own modules."""
    return [item for item in imports() if item.target.split(".")[0] == "simkit"]


def room_of(module: str) -> str:
    """The folder under simkit/ that a module lies in, such as ``report.figures``; ``simkit`` for the public face."""
    package = module if modules()[module].name == "__init__.py" else module.rpartition(".")[0]
    return package.removeprefix("simkit.")


@cache
def rooms() -> dict[str, frozenset[str]]:
    """The rooms that each room imports from; the public face is not one of them."""
    found: dict[str, set[str]] = {room_of(name): set() for name in modules() if room_of(name) != ROOT}
    for item in internal_imports():
        importer, target = room_of(item.importer), room_of(item.target)
        if importer != target and ROOT not in (importer, target):
            found[importer].add(target)
    return {room: frozenset(below) for room, below in found.items()}


@cache
def height(room: str) -> int:
    """How many rooms stand below one another under this one: 0 for the foundation. Rooms must not go in circles."""
    return max((1 + height(below) for below in rooms()[room]), default=0)


@cache
def steps() -> dict[str, frozenset[str]]:
    """Imports between rooms that no way round through other rooms implies: the arrows of a picture."""
    return {room: frozenset(one for one in below if not any(_reaches(other, one) for other in below - {one}))
            for room, below in rooms().items()}


@cache
def _reaches(room: str, target: str) -> bool:
    return room == target or any(_reaches(below, target) for below in rooms()[room])
