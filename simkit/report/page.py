"""The page: one HTML file that needs no network, with figures inline, sortable tables, sources and the command."""

from __future__ import annotations

import platform
from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial
from importlib import metadata
from importlib.resources import files
from pathlib import Path
from typing import Any, Final

from jinja2 import Environment, StrictUndefined

from simkit import __version__
from simkit.report.answer import answer
from simkit.report.drawing.drawn_figure import DrawnFigure
from simkit.report.drawing.export import inline_svg
from simkit.report.drawing.ranges import bounds_of
from simkit.report.drawing.study_points import Omission, evaluate
from simkit.report.drawing.style import BASES, DARK, basis_of
from simkit.report.explore import FACTORS, STATED_ERROR
from simkit.report.tables import hardware_table, results_table, source_table, sources_of
from simkit.study.study_file import Study

_LIBRARIES: Final = ("numpy", "matplotlib")


@dataclass(frozen=True, slots=True, kw_only=True)
class PageFigure:
    """A drawn figure with its file name, its note from the study, and its SVG for the page."""

    name: str
    note: str | None
    drawn: DrawnFigure
    svg: str

    @property
    def ratio(self) -> str:
        """Width over height."""
        width, height = self.drawn.figure.get_size_inches()
        return f"{width / height:.3f}"

    @property
    def omissions(self) -> dict[str, list[str]]:
        """Chips that are left out, by the reason."""
        return by_reason(self.drawn.omissions)


def by_reason(omissions: Sequence[Omission]) -> dict[str, list[str]]:
    """Names of the chips that share a reason."""
    grouped: dict[str, list[str]] = {}
    for item in omissions:
        grouped.setdefault(item.reason, []).append(item.chip)
    return grouped


def page_figure(name: str, note: str | None, drawn: DrawnFigure, svg: bytes) -> PageFigure:
    """A figure made ready for the page."""
    # inline_svg escapes the only text that comes from outside, the description; Matplotlib escapes the rest.
    return PageFigure(name=name, note=note, drawn=drawn, svg=inline_svg(svg, name=name, alt=drawn.alt))


def render_page(study: Study, figures: Sequence[PageFigure], records: Sequence[dict[str, Any]],
                omissions: Sequence[Omission], *, command: str, explored: str | None) -> tuple[str, str]:
    """The whole HTML document and that of its slides: one a figure, which stand beside its ``figures/``.

    ``explored``: the grid that its script reads.
    """
    environment = Environment(autoescape=True, undefined=StrictUndefined, trim_blocks=True)
    light = " ".join(f"--c{colour[1:]}: {colour};" for colour in DARK)
    dark = " ".join(f"--c{colour[1:]}: {partner};" for colour, partner in DARK.items())
    css = (_template("page.css") + _template("explore.css")).replace("{{ light }}", light).replace("{{ dark }}", dark)
    axes = (f"{len(study.hardware)} chips × {len(study.models)} models × {len(study.layouts)} layouts × "
            f"{len({*study.batch, study.focus_batch})} batches × "
            f"{len({*study.kv_len, study.focus_kv_len})} contexts")
    versions = [("simkit", __version__), ("Python", platform.python_version()),
                *((name, metadata.version(name)) for name in _LIBRARIES)]
    # Only the program's own CSS and JavaScript and the drawn SVG are marked safe; every other value is escaped.
    said = answer(study, records, partial(_step_bounds, study))
    based = [(sign, meaning, [study.label(chip) for chip in study.hardware if basis_of(chip) == basis])
             for basis, (sign, meaning) in BASES.items()]
    page = environment.from_string(_template("page.html.j2").lstrip()).render(
        study=study, figures=figures, answer=said, based=[item for item in based if item[2]],
        records=f"{len(records):,}", axes=axes,
        omissions=by_reason(omissions),
        results=[results_table(study, records, model.name) for model in study.models],
        hardware=hardware_table(study),
        sources=[(chip, source_table(chip), sources_of(chip)) for chip in study.every_chip],
        command=command, versions=versions, version=__version__, study_file=Path(study.file).name,
        css=css, js=_template("page.js"), explorer=explored, factors=FACTORS,
        stated_error=f"{STATED_ERROR:.0%}", explorer_js=_template("explore.js"))
    return page, environment.from_string(_template("slides.html.j2")).render(
        study=study, figures=figures, answer=said, version=__version__)


def _step_bounds(study: Study, chip: str, layout: str) -> tuple[float, float] | None:
    """The 90 % bounds of a chip's speedup over MHA, for the study's first model at its point."""
    hardware = next(one for one in study.hardware if one.name == chip)
    return bounds_of(evaluate(study, hardware, layout), "speedup_vs_mha")


def _template(name: str) -> str:
    return files("simkit.report").joinpath("templates").joinpath(name).read_text(encoding="utf-8")
