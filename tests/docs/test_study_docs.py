"""docs/studies.md shows a study that loads, and names every kind of figure."""

import re

from simkit.foundation.yaml_source import parse_yaml
from simkit.study.study_file import FIGURE_KINDS, study_from_yaml
from tests.reference_data import REPOSITORY

TEXT = (REPOSITORY / "docs" / "studies.md").read_text(encoding="utf-8")


def test_the_study_in_the_documentation_is_one() -> None:
    example = re.search(r"```yaml\n(.*?)```", TEXT, flags=re.DOTALL)
    assert example
    study = study_from_yaml(parse_yaml(example[1], file="docs/studies.md"))
    assert study.batch == (1, 4, 16, 64)
    assert study.figures[2].focus_kv_len == 32768


def test_the_documentation_names_every_kind_of_figure() -> None:
    assert set(re.findall(r"^\| `(\w+)` \|", TEXT, flags=re.MULTILINE)) == set(FIGURE_KINDS)
