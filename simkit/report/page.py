"""The page: one HTML file that needs no network, with figures inline, sortable tables, sources and the command."""

from __future__ import annotations

import platform
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from importlib import metadata
from importlib.resources import files
from pathlib import Path
from typing import Any, Final

from jinja2 import Environment, StrictUndefined

from simkit import __version__
from simkit.report.answer import answer
from simkit.report.drawing.drawn_figure import DrawnFigure
from simkit.report.drawing.export import inline_svg
from simkit.report.drawing.study_points import Omission
from simkit.report.drawing.style import DARK, ChipStyle
from simkit.report.explore import FACTORS, STATED_ERROR, explorer
from simkit.report.tables import hardware_table, results_table, source_table
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
                omissions: Sequence[Omission], *, command: str, styles: Mapping[str, ChipStyle]) -> str:
    """The whole HTML document."""
    environment = Environment(autoescape=True, undefined=StrictUndefined, trim_blocks=True)
    light = " ".join(f"--c{colour[1:]}: {colour};" for colour in DARK)
    dark = " ".join(f"--c{colour[1:]}: {partner};" for colour, partner in DARK.items())
    css = (_template("page.css") + _template("explore.css")).replace("{{ light }}", light).replace("{{ dark }}", dark)
    axes = (f"{len(study.hardware)} chips × {len(study.models)} models × {len(study.layouts)} layouts × "
            f"{len(study.batch)} batches × {len(study.kv_len)} contexts")
    versions = [("simkit", __version__), ("Python", platform.python_version()),
                *((name, metadata.version(name)) for name in _LIBRARIES)]
    # Only the program's own CSS and JavaScript and the drawn SVG are marked safe; every other value is escaped.
    return environment.from_string(_template("page.html.j2").lstrip()).render(
        study=study, figures=figures, answer=answer(study, records), records=f"{len(records):,}", axes=axes,
        omissions=by_reason(omissions),
        results=[results_table(study, records, model.name) for model in study.models],
        hardware=hardware_table(study), sources=[(chip, source_table(chip)) for chip in study.every_chip],
        command=command, versions=versions, version=__version__, study_file=Path(study.file).name,
        css=css, js=_template("page.js"), explorer=explorer(study, styles, command), factors=FACTORS,
        stated_error=f"{STATED_ERROR:.0%}", explorer_js=_template("explore.js"))


def _template(name: str) -> str:
    return files("simkit.report").joinpath("templates").joinpath(name).read_text(encoding="utf-8")
