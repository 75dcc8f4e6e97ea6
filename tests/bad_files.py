"""Deliberately wrong YAML files: each says in its first comment lines, one a fault, what must be said about it.

``# 9:3: compute.units: 'many' is not a whole number`` means that one line of the error begins with
``FILE:9:3: compute.units: 'many' is not a whole number``; the file's name describes the slip.
"""

import re
from collections.abc import Callable
from pathlib import Path

import pytest

from simkit.foundation.errors import UserError

TESTS = Path(__file__).resolve().parent
# What pydantic, PyYAML and Python would say; none of it is a word of a profile's author.
JARGON = re.compile(
    r"input should|should (have|be|match)|_type|_error|valid (dictionary|string|list|instance)|pydantic|"
    r"traceback|NoneType|(?-i:None\b)|dict\b|\bstr\b|\bint\b|float\b|<block|<stream|\bnode\b|\btoken\b|\bchomping\b|"
    r"errno|codec|\[type=|\{\}", re.IGNORECASE)


def bad_files(folder: str) -> list[Path]:
    """The wrong files of a folder; ``lint_*`` belong to another test."""
    return sorted(path for path in (TESTS / folder).glob("*.yaml") if not path.name.startswith("lint_"))


def expected_faults(path: Path) -> list[str]:
    """What the file's first comment lines promise."""
    promised = []
    for line in path.read_text(encoding="utf-8").splitlines():
        if not line.startswith("# "):
            break
        promised.append(line.removeprefix("# "))
    return promised


def assert_tells_every_fault(path: Path, load: Callable[[Path], object]) -> None:
    """Loading the file fails with exactly the faults that it promises, in its order, and in people's words."""
    with pytest.raises(UserError) as caught:
        load(path)
    said = str(caught.value).splitlines()
    promised = expected_faults(path)
    assert promised, f"{path.name} promises nothing in its first comment lines"
    assert len(said) == len(promised), said
    for line, promise in zip(said, promised, strict=True):
        place = f"{path}:" if promise[0].isdigit() else f"{path}: "
        assert line.startswith(place + promise)
        assert not JARGON.search(line.removeprefix(str(path))), line
