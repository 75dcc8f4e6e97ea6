"""Draw the figures of README.md and docs/ again, from the shipped studies: ``make docs``.

Beside each PNG lies the CSV of what it shows. A test redraws the figures and compares that, so that a picture cannot
stay behind the numbers.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Final

import click

from simkit.report.drawing.drawn_figure import DrawnFigure, FigureContext
from simkit.report.drawing.export import csv_text, figure_bytes
from simkit.report.drawing.style import chip_styles, house_style
from simkit.report.figures.registry import FIGURES
from simkit.study.study_file import load_study
from tools.docs.import_graph import REPOSITORY

FOLDER: Final = REPOSITORY / "docs" / "figures"
# Figures by their kind, and the study that draws each.
SHOWN: Final = {"grouping_law": "gqa_on_asics", "roofline": "gqa_on_asics", "separate_causes": "gqa_on_asics",
                "error_by_regime": "validation", "attention_atlas": "attention_atlas"}


def drawn_figures(studies: Iterable[str] = ()) -> dict[str, tuple[DrawnFigure, bytes]]:
    """Each figure of the documentation by its kind, and its PNG, as its study draws it. Default: of all studies."""
    found = {}
    for name in dict.fromkeys(studies or SHOWN.values()):
        study = load_study(name)
        styles = chip_styles(study.hardware, study.labels)
        with house_style():
            for request in study.figures:
                if SHOWN.get(request.kind) == name and request.kind not in found:
                    drawn = FIGURES[request.kind](FigureContext(request=request, styles=styles))
                    found[request.kind] = (drawn, figure_bytes(drawn.figure, "png"))
    return found


def main() -> None:
    """Write every figure and the numbers behind it."""
    FOLDER.mkdir(exist_ok=True)
    for kind, (drawn, png) in drawn_figures().items():
        (FOLDER / f"{kind}.png").write_bytes(png)
        (FOLDER / f"{kind}.csv").write_text(csv_text(drawn.rows), encoding="utf-8", newline="")
        click.echo(f"docs/figures/{kind}.png: {drawn.finding}")


if __name__ == "__main__":
    main()
