"""The figures of README.md and docs/ show what the shipped studies say today. Pixels differ by font; numbers may not."""

import csv
import io

import pytest

from simkit.report.drawing.export import csv_text
from tools.docs import build_figures

# The atlas takes a minute and more: a few of its rows are compared in tests/study/test_atlas.py.
DRAWN = [kind for kind in build_figures.SHOWN if kind != "attention_atlas"]


@pytest.fixture(scope="module")
def drawn_figures():
    return build_figures.drawn_figures(build_figures.SHOWN[kind] for kind in DRAWN)


@pytest.mark.parametrize("kind", DRAWN)
def test_a_figure_of_the_documentation_is_that_of_its_study(drawn_figures, kind: str) -> None:
    drawn, png = drawn_figures[kind]
    shipped = (build_figures.FOLDER / f"{kind}.csv").read_text(encoding="utf-8")
    old, new = (list(csv.DictReader(io.StringIO(text))) for text in (shipped, csv_text(drawn.rows)))
    assert [list(row) for row in old] == [list(row) for row in new], "make docs"
    for before, now in zip(old, new, strict=True):
        for name, text in before.items():
            try:
                expected = float(text)
            except ValueError:
                assert text == now[name], "make docs"
            else:
                # Ten digits: another platform's exp and log may differ in the last ones.
                assert float(now[name]) == pytest.approx(expected, rel=1e-10), f"{kind}: {name}: make docs"
    assert png.startswith(b"\x89PNG")


@pytest.mark.parametrize("kind", build_figures.SHOWN)
def test_a_figure_stands_beside_its_numbers(kind: str) -> None:
    assert (build_figures.FOLDER / f"{kind}.png").stat().st_size > 10_000
