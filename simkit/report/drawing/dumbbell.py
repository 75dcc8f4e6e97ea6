"""Rows of chips with one mark a layout (or a measure) on a logarithmic axis, joined by a line: what changes with it."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Final

from matplotlib.axes import Axes

from simkit.foundation.errors import UserError
from simkit.report.drawing.style import COLUMN_WIDTH_INCHES, INK, PAPER, SMALL_POINTS, ChipStyle, layout_name

# Marker, its size in points, and the letter that the key shows for it; a bar can be seen across a diamond.
_MARKS: Final = (("o", 4.6, "○"), ("D", 3.8, "◆"), ("|", 9.0, "┃"), ("^", 4.6, "▲"), ("s", 3.8, "■"), ("v", 4.6, "▼"))
_KEY_LETTERS: Final = 42  # of a line of the key
_LETTER_INCHES: Final = 0.05  # of a small text


@dataclass(frozen=True, slots=True, kw_only=True)
class Row:
    """One chip: its style, the line under its name, and a value for each column (NaN where there is none).

    ``assumed`` None: only the first column's mark is hollow, to tell it from the others; else all marks of a chip with
    assumed parameters are hollow and those of a calibrated one filled. ``ranges``: ends of a value, by column.
    """

    style: ChipStyle
    under: str
    values: dict[str, float]
    assumed: bool | None = None
    ranges: Mapping[str, tuple[float, float]] = field(default_factory=dict)


def draw_rows(axes: Axes, rows: list[Row], columns: Sequence[str], texts: dict[int, str],
              names: Mapping[str, str] | None = None) -> None:
    """Draw the rows top down; ``texts`` stand beside the last mark of a row.

    ``names``: columns as the key calls them; None: the columns are layouts. Raises :class:`UserError` where there are
    more columns than marks.
    """
    if len(columns) > len(_MARKS):
        raise UserError(f"{len(columns)} layouts in one row of a figure: there are marks for {len(_MARKS)}",
                        hint="give this figure fewer 'layouts' of its own")
    mark_of = dict(zip(columns, _MARKS, strict=False))
    names = names or {column: layout_name(column) for column in columns}
    for place, row in enumerate(rows):
        known = [(column, row.values[column]) for column in columns if math.isfinite(row.values[column])]
        if not known:
            continue
        values = [value for _, value in known]
        axes.plot([min(values), max(values)], [place, place], color=row.style.colour, linewidth=1.0, zorder=2)
        for order, (column, value) in enumerate(known):
            marker, size_points, _ = mark_of[column]
            hollow = column == columns[0] if row.assumed is None else row.assumed
            axes.plot(value, place, marker, color=row.style.colour, markersize=size_points, zorder=3 + order,
                      markerfacecolor=PAPER if hollow else row.style.colour, markeredgewidth=0.9)
        for ends in row.ranges.values():
            axes.plot(ends, [place, place], "|-", color=row.style.colour, linewidth=2.6, alpha=0.45, markersize=5,
                      zorder=2)
        if place in texts:
            end = max(*values, *(high for _, high in row.ranges.values())) if row.ranges else max(values)
            axes.annotate(texts[place], (end, place), xytext=(5, 0), textcoords="offset points", va="center",
                          fontsize=SMALL_POINTS, color=INK, annotation_clip=False)
    axes.set_yticks(range(len(rows)), [f"{row.style.label}\n{row.under}" for row in rows], fontsize=SMALL_POINTS,
                    linespacing=1.1)
    key = _key([f"{'●' if rows and rows[0].assumed is not None and mark_of[column][2] == '○' else mark_of[column][2]} "
                f"{names[column]}" for column in columns])
    axes.set_ylim(len(rows) - 0.4, -0.7 - 0.4 * len(key))
    axes.grid(visible=False, axis="y")
    axes.tick_params(axis="y", length=0)
    axes.annotate("\n".join(key), (0.0, 1.0), xycoords="axes fraction", xytext=(2, -3),
                  textcoords="offset points", va="top", fontsize=SMALL_POINTS, color=INK)


def axis_end(rows: Sequence[Row], texts: Mapping[int, str], low: float) -> float:
    """The right end of an axis from ``low`` on which every row's text has room behind its last mark."""
    names = max(len(line) for row in rows for line in (row.style.label, *row.under.split("\n")))
    width_inches = max(COLUMN_WIDTH_INCHES - _LETTER_INCHES * names - 0.2, 1.0)
    spans = [0.0]
    for place, row in enumerate(rows):
        known = [*row.values.values(), *(high for _, high in row.ranges.values())]
        last = max((value for value in known if math.isfinite(value)), default=low)
        text = min((_LETTER_INCHES * len(texts.get(place, "")) + 0.12) / width_inches, 0.85)
        spans.append(math.log(last / low) / (1.0 - text))
    return low * math.exp(max(*spans, 0.1))


def _key(words: Sequence[str]) -> list[str]:
    """The words in lines that fit above a figure one column wide."""
    lines: list[str] = []
    for word in words:
        if lines and len(lines[-1]) + len(word) + 2 <= _KEY_LETTERS:
            lines[-1] += f", {word}"
        else:
            lines.append(word)
    return lines
