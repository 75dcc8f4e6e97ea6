"""Every small change to a source file that a test should notice: cosmic-ray's operators, and two of this field's own.

What no reader would write by accident is left out: shifts and bit operations, types of exceptions, decorators. It would
fail at the first call and flatter the rate.
"""

from __future__ import annotations

import ast
import re
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

import parso
from cosmic_ray.ast import ast_nodes, get_ast, is_number
from cosmic_ray.mutating import mutate_code
from cosmic_ray.operators.operator import Operator
from cosmic_ray.plugins import get_operator, operator_names

_ARITHMETIC: Final = r"ReplaceBinaryOperator_(Add_Sub|Sub_Add|Mul_Div|Div_Mul|FloorDiv_Div|FloorDiv_Mul|Mod_Mul|Pow_Mul)"
_COMPARISONS: Final = (r"ReplaceComparisonOperator_(Eq_NotEq|NotEq_Eq|Lt_LtE|Lt_GtE|LtE_Lt|LtE_Gt|Gt_GtE|Gt_LtE|GtE_Gt|"
                       r"GtE_Lt|Is_IsNot|IsNot_Is)")
_LOGIC: Final = (r"AddNot|ReplaceUnaryOperator_Delete_(Not|USub)|Replace(True|False|And|Or|Break|Continue)With\w+|"
                 r"ZeroIterationForLoop")
_CHOSEN: Final = re.compile(rf"core/(?:{_ARITHMETIC}|{_COMPARISONS}|{_LOGIC})")


class _SwapNames(Operator):
    """A function for the one that it could be mistaken for."""

    PAIRS: Final = {"maximum": "minimum", "max": "min", "ceil": "floor", "any": "all"}
    BOTH: Final = PAIRS | {other: name for name, other in PAIRS.items()}

    def mutation_positions(self, node: Any) -> Iterator[Any]:
        if node.type == "name" and node.value in self.BOTH and _is_called(node):
            yield (node.start_pos, node.end_pos)

    def mutate(self, node: Any, index: int) -> Any:  # noqa: ARG002 - cosmic-ray names it
        return parso.python.tree.Name(self.BOTH[node.value], node.start_pos, prefix=node.prefix)

    @classmethod
    def examples(cls) -> tuple[()]:
        return ()


class _OtherNumbers(Operator):
    """A small whole number one up and one down; any other one half more and half of it."""

    COUNTED: Final = 16

    def mutation_positions(self, node: Any) -> Iterator[Any]:
        if is_number(node):
            yield from [(node.start_pos, node.end_pos)] * 2

    def mutate(self, node: Any, index: int) -> Any:
        value = ast.literal_eval(node.value)
        counted = value == 0 or (isinstance(value, int) and value <= self.COUNTED)
        other = value + (1, -1)[index] if counted else value * (1.5, 0.5)[index]
        return parso.python.tree.Number(repr(other), node.start_pos, prefix=node.prefix)

    @classmethod
    def examples(cls) -> tuple[()]:
        return ()


class _SwapBranches(Operator):
    """``np.where(here, a, b)`` with a and b exchanged."""

    def mutation_positions(self, node: Any) -> Iterator[Any]:
        if _is_where(node):
            yield (node.start_pos, node.end_pos)

    def mutate(self, node: Any, index: int) -> Any:  # noqa: ARG002 - cosmic-ray names it
        arguments = node.children[-1].children[1]
        arguments.children[2], arguments.children[4] = arguments.children[4], arguments.children[2]
        return node

    @classmethod
    def examples(cls) -> tuple[()]:
        return ()


def _is_called(node: Any) -> bool:
    after = node.get_next_leaf()
    return after is not None and after.value == "("


def _is_star(node: Any) -> bool:
    """The ``*`` of a signature multiplies nothing."""
    return node.type == "operator" and node.parent.type in ("parameters", "param", "typedargslist", "lambdef")


def _is_where(node: Any) -> bool:
    if node.type not in ("atom_expr", "power") or ".where" not in node.get_code() or len(node.children) < 3:
        return False
    call = node.children[-1]
    return (node.children[-2].get_code() == ".where" and call.type == "trailer" and len(call.children) == 3
            and call.children[1].type == "arglist" and len(call.children[1].children) == 5)


@dataclass(frozen=True, kw_only=True)
class Mutant:
    """One change of one file, by the operator that makes it and the place in its count."""

    path: Path
    operator: str
    occurrence: int
    line: int

    def source(self) -> str:
        """The whole file with the change in it."""
        made = mutate_code(self.path.read_text(encoding="utf-8"), _operators()[self.operator], self.occurrence)
        assert made is not None
        return str(made)


def _operators() -> dict[str, Any]:
    chosen = {name.removeprefix("core/"): get_operator(name)() for name in operator_names() if _CHOSEN.fullmatch(name)}
    return chosen | {"SwapNames": _SwapNames(), "OtherNumbers": _OtherNumbers(), "SwapBranches": _SwapBranches()}


def mutants(path: Path) -> list[Mutant]:
    """All mutants of a file in the order of its lines; decorators (a class frozen or not) are left alone."""
    found: list[Mutant] = []
    text = path.read_text(encoding="utf-8")
    tree, lines = get_ast(text), text.splitlines()
    for name, operator in _operators().items():
        places = [(place, node) for node in ast_nodes(tree) for place in operator.mutation_positions(node)]
        found += [Mutant(path=path, operator=name, occurrence=index, line=place[0][0])
                  for index, (place, node) in enumerate(places)
                  if not (lines[place[0][0] - 1].lstrip().startswith("@") or _is_star(node))]
    return sorted(found, key=lambda mutant: (mutant.line, mutant.operator, mutant.occurrence))
