"""Every number that stands in the physics as a constant says where it comes from: a source, a derivation, or 'assumed'.

What is read here are module and class level constants of the folders that compute; numbers inside a function stand
beside their equation, in its docstring. Bounds on what is taken or remembered (MOST_..., LONGEST_...) are no figures of
the model. Figures of profiles and kernel files carry theirs in YAML.
"""

import ast
import io
import re
import tokenize
from pathlib import Path

import pytest

from simkit.foundation.yaml_source import load_yaml
from simkit.hardware.document import profile_from_yaml
from simkit.hardware.inherit import load_profile_source
from tests.reference_data import REPOSITORY

PHYSICS = ("hardware", "model", "step", "timing", "roofline", "spatial", "replay", "serving")
BOUND = re.compile(r"_?(MOST|MAX|LONGEST|LARGEST|LEAST)_?")
TRIVIAL = (0, 1)



def comments(text: str) -> dict[int, str]:
    """Comments by line number."""
    tokens = tokenize.generate_tokens(io.StringIO(text).readline)
    return {token.start[0]: token.string for token in tokens if token.type == tokenize.COMMENT}


def numbers(node: ast.expr) -> list[float]:
    return [part.value for part in ast.walk(node)
            if isinstance(part, ast.Constant) and type(part.value) in (int, float) and part.value not in TRIVIAL]


def unexplained(text: str) -> list[tuple[int, str]]:
    """Line and name of each constant with a number and without a comment on it, above it, or a docstring below it."""
    tree, said = ast.parse(text), comments(text)
    found = []
    for body in [tree.body, *(node.body for node in ast.walk(tree) if isinstance(node, ast.ClassDef))]:
        for place, statement in enumerate(body):
            if not isinstance(statement, ast.Assign | ast.AnnAssign) or statement.value is None:
                continue
            name = ast.unparse(statement.targets[0] if isinstance(statement, ast.Assign) else statement.target)
            is_type = isinstance(statement.value, ast.Subscript)  # bounds of a key: Annotated[float, Quantity(...)]
            is_enumeration = isinstance(statement.value, ast.Call) and ast.unparse(statement.value.func) == "range"
            if is_type or is_enumeration or _goes_on_counting(body[place - 1] if place else None, statement) or BOUND.match(name) or not numbers(statement.value):
                continue
            following = body[place + 1] if place + 1 < len(body) else None
            is_documented = isinstance(following, ast.Expr) and isinstance(following.value, ast.Constant)
            lines = range(statement.lineno - 1, (statement.end_lineno or statement.lineno) + 1)
            is_alone_above = statement.lineno - 1 in said and text.splitlines()[statement.lineno - 2].lstrip()[:1] == "#"
            if not (is_documented or is_alone_above or any(line in said for line in lines[1:])):
                found.append((statement.lineno, name))
    return found


def _goes_on_counting(before: ast.stmt | None, statement: ast.Assign | ast.AnnAssign) -> bool:
    """True for the next number of an enumeration: the names of columns and kinds."""
    values = [getattr(getattr(one, "value", None), "value", None) for one in (before, statement)]
    return all(type(value) is int for value in values) and values[1] == values[0] + 1


@pytest.mark.parametrize("folder", PHYSICS)
def test_a_constant_of_the_physics_says_where_it_comes_from(folder):
    left = [f"{path.relative_to(REPOSITORY)}:{line}: {name}"
            for path in sorted((REPOSITORY / "simkit" / folder).rglob("*.py"))
            for line, name in unexplained(path.read_text(encoding="utf-8"))]
    assert not left, "say the source, how it is derived, or that it is assumed:\n" + "\n".join(left)


@pytest.mark.parametrize(("text", "found"), [
    ("RATE: Final = 3.0\n", ["RATE"]),
    ("# JESD238, table 84.\nRATE: Final = 3.0\n", []),
    ("RATE: Final = 3.0  # JESD238\nOTHER: Final = 4\n", ["OTHER"]),
    ('RATE = 3.0\n"""JESD238."""\n', []),
    ("class A:\n    rate: float = 0.8\n", ["rate"]),
    ("SETUP = 0\nWAIT = 1\nCOMPUTE = 2\nROWS = 16\n", ["ROWS"]),
    ("MOST_TOKENS: Final = 9\nA, B, C = range(3)\nONE: Final = 1\nWord = Annotated[int, Whole(2, 9)]\n", []),
    ("TABLE = {\n    'a': 2.5,  # the paper\n}\n", []),
])
def test_the_scan_sees_a_number_that_nothing_explains(text, found):
    assert [name for _, name in unexplained(text)] == found


def figures(node, path=()):
    """Dotted keys of a document's numbers and quantities that bear no source: bare, or without the key."""
    if isinstance(node, dict):
        if "value" in node:
            if node["value"] is not None and not str(node.get("source") or "").strip():
                yield ".".join(path)
            return
        for key, value in node.items():
            yield from figures(value, (*path, str(key)))
    elif isinstance(node, int | float) and not isinstance(node, bool):
        yield ".".join(path)


@pytest.mark.parametrize("file", sorted((REPOSITORY / "hardware_profiles" / "kernels").glob("*.yaml")), ids=lambda f: f.stem)
def test_every_figure_of_a_kernel_file_has_its_source(file: Path):
    document = load_yaml(file).data
    assert not list(figures(document["kernel"], ("kernel",)))
    named = set(re.findall(r"source: ([\w-]+)[,}]", file.read_text(encoding="utf-8")))
    assert named
    assert named <= set(document["sources"]) | {"calibration"}


@pytest.mark.parametrize("file", sorted((REPOSITORY / "hardware_profiles").glob("*.yaml")), ids=lambda f: f.stem)
def test_every_kernel_figure_of_a_profile_has_its_source(file: Path):
    source = load_profile_source(file)
    stated = profile_from_yaml(source.whole).kernel_parameters or {}
    assert not list(figures(source.whole.data.get("kernel") or {}, ("kernel",)))
    assert not stated or all(profile_from_yaml(source.whole).provenance[f"kernel.{name}"].source for name in stated)
