"""Rows of chips with one mark a layout on a logarithmic axis, joined by a line: what changes with the layout."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Final

from matplotlib.axes import Axes

from simkit.report.drawing.style import INK, PAPER, SMALL_POINTS, ChipStyle, layout_name

_MARKERS: Final = (("o", 4.6), ("D", 3.8), ("|", 9.0))  # a bar can be seen across a diamond


@dataclass(frozen=True, slots=True, kw_only=True)
class Row:
    """One chip: its style, the line under its name, and a value for each layout (NaN where there is none)."""

    style: ChipStyle
    under: str
    values: dict[str, float]


def draw_rows(axes: Axes, rows: list[Row], layouts: list[str], texts: dict[int, str]) -> None:
    """Draw the rows top down; ``texts`` stand beside the last layout's mark of a row."""
    shape = {layout: min(index, 2) for index, layout in enumerate(layouts)}
    for place, row in enumerate(rows):
        known = [(layout, row.values[layout]) for layout in layouts if math.isfinite(row.values[layout])]
        if not known:
            continue
        values = [value for _, value in known]
        axes.plot([min(values), max(values)], [place, place], color=row.style.colour, linewidth=1.0, zorder=2)
        for layout, value in known:
            marker, size_points = _MARKERS[shape[layout]]
            axes.plot(value, place, marker, color=row.style.colour, markersize=size_points, zorder=3 + shape[layout],
                      markerfacecolor=PAPER if shape[layout] == 0 else row.style.colour, markeredgewidth=0.9)
        if place in texts:
            axes.annotate(texts[place], (max(values), place), xytext=(5, 0), textcoords="offset points", va="center",
                          fontsize=SMALL_POINTS, color=INK, annotation_clip=False)
    axes.set_yticks(range(len(rows)), [f"{row.style.label}\n{row.under}" for row in rows], fontsize=SMALL_POINTS,
                    linespacing=0.95)
    axes.set_ylim(len(rows) - 0.4, -1.1)
    axes.grid(visible=False, axis="y")
    axes.tick_params(axis="y", length=0)
    axes.annotate("○ " + ", ".join(_names(layouts)), (0.0, 1.0), xycoords="axes fraction", xytext=(2, -3),
                  textcoords="offset points", va="top", fontsize=SMALL_POINTS, color=INK)


def _names(layouts: list[str]) -> list[str]:
    marks = ("", "◆ ", "| ")
    return [marks[min(index, len(marks) - 1)] + layout_name(layout) for index, layout in enumerate(layouts)]
